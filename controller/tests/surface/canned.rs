//! A master that has canned answers, remembers its orders, and is served on a port of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use controller::api::views::{
    CauseKind, CauseView, HeldView, HoldingView, IncidentView, PhaseView, PoolView, StepsView, WorkerView,
};
use controller::api::{CommandError, Master, serve};
use controller::backend::BackendError;
use server::control::Counters;
use server::identity::{Incarnation, PoolName, WorkerId};
use tokio::net::TcpListener;

/// The canned master.
#[derive(Debug)]
pub(crate) struct Canned {
    /// What it was told, in words.
    orders: Mutex<Vec<String>>,
    /// How many workers `web` is to have.
    web: Mutex<u32>,
    ready: bool,
}

/// It, behind a real API. Stops with the test's runtime.
#[derive(Debug)]
pub(crate) struct Surface {
    pub(crate) address: SocketAddr,
    master: Arc<Canned>,
}

impl Surface {
    pub(crate) async fn open() -> Self {
        Self::of(Canned { orders: Mutex::default(), web: Mutex::new(4), ready: true }).await
    }

    pub(crate) async fn open_before_anybody_is_ready() -> Self {
        Self::of(Canned { orders: Mutex::default(), web: Mutex::new(0), ready: false }).await
    }

    async fn of(master: Canned) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, master) = (listener.local_addr().unwrap(), Arc::new(master));
        tokio::spawn(serve(listener, Arc::clone(&master) as Arc<dyn Master>, std::future::pending()));
        Self { address, master }
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
        if workers > 1024 {
            return Err(CommandError::TooManyWorkers { workers, most: 1024 });
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
    }
}
