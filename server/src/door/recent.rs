//! The turns that ended a moment ago, for whoever watches.
//!
//! A bounded ring for the whole door. It has one reader, the controller, who takes what is in it with
//! [`Order::Report`](crate::control::Order::Report) a few times a second. For some seconds after each such question it is
//! written; then it is assumed that nobody watches any more.
//!
//! # What it costs
//!
//! It stands on the door's hottest path, so:
//!
//! - Nobody watches: one comparison a turn.
//! - Somebody watches, and turns are shorter than a millisecond: one comparison more for most of them; one of each worker
//!   is written every 20 ms. The others are only counted.
//! - A turn is written: its request's line is copied into a buffer that the slot keeps (an allocation the first time), its
//!   worker's name is shared. No clock is read: the caller has one reading at hand, and the moments of day are reckoned
//!   when the ring is read.
//! - It is read: at most 1,024 lines of JSON, some 300 KiB.
//! - Memory: nothing before somebody watches, and then at most 300 KiB.
//!
//! What is always counted, watched or not, is in each pool's two [`Histogram`](crate::observation::Histogram)s: how long
//! turns took and how long they waited. Both are fed from readings of the clock that are taken anyway, for a few
//! nanoseconds a turn and 168 bytes each.
//!
//! When it is full the oldest turn makes room. What was not written and what was overwritten is counted, so that what is
//! handed over and what is counted together are all the turns that have ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::Stamp;
use crate::identity::Incarnation;
use crate::observation::{TraceEnd, TurnTrace};

/// How many turns are kept.
const MOST: usize = 1024;
/// For how long after a question another is expected.
const WATCHED_FOR: Duration = Duration::from_secs(5);
/// Turns shorter than this are sampled.
const SHORT: Duration = Duration::from_millis(1);
/// For how long after a worker's turn has been written its short ones are not.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// The turns that ended of late.
#[derive(Debug, Default)]
pub(super) struct RecentTurns {
    /// When the reader last asked; `None` before the first time.
    asked: Cell<Option<Instant>>,
    ring: RefCell<Ring>,
    omitted: Cell<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    /// As many as were ever needed, up to [`MOST`]; kept for their buffers.
    slots: Vec<Slot>,
    /// Where the oldest unread one is.
    first: usize,
    unread: usize,
}

#[derive(Debug)]
struct Slot {
    turn: u64,
    life: Rc<Incarnation>,
    request: String,
    given: Instant,
    took: Duration,
    delivery: u32,
    end: TraceEnd,
}

/// What is remembered of a worker to note its turns: it belongs to the worker's link.
#[derive(Debug)]
pub(super) struct Tracer {
    life: Rc<Incarnation>,
    /// When a turn of it was last written.
    noted: Option<Instant>,
}

impl Tracer {
    pub(super) fn new(life: &Incarnation) -> Self {
        Self { life: Rc::new(life.clone()), noted: None }
    }
}

/// A turn that ends at this moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) turn: u64,
    pub(super) given: Instant,
    pub(super) request: &'a str,
    pub(super) delivery: u32,
    pub(super) end: TraceEnd,
}

impl RecentTurns {
    /// Whether somebody has asked for turns a moment ago.
    pub(super) fn is_watched(&self, now: Instant) -> bool {
        self.asked.get().is_some_and(|asked| now.saturating_duration_since(asked) < WATCHED_FOR)
    }

    /// Notes the end of a turn of the worker that `tracer` belongs to, if somebody watches.
    pub(super) fn note(&self, tracer: &mut Tracer, ended: &Ended<'_>, now: Instant) {
        if !self.is_watched(now) {
            return;
        }
        let took = now.saturating_duration_since(ended.given);
        let just_now = tracer.noted.is_some_and(|noted| now.saturating_duration_since(noted) < SAMPLE_EVERY);
        if ended.end == TraceEnd::Done && took < SHORT && just_now {
            return self.omitted.set(self.omitted.get() + 1);
        }
        tracer.noted = Some(now);
        let Ended { turn, given, request, delivery, end } = *ended;
        let ring = &mut *self.ring.borrow_mut();
        if ring.unread == MOST {
            ring.first = (ring.first + 1) % MOST;
            ring.unread -= 1;
            self.omitted.set(self.omitted.get() + 1);
        }
        let at = (ring.first + ring.unread) % MOST;
        ring.unread += 1;
        match ring.slots.get_mut(at) {
            Some(slot) => {
                if !Rc::ptr_eq(&slot.life, &tracer.life) {
                    slot.life = Rc::clone(&tracer.life);
                }
                slot.request.clear();
                slot.request.push_str(request);
                (slot.turn, slot.given, slot.took) = (turn, given, took);
                (slot.delivery, slot.end) = (delivery, end);
            }
            // Slots are used in order: this one is the next to be made.
            None => {
                let (life, request) = (Rc::clone(&tracer.life), request.to_owned());
                ring.slots.push(Slot { turn, life, request, given, took, delivery, end });
            }
        }
    }

    /// Hands over the turns that have ended since this was last asked, the oldest first, and how many more there were.
    /// `now` and `today` are the same moment. Whoever has not asked for a while begins anew.
    pub(super) fn hand_over(&self, now: Instant, today: Stamp) -> (Vec<TurnTrace>, u64) {
        let watched = self.is_watched(now);
        self.asked.set(Some(now));
        let omitted = self.omitted.take();
        let ring = &mut *self.ring.borrow_mut();
        let unread = (0..ring.unread).filter_map(|n| ring.slots.get((ring.first + n) % MOST));
        let turns = unread.map(|slot| slot.describe(now, today)).collect();
        (ring.first, ring.unread) = (0, 0);
        if watched { (turns, omitted) } else { (Vec::new(), 0) }
    }
}

impl Slot {
    fn describe(&self, now: Instant, today: Stamp) -> TurnTrace {
        TurnTrace {
            turn: self.turn,
            worker: Incarnation::clone(&self.life),
            request: self.request.clone(),
            began: today.earlier(now.saturating_duration_since(self.given)),
            took: self.took,
            delivery: self.delivery,
            end: self.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracer(name: &str) -> Result<Tracer, crate::identity::NameError> {
        Ok(Tracer::new(&name.parse()?))
    }

    /// A turn that `tracer`'s worker was given so long before `now`.
    fn end(
        recent: &RecentTurns,
        tracer: &mut Tracer,
        turn: u64,
        took: Duration,
        end: TraceEnd,
        now: Instant,
    ) {
        let request = format!("GET /{turn}");
        recent.note(tracer, &Ended { turn, given: now - took, request: &request, delivery: 1, end }, now);
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn nothing_is_noted_while_nobody_watches() -> Result<(), crate::identity::NameError> {
        let (recent, mut worker) = (RecentTurns::default(), tracer("web-3.7")?);
        let (start, today) = (Instant::now() + millis(1000), Stamp::now());
        end(&recent, &mut worker, 1, millis(5), TraceEnd::Done, start);
        assert_eq!(recent.hand_over(start, today), (vec![], 0));
        end(&recent, &mut worker, 2, millis(5), TraceEnd::Done, start + millis(10));
        end(&recent, &mut worker, 3, millis(9), TraceEnd::Lost, start + millis(20));
        let (turns, omitted) = recent.hand_over(start + millis(30), today);
        let told: Vec<_> =
            turns.iter().map(|turn| (turn.turn, &*turn.request, turn.took, turn.end)).collect();
        assert_eq!(
            told,
            [(2, "GET /2", millis(5), TraceEnd::Done), (3, "GET /3", millis(9), TraceEnd::Lost)]
        );
        assert_eq!((turns[0].worker.to_string().as_str(), omitted), ("web-3.7", 0));
        // It began 25 ms before it was asked for.
        assert_eq!(turns[0].began, today.earlier(millis(25)));
        // Nobody asks for a while. Whoever comes then is told nothing of before.
        end(&recent, &mut worker, 4, millis(5), TraceEnd::Done, start + millis(40));
        end(&recent, &mut worker, 5, millis(5), TraceEnd::Done, start + millis(6000));
        assert_eq!(recent.hand_over(start + millis(7000), today), (vec![], 0));
        end(&recent, &mut worker, 6, millis(5), TraceEnd::Done, start + millis(7001));
        assert_eq!(recent.hand_over(start + millis(7002), today).0.len(), 1);
        Ok(())
    }

    #[test]
    fn short_turns_are_sampled_for_each_worker_and_deaths_never() -> Result<(), crate::identity::NameError> {
        let (recent, start) = (RecentTurns::default(), Instant::now() + millis(1000));
        let (mut one, mut other) = (tracer("web-0.1")?, tracer("web-1.1")?);
        recent.hand_over(start, Stamp::now());
        let short = Duration::from_micros(50);
        for n in 0..100 {
            let now = start + millis(n);
            end(&recent, &mut one, 2 * n, short, TraceEnd::Done, now);
            end(&recent, &mut other, 2 * n + 1, short, TraceEnd::Done, now);
        }
        end(&recent, &mut one, 200, short, TraceEnd::Lost, start + millis(100));
        let (turns, omitted) = recent.hand_over(start + millis(101), Stamp::now());
        let of = |name: &str| turns.iter().filter(|turn| turn.worker.to_string() == name).count();
        assert_eq!((of("web-0.1"), of("web-1.1"), omitted), (6, 5, 190));
        Ok(())
    }

    proptest! {
        /// Whatever ends and whenever it is asked for: each turn is told once, in order, or counted.
        #[test]
        fn every_turn_is_told_or_counted(
            steps in prop::collection::vec((0u64..1500, 0u64..3000, 0usize..3, prop::bool::ANY), 1..8),
        ) {
            let recent = RecentTurns::default();
            let mut workers = [tracer("web-0.1")?, tracer("web-1.1")?, tracer("web-2.9")?];
            let mut now = Instant::now() + millis(60_000);
            recent.hand_over(now, Stamp::now());
            let (mut ended, mut told, mut counted) = (0, Vec::new(), 0);
            for (turns, micros, worker, lost) in steps {
                for _ in 0..turns {
                    ended += 1;
                    now += Duration::from_micros(20);
                    let how = if lost { TraceEnd::Lost } else { TraceEnd::Done };
                    end(&recent, &mut workers[worker], ended, Duration::from_micros(micros), how, now);
                }
                now += millis(1);
                let (turns, omitted) = recent.hand_over(now, Stamp::now());
                prop_assert!(turns.len() <= MOST);
                told.extend(turns.iter().map(|turn| turn.turn));
                counted += omitted;
                prop_assert_eq!(told.len() as u64 + counted, ended);
            }
            prop_assert!(told.is_sorted_by(|one, next| one < next));
            prop_assert!(recent.ring.borrow().slots.len() <= MOST);
        }
    }
}
