//! Clients who hold on hold every worker of a pool, and nobody who comes is served; where a connection is not a worker,
//! or there is a worker for each, everybody is.

use lab::experiments::Experiment;
use lab::findings::Findings;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("idle", || crate::pattern(Experiment::Idle, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let parked = found.outcome.data["parked"].as_array().ok_or("nothing was parked")?;
    let mut seen = 0;
    for it in parked {
        let system = it["system"].to_string();
        let came = (it["answered"].as_u64(), it["newcomer"].as_bool(), it["afterwards"].as_bool());
        let pool = ["prefork", "thread_pool", "hybrid"].iter().any(|name| system.contains(name));
        let expected =
            if pool { (Some(8), Some(false), Some(true)) } else { (Some(24), Some(true), Some(true)) };
        if came != expected {
            return Err(format!(
                "{system}: answered, a newcomer, one afterwards: {came:?} instead of {expected:?}"
            ));
        }
        seen += 1;
    }
    // Bulkhead is the seventh, where its program is known.
    if seen < 6 {
        return Err(format!("only {seen} systems were tried"));
    }
    let waiting = found.outcome.data["waiting"].as_array().ok_or("nobody waited")?;
    let processes = |workers: u64| {
        let prefork = waiting
            .iter()
            .find(|it| it["system"]["model"] == "prefork" && it["workers"].as_u64() == Some(workers));
        prefork.and_then(|it| it["processes"].as_u64())
    };
    match (processes(2), processes(8)) {
        (Some(3), Some(9)) => Ok(()),
        other => Err(format!("prefork with 2 and 8 workers has {other:?} processes instead of 3 and 9")),
    }
}
