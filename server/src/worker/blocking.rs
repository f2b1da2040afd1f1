//! The blocking models: one thread (`prefork`), or N threads that wait on one link (`threads:N`).
//!
//! Every thread runs the same loop: receive a turn, serve it, say done. The kernel wakes one of the threads that
//! wait on the link for each frame, so nothing stands between the door and the thread that serves.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::RecvFlags;

use super::client::Client;
use super::exchange::Exchange;
use super::next::{Next, await_request, refusal_in};
use super::session::{Doors, Joined, say};
use super::{Ending, Options};
use crate::apps::{Me, demo, echo};
use crate::config::{App, Model, Protocol, TurnUnit};
use crate::control::Retirement;
use crate::http::problem::{AnswerBody, Problem};
use crate::http::{HeaderSpace, parse_head};
use crate::link::{self, FromWorker, LONGEST, Received, ScoreboardPen, Terms, ToWorker, TurnFrame};
use crate::sys::{self, Termination};

/// What a thread needs of stack: handlers of the demo keep their buffers on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// Room for most requests. One that is larger makes its thread's buffer grow, once.
const USUAL_REQUEST: usize = 4 * 1024;

/// Serves until told to go.
pub(super) fn run(options: &Options) -> Ending {
    let me = Me::new(options.life.clone(), options.model);
    let doors = Doors::of(options);
    loop {
        let Joined { link, board, terms, relay } = match doors.join() {
            Ok(joined) => joined,
            Err(ending) => return ending,
        };
        let Ok(spare) = link.try_clone() else { return Ending::NoDescriptor };
        let on_signal = Termination::on(spare);
        let worker = Worker {
            options,
            me: &me,
            link,
            board,
            terms,
            dismissed: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
        };
        let ended = match options.model {
            Model::Threads(threads) => worker.take_turns_in_threads(threads),
            Model::Prefork | Model::Event(_) => worker.take_turns(0),
        };
        drop(on_signal);
        drop(worker);
        drop(relay);
        match ended {
            Ended::Farewell => return Ending::Goodbye,
            Ended::LinkLost if sys::told_to_go() => return Ending::Goodbye,
            Ended::LinkLost => eprintln!("{}: the door is gone; waiting for another", options.life),
            Ended::Breach => return Ending::Breach,
        }
    }
}

/// Why a thread stopped taking turns; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Farewell,
    LinkLost,
    Breach,
}

/// What all threads of a worker share.
struct Worker<'w> {
    options: &'w Options,
    me: &'w Me,
    link: OwnedFd,
    board: ScoreboardPen,
    terms: Terms,
    /// Whether one of the threads has had the farewell. The others see the end of the link behind it.
    dismissed: AtomicBool,
    /// Whether it has said that it has served enough.
    retiring: AtomicBool,
}

/// What a thread has for itself, and uses again from turn to turn.
struct Buffers {
    /// Its line on the scoreboard.
    thread: u16,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Worker<'_> {
    fn take_turns_in_threads(&self, threads: u16) -> Ended {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| {
                    std::thread::Builder::new()
                        .stack_size(STACK_BYTES)
                        .spawn_scoped(scope, move || self.take_turns(thread))
                })
                .collect();
            // A thread that cannot be started leaves its credit unused and its turns unserved: that worker is no
            // good, and the others are told so by the link's end.
            if threads.iter().any(Result::is_err) {
                eprintln!("{}: cannot start its threads: is the limit of pids too low?", self.options.life);
                std::process::exit(Ending::NoDescriptor.code().into());
            }
            let ended = threads.into_iter().flatten().map(|thread| thread.join().unwrap_or(Ended::Breach));
            match ended.max().unwrap_or(Ended::Breach) {
                // Seen by one thread a moment before another had told of the farewell in front of it.
                Ended::LinkLost if self.dismissed.load(Ordering::Acquire) => Ended::Farewell,
                ended => ended,
            }
        })
    }

    /// The loop of every blocking thread.
    fn take_turns(&self, thread: u16) -> Ended {
        let mut frame = [0; LONGEST + 1];
        let mut buffers = Buffers { thread, request: vec![0; USUAL_REQUEST], answer: Vec::new() };
        loop {
            let (len, descriptor) = match link::receive(self.link.as_fd(), &mut frame, RecvFlags::empty()) {
                Ok(Received::Frame { len, descriptor }) => (len, descriptor),
                Ok(Received::Closed) if self.dismissed.load(Ordering::Acquire) => return Ended::Farewell,
                Ok(Received::Nothing | Received::Uninvited | Received::Closed) | Err(_) => {
                    return Ended::LinkLost;
                }
            };
            let turn = match ToWorker::decode(&frame[..len]) {
                Ok(ToWorker::Turn(turn)) => turn,
                Ok(ToWorker::Farewell) => {
                    self.dismissed.store(true, Ordering::Release);
                    return Ended::Farewell;
                }
                Ok(ToWorker::Welcome(_) | ToWorker::Refused { .. }) | Err(_) => return Ended::Breach,
            };
            let Some(socket) = descriptor else {
                eprintln!(
                    "{}: a client's descriptor did not arrive: open_files is too low",
                    self.options.life
                );
                // The other threads may wait for turns that this process could not take either.
                std::process::exit(Ending::NoDescriptor.code().into());
            };
            if turn.acknowledge {
                say(&self.link, &FromWorker::Acknowledge { turn: turn.turn });
            }
            let served = self.me.count_turn();
            let client = Client::new(socket);
            // A client that goes away in the middle is no concern of anybody's: its connection is closed.
            let keep = self.serve(&client, &turn, &mut buffers).unwrap_or(false);
            let after = client.after(keep);
            // Before the door hears that it is done: from then on the descriptor is the door's alone.
            drop(client);
            say(&self.link, &FromWorker::Done { turn: turn.turn, after });
            if self.options.retire_after.is_some_and(|most| served >= most.get().into())
                && !self.retiring.swap(true, Ordering::Relaxed)
            {
                say(&self.link, &FromWorker::Goodbye(Retirement::Recycled));
            }
        }
    }

    /// Serves one turn; whether the connection can carry another request.
    fn serve(&self, client: &Client, turn: &TurnFrame, buffers: &mut Buffers) -> io::Result<bool> {
        match (self.options.protocol, self.options.turn) {
            (Protocol::Tcp, _) => {
                self.guarded(turn, || echo::serve(client)).unwrap_or(Ok(()))?;
                Ok(false)
            }
            (Protocol::Http, TurnUnit::Request) => self.serve_request(client, turn, buffers),
            (Protocol::Http, TurnUnit::Connection) => {
                let mut turn = *turn;
                while self.serve_request(client, &turn, buffers)? {
                    // The door has looked at the first request only.
                    turn = TurnFrame { whole: 0, continued: false, ..turn };
                }
                Ok(false)
            }
        }
    }

    fn serve_request(&self, client: &Client, turn: &TurnFrame, buffers: &mut Buffers) -> io::Result<bool> {
        let peeked = match self.peek_request(client, turn, &mut buffers.request)? {
            Next::Request(peeked) => peeked,
            Next::Refused(refusal) => {
                return say_problem(client, &refusal.into(), AnswerBody::of(&buffers.request));
            }
            Next::Gone => return Ok(false),
        };
        let mut space = HeaderSpace::new();
        // These bytes have been read before, by the door or by us, with the same reader.
        let head = parse_head(&buffers.request[..peeked], &mut space, self.terms.head_bytes as usize);
        let Ok(Some(head)) = head else { return Ok(false) };
        let mut exchange = Exchange::new(
            client,
            turn,
            head,
            &buffers.request[..peeked],
            &self.terms,
            self.board.line(buffers.thread, turn.turn),
            &mut buffers.answer,
        );
        let served = self.guarded(turn, || match self.options.app {
            App::Demo => demo::serve(&mut exchange, self.me),
            App::Echo => Ok(()),
        });
        match served {
            Some(Ok(())) if !exchange.is_unanswered() => {}
            Some(Err(error)) if !exchange.is_unanswered() => {
                exchange.abandon();
                return Err(error);
            }
            None if !exchange.is_unanswered() => {
                exchange.abandon();
                return Ok(false);
            }
            // Whoever is there and has no answer gets one, whatever has become of the handler.
            Some(Ok(())) => exchange.respond(500, "text/plain", b"the handler gave no answer\n")?,
            None => exchange.respond(500, "text/plain", b"the handler panicked\n")?,
            Some(Err(error)) => {
                let problem = match refusal_in(&error) {
                    Some(refusal) => refusal.into(),
                    None => Problem::new(500, &"the handler failed"),
                };
                return say_problem(client, &problem, AnswerBody::of(&buffers.request));
            }
        }
        exchange.close()
    }

    /// Looks at the request: all of it where the door says that all is there, else as much as its head.
    fn peek_request(&self, client: &Client, turn: &TurnFrame, buffer: &mut Vec<u8>) -> io::Result<Next> {
        let whole = turn.whole as usize;
        if whole == 0 {
            return await_request(client, &self.terms, self.link.as_fd(), buffer);
        }
        if buffer.len() < whole {
            buffer.resize(whole, 0);
        }
        let peeked = client.peek(&mut buffer[..whole])?;
        Ok(if peeked == whole { Next::Request(whole) } else { Next::Gone })
    }

    /// Runs a handler. In `threads:N` a panic ends this turn and no other, and is reported: `None`. In
    /// `prefork` there is no other turn to protect, and a worker that has panicked is better replaced.
    fn guarded<T>(&self, turn: &TurnFrame, handler: impl FnOnce() -> T) -> Option<T> {
        if self.options.model == Model::Prefork {
            return Some(handler());
        }
        match catch_unwind(AssertUnwindSafe(handler)) {
            Ok(result) => Some(result),
            Err(payload) => {
                let message = panic_message(payload.as_ref()).to_owned();
                say(&self.link, &FromWorker::Panicked { turn: turn.turn, message });
                None
            }
        }
    }
}

/// Says why a request is not served. The connection cannot carry another one.
fn say_problem(client: &Client, problem: &Problem<'_>, body: AnswerBody) -> io::Result<bool> {
    client.write_all(&problem.answer(body))?;
    Ok(false)
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
