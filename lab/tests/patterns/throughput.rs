//! Who gives work only to the idle keeps short requests from waiting behind long ones.

use lab::experiments::Experiment;
use lab::findings::Findings;
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("throughput", || crate::pattern(Experiment::Throughput, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let data = &found.outcome.data;
    let closed = data["closed"].as_array().ok_or("no figures of the closed loop")?;
    let failed: Vec<&Value> = closed.iter().filter(|it| it["failures"] != 0).collect();
    if !failed.is_empty() {
        return Err(format!("requests failed: {failed:?}"));
    }
    let dispatch = data["dispatch"].as_array().ok_or("no figures of dispatch")?;
    let median = |way: &str| {
        let of_it = dispatch.iter().find(|it| it["way"].as_str().is_some_and(|it| it.starts_with(way)));
        of_it
            .and_then(|it| it["short"]["p50_ms"].as_f64())
            .ok_or(format!("nothing is said of {way}: {dispatch:?}"))
    };
    // The same front, the same workers, the same requests: what differs is who gets the next one.
    let (random, idle) = (median("at random")?, median("to the idle, the same front")?);
    if random <= idle {
        return Err(format!(
            "short requests wait {random} ms at random, {idle} ms where the idle get them: {dispatch:?}"
        ));
    }
    Ok(())
}
