//! Load and store loses updates where several do it at once, and nothing else does; one alone loses nothing.

use lab::experiments::Experiment;
use lab::findings::{Findings, Verdict};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("races", || crate::pattern(Experiment::Races, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let rounds = found.outcome.data["rounds"].as_array().ok_or("there are no rounds")?;
    let cores = found.outcome.data["cores"].as_u64().ok_or("how many cores there are is not said")?;
    let mut lost_by_races = 0;
    for round in rounds {
        let (expected, counted) = (round["expected"].as_u64(), round["counted"].as_u64());
        let lost = expected.zip(counted).and_then(|(expected, counted)| expected.checked_sub(counted));
        let lost = lost.ok_or(format!("more was counted than bumped: {round}"))?;
        if round["way"] == "load_and_store" && round["parties"] != 1 {
            lost_by_races += lost;
        } else if lost > 0 {
            return Err(format!("{lost} updates were lost: {round}"));
        }
    }
    // On one core it takes a switch between the load and the store, which is seldom.
    if lost_by_races == 0 && cores > 1 {
        return Err("load and store lost nothing".to_owned());
    }
    let kept = rounds.iter().filter(|it| it["cores"].as_u64() < Some(cores)).count();
    if (kept > 0) != (cores > 1) {
        return Err(format!("{kept} rounds were kept to fewer than {cores} cores"));
    }
    if cores < 2 {
        return Ok(());
    }
    match found.outcome.answers.iter().find(|it| it.claim == 11) {
        Some(answer) if answer.verdict == Verdict::Held => Ok(()),
        other => Err(format!("claim 11 was answered {other:?}")),
    }
}
