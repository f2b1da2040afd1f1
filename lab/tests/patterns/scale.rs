//! Every model carries a few dozen connections, with as many processes and threads as its story says; the counts of
//! threads agree; and each model is stopped by the limit that is meant for it, which the kernel says.

use lab::experiments::Experiment;
use lab::findings::Findings;
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("scale", || crate::pattern(Experiment::Scale, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let steps = found.outcome.data["steps"].as_array().ok_or("there are no steps")?;
    let mut models = 0;
    for step in steps.iter().filter(|it| it["connections"] == 32) {
        if step["opened"]["answered"] != 32 || step["worked"]["failed"] != 0 {
            return Err(format!("not all of 32 were served: {step}"));
        }
        let usage = (step["usage"]["processes"].as_u64(), step["usage"]["threads"].as_u64());
        let expected = match step["system"]["model"].as_str() {
            Some("process_per_connection" | "prefork") => (Some(33), Some(33)),
            Some("thread_per_connection") => (Some(1), Some(33)),
            _ => usage,
        };
        if usage != expected {
            return Err(format!("processes and threads: {usage:?} instead of {expected:?} in {step}"));
        }
        models += 1;
    }
    if models < 4 {
        return Err(format!("{models} systems came to 32 connections"));
    }
    counts_agree(steps)?;
    let stopped = found.outcome.data["stopped"].as_array().ok_or("nothing was run into a limit")?;
    for it in stopped {
        let words = it["words"].as_str().unwrap_or_default();
        let expected = match it["system"]["model"].as_str() {
            Some("event_workers") => "Too many open files",
            _ => "Resource temporarily unavailable",
        };
        let answered = it["answered"].as_u64().unwrap_or(0);
        if !words.contains(expected) || answered == 0 || answered >= 100 {
            return Err(format!("it was not stopped by its limit, {expected:?}: {it}"));
        }
    }
    match stopped.len() {
        // Without a limit of processes, only that of open files can be run into; the notes say so.
        1 | 3 => Ok(()),
        other => Err(format!("{other} systems were run into a limit")),
    }
}

fn counts_agree(steps: &[Value]) -> Result<(), String> {
    let mut counted = 0;
    for step in steps.iter().filter(|it| it["threads"].is_object()) {
        let (threads, connections) = (&step["threads"], step["connections"].as_u64().unwrap_or(0));
        let ps = &threads["ps"];
        let agree = threads["own"] == connections + 2 && threads["kernel"] == connections + 2;
        if !agree || !(ps.is_null() || *ps == connections + 2) {
            return Err(format!("{connections} connections, the main thread and one that asks: {threads}"));
        }
        counted += 1;
    }
    if counted == 0 { Err("no threads were counted".to_owned()) } else { Ok(()) }
}
