//! The report that is published in `docs/lab` is what `docs/lab.md` tells of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use lab::claims::CLAIMS;
use lab::findings::Findings;

/// What the page has to say came out of each claim, from the report.
fn said_of(claim: u8, report: &[Findings]) -> String {
    let answers = report.iter().flat_map(|found| found.outcome.answers.iter().map(move |it| (found, it)));
    answers
        .filter(|(_, answer)| answer.claim == claim)
        .map(|(found, answer)| {
            format!("> `{}`: *{}*. {}\n", found.experiment, answer.verdict.words(), answer.evidence)
        })
        .collect::<Vec<_>>()
        .join(">\n")
}

#[test]
fn the_page_says_what_the_report_says() {
    let report: Vec<Findings> = serde_json::from_str(include_str!("../../docs/lab/report.json")).unwrap();
    let page = include_str!("../../docs/lab.md");
    let missing: Vec<_> = CLAIMS
        .iter()
        .map(|claim| (claim.number, said_of(claim.number, &report)))
        .filter(|(_, said)| said.is_empty() || !page.contains(said.as_str()))
        .collect();
    let missing: String =
        missing.iter().map(|(claim, said)| format!("of claim {claim}:\n{said}\n")).collect();
    assert!(missing.is_empty(), "docs/lab.md does not say\n{missing}");
}
