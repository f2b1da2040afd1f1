//! What `up` and `controller` say once everything runs: where to look, and what to try.

use std::net::SocketAddr;

use crate::api::views::{PoolView, WorkerView};

/// Where `bulkhead ps` and the like look for the API by themselves.
const USUAL_API: &str = "127.0.0.1:9090";

/// The name under which the reader started this program, so that what we suggest can be pasted.
pub(super) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "bulkhead".to_owned())
}

/// Each pool's address, the API's, and the next commands to try.
pub(super) fn text(program: &str, pools: &[PoolView], workers: &[WorkerView], api: SocketAddr) -> String {
    let mut text = String::new();
    let widest = pools.iter().map(|pool| pool.name.len()).max().unwrap_or(0).max("backend".len());
    let mut line = |name: &str, value: String| text += &format!("{name:<widest$}  {value}\n");
    for pool in pools {
        line(&pool.name, describe(pool));
    }
    line("api", format!("http://{}  dashboard in a browser; metrics at /metrics", reachable(api)));

    text += "\nTry\n";
    for pool in pools {
        text += &format!("  {}\n", visit(pool));
    }
    let aside =
        if reachable(api) == USUAL_API { String::new() } else { format!(" --api {}", reachable(api)) };
    text += &format!("  {program} ps{aside}\n");
    if let Some(kill) = workers.iter().find_map(kill) {
        text += &format!("  {kill}\n");
    }
    text += &format!("  {program} incidents{aside}\n\n");
    text
}

fn describe(pool: &PoolView) -> String {
    let listen = pool.listen.parse().map_or_else(|_| pool.listen.clone(), reachable);
    let workers = match pool.wanted {
        1 => "1 worker".to_owned(),
        number => format!("{number} workers"),
    };
    format!("{}://{listen}  {workers}, {}, {}", pool.protocol, pool.app, pool.model)
}

fn visit(pool: &PoolView) -> String {
    let listen = pool.listen.parse().map_or_else(|_| pool.listen.clone(), reachable);
    match (pool.protocol.as_str(), listen.rsplit_once(':')) {
        ("tcp", Some((host, port))) => {
            format!("nc {} {port}", host.trim_start_matches('[').trim_end_matches(']'))
        }
        _ => format!("curl http://{listen}/"),
    }
}

/// How to kill a worker by hand.
fn kill(worker: &WorkerView) -> Option<String> {
    match (&worker.container, worker.pid) {
        (Some(container), _) => Some(format!("docker kill {container}")),
        (None, Some(pid)) => Some(format!("kill -9 {pid}")),
        (None, None) => None,
    }
}

/// The address for somebody on this machine: one that is listened on everywhere is reached on loopback.
fn reachable(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address.to_string()
}

#[cfg(test)]
mod tests {
    use crate::api::views::PhaseView;

    use super::*;

    fn pool(name: &str, listen: &str, protocol: &str, app: &str) -> PoolView {
        PoolView {
            name: name.into(),
            listen: listen.into(),
            protocol: protocol.into(),
            turn: "request".into(),
            app: app.into(),
            model: "prefork".into(),
            backend: "docker".into(),
            wanted: 4,
            ready: 4,
            busy: 0,
            degraded: false,
            trouble: None,
            queued: 0,
            connections: 0,
            counters: server::control::Counters::default(),
        }
    }

    fn worker(container: Option<&str>, pid: Option<u32>) -> WorkerView {
        WorkerView {
            id: "web-0".into(),
            pool: "web".into(),
            backend: "docker".into(),
            phase: PhaseView::Idle,
            generation: 1,
            pid,
            container: container.map(str::to_owned),
            pod: None,
            node: None,
            started_at: None,
            turns: 0,
            holding: Vec::new(),
            trouble: None,
        }
    }

    #[test]
    fn the_default_deployment_is_introduced() {
        let pools =
            [pool("web", "127.0.0.1:8080", "http", "demo"), pool("echo", "127.0.0.1:12345", "tcp", "echo")];
        let workers = [worker(Some("bulkhead-web-0.1"), Some(4711))];
        let api = SocketAddr::from(([127, 0, 0, 1], 9090));
        insta::assert_snapshot!(text("bulkhead", &pools, &workers, api), @r"
        web      http://127.0.0.1:8080  4 workers, demo, prefork
        echo     tcp://127.0.0.1:12345  4 workers, echo, prefork
        api      http://127.0.0.1:9090  dashboard in a browser; metrics at /metrics

        Try
          curl http://127.0.0.1:8080/
          nc 127.0.0.1 12345
          bulkhead ps
          docker kill bulkhead-web-0.1
          bulkhead incidents
        ");
    }

    #[test]
    fn what_is_not_usual_is_spelt_out() {
        let pools = [pool("a-longer-name", "[::]:8080", "http", "demo")];
        let api = SocketAddr::from(([0, 0, 0, 0], 9191));
        insta::assert_snapshot!(text("target/debug/bulkhead", &pools, &[worker(None, Some(4711))], api), @r"
        a-longer-name  http://[::1]:8080  4 workers, demo, prefork
        api            http://127.0.0.1:9191  dashboard in a browser; metrics at /metrics

        Try
          curl http://[::1]:8080/
          target/debug/bulkhead ps --api 127.0.0.1:9191
          kill -9 4711
          target/debug/bulkhead incidents --api 127.0.0.1:9191
        ");
    }
}
