//! Door and controller die, each on its own.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Signal, kill_process};

use crate::rig::api::Worker;
use crate::rig::backend::Availability;
use crate::rig::http::Connection;
use crate::rig::load::Load;
use crate::rig::old_door;
use crate::rig::{Backend, Stack, eventually};

pub fn the_controller_can_die_and_the_next_one_adopts(backend: Backend) {
    let mut stack = Stack::web(backend, 3, "");
    let lives = |stack: &Stack| -> BTreeMap<_, _> {
        stack
            .ready("web", 3)
            .into_iter()
            .map(|it| (it.id.clone(), (it.generation, it.pid, it.container)))
            .collect()
    };
    let before = lives(&stack);
    let load = Load::start(stack.address("web"), 4, "/work?ms=5");
    stack.kill_controller();
    let address = {
        stack.start();
        stack.address("web")
    };
    assert_eq!(lives(&stack), before, "other workers than before");
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    assert!(tally.answered > 0 && address.port() > 0);
    // It is their master now: it notices a death and replaces the dead.
    let victim = stack.api().worker("web-1");
    stack.kill_from_outside(&victim);
    stack.api().told(&victim.life());
    assert_eq!(stack.ready("web", 3).len(), 3);
    stack.down();
}

pub fn a_door_of_another_build_is_replaced(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    let before = stack.ready("web", 2);
    stack.kill_controller();
    kill_process(stack.door_pid(), Signal::KILL).unwrap();
    let mut old = old_door::start(&stack);
    stack.start();
    assert!(old.wait().unwrap().code().is_none(), "the old door was not told to go by a signal");
    assert!(stack.said().contains("of another build"), "{}", stack.said());
    assert_eq!(lives(&stack.ready("web", 2)), lives(&before), "workers were replaced although none had died");
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}

pub fn a_door_that_hangs_is_replaced_by_the_next_up(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    let before = stack.ready("web", 2);
    stack.kill_controller();
    let hangs = stack.door_pid();
    kill_process(hangs, Signal::STOP).unwrap();
    stack.start();
    assert!(stack.said().contains("hangs"), "{}", stack.said());
    assert_ne!(stack.door_pid(), hangs);
    assert_eq!(lives(&stack.ready("web", 2)), lives(&before), "workers were replaced although none had died");
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}

pub fn a_door_that_hangs_is_told_of_and_replaced(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    let before = stack.ready("web", 2);
    let hangs = stack.door_pid();
    kill_process(hangs, Signal::STOP).unwrap();
    eventually("it is told of", || {
        let status = stack.api().get("/readyz").status;
        if status == 503 { Ok(()) } else { Err(status) }
    });
    eventually("it is replaced", || {
        let now = stack.api().get("/readyz").status;
        if now == 200 && stack.door_pid() != hangs { Ok(()) } else { Err((now, stack.said())) }
    });
    assert_eq!(lives(&stack.ready("web", 2)), lives(&before), "workers were replaced although none had died");
    assert_eq!(stack.api().incidents().len(), 0);
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}

pub fn a_turn_outlives_its_door(backend: Backend) {
    let stack = Stack::web(backend, 1, "timeouts: { start: 1s }");
    let before = stack.ready("web", 1);
    let mut client = stack.connect();
    client.send_get("/work?ms=4000");
    stack.at_work_on("GET /work?ms=4000");
    let dies = stack.door_pid();
    kill_process(dies, Signal::KILL).unwrap();
    // The worker cannot dial the next door before it is done with its turn. Where it has the connection as well, the client
    // does not notice.
    outlives_the_door(backend, &mut client, "worked 4000 ms\n");
    eventually("the next door is there", || if stack.door_pid() == dies { Err(dies) } else { Ok(()) });
    let mut next = eventually("the next door is open", || Connection::try_to(stack.address("web")));
    assert_eq!(next.get("/work?ms=1").status, 200, "it has come to the next door");
    assert_eq!(lives(&stack.ready("web", 1)), lives(&before), "a worker was killed for being at work");
    assert_ne!(stack.door_pid(), dies);
    assert_eq!(stack.api().incidents().len(), 0);
    stack.down();
}

fn lives(workers: &[Worker]) -> BTreeSet<String> {
    workers.iter().map(Worker::life).collect()
}

pub fn another_backend_is_refused_while_workers_live(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    let before = stack.ready("web", 2);
    stack.kill_controller();
    let other = if backend.is_docker() { Backend::Process } else { Backend::Docker };
    if let Availability::Missing { why } = other.availability() {
        eprintln!("skipped: there is no other backend: {why}");
    } else {
        let refused = stack.start_in_vain(&["--backend", other.word()]);
        assert!(refused.contains("workers of an earlier run still live"), "{refused}");
        assert!(refused.contains("web-0.1, web-1.1"), "{refused}");
        assert!(refused.contains(&format!("--backend {}", backend.word())), "no remedy: {refused}");
    }
    stack.start();
    assert_eq!(lives(&stack.ready("web", 2)), lives(&before), "they were not adopted as they were");
    stack.down();
}

/// Of pods alone: two machines can have a deployment of one name in a namespace, as two engines' cannot.
pub fn whose_workers_are_somebody_elses_is_refused(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    let before = stack.ready("web", 1);
    let noted = std::fs::read_to_string(stack.run_dir().join("control/quarters.json")).unwrap();
    let noted: serde_json::Value = serde_json::from_str(&noted).unwrap();
    let elsewhere = stack.dir.path().join("elsewhere");
    let refused = stack.start_elsewhere_in_vain(&elsewhere, &["--owner", noted["owner"].as_str().unwrap()]);
    assert!(refused.contains("leads by the lease"), "{refused}");
    assert!(refused.contains(stack.run_dir().to_str().unwrap()), "it is not said who: {refused}");
    assert!(refused.contains("--owner"), "no remedy: {refused}");
    assert!(!elsewhere.exists(), "its run directory was left behind");
    assert_eq!(lives(&stack.ready("web", 1)), lives(&before), "somebody has touched them");
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}

/// A client whose door has died has its answer all the same, or, where all that it is told goes through the door, its end.
fn outlives_the_door(backend: Backend, client: &mut crate::rig::http::Connection, answer: &str) {
    if backend.is_tunnel() {
        let rest = client.rest();
        assert!(rest.as_ref().map_or(true, Vec::is_empty), "{rest:?}");
    } else {
        assert_eq!(client.response().text(), answer);
    }
}

pub fn the_door_can_die_and_workers_find_the_next(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let before: BTreeMap<_, _> = stack.api().workers().into_iter().map(|it| (it.id, it.generation)).collect();
    // A turn that a worker holds is served to its end, on the worker's own duplicate of the socket, if it has one.
    let mut client = stack.connect();
    client.send_get("/work?ms=4000");
    stack.holder_of("GET /work?ms=4000");
    let old = stack.door_pid();
    kill_process(old, Signal::KILL).unwrap();
    outlives_the_door(backend, &mut client, "worked 4000 ms\n");
    eventually("another door is there and its workers serve", || {
        let listen = stack.api().pool("web")["listen"].as_str().unwrap().parse().unwrap();
        let answer = std::net::TcpStream::connect(listen)
            .and_then(|_| crate::rig::http::Connection::to(listen).send_get("/work?ms=1").try_response())
            .map(|answer| answer.status);
        match answer {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    stack.ready("web", 2);
    let after: BTreeMap<_, _> = stack.api().workers().into_iter().map(|it| (it.id, it.generation)).collect();
    assert_eq!(after, before, "workers were replaced although none had died");
    stack.down();
}
