//! The master: spawns, watches, kills and replaces workers, through a backend and with the door's help.
//!
//! It is one loop over one closed set of events: wait for one, fold it into the state, plan, act. Only the loop
//! changes the state. The plan is a pure function of it; acts are tasks that come back as events. So there is no
//! lock, no order in which two things could be done wrongly, and nothing for which the loop would have to wait.
//!
//! What happens when a worker is killed in the middle of a request:
//!
//! 1. The kernel closes its link. The door sees that within microseconds, gives the request to another worker
//!    by itself, and tells us: `Left`, then `Settled`.
//! 2. We fold `Left`: the place is empty, and the restart policy says that the next worker may come at once. The
//!    plan says `Spawn`, with the place's next generation.
//! 3. What is left of the dead worker is seen to meanwhile: the backend reports what it died of, the incident
//!    takes that down, its container is removed. If the backend stays silent, the compartment is killed for
//!    certainty, in case something in it still runs.
//! 4. The replacement's link comes up: `Joined`. The incident notes how long that took.
//!
//! What the master deliberately does not do: it is not in the way of any request, so that its death costs
//! nothing but replacement; it keeps next to nothing on disk (`scales`), because what it would have to remember is in the backend's
//! labels and on the door's links, and those cannot be out of date; and it never infers from silence. A door
//! that is away means that nobody can say who is linked, an engine that is away means that nobody can say who
//! lives; nothing is spawned or killed for either.
//!
//! How it can fail: an engine that stalls makes replacement late, not wrong. A hint that is lost (a sighting, a
//! notice) is made up for by the next listing, ten seconds later at most.

mod act;
mod flood;
mod frame;
mod handle;
mod measure;
mod order;
pub mod plan;
mod reply;
pub mod restart;
mod retell;
mod scales;
mod show;
mod tell;
#[cfg(test)]
#[expect(clippy::expect_used, clippy::panic, reason = "tests")]
mod testing;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::BoxStream;
use server::config::TurnUnit;
use server::control::{Notice, Stamp};
use server::identity::{PoolName, Secret};
use tokio::sync::{mpsc, oneshot};

use crate::backend::{Backend, BackendKind, Sighting};
use crate::door::{Approach, Door, Site};
use crate::journal::Chronicle;
use crate::model::{Command, DoorEvent, Event, Now, State, in_full};
use crate::spec::Pool;
use act::Hands;
use flood::{Floods, Telling};
use frame::Lately;
use handle::Request;
use order::OrderBook;
use show::Shown;
use tell::Teller;

pub use handle::{CommandError, Handle, StopSummary};
pub use order::Dialling;
pub use scales::{Keep, Scales};

/// What a supervisor is to supervise.
#[derive(Debug)]
pub struct Config {
    /// The pools, in the spec's order.
    pub pools: Vec<Pool>,
    /// Under which workers' tokens are made: the one that this deployment's door has been told before, if it
    /// is to adopt workers.
    pub secret: Secret,
    /// Where the doors are.
    pub doors: Doors,
    /// How workers find them over TCP; `None`: they share a directory with theirs.
    pub dialling: Option<Dialling>,
    /// Where workers run.
    pub backend: Arc<dyn Backend>,
    /// What the last controller's pools had been scaled to.
    pub scales: Scales,
}

/// Where the doors are, and how to talk to them.
pub struct Doors {
    /// All doors that there are, each time that others are there.
    pub sites: BoxStream<'static, Vec<Site>>,
    /// How to make oneself known to them.
    pub approach: Approach,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").field("approach", &self.approach).finish_non_exhaustive()
    }
}

/// Starts a supervisor on the current tokio runtime. It runs until it is [stopped](Handle::stop), or until it is to
/// [leave](Handle::leave) or every handle to it has been dropped; then workers and door live on for the next one to adopt.
pub fn start(config: Config) -> Handle {
    let pools = config.pools.into_iter().map(|pool| (pool.spec_hash(), Arc::new(pool)));
    let pools: Vec<(Arc<Pool>, String)> = pools.map(|(hash, pool)| (pool, hash)).collect();
    let (door, door_events) = Door::connect(config.doors.sites, config.doors.approach);
    door.connections_are_turns_in(with_connections(pools.iter().map(|(pool, _)| &**pool)));
    let (requests, asked) = mpsc::channel(64);
    let (events, done) = mpsc::unbounded_channel();
    let mut state = State::new(pools.clone(), monotonic());
    for (pool, workers) in config.scales.iter() {
        tracing::info!(%pool, workers, "stays as it has been scaled");
        state.fold(Event::Command(Command::Scale { pool: pool.clone(), workers }), now());
    }
    let chronicle = Chronicle::new(rand::random());
    let supervisor = Supervisor {
        state,
        inbox: Inbox {
            door: door_events,
            sightings: Arc::clone(&config.backend).watch(),
            done,
            asked,
            wake: None,
        },
        hands: Hands {
            backend: Arc::clone(&config.backend),
            door: door.clone(),
            orders: OrderBook::new(config.secret, pools, config.dialling),
            events,
        },
        backend: config.backend.kind(),
        scales: config.scales,
        teller: Teller::new(config.backend.kind()),
        chronicle: chronicle.clone(),
        shown: Shown::default(),
        lately: Lately::default(),
        logged: Floods::default(),
        started: Stamp::now(),
        when_stopped: Vec::new(),
    };
    tokio::spawn(supervisor.run());
    Handle { requests, door, backend: config.backend, chronicle }
}

/// Those in which a turn is a whole connection.
fn with_connections<'a>(pools: impl Iterator<Item = &'a Pool>) -> BTreeSet<PoolName> {
    pools.filter(|pool| pool.door.turn == TurnUnit::Connection).map(|pool| pool.name().clone()).collect()
}

struct Supervisor {
    state: State,
    inbox: Inbox,
    hands: Hands,
    backend: BackendKind,
    scales: Scales,
    /// Knows what has been told of the state.
    teller: Teller,
    /// Whom it is told to.
    chronicle: Chronicle,
    /// What the backend has been told to show.
    shown: Shown,
    /// What the door has measured of late.
    lately: Lately,
    /// How much of what strangers cause the log has been told.
    logged: Floods,
    started: Stamp,
    /// Who waits for everything to have stopped.
    when_stopped: Vec<oneshot::Sender<StopSummary>>,
}

/// Something that wakes the loop up.
enum Input {
    Event(Event),
    Request(Request),
    /// Nobody is left who could ask for anything.
    Abandoned,
}

impl Supervisor {
    async fn run(mut self) {
        self.think();
        while !self.state.has_stopped(monotonic()) {
            match self.inbox.next().await {
                Input::Event(event) => {
                    log(&event, &mut self.logged);
                    self.take(event);
                }
                Input::Request(Request::Leave) | Input::Abandoned => return,
                Input::Request(request) => self.answer(request),
            }
            self.think();
        }
        self.farewell();
    }

    /// Folds an event in, and tells the journal what is new by it.
    fn take(&mut self, event: Event) {
        let now = now();
        let mut news = self.teller.heard(&event, &self.state, now);
        let silence = tell::silence(&event);
        self.state.fold(event, now);
        news.extend(self.teller.compare(&self.state, silence.as_deref(), now));
        self.tell(news);
    }

    fn tell(&self, news: Vec<tell::News>) {
        for tell::News { at, happened } in news {
            self.chronicle.tell(at, happened);
        }
    }

    /// Plans, and begins whatever that says.
    fn think(&mut self) {
        let plan = plan::plan(&self.state, monotonic());
        for action in plan.actions {
            self.state.begin(&action, now());
            self.hands.perform(action);
        }
        for (life, unit, doing) in self.shown.changes(&self.state) {
            self.hands.backend.show(&life, &unit, doing);
        }
        self.inbox.wake = plan.wake;
        let news = self.teller.compare(&self.state, None, now());
        self.tell(news);
    }
}

/// Where events come from.
struct Inbox {
    door: mpsc::Receiver<DoorEvent>,
    sightings: mpsc::Receiver<Sighting>,
    done: mpsc::UnboundedReceiver<Event>,
    asked: mpsc::Receiver<Request>,
    /// When to wake up if nothing happens.
    wake: Option<Instant>,
}

impl Inbox {
    /// Waits for one event. The door comes first: what it tells is what clients wait for.
    async fn next(&mut self) -> Input {
        let wake = self.wake;
        let alarm = async move {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(event) = self.door.recv() => Input::Event(Event::Door(event)),
            Some(sighting) = self.sightings.recv() => Input::Event(Event::Sighted(sighting)),
            Some(event) = self.done.recv() => Input::Event(event),
            request = self.asked.recv() => request.map_or(Input::Abandoned, Input::Request),
            () = alarm => Input::Event(Event::Tick),
        }
    }
}

/// The one place in which the supervisor looks at a clock.
fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The one place in which it looks at the clock on the wall, and rolls dice.
fn now() -> Now {
    Now { at: monotonic(), stamp: Stamp::now(), luck: rand::random() }
}

/// Tells people what they may want to know as it happens.
fn log(event: &Event, logged: &mut Floods) {
    match event {
        Event::Door(DoorEvent::Up(welcome)) => {
            tracing::info!(pid = welcome.pid, workers = welcome.linked.len(), "the door is there");
        }
        Event::Door(DoorEvent::Another(welcome)) => {
            tracing::info!(pid = welcome.pid, workers = welcome.linked.len(), "another door is there");
        }
        Event::Door(DoorEvent::Company(company)) => tracing::debug!(?company, "of the door"),
        Event::Door(DoorEvent::Dark(machines)) if machines.is_empty() => {
            tracing::info!("every machine that has a door answers");
        }
        Event::Door(DoorEvent::Dark(machines)) => {
            tracing::error!(?machines, "nothing answers where doors were: workers there are given up");
        }
        Event::Door(DoorEvent::Lost { linked, why }) => {
            tracing::warn!(
                why,
                workers = linked.len(),
                "one of several doors is away: its workers dial another"
            );
        }
        Event::Door(DoorEvent::Mute { linked }) => {
            tracing::error!(workers = linked.len(), "one of several doors gives no sign of life");
        }
        Event::Door(DoorEvent::Heard { linked }) => {
            tracing::info!(workers = linked.len(), "one of several doors answers again");
        }
        Event::Door(DoorEvent::Down { why }) => tracing::warn!(why, "the door is away"),
        Event::Door(DoorEvent::Silent) => {
            tracing::error!("the door gives no sign of life: nobody is spawned or replaced until it does");
        }
        Event::Door(DoorEvent::Answers) => tracing::info!("the door answers again"),
        Event::Door(DoorEvent::Notice(notice)) => {
            match logged.judge(notice, monotonic()) {
                Telling::LeftOut => return,
                Telling::Told { left_out: 0 } => {}
                Telling::Told { left_out } => {
                    tracing::warn!(left_out, "more like the next line came before it");
                }
            }
            log_notice(notice);
        }
        Event::Sighted(Sighting::Died { life, autopsy }) => {
            tracing::info!(%life, cause = %autopsy.cause, "died");
        }
        Event::Sighted(Sighting::Waiting { life, trouble: Some(trouble) }) => {
            tracing::warn!(%life, trouble, "cannot run yet");
        }
        Event::Sighted(Sighting::Waiting { .. } | Sighting::Started { .. }) => tracing::debug!(?event),
        Event::Sighted(Sighting::Unreachable(error)) => tracing::warn!(%error, "the engine is away"),
        Event::Sighted(Sighting::Reachable) => tracing::info!("the engine is back"),
        Event::Spawned { life, result: Err(error) } => {
            tracing::warn!(%life, error = in_full(error), "no worker");
        }
        Event::Signalled { life, result: Err(error), .. } if !error.is_gone() => {
            tracing::warn!(%life, error = in_full(error), "could not signal");
        }
        Event::Removed { life, result: Err(error) } if !error.is_gone() => {
            tracing::warn!(%life, error = in_full(error), "could not remove");
        }
        Event::Listed { result: Err(error), .. } => tracing::warn!(error = in_full(error), "no listing"),
        Event::Spawned { .. }
        | Event::Signalled { .. }
        | Event::Removed { .. }
        | Event::Listed { .. }
        | Event::Command(_)
        | Event::Tick => tracing::trace!(?event),
    }
}

fn log_notice(notice: &Notice) {
    match notice {
        Notice::Joined { worker, .. } => tracing::info!(%worker, "ready"),
        Notice::Moved { worker, to } => tracing::info!(%worker, to, "goes to another door"),
        Notice::Left { worker, cleanly: true, .. } => tracing::info!(%worker, "left"),
        Notice::Left { worker, held, .. } => tracing::warn!(%worker, held = held.len(), "its link closed"),
        Notice::Overran { worker, held } => {
            tracing::warn!(%worker, request = held.request, "a request has overrun its time");
        }
        Notice::Broke { worker, detail } => tracing::warn!(%worker, detail, "broke the protocol"),
        Notice::Panicked { worker, request, message, .. } => {
            tracing::warn!(%worker, request, message, "a thread panicked");
        }
        Notice::Refused { claimed, detail } => tracing::warn!(?claimed, detail, "turned away at the link"),
        Notice::TrickleEnded { pool } => tracing::info!(%pool, "its trickle has ended"),
        Notice::Stopping => tracing::info!("the door stops"),
        Notice::Welcome { .. }
        | Notice::Retiring { .. }
        | Notice::Settled { .. }
        | Notice::Report { .. }
        | Notice::Pong => {
            tracing::debug!(?notice);
        }
    }
}
