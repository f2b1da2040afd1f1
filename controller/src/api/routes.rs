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
use utoipa::IntoParams;

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

/// Lists the pools.
#[utoipa::path(get, path = "/api/v1/pools", tag = "pools", responses((status = 200, description = "Every pool, in the order of the spec", body = Vec<PoolView>), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn pools(State(master): TheMaster) -> Result<Json<Vec<PoolView>>, Problem> {
    Ok(Json(master.pools().await?))
}

/// Changes how many workers a pool is to have.
#[utoipa::path(post, path = "/api/v1/pools/{name}/scale", tag = "pools", params(("name" = String, Path, description = "The pool", example = "web")), request_body = ScaleOrder, responses((status = 202, description = "It has begun", body = Scaled), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn scale(
    State(master): TheMaster,
    name: Named,
    Order(order): Order<ScaleOrder>,
) -> Result<(StatusCode, Json<Scaled>), Problem> {
    let pool: PoolName = parsed(name)?;
    master.scale(&pool, order.workers).await?;
    Ok((StatusCode::ACCEPTED, Json(Scaled { pool: pool.to_string(), workers: order.workers })))
}

/// Has the door send one request to a pool, as a client would.
#[utoipa::path(post, path = "/api/v1/pools/{name}/request", tag = "pools", params(("name" = String, Path, description = "The pool", example = "web")), request_body = RequestOrder, responses((status = 202, description = "The door has been told", body = Requested), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
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

/// Lists the requests that the door sends itself again and again.
#[utoipa::path(get, path = "/api/v1/trickle", tag = "pools", responses((status = 200, description = "The trickles that run", body = Vec<TrickleView>), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn trickles(State(master): TheMaster) -> Result<Json<Vec<TrickleView>>, Problem> {
    Ok(Json(master.trickles().await?))
}

/// Has the door send requests to a pool, again and again, for ten minutes at most.
#[utoipa::path(put, path = "/api/v1/pools/{name}/trickle", tag = "pools", params(("name" = String, Path, description = "The pool", example = "web")), request_body = TrickleOrder, responses((status = 202, description = "The door has been told", body = Trickling), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
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

/// Ends the trickle of a pool, if it has one.
#[utoipa::path(delete, path = "/api/v1/pools/{name}/trickle", tag = "pools", params(("name" = String, Path, description = "The pool", example = "web")), responses((status = 202, description = "The door has been told", body = TrickleEnded), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn end_trickle(
    State(master): TheMaster,
    name: Named,
) -> Result<(StatusCode, Json<TrickleEnded>), Problem> {
    let pool: PoolName = parsed(name)?;
    master.end_trickle(&pool).await?;
    Ok((StatusCode::ACCEPTED, Json(TrickleEnded { pool: pool.to_string() })))
}

/// Tells what the asker may do.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "controller", responses((status = 200, description = "Who asks, and whom", body = WhoAmI), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn whoami(State(master): TheMaster, Extension(scope): Extension<Scope>) -> Json<WhoAmI> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(WhoAmI { scope, backend: master.backend(), version })
}

/// Lists the workers, and what each holds at this moment.
#[utoipa::path(get, path = "/api/v1/workers", tag = "workers", responses((status = 200, description = "Every place of every pool", body = Vec<WorkerView>), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn workers(State(master): TheMaster) -> Result<Json<Vec<WorkerView>>, Problem> {
    Ok(Json(master.workers().await?))
}

/// Shows one worker.
#[utoipa::path(get, path = "/api/v1/workers/{id}", tag = "workers", params(("id" = String, Path, description = "The worker's place", example = "web-3")), responses((status = 200, description = "The worker", body = WorkerView), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn worker(State(master): TheMaster, id: Named) -> Result<Json<WorkerView>, Problem> {
    let id: WorkerId = parsed(id)?;
    let name = id.to_string();
    let found = master.workers().await?.into_iter().find(|worker| worker.id == name);
    found.map(Json).ok_or_else(|| CommandError::UnknownWorker(id).into())
}

/// What may follow `/logs?`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// How many lines, 10000 at most.
    #[serde(default = "LogsQuery::usual_lines")]
    lines: usize,
}

impl LogsQuery {
    fn usual_lines() -> usize {
        100
    }
}

/// Shows the last lines that a worker wrote.
#[utoipa::path(get, path = "/api/v1/workers/{id}/logs", tag = "workers", params(("id" = String, Path, description = "The worker's place", example = "web-3"), LogsQuery), responses((status = 200, description = "The lines, oldest first", body = Vec<String>), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
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

/// Sends a signal to a worker: SIGKILL kills it, SIGSTOP pauses and SIGCONT resumes it, SIGSEGV crashes it.
#[utoipa::path(post, path = "/api/v1/workers/{id}/kill", tag = "workers", params(("id" = String, Path, description = "The worker's place", example = "web-3")), request_body = KillOrder, responses((status = 202, description = "The signal has been sent", body = Killed), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
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

/// Lets a worker finish what it holds, then replaces it.
#[utoipa::path(post, path = "/api/v1/workers/{id}/drain", tag = "workers", params(("id" = String, Path, description = "The worker's place", example = "web-3")), request_body = Empty, responses((status = 202, description = "It has begun", body = Draining), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn drain(
    State(master): TheMaster,
    id: Named,
    Order(Empty {}): Order<Empty>,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    let id: WorkerId = parsed(id)?;
    master.drain(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(Draining { worker: id.to_string() })))
}

/// Lists the deaths that are remembered.
#[utoipa::path(get, path = "/api/v1/incidents", tag = "incidents", responses((status = 200, description = "The latest deaths, newest first, at most 1000", body = Vec<IncidentView>), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn incidents(State(master): TheMaster) -> Result<Json<Vec<IncidentView>>, Problem> {
    Ok(Json(master.incidents().await?))
}

/// Shows one death.
#[utoipa::path(get, path = "/api/v1/incidents/{id}", tag = "incidents", params(("id" = String, Path, description = "The life that ended", example = "web-3.7")), responses((status = 200, description = "The death", body = IncidentView), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
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

/// Tells whether this process answers: it does.
#[utoipa::path(get, path = "/healthz", tag = "controller", responses((status = 200, description = "It answers", body = String, content_type = "text/plain"), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Tells whether the door is there and every pool that is to have workers has one.
#[utoipa::path(get, path = "/readyz", tag = "controller", responses((status = 200, description = "The pools can serve", body = String, content_type = "text/plain"), (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readyz(State(master): TheMaster) -> Result<&'static str, Problem> {
    if master.is_ready().await? {
        return Ok("ready\n");
    }
    let detail = "the door is not there or gives no sign of life, or a pool has no worker yet; \
                  GET /api/v1/state says which";
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
