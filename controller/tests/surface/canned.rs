//! A master that has canned answers, remembers its orders, and is served on a port of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use controller::api::metrics::{Deaths, HeldOutcome, Measured, PoolMeasured};
use controller::api::stream_views::{
    ControllerView, DoorView, EngineView, Happened, Headline, IncidentCounts, PartChange, PoolFrame,
    Quantiles, StateFrame, TrickleView, TurnEnd, TurnView,
};
use controller::api::views::{
    CauseKind, CauseView, HeldView, HoldingView, IncidentView, MemoryView, PhaseView, PoolView, StepsView,
    WorkerView,
};
use controller::api::{Access, Admission, CommandError, Master, Token, serve, serve_metrics};
use controller::backend::{BackendError, BackendKind};
use controller::door::Turns;
use controller::journal::Chronicle;
use controller::supervisor::Handle;
use server::control::{Counters, Stamp};
use server::identity::{Incarnation, PoolName, WorkerId};
use server::observation::Histogram;
use tokio::net::TcpListener;

/// The canned master.
#[derive(Debug)]
pub(crate) struct Canned {
    /// What it was told, in words.
    orders: Mutex<Vec<String>>,
    /// How many workers `web` is to have.
    web: Mutex<u32>,
    ready: bool,
    chronicle: Chronicle,
    /// How often it was asked for the state.
    frames: AtomicU64,
    /// How many bytes each state says beyond what it would.
    ballast: usize,
}

/// It, behind a real API. Stops with the test's runtime.
#[derive(Debug)]
pub(crate) struct Surface {
    pub(crate) address: SocketAddr,
    master: Arc<Canned>,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Surface {
    pub(crate) async fn open() -> Self {
        Self::of(Canned::new(4, true), Access::Open).await
    }

    pub(crate) async fn open_before_anybody_is_ready() -> Self {
        Self::of(Canned::new(0, false), Access::Open).await
    }

    /// With the tokens `operators-token` and `viewers-token`.
    pub(crate) async fn open_with_tokens() -> Self {
        let tokens = Access::Tokens {
            operator: Token::new("operators-token"),
            viewer: Some(Token::new("viewers-token")),
        };
        Self::of(Canned::new(4, true), tokens).await
    }

    /// Whose states are so long that nobody's buffers hold many of them.
    pub(crate) async fn open_with_long_states() -> Self {
        Self::of(Canned { ballast: 512 << 10, ..Canned::new(4, true) }, Access::Open).await
    }

    async fn of(master: Canned, access: Access) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, master) = (listener.local_addr().unwrap(), Arc::new(master));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let admission = Admission { access, host_name: None };
        let served =
            tokio::spawn(serve(listener, Arc::clone(&master) as Arc<dyn Master>, admission, stopped));
        Self { address, master, stop, served }
    }

    /// The address at which its figures alone are served, as long as this is there.
    pub(crate) async fn figures_alone(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let master = Arc::clone(&self.master) as Arc<dyn Master>;
        tokio::spawn(serve_metrics(listener, master, std::future::pending()));
        address
    }

    /// Tells the journal that this happened, in so many words.
    pub(crate) fn tell(&self, detail: &str) {
        let happened = Happened::Door { what: PartChange::Up, detail: Some(detail.to_owned()) };
        self.master.chronicle.tell(Stamp::now(), happened);
    }

    /// How often the master was asked for the state.
    pub(crate) fn frames(&self) -> u64 {
        self.master.frames.load(Ordering::Relaxed)
    }

    /// Stops serving, and waits until all answers have ended.
    pub(crate) async fn close(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(5), self.served)
            .await
            .expect("the API still serves after 5 s")
            .unwrap()
            .unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the master was told since the last time.
    pub(crate) fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.master.orders.lock().unwrap())
    }
}

/// A moment so long ago that a test that takes a minute still reads the same.
pub(crate) fn long_ago() -> String {
    (jiff::Timestamp::now() - Duration::from_secs(3 * 3600 + 1800)).to_string()
}

impl Canned {
    fn new(web: u32, ready: bool) -> Self {
        Self {
            orders: Mutex::default(),
            web: Mutex::new(web),
            ready,
            chronicle: Chronicle::new(17),
            frames: AtomicU64::new(0),
            ballast: 0,
        }
    }

    /// `web` speaks http and `echo` does not.
    fn http_pool(&self, pool: &PoolName) -> Result<(), CommandError> {
        match pool.as_str() {
            "web" => Ok(()),
            "echo" => Err(CommandError::NotHttp(pool.clone())),
            _ => Err(CommandError::UnknownPool { pool: pool.clone(), known: "web, echo".to_owned() }),
        }
    }

    fn order(&self, order: String) {
        self.orders.lock().unwrap().push(order);
    }

    /// `web-0` is busy, `web-1` starts, `web-2` is dead; the engine does not obey for `web-3`.
    fn known(&self, worker: &WorkerId) -> Result<(), CommandError> {
        match worker.to_string().as_str() {
            "web-2" => Err(CommandError::NotRunning(worker.clone())),
            "web-3" => Err(CommandError::Backend {
                operation: "signal",
                worker: worker.clone(),
                source: BackendError::Refused {
                    operation: "kill",
                    subject: "web-3.1".to_owned(),
                    source: "the engine is on fire".into(),
                },
            }),
            "echo-0" => Err(CommandError::Silence { operation: "signal", worker: worker.clone() }),
            "echo-1" => Err(CommandError::Stopping),
            name if name.starts_with("web-") && worker.place < *self.web.lock().unwrap() => Ok(()),
            _ => Err(CommandError::UnknownWorker(worker.clone())),
        }
    }
}

#[async_trait]
impl Master for Canned {
    async fn workers(&self) -> Result<Vec<WorkerView>, CommandError> {
        let web = *self.web.lock().unwrap();
        let mut workers: Vec<_> = (0..web).map(|place| worker("web", place)).collect();
        if web == 4 {
            let holding = |request: &str, for_ms| HoldingView { request: request.to_owned(), for_ms };
            workers[0].phase = PhaseView::Busy;
            workers[0].holding = vec![holding("GET /work?ms=20", 12.4)];
            workers[1].phase = PhaseView::Starting;
            workers[1].started_at = None;
            workers[1].pid = None;
            workers[1].pod = Some("bulkhead-web-1-1".to_owned());
            workers[1].node = Some("node2".to_owned());
            workers[1].trouble = Some("the image cannot be had: \u{1b}[31mErrImagePull".to_owned());
            workers[2].phase = PhaseView::Dead;
            workers[2].pid = None;
            workers[3].phase = PhaseView::Draining;
            workers[3].container = Some("bulkhead-web-3.7".to_owned());
            workers[3].generation = 7;
            workers[3].holding = vec![holding("GET /\u{1b}]0;owned\u{7}", 61_000.0), holding("GET /b", 3.0)];
        }
        workers.push(worker("echo", 0));
        Ok(workers)
    }

    async fn pools(&self) -> Result<Vec<PoolView>, CommandError> {
        let web = *self.web.lock().unwrap();
        let pool = |name: &str, listen: &str, protocol: &str, turn: &str, app: &str, wanted| PoolView {
            name: name.into(),
            listen: listen.into(),
            protocol: protocol.into(),
            turn: turn.into(),
            app: app.into(),
            model: "prefork".into(),
            backend: "process".into(),
            wanted,
            ready: wanted.min(1),
            busy: wanted.min(1),
            degraded: name == "echo",
            trouble: None,
            queued: 2,
            connections: 10_000,
            counters: Counters::default(),
        };
        Ok(vec![
            pool("web", "127.0.0.1:8080", "http", "request", "demo", web),
            pool("echo", "127.0.0.1:12345", "tcp", "connection", "echo", 1),
        ])
    }

    async fn incidents(&self) -> Result<Vec<IncidentView>, CommandError> {
        Ok(vec![redelivered(), out_of_memory()])
    }

    async fn incident(&self, life: Incarnation) -> Result<Option<IncidentView>, CommandError> {
        Ok(self.incidents().await?.into_iter().find(|incident| incident.id == life.to_string()))
    }

    async fn kill(&self, worker: &WorkerId, signal: i32) -> Result<(), CommandError> {
        self.known(worker)?;
        self.order(format!("kill {worker} with {signal}"));
        Ok(())
    }

    async fn drain(&self, worker: &WorkerId) -> Result<(), CommandError> {
        self.known(worker)?;
        self.order(format!("drain {worker}"));
        Ok(())
    }

    async fn scale(&self, pool: &PoolName, workers: u32) -> Result<(), CommandError> {
        if pool.as_str() != "web" {
            return Err(CommandError::UnknownPool { pool: pool.clone(), known: "web, echo".to_owned() });
        }
        if workers > Handle::MOST_WORKERS {
            return Err(CommandError::TooManyWorkers { workers, most: Handle::MOST_WORKERS });
        }
        *self.web.lock().unwrap() = workers;
        self.order(format!("scale {pool} to {workers}"));
        Ok(())
    }

    async fn logs(&self, worker: &WorkerId, lines: usize) -> Result<Vec<String>, CommandError> {
        self.known(worker)?;
        let all = ["listening", "a request", "thread 'main' panicked"];
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect())
    }

    async fn is_ready(&self) -> Result<bool, CommandError> {
        Ok(self.ready)
    }

    async fn frame(&self, turns: Turns) -> Result<StateFrame, CommandError> {
        let number = self.frames.fetch_add(1, Ordering::Relaxed);
        let turn = TurnView {
            turn: number,
            pool: "web".to_owned(),
            worker: "web-0".to_owned(),
            generation: 1,
            request: "GET /".to_owned(),
            began: long_ago(),
            took_ms: 1.5,
            delivery: 1,
            end: TurnEnd::Done,
        };
        let pools = self.pools().await?.into_iter().map(|pool| PoolFrame {
            pool,
            longest_wait_ms: 0.0,
            turn_ms: Quantiles { p50: Some(1.2), p99: Some(20.1) },
            wait_ms: Quantiles::default(),
            headline: Headline::default(),
        });
        Ok(StateFrame {
            at: long_ago(),
            controller: ControllerView {
                version: "0.1.0".to_owned() + &" ".repeat(self.ballast),
                backend: "process".to_owned(),
                started_at: long_ago(),
            },
            door: DoorView { up: true, pid: Some(123) },
            engine: EngineView::Answers,
            pools: pools.collect(),
            workers: self.workers().await?,
            turns: if turns == Turns::Take { vec![turn] } else { Vec::new() },
            turns_omitted: 0,
            trickles: self.trickles().await?,
            incidents: IncidentCounts { total: 17, kept: 2 },
        })
    }

    async fn metrics(&self) -> Result<Measured, CommandError> {
        let histogram = |millis: &[u64]| {
            let mut histogram = Histogram::default();
            millis.iter().for_each(|it| histogram.observe(Duration::from_millis(*it)));
            histogram
        };
        let pools = self.pools().await?.into_iter().map(|mut pool| {
            pool.counters.answered.insert(503, 3);
            PoolMeasured {
                pool,
                phases: BTreeMap::from([(PhaseView::Idle, 3), (PhaseView::Dead, 1)]),
                longest_wait: 0.25,
                turn_time: histogram(&[1, 20, 90_000]),
                queue_wait: histogram(&[0, 0, 3]),
                deaths: Deaths {
                    causes: BTreeMap::from([(CauseKind::Signal, 7)]),
                    outcomes: BTreeMap::from([(HeldOutcome::Redelivered, 5)]),
                    detection: histogram(&[1]),
                    recovery: histogram(&[5, 231]),
                },
            }
        });
        Ok(Measured {
            version: "0.1.0".to_owned(),
            backend: "process".to_owned(),
            started_at: 1_700_000_000.5,
            door_up: true,
            engine_up: false,
            events: 17,
            pools: pools.collect(),
        })
    }

    fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    fn backend(&self) -> BackendKind {
        BackendKind::Process
    }

    async fn request(&self, pool: &PoolName, method: &str, path: &str) -> Result<(), CommandError> {
        self.http_pool(pool)?;
        if !path.starts_with('/') {
            return Err(CommandError::BadPath(path.to_owned()));
        }
        if method != "GET" && method != "POST" {
            return Err(CommandError::BadMethod { method: method.to_owned() });
        }
        self.order(format!("{method} {path} of {pool}"));
        Ok(())
    }

    async fn trickles(&self) -> Result<Vec<TrickleView>, CommandError> {
        Ok(vec![TrickleView {
            pool: "web".to_owned(),
            path: "/work?ms=300".to_owned(),
            per_second: 4.0,
            until: long_ago(),
            sent: 12,
            answered: 10,
            failed: 0,
            in_flight: 2,
        }])
    }

    async fn trickle(&self, pool: &PoolName, path: &str, per_second: f64) -> Result<(), CommandError> {
        self.http_pool(pool)?;
        if !(0.1..=50.0).contains(&per_second) {
            return Err(CommandError::BadRate { per_second });
        }
        self.order(format!("{per_second} a second of {path} of {pool}"));
        Ok(())
    }

    async fn end_trickle(&self, pool: &PoolName) -> Result<(), CommandError> {
        self.http_pool(pool)?;
        self.order(format!("no more of {pool}"));
        Ok(())
    }
}

fn worker(pool: &str, place: u32) -> WorkerView {
    WorkerView {
        id: format!("{pool}-{place}"),
        pool: pool.to_owned(),
        backend: "process".to_owned(),
        phase: PhaseView::Idle,
        generation: 1,
        pid: Some(4711 + place),
        container: None,
        pod: None,
        node: None,
        started_at: Some(long_ago()),
        turns: 1200,
        holding: Vec::new(),
        trouble: None,
    }
}

fn redelivered() -> IncidentView {
    let held = |request: &str, outcome: &str| HeldView {
        request: request.to_owned(),
        outcome: outcome.to_owned(),
        to: None,
        status: None,
        why: None,
        added_ms: None,
    };
    IncidentView {
        id: "web-3.6".to_owned(),
        pool: "web".to_owned(),
        worker: "web-3".to_owned(),
        at: long_ago(),
        cause: CauseView { kind: CauseKind::Signal, detail: "SIGKILL".to_owned() },
        held: vec![
            HeldView {
                to: Some("web-1".to_owned()),
                added_ms: Some(3.21),
                ..held("GET /work?ms=20", "redelivered")
            },
            HeldView {
                status: Some(502),
                why: Some("POST may not run twice".to_owned()),
                ..held("POST /body", "answered")
            },
            HeldView { why: Some("its answer had begun".to_owned()), ..held("GET /stream", "closed") },
        ],
        steps_ms: StepsView {
            detected: Some(0.4),
            redelivered: Some(1.1),
            spawned: Some(2.0),
            ready: Some(231.0),
        },
        siblings: 3,
        last_output: vec!["listening".to_owned(), "\u{1b}[31mred\u{1b}[0m".to_owned()],
        memory: None,
        siblings_failed: Some(0),
        reproduce: Some("kill -9 4714".to_owned()),
        backend: "process".to_owned(),
        unit: Some("pid 4714".to_owned()),
        trouble: None,
        complete: true,
    }
}

fn out_of_memory() -> IncidentView {
    IncidentView {
        id: "web-0.1".to_owned(),
        pool: "web".to_owned(),
        worker: "web-0".to_owned(),
        at: long_ago(),
        cause: CauseView { kind: CauseKind::Oom, detail: "64 MiB".to_owned() },
        held: Vec::new(),
        steps_ms: StepsView::default(),
        siblings: 1,
        last_output: Vec::new(),
        memory: Some(MemoryView { limit_bytes: Some(64 << 20), peak_bytes: None }),
        siblings_failed: None,
        reproduce: None,
        backend: "process".to_owned(),
        unit: Some("pid 4711".to_owned()),
        trouble: Some("Unschedulable: no node has as much".to_owned()),
        complete: false,
    }
}
