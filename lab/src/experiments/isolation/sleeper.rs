//! Somebody on this machine who wants nothing but to wake up: how long that takes is the machine's own doing.
//!
//! It sleeps for [`NAP`] again and again, on a thread of its own, from before the fault to the end. What a nap is longer than
//! that, it waited for a processor or for memory, and so did everybody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::judge::Machine;

const NAP: Duration = Duration::from_millis(5);

/// It is told to stop when this is dropped.
pub(super) struct Sleeper {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Nap>>>,
}

/// When it ended, and how long it was.
type Nap = (Instant, Duration);

impl Sleeper {
    /// From now on.
    pub(super) fn start() -> std::io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().name("sleeper".to_owned()).spawn(move || {
            let (mut naps, mut last) = (Vec::new(), Instant::now());
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(NAP);
                let now = Instant::now();
                naps.push((now, now.saturating_duration_since(last)));
                last = now;
            }
            naps
        })?;
        Ok(Self { is_over, thread: Some(thread) })
    }

    /// Ends it: the longest nap before `fault`, and the longest of those that ended later.
    pub(super) fn wake(mut self, fault: Instant) -> Machine {
        self.is_over.store(true, Ordering::Relaxed);
        let naps = self.thread.take().and_then(|it| it.join().ok()).unwrap_or_default();
        longest(&naps, fault)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn longest(naps: &[Nap], fault: Instant) -> Machine {
    let of = |after: bool| {
        let of = naps.iter().filter(|(ended, _)| (*ended > fault) == after);
        of.map(|(_, nap)| nap.as_secs_f64() * 1e3).fold(0.0, f64::max)
    };
    Machine { before: of(false), after: of(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nap_that_the_fault_falls_into_is_one_of_those_after_it() {
        let start = Instant::now();
        let nap = |ended, long| (start + Duration::from_millis(ended), Duration::from_millis(long));
        let machine = longest(&[nap(5, 5), nap(12, 7), nap(42, 30)], start + Duration::from_millis(20));
        assert!((machine.before - 7.0).abs() < 1e-6 && (machine.after - 30.0).abs() < 1e-6, "{machine:?}");
    }
}
