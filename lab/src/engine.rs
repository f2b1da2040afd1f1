//! The container engine, as far as the lab needs it: whether it answers, and the end of containers that nobody else has
//! ended.
//!
//! Four requests over the engine's Unix socket, with blocking calls; everything else about containers is Bulkhead's.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// How long the engine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether an engine answers; if not, why.
///
/// # Errors
/// What was tried and what came of it.
pub fn answers() -> io::Result<()> {
    let socket = socket()?;
    ask("GET", "/_ping").map(|_| ()).map_err(|error| {
        io::Error::new(error.kind(), format!("no engine answers at {}: {error}", socket.display()))
    })
}

/// What the engine can limit containers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Memory.
    pub memory: bool,
    /// Processes and threads.
    pub processes: bool,
}

/// What the engine can limit here, as it says itself.
///
/// # Errors
/// When it does not answer, or with something else.
pub fn caps() -> io::Result<Caps> {
    Ok(caps_in(&serde_json::from_str(&ask("GET", "/info")?)?))
}

/// What is not said is not so.
fn caps_in(info: &Value) -> Caps {
    let says = |key: &str| info[key].as_bool() == Some(true);
    Caps { memory: says("MemoryLimit"), processes: says("PidsLimit") }
}

/// Removes all containers with this label (`key=value`), running or not.
///
/// # Errors
/// When the engine does not answer, or would not.
pub fn remove_containers(label: &str) -> io::Result<()> {
    let filters = serde_json::json!({ "label": [label] }).to_string();
    let listed = ask("GET", &format!("/containers/json?all=1&filters={}", encoded(&filters)))?;
    let listed: Value = serde_json::from_str(&listed)?;
    for container in listed.as_array().into_iter().flatten() {
        if let Some(id) = container["Id"].as_str() {
            ask("DELETE", &format!("/containers/{id}?force=1"))?;
        }
    }
    Ok(())
}

fn socket() -> io::Result<PathBuf> {
    match std::env::var("DOCKER_HOST") {
        Err(_) => Ok("/var/run/docker.sock".into()),
        Ok(host) => host.strip_prefix("unix://").map(PathBuf::from).ok_or_else(|| {
            let why = format!("DOCKER_HOST is {host:?}: the lab speaks with an engine on a Unix socket only");
            io::Error::new(io::ErrorKind::Unsupported, why)
        }),
    }
}

/// Asks and reads the whole answer's body. HTTP/1.0: it ends with the connection, and is not in pieces.
fn ask(method: &str, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Length: 0\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("{method} {path}: {}", head.lines().next().unwrap_or("nothing")))),
    }
}

/// For a query: whatever is no letter, digit or one of a few signs is written as its number.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_limits_what_it_says_that_it_does() {
        let info = serde_json::json!({ "MemoryLimit": true, "PidsLimit": false });
        assert_eq!(caps_in(&info), Caps { memory: true, processes: false });
        assert_eq!(caps_in(&serde_json::json!({})), Caps { memory: false, processes: false });
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded(r#"{"label":["a=b"]}"#), "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D");
    }
}
