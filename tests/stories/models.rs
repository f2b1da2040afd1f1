//! The other models, and how they differ.

use std::time::Instant;

use crate::rig::stack::PATIENT;
use crate::rig::{Backend, Stack, eventually};

pub fn threads_share_a_fault_and_catch_a_panic(backend: Backend) {
    let model = "worker: { model: { threads: 4 } }\nredeliver: { attempts: 1 }";
    let stack = Stack::web(backend, 1, &format!("{model}\n{PATIENT}"));
    let worker = stack.ready("web", 1)[0].clone();
    // The first of them may serve before the last has been started.
    eventually("there are four that serve, and the main one", || {
        let threads = stack.connect().get("/").line("threads");
        if threads == backend.threads(5) { Ok(()) } else { Err(threads) }
    });
    // A panic is the end of one turn, and the worker lives on.
    let sibling = stack.occupies_one();
    assert_eq!(stack.connect().get("/panic").status, 500);
    sibling.ends();
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    // A fault is the end of all.
    let mut sibling = stack.connect();
    sibling.send_get("/work?ms=5000");
    stack.holder_of("GET /work?ms=5000");
    assert_eq!(stack.connect().get("/segv").status, 502);
    assert_eq!(sibling.response().status, 502);
    let incident = stack.api().told(&worker.life());
    assert_eq!(incident["held"].as_array().unwrap().len(), 2, "{incident:#}");
    stack.down();
}

pub fn a_panic_over_each_request_of_a_connection_costs_no_worker(backend: Backend) {
    let stack = Stack::web(backend, 1, "turn: connection\nworker: { model: { threads: 2 } }");
    let worker = stack.ready("web", 1)[0].clone();
    let mut sibling = stack.connect();
    assert_eq!(sibling.get("/work?ms=1").status, 200);
    let mut client = stack.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/panic").text(), "the handler panicked\n");
    }
    // Both connections are still with the worker that they were given to.
    assert_eq!(client.get("/").line("generation"), worker.generation.to_string());
    assert_eq!(sibling.get("/").line("generation"), worker.generation.to_string());
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    drop((client, sibling));
    let said = stack.down();
    assert!(!said.contains("broke the protocol"), "{said}");
}

pub fn a_worker_of_many_threads_leaves_when_told(backend: Backend) {
    // Whoever comes too late for it waits for its successor.
    let limits =
        "worker: { model: { threads: 400 }, limits: { pids: 600, memory: 512MiB } }\nqueue: { wait: 60s }";
    let stack = Stack::web(backend, 1, limits);
    let worker = stack.ready("web", 1)[0].clone();
    // More than fit into the link's queue at a time, and at work when it is told to go.
    let mut clients: Vec<_> = (0..400).map(|_| stack.connect()).collect();
    for client in &mut clients {
        client.send_get("/work?ms=1000");
    }
    let asked = stack.api().post(&format!("/api/v1/workers/{}/drain", worker.id), &serde_json::json!({}));
    assert!((200..300).contains(&asked.status), "{asked:?}");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    eventually("it has left, and another has come", || {
        let now = stack.api().worker(&worker.id);
        if now.generation > worker.generation && now.is_ready() { Ok(()) } else { Err(vec![now]) }
    });
    assert_eq!(stack.api().incidents().len(), 0, "it did not leave of its own accord");
    stack.down();
}

pub fn an_event_loop_waits_for_many_and_blocks_for_all(backend: Backend) {
    let stack = Stack::web(backend, 1, "worker: { model: { event: 64 } }\nqueue: { wait: 60s }");
    stack.ready("web", 1);
    assert_eq!(stack.connect().get("/").line("threads"), backend.threads(1));
    let mut waiting: Vec<_> = (0..32).map(|_| stack.connect()).collect();
    for client in &mut waiting {
        client.send_get("/work?ms=3000");
    }
    eventually("one thread holds them all", || {
        let held = stack.api().worker("web-0").holding.len();
        if held == 32 { Ok(()) } else { Err(held) }
    });
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    // A panic is the end of all that it holds, and of it.
    let mut sibling = stack.connect();
    sibling.send_get("/work?ms=5000");
    let worker = stack.holder_of("GET /work?ms=5000");
    let poison = stack.connect().get("/panic");
    assert_eq!(poison.status, 502, "{}", poison.text());
    drop(sibling);
    stack.api().told(&worker.life());
    stack.ready("web", 1);
    // It takes no body that it has no room for, and says so at once.
    let mut large = stack.connect();
    large.send("PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(large.response().status, 413);
    assert_eq!(large.rest().unwrap(), b"");
    // HEAD says how long a stream is, and sends nothing of it.
    let mut client = stack.connect();
    client.send("HEAD /stream?kb=1&ms=10 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").unwrap().status, 200);
    assert_eq!(client.get("/work?ms=1").text(), "worked 1 ms\n");
    // One that computes stops everybody.
    let mut greedy = stack.connect();
    let start = Instant::now();
    greedy.send_get("/cpu?ms=1500");
    stack.holder_of("GET /cpu");
    let mut interactive = stack.connect();
    assert_eq!(interactive.get("/work?ms=0").status, 200);
    let others = start.elapsed();
    assert_eq!(greedy.response().status, 200);
    assert!(
        others.as_millis() >= 1500,
        "it was served after {others:?}, beside one that computes for 1500 ms"
    );
    stack.down();
}
