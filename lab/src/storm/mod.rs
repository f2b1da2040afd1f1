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
//! A request is *answered* (2xx, whole), *failed* (somebody said so: another status, or a refused connection), *lost*
//! (nobody said anything: cut off or not in time), or *answered twice*. The longest gap is the longest time in which
//! nobody at all was answered, the beginning and the end of the storm included.

mod weather;

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use weather::{Bars, Gale, Judged, Weather};

use crate::load::{Load, Plan};
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
/// No kill comes within `every` of the end, so that each has its time to show.
///
/// # Errors
/// When the clients cannot be started.
pub fn run(
    plan: Plan,
    every: Option<Duration>,
    progress: &Progress,
    mut kill: impl FnMut() -> Result<String, String>,
) -> io::Result<Weather> {
    let time = plan.time;
    let load = Load::start(Plan { log: crate::load::Log::EachEvent, ..plan })?;
    let (started, end) = (load.started(), load.started() + time);
    let mut kills = Vec::new();
    let mut next = every.map(|every| started + every);
    let mut shown = 0;
    while Instant::now() < end {
        if let Some(due) = next.filter(|due| *due <= Instant::now()) {
            let at_ms = started.elapsed().as_secs_f64() * 1e3;
            kills.push(Kill { at_ms, victim: kill() });
            progress.doing(&format!("{} killed", kills.len()));
            // Kills that came late are not made up for.
            let every = every.unwrap_or(time);
            next = Some((due + every).max(Instant::now())).filter(|due| *due + every <= end);
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
