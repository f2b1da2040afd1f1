//! Workers that lie, babble, hoard or do not listen, played by the stories themselves.

use server::link::{After, FromWorker, ToWorker};

use crate::rig::load::Load;
use crate::rig::stack::PATIENT;
use crate::rig::worker::FakeWorker;
use crate::rig::{Backend, Stack, eventually};

pub fn garbage_on_a_link_evicts_that_worker_only(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let load = Load::start(stack.address("web"), 2, "/work?ms=2");
    let garbage = [&b"\xff\xfe\xfd"[..], b"D", b"Dxxxxxxxx\x07", &[b'A'; 1024], b"H"];
    for (generation, garbage) in (1..).zip(garbage) {
        let mut liar = FakeWorker::joins(&stack, &format!("web-90.{generation}"), 1);
        liar.sends(garbage);
        // It is given no turn after that, and is gone from the list as soon as it lets go.
        let deaths = |stack: &Stack| stack.api().pool("web")["counters"]["deaths"].as_u64().unwrap();
        let before = deaths(&stack);
        drop(liar);
        eventually("the door has seen it leave", || {
            let now = deaths(&stack);
            if now == before + 1 { Ok(()) } else { Err(now) }
        });
    }
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    stack.ready("web", 2);
    assert!(stack.api().incidents().iter().all(|it| it["worker"] != "web-0" && it["worker"] != "web-1"));
    stack.down();
}

pub fn strangers_are_turned_away(backend: Backend) {
    use server::identity::{Incarnation, Token};

    let stack = Stack::web(backend, 1, "");
    let worker = stack.ready("web", 1)[0].clone();
    let refused = |life: &str, token: Token| {
        let life: Incarnation = life.parse().unwrap();
        FakeWorker::dials(&stack.link_socket()).says_hello(&life, token, 1)
    };
    let forged = Token::from_bytes([7; 32]);
    assert!(matches!(refused("web-7.1", forged), Some(ToWorker::Refused { .. })), "a forged token was taken");
    // Who begins with anything but a hello hears no more than that.
    let mut rude = FakeWorker::dials(&stack.link_socket());
    rude.says(&FromWorker::Done { turn: 1, after: After::Keep { written: 1 } });
    assert!(matches!(rude.hears(), Some((ToWorker::Refused { .. }, None))));
    assert!(rude.hears().is_none(), "the link was not closed");
    // The real one has noticed nothing.
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    stack.down();
}

pub fn a_done_without_an_answer_is_a_breach(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    // Of two that are idle, the one that came last is picked.
    let mut liar = FakeWorker::joins(&stack, "web-91.1", 1);
    let mut client = stack.connect();
    client.send_get("/work?ms=1");
    let (turn, socket) = liar.takes_a_turn();
    drop(socket);
    liar.says(&FromWorker::Done { turn: turn.turn, after: After::Keep { written: 0 } });
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    drop(liar);
    // It has had no say in what becomes of its client.
    assert_eq!(client.response().text(), "worked 1 ms\n");
    let incident = stack
        .api()
        .incident("web-91.1", |it| it["held"][0]["outcome"].as_str().is_some_and(|it| it != "pending"));
    assert_eq!(incident["held"][0]["outcome"], "redelivered", "{incident:#}");
    assert_eq!(incident["held"][0]["to"], "web-0", "{incident:#}");
    let said = stack.down();
    assert!(said.contains("broke the protocol") && said.contains("has written no answer"), "{said}");
}

pub fn who_is_left_without_an_answer_is_told(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    // Of two that are idle, the one that came last is picked.
    let mut mute = FakeWorker::joins(&stack, "web-91.1", 1);
    let mut client = stack.connect();
    client.send_get("/work?ms=1");
    let (turn, socket) = mute.takes_a_turn();
    drop(socket);
    mute.says(&FromWorker::Done { turn: turn.turn, after: After::Close { written: 0 } });
    let answer = client.response();
    assert_eq!((answer.status, answer.json()["detail"].as_str()), (502, Some("the worker gave no answer")));
    assert_eq!(client.rest().unwrap(), b"");
    // Who has had one, whatever its worker says, gets no second one.
    let mut client = stack.connect();
    client.send_get("/work?ms=1");
    let (turn, socket) = mute.takes_a_turn();
    rustix::io::write(&socket, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    drop(socket);
    mute.says(&FromWorker::Done { turn: turn.turn, after: After::Close { written: 0 } });
    assert_eq!(client.response().status, 200);
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(stack.api().pool("web")["counters"]["answered"]["502"], 1);
    drop(mute);
    stack.down();
}

pub fn a_worker_that_claims_too_much_gets_what_its_model_takes(backend: Backend) {
    let stack = Stack::web(backend, 1, PATIENT);
    stack.ready("web", 1);
    let busy = stack.occupies_one();
    let mut liar = FakeWorker::joins(&stack, "web-91.1", 1000);
    let mut clients: Vec<_> = (0..3).map(|_| stack.connect()).collect();
    for client in &mut clients {
        client.send_get("/work?ms=1");
    }
    let turn = liar.takes_a_turn();
    eventually("the others wait for a worker that is free", || {
        match stack.api().pool("web")["queued"].as_u64() {
            Some(2) => Ok(()),
            queued => Err(queued),
        }
    });
    drop((liar, turn));
    busy.ends();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    stack.down();
}

pub fn a_worker_that_hoards_or_is_deaf_stalls_nobody(backend: Backend) {
    // A pool whose model takes many turns at a time, and no worker of it yet but the one that the story plays.
    let stack = Stack::web(
        backend,
        0,
        "worker: { model: { event: 1000 }, limits: { open_files: 2048 } }\nqueue: { wait: 60s }",
    );
    let honest = |workers: u32| {
        assert!((200..300).contains(&stack.api().scale("web", workers).status));
        eventually(&format!("{workers} honest workers are linked"), || {
            let ready = stack.api().workers().into_iter().filter(|it| it.is_ready() && it.is_known()).count();
            if ready == workers as usize { Ok(()) } else { Err(ready) }
        });
    };
    // It takes what it is given, and never does anything with it.
    let mut hoarder = FakeWorker::joins(&stack, "web-91.1", 1000);
    let mut victims: Vec<_> = (0..20).map(|_| stack.connect()).collect();
    for victim in &mut victims {
        victim.send_get("/work?ms=1");
    }
    let hoard: Vec<_> = (0..20).map(|_| hoarder.takes_a_turn()).collect();
    honest(1);
    assert_eq!(stack.connect().get("/work?ms=1").status, 200, "the door was stalled");
    // Those that it holds wait; when it dies, they are served by another.
    drop((hoarder, hoard));
    for victim in &mut victims {
        assert_eq!(victim.response().status, 200);
    }
    // It never reads: what it is sent piles up in its socket until that is full, and then it gets no more.
    honest(0);
    let deaf = FakeWorker::joins(&stack, "web-92.1", 1000);
    let mut victims: Vec<_> = (0..600).map(|_| stack.connect()).collect();
    for victim in &mut victims {
        victim.send_get("/work?ms=0");
    }
    eventually("the rest waits", || match stack.api().pool("web")["queued"].as_u64() {
        Some(1..) => Ok(()),
        queued => Err(queued),
    });
    honest(1);
    assert_eq!(stack.connect().get("/work?ms=0").status, 200, "the door was stalled");
    drop(deaf);
    for victim in &mut victims {
        assert_eq!(victim.response().status, 200);
    }
    stack.down();
}
