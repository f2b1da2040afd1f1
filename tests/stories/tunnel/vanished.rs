//! A worker vanishes: nobody says that it is dead, and nothing is heard of it.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::rig::http::Connection;
use crate::rig::stack::pids_with;
use crate::rig::{Backend, Stack, eventually};

/// The default of `tunnel.lost_after`.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// How long a turn takes that is held by a worker that is lost, once another has it.
const TURN: Duration = Duration::from_secs(3);
/// How long everything else may take on a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(7);

/// The incident says that nothing was heard, and nothing else.
fn assert_lost(incident: &Value) {
    assert_eq!(incident["cause"]["kind"], "lost", "{incident:#}");
    let detail = incident["cause"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("no sign of life"), "{incident:#}");
}

pub fn a_worker_that_has_stopped_is_lost_and_replaced(backend: Backend) {
    let pools = ["web", "one"].map(|name| {
        let workers = if name == "web" { 2 } else { 1 };
        format!("{name}:\n  listen: 127.0.0.1:0\n  size: {{ workers: {workers} }}\n")
    });
    let stack = Stack::up(backend, &pools.concat());
    stack.ready("web", 2);
    // A GET is given to another.
    let mut client = stack.connect();
    client.send_get("/work?ms=3000");
    let victim = stack.holder_of("GET /work?ms=3000");
    let stopped = stack.pid_of(&victim);
    kill_process(stopped, Signal::STOP).unwrap();
    let since = Instant::now();
    assert_eq!(client.response().text(), "worked 3000 ms\n");
    let took = since.elapsed();
    let expected = LOST_AFTER + TURN - Duration::from_millis(1500)..LOST_AFTER + TURN + SLACK;
    assert!(expected.contains(&took), "after {took:?}");
    let incident = stack.api().told(&victim.life());
    assert_lost(&incident);
    assert_eq!(incident["held"][0]["outcome"], "redelivered", "{incident:#}");
    // It is dead by now, or will be as soon as it goes on.
    let _ = kill_process(stopped, Signal::CONT);
    eventually("who had stopped is dead", || match test_kill_process(stopped) {
        Ok(()) => Err(pids_with(&victim.life())),
        Err(_) => Ok(()),
    });
    stack.ready("web", 2);
    // A POST that it may have executed is not.
    client.send_post("/work?ms=60000", "charge 10");
    let victim = stack.at_work_on("POST /work");
    kill_process(stack.pid_of(&victim), Signal::STOP).unwrap();
    let answer = client.response();
    assert_eq!((answer.status, &answer.json()["incident"]), (502, &Value::from(victim.life())));
    let incident = stack.api().told(&victim.life());
    assert_lost(&incident);
    assert_eq!(incident["held"][0]["outcome"], "answered", "{incident:#}");
    // Nor is one that it has not been heard to begin: nobody knows what it has heard.
    let victim = stack.ready("one", 1)[0].clone();
    // It has just been heard of: it gets what comes next.
    assert_eq!(Connection::to(stack.address("one")).get("/work?ms=0").status, 200);
    stack.idle(&victim.id);
    kill_process(stack.pid_of(&victim), Signal::STOP).unwrap();
    let mut client = Connection::to(stack.address("one"));
    client.send_post("/work?ms=0", "charge 20");
    let answer = client.response();
    assert_eq!((answer.status, &answer.json()["incident"]), (502, &Value::from(victim.life())));
    let deliveries = &stack.api().pool("one")["counters"]["deliveries"];
    assert_eq!(deliveries, 2, "one each; it was delivered again");
    assert_lost(&stack.api().told(&victim.life()));
    stack.ready("one", 1);
    let mut client = Connection::to(stack.address("one"));
    assert_eq!(client.get("/work?ms=0").status, 200);
    stack.down();
}

pub fn what_is_lost_goes_to_nobody_who_is_silent_too(backend: Backend) {
    let stack = Stack::web(backend, 3, "");
    stack.ready("web", 3);
    let mut clients = [stack.connect(), stack.connect()];
    let [first, second] = &mut clients;
    first.send_get("/work?ms=3000");
    let victim = stack.holder_of("GET /work?ms=3000");
    kill_process(stack.pid_of(&victim), Signal::STOP).unwrap();
    // Another is stopped just after it has spoken: it is lost after the first, and it is the one who came back last.
    second.send_get("/work?ms=700");
    let other = stack.holder_of("GET /work?ms=700");
    assert_eq!(second.response().status, 200);
    stack.idle(&other.id);
    kill_process(stack.pid_of(&other), Signal::STOP).unwrap();
    assert_eq!(first.response().text(), "worked 3000 ms\n");
    let incident = stack.api().told(&victim.life());
    assert_lost(&incident);
    assert_eq!(incident["held"][0]["outcome"], "redelivered", "{incident:#}");
    let incident = stack.api().told(&other.life());
    assert_lost(&incident);
    assert_eq!(incident["held"], Value::Array(Vec::new()), "{incident:#}");
    stack.down();
}

pub fn who_was_lost_is_not_let_in_again(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    let workers = stack.ready("web", 2);
    let (victim, stopped) = (workers[0].clone(), stack.pid_of(&workers[0]));
    // With nobody there to kill it, it comes back to itself, and to a door that has given it up.
    let address = stack.address("web");
    stack.kill_controller();
    kill_process(stopped, Signal::STOP).unwrap();
    // One each; when both are answered, the door has taken that of the one who does not.
    let mut clients = [Connection::to(address), Connection::to(address)];
    for client in &mut clients {
        client.send_get("/work?ms=500");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "worked 500 ms\n");
    }
    test_kill_process(stopped).expect("somebody has killed it all the same");
    kill_process(stopped, Signal::CONT).unwrap();
    eventually("who was lost has ended", || match test_kill_process(stopped) {
        Ok(()) => Err(pids_with(&victim.life())),
        Err(_) => Ok(()),
    });
    stack.start();
    let workers = stack.ready("web", 2);
    assert!(workers.iter().all(|it| it.life() != victim.life()), "{workers:?}");
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}
