//! The life of one client's connection, from accept to close.
//!
//! ```text
//!              ┌───────────────── done: keep ─────────────────┐
//!              ▼                                              │
//!   accept ─► parked ─► request whole ─► queued ─► held ──────┴─► done: close ─► closed
//!              │              │             │        │
//!           idle too       refused:      503 when    └─ worker dead ─► queued again, at the front
//!             long      400 408 413 414  full or                   └─► answered 502 or 504, or cut
//!              │        417 431 501 505 too long
//!              ▼
//!            closed
//! ```

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::arrival::{self, Arrival};
use super::client::{Client, Loss, Request, TurnEnd, Whereabouts};
use super::departure::Stage;
use super::pool::{Pool, Position, QueueFull};
use super::redeliver::{self, Facts, Reason, Verdict, Written};
use crate::config::{Protocol, TurnUnit};
use crate::control::Outcome;
use crate::http::problem::Problem;
use crate::link;
use crate::sys::{self, Progress};

/// How long a closing connection is listened to, so that its last answer is not lost to a reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Serves a connection until it is over. Dropping the last `Client` closes it.
pub(super) async fn serve(client: Rc<Client>, pool: Rc<Pool>) {
    let ending = match pool.config.protocol {
        Protocol::Http => serve_http(&client, &pool).await,
        Protocol::Tcp => serve_raw(&client, &pool).await,
    };
    client.whereabouts.set(Whereabouts::Leaving);
    match ending {
        Ending::Close if client.has_unread() => client.linger(LINGER).await,
        Ending::Close => client.shut_down(),
        Ending::Linger => client.linger(LINGER).await,
        Ending::Reset => client.reset(),
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All has been said.
    Close,
    /// All has been said, and the client may still be sending.
    Linger,
    /// Its client must not take the end of the connection for the end of the answer.
    Reset,
}

/// What becomes of a connection after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It is parked, until the next request.
    Park,
    /// It ends.
    End(Ending),
}

async fn serve_http(client: &Rc<Client>, pool: &Rc<Pool>) -> Ending {
    loop {
        // In a drain nobody is waited for any more; what has been sent by then is still served.
        if pool.stage.get() >= Stage::Draining
            && client.whereabouts.get() == Whereabouts::Parked
            && !client.is_sending()
        {
            return Ending::Close;
        }
        match arrival::request(client, &pool.config, &pool.clients, &pool.scratch).await {
            Arrival::Request => {}
            Arrival::Closed => return Ending::Close,
            Arrival::Refused(refusal) => {
                say(client, pool, &refusal.into(), refusal.status());
                return Ending::Linger;
            }
        }
        match take_turn(client, pool).await {
            After::Park if pool.config.turn == TurnUnit::Request => {}
            After::Park => return Ending::Close,
            After::End(ending) => return ending,
        }
    }
}

/// On a raw pool there is nothing to wait for: the connection itself is the turn.
async fn serve_raw(client: &Rc<Client>, pool: &Rc<Pool>) -> Ending {
    client.request.borrow_mut().line = format!("connection from {}", client.peer);
    match take_turn(client, pool).await {
        After::Park => Ending::Close,
        After::End(ending) => ending,
    }
}

/// Answers in a worker's place, where there are words for it.
fn say(client: &Client, pool: &Pool, problem: &Problem<'_>, status: u16) {
    if pool.config.protocol == Protocol::Http {
        let body = client.request.borrow().answer_body;
        client.tell(&problem.answer(body));
        pool.count_answer(status);
    }
}

/// Answers a client that is one too many.
pub(super) fn say_that_there_are_too_many(client: &Client, pool: &Pool) {
    say(client, pool, &Problem::new(503, &"too many connections are open"), 503);
}

/// Sees one turn through, from one worker to the next if need be.
async fn take_turn(client: &Rc<Client>, pool: &Rc<Pool>) -> After {
    if let Err(QueueFull) = pool.submit(client, Position::Back) {
        say(client, pool, &Problem::new(503, &"too many requests are waiting for a worker"), 503);
        return After::End(Ending::Linger);
    }
    loop {
        let Some(end) = turn_end(client, pool).await else {
            return expire(client, pool);
        };
        match end {
            TurnEnd::Done(link::After::Keep { written }) => {
                client.count_served(written);
                return After::Park;
            }
            TurnEnd::Done(link::After::Close { written: 0 }) if waits_for_an_answer(client, pool) => {
                say(client, pool, &Problem::new(502, &"the worker gave no answer"), 502);
                return After::End(Ending::Linger);
            }
            TurnEnd::Done(link::After::Cut { .. }) => return After::End(Ending::Reset),
            TurnEnd::Done(link::After::Close { .. }) => {
                return After::End(behind_the_last_answer(&client.request.borrow(), pool.config.turn));
            }
            TurnEnd::ClientGone => {
                if let Some(failed) = client.request.borrow_mut().failed.take() {
                    pool.settle(&failed, Outcome::Closed { why: Reason::ClientGone.to_string() });
                }
                return After::End(Ending::Close);
            }
            TurnEnd::Lost(loss) => match recover(client, pool, loss) {
                Some(after) => return after,
                None => continue,
            },
        }
    }
}

/// Whether a client is there, as far as the kernel knows, who has had no answer to the only request of its turn.
fn waits_for_an_answer(client: &Client, pool: &Pool) -> bool {
    (pool.config.protocol, pool.config.turn) == (Protocol::Http, TurnUnit::Request)
        && sys::progress(client.fd()).is_ok_and(|progress| {
            !progress.gone && progress.written == client.request.borrow().written_before
        })
}

/// How a connection ends that its worker does not keep. Pure.
fn behind_the_last_answer(request: &Request, turn: TurnUnit) -> Ending {
    // Whoever has asked for the end sends no more. Others may have sent their next request by then, or the rest of one
    // that was not seen whole, or whatever their worker did not want to read on a connection of its own.
    let asked_for = request.whole > 0 && !request.keep_alive && turn == TurnUnit::Request;
    if asked_for { Ending::Close } else { Ending::Linger }
}

/// The end of the turn; `None` when it waited in the queue for longer than the pool allows.
async fn turn_end(client: &Rc<Client>, pool: &Rc<Pool>) -> Option<TurnEnd> {
    if client.whereabouts.get() == Whereabouts::Queued {
        let deadline = Instant::now() + pool.config.queue.wait;
        if let Ok(end) = timeout_at(deadline, client.turn_end()).await {
            return Some(end);
        }
        if pool.withdraw(client) {
            return None;
        }
    }
    Some(client.turn_end().await)
}

/// A turn has waited too long for a worker.
fn expire(client: &Client, pool: &Pool) -> After {
    let failed = client.request.borrow_mut().failed.take();
    let why = "no worker was free in time";
    match &failed {
        None => say(client, pool, &Problem::new(503, &why), 503),
        Some(failed) => {
            let incident = failed.worker.to_string();
            say(client, pool, &Problem::of_incident(503, &why, &incident), 503);
            pool.settle(failed, Outcome::Answered { status: 503, why: why.to_owned() });
        }
    }
    After::End(Ending::Linger)
}

/// A worker has died with this turn in its hands. `None`: the turn has been given to another one, or waits for one
/// at the front of the queue.
fn recover(client: &Rc<Client>, pool: &Rc<Pool>, loss: Loss) -> Option<After> {
    let known = sys::progress_and_consumed(client.fd()).ok();
    let facts = facts(client, pool, &loss, known);
    let failed = loss.delivery;
    match redeliver::decide(&facts, &pool.config.redeliver) {
        Verdict::Finish => {
            pool.settle(&failed, Outcome::Finished);
            let keep = loss.note.is_some_and(|note| note.keep);
            let consumed = known.is_some_and(|(_, consumed)| client.consume(consumed));
            Some(if keep && consumed { After::Park } else { After::End(Ending::Linger) })
        }
        Verdict::Redeliver => {
            client.request.borrow_mut().failed = Some(failed);
            // The front of the queue has room for whoever was at a worker already.
            let _ = pool.submit(client, Position::Front);
            None
        }
        Verdict::Answer(status, reason) => {
            let incident = failed.worker.to_string();
            let detail = match reason {
                redeliver::Reason::Overran => format!("{reason}: its worker was killed"),
                redeliver::Reason::MayStillRun => format!("there is no answer: {reason}"),
                _ => format!("the worker died before it had answered: {reason}"),
            };
            say(client, pool, &Problem::of_incident(status, &detail, &incident), status);
            pool.settle(&failed, Outcome::Answered { status, why: reason.to_string() });
            Some(After::End(Ending::Linger))
        }
        Verdict::Close(reason) => {
            pool.settle(&failed, Outcome::Closed { why: reason.to_string() });
            if facts.answer == Written::Begun {
                pool.counters.borrow_mut().cut += 1;
            }
            // An HTTP/1.0 client takes the end of the connection for the end of the answer.
            let reset = facts.answer == Written::Begun && client.request.borrow().http_1_0;
            Some(After::End(if reset { Ending::Reset } else { Ending::Close }))
        }
    }
}

/// What can be known of a turn whose worker is dead, from the door's own duplicate of the socket.
fn facts(client: &Client, pool: &Pool, loss: &Loss, known: Option<(Progress, u64)>) -> Facts {
    let whole = arrival::is_still_whole(client, &pool.clients, &pool.scratch);
    // By the kernel's count where every request on this connection was seen whole, else by what the bytes look like.
    let untouched = known.and_then(|(_, consumed)| client.is_unconsumed(consumed)).unwrap_or(true);
    let progress = known.map(|(progress, _)| progress);
    // Where the connection is the turn, it was one answer of several.
    let announced = loss.note.filter(|_| pool.config.turn == TurnUnit::Request).map(|note| note.bytes);
    let request = client.request.borrow();
    Facts {
        protocol: pool.config.protocol,
        // A socket that cannot be asked is as good as gone.
        client_gone: progress.is_none_or(|progress| progress.gone),
        answer: match progress.map(|progress| progress.written.wrapping_sub(request.written_before)) {
            Some(0) => Written::Nothing,
            Some(written) if announced == Some(written) => Written::Whole,
            Some(_) | None => Written::Begun,
        },
        whole: untouched && whole.unwrap_or(false),
        overran: loss.overran,
        untouched: loss.untouched,
        idempotent_method: request.idempotent,
        keyed: request.keyed,
        may_still_run: loss.may_still_run,
        deliveries: request.deliveries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_asked_for_the_end_is_not_listened_to_any_more() {
        let request = |whole, keep_alive| Request { whole, keep_alive, ..Request::default() };
        assert_eq!(behind_the_last_answer(&request(80, false), TurnUnit::Request), Ending::Close);
        assert_eq!(behind_the_last_answer(&request(80, true), TurnUnit::Request), Ending::Linger);
        assert_eq!(behind_the_last_answer(&request(0, false), TurnUnit::Request), Ending::Linger);
        assert_eq!(behind_the_last_answer(&request(80, false), TurnUnit::Connection), Ending::Linger);
    }
}
