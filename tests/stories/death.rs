//! A worker dies, and what becomes of its clients.

use std::time::{Duration, Instant};

use server::control::Order;

use crate::rig::controller::FakeController;
use crate::rig::http::Connection;
use crate::rig::load::Load;
use crate::rig::stack::PATIENT;
use crate::rig::worker::FakeWorker;
use crate::rig::{Backend, Stack, eventually};

pub fn killed_while_idle_is_replaced(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    let victim = stack.ready("web", 2)[0].clone();
    stack.kill_from_outside(&victim);
    let incident = stack.api().told(&victim.life());
    assert_eq!(incident["cause"]["kind"], "signal", "{incident:#}");
    assert_eq!(incident["cause"]["detail"], "SIGKILL", "{incident:#}");
    assert_eq!(incident["held"], serde_json::json!([]), "{incident:#}");
    assert_eq!(incident["siblings"], 1, "{incident:#}");
    let workers = stack.ready("web", 2);
    let successor = workers.iter().find(|it| it.id == victim.id).expect("the same place is filled");
    assert_eq!(successor.generation, victim.generation + 1);
    stack.down();
}

pub fn killed_in_a_get_is_answered_by_another(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    client.send_get("/work?ms=3000");
    let victim = stack.holder_of("GET /work?ms=3000");
    stack.kill_from_outside(&victim);
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "worked 3000 ms\n"));
    // The connection goes on as if nothing had happened.
    assert_eq!(client.get("/work?ms=1").status, 200);
    let incident = stack.api().told(&victim.life());
    let held = &incident["held"][0];
    assert_eq!(
        (&held["request"], &held["outcome"]),
        (&"GET /work?ms=3000".into(), &"redelivered".into()),
        "{incident:#}"
    );
    let other = if victim.id == "web-0" { "web-1" } else { "web-0" };
    assert_eq!(held["to"], other, "{incident:#}");
    assert!(held["added_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{incident:#}");
    for step in ["redelivered", "spawned", "ready"] {
        assert!(incident["steps_ms"][step].as_f64().is_some_and(|ms| ms >= 0.0), "{step}: {incident:#}");
    }
    stack.down();
}

pub fn killed_in_a_post_is_executed_at_most_once(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    client.send_post("/work?ms=10000", "charge 10");
    let victim = stack.at_work_on("POST /work");
    stack.kill_from_outside(&victim);
    let answer = client.response();
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["incident"], victim.life(), "{}", answer.text());
    assert_eq!(stack.api().pool("web")["counters"]["deliveries"], 1, "it was delivered again");
    let incident = stack.api().told(&victim.life());
    assert_eq!(incident["held"][0]["outcome"], "answered", "{incident:#}");
    assert_eq!(incident["held"][0]["status"], 502, "{incident:#}");
    // One that says that it may be repeated is.
    let mut client = stack.connect();
    client
        .send("POST /work?ms=3000 HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 7\r\nContent-Length: 2\r\n\r\nhi");
    let victim = stack.at_work_on("POST /work?ms=3000");
    stack.kill_from_outside(&victim);
    assert_eq!(client.response().status, 200);
    stack.down();
}

pub fn killed_in_an_answer_cuts_it_and_answers_once(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    let died_of = if backend.is_tunnel() {
        // What a worker wrote in the moment of its death may not have left its process, and there is no answer to be cut.
        client.send_get("/stream?kb=64&ms=5000");
        let victim = stack.holder_of("GET /stream");
        client.exactly(1000);
        stack.kill_from_outside(&victim);
        assert!(client.rest().unwrap().len() < 64 * 1024, "the answer was whole");
        "SIGKILL"
    } else {
        client.send_get("/die-after?bytes=100");
        let answer = client.response();
        assert_eq!((answer.status, answer.complete, answer.body.len()), (200, false, 100));
        assert_eq!(client.rest().unwrap(), b"", "something followed the answer that was cut");
        "SIGABRT"
    };
    assert_eq!(stack.api().pool("web")["counters"]["deliveries"], 1, "it was delivered again");
    let incident = eventually("there is an incident", || stack.api().incidents().pop().ok_or("none"));
    let incident = stack.api().told(incident["id"].as_str().unwrap());
    assert_eq!(incident["held"][0]["outcome"], "closed", "{incident:#}");
    assert_eq!(incident["cause"]["detail"], died_of, "{incident:#}");
    // Where the end of the connection is the end of the answer, a cut one must not end like a whole one.
    stack.ready("web", 2);
    let mut client = stack.connect();
    client.send("GET /stream?kb=64&ms=5000 HTTP/1.0\r\n\r\n");
    let victim = stack.holder_of("GET /stream");
    client.exactly(1000);
    stack.kill_from_outside(&victim);
    let end = client.rest();
    assert!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
    // Whoever dies while the deployment stops, before it is told, counts as cut off by that.
    let incident = stack.api().told(&victim.life());
    assert_eq!(incident["held"][0]["outcome"], "closed", "{incident:#}");
    stack.down();
}

pub fn killed_behind_its_answer_costs_nothing(backend: Backend) {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake";
    let stack = Stack::web(backend, 1, PATIENT);
    stack.ready("web", 1);
    // Whether or not it has come as far as to consume the request, and whatever the client has sent behind it.
    for (generation, consumes) in [(1, false), (2, true)] {
        let busy = stack.occupies_one();
        let mut worker = FakeWorker::joins(&stack, &format!("web-93.{generation}"), 1);
        let mut client = stack.connect();
        client.send_get("/work?ms=1").send_get("/work?ms=1");
        let (turn, socket) = worker.takes_a_turn();
        worker.announces(&turn, ANSWER.len());
        rustix::net::send(&socket, ANSWER.as_bytes(), rustix::net::SendFlags::empty()).unwrap();
        if consumes {
            let mut request = vec![0; turn.whole as usize];
            rustix::net::recv(&socket, &mut request[..], rustix::net::RecvFlags::WAITALL).unwrap();
        }
        drop((worker, socket));
        assert_eq!(client.response().text(), "fake");
        busy.ends();
        assert_eq!(client.response().text(), "worked 1 ms\n", "consumes: {consumes}");
        assert_eq!(client.get("/work?ms=2").text(), "worked 2 ms\n", "consumes: {consumes}");
    }
    // One that wrote less than it had announced has not answered.
    let busy = stack.occupies_one();
    let mut worker = FakeWorker::joins(&stack, "web-93.3", 1);
    let mut client = stack.connect();
    client.send_get("/work?ms=1");
    let (turn, socket) = worker.takes_a_turn();
    worker.announces(&turn, ANSWER.len());
    rustix::net::send(&socket, &ANSWER.as_bytes()[..ANSWER.len() - 1], rustix::net::SendFlags::empty())
        .unwrap();
    drop((worker, socket));
    assert!(!client.response().complete);
    assert_eq!(client.rest().unwrap(), b"", "something followed the answer that was cut");
    busy.ends();
    stack.down();
}

pub fn a_poison_get_stops_at_the_limit(backend: Backend) {
    let stack = Stack::web(backend, 3, "");
    stack.ready("web", 3);
    let answer = stack.connect().get("/segv");
    assert_eq!(answer.status, 502);
    let last = answer.json()["incident"].as_str().unwrap().to_owned();
    let incident = stack.api().told(&last);
    assert_eq!(incident["cause"]["detail"], "SIGSEGV", "{incident:#}");
    let incidents = stack.api().incidents();
    assert_eq!(incidents.len(), 2, "two deliveries is the limit: {incidents:#?}");
    let outcomes: Vec<_> =
        stack.api().incidents().iter().map(|it| it["held"][0]["outcome"].clone()).collect();
    assert_eq!(outcomes, ["answered", "redelivered"], "newest first");
    // An exit names its code.
    assert_eq!(stack.connect().get("/exit?code=7").status, 502);
    stack.ready("web", 3);
    let exited = eventually("both exits are told", || {
        let incidents = stack.api().incidents();
        let exits = incidents.iter().filter(|it| it["cause"]["kind"] == "exit").cloned().collect::<Vec<_>>();
        if exits.len() == 2 { Ok(exits) } else { Err(incidents) }
    });
    assert!(
        exited.iter().all(|it| it["cause"]["detail"].as_str().is_some_and(|detail| detail.contains('7')))
    );
    assert_eq!(stack.connect().get("/").status, 200);
    stack.down();
}

pub fn killed_under_load_loses_no_get(backend: Backend) {
    let restart = "restart: { backoff: 1ms, longest: 1ms, deaths: 1000, within: 10s }";
    let stack = Stack::web(backend, 4, restart);
    stack.ready("web", 4);
    let load = Load::start(stack.address("web"), 8, "/work?ms=20");
    let start = Instant::now();
    for kill in 0..8 {
        // The next victim is whoever is at work once the pool is whole again.
        let workers = stack.ready("web", 4);
        stack.kill_from_outside(&workers[kill % 4]);
        stack.api().told(&workers[kill % 4].life());
        // Until every client has been answered: a request may be delivered twice, and no more.
        let enough = load.answered() + 16;
        eventually("the clients have moved on", || match load.answered() {
            answered if answered >= enough => Ok(()),
            answered => Err(answered),
        });
    }
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new(), "{} answered in {:?}", tally.answered, start.elapsed());
    assert!(tally.answered > 0);
    let incidents = stack.api().incidents();
    assert_eq!(incidents.len(), 8, "{incidents:#?}");
    stack.down();
}

pub fn whoever_is_about_to_be_killed_gets_no_turn(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    let mut server = || {
        let text = client.get("/").text();
        text.lines().find_map(|line| line.strip_prefix("worker: ").map(str::to_owned)).expect("who served")
    };
    let last = server();
    assert_eq!(server(), last, "whoever came back last is warm, and is asked first");
    stack.kill_controller();
    let mut controller = FakeController::takes_over(&stack);
    // It holds for a second, which a busy machine may let pass between the order and the answer.
    let other = eventually("it is asked within that second", || {
        let since = Instant::now();
        controller.orders(&Order::Withhold { worker: format!("{last}.1").parse().unwrap() });
        controller.report(false);
        let other = server();
        if since.elapsed() < Duration::from_millis(900) { Ok(other) } else { Err(since.elapsed()) }
    });
    assert_ne!(other, last, "a turn was given to a worker that is about to be killed");
    // The kill never comes. It is asked again, when there is nobody else to ask.
    controller.orders(&Order::Withhold { worker: format!("{other}.1").parse().unwrap() });
    eventually("the worker that was spared gets a turn", || match server() {
        served if served == last => Ok(()),
        served => Err(served),
    });
    stack.start();
    stack.down();
}

pub fn a_raw_connection_is_closed_with_its_worker(backend: Backend) {
    let pool = "echo:\n  listen: 127.0.0.1:0\n  protocol: tcp\n  turn: connection\n  size: { workers: 2 }\n  worker: { app: echo }";
    let stack = Stack::up(backend, pool);
    stack.ready("echo", 2);
    let mut other = Connection::to(stack.address("echo"));
    other.send("a");
    assert_eq!(other.exactly(7), b"Echo: a");
    let unaffected = stack.holder_of("connection from").id;
    let mut client = Connection::to(stack.address("echo"));
    client.send("b");
    assert_eq!(client.exactly(7), b"Echo: b");
    let victim =
        stack.api().workers().into_iter().find(|it| !it.holding.is_empty() && it.id != unaffected).unwrap();
    stack.kill_from_outside(&victim);
    assert_eq!(client.rest().unwrap_or_default(), b"");
    other.send("c");
    assert_eq!(other.exactly(7), b"Echo: c", "the other connection was harmed");
    let incident = stack.api().told(&victim.life());
    assert_eq!(incident["held"][0]["outcome"], "closed", "{incident:#}");
    drop(other);
    stack.down();
}
