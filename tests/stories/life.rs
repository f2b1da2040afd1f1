//! How it goes when nothing goes wrong.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::rig::http::Connection;
use crate::rig::load::Load;
use crate::rig::{Backend, Stack, eventually};

pub fn serves(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let page = stack.connect().get("/");
    assert_eq!(page.status, 200);
    assert_eq!(
        (page.line("pool"), page.line("model"), page.line("threads")),
        ("web".into(), "prefork".into(), backend.threads(1))
    );
    // Two that block at once are served by two workers, side by side.
    let (mut one, mut two) = (stack.connect(), stack.connect());
    one.send_get("/work?ms=2000");
    two.send_get("/work?ms=2000");
    let holders = eventually("two workers hold a turn each", || {
        let holders: BTreeSet<_> =
            stack.api().workers().into_iter().filter(|it| it.holding.len() == 1).map(|it| it.id).collect();
        if holders.len() == 2 { Ok(holders) } else { Err(holders) }
    });
    assert_eq!(holders, BTreeSet::from(["web-0".to_owned(), "web-1".to_owned()]));
    assert_eq!(
        (one.response().text(), two.response().text()),
        ("worked 2000 ms\n".into(), "worked 2000 ms\n".into())
    );
    stack.down();
}

pub fn a_worker_knows_its_clients_address(backend: Backend) {
    let pool = |name: &str, more: &str| {
        format!("{name}:\n  listen: 127.0.0.1:0\n  size: {{ workers: 1 }}\n  {more}\n")
    };
    let pools =
        [pool("web", ""), pool("whole", "turn: connection"), pool("loop", "worker: { model: { event: 4 } }")];
    let stack = Stack::up(backend, &pools.concat());
    for name in ["web", "whole", "loop"] {
        stack.ready(name, 1);
        for _ in 0..2 {
            let mut client = Connection::to(stack.address(name));
            // Again on the same connection, which no second worker has seen come.
            for _ in 0..2 {
                assert_eq!(client.get("/").line("client"), client.address().to_string(), "{name}");
            }
        }
    }
    stack.down();
}

pub fn a_connection_is_a_turn_on_the_echo_pool(backend: Backend) {
    let pool = "echo:\n  listen: 127.0.0.1:0\n  protocol: tcp\n  turn: connection\n  size: { workers: 2 }\n  worker: { app: echo }";
    let stack = Stack::up(backend, pool);
    stack.ready("echo", 2);
    let mut first = Connection::to(stack.address("echo"));
    first.send("hello");
    assert_eq!(first.exactly(11), b"Echo: hello");
    let mut second = Connection::to(stack.address("echo"));
    second.send("you");
    assert_eq!(second.exactly(9), b"Echo: you");
    // Both workers are taken: a third client waits, and is served when the first one leaves.
    let mut third = Connection::to(stack.address("echo"));
    third.send("late");
    eventually("the third client waits", || match stack.api().pool("echo")["queued"].as_u64() {
        Some(1) => Ok(()),
        queued => Err(queued),
    });
    first.end();
    assert_eq!(first.rest().unwrap(), b"");
    assert_eq!(third.exactly(10), b"Echo: late");
    drop((second, third));
    stack.down();
}

pub fn drain_lets_a_turn_finish_and_replaces_its_worker(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    client.send_get("/work?ms=3000");
    let worker = stack.holder_of("GET /work");
    let answer = stack.api().post(&format!("/api/v1/workers/{}/drain", worker.id), &serde_json::json!({}));
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert_eq!(client.response().text(), "worked 3000 ms\n");
    eventually("the drained worker has a successor", || {
        let now = stack.api().worker(&worker.id);
        if now.generation > worker.generation && now.is_ready() { Ok(()) } else { Err(vec![now]) }
    });
    assert_eq!(stack.api().incidents().len(), 0, "a drain is no incident");
    stack.down();
}

pub fn scale_follows_up_and_down_and_loses_nothing(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let load = Load::start(stack.address("web"), 4, "/work?ms=5");
    assert!((200..300).contains(&stack.api().scale("web", 5).status));
    stack.ready("web", 5);
    assert!((200..300).contains(&stack.api().scale("web", 1).status));
    eventually("one worker is left", || {
        let workers = stack.api().workers();
        if workers.len() == 1 { Ok(()) } else { Err(workers) }
    });
    let tally = load.stop();
    assert!(tally.failed.is_empty() && tally.answered > 0, "{tally:?}");
    assert_eq!(stack.api().incidents().len(), 0, "scaling is no incident");
    stack.down();
}

pub fn recycled_workers_cost_no_request(backend: Backend) {
    // Both may retire at the same time, and nothing is said of how soon a busy machine has others.
    let stack = Stack::web(backend, 2, "recycle: { requests: 20, jitter: 0.2 }\nqueue: { wait: 60s }");
    stack.ready("web", 2);
    let load = Load::start(stack.address("web"), 4, "/work?ms=2");
    eventually("both places are in their third life", || {
        let workers = stack.api().workers();
        if workers.len() == 2 && workers.iter().all(|it| it.generation >= 3) { Ok(()) } else { Err(workers) }
    });
    let tally = load.stop();
    assert!(tally.failed.is_empty() && tally.answered >= 64, "{tally:?}");
    assert_eq!(stack.api().incidents().len(), 0, "retiring is no incident");
    stack.down();
}

pub fn a_second_ctrl_c_cuts_off_and_leaves_nothing(backend: Backend) {
    let mut stack = Stack::web(backend, 4, "timeouts: { request: 60s, drain: 60s }");
    stack.ready("web", 4);
    let mut clients: Vec<_> = (0..4).map(|_| stack.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_get(&format!("/hang?{number}"));
        stack.holder_of(&format!("GET /hang?{number}"));
    }
    stack.interrupt();
    eventually("it drains", || if stack.said().contains("draining") { Ok(()) } else { Err(stack.said()) });
    let started = Instant::now();
    stack.interrupt();
    let (status, said) = stack.wait();
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}:\n{said}", started.elapsed());
    assert!(!status.success() && said.contains("cut off: 4"), "{status}:\n{said}");
    assert_eq!(stack.leftovers(), Vec::<String>::new());
    assert!(!stack.run_dir().exists(), "the run directory was left behind");
}

pub fn an_answer_that_a_drain_cuts_does_not_look_whole(backend: Backend) {
    let mut stack = Stack::web(backend, 1, "timeouts: { drain: 300ms }");
    stack.ready("web", 1);
    // To this client the end of the connection is the end of the answer.
    let mut client = stack.connect();
    client.send("GET /stream?kb=64&ms=600000 HTTP/1.0\r\n\r\n");
    client.exactly(15);
    stack.interrupt();
    let end = client.rest().map(|rest| rest.len()).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{}", stack.said());
    stack.wait();
    assert_eq!(stack.leftovers(), Vec::<String>::new());
}

pub fn ctrl_c_lets_turns_finish_and_leaves_nothing(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut parked = stack.connect();
    assert_eq!(parked.get("/work?ms=1").status, 200);
    let mut busy = stack.connect();
    busy.send_get("/work?ms=3000");
    stack.holder_of("GET /work?ms=3000");
    stack.interrupt();
    assert_eq!(parked.rest().expect("the idle connection is closed, not reset"), b"");
    assert_eq!(busy.response().text(), "worked 3000 ms\n");
    let (status, said) = stack.wait();
    assert!(status.success(), "{status}:\n{said}");
    // They were sent home, and had not to be ended.
    for life in ["web-0.1", "web-1.1"] {
        assert!(said.contains(&format!("left worker={life}")), "{said}");
    }
    assert_eq!(stack.leftovers(), Vec::<String>::new());
}

pub fn who_is_idle_with_a_worker_does_not_hold_up_a_drain(backend: Backend) {
    let pool = |name: &str, model: &str| {
        format!(
            "{name}:\n  listen: 127.0.0.1:0\n  turn: connection\n  size: {{ workers: 1 }}\n  \
             worker: {{ model: {model} }}\n  timeouts: {{ keep_alive: 10m, drain: 10m, request: 10m }}\n"
        )
    };
    let pools = [pool("web", "prefork"), pool("threads", "{ threads: 2 }"), pool("loop", "{ event: 4 }")];
    let mut stack = Stack::up(backend, &pools.concat());
    let idle_at = |stack: &Stack, pool: &str| {
        let mut client = Connection::to(stack.address(pool));
        assert_eq!(client.get("/work?ms=1").status, 200, "{pool}");
        client
    };
    // A worker that is told to go does not wait for what nobody has asked.
    for pool in ["web", "threads", "loop"] {
        let worker = stack.ready(pool, 1)[0].clone();
        let mut idle = idle_at(&stack, pool);
        let path = format!("/api/v1/workers/{}/drain", worker.id);
        let answer = stack.api().post(&path, &serde_json::json!({}));
        assert!((200..300).contains(&answer.status), "{answer:?}");
        assert_eq!(idle.rest().expect("it is closed, not reset"), b"", "{pool}");
        eventually("the drained worker has a successor", || {
            let now = stack.api().worker(&worker.id);
            if now.generation > worker.generation && now.is_ready() { Ok(()) } else { Err(vec![now]) }
        });
    }
    // Neither does the door, when all are to go; whoever is being served is served.
    let mut idle: Vec<_> = ["web", "threads", "loop"].iter().map(|pool| idle_at(&stack, pool)).collect();
    let mut busy = Connection::to(stack.address("loop"));
    busy.send_get("/work?ms=3000");
    stack.holder_of("GET /work?ms=3000");
    stack.interrupt();
    for client in &mut idle {
        assert_eq!(client.rest().expect("it is closed, not reset"), b"");
    }
    assert_eq!(busy.response().text(), "worked 3000 ms\n");
    let (status, said) = stack.wait();
    assert!(status.success(), "{status}:\n{said}");
    assert_eq!(stack.leftovers(), Vec::<String>::new());
}

pub fn who_has_got_through_before_a_stop_is_served(backend: Backend) {
    use rustix::process::{Signal, kill_process};

    let mut stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    // The kernel takes connections for a door that does not come to accept them.
    let door = stack.door_pid();
    kill_process(door, Signal::STOP).unwrap();
    let mut clients: Vec<_> = (0..400).map(|_| stack.connect()).collect();
    for client in &mut clients[..300] {
        client.send_get("/work?ms=0");
    }
    // Some are in the middle of sending it, and one has nothing to ask.
    for client in &mut clients[300..] {
        client.send("GET /work?ms=0 HTT");
    }
    let mut silent = stack.connect();
    stack.interrupt();
    stack.drains();
    // A SIGTERM besides would be the second word, after which it cuts off what is left.
    kill_process(door, Signal::CONT).unwrap();
    for client in &mut clients[300..] {
        client.send("P/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(silent.rest().expect("it is closed, not reset"), b"");
    let (status, said) = stack.wait();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(stack.leftovers(), Vec::<String>::new());
}

pub fn who_has_got_through_is_served_when_descriptors_run_out(backend: Backend) {
    use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

    let mut stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let door = stack.door_pid();
    kill_process(door, Signal::STOP).unwrap();
    let mut clients: Vec<_> = (0..8).map(|_| stack.connect()).collect();
    for client in &mut clients {
        client.send_get("/work?ms=0");
    }
    // When it comes to let them in it has more descriptors than it may have, whichever it closes meanwhile: the first
    // ones are the runtime's.
    const OF_THE_RUNTIME: u64 = 5;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let low = Rlimit { current: Some(OF_THE_RUNTIME), maximum };
    let before = prlimit(Some(door), Resource::Nofile, low).unwrap();
    stack.interrupt();
    stack.drains();
    // A SIGTERM besides would be the second word, after which it cuts off what is left.
    kill_process(door, Signal::CONT).unwrap();
    eventually("it has no room for the last ones", || {
        let log = stack.door_log();
        if log.contains("the last clients have to wait") { Ok(()) } else { Err(log) }
    });
    prlimit(Some(door), Resource::Nofile, before).unwrap();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    let (status, said) = stack.wait();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(stack.leftovers(), Vec::<String>::new());
}

pub fn a_door_that_hangs_does_not_hold_up_a_stop(backend: Backend) {
    use rustix::process::{Signal, kill_process};

    let mut stack = Stack::web(backend, 2, "timeouts: { request: 60s, drain: 60s }");
    stack.ready("web", 2);
    kill_process(stack.door_pid(), Signal::STOP).unwrap();
    let began = std::time::Instant::now();
    stack.interrupt();
    let (_, said) = stack.wait();
    assert!(said.contains("workers that finished what they held: 2\n"), "{said}");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(40),
        "it waited for the door: {:?}",
        began.elapsed()
    );
    assert_eq!(stack.leftovers(), Vec::<String>::new());
}
