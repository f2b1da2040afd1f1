//! What is said of a claim by all experiments that answer it. Pure.

use crate::findings::{Answer, Findings, Verdict};

/// All answers to a claim, each with the name of its experiment.
pub(super) fn answers(claim: u8, findings: &[Findings]) -> Vec<(&str, &Answer)> {
    let each = findings.iter().flat_map(|it| {
        let answers = it.outcome.answers.iter().filter(move |answer| answer.claim == claim);
        answers.map(|answer| (it.experiment.as_str(), answer))
    });
    each.collect()
}

/// One verdict of several: what held in one experiment and not in another held in part. So did what held in one and was
/// not measured in another, for each asks about a part of its own; but what did not hold does not for want of a measurement.
pub(super) fn of_all<'a>(answers: impl Iterator<Item = &'a Answer>) -> Verdict {
    use Verdict::{DidNotHold, InPart, NotMeasured};
    let together = |one: Verdict, other: Verdict| match (one, other) {
        (one, other) if one == other => one,
        (DidNotHold, NotMeasured) | (NotMeasured, DidNotHold) => DidNotHold,
        _ => InPart,
    };
    answers.map(|it| it.verdict).reduce(together).unwrap_or(NotMeasured)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(verdicts: &[Verdict]) -> Verdict {
        let answers: Vec<_> =
            verdicts.iter().map(|&verdict| Answer { claim: 1, verdict, evidence: String::new() }).collect();
        of_all(answers.iter())
    }

    #[test]
    fn a_claim_holds_if_it_holds_wherever_it_was_measured() {
        use Verdict::{DidNotHold, Held, InPart, NotMeasured};
        assert_eq!(together(&[Held, Held]), Held);
        assert_eq!(together(&[Held, NotMeasured, Held]), InPart);
        assert_eq!(together(&[DidNotHold, NotMeasured]), DidNotHold);
        assert_eq!(together(&[Held, DidNotHold, Held]), InPart);
        assert_eq!(together(&[DidNotHold]), DidNotHold);
        assert_eq!(together(&[InPart, Held]), InPart);
        assert_eq!(together(&[NotMeasured]), NotMeasured);
        assert_eq!(together(&[]), NotMeasured);
    }
}
