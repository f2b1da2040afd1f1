//! The storm: clients that number their requests and never retry, while somebody kills workers under them.
//!
//! ```text
//!   load ── GET /work?n=1, 2, 3 … ──► a system              kills, one every so often, told by the caller how
//!     │                                                        │
//!     └── each event ──► Weather: answered, failed, lost, answered twice, longest gap, latencies ◄──┘
//!                            │
//!                            └──► Verdict against bars that were set before
//! ```
//!
//! A request is *answered* (2xx, whole), *failed* (somebody said so: another status, or a refused connection) or *lost*
//! (nobody said anything: cut off or not in time). One that is *answered twice* is one of these as well: behind its
//! answer there came something that nobody had asked for. That it was *executed* twice cannot be seen from here. What was
//! due and *not sent* is the clients' own fault: they had no time or no connection left. The longest gap is the longest
//! time in which nobody at all was answered, the beginning and the end of the storm included.

mod weather;

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use weather::{Bars, Bound, Fate, Judged, Weather};

use crate::load::{Load, Log, Parting, Plan};
use crate::progress::Progress;

/// One kill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// When, in ms from the first request.
    pub at_ms: f64,
    /// Who, or why nobody.
    pub victim: Result<String, String>,
}

/// Runs clients by that plan, and between them, every so often, `kill`, which says whom it has killed or why nobody.
/// No kill comes within `every` of the end, so that each has its time to show: a storm that is not twice as long has none.
///
/// # Errors
/// When the clients cannot be started, or this machine has no connection left to open.
pub fn run(
    plan: Plan,
    every: Option<Duration>,
    progress: &Progress,
    mut kill: impl FnMut() -> Result<String, String>,
) -> io::Result<Weather> {
    let time = plan.time;
    let load = Load::start(Plan { log: Log::EachEvent, parting: Parting::Listening, ..plan })?;
    let (started, end) = (load.started(), load.started() + time);
    let mut kills = Vec::new();
    let mut next = every.and_then(|every| due(started + every, every, end));
    let mut shown = 0;
    while Instant::now() < end && !load.is_over() {
        if let Some((at, every)) = next.zip(every).filter(|(at, _)| *at <= Instant::now()) {
            let at_ms = started.elapsed().as_secs_f64() * 1e3;
            kills.push(Kill { at_ms, victim: kill() });
            progress.doing(&format!("{} killed", kills.len()));
            // Kills that came late are not made up for.
            next = due((at + every).max(Instant::now()), every, end);
        }
        while shown < started.elapsed().as_secs() {
            progress.step();
            shown += 1;
        }
        let until = next.unwrap_or(end).min(Instant::now() + Duration::from_millis(250));
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
    let tally = load.wait()?;
    Ok(Weather::of(&tally, time, kills))
}

/// A kill at that time, unless the end is too near.
fn due(at: Instant, every: Duration, end: Instant) -> Option<Instant> {
    (at + every <= end).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kill_comes_so_late_that_it_has_no_time_to_show() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let every = Duration::from_secs(1);
        assert_eq!(due(second(1), every, second(2)), Some(second(1)));
        assert_eq!(due(second(1), every, second(1)), None);
        assert_eq!(due(second(1), every, start + Duration::from_millis(1900)), None);
    }
}
