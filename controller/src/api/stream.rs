//! What happens, as it happens: `GET /api/v1/events`, server-sent events for dashboards and terminals.
//!
//! Two streams are woven into one. The state, five times a second: while anybody listens, one sampler asks the
//! master, puts the answer into words once, and hands the same bytes to everybody. And the journal: what happened,
//! with an id, so that a reader whose connection broke can say where it was and miss nothing; or be told, by `gap`,
//! that it has. Who does not say where it was is told where it is, by an `id` without data, before anything has happened.
//!
//! Nobody waits for a reader. One that takes frames more slowly than they come has [`BACKLOG`] of them kept for it;
//! beyond that it is told `dropped`, and its stream ends; but not for frames that it could not have read while it was
//! sent what it had missed. One that takes nothing at all is cut off by the connection
//! (see [`patience`](super::patience)). There is room for [`MOST_LISTENERS`]; the next one is refused with `503`.
//!
//! When the last listener goes, so does the sampler: the door is asked nothing that nobody looks at.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::master::Master;
use super::problem::Problem;
use super::sse;
use super::stream_views::{Dropped, StateFrame};
use crate::door::Turns;
use crate::journal::{After, Chronicle, Entry, EventId, Reader, Replay};

/// How many may listen at a time.
pub(super) const MOST_LISTENERS: usize = 64;
/// How often the state is told: five times a second looks alive and is little to ask of the door.
const FRAME_EVERY: Duration = Duration::from_millis(200);
/// How many frames are kept for a listener that does not keep up: two seconds' worth.
const BACKLOG: usize = 10;
/// The longest that nothing at all is sent.
const QUIET: Duration = Duration::from_secs(15);
/// The header by which a browser says where it was.
const LAST_EVENT_ID: &str = "last-event-id";

/// The stream, and who listens to it.
pub(super) struct Feed {
    master: Arc<dyn Master>,
    frames: broadcast::Sender<Bytes>,
    audience: Mutex<Audience>,
    /// When it is cancelled, all streams end.
    end: CancellationToken,
}

#[derive(Default)]
struct Audience {
    listeners: usize,
    /// There as long as somebody listens.
    sampler: Option<AbortHandle>,
}

impl Feed {
    /// Nobody listens yet. All streams end when `end` is cancelled.
    pub(super) fn new(master: Arc<dyn Master>, end: CancellationToken) -> Arc<Self> {
        let (frames, _) = broadcast::channel(BACKLOG);
        Arc::new(Self { master, frames, audience: Mutex::default(), end })
    }

    /// Takes a seat, if there is one left. Whoever is first starts the sampler.
    fn seat(self: &Arc<Self>) -> Option<(Seat, broadcast::Receiver<Bytes>)> {
        let mut audience = self.audience();
        if audience.listeners >= MOST_LISTENERS {
            return None;
        }
        audience.listeners += 1;
        // Before the sampler starts, so that its first frame is not missed.
        let frames = self.frames.subscribe();
        audience.sampler.get_or_insert_with(|| {
            tokio::spawn(sample(Arc::clone(&self.master), self.frames.clone())).abort_handle()
        });
        drop(audience);
        Some((Seat(Arc::clone(self)), frames))
    }

    fn audience(&self) -> MutexGuard<'_, Audience> {
        // Two numbers that cannot be left half changed.
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener's place. Given up when it is dropped, which is when its connection ends, however that ends.
struct Seat(Arc<Feed>);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut audience = self.0.audience();
        audience.listeners -= 1;
        if audience.listeners == 0
            && let Some(sampler) = audience.sampler.take()
        {
            sampler.abort();
        }
    }
}

/// Asks for the state, puts it into words once, and hands them to everybody.
async fn sample(master: Arc<dyn Master>, frames: broadcast::Sender<Bytes>) {
    let mut ticks = tokio::time::interval(FRAME_EVERY);
    // A door that answers late is not asked the more often for it.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // It fails only when the master has stopped; then the streams are about to end as well.
        let Ok(frame) = master.frame(Turns::Take).await else { return };
        let _nobody_left = frames.send(sse::event(None, "state", &frame));
    }
}

/// What may follow `/events?`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// The id of the event after which to begin; `0`: everything that is remembered.
    after: Option<String>,
    /// `false`: what is remembered, then the end.
    #[serde(default = "EventsQuery::usually_follows")]
    follow: bool,
}

impl EventsQuery {
    fn usually_follows() -> bool {
        true
    }
}

/// Tells what happens, as server-sent events.
///
/// `state` (a StateFrame, five times a second, without an id), the events of the journal (a JournalEvent each, named by
/// its kind), `gap` (a Gap) when a resume cannot be complete, and `dropped` (Dropped) before a reader that is too slow is
/// cut off.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    tag = "watching",
    params(EventsQuery, ("last-event-id" = Option<String>, Header, description = "Instead of `after`: what a browser sends when it connects again")),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn events(
    State(feed): State<Arc<Feed>>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| {
        let detail = format!("{}: use ?after=ID, or ?after=0, and ?follow=false", rejection.body_text());
        Problem::new(StatusCode::BAD_REQUEST, "bad-query", detail)
    })?;
    let after = after(&headers, query.after.as_deref())?;
    let chronicle = feed.master.chronicle();
    if !query.follow {
        let (replay, _) = chronicle.follow(Some(after.as_ref().unwrap_or(&After::Nothing)));
        let pieces = words(chronicle, after.as_ref(), replay).into_iter().map(Ok::<_, Infallible>);
        return Ok(stream(Body::from_stream(futures_util::stream::iter(pieces))));
    }
    let Some((seat, frames)) = feed.seat() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-listeners",
            format!(
                "{MOST_LISTENERS} listen already: close one, or ask again later; GET /api/v1/state is not bounded"
            ),
        ));
    };
    let (replay, reader) = chronicle.follow(after.as_ref());
    let replay = words(chronicle, after.as_ref(), replay);
    let end = feed.end.clone();
    let due = VecDeque::new();
    let mut listener =
        Listener { _seat: seat, frames, reader, end, due, pace: Pace::Live, next: Next::Frames };
    match after {
        // It has a state on show already, and is waiting to hear what it missed.
        Some(After::Event(_)) => listener.catch_up(replay),
        Some(After::Nothing) => listener.next = Next::FirstFrame(replay),
        None => {
            listener.due.push_back(sse::position(&listener.reader.position().to_string()));
            listener.next = Next::FirstFrame(replay);
        }
    }
    Ok(stream(Body::from_stream(futures_util::stream::unfold(listener, |mut listener| async {
        let bytes = listener.next().await?;
        Some((Ok::<_, Infallible>(bytes), listener))
    }))))
}

/// Shows everything that there is to see at this moment; turns are told on the stream alone.
#[utoipa::path(
    get,
    path = "/api/v1/state",
    tag = "watching",
    responses(
        (status = 200, description = "The state", body = StateFrame),
        (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn state(State(feed): State<Arc<Feed>>) -> Result<Json<StateFrame>, Problem> {
    Ok(Json(feed.master.frame(Turns::Leave).await?))
}

/// Where the reader was. A browser that connects again asks for the address that it was given, `?after` and all, and
/// says in the header how far it has come since.
fn after(headers: &HeaderMap, asked: Option<&str>) -> Result<Option<After>, Problem> {
    let by_header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("unreadable"));
    let Some(id) = by_header.filter(|id| !id.is_empty()).or(asked) else { return Ok(None) };
    if id == "0" {
        return Ok(Some(After::Nothing));
    }
    let id = id.parse::<EventId>().map_err(|error| {
        let detail = format!("{error}; 0 stands for everything that is remembered");
        Problem::new(StatusCode::BAD_REQUEST, "bad-id", detail)
    })?;
    Ok(Some(After::Event(id)))
}

/// A replay, as it is sent: the gap first, if there is one.
fn words(chronicle: &Chronicle, after: Option<&After>, replay: Replay<Entry>) -> Vec<Bytes> {
    let gap = match (after, replay.gap) {
        (Some(After::Event(asked)), Some(gap)) => Some(sse::event(None, "gap", &chronicle.gap(asked, gap))),
        _ => None,
    };
    gap.into_iter().chain(replay.events.into_iter().map(|entry| entry.frame)).collect()
}

fn stream(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, sse::MEDIA_TYPE),
        (header::CACHE_CONTROL, "no-store"),
        // For nginx, which would otherwise collect it until it is worth a packet.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

/// Somebody who listens.
struct Listener {
    _seat: Seat,
    frames: broadcast::Receiver<Bytes>,
    reader: Reader,
    end: CancellationToken,
    /// To be sent before anything else.
    due: VecDeque<Bytes>,
    pace: Pace,
    next: Next,
}

/// Whether a listener has to keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It is being sent what it had missed, or has just been: frames that came meanwhile may be gone.
    CatchingUp,
    /// It has seen a frame since then.
    Live,
}

/// What comes when nothing is due.
enum Next {
    /// A frame, and then this.
    FirstFrame(Vec<Bytes>),
    /// Frames and events as they come.
    Frames,
    /// Nothing more.
    End,
}

/// What there is to be sent.
enum Heard {
    Frame(Bytes),
    Events(Vec<Entry>),
    /// Frames are gone that it need not have read.
    Skipped,
    TooSlow,
    Quiet,
    End,
}

impl Listener {
    fn catch_up(&mut self, replay: Vec<Bytes>) {
        if !replay.is_empty() {
            self.pace = Pace::CatchingUp;
        }
        self.due.extend(replay);
    }

    /// The next bytes; `None` is the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.due.pop_front() {
                return Some(bytes);
            }
            match self.hear().await {
                Heard::Frame(bytes) => {
                    if let Next::FirstFrame(replay) = std::mem::replace(&mut self.next, Next::Frames) {
                        self.catch_up(replay);
                    } else {
                        self.pace = Pace::Live;
                    }
                    return Some(bytes);
                }
                Heard::Events(events) => self.due.extend(events.into_iter().map(|entry| entry.frame)),
                Heard::Skipped => {}
                Heard::TooSlow => {
                    self.next = Next::End;
                    let why = "this reader is too slow: it was sent more than could be kept for it; \
                               connect again with the id of the last event to go on from there";
                    return Some(sse::event(None, "dropped", &Dropped { why: why.to_owned() }));
                }
                Heard::Quiet => return Some(Bytes::from_static(sse::ALIVE)),
                Heard::End => return None,
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        let events = match self.next {
            Next::End => return Heard::End,
            Next::FirstFrame(_) => false,
            Next::Frames => true,
        };
        tokio::select! {
            () = self.end.cancelled() => Heard::End,
            frame = self.frames.recv() => match frame {
                Ok(frame) => Heard::Frame(frame),
                Err(RecvError::Lagged(_)) if self.pace == Pace::CatchingUp => Heard::Skipped,
                Err(RecvError::Lagged(_)) => Heard::TooSlow,
                Err(RecvError::Closed) => Heard::End,
            },
            events = self.reader.next(), if events => events.map_or(Heard::TooSlow, Heard::Events),
            () = tokio::time::sleep(QUIET) => Heard::Quiet,
        }
    }
}
