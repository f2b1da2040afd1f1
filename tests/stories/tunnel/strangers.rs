//! Who comes to the tunnel's port and does not belong there.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use server::identity::{Incarnation, Secret, Token};
use server::link::tunnel::{Frame, GO_ON, OVER, Preface};
use server::link::{After, FromWorker, ToWorker};

use crate::rig::tunnel::{FarWorker, knock, preface, token, until_closed};
use crate::rig::{Backend, Stack, eventually};

/// How long somebody who says nothing may stay, and then as much as a busy machine may add.
const IN_TIME: Duration = Duration::from_secs(2 + 5);

pub fn strangers_are_sent_away_in_time(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    let worker = stack.ready("web", 1)[0].clone();
    let good = preface(&stack, "web-90.1");
    let (mut forged, mut newer) = (good.clone(), good.clone());
    *forged.last_mut().unwrap() ^= 1;
    newer[8] += 1;
    let mut too_long = good.clone();
    too_long[11] = 0xff;
    let of_another =
        Preface::worker(&"web-90.1".parse().unwrap(), &token(&stack, &"web-91.1".parse().unwrap()));
    let climber = Preface::controller(&Secret::new(*token(&stack, &"web-90.1".parse().unwrap()).as_bytes()));
    let of_no_pool = preface(&stack, "elsewhere-0.1");
    let openings: [(&str, &[u8], &[u8]); 10] = [
        ("garbage", &[0xff; 4096], &[]),
        ("a request", b"GET / HTTP/1.1\r\nHost: door\r\n\r\n", &[]),
        ("nothing", b"", &[]),
        ("half a preface", &good[..good.len() / 2], &[]),
        ("a forged preface", &forged, &[]),
        ("another version", &newer, &[]),
        ("a name that is too long", &too_long, &[]),
        ("the token of another", &of_another.to_bytes(), &[]),
        ("a worker as a controller", &climber.to_bytes(), &[]),
        // Another door may have it: it is not told that its life is over.
        ("a pool that there is not", &of_no_pool, &[]),
    ];
    // At the same time, for each may take its time.
    let mut strangers: Vec<_> = openings
        .iter()
        .map(|(what, bytes, answer)| {
            let mut stranger = knock(&stack);
            stranger.write_all(bytes).unwrap();
            (what, stranger, answer)
        })
        .collect();
    // And those who may come and then say nothing, or the wrong thing.
    let mut silent = knock(&stack);
    silent.write_all(&good).unwrap();
    let mut babbles = knock(&stack);
    babbles.write_all(&[&preface(&stack, "web-92.1")[..], &[0xff; 4096]].concat()).unwrap();
    for (what, stranger, answer) in &mut strangers {
        let (came, took) = until_closed(stranger);
        assert_eq!(came, **answer, "{what}");
        assert!(took < IN_TIME, "{what}: after {took:?}");
    }
    for stranger in [&mut silent, &mut babbles] {
        let (came, took) = until_closed(stranger);
        assert_eq!(came.first(), Some(&GO_ON), "{came:?}");
        // A handshake, where there is one, has its own time, and the hello behind it.
        assert!(took < IN_TIME + Duration::from_secs(5), "after {took:?}");
    }
    // A hello has to be the first word, and the one of the same life.
    let mut rude = FarWorker::comes(&stack, "web-93.1");
    rude.says(&FromWorker::Done { turn: 1, after: After::Close { written: 0 } });
    assert!(matches!(refusal(&mut rude), Some(why) if why.contains("hello")));
    rude.is_cut_off();
    let mut two_faced = FarWorker::comes(&stack, "web-93.1");
    let answer = two_faced.says_hello(&stack, "web-94.1", 1);
    assert!(matches!(&answer, Some(ToWorker::Refused { why }) if why.contains("web-94.1")), "{answer:?}");
    two_faced.is_cut_off();
    let mut forger = FarWorker::comes(&stack, "web-93.1");
    let (life, token) = ("web-93.1".parse::<Incarnation>().unwrap(), Token::from_bytes([7; 32]));
    forger.says(&FromWorker::Hello { version: server::link::VERSION, credit: 1, token, life });
    assert!(matches!(refusal(&mut forger), Some(why) if why.contains("token")));
    // Nobody has noticed anything.
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    assert!(stack.api().incidents().is_empty(), "{:#?}", stack.api().incidents());
    stack.down();
}

fn refusal(stranger: &mut FarWorker) -> Option<String> {
    stranger.hears(|frame| match frame {
        Frame::Link(bytes) => match ToWorker::decode(bytes) {
            Ok(ToWorker::Refused { why }) => Some(why),
            other => panic!("it was answered {other:?}"),
        },
        _ => None,
    })
}

pub fn a_crowd_of_strangers_keeps_no_worker_out(backend: Backend) {
    /// How many are there at a time.
    const CROWD: usize = 600;
    server::door::raise_descriptor_limit();
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    let door = stack.door_pid();
    let before = Stack::resident(door);
    let (address, over) = (stack.tunnel(), AtomicBool::new(false));
    let most = std::thread::scope(|scope| {
        // One comes after another and says nothing, for as long as workers join. Each stays until it is sent away, or
        // until so many have come after it.
        let crowd = scope.spawn(|| {
            let mut crowd = std::collections::VecDeque::new();
            let mut came = 0;
            while !over.load(Ordering::Relaxed) || came < 2 * CROWD {
                if let Ok(stranger) = TcpStream::connect(address) {
                    crowd.push_back(stranger);
                    came += 1;
                }
                if crowd.len() > CROWD {
                    crowd.pop_front();
                }
            }
            Stack::resident(door)
        });
        for workers in [3, 1, 3, 1, 4] {
            assert!((200..300).contains(&stack.api().scale("web", workers).status));
            stack.ready("web", workers as usize);
            assert_eq!(stack.connect().get("/work?ms=1").status, 200);
        }
        over.store(true, Ordering::Relaxed);
        crowd.join().unwrap()
    });
    let grown = most.saturating_sub(before);
    println!("with {CROWD} strangers at a time the door has grown by {} KiB", grown / 1024);
    // 256 of them at the most, each a task and a socket; the same for those who have proved something.
    assert!(grown < 512 * 16 * 1024, "the door has grown by {} KiB", grown / 1024);
    assert!(stack.api().incidents().is_empty(), "{:#?}", stack.api().incidents());
    stack.down();
}

pub fn who_is_dead_or_here_already_gets_no_handshake(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    let worker = stack.ready("web", 1)[0].clone();
    // Behind this byte there would be the handshake, if there were one.
    let is_over = |life: &str| {
        let mut played = knock(&stack);
        played.write_all(&preface(&stack, life)).unwrap();
        assert_eq!(until_closed(&mut played).0, [OVER], "{life}");
    };
    is_over(&worker.life());
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.kill_from_outside(&worker);
    eventually("it has been replaced", || match stack.api().worker("web-0").generation {
        now if now > worker.generation => Ok(()),
        now => Err(now),
    });
    is_over(&worker.life());
    // One that the story plays, while it is here and when it has gone.
    let twice = FarWorker::joins(&stack, "web-90.2", 1);
    is_over("web-90.2");
    is_over("web-90.1");
    drop(twice);
    eventually("the door has seen it go", || match stack.api().pool("web")["counters"]["deaths"].as_u64() {
        Some(2..) => Ok(()),
        deaths => Err(deaths),
    });
    is_over("web-90.2");
    // Two that come at once: the later one takes the other's place.
    let (one, mut two) = (FarWorker::comes(&stack, "web-90.3"), FarWorker::comes(&stack, "web-90.3"));
    assert!(matches!(two.says_hello(&stack, "web-90.3", 1), Some(ToWorker::Welcome(_))));
    drop(two);
    drop(one);
    stack.ready("web", 1);
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}
