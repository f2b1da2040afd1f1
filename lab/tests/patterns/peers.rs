//! Whoever is installed here is measured, and of whoever is not it is said how to get it.

use lab::experiments::Experiment;
use lab::findings::Findings;
use lab::systems::System;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("peers", || crate::pattern(Experiment::Peers, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let roll = System::peers(crate::bench().bulkhead.as_deref());
    let rounds = found.outcome.data["rounds"].as_array().ok_or("nothing was measured")?;
    for system in roll.here {
        let named = serde_json::json!(system);
        let round = rounds.iter().find(|it| it["system"] == named);
        let round = round.ok_or(format!("{system} was not measured"))?;
        if round["rate"].as_f64().is_none_or(|rate| rate <= 0.0) || round["hits_per_kill"].is_null() {
            return Err(format!("{system} answered nobody, or nobody was killed: {round}"));
        }
        if system.is_bulkhead() && round["hits_per_kill"] != 0.0 {
            return Err(format!("{system} lost what a killed worker held: {round}"));
        }
    }
    for (system, why) in roll.missing {
        if !found.outcome.notes.iter().any(|note| note.contains(system.name()) && note.contains(&why)) {
            return Err(format!("it is not said that {system} is missing: {why}"));
        }
    }
    match rounds.iter().find(|it| it["system"] == "PostgreSQL") {
        // Whoever shares memory with a process that was killed is ended with it, and their clients see it.
        Some(round) if round["hits_per_kill"].as_f64().is_some_and(|hits| hits > 1.0) => Ok(()),
        Some(round) => Err(format!("a killed process of PostgreSQL's cost nobody else anything: {round}")),
        None if found.outcome.notes.iter().any(|note| note.contains("PostgreSQL is not installed")) => Ok(()),
        None => Err("it is not said why PostgreSQL is not measured".to_owned()),
    }
}
