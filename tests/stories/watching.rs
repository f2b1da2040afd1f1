//! What those who watch are told, of real deaths.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::rig::{Backend, PATIENCE, Stack};

/// How long anything may take to be told.
const DEADLINE: Duration = PATIENCE;

/// Somebody who listens.
struct Listener {
    lines: Lines<BufReader<TcpStream>>,
    /// What it was told beside the states.
    told: Vec<Value>,
}

impl Listener {
    fn at(api: SocketAddr, query: &str) -> Self {
        let mut stream = TcpStream::connect(api).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET /api/v1/events{query} HTTP/1.1\r\nHost: {api}\r\n\r\n").unwrap();
        Self { lines: BufReader::new(stream).lines(), told: Vec::new() }
    }

    /// The next that is told.
    fn next(&mut self) -> Value {
        loop {
            let line = match self.lines.next() {
                Some(Ok(line)) => line,
                end => panic!("the stream ended with {end:?}; it told {:#?}", self.told),
            };
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// The next state of which that holds.
    fn state(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let next = self.next();
            if next["controller"].is_object() && holds(&next) {
                return next;
            }
            assert!(std::time::Instant::now() < deadline, "it is still {next:#}; it told {:#?}", self.told);
        }
    }

    /// What is told up to the first of which that holds.
    fn until(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let next = self.next();
            if !next["controller"].is_object() {
                self.told.push(next.clone());
                if holds(&next) {
                    return next;
                }
            }
            assert!(std::time::Instant::now() < deadline, "it told only {:#?}", self.told);
        }
    }

    /// What was told of this worker, in order.
    fn of(&self, worker: &str, generation: u64) -> Vec<&str> {
        let of_it = self.told.iter().filter(|it| it["worker"] == worker && it["generation"] == generation);
        of_it.map(|it| it["what"].as_str().unwrap()).collect()
    }
}

pub fn a_death_is_told_as_it_happens(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut listener = Listener::at(stack.api().address(), "");
    listener.state(|it| it["pools"][0]["ready"] == 2 && it["door"]["up"] == true);
    let mut client = stack.connect();
    client.send_get("/work?ms=3000");
    let victim = stack.holder_of("GET /work?ms=3000");
    stack.kill_from_outside(&victim);
    assert_eq!(client.response().status, 200);

    let complete = listener.until(|it| it["stage"] == "complete");
    let incident = &complete["incident"];
    assert_eq!(incident["id"], victim.life().as_str(), "{incident:#}");
    assert_eq!(incident["held"][0]["outcome"], "redelivered", "{incident:#}");
    assert_eq!(incident["siblings_failed"], 0, "{incident:#}");
    assert_eq!(*incident, stack.api().incident(&victim.life(), |_| true), "it is told as it is listed");
    assert!(listener.of(&victim.id, victim.generation).contains(&"link_closed"), "{:#?}", listener.told);
    assert!(listener.of(&victim.id, victim.generation + 1).contains(&"ready"), "{:#?}", listener.told);
    let stages = listener.told.iter().filter_map(|it| it["stage"].as_str());
    assert_eq!(stages.clone().next(), Some("opened"));
    assert_eq!(stages.filter(|it| *it == "complete").count(), 1);
    // The turn is on the stream as well, by whoever ended it, and in the figures.
    let state = listener.state(|it| it["pools"][0]["headline"]["answered"].as_u64() >= Some(1));
    assert_eq!(state["pools"][0]["headline"]["lost"], 0, "{state:#}");
    assert_eq!(state["pools"][0]["headline"]["recovery_ms"]["n"], 1, "{state:#}");
    stack.down();
}

pub fn who_resumes_at_another_controller_is_told_that(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let last = Listener::at(stack.api().address(), "?after=0").until(|it| it["what"] == "ready");
    stack.kill_controller();
    stack.start();
    let mut listener =
        Listener::at(stack.api().address(), &format!("?after={}", last["id"].as_str().unwrap()));
    let gap = listener.until(|_| true);
    assert_eq!((&gap["asked"], &gap["why"]), (&last["id"], &Value::from("another controller")), "{gap:#}");
    // What this one has told follows, and what happens from here on.
    listener.until(|it| it["kind"] == "door" && it["what"] == "up");
    let victim = stack.ready("web", 2)[0].clone();
    stack.kill_from_outside(&victim);
    listener.until(|it| it["incident"]["id"] == victim.life().as_str() && it["stage"] == "opened");
    stack.down();
}
