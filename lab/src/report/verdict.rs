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

/// One verdict of several: what held in one experiment and not in another held in part. Who did not measure has no say.
pub(super) fn of_all<'a>(answers: impl Iterator<Item = &'a Answer>) -> Verdict {
    let said = answers.map(|it| it.verdict).filter(|it| *it != Verdict::NotMeasured);
    said.reduce(|one, other| if one == other { one } else { Verdict::InPart }).unwrap_or(Verdict::NotMeasured)
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
        assert_eq!(together(&[Held, NotMeasured, Held]), Held);
        assert_eq!(together(&[Held, DidNotHold, Held]), InPart);
        assert_eq!(together(&[DidNotHold]), DidNotHold);
        assert_eq!(together(&[InPart, Held]), InPart);
        assert_eq!(together(&[NotMeasured]), NotMeasured);
        assert_eq!(together(&[]), NotMeasured);
    }
}
