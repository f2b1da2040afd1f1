//! What `bulkhead top` shows: folded from what the stream tells and from what became of orders. Pure.
//!
//! The state comes whole, five times a second, so most of it is only kept until the next one. What is kept longer is
//! what a frame does not say: how fast the counters grow, who was paused (a stopped worker looks idle or busy to
//! its door), the deaths and the other events, and where the user is. All of it is bounded.
//!
//! Selections go by name, not by row: whoever is about to kill `web-3` kills `web-3`, whatever comes and goes above.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::order::{Chosen, Deed, Order};
use crate::api::stream_views::{Happened, JournalEvent, PoolFrame, StateFrame, WorkerChange};
use crate::api::views::{IncidentView, PhaseView, WorkerView};
use crate::cli::events::{Telling, missed, telling};
use crate::cli::stream::{Breakage, Told};

/// How many deaths are kept.
const INCIDENTS: usize = 200;

/// How many other events are kept.
const LOG: usize = 200;

/// Over how long a rate is taken.
const RATE_OVER: Duration = Duration::from_secs(3);

/// From when on a connection without news is called silent: ten frames.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// The moment, on two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Since the program started. Never goes back.
    pub(super) since_start: Duration,
    /// For what is dated by others.
    pub(super) wall: jiff::Timestamp,
}

/// All that is shown.
#[derive(Debug)]
pub(super) struct Model {
    /// Where the controller is.
    pub(super) address: String,
    pub(super) link: Link,
    /// The last state.
    pub(super) seen: Option<Seen>,
    rates: BTreeMap<String, Rate>,
    /// Latest first.
    pub(super) incidents: VecDeque<Death>,
    /// Latest first, deaths apart.
    pub(super) log: VecDeque<Telling>,
    /// Which life of which worker was stopped, by whomever.
    paused: BTreeMap<String, u64>,
    pub(super) pane: Pane,
    picked: [Pick; 3],
    pub(super) overlay: Overlay,
    /// What was done last, or went wrong.
    pub(super) notice: Option<Notice>,
    /// What the last drawing had room for.
    pub(super) drawn: Drawn,
}

/// The connection to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// There is one, since then.
    Connected { since: Duration },
    /// There is none, since the breakage was told.
    Broken { breakage: Breakage, told: Duration },
}

/// How the connection is, in the words of the head line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Liveness {
    Live,
    /// Connected, and no state yet.
    Waiting,
    /// Connected, and no state for so long.
    Silent(Duration),
    /// Not connected.
    Reconnecting {
        why: String,
        again_in: Duration,
    },
}

/// A state and when it came.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) frame: StateFrame,
    pub(super) came: Duration,
}

/// A death, as far as it is known.
#[derive(Debug)]
pub(super) struct Death {
    /// Told apart from a death of the same name under another controller.
    pub(super) key: String,
    pub(super) incident: IncidentView,
}

/// One of the lists on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Pools,
    Workers,
    Incidents,
}

/// What lies over the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Overlay {
    None,
    Help {
        scroll: usize,
    },
    /// One death in detail.
    Card {
        key: String,
        scroll: usize,
    },
}

/// Which row of a list is picked: by name, and by number for when the name is gone.
#[derive(Debug, Default)]
struct Pick {
    name: Option<String>,
    row: usize,
}

/// What was done last, or went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) tone: Tone,
    pub(super) text: String,
    /// How to do the same without this screen.
    pub(super) command: Option<String>,
}

/// How a notice is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Trouble,
}

/// What a drawing had room for: how far to go at a time, and how far at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Drawn {
    /// Rows of the list, or lines of what lies over it.
    pub(super) page: usize,
    /// How far what lies over the lists can be scrolled.
    pub(super) deepest: usize,
}

/// A worker's phase, and whether it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Phase(PhaseView),
    Paused,
}

impl Model {
    pub(super) fn new(address: String, now: Now) -> Self {
        Self {
            address,
            link: Link::Connected { since: now.since_start },
            seen: None,
            rates: BTreeMap::new(),
            incidents: VecDeque::new(),
            log: VecDeque::new(),
            paused: BTreeMap::new(),
            pane: Pane::Workers,
            picked: Default::default(),
            overlay: Overlay::None,
            notice: None,
            drawn: Drawn::default(),
        }
    }

    /// Takes in what the stream told.
    pub(super) fn fold(&mut self, told: Told, now: Now) {
        match told {
            Told::Connected => self.link = Link::Connected { since: now.since_start },
            Told::Broken(breakage) => self.link = Link::Broken { breakage, told: now.since_start },
            Told::Missed(gap) => self.trouble(missed(&gap)),
            Told::State(sent) => match serde_json::from_str(&sent) {
                Ok(frame) => self.state(frame, now),
                Err(error) => self.trouble(format!(
                    "the controller is of another version, its state is not understood: {error}"
                )),
            },
            Told::Event(event) => {
                if let Some(event) = event.read {
                    self.event(*event);
                }
            }
        }
    }

    fn state(&mut self, frame: StateFrame, now: Now) {
        // By the controller's clock: what the network adds to a frame's way is no part of a rate.
        let at = frame.at.parse::<jiff::Timestamp>().map_or(now.since_start, |at| {
            Duration::from_micros(u64::try_from(at.as_microsecond()).unwrap_or_default())
        });
        self.rates.retain(|name, _| frame.pools.iter().any(|pool| pool.pool.name == *name));
        for pool in &frame.pools {
            let rate = self.rates.entry(pool.pool.name.clone()).or_default();
            rate.count(at, pool.headline.answered);
        }
        self.paused.retain(|name, generation| {
            frame.workers.iter().any(|worker| {
                worker.id == *name && worker.generation == *generation && worker.phase != PhaseView::Dead
            })
        });
        self.seen = Some(Seen { frame, came: now.since_start });
    }

    fn event(&mut self, event: JournalEvent) {
        let told = telling(&event);
        match event.happened {
            Happened::Incident { incident, .. } => {
                // A life's name is told apart from the same one under another controller by the event's id.
                let boot = event.id.rsplit_once('-').map_or("", |(boot, _)| boot);
                let key = format!("{boot}/{}", incident.id);
                match self.incidents.iter_mut().find(|death| death.key == key) {
                    Some(death) => death.incident = *incident,
                    None => self.incidents.push_front(Death { key, incident: *incident }),
                }
                self.incidents.truncate(INCIDENTS);
            }
            other => {
                if let Happened::Worker {
                    worker,
                    generation,
                    what: WorkerChange::KillRequested,
                    detail,
                    ..
                } = &other
                {
                    let detail = detail.as_deref().unwrap_or_default();
                    if detail.contains("SIGSTOP") {
                        self.paused.insert(worker.clone(), *generation);
                    } else if detail.contains("SIGCONT") {
                        self.paused.remove(worker);
                    }
                }
                self.log.push_front(told);
                self.log.truncate(LOG);
            }
        }
    }

    /// An order is on its way.
    pub(super) fn asked(&mut self, order: &Order) {
        if let Order::Scale { pool, workers } = order
            && let Some(seen) = &mut self.seen
            && let Some(pool) = seen.frame.pools.iter_mut().find(|known| known.pool.name == *pool)
        {
            // Whoever presses `+` three times within a frame means three more.
            pool.pool.wanted = *workers;
        }
        self.notice = Some(Notice {
            tone: Tone::Plain,
            text: format!("{} ...", order.intention()),
            command: Some(order.command()),
        });
    }

    /// What became of an order.
    pub(super) fn answered(&mut self, order: &Order, answer: Result<(), String>) {
        let (tone, text) = match answer {
            Ok(()) => (Tone::Plain, order.account()),
            Err(why) => (Tone::Trouble, format!("not done: {why}")),
        };
        if tone == Tone::Plain
            && let Order::Worker { deed, worker, generation, .. } = order
        {
            match deed {
                Deed::Pause => {
                    self.paused.insert(worker.clone(), *generation);
                }
                Deed::Resume => {
                    self.paused.remove(worker);
                }
                Deed::Kill | Deed::Crash | Deed::Drain => {}
            }
        }
        self.notice = Some(Notice { tone, text, command: Some(order.command()) });
    }

    pub(super) fn tell(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { tone: Tone::Plain, text: text.into(), command: None });
    }

    fn trouble(&mut self, text: String) {
        self.notice = Some(Notice { tone: Tone::Trouble, text, command: None });
    }

    /// How the connection is.
    pub(super) fn liveness(&self, now: Now) -> Liveness {
        match (&self.link, &self.seen) {
            (Link::Broken { breakage, told }, _) => Liveness::Reconnecting {
                why: breakage.why.clone(),
                again_in: breakage
                    .again_in
                    .unwrap_or_default()
                    .saturating_sub(now.since_start.saturating_sub(*told)),
            },
            (Link::Connected { since }, seen) => {
                let last = seen.as_ref().map_or(*since, |seen| seen.came.max(*since));
                match now.since_start.saturating_sub(last) {
                    silent if silent >= SILENT_AFTER => Liveness::Silent(silent),
                    _ if seen.is_none() => Liveness::Waiting,
                    _ => Liveness::Live,
                }
            }
        }
    }

    pub(super) fn pools(&self) -> &[PoolFrame] {
        self.seen.as_ref().map_or(&[], |seen| &seen.frame.pools)
    }

    pub(super) fn workers(&self) -> &[WorkerView] {
        self.seen.as_ref().map_or(&[], |seen| &seen.frame.workers)
    }

    /// How many a second the pool's workers answer; `None` while that is not known.
    pub(super) fn rate(&self, pool: &str) -> Option<f64> {
        self.rates.get(pool)?.per_second()
    }

    pub(super) fn shown(&self, worker: &WorkerView) -> Shown {
        match self.paused.get(&worker.id) {
            Some(generation) if *generation == worker.generation => Shown::Paused,
            _ => Shown::Phase(worker.phase),
        }
    }

    /// How many rows a list has.
    pub(super) fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Pools => self.pools().len(),
            Pane::Workers => self.workers().len(),
            Pane::Incidents => self.incidents.len(),
        }
    }

    fn name(&self, pane: Pane, row: usize) -> Option<&str> {
        match pane {
            Pane::Pools => self.pools().get(row).map(|pool| pool.pool.name.as_str()),
            Pane::Workers => self.workers().get(row).map(|worker| worker.id.as_str()),
            Pane::Incidents => self.incidents.get(row).map(|death| death.key.as_str()),
        }
    }

    /// The picked row of a list. Without a pick it is the first: of the deaths the latest.
    pub(super) fn row(&self, pane: Pane) -> usize {
        let pick = &self.picked[pane as usize];
        let Some(name) = &pick.name else { return 0 };
        let found = (0..self.rows(pane)).find(|row| self.name(pane, *row) == Some(name));
        found.unwrap_or_else(|| pick.row.min(self.rows(pane).saturating_sub(1)))
    }

    /// Picks the row that is `by` further down.
    pub(super) fn move_by(&mut self, by: isize) {
        let last = self.rows(self.pane).saturating_sub(1);
        let row = self.row(self.pane).saturating_add_signed(by).min(last);
        let name = self.name(self.pane, row).map(str::to_owned);
        // At the top of the deaths one stays at the top: the next one is what one waits for.
        let name = name.filter(|_| self.pane != Pane::Incidents || row > 0);
        self.picked[self.pane as usize] = Pick { name, row };
    }

    /// The picked worker.
    pub(super) fn worker(&self) -> Option<&WorkerView> {
        self.workers().get(self.row(Pane::Workers))
    }

    /// The pool that is meant: the picked one, or the picked worker's.
    pub(super) fn pool(&self) -> Option<&PoolFrame> {
        match (self.pane, self.worker()) {
            (Pane::Workers, Some(worker)) => self.pools().iter().find(|pool| pool.pool.name == worker.pool),
            _ => self.pools().get(self.row(Pane::Pools)),
        }
    }

    /// The picked death.
    pub(super) fn death(&self) -> Option<&Death> {
        self.incidents.get(self.row(Pane::Incidents))
    }

    /// A worker that serves, of `pool` when one is named. `dice` is from 0 to 1.
    pub(super) fn anybody(&self, pool: Option<&str>, dice: f64) -> Option<Order> {
        let serving = |worker: &&WorkerView| {
            matches!(worker.phase, PhaseView::Idle | PhaseView::Busy)
                && pool.is_none_or(|pool| worker.pool == pool)
        };
        let all: Vec<_> = self.workers().iter().filter(serving).collect();
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "0 to the number of workers"
        )]
        let nth = (dice.clamp(0.0, 1.0) * all.len() as f64) as usize;
        let worker = all.get(nth.min(all.len().checked_sub(1)?))?;
        Some(Order::Worker {
            deed: Deed::Kill,
            worker: worker.id.clone(),
            generation: worker.generation,
            chosen: Chosen::ByChance,
        })
    }
}

/// A counter, and how fast it grows.
#[derive(Debug, Default)]
struct Rate {
    counted: VecDeque<(Duration, u64)>,
}

impl Rate {
    fn count(&mut self, at: Duration, total: u64) {
        // Another door counts from 0 again, and a clock may be set back.
        if self.counted.back().is_some_and(|(last, counted)| *counted > total || *last > at) {
            self.counted.clear();
        }
        self.counted.push_back((at, total));
        while self.counted.len() > 2 && self.counted[1].0 + RATE_OVER <= at {
            self.counted.pop_front();
        }
    }

    fn per_second(&self) -> Option<f64> {
        let ((from, before), (until, after)) = (self.counted.front()?, self.counted.back()?);
        let seconds = until.saturating_sub(*from).as_secs_f64();
        (seconds > 0.0).then(|| (after - before) as f64 / seconds)
    }
}
