//! A kill ends one process of threads for good; where there are several processes the others serve on; and a front, which
//! serves nobody itself, is never the one that is killed.

use lab::experiments::Experiment;
use lab::findings::Findings;
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("chaos", || crate::pattern(Experiment::Chaos, holds))]
}

fn holds(found: &Findings) -> Result<(), String> {
    let storms = found.outcome.data["storms"].as_array().ok_or("there were no storms")?;
    let of = |model: Value| {
        let system = serde_json::json!({ "model": model });
        let storm = storms.iter().find(|it| it["system"] == system);
        storm.map(|it| &it["weather"]).ok_or(format!("no storm over {system}: {:?}", found.outcome.notes))
    };
    let killed = |weather: &Value| {
        let kills = weather["kills"].as_array().into_iter().flatten();
        kills.filter(|kill| kill["victim"].get("Ok").is_some()).count() as u64
    };
    let hits = |weather: &Value| weather["hits"].as_u64().unwrap_or(u64::MAX);
    for together in ["thread_per_connection", "thread_pool"] {
        let weather = of(together.into())?;
        // Eight clients who ask in vain for the rest of the time are eight who were hit, and no more.
        if killed(weather) != 1 || !(1..=8).contains(&hits(weather)) {
            return Err(format!("{together}: one kill was to end all: {weather}"));
        }
    }
    for apart in ["process_per_connection", "prefork", "hybrid", "event_workers"] {
        let weather = of(apart.into())?;
        let kills = killed(weather);
        // Eight clients, each of whom one kill can cost one request at most; and somebody is killed each time, so there is
        // somebody each time.
        if kills < 2 || hits(weather) > 8 * kills {
            return Err(format!("{apart}: {kills} kills hit {} clients: {weather}", hits(weather)));
        }
    }
    let pool = of(serde_json::json!({ "fast_cgi": "own" }))?;
    // Without its front nobody would be answered, and all eight would fail at once and again.
    if killed(pool) < 2 || hits(pool) > killed(pool) {
        return Err(format!("a FastCGI pool loses what the killed responder held and no more: {pool}"));
    }
    Ok(())
}
