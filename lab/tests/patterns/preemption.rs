//! Under the kernel the others go on beside a greedy task, on an event loop nobody does; and only a process can be ended
//! by itself.

use lab::experiments::Experiment;
use lab::findings::{Findings, Verdict};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("preemption", || crate::pattern(Experiment::Preemption, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let scenes = found.outcome.data["scenes"].as_array().ok_or("there are no scenes")?;
    let mut seen = Vec::new();
    for run in scenes {
        let (scene, done) = (&run["scene"], run["figures"]["done"].as_u64());
        let (how, deed) = (scene["arrangement"].as_str().unwrap_or_default(), scene["deed"].as_str());
        let starves = how == "event_loop" && deed.is_some();
        if (done == Some(0)) != starves {
            return Err(format!("{how}, {deed:?}: {done:?} steps were done meanwhile"));
        }
        seen.push((how.to_owned(), deed.map(str::to_owned)));
    }
    for how in ["threads", "processes", "processes_nice", "event_loop", "event_loop_moved_off"] {
        if !seen.contains(&(how.to_owned(), Some("computes".to_owned()))) {
            return Err(format!("{how} beside a computing task was not tried: {seen:?}"));
        }
    }
    let endings = found.outcome.data["endings"].as_array().ok_or("there are no endings")?;
    for ending in endings {
        let how = ending["arrangement"].as_str().unwrap_or_default();
        let came = (ending["fate"]["was_ended"].as_bool(), ending["fate"]["others_left"].as_u64());
        let expected = match how {
            "processes" | "processes_nice" | "processes_capped" => (Some(true), Some(4)),
            "threads" => (Some(true), Some(0)),
            _ => (Some(false), Some(4)),
        };
        if came != expected {
            return Err(format!("{how}, ordered to end: {came:?} instead of {expected:?}"));
        }
    }
    let tried = |how: &str| endings.iter().any(|ending| ending["arrangement"] == how);
    // To cap a process takes a control group, which not every user may make.
    let ways = ["processes", "processes_nice", "threads", "event_loop", "event_loop_moved_off"];
    if let Some(how) = ways.into_iter().find(|how| !tried(how)) {
        return Err(format!("it was not tried to end a greedy task among {how}"));
    }
    // How responsive the others are depends on what else this machine does; that a process was ended alone does not.
    let verdict = |claim| found.outcome.answers.iter().find(|it| it.claim == claim).map(|it| it.verdict);
    match (verdict(10), verdict(5)) {
        (Some(Verdict::Held | Verdict::InPart), Some(Verdict::Held)) => Ok(()),
        other => Err(format!("claims 10 and 5 were answered {other:?}")),
    }
}
