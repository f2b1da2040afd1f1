//! One function a route: read what was asked, ask the master, answer.

use std::str::FromStr;
use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use serde::Deserialize;
use server::identity::{Incarnation, PoolName, WorkerId};

use super::access::Scope;
use super::body::{
    Draining, Empty, KillOrder, Killed, Order, RequestOrder, Requested, ScaleOrder, Scaled, TrickleEnded,
    TrickleOrder, Trickling, WhoAmI,
};
use super::master::Master;
use super::problem::Problem;
use super::signal::Signal;
use super::stream_views::TrickleView;
use super::views::{IncidentView, PoolView, WorkerView};
use crate::supervisor::CommandError;

/// The most lines of output in one answer.
const MOST_LINES: usize = 10_000;

type TheMaster = State<Arc<dyn Master>>;
type Named = Result<Path<String>, PathRejection>;

pub(super) async fn pools(State(master): TheMaster) -> Result<Json<Vec<PoolView>>, Problem> {
    Ok(Json(master.pools().await?))
}

pub(super) async fn scale(
    State(master): TheMaster,
    name: Named,
    Order(order): Order<ScaleOrder>,
) -> Result<(StatusCode, Json<Scaled>), Problem> {
    let pool: PoolName = parsed(name)?;
    master.scale(&pool, order.workers).await?;
    Ok((StatusCode::ACCEPTED, Json(Scaled { pool: pool.to_string(), workers: order.workers })))
}

pub(super) async fn request(
    State(master): TheMaster,
    name: Named,
    Order(order): Order<RequestOrder>,
) -> Result<(StatusCode, Json<Requested>), Problem> {
    let pool: PoolName = parsed(name)?;
    let RequestOrder { path, method } = order;
    master.request(&pool, &method, &path).await?;
    let request = format!("{method} {path}");
    Ok((StatusCode::ACCEPTED, Json(Requested { pool: pool.to_string(), request })))
}

pub(super) async fn trickles(State(master): TheMaster) -> Result<Json<Vec<TrickleView>>, Problem> {
    Ok(Json(master.trickles().await?))
}

pub(super) async fn trickle(
    State(master): TheMaster,
    name: Named,
    Order(order): Order<TrickleOrder>,
) -> Result<(StatusCode, Json<Trickling>), Problem> {
    let pool: PoolName = parsed(name)?;
    let TrickleOrder { path, per_second } = order;
    master.trickle(&pool, &path, per_second).await?;
    Ok((StatusCode::ACCEPTED, Json(Trickling { pool: pool.to_string(), path, per_second })))
}

pub(super) async fn end_trickle(
    State(master): TheMaster,
    name: Named,
) -> Result<(StatusCode, Json<TrickleEnded>), Problem> {
    let pool: PoolName = parsed(name)?;
    master.end_trickle(&pool).await?;
    Ok((StatusCode::ACCEPTED, Json(TrickleEnded { pool: pool.to_string() })))
}

pub(super) async fn whoami(State(master): TheMaster, Extension(scope): Extension<Scope>) -> Json<WhoAmI> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(WhoAmI { scope, backend: master.backend(), version })
}

pub(super) async fn workers(State(master): TheMaster) -> Result<Json<Vec<WorkerView>>, Problem> {
    Ok(Json(master.workers().await?))
}

pub(super) async fn worker(State(master): TheMaster, id: Named) -> Result<Json<WorkerView>, Problem> {
    let id: WorkerId = parsed(id)?;
    let name = id.to_string();
    let found = master.workers().await?.into_iter().find(|worker| worker.id == name);
    found.map(Json).ok_or_else(|| CommandError::UnknownWorker(id).into())
}

/// What may follow `/logs?`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    #[serde(default = "LogsQuery::usual_lines")]
    lines: usize,
}

impl LogsQuery {
    fn usual_lines() -> usize {
        100
    }
}

pub(super) async fn logs(
    State(master): TheMaster,
    id: Named,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<Vec<String>>, Problem> {
    let id: WorkerId = parsed(id)?;
    let Query(query) = query.map_err(|rejection| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-query",
            format!("{}: use ?lines=NUMBER", rejection.body_text()),
        )
    })?;
    Ok(Json(master.logs(&id, query.lines.min(MOST_LINES)).await?))
}

pub(super) async fn kill(
    State(master): TheMaster,
    id: Named,
    Order(order): Order<KillOrder>,
) -> Result<(StatusCode, Json<Killed>), Problem> {
    let id: WorkerId = parsed(id)?;
    let signal: Signal = order
        .signal
        .parse()
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-signal", format!("{error}")))?;
    master.kill(&id, signal.number()).await?;
    Ok((StatusCode::ACCEPTED, Json(Killed { worker: id.to_string(), signal: signal.to_string() })))
}

pub(super) async fn drain(
    State(master): TheMaster,
    id: Named,
    Order(Empty {}): Order<Empty>,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    let id: WorkerId = parsed(id)?;
    master.drain(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(Draining { worker: id.to_string() })))
}

pub(super) async fn incidents(State(master): TheMaster) -> Result<Json<Vec<IncidentView>>, Problem> {
    Ok(Json(master.incidents().await?))
}

pub(super) async fn incident(State(master): TheMaster, id: Named) -> Result<Json<IncidentView>, Problem> {
    let id: Incarnation = parsed(id)?;
    let incident = master.incident(id.clone()).await?;
    incident.map(Json).ok_or_else(|| {
        let detail = format!(
            "there is no incident {id}: that worker has not died, or too many others have since; \
             GET /api/v1/incidents lists those that are remembered"
        );
        Problem::new(StatusCode::NOT_FOUND, "unknown-incident", detail)
    })
}

/// Whether this process answers: it does.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the pools can serve.
pub(super) async fn readyz(State(master): TheMaster) -> Result<&'static str, Problem> {
    if master.is_ready().await? {
        return Ok("ready\n");
    }
    let detail =
        "the door or a pool's first worker is not there yet; GET /api/v1/workers says how far each is";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail))
}

pub(super) async fn no_such_route(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}; the API begins at /api/v1/", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "unknown-route", detail)
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} cannot be asked with {method}; the Allow header says with what", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", detail)
}

/// The name in the path, as what it is to be the name of.
fn parsed<T: FromStr<Err: std::fmt::Display>>(name: Named) -> Result<T, Problem> {
    let bad = |detail| Problem::new(StatusCode::BAD_REQUEST, "bad-name", detail);
    let Path(name) = name.map_err(|rejection| bad(rejection.body_text()))?;
    name.parse().map_err(|error: T::Err| bad(error.to_string()))
}
