//! The controller's HTTP API: what `bulkhead ps` and its like, scripts and dashboards talk to.
//!
//! ```text
//! GET  /api/v1/pools              GET  /api/v1/workers         GET  /api/v1/incidents
//! POST /api/v1/pools/{name}/scale GET  /api/v1/workers/{id}    GET  /api/v1/incidents/{id}
//!      {"workers":6}              GET  /api/v1/workers/{id}/logs?lines=100
//! GET  /healthz                   POST /api/v1/workers/{id}/kill   {"signal":"SIGKILL"}
//! GET  /readyz                    POST /api/v1/workers/{id}/drain
//! ```
//!
//! It decides nothing: every route is one question to, or one order for, the [`Master`]. Whoever reaches it may
//! kill workers, so it listens on loopback unless told otherwise, and the module `guard` turns away what a web page
//! in somebody's browser could send there. It does not authenticate: on any other address, whatever stands in
//! front of it must.
//!
//! Whatever is refused, by a handler, the guard or the router, is answered as a [`Problem`]
//! (`application/problem+json`). With this API gone, workers and door serve on; only people and scripts miss it.

mod body;
mod guard;
mod master;
mod problem;
mod routes;
pub mod signal;
pub mod stream_views;
pub mod views;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use crate::supervisor::CommandError;
pub use body::{Draining, KillOrder, Killed, ScaleOrder, Scaled};
pub use master::Master;
pub use problem::Problem;

/// Serves the API on `listener` until `stop` is done, then lets the answers under way finish.
///
/// # Errors
/// When the socket's own address cannot be read. A failing connection is that client's affair.
pub async fn serve(
    listener: TcpListener,
    master: Arc<dyn Master>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listen = listener.local_addr()?;
    axum::serve(listener, router(master, listen)).with_graceful_shutdown(stop).await
}

/// All routes, as they are served at `listen`.
fn router(master: Arc<dyn Master>, listen: SocketAddr) -> Router {
    Router::new()
        .route("/api/v1/pools", get(routes::pools))
        .route("/api/v1/pools/{name}/scale", post(routes::scale))
        .route("/api/v1/workers", get(routes::workers))
        .route("/api/v1/workers/{id}", get(routes::worker))
        .route("/api/v1/workers/{id}/logs", get(routes::logs))
        .route("/api/v1/workers/{id}/kill", post(routes::kill))
        .route("/api/v1/workers/{id}/drain", post(routes::drain))
        .route("/api/v1/incidents", get(routes::incidents))
        .route("/api/v1/incidents/{id}", get(routes::incident))
        .route("/healthz", get(routes::healthz))
        .route("/readyz", get(routes::readyz))
        .fallback(routes::no_such_route)
        .method_not_allowed_fallback(routes::wrong_method)
        .layer(middleware::from_fn_with_state(listen, guard::admit))
        .with_state(master)
}
