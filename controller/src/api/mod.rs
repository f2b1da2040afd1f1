//! The controller's HTTP API: what `bulkhead ps` and its like, scripts and dashboards talk to.
//!
//! ```text
//! GET  /api/v1/pools                GET  /api/v1/workers              GET  /api/v1/incidents
//! POST /api/v1/pools/{name}/scale   GET  /api/v1/workers/{id}         GET  /api/v1/incidents/{id}
//! POST /api/v1/pools/{name}/request GET  /api/v1/workers/{id}/logs    GET  /api/v1/events
//! PUT  /api/v1/pools/{name}/trickle POST /api/v1/workers/{id}/kill    GET  /api/v1/state
//! DELETE                 .../trickle POST /api/v1/workers/{id}/drain  GET  /api/v1/trickle
//! GET  /healthz  /readyz  /metrics                                    GET  /api/v1/whoami
//! GET  /  /assets/{name}            the dashboard                      GET  /openapi.json
//! ```
//!
//! It decides nothing: every route is one question to, or one order for, the [`Master`]. Whoever reaches it may
//! kill workers, so it listens on loopback unless told otherwise, the module `guard` turns away what a web page
//! in somebody's browser could send there, and on any other address `access` demands a token.
//!
//! Whatever is refused, by a handler, the guard or the router, is answered as a [`Problem`]
//! (`application/problem+json`). With this API gone, workers and door serve on; only people and scripts miss it.

mod access;
mod body;
mod dashboard;
mod guard;
mod master;
pub mod metrics;
pub mod openapi;
mod patience;
mod problem;
mod routes;
pub mod signal;
pub(crate) mod sse;
mod stream;
pub mod stream_views;
pub mod views;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use crate::supervisor::CommandError;
pub use access::{Access, Scope, Token};
pub use body::{
    Draining, KillOrder, Killed, RequestOrder, Requested, ScaleOrder, Scaled, TrickleEnded, TrickleOrder,
    Trickling, WhoAmI,
};
pub use master::Master;
pub use problem::Problem;

use guard::Gate;
use patience::PatientListener;
use stream::Feed;

/// Who is served.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Who may do what.
    pub access: Access,
    /// A name under which the API may be asked, besides IP addresses and `localhost`.
    pub host_name: Option<String>,
}

/// Serves the API on `listener` until `stop` is done, then ends all streams and lets the other answers under way
/// finish.
///
/// # Errors
/// When the socket's own address cannot be read. A failing connection is that client's affair.
pub async fn serve(
    listener: TcpListener,
    master: Arc<dyn Master>,
    admission: Admission,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listen = listener.local_addr()?;
    let end = CancellationToken::new();
    let router = router(master, admission, listen, end.clone());
    let stop = async move {
        stop.await;
        end.cancel();
    };
    axum::serve(PatientListener::new(listener), router).with_graceful_shutdown(stop).await
}

/// Serves `/metrics` on `listener`, and nothing else, to whoever asks, until `stop` is done: a scraper that has to be
/// given a token could be given one that looks at everything.
///
/// # Errors
/// None but the listener's own.
pub async fn serve_metrics(
    listener: TcpListener,
    master: Arc<dyn Master>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics::metrics))
        .fallback(routes::no_such_route)
        .method_not_allowed_fallback(routes::wrong_method)
        .with_state(master);
    axum::serve(PatientListener::new(listener), router).with_graceful_shutdown(stop).await
}

/// What handlers share.
#[derive(Clone)]
struct Shared {
    master: Arc<dyn Master>,
    feed: Arc<Feed>,
}

impl FromRef<Shared> for Arc<dyn Master> {
    fn from_ref(shared: &Shared) -> Self {
        Self::clone(&shared.master)
    }
}

impl FromRef<Shared> for Arc<Feed> {
    fn from_ref(shared: &Shared) -> Self {
        Self::clone(&shared.feed)
    }
}

/// All routes, as they are served at `listen`.
fn router(
    master: Arc<dyn Master>,
    admission: Admission,
    listen: SocketAddr,
    end: CancellationToken,
) -> Router {
    let Admission { access, host_name } = admission;
    let gate = Arc::new(Gate { listen, host_name, access });
    let feed = Feed::new(Arc::clone(&master), end);
    let (router, document) = described().split_for_parts();
    let document = openapi::served(&document);
    router
        .route("/openapi.json", get(move || std::future::ready(document.clone())))
        .fallback(routes::no_such_route)
        .method_not_allowed_fallback(routes::wrong_method)
        .layer(middleware::from_fn_with_state(gate, guard::admit))
        .with_state(Shared { master, feed })
}

/// All routes but that of their own description, each with what it says of itself.
fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(dashboard::index))
        .routes(routes!(dashboard::asset))
        .routes(routes!(routes::pools))
        .routes(routes!(routes::scale))
        .routes(routes!(routes::request))
        .routes(routes!(routes::trickle, routes::end_trickle))
        .routes(routes!(routes::trickles))
        .routes(routes!(routes::workers))
        .routes(routes!(routes::worker))
        .routes(routes!(routes::logs))
        .routes(routes!(routes::kill))
        .routes(routes!(routes::drain))
        .routes(routes!(routes::incidents))
        .routes(routes!(routes::incident))
        .routes(routes!(stream::events))
        .routes(routes!(stream::state))
        .routes(routes!(routes::whoami))
        .routes(routes!(metrics::metrics))
        .routes(routes!(routes::healthz))
        .routes(routes!(routes::readyz))
}
