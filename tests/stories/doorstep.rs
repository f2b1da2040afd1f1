//! What clients may ask of the door, and what they are told when it is too much.

use rustix::process::{Signal, kill_process};

use crate::rig::http::Connection;
use crate::rig::stack::PATIENT;
use crate::rig::{Backend, Stack, eventually};

pub fn a_slow_client_holds_no_worker(backend: Backend) {
    let stack = Stack::web(backend, 1, "timeouts: { head: 1s }");
    stack.ready("web", 1);
    let mut slow: Vec<_> = (0..16).map(|_| stack.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    }
    let mut slow_body = stack.connect();
    slow_body.send("PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    // The only worker is idle and serves who is there.
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    assert_eq!(stack.idle("web-0").turns, 1);
    for client in &mut slow {
        assert_eq!(client.response().status, 408);
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(slow_body.response().status, 408);
    // A large body is not waited for at the door. Its worker is as patient, and says the same.
    let mut large = stack.connect();
    large.send("PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    assert_eq!(large.response().status, 408);
    assert_eq!(large.rest().unwrap(), b"");
    let mut short = stack.connect();
    short.send("PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").end();
    assert_eq!(short.response().status, 400);
    stack.down();
}

pub fn idle_connections_hold_no_worker(backend: Backend) {
    let pool = |name: &str, keep_alive: &str| {
        format!(
            "{name}:\n  listen: 127.0.0.1:0\n  size: {{ workers: 1 }}\n  timeouts: {{ keep_alive: {keep_alive} }}\n"
        )
    };
    let stack = Stack::up(backend, &[pool("web", "5m"), pool("brief", "2s")].concat());
    stack.ready("web", 1);
    let mut idle: Vec<_> = (0..200).map(|_| stack.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/work?ms=0").status, 200);
    }
    assert_eq!(stack.api().pool("web")["connections"], 200);
    stack.idle("web-0");
    assert_eq!(stack.connect().get("/work?ms=0").status, 200);
    // Whoever is idle for too long is let go.
    stack.ready("brief", 1);
    for answered in [false, true] {
        let mut client = Connection::to(stack.address("brief"));
        if answered {
            assert_eq!(client.get("/work?ms=0").status, 200);
        }
        assert_eq!(client.rest().unwrap(), b"");
    }
    drop(idle);
    stack.down();
}

pub fn a_full_queue_is_answered_503(backend: Backend) {
    let stack = Stack::web(backend, 1, &format!("queue: {{ depth: 2, wait: 60s }}\n{PATIENT}"));
    stack.ready("web", 1);
    let busy = stack.occupies_one();
    let mut waiting: Vec<_> = (0..2).map(|_| stack.connect()).collect();
    for client in &mut waiting {
        client.send_get("/work?ms=1");
    }
    eventually("two wait", || match stack.api().pool("web")["queued"].as_u64() {
        Some(2) => Ok(()),
        queued => Err(queued),
    });
    let turned_away = stack.connect().get("/work?ms=1");
    assert_eq!((turned_away.status, turned_away.header("retry-after")), (503, Some("1")));
    busy.ends();
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    stack.down();
}

pub fn a_long_wait_is_answered_503(backend: Backend) {
    let stack = Stack::web(backend, 1, "queue: { depth: 10, wait: 300ms }");
    stack.ready("web", 1);
    let mut busy = stack.connect();
    busy.send_get("/work?ms=2000");
    stack.holder_of("GET /work?ms=2000");
    let waited = stack.connect().get("/work?ms=1");
    assert_eq!((waited.status, waited.header("retry-after")), (503, Some("1")));
    assert_eq!(busy.response().status, 200);
    assert_eq!(stack.api().pool("web")["counters"]["answered"]["503"], 1);
    stack.down();
}

pub fn what_is_not_a_request_is_refused_at_the_door(backend: Backend) {
    let stack =
        Stack::web(backend, 1, "clients: { connections: 8, head: 2KiB, buffered_body: 4KiB, body: 3KiB }");
    stack.ready("web", 1);
    let large_chunk = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nc01\r\n{}\r\n0\r\n\r\n",
        "x".repeat(3073)
    );
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(4000));
    let cookie = format!("GET / HTTP/1.1\r\nCookie: {}\r\n", "a".repeat(4000));
    for (bytes, status) in [
        ("GARBAGE\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n\r\n", 400),
        (large_chunk.as_str(), 413),
        // What follows on an error is not another request.
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (long.as_str(), 414),
        (cookie.as_str(), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: the-best\r\n\r\n", 417),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    ] {
        let mut client = stack.connect();
        client.send(bytes);
        let answer = client.response();
        assert_eq!(answer.status, status, "{bytes:?}: {}", answer.text());
        assert_eq!(client.rest().unwrap(), b"", "{bytes:?}");
    }
    let mut head = stack.connect();
    head.send("HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(head.response_to("HEAD").unwrap().status, 400);
    assert_eq!(head.rest().unwrap(), b"", "a body behind an answer to HEAD");
    drop(head);
    eventually("all of them have gone", || match stack.api().pool("web")["connections"].as_u64() {
        Some(0) => Ok(()),
        connections => Err(connections),
    });
    assert_eq!(stack.api().worker("web-0").turns, 0, "something of it reached a worker");
    let mut many: Vec<_> = (0..8).map(|_| stack.connect()).collect();
    for client in &mut many {
        assert_eq!(client.get("/work?ms=0").status, 200);
    }
    // One that is too many has sent its request by the time that the door comes to tell it, and is not reset for it: some
    // kernels throw an answer away when a reset follows.
    let door = stack.door_pid();
    kill_process(door, Signal::STOP).unwrap();
    let mut one_too_many = stack.connect();
    one_too_many.send_get("/work?ms=0");
    kill_process(door, Signal::CONT).unwrap();
    let answer = one_too_many.response();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(one_too_many.rest().unwrap(), b"");
    assert!(!one_too_many.was_reset());
    stack.down();
}

pub fn bodies_of_every_kind_arrive(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let mut client = stack.connect();
    let echoed = |body: &[u8]| [body, format!("\n{} bytes\n", body.len()).as_bytes()].concat();
    let large: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    for body in [&b""[..], b"small", &large[..60_000], &large[..70_000], &large] {
        let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = post(&mut client, &[head.as_bytes(), body].concat());
        assert_eq!(answer.status, 200);
        assert!(
            answer.body == echoed(body),
            "a body of {} bytes came back as {}",
            body.len(),
            answer.body.len()
        );
        let mut chunked = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(9_999) {
            chunked.extend(format!("{:x};ext=1\r\n", chunk.len()).bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\nTrailer: 1\r\n\r\n");
        let answer = post(&mut client, &chunked);
        assert!(
            answer.body == echoed(body),
            "chunks of {} bytes came back as {}",
            body.len(),
            answer.body.len()
        );
    }
    // Nobody reads this one: it is passed over, and the connection goes on.
    let head = "POST /work?ms=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    assert_eq!(post(&mut client, &[head.as_bytes(), &large[..100_000]].concat()).status, 200);
    assert_eq!(client.get("/work?ms=1").status, 200);
    // A small and a large body whose client waits to be told to go on.
    for length in [5, 100_000] {
        let mut client = stack.connect();
        client.send(format!(
            "PUT /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 100);
        let answer = post(&mut client, &large[..length]);
        assert!(answer.status == 200 && answer.body == echoed(&large[..length]));
    }
    stack.down();
}

/// Sends and reads at the same time: the answer to a large body begins before all of it has been sent.
fn post(client: &mut Connection, bytes: &[u8]) -> crate::rig::http::Response {
    std::thread::scope(|scope| {
        let mut sender = client.sender();
        scope.spawn(move || std::io::Write::write_all(&mut sender, bytes).unwrap());
        client.response()
    })
}

pub fn http_is_spoken_as_written(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    // Pipelined requests, the last one from a client that has closed its half.
    let mut client = stack.connect();
    client.send_get("/work?ms=1").send_get("/work?ms=2").send_get("/work?ms=3").end();
    for ms in 1..=3 {
        assert_eq!(client.response().text(), format!("worked {ms} ms\n"));
    }
    assert_eq!(client.rest().unwrap(), b"");
    // HTTP/1.0 closes unless asked not to.
    let mut client = stack.connect();
    client.send("GET /work?ms=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response().header("connection"), Some("keep-alive"));
    client.send("GET /stream?kb=8&ms=10 HTTP/1.0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.body.len(), answer.header("transfer-encoding"), answer.complete), (8192, None, true));
    // `Connection: close` is kept to.
    let mut client = stack.connect();
    client.send("GET /work?ms=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().header("connection"), Some("close"));
    assert_eq!(client.rest().unwrap(), b"");
    // HEAD says how long, and sends nothing.
    let mut client = stack.connect();
    client.send("HEAD /work?ms=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.response_to("HEAD").unwrap();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("12")));
    assert_eq!(client.get("/stream?kb=8&ms=10").body.len(), 8192);
    assert_eq!(client.get("/nowhere").status, 404);
    // Targets come in more than one form, and empty lines between requests are nothing.
    client.send("\r\n\r\nGET http://a/work?ms=1 HTTP/1.1\r\nHost: a\r\n\r\n\r\n");
    assert_eq!(client.response().text(), "worked 1 ms\n");
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    stack.down();
}

pub fn what_follows_on_a_connection_of_its_own_is_bounded(backend: Backend) {
    let pool = |name: &str, model: &str, keep_alive: &str| {
        format!(
            "{name}:\n  listen: 127.0.0.1:0\n  turn: connection\n  size: {{ workers: 1 }}\n  worker: {{ model: {model} }}\n  \
             clients: {{ head: 2KiB, body: 8KiB }}\n  timeouts: {{ head: 1s, keep_alive: {keep_alive} }}\n"
        )
    };
    let pools = [("web", "prefork"), ("loop", "{ event: 4 }")];
    let briefly = |name: &str| format!("{name}-brief");
    let pools = pools.map(|(name, model)| pool(name, model, "5m") + &pool(&briefly(name), model, "1s"));
    let stack = Stack::up(backend, &pools.concat());
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(4000));
    let cookie = format!("GET / HTTP/1.1\r\nCookie: {}\r\n", "a".repeat(4000));
    let chunk = format!(
        "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n{}\r\n0\r\n\r\n",
        "x".repeat(10_000)
    );
    for pool in ["web", "loop"] {
        stack.ready(pool, 1);
        for (bytes, status) in [
            ("GARBAGE\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", 408),
            ("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 8193\r\n\r\n", 413),
            (chunk.as_str(), 413),
            (long.as_str(), 414),
            (cookie.as_str(), 431),
        ] {
            // The door has read the first request; what follows only the worker does.
            let mut client = Connection::to(stack.address(pool));
            assert_eq!(client.get("/work?ms=1").status, 200, "{pool}");
            client.send(bytes);
            let answer = client
                .try_response()
                .unwrap_or_else(|error| panic!("{pool}: no answer to {bytes:?}: {error}"));
            assert_eq!(answer.status, status, "{pool}: {bytes:?}: {}", answer.text());
            assert_eq!(answer.header("connection"), Some("close"), "{pool}: {bytes:?}");
            assert_eq!(client.rest().unwrap(), b"", "{pool}: {bytes:?}");
        }
        // Whoever is idle for too long is let go, and the worker is free again. Empty lines are no request.
        let brief = briefly(pool);
        stack.ready(&brief, 1);
        for idles in ["", "\r\n"] {
            let mut idle = Connection::to(stack.address(&brief));
            idle.send(format!("GET /work?ms=1 HTTP/1.1\r\nHost: a\r\n\r\n{idles}"));
            assert_eq!(idle.response().status, 200);
            assert_eq!(idle.rest().unwrap(), b"", "{brief}: {idles:?}");
        }
        assert_eq!(Connection::to(stack.address(&brief)).get("/work?ms=1").status, 200);
    }
    stack.down();
}
