//! The controller's API, as a program would use it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::eventually;
use super::http::{Connection, Response};

/// The API at one address.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    address: SocketAddr,
    /// What is shown where the API wants to see one.
    token: Option<&'static str>,
}

/// A worker, as it is listed.
#[derive(Debug, Clone)]
pub struct Worker {
    pub id: String,
    pub pool: String,
    pub phase: String,
    pub generation: u64,
    pub pid: Option<i32>,
    pub container: Option<String>,
    pub pod: Option<String>,
    pub node: Option<String>,
    pub turns: u64,
    pub holding: Vec<String>,
    /// For how long it has held the first of them, in milliseconds.
    pub held_ms: f64,
}

impl Worker {
    pub fn is_ready(&self) -> bool {
        matches!(self.phase.as_str(), "idle" | "busy")
    }

    /// Whether it is known where it runs: it may have joined before its backend has said so.
    pub fn is_known(&self) -> bool {
        self.pid.is_some() || self.container.is_some() || self.pod.is_some()
    }

    /// The name of the life that it leads, which is its incident's.
    pub fn life(&self) -> String {
        format!("{}.{}", self.id, self.generation)
    }
}

impl Api {
    pub fn at(address: SocketAddr) -> Self {
        Self { address, token: None }
    }

    pub fn bearing(self, token: Option<&'static str>) -> Self {
        Self { token, ..self }
    }

    /// The same API by another way.
    pub fn by_way_of(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    pub fn address(self) -> SocketAddr {
        self.address
    }

    /// What every request begins with, behind its first line.
    fn headers(self) -> String {
        let token = self.token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        format!("Host: {}\r\nConnection: close\r\n{token}", self.address)
    }

    pub fn get(self, path: &str) -> Response {
        self.try_get(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn try_get(self, path: &str) -> std::io::Result<Response> {
        let mut connection = Connection::try_to(self.address)?;
        connection.try_send(format!("GET {path} HTTP/1.1\r\n{}\r\n", self.headers()))?;
        connection.try_response()
    }

    pub fn post(self, path: &str, body: &Value) -> Response {
        let body = body.to_string();
        let mut connection = Connection::to(self.address);
        connection.send(format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.headers(),
            body.len()
        ));
        connection.response()
    }

    fn list(self, path: &str) -> Vec<Value> {
        self.try_list(path).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same where the API may be away for a moment, or be another's in the next: why there is none.
    fn try_list(self, path: &str) -> Result<Vec<Value>, String> {
        let response = self.try_get(path).map_err(|error| format!("{path}: {error}"))?;
        match response.status {
            200 if response.complete => match response.json() {
                Value::Array(list) => Ok(list),
                other => Err(format!("{path} is not a list: {other}")),
            },
            status => Err(format!("{path}: {status} {}", response.text())),
        }
    }

    pub fn workers(self) -> Vec<Worker> {
        self.try_workers().unwrap_or_else(|why| panic!("{why}"))
    }

    pub fn try_workers(self) -> Result<Vec<Worker>, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let workers = self.try_list("/api/v1/workers")?;
        let workers = workers
            .iter()
            .map(|it| Worker {
                id: text(&it["id"]).unwrap(),
                pool: text(&it["pool"]).unwrap(),
                phase: text(&it["phase"]).unwrap(),
                generation: it["generation"].as_u64().unwrap(),
                pid: it["pid"].as_i64().map(|pid| pid.try_into().unwrap()),
                container: text(&it["container"]),
                pod: text(&it["pod"]),
                node: text(&it["node"]),
                turns: it["turns"].as_u64().unwrap(),
                held_ms: it["holding"][0]["for_ms"].as_f64().unwrap_or_default(),
                holding: it["holding"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|it| text(&it["request"]))
                    .collect(),
            })
            .collect();
        Ok(workers)
    }

    pub fn worker(self, id: &str) -> Worker {
        let workers = self.workers();
        workers.iter().find(|it| it.id == id).unwrap_or_else(|| panic!("no {id} in {workers:?}")).clone()
    }

    pub fn pool(self, name: &str) -> Value {
        let pools = self.list("/api/v1/pools");
        pools.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {pools:?}")).clone()
    }

    pub fn incidents(self) -> Vec<Value> {
        self.list("/api/v1/incidents")
    }

    /// Waits for the incident of that life, with everything in it that takes its time.
    pub fn incident(self, life: &str, complete: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the incident {life} is told to its end"), || {
            let incidents = self.try_list("/api/v1/incidents").map_err(Value::from)?;
            let found = incidents.iter().find(|it| it["id"] == life);
            found
                .filter(|it| complete(it))
                .cloned()
                .ok_or_else(|| json!({ "found": found, "of": incidents.len() }))
        })
    }

    /// Waits for the incident of that life until nothing more will be said of it.
    pub fn told(self, life: &str) -> Value {
        self.incident(life, |it| it["complete"] == true)
    }

    pub fn kill(self, worker: &str, signal: &str) -> Response {
        self.post(&format!("/api/v1/workers/{worker}/kill"), &json!({ "signal": signal }))
    }

    pub fn drain(self, worker: &str) -> Response {
        self.post(&format!("/api/v1/workers/{worker}/drain"), &json!({}))
    }

    pub fn scale(self, pool: &str, workers: u32) -> Response {
        self.post(&format!("/api/v1/pools/{pool}/scale"), &json!({ "workers": workers }))
    }
}
