//! A world of its own, in which the plan is carried out, late, badly, or not at all; and what must be true in it
//! at every moment and when the trouble is over.
//!
//! Its clock is a number. Workers take time to start, to dial and to die; the engine falls silent and then does
//! half of what it was asked; sightings are lost; the door goes away and comes back without its memory; one of two doors
//! goes, alone or with the workers on its machine; the spec changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use server::control::{Notice, Retirement, Stamp};
use server::identity::Incarnation;

use super::overran;
use crate::backend::{BackendError, Found, Sighting, Vital};
use crate::model::{
    Action, ActionError, Cause, Command, Company, DoorEvent, DrainOrder, Engine, Event, Fate, KillReason,
    Now, Phase, State, StopScope, Welcome,
};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::{died_of, life, pool, unit};

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The worker with this index (of those alive) dies.
    Death(usize),
    /// The same, and nobody sights it.
    UnseenDeath(usize),
    /// A request overruns in it.
    Overrun(usize),
    /// Somebody drains it.
    Drain(usize),
    /// Somebody scales the pool.
    Scale(u32),
    /// The engine does not answer for so long.
    EngineSilent(u64),
    /// So many spawns are refused.
    Refusals(u32),
    /// So many workers do not become ready.
    Duds(u32),
    /// The door is away for so long; when it comes back it has forgotten everything.
    DoorAway(u64),
    /// The connection to the door breaks; the door lives on.
    DoorBlink,
    /// One of two doors goes: the workers with even places, or with odd ones, have to dial the other.
    OneDoorGone(u32),
    /// The machine of one of two doors goes: the workers with even places, or with odd ones, were on it.
    MachineGone(u32),
    /// The spec is another one: so many MiB for each worker.
    Respec(u64),
    /// The door hangs for so long, and then says and does what it has not said and done.
    DoorHangs(u64),
}

fn troubles() -> impl Strategy<Value = Vec<(u64, Trouble)>> {
    let trouble = prop_oneof![
        4 => (0_usize..8).prop_map(Trouble::Death),
        1 => (0_usize..8).prop_map(Trouble::UnseenDeath),
        2 => (0_usize..8).prop_map(Trouble::Overrun),
        2 => (0_usize..8).prop_map(Trouble::Drain),
        2 => (0_u32..7).prop_map(Trouble::Scale),
        2 => (1_u64..30_000).prop_map(Trouble::EngineSilent),
        1 => (1_u32..5).prop_map(Trouble::Refusals),
        1 => (1_u32..3).prop_map(Trouble::Duds),
        1 => (1_u64..20_000).prop_map(Trouble::DoorAway),
        1 => Just(Trouble::DoorBlink),
        1 => (0_u32..2).prop_map(Trouble::OneDoorGone),
        1 => (0_u32..2).prop_map(Trouble::MachineGone),
        1 => (64_u64..68).prop_map(Trouble::Respec),
        1 => (1_u64..15_000).prop_map(Trouble::DoorHangs),
    ];
    proptest::collection::vec((0_u64..2_000, trouble), 0..40)
}

/// What will happen in the world.
#[derive(Debug)]
enum Happening {
    Reply(Event),
    Noticed(Notice),
    Dials(Incarnation),
    Leaves(Incarnation),
    Sighted(Incarnation, Cause),
    /// The engine does at last what it did not answer for.
    BornLate(Incarnation),
    DoorIsBack,
    DoorAnswers,
    Trouble(Trouble),
}

#[derive(Debug)]
struct Body {
    alive: bool,
    dud: bool,
    /// Whether the engine made it when nobody waited for it any more.
    late: bool,
    hash: String,
}

struct World {
    state: State,
    start: Instant,
    /// Milliseconds since the start.
    clock: u64,
    ahead: BTreeMap<(u64, u64), Happening>,
    happenings: u64,
    bodies: BTreeMap<Incarnation, Body>,
    linked: BTreeSet<Incarnation>,
    door_up: bool,
    hangs_until: u64,
    silent_until: u64,
    refusals: u32,
    duds: u32,
    /// Nothing that is dead can be removed.
    unburied: bool,
    /// Nobody leaves when told to.
    stubborn: bool,
    born: BTreeSet<Incarnation>,
}

impl World {
    fn new(workers: u32) -> Self {
        let start = Instant::now();
        let mut spec = pool("web", workers);
        spec.restart.longest = Duration::from_secs(5);
        let mut world = Self {
            state: State::new([(Arc::new(spec), "hash".to_owned())], start),
            start,
            clock: 0,
            ahead: BTreeMap::new(),
            happenings: 0,
            bodies: BTreeMap::new(),
            linked: BTreeSet::new(),
            door_up: false,
            hangs_until: 0,
            silent_until: 0,
            refusals: 0,
            duds: 0,
            unburied: false,
            stubborn: false,
            born: BTreeSet::new(),
        };
        world.state.fold(Event::Door(DoorEvent::Company(Company::Several)), world.now());
        world.later(3, Happening::DoorIsBack);
        world
    }

    fn later(&mut self, after_ms: u64, what: Happening) {
        self.happenings += 1;
        self.ahead.insert((self.clock + after_ms, self.happenings), what);
    }

    fn now(&self) -> Now {
        let at = self.start + Duration::from_millis(self.clock);
        Now { at, stamp: Stamp::now(), luck: 0.5 }
    }

    /// Lives on until the clock shows `until`, checking at each step what must always hold.
    fn run_until(&mut self, until: u64) {
        loop {
            self.think();
            let next = self.ahead.keys().next().map(|(at, _)| *at);
            let wake = plan(&self.state, self.now().at).wake.map(|at| {
                let wait = at.duration_since(self.start);
                // What is to be noticed may be due already.
                u64::try_from(wait.as_micros().div_ceil(1000)).unwrap().max(self.clock)
            });
            let Some(at) = next.into_iter().chain(wake).min().filter(|at| *at <= until) else { break };
            assert!(at >= self.clock, "time goes forward");
            self.clock = at;
            match self.ahead.first_entry().filter(|entry| entry.key().0 <= at) {
                Some(entry) => {
                    let what = entry.remove();
                    self.happen(what);
                }
                None => self.state.fold(Event::Tick, self.now()),
            }
        }
        self.clock = until;
    }

    fn think(&mut self) {
        let planned = plan(&self.state, self.now().at).actions;
        for action in planned {
            self.check(&action);
            self.state.begin(&action, self.now());
            self.perform(action);
        }
        let again = plan(&self.state, self.now().at).actions;
        assert!(again.is_empty(), "asked for twice: {again:?}");
    }

    fn check(&self, action: &Action) {
        let silent = self.state.engine != Engine::Answers;
        match action {
            Action::Spawn { life } => {
                assert!(self.door_up, "{life} spawned without a door");
                assert!(self.hangs_until <= self.clock, "{life} spawned before a door that hangs");
                assert!(!self.born.contains(life), "{life} was born twice");
                let others = self.linked.iter().filter(|other| other.worker == life.worker);
                let expected = others.filter(|other| !self.bodies.get(other).is_some_and(|body| body.late));
                assert_eq!(expected.count(), 0, "{life} has a live brother");
                let pool = &self.state.pools[0];
                let taken = pool.places.values().filter(|place| {
                    place.fate == Fate::Refill && !matches!(place.phase, Phase::Empty { .. })
                });
                assert!(taken.count() < usize::try_from(pool.wanted).unwrap(), "{life} is one too many");
                assert!(!silent, "{life} asked of a silent engine");
            }
            Action::Kill { .. } | Action::Finish { .. } | Action::Remove { .. } => {
                let late = matches!(action, Action::Kill { life, why: KillReason::StartTimeout { .. }, .. }
                    if matches!(self.state.place(&life.worker).map(|it| &it.phase), Some(Phase::Starting { .. })));
                assert!(!late || self.hangs_until <= self.clock, "{action:?} because the door hangs");
                assert!(!silent, "{action:?} of a silent engine");
            }
            Action::Drain { .. }
            | Action::List
            | Action::LinkLost { .. }
            | Action::Bury { .. }
            | Action::Brief { .. }
            | Action::KillByDoor { .. }
            | Action::TurnOut { .. }
            | Action::StopDoor => {}
        }
    }

    fn silence(&self) -> Option<ActionError> {
        (self.clock < self.silent_until)
            .then_some(ActionError::Silence { operation: "anything", allowed: Duration::from_millis(100) })
    }

    fn perform(&mut self, action: Action) {
        let silence = self.silence();
        match action {
            Action::List => {
                let began = self.now().at;
                let found = self.bodies.iter().map(|(life, body)| Found {
                    life: life.clone(),
                    unit: unit(life),
                    spec_hash: body.hash.clone(),
                    vital: if body.alive {
                        Vital::Alive { since: SystemTime::now() }
                    } else {
                        Vital::Dead(died_of(Cause::Lost))
                    },
                });
                let result = silence.map_or(Ok(found.collect()), Err);
                // Slow enough for a worker to be born, or to die and be removed, in between.
                self.later(60, Happening::Reply(Event::Listed { began, result }));
            }
            Action::Spawn { life } => {
                self.born.insert(life.clone());
                let refused = self.refusals > 0;
                self.refusals = self.refusals.saturating_sub(1);
                let result = match silence {
                    Some(error) => Err(error),
                    None if refused => Err(refusal()),
                    None => Ok(unit(&life)),
                };
                // Of the workers that it does not answer for, a silent engine makes one third at once, one third
                // late, and one third never.
                match life.generation % 3 {
                    _ if result.is_ok() => self.bear(&life, false),
                    0 if !refused => self.bear(&life, false),
                    1 if !refused => {
                        let delay = (life.generation * 397 + u64::from(life.worker.place) * 131) % 1_900;
                        self.later(delay, Happening::BornLate(life.clone()));
                    }
                    _ => {}
                }
                self.later(30, Happening::Reply(Event::Spawned { life, result }));
            }
            Action::Drain { life, order, .. } => match order {
                DrainOrder::ThroughDoor => self.later(15, Happening::Leaves(life)),
                DrainOrder::Sigterm(_) => {
                    if silence.is_none() {
                        self.later(15, Happening::Leaves(life.clone()));
                    }
                    let result = silence.map_or(Ok(()), Err);
                    self.later(5, Happening::Reply(Event::Signalled { life, signal: 15, result }));
                }
            },
            Action::Kill { life, .. } | Action::Finish { life, .. } => {
                let alive = self.bodies.get(&life).is_some_and(|body| body.alive);
                let result = match silence {
                    Some(error) => Err(error),
                    None if alive => {
                        self.die(&life, Cause::Signal(9), true);
                        Ok(())
                    }
                    None => Err(gone(&life)),
                };
                self.later(10, Happening::Reply(Event::Signalled { life, signal: 9, result }));
            }
            Action::Remove { life, .. } => {
                let result = match silence {
                    Some(error) => Err(error),
                    None if self.unburied => Err(refusal()),
                    None => self.bodies.remove(&life).map(|_| ()).ok_or_else(|| gone(&life)),
                };
                self.later(10, Happening::Reply(Event::Removed { life, result }));
            }
            Action::Bury { life } => {
                self.linked.remove(&life);
            }
            Action::TurnOut { life } => assert!(!self.bodies.contains_key(&life), "{life} is in the world"),
            Action::LinkLost { .. } | Action::Brief { .. } | Action::KillByDoor { .. } | Action::StopDoor => {
            }
        }
    }

    fn bear(&mut self, life: &Incarnation, late: bool) {
        let dud = self.duds > 0;
        self.duds = self.duds.saturating_sub(1);
        let hash =
            self.state.tenant(life).map_or_else(|| "hash".to_owned(), |tenant| tenant.spec_hash.clone());
        let body = Body { alive: true, dud, late, hash };
        self.bodies.insert(life.clone(), body);
        self.later(20, Happening::Dials(life.clone()));
    }

    fn notice(&mut self, notice: Notice) {
        self.later(0, Happening::Noticed(notice));
    }

    fn die(&mut self, life: &Incarnation, cause: Cause, seen: bool) {
        let Some(body) = self.bodies.get_mut(life).filter(|body| body.alive) else { return };
        body.alive = false;
        if self.linked.remove(life) {
            let at = Stamp::now();
            self.notice(Notice::Left {
                worker: life.clone(),
                at,
                cleanly: false,
                held: vec![],
                siblings: 0,
                vanished: None,
            });
        }
        if seen && self.silence().is_none() {
            self.later(25, Happening::Sighted(life.clone(), cause));
        }
    }

    fn happen(&mut self, what: Happening) {
        let by_the_door = matches!(what, Happening::Noticed(_) | Happening::Dials(_) | Happening::Leaves(_));
        if by_the_door && self.clock < self.hangs_until {
            return self.later(self.hangs_until - self.clock, what);
        }
        match what {
            Happening::Reply(event) => {
                let unheard = match &event {
                    Event::Spawned { life, result: Err(_) } if self.linked.contains(life) => {
                        self.state.tenant(life).map(|tenant| tenant.life.clone())
                    }
                    _ => None,
                };
                self.state.fold(event, self.now());
                if let Some(life) = unheard {
                    assert!(self.state.tenant(&life).is_some(), "{life} had joined and was given up");
                }
            }
            Happening::BornLate(life) => self.bear(&life, true),
            Happening::Noticed(notice) => {
                if self.door_up {
                    self.state.fold(Event::Door(DoorEvent::Notice(notice)), self.now());
                }
            }
            Happening::Sighted(life, cause) => {
                let autopsy = died_of(cause);
                self.state.fold(Event::Sighted(Sighting::Died { life, autopsy }), self.now());
            }
            Happening::Dials(life) => {
                let comes = self.bodies.get(&life).is_some_and(|body| body.alive && !body.dud);
                if comes && self.door_up && self.linked.insert(life.clone()) {
                    self.notice(Notice::Joined { worker: life, at: Stamp::now() });
                }
            }
            Happening::Leaves(life) => {
                if !self.stubborn && self.bodies.get(&life).is_some_and(|body| body.alive) {
                    if self.linked.remove(&life) {
                        let (worker, at) = (life.clone(), Stamp::now());
                        let why = Retirement::Told;
                        self.notice(Notice::Retiring { worker: worker.clone(), why });
                        self.notice(Notice::Left {
                            worker,
                            at,
                            cleanly: true,
                            held: vec![],
                            siblings: 0,
                            vanished: None,
                        });
                    }
                    self.die(&life, Cause::Exit(0), true);
                }
            }
            Happening::DoorIsBack => {
                if !self.door_up {
                    self.door_up = true;
                    self.welcome();
                    let alive: Vec<Incarnation> = self.bodies.keys().cloned().collect();
                    for life in alive {
                        self.later(10, Happening::Dials(life));
                    }
                }
            }
            Happening::DoorAnswers => {
                if self.door_up && self.hangs_until <= self.clock {
                    self.state.fold(Event::Door(DoorEvent::Answers), self.now());
                }
            }
            Happening::Trouble(trouble) => self.trouble(trouble),
        }
    }

    /// As far as anybody is told it lives, and nobody hears of it any more.
    fn is_out_of_reach(&mut self, life: &Incarnation) {
        if let Some(body) = self.bodies.get_mut(life) {
            body.dud = true;
        }
    }

    fn welcome(&mut self) {
        let linked = self.linked.iter().cloned().collect();
        let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked, seen: vec![] };
        self.state.fold(Event::Door(DoorEvent::Up(welcome)), self.now());
    }

    fn somebody(&self, index: usize) -> Option<Incarnation> {
        let alive: Vec<_> = self.bodies.iter().filter(|(_, body)| body.alive).map(|(life, _)| life).collect();
        alive.get(index % alive.len().max(1)).copied().cloned()
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Death(index) | Trouble::UnseenDeath(index) => {
                if let Some(life) = self.somebody(index) {
                    self.die(&life, Cause::Signal(11), matches!(trouble, Trouble::Death(_)));
                }
            }
            Trouble::Overrun(index) => {
                if let Some(worker) = self.somebody(index).filter(|life| self.linked.contains(life)) {
                    self.notice(overran(worker));
                }
            }
            Trouble::Drain(index) => {
                if let Some(life) = self.somebody(index) {
                    let command = Command::Drain { worker: life.worker };
                    self.state.fold(Event::Command(command), self.now());
                }
            }
            Trouble::Scale(workers) => {
                let command = Command::Scale { pool: "web".parse().unwrap(), workers };
                self.state.fold(Event::Command(command), self.now());
            }
            Trouble::EngineSilent(ms) => self.silent_until = self.clock + ms,
            Trouble::Refusals(number) => self.refusals = number,
            Trouble::Duds(number) => self.duds = number,
            Trouble::DoorAway(ms) => {
                self.door_up = false;
                self.hangs_until = self.clock;
                self.linked.clear();
                self.later(ms, Happening::DoorIsBack);
                let why = "it crashed".to_owned();
                self.state.fold(Event::Door(DoorEvent::Down { why }), self.now());
            }
            Trouble::DoorHangs(ms) => {
                if self.door_up {
                    self.hangs_until = self.hangs_until.max(self.clock + ms);
                    self.later(ms, Happening::DoorAnswers);
                    self.state.fold(Event::Door(DoorEvent::Silent), self.now());
                }
            }
            Trouble::OneDoorGone(which) | Trouble::MachineGone(which) => {
                if self.door_up && self.hangs_until <= self.clock {
                    let at_it = |life: &&Incarnation| life.worker.place % 2 == which;
                    let lost: Vec<Incarnation> = self.linked.iter().filter(at_it).cloned().collect();
                    for life in &lost {
                        self.linked.remove(life);
                        match trouble {
                            Trouble::MachineGone(_) => self.is_out_of_reach(life),
                            _ => self.later(10, Happening::Dials(life.clone())),
                        }
                    }
                    let why = "it is gone".to_owned();
                    self.state.fold(Event::Door(DoorEvent::Lost { linked: lost, why }), self.now());
                }
            }
            Trouble::Respec(mib) => {
                let mut spec = (*self.state.pools[0].spec).clone();
                spec.worker.limits.memory_bytes = Some(mib << 20);
                let command = Command::Apply(vec![Arc::new(spec)]);
                self.state.fold(Event::Command(command), self.now());
            }
            Trouble::DoorBlink => {
                if self.door_up && self.hangs_until <= self.clock {
                    let why = "it blinked".to_owned();
                    self.state.fold(Event::Door(DoorEvent::Down { why }), self.now());
                    self.welcome();
                }
            }
        }
    }

    /// What must be true when all trouble has been over for long enough.
    fn assert_converged(&self) {
        let pool = &self.state.pools[0];
        let wanted = usize::try_from(pool.wanted).unwrap();
        assert_eq!(pool.live(), wanted, "live workers; places: {:#?}", pool.places);
        assert_eq!(pool.places.len(), wanted, "places: {:#?}", pool.places);
        assert!(self.state.remains.is_empty(), "remains: {:#?}", self.state.remains);
        let tenants: BTreeSet<&Incarnation> = self.state.tenants().map(|tenant| &tenant.life).collect();
        assert_eq!(self.bodies.keys().collect::<BTreeSet<_>>(), tenants, "nobody else is left in the world");
        assert_eq!(self.linked.iter().collect::<BTreeSet<_>>(), tenants, "all of them are linked");
        let up_to_date = self.bodies.values().all(|body| body.hash == pool.spec_hash);
        assert!(up_to_date, "somebody was made from another spec than {}: {:?}", pool.spec_hash, self.bodies);
    }
}

fn refusal() -> ActionError {
    let refused = BackendError::Refused { operation: "start", subject: "it".to_owned(), source: "no".into() };
    refused.into()
}

fn gone(life: &Incarnation) -> ActionError {
    BackendError::Gone { subject: life.to_string() }.into()
}

fn after_trouble(workers: u32, troubles: Vec<(u64, Trouble)>) -> World {
    let mut world = World::new(workers);
    let mut at = 0;
    for (pause, trouble) in troubles {
        at += pause;
        world.later(at, Happening::Trouble(trouble));
    }
    // Long enough for every silence, every back-off and a start time-out on top.
    world.run_until(at + 120_000);
    world
}

/// A controller that starts beside these workers of an earlier one, and is told to stop after so many milliseconds,
/// whatever goes on; it is run until it says that it has stopped.
fn stopped_amid_trouble(
    workers: u32,
    survivors: u32,
    troubles: Vec<(u64, Trouble)>,
    after_ms: u64,
    scope: StopScope,
) -> World {
    let mut world = World::new(workers);
    for place in 0..survivors {
        world.bear(&life(&format!("web-{place}.7")), false);
    }
    let mut at = 0;
    for (pause, trouble) in troubles {
        at += pause;
        world.later(at, Happening::Trouble(trouble));
    }
    world.run_until(after_ms);
    let stop = Command::Stop { scope, within: Duration::from_secs(5) };
    world.state.fold(Event::Command(stop), world.now());
    // The engine comes back in time, and nothing else happens to it.
    world.silent_until = world.silent_until.min(after_ms + 8_000);
    world.ahead.retain(|_, happening| !matches!(happening, Happening::Trouble(_)));
    while !world.state.has_stopped(world.now().at) {
        world.run_until(world.clock + 5);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_stop_at_any_moment_leaves_nothing_that_comes_to_light_later(
        workers in 0_u32..6,
        survivors in 0_u32..4,
        troubles in troubles(),
        after_ms in prop_oneof![0_u64..200, 0_u64..20_000],
    ) {
        let mut world = stopped_amid_trouble(workers, survivors, troubles, after_ms, StopScope::WorkersOnly);
        // The controller has gone; whatever the engine is still about to do, it does now.
        for (_, happening) in std::mem::take(&mut world.ahead) {
            if let Happening::BornLate(life) = happening {
                world.bear(&life, true);
            }
        }
        prop_assert!(world.bodies.is_empty(), "left behind: {:?}", world.bodies);
    }

    #[test]
    fn a_stop_that_is_cut_off_takes_no_longer_than_killing_takes(
        workers in 0_u32..6,
        troubles in troubles(),
        after_ms in 0_u64..3_000,
        stubborn: bool,
    ) {
        let mut world = after_trouble(workers, troubles);
        world.stubborn = stubborn;
        let stop = Command::Stop { scope: StopScope::WorkersOnly, within: Duration::from_secs(5) };
        world.state.fold(Event::Command(stop), world.now());
        world.run_until(world.clock + after_ms);
        world.state.fold(Event::Command(Command::CutOff), world.now());
        // A kill, a sighting, a removal, two listings.
        world.run_until(world.clock + 300);
        prop_assert!(world.state.has_stopped(world.now().at));
        prop_assert!(world.bodies.is_empty(), "left behind: {:?}", world.bodies);
    }

    #[test]
    fn whatever_happens_the_pool_is_whole_again(workers in 0_u32..6, troubles in troubles()) {
        after_trouble(workers, troubles).assert_converged();
    }

    #[test]
    fn whatever_happens_a_stop_ends_and_leaves_nothing(workers in 0_u32..6, troubles in troubles()) {
        let mut world = after_trouble(workers, troubles);
        let stop = Command::Stop { scope: StopScope::WorkersOnly, within: Duration::from_secs(5) };
        world.state.fold(Event::Command(stop), world.now());
        let deadline = world.clock + 6_000;
        world.run_until(deadline);
        prop_assert!(world.state.has_stopped(world.now().at));
        prop_assert!(world.bodies.is_empty(), "left behind: {:?}", world.bodies);
    }
}

#[test]
fn capacity_is_back_as_soon_as_a_spawn_takes_at_the_two_hundredth_kill_as_at_the_first() {
    let mut world = World::new(4);
    let mut spec = (*world.state.pools[0].spec).clone();
    spec.restart.backoff = Duration::ZERO;
    spec.restart.deaths = 1000;
    world.state.pools[0].spec = Arc::new(spec);
    world.run_until(1_000);
    for kill in 0..200 {
        world.trouble(Trouble::Death(kill));
        let killed_at = world.clock;
        world.run_until(killed_at + 20);
        assert_eq!(world.state.pools[0].live(), 4, "kill {kill}: replaced as soon as one can start and dial");
        world.run_until(killed_at + 100);
        assert!(world.state.remains.len() <= 1, "kill {kill}: the dead are buried as fast as they fall");
    }
    world.assert_converged();
}

#[test]
fn a_pool_that_dies_as_a_whole_is_back_at_once_and_one_that_goes_on_dying_waits() {
    let mut world = World::new(24);
    world.run_until(1_000);
    (0..24).for_each(|worker| world.trouble(Trouble::Death(worker)));
    world.run_until(1_100);
    assert_eq!(world.state.pools[0].live(), 24, "each has died once");
    (0..24).for_each(|worker| world.trouble(Trouble::Death(worker)));
    world.run_until(1_500);
    assert_eq!(world.state.pools[0].live(), 0, "that is a loop");
}

#[test]
fn an_engine_that_does_not_bury_is_not_filled_up() {
    let mut world = World::new(4);
    world.unburied = true;
    let mut spec = (*world.state.pools[0].spec).clone();
    spec.restart.backoff = Duration::ZERO;
    spec.restart.deaths = 1000;
    world.state.pools[0].spec = Arc::new(spec);
    for kill in 0..100 {
        world.run_until(kill * 100);
        world.trouble(Trouble::Death(0));
    }
    assert!(world.bodies.len() <= 16 + 4, "{} containers", world.bodies.len());
    world.unburied = false;
    world.run_until(20_000);
    world.assert_converged();
}

#[test]
fn an_engine_that_stalls_for_ever_does_not_keep_a_stop_from_ending() {
    let mut world = World::new(3);
    world.run_until(1_000);
    world.silent_until = u64::MAX;
    let stop = Command::Stop { scope: StopScope::WorkersOnly, within: Duration::from_secs(5) };
    world.trouble(Trouble::UnseenDeath(0));
    world.state.fold(Event::Command(stop), world.now());
    world.run_until(1_000 + 20_000);
    assert!(world.state.has_stopped(world.now().at), "it gives up");
    assert!(!world.state.remains.is_empty(), "and knows what it leaves behind");
}
