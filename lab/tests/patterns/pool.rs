//! A lock around each statement does not protect transactions; a leak dries a pool up; what a killed client held comes
//! back, what a frozen one holds does not; PostgreSQL breaks a deadlock with one victim.

use lab::experiments::Experiment;
use lab::findings::{Findings, Verdict};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let possible = Experiment::Pool.is_possible(&crate::bench());
    let trial = Trial::test("pool", || crate::pattern(Experiment::Pool, holds));
    vec![match possible {
        Ok(()) => trial,
        Err(missing) => trial.with_kind(missing).with_ignored_flag(true),
    }]
}

fn holds(found: &Findings) -> Result<(), String> {
    let data = &found.outcome.data;
    let list = |what: &str| data[what].as_array().cloned().unwrap_or_default();
    for round in list("shared") {
        let right = round["committed"] == round["counted"];
        if right == (round["sharing"] == "locked_by_statement") {
            return Err(format!("what was committed and what is there: {round}"));
        }
    }
    let wait = |connections: u64| {
        let of = list("served").into_iter().find(|it| it["connections"] == connections);
        of.and_then(|it| it["waited_ms"][0].as_f64()).ok_or(format!("no pool of {connections}"))
    };
    if wait(2)? <= wait(16)? {
        return Err(format!("16 threads wait {} ms for 2 connections and {} for 16", wait(2)?, wait(16)?));
    }
    for leak in list("leaked") {
        if leak["in_vain"] != serde_json::json!([8, 8]) || leak["until_dry"] != 40 {
            return Err(format!("a pool of four that lost one of ten: {leak}"));
        }
    }
    let noticed = list("noticed");
    if noticed.len() != 5 {
        return Err(format!("{} of 5 ways to go were tried", noticed.len()));
    }
    for it in noticed {
        if it["free_after_ms"].is_null() != (it["going"] == "frozen") {
            return Err(format!("a row behind a client that has gone: {it}"));
        }
    }
    let verdict = |claim| found.outcome.answers.iter().find(|it| it.claim == claim).map(|it| it.verdict);
    match (verdict(11), verdict(12)) {
        (Some(Verdict::Held), Some(Verdict::Held)) => Ok(()),
        other => Err(format!("claims 11 and 12 were answered {other:?}: {:?}", list("crossed"))),
    }
}
