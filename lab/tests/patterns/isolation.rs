//! A process takes along whoever is in it, and nobody else.
//!
//! Of crashes it is asserted who had a request *fail*: on a machine that is busy with something else anybody may have to wait.
//! A hang and a hog make nobody fail whom they do not end, so of them it is asserted who is still answered at the end.

use lab::experiments::Experiment;
use lab::findings::Findings;
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("isolation", || crate::pattern(Experiment::Isolation, holds))]
}

/// How many other clients had a request fail, of how many that were connected, and how many stayed out.
#[derive(Debug)]
struct Hit {
    failed: u64,
    kept: u64,
    out: u64,
}

fn hit(records: &Value, system: &Value, fault: &str) -> Result<Option<Hit>, String> {
    let of_it = |it: &&Value| it["system"] == *system && it["fault"] == fault;
    let Some(record) = records.as_array().into_iter().flatten().find(of_it) else {
        return Err(format!("nothing is said of {system}, {fault}"));
    };
    if let Some(why) = record.get("Err") {
        // Without a limit on memory nobody is made to run out of it.
        return if fault == "out_of_memory" { Ok(None) } else { Err(format!("{system}, {fault}: {why}")) };
    }
    let number = |key: &str| record["Ok"][key].as_u64().ok_or(format!("{key} is missing in {record}"));
    Ok(Some(Hit { failed: number("failed")?, kept: number("kept")?, out: number("out")? }))
}

fn holds(found: &Findings) -> Result<(), String> {
    let bench = crate::bench();
    let records = &found.outcome.data["records"];
    let model = |name: &str| serde_json::json!({ "model": name });
    let mut wrong = Vec::new();
    let mut expect = |system: Value, faults: &[&str], what: &str, good: &dyn Fn(&Hit) -> bool| {
        for fault in faults {
            match hit(records, &system, fault)? {
                Some(hit) if !good(&hit) => {
                    wrong.push(format!("{system}, {fault}: expected {what}: {hit:?}"));
                }
                _ => {}
            }
        }
        Ok::<(), String>(())
    };
    let crashes = ["segfault", "out_of_memory"];
    let all = ["segfault", "panic", "out_of_memory", "hang", "hog"];
    let held_up = ["hang", "hog"];
    for alone in ["process_per_connection", "prefork"] {
        expect(model(alone), &all, "nobody fails", &|it| it.failed == 0)?;
        expect(model(alone), &held_up, "nobody is out", &|it| it.out == 0)?;
    }
    for together in ["thread_per_connection", "thread_pool"] {
        expect(model(together), &crashes, "all fail, for good", &|it| {
            it.failed == it.kept && it.out == it.kept
        })?;
        expect(model(together), &["panic"], "nobody fails", &|it| it.failed == 0)?;
    }
    expect(model("sessions"), &crashes, "all fail", &|it| it.failed == it.kept)?;
    for several in ["hybrid", "event_workers"] {
        expect(model(several), &crashes, "some fail, others do not", &|it| {
            it.failed > 0 && it.failed < it.kept
        })?;
    }
    for together in ["thread_per_connection", "thread_pool", "hybrid"] {
        expect(model(together), &held_up, "nobody is out", &|it| it.out == 0)?;
    }
    // A loop that hangs holds up its clients for good, and only those.
    expect(model("event_workers"), &["hang"], "some are out, others are not", &|it| {
        it.out > 0 && it.out < it.kept
    })?;
    for responder in ["own", "php"] {
        let system = serde_json::json!({ "model": { "fast_cgi": responder } });
        if responder == "own" || bench.systems().here.iter().any(|it| it.name() == "FastCGI pool, PHP") {
            expect(system.clone(), &all, "nobody fails", &|it| it.failed == 0)?;
            expect(system, &held_up, "nobody is out", &|it| it.out == 0)?;
        }
    }
    if bench.bulkhead.is_some() {
        let system = serde_json::json!({ "bulkhead": "process" });
        expect(system.clone(), &all, "nobody fails", &|it| it.failed == 0)?;
        expect(system, &held_up, "nobody is out", &|it| it.out == 0)?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}
