//! A deployment that is made up, and what becomes of it on the screen.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod folding;
mod keys;
mod screens;

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::keys::{Intent, press};
use super::model::{Model, Now};
use crate::cli::stream::{Event, Told};

/// So many milliseconds after the start.
fn at(ms: u64) -> Now {
    let wall: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let since_start = Duration::from_millis(ms);
    Now { since_start, wall: wall + since_start }
}

/// A model that has been told of the deployment and of a death.
fn watching() -> Model {
    let mut model = Model::new("http://127.0.0.1:9090".to_owned(), at(0));
    model.fold(Told::Connected, at(0));
    model.fold(event("k3f9x2-1", incident("web-3.6", 231.0)), at(10));
    model.fold(frame(at(100), 1_000), at(100));
    model.fold(frame(at(1_100), 1_250), at(1_100));
    model
}

/// The state when `answered` requests have been answered: web has workers in all phases, echo is degraded.
fn frame(now: Now, answered: u64) -> Told {
    Told::State(state(now, answered).to_string())
}

fn state(now: Now, answered: u64) -> Value {
    let pool = |name: &str, listen: &str, ready: u32, degraded: bool, answered: u64| {
        json!({
            "name": name, "listen": listen, "protocol": "http", "turn": "request", "app": "demo",
            "model": "prefork", "backend": "process", "wanted": 4, "ready": ready, "busy": 1,
            "degraded": degraded, "queued": 2, "connections": 9,
            "counters": {"connections": 9, "turns": answered, "deliveries": answered, "redelivered": 3,
                         "deaths": 3, "answered": {}, "cut": 0, "abandoned": 0},
            "longest_wait_ms": 12.0, "turn_ms": {"p50": 1.2, "p99": 20.1}, "wait_ms": {"p50": 0.0, "p99": 3.0},
            "headline": {"answered": answered, "redelivered": 3, "lost": 1, "deaths": 3,
                         "deliveries": answered + 3, "effective_success": 0.999, "actual_success": 0.997,
                         "recovery_ms": {"median": 5.2, "p99": 231.0, "n": 3}},
        })
    };
    let worker = |id: &str, phase: &str, generation: u64, holding: Value| {
        json!({
            "id": id, "pool": id.split('-').next(), "backend": "process", "phase": phase,
            "generation": generation, "pid": 4711, "container": null, "pod": null, "node": null,
            "started_at": "2026-01-02T00:00:00Z", "turns": 1200, "holding": holding,
        })
    };
    let held = |request: &str, for_ms: f64| json!({"request": request, "for_ms": for_ms});
    json!({
        "at": now.wall.to_string(),
        "controller": {"version": "0.1.0", "backend": "process", "started_at": "2026-01-02T00:00:00Z"},
        "door": {"up": true, "pid": 123}, "engine": "answers",
        "pools": [
            pool("web", "127.0.0.1:8080", 2, false, answered),
            pool("echo", "127.0.0.1:12345", 1, true, 0),
        ],
        "workers": [
            worker("web-0", "busy", 1, json!([held("GET /work?ms=300", 12.4)])),
            worker("web-1", "starting", 2, json!([])),
            worker("web-2", "dead", 3, json!([])),
            worker("web-3", "draining", 7, json!([held("GET /\u{1b}]0;owned\u{7}", 61_000.0), held("GET /b", 3.0)])),
            worker("echo-0", "idle", 1, json!([])),
        ],
        "turns": [], "turns_omitted": 0, "trickles": [], "incidents": {"total": 17, "kept": 17},
    })
}

/// A death by SIGKILL.
fn incident(life: &str, ready_ms: impl Into<Option<f64>>) -> Value {
    json!({
        "kind": "incident", "stage": "updated",
        "incident": {
            "id": life, "pool": "web", "worker": life.split('.').next(), "at": "2026-01-02T03:00:00Z",
            "cause": {"kind": "signal", "detail": "SIGKILL"},
            "held": [{"request": "GET /work?ms=20", "outcome": "redelivered", "to": "web-1", "status": null,
                      "why": null, "added_ms": 3.21}],
            "steps_ms": {"detected": 0.4, "redelivered": 1.1, "spawned": 2.0, "ready": ready_ms.into()},
            "siblings": 3, "last_output": ["listening"],
            "memory": null, "siblings_failed": 0, "reproduce": "kill -9 4711", "backend": "process",
            "unit": "pid 4711",
        },
    })
}

fn worker(name: &str, generation: u64, what: &str, detail: &str) -> Value {
    json!({
        "kind": "worker", "worker": name, "pool": "web", "generation": generation, "what": what,
        "detail": detail,
    })
}

/// `happened`, as the stream tells it.
fn event(id: &str, mut happened: Value) -> Told {
    happened["id"] = id.into();
    happened["at"] = "2026-01-02T03:04:05.678901Z".into();
    Told::Event(Event {
        name: happened["kind"].as_str().unwrap().to_owned(),
        sent: happened.to_string(),
        read: Some(serde_json::from_value(happened).unwrap()),
    })
}

/// Presses keys, one after the other, and tells what the last one comes to.
fn type_in(model: &mut Model, keys: &str) -> Intent {
    keys.chars().map(|key| press(model, key_of(key), 0.5)).last().unwrap()
}

/// `\t` is the tabulator, `\n` enter, `\u{1b}` escape.
fn key_of(key: char) -> KeyEvent {
    let code = match key {
        '\t' => KeyCode::Tab,
        '\n' => KeyCode::Enter,
        '\u{1b}' => KeyCode::Esc,
        other => KeyCode::Char(other),
    };
    KeyEvent::new(code, KeyModifiers::NONE)
}
