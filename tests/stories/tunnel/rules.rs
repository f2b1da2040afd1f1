//! Workers that break the rules of the tunnel: they are not heard any more, or it does not matter, and no client is harmed
//! but those that they hold.

use std::time::Duration;

use server::link::tunnel::{Frame, MOST_DATA, Pace};
use server::link::{After, FromWorker, Note};

use crate::rig::load::Load;
use crate::rig::tunnel::{FarWorker, token};
use crate::rig::{Backend, Stack, eventually};

fn deaths(stack: &Stack) -> u64 {
    stack.api().pool("web")["counters"]["deaths"].as_u64().unwrap()
}

/// Lets one go, and waits until the door has seen it.
fn let_go(stack: &Stack, worker: FarWorker, before: u64) {
    drop(worker);
    eventually("the door has seen it leave", || match deaths(stack) {
        now if now == before + 1 => Ok(()),
        now => Err(now),
    });
}

pub fn who_breaks_the_tunnels_rules_is_not_heard(backend: Backend) {
    let stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    let load = Load::start(stack.address("web"), 2, "/work?ms=2");
    let framed = |frame: &Frame<'_>| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    };
    let said = |frame: FromWorker| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        framed(&Frame::Link(&bytes))
    };
    let life: server::identity::Incarnation = "web-90.1".parse().unwrap();
    let hello = FromWorker::Hello {
        version: server::link::VERSION,
        credit: 1,
        token: token(&stack, &life),
        life: life.clone(),
    };
    let nobody = u64::MAX;
    let pace = Pace { heartbeat: Duration::ZERO, lost_after: Duration::ZERO, window: u32::MAX };
    let breaches: [(&str, Vec<u8>); 15] = [
        ("a frame without a byte", vec![0; 4]),
        ("a frame that is too long", vec![0xff; 4]),
        ("a kind that there is not", vec![1, 0, 0, 0, 99]),
        ("a frame with a byte too many", vec![2, 0, 0, 0, 7, 7]),
        ("an end that is neither", [&[10, 0, 0, 0, 3][..], &[0; 8], &[7]].concat()),
        ("gone", framed(&Frame::Gone { turn: 1 })),
        ("move", framed(&Frame::Move { to: "192.0.2.1:1" })),
        ("pace", framed(&Frame::Pace(pace))),
        ("no words of the link's", framed(&Frame::Link(b""))),
        ("strange words of the link's", framed(&Frame::Link(&[0xff; 1024]))),
        ("hello again", said(hello)),
        ("done with nothing", said(FromWorker::Done { turn: nobody, after: After::Close { written: 0 } })),
        ("kept nothing", said(FromWorker::Done { turn: nobody, after: After::Keep { written: nobody } })),
        ("at nothing", said(FromWorker::Acknowledge { turn: nobody })),
        ("a panic over nothing", said(FromWorker::Panicked { turn: nobody, message: "oh".to_owned() })),
    ];
    for (generation, (what, bytes)) in (1..).zip(breaches) {
        let before = deaths(&stack);
        let mut liar = FarWorker::joins(&stack, &format!("web-90.{generation}"), 1);
        liar.sends(&bytes).unwrap();
        eventually(&format!("the door has noticed: {what}"), || {
            let said = stack.said();
            let life = format!("web-90.{generation}");
            if said.lines().any(|line| line.contains(&life) && line.contains("protocol")) {
                Ok(())
            } else {
                Err(said)
            }
        });
        let_go(&stack, liar, before);
    }
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    stack.ready("web", 2);
    assert!(stack.api().incidents().iter().all(|it| it["worker"] != "web-0" && it["worker"] != "web-1"));
    stack.down();
}

pub fn who_speaks_for_others_harms_nobody(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    let mut client = stack.connect();
    client.send_get("/stream?kb=640&ms=1500");
    stack.holder_of("GET /stream");
    let mut liar = FarWorker::joins(&stack, "web-90.1", 1);
    for turn in 0..20 {
        liar.posts(&Frame::Note(Note { turn, bytes: 1, keep: true }));
        liar.posts(&Frame::Data { turn, bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" });
        liar.posts(&Frame::End { turn, cut_off: true });
        liar.posts(&Frame::Room { turn, bytes: u32::MAX });
    }
    // It is still a worker like any other, and its next turn is one that it holds.
    let mut own = stack.connect();
    own.send_get("/work?ms=7");
    let (turn, request) = liar.takes_a_turn();
    assert!(request.starts_with(b"GET /work?ms=7 "), "{}", String::from_utf8_lossy(&request));
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    liar.posts(&Frame::Data { turn: turn.turn, bytes: answer });
    liar.says(&FromWorker::Done { turn: turn.turn, after: After::Keep { written: answer.len() as u64 } });
    assert_eq!(own.response().text(), "hi");
    // To be done with what another holds is a breach, and to that one nothing.
    for turn in 0..turn.turn {
        liar.says(&FromWorker::Acknowledge { turn });
        liar.says(&FromWorker::Done { turn, after: After::Close { written: 1 } });
    }
    let answer = client.response();
    assert_eq!((answer.status, answer.complete, answer.body.len()), (200, true, 640 * 1024));
    assert!(answer.body.iter().all(|byte| *byte == b'.'), "somebody has written into the answer");
    assert_eq!(client.get("/work?ms=1").status, 200);
    drop(liar);
    stack.down();
}

pub fn who_sends_beyond_the_window_is_not_heard(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    let door = stack.door_pid();
    let mut hose = FarWorker::joins(&stack, "web-90.1", 1);
    let mut victim = stack.connect();
    victim.send_get("/work?ms=1");
    let (turn, _) = hose.takes_a_turn();
    let before = Stack::resident(door);
    hose.posts(&Frame::Data {
        turn: turn.turn,
        bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
    });
    // Its client takes what its kernel has room for, and no more. Whether the door reads all of this or cuts it off.
    const MIB: usize = 64;
    for _ in 0..MIB * 1024 * 1024 / MOST_DATA {
        let mut bytes = Vec::new();
        Frame::Data { turn: turn.turn, bytes: &[b'x'; MOST_DATA] }.encode(&mut bytes);
        if hose.sends(&bytes).is_err() {
            break;
        }
    }
    eventually("the door has noticed", || {
        let said = stack.said();
        if said.contains("than there was room for") { Ok(()) } else { Err(said) }
    });
    let grown = Stack::resident(door).saturating_sub(before);
    println!("sent {MIB} MiB beyond the window, the door has grown by {} KiB", grown / 1024);
    // A window, what is read at a time, and what the allocator makes of it.
    assert!(grown < 2 * 1024 * 1024, "the door has grown by {} KiB", grown / 1024);
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    let_go(&stack, hose, 0);
    assert!(!victim.try_response().unwrap().complete, "the answer looks whole");
    stack.down();
}

pub fn who_lies_about_an_answer_spoils_that_alone(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    let part = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    let lies = [(1, true), (part.len() as u64, false), (u64::MAX, true), (0, true)];
    for (generation, (bytes, keep)) in (1..).zip(lies) {
        // Of two that are idle, the one that came last is picked.
        stack.idle("web-0");
        let mut liar = FarWorker::joins(&stack, &format!("web-90.{generation}"), 1);
        let mut client = stack.connect();
        client.send_get("/work?ms=1");
        let (turn, _) = liar.takes_a_turn();
        let turn = turn.turn;
        liar.posts(&Frame::Note(Note { turn, bytes, keep }));
        liar.posts(&Frame::Data { turn, bytes: part });
        assert_eq!(client.exactly(part.len()), part);
        let before = deaths(&stack);
        let_go(&stack, liar, before);
        // It was never whole, and nothing follows it.
        assert_eq!(client.rest().unwrap_or_default(), b"", "{bytes} {keep}");
        assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    }
    // One that is done with an answer that it has not given keeps nobody: the request is still there, unanswered.
    stack.idle("web-0");
    let mut liar = FarWorker::joins(&stack, "web-91.1", 1);
    let mut client = stack.connect();
    client.send_post("/work?ms=3", "once");
    let (turn, _) = liar.takes_a_turn();
    if turn.acknowledge {
        liar.says(&FromWorker::Acknowledge { turn: turn.turn });
    }
    liar.says(&FromWorker::Done { turn: turn.turn, after: After::Keep { written: 100 } });
    eventually("the door has noticed", || {
        let said = stack.said();
        let broke = said.lines().any(|line| line.contains("web-91.1") && line.contains("protocol"));
        if broke { Ok(()) } else { Err(said) }
    });
    drop(liar);
    assert_eq!(client.response().status, 502);
    stack.down();
}
