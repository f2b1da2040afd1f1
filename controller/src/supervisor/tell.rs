//! What is worth an entry in the journal.
//!
//! Two things are. What an event says by itself ([`Teller::heard`]): this worker is ready, that one's link closed, somebody
//! asked for a kill. And what has changed by it that no single event says ([`Teller::compare`]): a pool is degraded,
//! the engine is silent, an incident has come to be or more is known of it. An incident is told anew each time when
//! it reads differently than before, because cause, outcomes and readiness come from three sides, in any order. Where
//! only outcomes are new it is told each time that half of those that were pending are known, and when all are: a
//! worker may have held a thousand turns, and an incident has a line for each.
//!
//! Both are pure and called by the loop around `fold`; who reads the journal, and how slowly, is not their affair.
//!
//! What can go missing: an incident that turns out to be none, because the goodbye was heard after the death, has
//! been told by then. It is not in `GET /api/v1/incidents`, which is the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use server::control::{Held, Notice, Outcome, Stamp};
use server::identity::{Incarnation, PoolName, WorkerId};

use super::flood::{Floods, Telling};
use super::restart::Health;
use super::views;
use crate::api::metrics::{Deaths, HeldOutcome};
use crate::api::stream_views::{
    Happened, IncidentStage, PartChange, PoolChange, TrickleChange, WorkerChange,
};
use crate::api::views::IncidentView;
use crate::backend::{BackendKind, Sighting, Unit};
use crate::model::{
    ActionError, Command, Died, DoorEvent, DoorState, Engine, Event, Incident, Incidents, Notes, Now, State,
    in_full, signal_name,
};
use crate::spec::{Change, Pool};

/// An entry to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct News {
    /// When it happened: by the door's clock where the door dates it, else when we heard of it.
    pub(super) at: Stamp,
    /// What.
    pub(super) happened: Happened,
}

fn said_by_the_door(notice: &Notice, now: Stamp) -> Option<(Stamp, Happened)> {
    let (at, life, what, detail) = match notice {
        Notice::Joined { worker, at } => (*at, worker, WorkerChange::Ready, None),
        Notice::Retiring { worker, why } => {
            (now, worker, WorkerChange::Retiring, Some(words_of(*why).to_owned()))
        }
        Notice::Left { worker, at, cleanly: true, .. } => (*at, worker, WorkerChange::Left, None),
        Notice::Left { worker, at, cleanly: false, held, .. } => {
            (*at, worker, WorkerChange::LinkClosed, holding(held))
        }
        Notice::Overran { worker, held } => (now, worker, WorkerChange::Overran, Some(held.request.clone())),
        Notice::Broke { worker, detail } => (now, worker, WorkerChange::BrokeProtocol, Some(detail.clone())),
        Notice::Panicked { worker, request, message, at, .. } => {
            (*at, worker, WorkerChange::Panicked, Some(format!("{request}: {message}")))
        }
        Notice::Refused { claimed: Some(worker), detail } => {
            (now, worker, WorkerChange::Refused, Some(detail.clone()))
        }
        // Whoever does not even say who it is comes to the log alone; what became of turns is in the incident.
        Notice::Refused { claimed: None, .. }
        | Notice::Stopping
        | Notice::Moved { .. }
        | Notice::TrickleEnded { .. }
        | Notice::Pong
        | Notice::Welcome { .. }
        | Notice::Settled { .. }
        | Notice::Report { .. } => return None,
    };
    Some((at, worker(life, what, detail)))
}

/// Commands arrive here only when they make sense.
fn asked(command: &Command, before: &State) -> Option<Happened> {
    match command {
        Command::Kill { worker: id, signal } => {
            Some(worker(&current(before, id)?, WorkerChange::KillRequested, Some(signal_name(*signal))))
        }
        Command::Drain { worker: id } => {
            Some(worker(&current(before, id)?, WorkerChange::DrainRequested, None))
        }
        Command::Scale { pool, workers } => {
            let before = before.pool(pool)?.wanted;
            let detail = Some(format!("{before} to {}", counted(*workers as usize, "worker")));
            (before != *workers).then(|| Happened::Pool {
                pool: pool.to_string(),
                what: PoolChange::Scaled,
                detail,
            })
        }
        Command::Note(_) | Command::CutOff | Command::Stop { .. } | Command::Apply(_) => None,
    }
}

/// How the pools differ from those that the spec had before.
fn applied(pools: &[Arc<Pool>], before: &State, now: Now) -> Vec<News> {
    let news = |pool: &PoolName, detail: String| News {
        at: now.stamp,
        happened: Happened::Pool { pool: pool.to_string(), what: PoolChange::Changed, detail: Some(detail) },
    };
    let there = |name: &PoolName| before.pool(name).filter(|pool| !pool.retired);
    let changed = pools.iter().filter_map(|new| match there(new.name()) {
        None if before.door_has(new.name()) => Some(news(new.name(), "it is new".to_owned())),
        None => Some(news(new.name(), "it is new, and waits for a restart of the door".to_owned())),
        Some(old) => {
            let change = Change::between(&old.spec, new);
            (!change.is_none()).then(|| news(new.name(), change.to_string()))
        }
    });
    let gone =
        before.pools.iter().filter(|old| !old.retired && !pools.iter().any(|new| new.name() == old.name()));
    let gone = gone.map(|old| news(old.name(), "it is gone: its workers are drained".to_owned()));
    changed.chain(gone).collect()
}

/// What has been told of the state, to be compared with what there is to tell.
#[derive(Debug)]
pub(super) struct Teller {
    backend: BackendKind,
    /// Whether the door accepts clients.
    door_is_open: bool,
    engine: Engine,
    pools: BTreeMap<PoolName, Fortune>,
    /// The requests that the door has been told to send, in words.
    trickles: BTreeMap<PoolName, String>,
    floods: Floods,
    /// Incidents by their names, as they were told last.
    incidents: BTreeMap<Incarnation, Told>,
    /// What has been counted of them, by pool.
    deaths: BTreeMap<PoolName, Deaths>,
    /// How often any incident had been touched by then.
    touches: u64,
    /// How many incidents there have been.
    total: u64,
}

/// What has been told, and counted, of an incident.
#[derive(Debug, Default)]
struct Told {
    view: Option<IncidentView>,
    /// What it was put into words from, but for the outcomes.
    facts: Option<Facts>,
    /// Its cause and detection, which do not change any more once the backend has looked.
    death: Counted,
    recovery: Counted,
}

/// What is known of a death, besides what became of its turns: they may be a thousand, and each is known by itself.
#[derive(Debug, PartialEq)]
struct Facts {
    unit: Option<Unit>,
    left: Option<Stamp>,
    died: Option<Died>,
    notes: Notes,
    spawned: Option<Stamp>,
    ready: Option<Stamp>,
}

impl Facts {
    fn of(incident: &Incident) -> Self {
        Self {
            unit: incident.unit.clone(),
            left: incident.left.as_ref().map(|left| left.at),
            died: incident.died.clone(),
            notes: incident.notes.clone(),
            spawned: incident.spawned,
            ready: incident.ready,
        }
    }
}

/// Whether something is in the figures already.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Counted {
    #[default]
    NotYet,
    Once,
}

/// How a pool fares.
#[derive(Debug, Default, PartialEq)]
struct Fortune {
    degraded: bool,
    trouble: Option<String>,
}

impl Teller {
    /// For a state of which nothing has been told: that of a supervisor that has just started.
    pub(super) fn new(backend: BackendKind) -> Self {
        Self {
            backend,
            door_is_open: false,
            engine: Engine::NotListedYet,
            pools: BTreeMap::new(),
            trickles: BTreeMap::new(),
            floods: Floods::default(),
            incidents: BTreeMap::new(),
            deaths: BTreeMap::new(),
            touches: 0,
            total: 0,
        }
    }

    /// How many incidents there have been since this controller started.
    pub(super) fn total_incidents(&self) -> u64 {
        self.total
    }

    /// What `event` says by itself. `before` is the state that it has not been folded into yet.
    pub(super) fn heard(&mut self, event: &Event, before: &State, now: Now) -> Vec<News> {
        let news = match event {
            Event::Door(DoorEvent::Up(welcome)) => {
                let workers = welcome.linked.len();
                let detail = format!("process {}, {} linked", welcome.pid, counted(workers, "worker"));
                Some((now.stamp, Happened::Door { what: PartChange::Up, detail: Some(detail) }))
            }
            Event::Door(DoorEvent::Another(welcome)) => {
                let workers = counted(welcome.linked.len(), "worker");
                let detail = format!("one more: process {}, {workers} linked", welcome.pid);
                Some((now.stamp, Happened::Door { what: PartChange::Up, detail: Some(detail) }))
            }
            Event::Door(DoorEvent::Lost { linked, why }) => {
                let workers = counted(linked.len(), "worker");
                let detail = format!("one of several: {why}; {workers} to dial another");
                Some((now.stamp, Happened::Door { what: PartChange::Down, detail: Some(detail) }))
            }
            Event::Door(DoorEvent::Company(_) | DoorEvent::Dark(_)) => None,
            Event::Door(DoorEvent::Mute { linked }) => {
                let detail = format!("one of several, which has {}", counted(linked.len(), "worker"));
                Some((now.stamp, Happened::Door { what: PartChange::Silent, detail: Some(detail) }))
            }
            Event::Door(DoorEvent::Heard { .. }) => {
                let detail = Some("one of several".to_owned());
                Some((now.stamp, Happened::Door { what: PartChange::Answers, detail }))
            }
            Event::Door(DoorEvent::Down { why }) => {
                self.trickles.clear();
                Some((now.stamp, Happened::Door { what: PartChange::Down, detail: Some(why.clone()) }))
            }
            Event::Door(DoorEvent::Silent) => {
                Some((now.stamp, Happened::Door { what: PartChange::Silent, detail: None }))
            }
            Event::Door(DoorEvent::Answers) => {
                Some((now.stamp, Happened::Door { what: PartChange::Answers, detail: None }))
            }
            Event::Door(DoorEvent::Notice(Notice::TrickleEnded { pool })) => {
                Some((now.stamp, trickle(pool, TrickleChange::Ended, self.trickles.remove(pool))))
            }
            Event::Door(DoorEvent::Notice(Notice::Settled { worker, outcome: settled, .. })) => {
                // There is one of these for each turn.
                let deaths = self.deaths.entry(worker.worker.pool.clone()).or_default();
                *deaths.outcomes.entry(outcome(settled)).or_default() += 1;
                None
            }
            Event::Door(DoorEvent::Notice(notice)) => self.noticed(notice, now),
            Event::Sighted(Sighting::Died { life, autopsy }) => {
                Some((now.stamp, worker(life, WorkerChange::Died, Some(autopsy.cause.to_string()))))
            }
            Event::Spawned { life, result: Ok(unit) } => {
                Some((now.stamp, worker(life, WorkerChange::Spawned, Some(views::unit_name(unit)))))
            }
            Event::Command(Command::Apply(pools)) => return applied(pools, before, now),
            Event::Command(command) => asked(command, before).map(|happened| (now.stamp, happened)),
            // What these change shows when the states are compared.
            Event::Sighted(
                Sighting::Waiting { .. }
                | Sighting::Started { .. }
                | Sighting::Unreachable(_)
                | Sighting::Reachable,
            )
            | Event::Spawned { result: Err(_), .. }
            | Event::Signalled { .. }
            | Event::Removed { .. }
            | Event::Listed { .. }
            | Event::Tick => None,
        };
        news.map(|(at, happened)| News { at, happened }).into_iter().collect()
    }

    /// What the door tells, if strangers have not made it tell the like too often.
    fn noticed(&mut self, notice: &Notice, now: Now) -> Option<(Stamp, Happened)> {
        let (at, mut happened) = said_by_the_door(notice, now.stamp)?;
        match self.floods.judge(notice, now.at) {
            Telling::LeftOut => return None,
            Telling::Told { left_out: 0 } => {}
            Telling::Told { left_out } => {
                if let Happened::Worker { detail: Some(detail), .. } = &mut happened {
                    *detail += &format!(" (and {left_out} more before it that are not told)");
                }
            }
        }
        Some((at, happened))
    }

    /// The door has been told to send these requests.
    pub(super) fn trickle_began(&mut self, pool: &PoolName, path: &str, per_second: f64, at: Stamp) -> News {
        let detail = format!("{per_second} a second of GET {path}");
        self.trickles.insert(pool.clone(), detail.clone());
        News { at, happened: trickle(pool, TrickleChange::Began, Some(detail)) }
    }

    /// What has been counted of the deaths in a pool.
    pub(super) fn deaths(&self, pool: &PoolName) -> Deaths {
        self.deaths.get(pool).cloned().unwrap_or_default()
    }

    /// What is new in the state, folded and planned for.
    pub(super) fn compare(&mut self, after: &State, because: Option<&str>, now: Now) -> Vec<News> {
        let mut happened = Vec::new();
        if self.engine != after.engine {
            self.engine = after.engine;
            let silent = after.engine == Engine::Silent;
            let what = if silent { PartChange::Silent } else { PartChange::Answers };
            let detail = because.filter(|_| silent).map(str::to_owned);
            happened.push(Happened::Engine { what, detail });
        }
        match after.door {
            // Because it says so, or because we have told it to: then it may be gone before it says anything.
            DoorState::Up { open: false, .. } if self.door_is_open => {
                happened.push(Happened::Door { what: PartChange::Stopping, detail: None });
            }
            _ => {}
        }
        self.door_is_open = matches!(after.door, DoorState::Up { open: true, .. });
        for pool in &after.pools {
            let told = self.pools.entry(pool.name().clone()).or_default();
            let degraded = *pool.intensity.health() != Health::Sound;
            let mut tell = |what, detail| {
                happened.push(Happened::Pool { pool: pool.name().to_string(), what, detail });
            };
            if told.degraded != degraded {
                told.degraded = degraded;
                tell(if degraded { PoolChange::Degraded } else { PoolChange::Sound }, None);
            }
            if told.trouble.as_deref() != pool.trouble() {
                told.trouble = pool.trouble().map(str::to_owned);
                if let Some(trouble) = &told.trouble {
                    tell(PoolChange::Trouble, Some(trouble.clone()));
                }
            }
        }
        happened.extend(self.incidents(after));
        happened.into_iter().map(|happened| News { at: now.stamp, happened }).collect()
    }

    fn incidents(&mut self, after: &State) -> Vec<Happened> {
        let mut happened = Vec::new();
        for incident in after.incidents.touched_since(self.touches) {
            let told = self.incidents.entry(incident.life.clone()).or_default();
            if !told.is_outdone_by(incident) {
                continue;
            }
            let view = views::incident(after, self.backend, incident);
            let deaths = self.deaths.entry(incident.life.worker.pool.clone()).or_default();
            told.count(incident, &view, deaths);
            let stage = match &told.view {
                Some(told) if *told == view => continue,
                None if !incident.is_complete() => IncidentStage::Opened,
                Some(_) if !incident.is_complete() => IncidentStage::Updated,
                Some(_) | None => IncidentStage::Complete,
            };
            if told.view.replace(view.clone()).is_none() {
                self.total += 1;
            }
            happened.push(Happened::Incident { incident: Box::new(view), stage });
        }
        self.touches = after.incidents.touches();
        self.forget(after);
        happened
    }

    /// Forgets what the state has forgotten, now and then.
    fn forget(&mut self, after: &State) {
        if self.incidents.len() > Incidents::MOST + Incidents::MOST / 10 {
            let known: BTreeSet<&Incarnation> =
                after.incidents.iter().map(|incident| &incident.life).collect();
            self.incidents.retain(|life, _| known.contains(life));
        }
    }
}

impl Told {
    /// Whether so much more is known of the incident than was told that it is worth telling.
    fn is_outdone_by(&mut self, incident: &Incident) -> bool {
        let facts = Some(Facts::of(incident));
        if self.facts != facts {
            self.facts = facts;
            return true;
        }
        let pending = incident.pending();
        pending == 0 || pending.is_power_of_two()
    }

    /// Adds what has become known of the incident to the figures, each thing once.
    fn count(&mut self, incident: &Incident, view: &IncidentView, deaths: &mut Deaths) {
        if incident.died.is_some() && self.death == Counted::NotYet {
            self.death = Counted::Once;
            *deaths.causes.entry(view.cause.kind).or_default() += 1;
            if let Some(detection) = incident.detection() {
                deaths.detection.observe(detection);
            }
        }
        if let Some(recovery) = incident.recovery()
            && self.recovery == Counted::NotYet
        {
            self.recovery = Counted::Once;
            deaths.recovery.observe(recovery);
        }
    }
}

fn outcome(outcome: &Outcome) -> HeldOutcome {
    match outcome {
        Outcome::Redelivered { .. } => HeldOutcome::Redelivered,
        Outcome::Answered { .. } => HeldOutcome::Answered,
        Outcome::Finished => HeldOutcome::Finished,
        Outcome::Closed { .. } => HeldOutcome::Closed,
    }
}

/// Why the engine is silent, where `event` shows it.
pub(super) fn silence(event: &Event) -> Option<String> {
    let failed = |error: &ActionError| error.is_silence().then(|| in_full(error));
    match event {
        Event::Sighted(Sighting::Unreachable(error)) => Some(in_full(error)),
        Event::Spawned { result: Err(error), .. }
        | Event::Signalled { result: Err(error), .. }
        | Event::Removed { result: Err(error), .. }
        | Event::Listed { result: Err(error), .. } => failed(error),
        _ => None,
    }
}

fn worker(life: &Incarnation, what: WorkerChange, detail: Option<String>) -> Happened {
    Happened::Worker {
        worker: life.worker.to_string(),
        pool: life.worker.pool.to_string(),
        generation: life.generation,
        what,
        detail,
    }
}

fn trickle(pool: &PoolName, what: TrickleChange, detail: Option<String>) -> Happened {
    Happened::Trickle { pool: pool.to_string(), what, detail }
}

/// Who has this place.
fn current(state: &State, worker: &WorkerId) -> Option<Incarnation> {
    state.place(worker)?.phase.tenant().map(|tenant| tenant.life.clone())
}

fn holding(held: &[Held]) -> Option<String> {
    match held {
        [] => None,
        [only] => Some(format!("it held {}", only.request)),
        [first, rest @ ..] => Some(format!("it held {} and {} more", first.request, rest.len())),
    }
}

fn words_of(why: server::control::Retirement) -> &'static str {
    match why {
        server::control::Retirement::Told => "it was told to",
        server::control::Retirement::Recycled => "it has served as many requests as it was made for",
    }
}

/// `1 worker`, `6 workers`.
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
