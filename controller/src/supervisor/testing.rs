//! What the supervisor's tests share: a spec, a backend and a door that are only pretended.
//!
//! The backend keeps a table of workers and does as it is told, or fails as it is told. The door is a real Unix
//! socket that speaks the control protocol. A test plays the worker's part itself: it lets it join, and die.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use server::config::{
    App, Clients, DoorPool, Model, Protocol, Queue, Redeliver, RedeliverMethods, Timeouts, TurnUnit,
};
use server::control::{Notice, Order, Report, VERSION};
use server::identity::{Incarnation, Secret};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{Config, Doors, Handle, Scales, start};
use crate::backend::{Backend, BackendError, BackendKind, Doing, Found, Sighting, SpawnOrder, Unit, Vital};
use crate::door::{Approach, Site, only};
use crate::model::{Autopsy, Cause};
use crate::spec::{Cgroup, Limits, Network, Pool, Recycle, Restart, Worker};

/// How long a story waits for anything before it fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// A pool as the defaults have it, with time-outs that a test can wait for.
pub(super) fn pool(name: &str, workers: u32) -> Pool {
    Pool {
        door: DoorPool {
            name: name.parse().expect("a pool name"),
            listen: ([127, 0, 0, 1], 0).into(),
            protocol: Protocol::Http,
            turn: TurnUnit::Request,
            credit: 1,
            timeouts: Timeouts {
                start: Duration::from_secs(5),
                head: Duration::from_secs(10),
                request: Some(Duration::from_secs(30)),
                keep_alive: Duration::from_secs(75),
                drain: Duration::from_secs(5),
            },
            queue: Queue { depth: 1024, wait: Duration::from_secs(10) },
            clients: Clients {
                connections: 10_000,
                head_bytes: 16 << 10,
                buffered_body_bytes: 64 << 10,
                body_bytes: 1 << 30,
            },
            redeliver: Redeliver { attempts: 2, methods: RedeliverMethods::Idempotent },
        },
        workers,
        worker: Worker {
            app: App::Demo,
            model: Model::Prefork,
            limits: Limits { memory_bytes: None, cpus: None, pids: None, open_files: None },
            network: Network::None,
            cgroup: Cgroup::default(),
        },
        recycle: Recycle { requests: None, jitter: 0.0 },
        restart: Restart {
            backoff: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            healthy_after: Duration::from_secs(10),
            deaths: 10,
            within: Duration::from_secs(10),
        },
    }
}

pub(super) fn life(text: &str) -> Incarnation {
    text.parse().expect("the name of a life")
}

pub(super) fn died_of(cause: Cause) -> Autopsy {
    Autopsy { cause, died_at: None, peak_memory_bytes: None, last_output: vec!["last words".to_owned()] }
}

/// The unit that the fake backend makes for this life.
pub(super) fn unit(life: &Incarnation) -> Unit {
    Unit::Container { id: format!("id-of-{life}"), name: life.to_string(), pid: None }
}

/// What the backend was asked to do, in words: `spawn web-0.1`, `signal web-0.1 9`.
pub(super) type Asked = mpsc::UnboundedReceiver<String>;

/// A backend that is only pretended.
#[derive(Debug)]
pub(super) struct FakeBackend {
    inner: Mutex<Inner>,
    asked: mpsc::UnboundedSender<String>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: BTreeMap<Incarnation, (String, Vital)>,
    sightings: Option<mpsc::Sender<Sighting>>,
    receiver: Option<mpsc::Receiver<Sighting>>,
    /// How the next spawns are to end, when not well.
    refusals: VecDeque<BackendError>,
    silent: bool,
    shown: Vec<String>,
}

impl FakeBackend {
    pub(super) fn new() -> (Arc<Self>, Asked) {
        let (asked, seen) = mpsc::unbounded_channel();
        let (sightings, receiver) = mpsc::channel(64);
        let inner = Inner { sightings: Some(sightings), receiver: Some(receiver), ..Inner::default() };
        (Arc::new(Self { inner: Mutex::new(inner), asked }), seen)
    }

    /// A worker of an earlier controller's.
    pub(super) fn with_worker(&self, life: &Incarnation, spec_hash: &str, vital: Vital) {
        self.lock().workers.insert(life.clone(), (spec_hash.to_owned(), vital));
    }

    /// The worker dies and the engine notices.
    pub(super) async fn dies(&self, life: &Incarnation, cause: Cause) {
        let autopsy = died_of(cause);
        let sightings = {
            let mut inner = self.lock();
            if let Some((_, vital)) = inner.workers.get_mut(life) {
                *vital = Vital::Dead(autopsy.clone());
            }
            inner.sightings.clone()
        };
        if let Some(sightings) = sightings {
            let _ = sightings.send(Sighting::Died { life: life.clone(), autopsy }).await;
        }
    }

    /// The worker vanishes and nobody notices.
    pub(super) fn loses(&self, life: &Incarnation) {
        self.lock().workers.remove(life);
    }

    pub(super) async fn says(&self, sighting: Sighting) {
        let sightings = self.lock().sightings.clone();
        if let Some(sightings) = sightings {
            let _ = sightings.send(sighting).await;
        }
    }

    pub(super) fn refuses_next_spawn(&self) {
        let refusal = BackendError::Refused {
            operation: "start",
            subject: "a worker".to_owned(),
            source: "network \"lan\" not found".into(),
        };
        self.lock().refusals.push_back(refusal);
    }

    pub(super) fn is_silent(&self, silent: bool) {
        self.lock().silent = silent;
    }

    pub(super) fn population(&self) -> Vec<String> {
        self.lock().workers.keys().map(ToString::to_string).collect()
    }

    /// What it has been told to show, in order.
    pub(super) fn shown(&self) -> Vec<String> {
        self.lock().shown.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: String) -> Result<(), BackendError> {
        let _ = self.asked.send(what);
        if self.lock().silent {
            return Err(BackendError::Unreachable {
                engine: "the fake engine".to_owned(),
                operation: "anything",
                source: "it is silent".into(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for FakeBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    async fn spawn(&self, order: &SpawnOrder) -> Result<Unit, BackendError> {
        self.note(format!("spawn {}", order.life))?;
        let mut inner = self.lock();
        if let Some(refusal) = inner.refusals.pop_front() {
            return Err(refusal);
        }
        let vital = Vital::Alive { since: SystemTime::now() };
        inner.workers.insert(order.life.clone(), (order.spec_hash.clone(), vital));
        Ok(unit(&order.life))
    }

    async fn signal(&self, life: &Incarnation, _: &Unit, signal: i32) -> Result<(), BackendError> {
        self.note(format!("signal {life} {signal}"))?;
        let alive = matches!(self.lock().workers.get(life), Some((_, Vital::Alive { .. })));
        if !alive {
            return Err(BackendError::Gone { subject: life.to_string() });
        }
        if signal == 9 {
            self.dies(life, Cause::Signal(9)).await;
        }
        Ok(())
    }

    async fn remove(&self, life: &Incarnation, _: &Unit) -> Result<(), BackendError> {
        self.note(format!("remove {life}"))?;
        match self.lock().workers.remove(life) {
            Some(_) => Ok(()),
            None => Err(BackendError::Gone { subject: life.to_string() }),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, BackendError> {
        self.note("list".to_owned())?;
        let inner = self.lock();
        let found = inner.workers.iter().map(|(life, (spec_hash, vital))| Found {
            life: life.clone(),
            unit: unit(life),
            spec_hash: spec_hash.clone(),
            vital: vital.clone(),
        });
        Ok(found.collect())
    }

    async fn logs(&self, life: &Incarnation, _: &Unit, lines: usize) -> Result<Vec<String>, BackendError> {
        self.note(format!("logs {life} {lines}"))?;
        Ok(vec![format!("{life} says hello")])
    }

    fn show(&self, life: &Incarnation, _: &Unit, doing: Doing) {
        self.lock().shown.push(format!("{life} {}", doing.name()));
    }

    fn watch(self: Arc<Self>) -> mpsc::Receiver<Sighting> {
        self.lock().receiver.take().expect("watched once")
    }
}

/// The door's end of the control socket, in a test's hands.
pub(super) struct FakeDoor {
    listener: UnixListener,
    conversation: Option<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf)>,
    /// What it answers when it is asked for a report.
    pub(super) report: Report,
    /// Keeps the socket's directory.
    directory: tempfile::TempDir,
}

impl FakeDoor {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("door.sock")).expect("a socket");
        Self { listener, conversation: None, report: Report::default(), directory }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("door.sock")
    }

    /// Takes the controller's call and welcomes it.
    pub(super) async fn welcome(&mut self, linked: &[&str], seen: &[&str]) {
        self.welcome_as(VERSION, linked, seen).await;
    }

    pub(super) async fn welcome_as(&mut self, version: u32, linked: &[&str], seen: &[&str]) {
        let (stream, _): (UnixStream, _) =
            in_time("a call", self.listener.accept()).await.expect("a connection");
        let (read, write) = stream.into_split();
        self.conversation = Some((BufReader::new(read).lines(), write));
        assert!(matches!(self.order().await, Order::Hello { version: VERSION, .. }));
        self.say(Notice::Welcome {
            tunnel: None,
            version,
            pid: 4711,
            pools: BTreeMap::new(),
            linked: linked.iter().map(|text| life(text)).collect(),
            seen: seen.iter().map(|text| life(text)).collect(),
        })
        .await;
    }

    pub(super) async fn say(&mut self, notice: Notice) {
        self.say_words(&serde_json::to_string(&notice).expect("words")).await;
    }

    pub(super) async fn say_words(&mut self, words: &str) {
        let (_, write) = self.conversation.as_mut().expect("a conversation");
        write.write_all(format!("{words}\n").as_bytes()).await.expect("a controller that listens");
    }

    /// The next order that is neither a question nor about somebody who is dead. Burials come or not: a death reaches the
    /// supervisor over two ways, and who is first is anybody's guess.
    pub(super) async fn order(&mut self) -> Order {
        loop {
            match self.any_order().await {
                Order::Bury { .. } | Order::Over { .. } => {}
                order => return order,
            }
        }
    }

    /// The next order that is not a question.
    pub(super) async fn any_order(&mut self) -> Order {
        loop {
            let (lines, _) = self.conversation.as_mut().expect("a conversation");
            let line = in_time("an order", lines.next_line()).await.expect("a line").expect("an order");
            match serde_json::from_str(&line).expect("an order") {
                Order::Report { query, .. } => {
                    self.say(Notice::Report { query, report: self.report.clone() }).await;
                }
                Order::Ping => self.say(Notice::Pong).await,
                order => return order,
            }
        }
    }

    /// Answers questions for as long as `work` takes.
    pub(super) async fn while_answering<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            order = async { self.order().await } => panic!("an order came up: {order:?}"),
            done = in_time("an answer", work) => done,
        }
    }

    pub(super) fn hang_up(&mut self) {
        self.conversation = None;
    }
}

/// A supervisor between a fake backend and a fake door.
pub(super) fn supervise(backend: &Arc<FakeBackend>, door: &FakeDoor, pools: Vec<Pool>) -> Handle {
    start(Config {
        scales: Scales::left_at(door.directory.path().join("scale.json"), &pools),
        pools,
        dialling: None,
        secret: Secret::new([7; 32]),
        doors: Doors {
            sites: only(Site::here(door.socket())).boxed(),
            approach: Approach::plain(Secret::new([7; 32])),
        },
        backend: Arc::clone(backend) as Arc<dyn Backend>,
    })
}

/// Waits for `work`, but not for ever.
pub(super) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_elapsed) => panic!("waited {}s in vain for {what}", DEADLINE.as_secs()),
    }
}

/// Waits until the backend has been asked for exactly that, whatever else it is asked for meanwhile.
pub(super) async fn until(asked: &mut Asked, what: &str) {
    let mut heard = Vec::new();
    let wait = async {
        while let Some(this) = asked.recv().await {
            if this == what {
                return;
            }
            heard.push(this);
        }
    };
    if tokio::time::timeout(DEADLINE, wait).await.is_err() {
        panic!("waited in vain for {what:?}; heard {heard:?}");
    }
}

/// Waits until the backend has been asked for all of these, in whichever order.
pub(super) async fn until_all(asked: &mut Asked, what: &[&str]) {
    let mut missing: Vec<&str> = what.to_vec();
    let wait = async {
        while !missing.is_empty() {
            let Some(this) = asked.recv().await else { return };
            missing.retain(|missing| *missing != this);
        }
    };
    if tokio::time::timeout(DEADLINE, wait).await.is_err() {
        panic!("waited in vain for {missing:?}");
    }
}
