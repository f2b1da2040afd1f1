//! Handlers that hang, leak, fork and hoard: what a compartment is for.

use crate::rig::http::Connection;
use crate::rig::load::Load;
use crate::rig::{Backend, Stack, eventually};

pub fn a_hang_is_ended_named_and_answered_504(backend: Backend) {
    let stack = Stack::web(backend, 2, "timeouts: { request: 700ms }");
    stack.ready("web", 2);
    let answer = stack.connect().get("/hang");
    assert_eq!(answer.status, 504);
    let life = answer.json()["incident"].as_str().unwrap().to_owned();
    let incident = stack.api().told(&life);
    assert_eq!(incident["cause"]["kind"], "request_timeout", "{incident:#}");
    assert!(incident["cause"]["detail"].as_str().unwrap().contains("GET /hang"), "{incident:#}");
    assert_eq!(
        (&incident["held"][0]["outcome"], &incident["held"][0]["status"]),
        (&"answered".into(), &504.into())
    );
    stack.ready("web", 2);
    // Nobody but the worker knows where these end, and whether it hangs or waits for more. The client is told all the same.
    let chunks = format!("11170\r\n{}\r\n0\r\n\r\n", "x".repeat(70_000));
    let mut client = stack.connect();
    client.send("POST /hang?1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").send(chunks);
    let answer = client.response();
    assert_eq!((answer.status, client.rest().unwrap()), (504, Vec::new()));
    let life = answer.json()["incident"].as_str().unwrap().to_owned();
    let incident = stack.api().told(&life);
    assert_eq!(incident["cause"]["kind"], "request_timeout", "{incident:#}");
    stack.ready("web", 2);
    stack.down();
}

pub fn a_client_that_stalls_costs_no_worker(backend: Backend) {
    let stack = Stack::web(backend, 1, "timeouts: { request: 700ms }");
    let worker = stack.ready("web", 1)[0].clone();
    // One that takes nothing of its answer, one that would take the end of the connection for the answer's, and one that
    // does not send all of its body.
    let mut reader = stack.connect();
    reader.send_get("/stream?kb=65536&ms=1");
    stack.holder_of("GET /stream");
    stack.api().worker("web-0");
    eventually("the worker is free again", || {
        let now = stack.api().worker("web-0");
        if now.phase == "idle" && now.turns == 1 { Ok(()) } else { Err(vec![now]) }
    });
    let mut old = stack.connect();
    old.send("GET /stream?kb=65536&ms=1 HTTP/1.0\r\n\r\n");
    eventually("the worker is free again", || {
        let now = stack.api().worker("web-0");
        if now.phase == "idle" && now.turns == 2 { Ok(()) } else { Err(vec![now]) }
    });
    let end = old.rest().map(|rest| rest.len()).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    let mut sender = stack.connect();
    sender
        .send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        .send(vec![b'x'; 100_000]);
    assert!(
        !sender.try_response().is_ok_and(|answer| answer.complete),
        "the answer to half a body was whole"
    );
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    assert_eq!(stack.api().worker("web-0").generation, worker.generation, "it was killed");
    assert_eq!(stack.api().incidents().len(), 0);
    drop(reader);
    stack.down();
}

pub fn a_client_that_may_still_be_sending_costs_no_worker(backend: Backend) {
    let quick = "timeouts: { request: 700ms }";
    let stack = Stack::up(
        backend,
        &format!(
            "web:\n  listen: 127.0.0.1:0\n  size: {{ workers: 1 }}\n  worker: {{ model: {{ event: 2 }} }}\n  {quick}\n\
             echo:\n  listen: 127.0.0.1:0\n  protocol: tcp\n  size: {{ workers: 1 }}\n  {quick}\n"
        ),
    );
    let generations = |pool: &str| stack.ready(pool, 1)[0].generation;
    let before = (generations("web"), generations("echo"));
    // Chunks do not say how many will come, and neither does a raw client.
    let mut chunks = stack.connect();
    chunks.send("POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n");
    chunks.send(vec![b'x'; 100_000]);
    // Behind a body that the door has not seen whole, it does not know where the next one begins.
    let mut second = stack.connect();
    let upload = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    second.send(upload).send(vec![b'x'; 100_000]);
    assert_eq!(second.response().status, 200);
    second.send(upload).send("x");
    let mut silent = Connection::to(stack.address("echo"));
    for client in [&mut chunks, &mut second] {
        let answer = client.response();
        assert_eq!(answer.status, 408, "{}", answer.text());
        assert_eq!(client.rest().expect("it is closed, not reset"), b"");
    }
    assert_eq!(silent.rest().expect("it is closed, not reset"), b"");
    assert_eq!((generations("web"), generations("echo")), before, "a worker was killed");
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    assert_eq!(stack.api().incidents().len(), 0);
    stack.down();
}

pub fn out_of_memory_is_told_as_such(backend: Backend) {
    let stack = Stack::web(backend, 2, "worker: { limits: { memory: 32MiB } }\nredeliver: { attempts: 1 }");
    stack.ready("web", 2);
    let answer = stack.connect().get("/leak?mb=256");
    assert_eq!(answer.status, 502, "{}", answer.text());
    let life = answer.json()["incident"].as_str().unwrap().to_owned();
    let incident = stack.api().told(&life);
    assert_eq!(incident["cause"]["kind"], "oom", "{incident:#}");
    assert!(
        incident["cause"]["detail"].as_str().unwrap().contains("32"),
        "the limit is not named: {incident:#}"
    );
    stack.down();
}

pub fn a_fork_bomb_stays_in_its_compartment(backend: Backend) {
    let stack = Stack::web(backend, 2, "worker: { limits: { pids: 32 } }");
    stack.ready("web", 2);
    let answer = stack.connect().get("/forks?n=5000");
    assert_eq!(answer.status, 507, "nothing stopped it: {}", answer.text());
    // The bomb sits in one worker; the other serves as ever.
    let load = Load::start(stack.address("web"), 2, "/work?ms=2");
    let bombed = stack.api().workers().into_iter().max_by_key(|it| it.turns).unwrap();
    stack.kill_from_outside(&bombed);
    stack.api().told(&bombed.life());
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    stack.ready("web", 2);
    // Its children are gone with it.
    stack.down();
}

pub fn descriptor_exhaustion_stays_in_its_compartment(backend: Backend) {
    let stack = Stack::web(backend, 2, "worker: { model: { threads: 4 }, limits: { open_files: 64 } }");
    stack.ready("web", 2);
    let answer = stack.connect().get("/files?n=5000");
    assert_eq!(answer.status, 507, "nothing stopped it: {}", answer.text());
    // One descriptor is left, the last client's. Four clients at a time are more than it can take: it exits, and
    // they go to another.
    let load = Load::start(stack.address("web"), 8, "/work?ms=2");
    eventually("the worker without descriptors was replaced", || {
        let incidents = stack.api().incidents();
        let exit = incidents.iter().any(|it| it["cause"]["kind"] == "exit");
        if exit { Ok(()) } else { Err(incidents) }
    });
    stack.ready("web", 2);
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    stack.down();
}

pub fn a_child_that_keeps_the_link_does_not_hide_a_death(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    assert_eq!(client.get("/forks?n=2&keep=1").status, 200);
    // The same worker, for it came back last.
    client.send_get("/work?ms=3000");
    let victim = stack.holder_of("GET /work?ms=3000");
    assert!(victim.turns > 0, "the worker with the children is not the one: {victim:?}");
    // Only the worker itself dies; its children still have the link open.
    let pid = stack.pid_of(&victim).as_raw_nonzero().get();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(client.response().text(), "worked 3000 ms\n");
    stack.api().told(&victim.life());
    stack.ready("web", 2);
    stack.down();
}
