//! A controller that streams events and breaks connections when it is told to.
//!
//! It remembers all of its journal, or only the end of it, and goes on after the event that a reader names, as the
//! real one does. It notes how it was asked, so that a test can tell a reader that resumes from one that begins anew.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// The controller, on a port of its own. Stops with the test's runtime.
#[derive(Debug, Clone)]
pub(crate) struct FakeStream {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// What happened, each with its id.
    journal: watch::Sender<Vec<Value>>,
    /// How each of the next connections ends.
    ends: Mutex<VecDeque<End>>,
    /// How it was asked for events: the query and `Last-Event-ID`.
    asked: Mutex<Vec<String>>,
    /// Which orders it was given.
    orders: watch::Sender<Vec<String>>,
    token: Option<String>,
}

/// How a connection ends, and after how many events.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// In the middle of an event.
    Broken(usize),
    /// In good order.
    Ended(usize),
    /// As too slow a reader.
    Dropped(usize),
}

impl FakeStream {
    pub(crate) async fn open() -> Self {
        Self::with_token(None).await
    }

    /// One that wants this token.
    pub(crate) async fn with_token(token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Arc::new(Inner {
            journal: watch::Sender::new(Vec::new()),
            ends: Mutex::default(),
            asked: Mutex::default(),
            orders: watch::Sender::new(Vec::new()),
            token: token.map(str::to_owned),
        });
        let fake = Self { address: listener.local_addr().unwrap(), inner };
        let routes = Router::new()
            .route("/api/v1/events", get(events))
            .route("/api/v1/workers/{id}/kill", post(kill))
            .with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        fake
    }

    pub(crate) fn api(&self) -> String {
        self.address.to_string()
    }

    /// Something happens: the next event has the next number.
    pub(crate) fn happens(&self, mut what: Value) {
        self.inner.journal.send_modify(|journal| {
            what["id"] = format!("k3f9x2-{}", journal.len() + 1).into();
            what["at"] = "2026-01-02T03:04:05.678901Z".into();
            journal.push(what);
        });
    }

    /// Worker `web-0` becomes ready, in one life after the other.
    pub(crate) fn lives(&self, generations: std::ops::RangeInclusive<u64>) {
        for generation in generations {
            self.happens(
                json!({"kind": "worker", "worker": "web-0", "pool": "web", "generation": generation,
                                "what": "ready", "detail": null}),
            );
        }
    }

    /// The next connections end like this; those after them do not end.
    pub(crate) fn ends(&self, ends: impl IntoIterator<Item = End>) {
        self.inner.ends.lock().unwrap().extend(ends);
    }

    /// How it was asked for events since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.asked.lock().unwrap())
    }

    /// Waits for an order.
    pub(crate) async fn order(&self) -> String {
        let mut orders = self.inner.orders.subscribe();
        let orders = orders.wait_for(|orders| !orders.is_empty()).await.unwrap();
        orders.join(", ")
    }

    fn refuses(&self, headers: &HeaderMap) -> Option<Response> {
        let wanted = format!("Bearer {}", self.inner.token.as_ref()?);
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let problem = |detail: &str| {
            let body =
                json!({"type": "urn:bulkhead:token", "title": "Token", "status": 401, "detail": detail});
            let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
            (StatusCode::UNAUTHORIZED, media_type, body.to_string()).into_response()
        };
        match given {
            Some(given) if given == wanted => None,
            Some(_) => Some(problem("this token is not known")),
            None => Some(problem("a token is needed")),
        }
    }
}

async fn kill(State(fake): State<FakeStream>, Path(worker): Path<String>, body: String) -> Response {
    let order: Value = serde_json::from_str(&body).unwrap();
    let signal = order["signal"].as_str().unwrap().to_owned();
    fake.inner.orders.send_modify(|orders| orders.push(format!("{signal} to {worker}")));
    (StatusCode::ACCEPTED, axum::Json(json!({"worker": worker, "signal": signal}))).into_response()
}

async fn events(State(fake): State<FakeStream>, request: Request) -> Response {
    if let Some(refusal) = fake.refuses(request.headers()) {
        return refusal;
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let note = last.map_or_else(|| format!("?{query}"), |last| format!("?{query} after {last}"));
    fake.inner.asked.lock().unwrap().push(note);
    let after = |pair: &str| pair.strip_prefix("after=").map(str::to_owned);
    let after = last.map(str::to_owned).or_else(|| query.split('&').find_map(after));
    let follow = !query.contains("follow=false");
    let end = fake.inner.ends.lock().unwrap().pop_front();

    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        // Nobody reads any more: that is how it ends.
        let _ = stream(&fake, after.as_deref(), follow, end, &tell).await;
    });
    let pieces = futures_util::stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

/// One piece of the body; an error breaks the connection.
type Piece = Result<String, std::io::Error>;

async fn stream(
    fake: &FakeStream,
    after: Option<&str>,
    follow: bool,
    end: Option<End>,
    tell: &mpsc::Sender<Piece>,
) -> Result<(), mpsc::error::SendError<Piece>> {
    tell.send(Ok(format!(": hello\n\nevent: state\ndata: {}\n\n", state()))).await?;
    let mut journal = fake.inner.journal.subscribe();
    let number = |id: &str| id.strip_prefix("k3f9x2-").and_then(|number| number.parse::<usize>().ok());
    let mut read = match after {
        None | Some("0") => 0,
        Some(id) => match number(id) {
            Some(number) => number,
            None => {
                let gap = json!({"asked": id, "oldest": "k3f9x2-1", "why": "another controller"});
                tell.send(Ok(format!("event: gap\ndata: {gap}\n\n"))).await?;
                0
            }
        },
    };
    let mut sent = 0;
    loop {
        match end {
            Some(End::Broken(events)) if sent == events => {
                tell.send(Ok("id: k3f9x2-9".to_owned())).await?;
                return tell.send(Err(std::io::Error::other("as ordered"))).await;
            }
            Some(End::Ended(events)) if sent == events => return Ok(()),
            Some(End::Dropped(events)) if sent == events => {
                let dropped = json!({"why": "this reader is too slow: 64 events behind"});
                return tell.send(Ok(format!("event: dropped\ndata: {dropped}\n\n"))).await;
            }
            _ => {}
        }
        let next = journal.borrow_and_update().get(read).cloned();
        match next {
            Some(event) => {
                let (id, kind) = (event["id"].as_str().unwrap(), event["kind"].as_str().unwrap());
                tell.send(Ok(format!("id: {id}\nevent: {kind}\ndata: {event}\n\n"))).await?;
                (read, sent) = (read + 1, sent + 1);
            }
            None if !follow => return Ok(()),
            None => {
                tokio::select! {
                    changed = journal.changed() => changed.unwrap(),
                    () = tell.closed() => return Ok(()),
                }
            }
        }
    }
}

fn state() -> Value {
    let worker = json!({
        "id": "web-0", "pool": "web", "backend": "process", "phase": "busy", "generation": 1, "pid": 4711,
        "container": null, "pod": null, "node": null, "started_at": "2026-01-02T00:00:00Z", "turns": 1200,
        "holding": [{"request": "GET /work?ms=300", "for_ms": 12.4}],
    });
    json!({
        "at": "2026-01-02T03:04:05.678901Z",
        "controller": {"version": "0.1.0", "backend": "process", "started_at": "2026-01-02T00:00:00Z"},
        "door": {"up": true, "pid": 123}, "engine": "answers", "pools": [], "workers": [worker],
        "turns": [], "turns_omitted": 0, "trickles": [], "incidents": {"total": 0, "kept": 0},
    })
}
