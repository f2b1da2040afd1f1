//! The other models, and how they differ.

use std::time::Instant;

use crate::rig::{Backend, Stack, eventually};

pub fn threads_share_a_fault_and_catch_a_panic(backend: Backend) {
    let stack = Stack::web(backend, 1, "worker: { model: { threads: 4 } }\nredeliver: { attempts: 1 }");
    let worker = stack.ready("web", 1)[0].clone();
    assert_eq!(stack.connect().get("/").line("threads"), "5", "four that serve, and the main one");
    // A panic is the end of one turn, and the worker lives on.
    let mut sibling = stack.connect();
    sibling.send_get("/work?ms=300");
    stack.holder_of("GET /work?ms=300");
    assert_eq!(stack.connect().get("/panic").status, 500);
    assert_eq!(sibling.response().status, 200);
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    // A fault is the end of all.
    let mut sibling = stack.connect();
    sibling.send_get("/work?ms=5000");
    stack.holder_of("GET /work?ms=5000");
    assert_eq!(stack.connect().get("/segv").status, 502);
    assert_eq!(sibling.response().status, 502);
    let incident = stack.api().incident(&worker.life(), |it| it["steps_ms"]["ready"].is_number());
    assert_eq!(incident["held"].as_array().unwrap().len(), 2, "{incident:#}");
    stack.down();
}

pub fn an_event_loop_waits_for_many_and_blocks_for_all(backend: Backend) {
    let stack = Stack::web(backend, 1, "worker: { model: { event: 64 } }");
    stack.ready("web", 1);
    assert_eq!(stack.connect().get("/").line("threads"), "1");
    let mut waiting: Vec<_> = (0..32).map(|_| stack.connect()).collect();
    for client in &mut waiting {
        client.send_get("/work?ms=1000");
    }
    eventually("one thread holds them all", || {
        let held = stack.api().worker("web-0").holding.len();
        if held == 32 { Ok(()) } else { Err(held) }
    });
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    // One that computes stops everybody.
    let mut greedy = stack.connect();
    greedy.send_get("/cpu?ms=600");
    stack.holder_of("GET /cpu");
    let start = Instant::now();
    let mut interactive = stack.connect();
    assert_eq!(interactive.get("/work?ms=0").status, 200);
    let others = start.elapsed();
    assert_eq!(greedy.response().status, 200);
    assert!(others.as_millis() > 200, "it was served after {others:?}, beside one that computes for 600 ms");
    stack.down();
}
