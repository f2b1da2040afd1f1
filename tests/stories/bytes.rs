//! Requests and answers in large and in small pieces, whole and cut.

use std::io::{self, Write};

use crate::rig::http::{Connection, Response};
use crate::rig::{Backend, Stack};

/// Sends all of it in a thread of its own, for the answers begin before; each of the answers.
fn answers(client: &mut Connection, bytes: &[u8], answers: usize) -> Vec<Response> {
    std::thread::scope(|scope| {
        let mut sender = client.sender();
        scope.spawn(move || sender.write_all(bytes).unwrap());
        (0..answers).map(|_| client.response()).collect()
    })
}

fn chunked(body: &[u8], pieces: usize) -> Vec<u8> {
    let mut bytes = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(pieces) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

pub fn what_follows_a_large_body_reaches_the_next_turn(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let echoed = [&large[..], format!("\n{} bytes\n", large.len()).as_bytes()].concat();
    let next = |ms: u32| format!("GET /work?ms={ms} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let with_length = {
        let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len());
        [head.as_bytes(), &large].concat()
    };
    let mut client = stack.connect();
    let all =
        [chunked(&large, 70_001), next(1), with_length, next(2), chunked(&large, 113), next(3)].concat();
    let came = answers(&mut client, &all, 6);
    for (at, ms) in [(0, 1), (2, 2), (4, 3)] {
        let (body, next) = (&came[at], &came[at + 1]);
        assert!(body.status == 200 && body.body == echoed, "{} of {} bytes", body.body.len(), echoed.len());
        assert_eq!((next.status, next.text()), (200, format!("worked {ms} ms\n")));
    }
    // Who waits to be told, and closes his half behind it.
    client.send(format!(
        "PUT /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        large.len()
    ));
    assert_eq!(client.response().status, 100);
    let came = answers(&mut client, &large, 1);
    assert!(came[0].status == 200 && came[0].body == echoed);
    client.send(chunked(&large[..500_000], 70_001)).end();
    let answer = client.response();
    assert!(answer.status == 200 && answer.body.starts_with(&large[..500_000]) && answer.complete);
    assert_eq!(client.rest().unwrap(), b"");
    // One whose body ends before it should, and one who goes in the middle of one.
    let mut client = stack.connect();
    client
        .send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
        .send(&large[..400_000])
        .end();
    assert!(!client.response().complete);
    let mut client = stack.connect();
    client.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").send(&large[..100_000]);
    drop(client);
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    assert!(stack.api().incidents().is_empty(), "{:#?}", stack.api().incidents());
    stack.down();
}

pub fn a_connection_in_tiny_pieces_is_one_turn(backend: Backend) {
    let stack = Stack::web(backend, 1, "turn: connection\nworker: { model: { threads: 2 } }");
    stack.ready("web", 1);
    let mut client = stack.connect();
    let requests = [
        &b"GET /work?ms=1 HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &chunked(b"a body in chunks", 5),
        b"\r\nPOST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        b"GET /work?ms=2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ]
    .concat();
    std::thread::scope(|scope| {
        let mut sender = client.sender();
        scope.spawn(move || requests.iter().try_for_each(|byte| sender.write_all(&[*byte])).unwrap());
        let texts = ["worked 1 ms\n", "a body in chunks\n16 bytes\n", "body\n4 bytes\n", "worked 2 ms\n"];
        for text in texts {
            assert_eq!(client.response().text(), text);
        }
    });
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(stack.api().worker("web-0").turns, 1);
    stack.down();
}

pub fn an_old_clients_answer_that_is_cut_is_seen_to_be(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    let mut client = stack.connect();
    // Nothing tells it how long the answer is to be, but its end.
    client.send("GET /stream?kb=64&ms=20000 HTTP/1.0\r\n\r\n");
    let victim = stack.holder_of("GET /stream");
    client.exactly(1000);
    stack.kill_from_outside(&victim);
    assert_eq!(client.rest().map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    stack.api().told(&victim.life());
    stack.down();
}
