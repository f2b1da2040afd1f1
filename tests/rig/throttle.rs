//! A port before the cluster's API which, when it is told to begin, lets only a share of what is asked come through as it was
//! meant.
//!
//! Of each seven requests two are answered 429, before the API has seen them, with `Retry-After: 1`; and one 500, after: what
//! was asked for is done, and whoever asked does not know. A watch that is begun is let be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use kube::{Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Goes with its port.
#[derive(Debug)]
pub struct Throttle {
    dir: TempDir,
    state: Arc<State>,
    /// Whoever serves ends when this is gone.
    _open: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    begun: AtomicBool,
    asked: AtomicU64,
    throttled: AtomicU64,
    failed: AtomicU64,
}

impl Throttle {
    /// One that lets everything through.
    pub fn before_the_api() -> Self {
        let state = Arc::new(State::default());
        let (tell, told) = std::sync::mpsc::channel();
        let (open, closed) = oneshot::channel();
        std::thread::spawn({
            let state = Arc::clone(&state);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            move || {
                runtime.block_on(async {
                    tell.send(serve(state).await).unwrap();
                    let _ = closed.await;
                });
            }
        });
        let address = told.recv().unwrap();
        let dir = tempfile::Builder::new().prefix("bulkhead-throttle-").tempdir_in("/tmp").unwrap();
        // Who we are is said by the port to the API, not by whoever asks the port.
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "anybody" } }],
            "clusters": [{ "name": "it", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "anybody", "user": {} }],
        });
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { dir, state, _open: open }
    }

    /// What leads to the port, for `KUBECONFIG`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub fn begin(&self) {
        self.state.begun.store(true, Ordering::Relaxed);
    }

    /// How many have been answered 429, and how many 500.
    pub fn refused(&self) -> [u64; 2] {
        [&self.state.throttled, &self.state.failed].map(|it| it.load(Ordering::Relaxed))
    }
}

async fn serve(state: Arc<State>) -> SocketAddr {
    let mut config = Config::infer().await.unwrap();
    // Whoever asks does that.
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let port = Router::new().fallback(move |request| answer(client.clone(), Arc::clone(&state), request));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, port).await });
    address
}

async fn answer(client: Client, state: Arc<State>, request: Request) -> Response<Body> {
    let mut which = 0;
    if state.begun.load(Ordering::Relaxed) {
        which = state.asked.fetch_add(1, Ordering::Relaxed) % 7 + 1;
    }
    if let 2 | 5 = which {
        state.throttled.fetch_add(1, Ordering::Relaxed);
        let refusal = status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
        return ([(RETRY_AFTER, "1")], refusal).into_response();
    }
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let answer = pass_on(client, request).await;
    match answer {
        Ok(_) if which == 4 && !is_watch => {
            state.failed.fetch_add(1, Ordering::Relaxed);
            status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
        }
        Ok(answer) => answer.map(Body::new),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

async fn pass_on(client: Client, request: Request) -> Result<Response<kube::client::Body>, kube::Error> {
    let (mut head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    head.headers.remove(HOST);
    client.send(Request::from_parts(head, body.into())).await
}

/// A refusal in the words of the API.
fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": "a story has it so",
    });
    (code, [(CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}
