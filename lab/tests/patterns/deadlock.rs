//! Locks that are taken in opposite order stop everybody; with an order, a time-out or detection nobody is stopped.

use lab::experiments::Experiment;
use lab::findings::{Findings, Plot, Verdict};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("deadlock", || crate::pattern(Experiment::Deadlock, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let data = &found.outcome.data;
    let stuck = data["until_stuck"].as_array().ok_or("no dinner without a remedy")?;
    for parties in [2, 5] {
        if !stuck.iter().any(|it| it["parties"] == parties && it["stuck"] == true) {
            return Err(format!("{parties} parties without a remedy were not stuck"));
        }
    }
    let remedies = data["remedies"].as_array().ok_or("no dinner with a remedy")?;
    if remedies.len() != 6 {
        return Err(format!("{} dinners with a remedy, not three times two", remedies.len()));
    }
    for dinner in remedies {
        let diaries = dinner["diaries"].as_array().ok_or("nobody has dined")?;
        let sum = |what: &str| diaries.iter().filter_map(|it| it[what].as_u64()).sum::<u64>();
        if let Some(hungry) = diaries.iter().position(|it| it["meals"].as_u64().unwrap_or(0) == 0) {
            return Err(format!("party {hungry} has not eaten: {dinner}"));
        }
        // Nobody has to step back where there is an order.
        if dinner["way"] == "ordered" && sum("retries") + sum("victim") > 0 {
            return Err(format!("somebody has stepped back in spite of the order: {dinner}"));
        }
    }
    // Where the kernel shows it: each of five waits for the lock that the next one holds.
    let shown = data["kernel"].as_array().ok_or("nobody was looked at")?;
    let is_shown = shown.iter().all(|it| it["thread"]["call"] != "hidden");
    if is_shown {
        for (party, it) in shown.iter().enumerate() {
            let next = (party + 1) % 5;
            if it["wants"] != next || it["held_by"] != next {
                return Err(format!("party {party} does not wait for party {next}: {it}"));
            }
        }
    }
    let pictures =
        found.outcome.plots.iter().filter(|it| matches!(it, Plot::Timeline { animated: true, .. }));
    if pictures.count() != 4 {
        return Err("there is not a picture of each way".to_owned());
    }
    match found.outcome.answers.iter().find(|it| it.claim == 12).map(|it| it.verdict) {
        Some(Verdict::Held) if is_shown => Ok(()),
        Some(Verdict::NotMeasured) if !is_shown => Ok(()),
        other => Err(format!("claim 12 was answered {other:?}")),
    }
}
