//! The one model on an event loop: one thread interleaves up to N turns.
//!
//! It is here to be compared. Waiting costs it nothing (a thousand sleeping turns are a thousand timers), and one
//! turn that computes, blocks or hangs stops them all, because nobody can take the thread away from it: `/work`
//! waits on the loop's own timer, while `/cpu`, `/leak` and `/hang` do here what they do everywhere. A panic or a
//! fault takes all N turns along.
//!
//! The client's socket is shared with the door and stays blocking; every call on it says `MSG_DONTWAIT` and waits
//! on the loop instead.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, LocalSet};
use tokio::time::{Instant, timeout_at};

use super::client::after;
use super::next::{Next, cut_short, is_served, refusal_in, refused, stalled};
use super::session::{Doors, Joined, say};
use super::{Ending, Options};
use crate::apps::demo::{self, Act};
use crate::apps::{Me, echo};
use crate::config::{Protocol, TurnUnit};
use crate::control::Retirement;
use crate::http::answer::{AnswerHead, AnswerLength, Persistence};
use crate::http::chunked::Decoder;
use crate::http::problem::{AnswerBody, Problem};
use crate::http::{Framing, Head, HeaderSpace, Refusal, has_begun, parse_head};
use crate::link::{self, After, FromWorker, LONGEST, Received, ScoreboardPen, Terms, ToWorker, TurnFrame};
use crate::sys::{self, Termination};

/// The largest body that this model takes: it reads a body whole before it answers.
const LARGEST_BODY: usize = 16 << 20;

/// Serves until told to go.
pub(super) fn run(options: &Options) -> Ending {
    let me = Rc::new(Me::new(options.life.clone(), options.model));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Ending::Setup;
    };
    let doors = Doors::of(options);
    loop {
        let Joined { link, terms, board, relay } = match doors.join() {
            Ok(joined) => joined,
            Err(ending) => return ending,
        };
        let Ok(spare) = link.try_clone() else { return Ending::NoDescriptor };
        let on_signal = Termination::on(spare);
        let turns = take_turns(options.clone(), terms, Rc::clone(&me), link, Rc::new(board));
        let ended = runtime.block_on(LocalSet::new().run_until(turns));
        drop(on_signal);
        drop(relay);
        match ended {
            Some(ending) => return ending,
            None if sys::told_to_go() => return Ending::Goodbye,
            None => eprintln!("{}: the door is gone; waiting for another", options.life),
        }
    }
}

/// Takes turns until the farewell has come (an ending) or the door has gone (`None`), and sees those through that
/// are under way.
async fn take_turns(
    options: Options,
    terms: Terms,
    me: Rc<Me>,
    link: OwnedFd,
    board: Rc<ScoreboardPen>,
) -> Option<Ending> {
    let Ok(link) = sys::watch(link, Interest::READABLE) else { return Some(Ending::Setup) };
    let worker = Rc::new(Worker {
        options,
        terms,
        me,
        link,
        board,
        leaving: watch::Sender::new(false),
        retiring: Cell::new(false),
    });
    let mut turns = JoinSet::new();
    let mut frame = [0; LONGEST + 1];
    loop {
        let ready = tokio::select! {
            ready = worker.link.readable() => ready,
            Some(ended) = turns.join_next() => {
                pass_on_panic(ended);
                continue;
            }
        };
        let Ok(mut ready) = ready else { return Some(Ending::Setup) };
        let (len, descriptor) = match link::receive(worker.link.as_fd(), &mut frame, RecvFlags::DONTWAIT) {
            Ok(Received::Frame { len, descriptor }) => (len, descriptor),
            Ok(Received::Nothing) => {
                ready.clear_ready();
                continue;
            }
            Ok(Received::Closed | Received::Uninvited) | Err(_) => {
                worker.leaving.send_replace(true);
                finish(turns).await;
                return None;
            }
        };
        match (ToWorker::decode(&frame[..len]), descriptor) {
            (Ok(ToWorker::Turn(turn)), Some(socket)) => {
                turns.spawn_local(Rc::clone(&worker).turn(turn, socket));
            }
            (Ok(ToWorker::Turn(_)), None) => {
                let life = &worker.options.life;
                eprintln!("{life}: a client's descriptor did not arrive: open_files is too low");
                return Some(Ending::NoDescriptor);
            }
            (Ok(ToWorker::Farewell), _) => {
                worker.leaving.send_replace(true);
                finish(turns).await;
                return Some(Ending::Goodbye);
            }
            (Ok(ToWorker::Welcome(_) | ToWorker::Refused { .. }) | Err(_), _) => return Some(Ending::Breach),
        }
    }
}

/// Sees the turns through that are under way.
async fn finish(mut turns: JoinSet<()>) {
    while let Some(ended) = turns.join_next().await {
        pass_on_panic(ended);
    }
}

/// What one turn dies of they all die of: they share a thread, and whatever it was about to do for them.
fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

struct Worker {
    options: Options,
    terms: Terms,
    me: Rc<Me>,
    link: AsyncFd<OwnedFd>,
    /// Its answers are not announced there: what is compared is how turns share a thread.
    board: Rc<ScoreboardPen>,
    /// Whether no further turns will come: then nobody is waited for who has asked for nothing.
    leaving: watch::Sender<bool>,
    /// Whether it has said that it has served enough.
    retiring: Cell<bool>,
}

impl Worker {
    async fn turn(self: Rc<Self>, turn: TurnFrame, socket: OwnedFd) {
        let link = self.link.get_ref();
        if turn.acknowledge {
            say(link, &FromWorker::Acknowledge { turn: turn.turn });
        }
        let served = self.me.count_turn();
        let after = match sys::watch(socket, Interest::READABLE | Interest::WRITABLE) {
            // The client is closed within, before the door hears that the turn is done.
            Ok(socket) => self.serve(&turn, Client::new(socket, turn.turn, Rc::clone(&self.board))).await,
            Err(_) => After::Close { written: 0 },
        };
        say(link, &FromWorker::Done { turn: turn.turn, after });
        if self.options.retire_after.is_some_and(|most| served >= most.get().into())
            && !self.retiring.replace(true)
        {
            say(link, &FromWorker::Goodbye(Retirement::Recycled));
        }
    }

    /// Serves one turn. A client that goes away in the middle is no concern of anybody's: its connection is closed.
    async fn serve(&self, turn: &TurnFrame, client: Client) -> After {
        let keep = self.serve_until(turn, &client).await.unwrap_or(false);
        after(keep, client.cut.get(), client.written.get())
    }

    /// The same; whether the connection can carry another request.
    async fn serve_until(&self, turn: &TurnFrame, client: &Client) -> io::Result<bool> {
        match (self.options.protocol, self.options.turn) {
            (Protocol::Tcp, _) => {
                let mut reply = [0; echo::PREFIX.len() + 4096];
                reply[..echo::PREFIX.len()].copy_from_slice(echo::PREFIX);
                loop {
                    match client.receive(&mut reply[echo::PREFIX.len()..], RecvFlags::empty()).await {
                        Ok(0) => break,
                        // It is only thinking.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                        Ok(read) => client.write_all(&reply[..echo::PREFIX.len() + read]).await?,
                    }
                }
                shutdown(&client.socket, Shutdown::Write)?;
                Ok(false)
            }
            (Protocol::Http, TurnUnit::Request) => self.request(turn, client).await,
            (Protocol::Http, TurnUnit::Connection) => {
                let mut turn = *turn;
                while self.request(&turn, client).await? {
                    turn = TurnFrame { whole: 0, continued: false, ..turn };
                }
                Ok(false)
            }
        }
    }

    /// Serves one request; whether the connection can carry another.
    async fn request(&self, turn: &TurnFrame, client: &Client) -> io::Result<bool> {
        let mut bytes = vec![0; (turn.whole as usize).max(4096)];
        let peeked = match client.await_request(&self.terms, &self.leaving, &mut bytes).await? {
            Next::Request(peeked) => peeked,
            Next::Refused(refusal) => return client.refuse(refusal, AnswerBody::of(&bytes)).await,
            Next::Gone => return Ok(false),
        };
        let mut space = HeaderSpace::new();
        let head = parse_head(&bytes[..peeked], &mut space, self.terms.head_bytes as usize);
        let Ok(Some(head)) = head else { return Ok(false) };
        let mut answer =
            Answer { client, head: &head, keep: head.keep_alive && !turn.last, in_socket: head.len };
        match demo::decide(&head, turn.peer, &self.me) {
            Act::Work(time) => {
                tokio::time::sleep(time).await;
                answer.respond(200, demo::worked(time).as_bytes()).await?;
            }
            Act::EchoBody if announces_more(&head, largest_body(&self.terms)) => {
                return client.refuse(Refusal::BodyTooLarge, AnswerBody::of(&bytes)).await;
            }
            Act::EchoBody => {
                client.discard(std::mem::take(&mut answer.in_socket)).await?;
                if head.expects_continue && !turn.continued {
                    client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                }
                let mut body = match client.body(&head, &self.terms).await {
                    Ok(body) => body,
                    Err(error) => {
                        let refusal = refusal_in(&error).ok_or(error)?;
                        return client.refuse(refusal, AnswerBody::of(&bytes)).await;
                    }
                };
                body.extend(format!("\n{} bytes\n", body.len()).bytes());
                answer.respond(200, &body).await?;
                return Ok(answer.keep);
            }
            Act::Stream { bytes, over } => {
                answer.begin(AnswerLength::Known(bytes as u64), 200, &[]).await?;
                let pieces = if head.method == "HEAD" { 0 } else { usize::MAX };
                for piece in demo::pieces(bytes).take(pieces) {
                    if let Err(error) = client.write_all(&piece).await {
                        // An HTTP/1.0 client may take the end of the connection for the end of the answer.
                        if head.http_1_0 {
                            let _ = rustix::net::connect_unspec(&client.socket);
                            client.cut.set(true);
                        }
                        return Err(error);
                    }
                    tokio::time::sleep(over / demo::STREAM_PIECES as u32).await;
                }
            }
            Act::DieAfter(bytes) => {
                answer.begin(AnswerLength::Known(bytes as u64 + 1), 200, &vec![b'x'; bytes]).await?;
                std::process::abort()
            }
            act => {
                let (status, text) = demo::at_once(act);
                answer.respond(status, text.as_bytes()).await?;
            }
        }
        if head.has_body() && head.expects_continue && !turn.continued {
            // Nobody has asked for the body, and nobody knows whether it will come.
            return Ok(false);
        }
        // Whatever of a body nobody wanted to read goes, if there is not too much of it.
        if head.has_body() {
            client.body(&head, &self.terms).await?;
        }
        Ok(answer.keep)
    }
}

/// The largest body that is taken where clients may ask this, in bytes.
fn largest_body(terms: &Terms) -> usize {
    usize::try_from(terms.body_bytes).unwrap_or(usize::MAX).min(LARGEST_BODY)
}

/// Whether a request says that its body is larger than that: it is refused before anybody sends it in vain.
fn announces_more(head: &Head<'_>, most: usize) -> bool {
    matches!(head.framing, Framing::Length(length) if length > most as u64)
}

/// An answer to one request.
struct Answer<'a> {
    client: &'a Client,
    head: &'a Head<'a>,
    keep: bool,
    /// Bytes of the head that are still in the socket: it is consumed behind the first byte of the answer.
    in_socket: usize,
}

impl Answer<'_> {
    async fn respond(&mut self, status: u16, body: &[u8]) -> io::Result<()> {
        let sent = if self.head.method == "HEAD" { &[] } else { body };
        self.begin(AnswerLength::Known(body.len() as u64), status, sent).await
    }

    async fn begin(&mut self, length: AnswerLength, status: u16, body: &[u8]) -> io::Result<()> {
        let persistence = match (self.keep, self.head.http_1_0) {
            (true, false) => Persistence::Keep,
            (true, true) => Persistence::KeepAlive10,
            (false, _) => Persistence::Close,
        };
        let mut out = Vec::with_capacity(256 + body.len());
        let content_type = "text/plain; charset=utf-8";
        AnswerHead { status, content_type, length, persistence, extra: "" }.write(&mut out);
        out.extend(body);
        self.client.write_all(&out).await?;
        self.client.discard(std::mem::take(&mut self.in_socket)).await
    }
}

/// A client, on the loop.
struct Client {
    socket: AsyncFd<OwnedFd>,
    /// How long it may stall: the door has set it on the socket, for those who block on it.
    patience: Duration,
    /// Bytes written so far.
    written: Cell<u64>,
    /// Whether it was reset.
    cut: Cell<bool>,
    turn: u64,
    board: Rc<ScoreboardPen>,
}

impl Client {
    fn new(socket: AsyncFd<OwnedFd>, turn: u64, board: Rc<ScoreboardPen>) -> Self {
        let patience = rustix::net::sockopt::socket_timeout(socket.get_ref(), Timeout::Recv).ok().flatten();
        Self {
            socket,
            patience: patience.unwrap_or(Duration::MAX),
            written: Cell::new(0),
            cut: Cell::new(false),
            turn,
            board,
        }
    }

    /// Waits until the client has sent something, or takes something again.
    async fn ready(&self, interest: Interest) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        let ready = tokio::time::timeout(self.patience, self.socket.ready(interest)).await;
        ready.map_err(|_elapsed| io::ErrorKind::WouldBlock)?
    }

    async fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            let mut ready = self.ready(Interest::READABLE).await?;
            match recv(self.socket.as_fd(), &mut *into, flags | RecvFlags::DONTWAIT) {
                Ok((_, received)) => return Ok(received),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // Most answers fit: wait only where one does not.
            match send(self.socket.as_fd(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    self.written.set(self.written.get() + sent as u64);
                }
                Err(Errno::AGAIN) => self.ready(Interest::WRITABLE).await?.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn discard(&self, mut bytes: usize) -> io::Result<()> {
        let mut waste = [0; 4096];
        while bytes > 0 {
            let room = bytes.min(waste.len());
            match self.receive(&mut waste[..room], RecvFlags::empty()).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes -= read,
            }
        }
        Ok(())
    }

    /// Waits for a request and looks at its head without taking it.
    async fn await_request(
        &self,
        terms: &Terms,
        leaving: &watch::Sender<bool>,
        bytes: &mut Vec<u8>,
    ) -> io::Result<Next> {
        let mut until = Instant::now() + terms.keep_alive;
        let mut before = 0;
        let mut leaving = leaving.subscribe();
        loop {
            let peeked = tokio::select! {
                biased;
                peeked = timeout_at(until, self.receive(bytes, RecvFlags::PEEK)) => peeked,
                _ = leaving.wait_for(|&leaving| leaving), if before == 0 => return Ok(Next::Gone),
            };
            let peeked = match peeked {
                Ok(Ok(0)) => return Ok(Next::Gone),
                Ok(Ok(peeked)) => peeked,
                // It is only thinking.
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) if before > 0 => return Ok(Next::Refused(Refusal::TooSlow)),
                Err(_elapsed) => return Ok(Next::Gone),
            };
            if !has_begun(&bytes[..peeked]) {
                self.discard(peeked).await?;
                continue;
            }
            match is_served(&bytes[..peeked], terms) {
                Ok(true) => return Ok(Next::Request(peeked)),
                Ok(false) => {}
                Err(refusal) => return Ok(Next::Refused(refusal)),
            }
            if before == 0 {
                until = Instant::now() + terms.head;
            }
            if peeked == bytes.len() {
                bytes.resize(peeked * 2, 0);
            } else if peeked == before {
                // Peeking does not use readiness up: the next look has to wait for more bytes, or for the end.
                let mut ready = self.socket.readable().await?;
                if ready.ready().is_read_closed() {
                    return Ok(Next::Gone);
                }
                ready.clear_ready();
            }
            before = peeked;
        }
    }

    /// Says why a request is not served. The connection cannot carry another one.
    async fn refuse(&self, refusal: Refusal, body: AnswerBody) -> io::Result<bool> {
        self.write_all(&Problem::from(refusal).answer(body)).await?;
        Ok(false)
    }

    /// Takes a body, decoded.
    ///
    /// # Errors
    /// It is none, or larger than the pool allows or this model takes; or the client has gone or stalls.
    async fn body(&self, head: &Head<'_>, terms: &Terms) -> io::Result<Vec<u8>> {
        let most = largest_body(terms);
        let mut body = Vec::new();
        let mut piece = vec![0; 16 * 1024];
        let mut decoder = Decoder::new();
        loop {
            let room = match head.framing {
                Framing::Length(length) => match length - body.len() as u64 {
                    0 => return Ok(body),
                    left => usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()),
                },
                Framing::Chunked if decoder.is_done() => return Ok(body),
                Framing::Chunked => piece.len(),
            };
            // Only what belongs to this request may be taken, and chunks have to be read to know: look, then take.
            let there = self.receive(&mut piece[..room], RecvFlags::PEEK).await.map_err(stalled)?;
            if there == 0 {
                return Err(refused(cut_short(self.socket.as_fd(), self.board.is_cut_off(self.turn))));
            }
            let taken = match head.framing {
                Framing::Length(_) => {
                    body.extend(&piece[..there]);
                    there
                }
                Framing::Chunked => {
                    let step = decoder.step(&piece[..there]).map_err(refused)?;
                    body.extend(step.data);
                    step.consumed
                }
            };
            self.discard(taken).await?;
            if body.len() > most {
                return Err(refused(Refusal::BodyTooLarge));
            }
        }
    }
}
