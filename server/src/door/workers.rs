//! The door's end of the links: who may come in, and what they say.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{SendFlags, SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::links::LinkEnd;
use super::notices::Notices;
use super::pool::{Heard, Pool};
use super::roster::Seat;
use super::wire::{Wire, WorkerLink};
use crate::control::{Notice, Retirement};
use crate::identity::{Incarnation, PoolName, Secret, WorkerId};
use crate::link::{self, FromWorker, LONGEST, Received, Scoreboard, ToWorker};
use crate::sys::{self, SlowToClose};

/// How long somebody who has connected may take to say hello.
pub(super) const HELLO: Duration = Duration::from_secs(2);
/// How many may be about to say it at a time. One more, and the one that has been silent longest is turned away: a
/// worker says hello at once, and must not be kept out by those who never do.
pub(super) const MOST_STRANGERS: usize = 256;
/// How many frames are read from one worker before the others have their turn.
const FRAMES_AT_A_TIME: usize = 64;

/// Everybody's links.
#[derive(Debug)]
pub(super) struct Workers {
    pools: HashMap<PoolName, Rc<Pool>>,
    pub(super) notices: Rc<Notices>,
    /// `None` until a controller has said what it is.
    secret: watch::Sender<Option<Secret>>,
    /// The latest life that was seen of each place, and whether it is over.
    lives: RefCell<HashMap<WorkerId, Life>>,
    strangers: Strangers,
}

/// Those who have connected and not yet said who they are, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Strangers(RefCell<VecDeque<AbortHandle>>);

impl Strangers {
    /// Keeps somebody among those who have not yet said who they are, of whom there are not too many.
    pub(super) fn host(&self, greeting: AbortHandle) {
        let mut strangers = self.0.borrow_mut();
        strangers.push_back(greeting);
        if strangers.len() > MOST_STRANGERS {
            strangers.retain(|stranger| !stranger.is_finished());
        }
        if strangers.len() > MOST_STRANGERS
            && let Some(oldest) = strangers.pop_front()
        {
            oldest.abort();
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Life {
    generation: u64,
    over: bool,
}

impl Workers {
    pub(super) fn new(pools: impl IntoIterator<Item = Rc<Pool>>, notices: Rc<Notices>) -> Self {
        Self {
            pools: pools.into_iter().map(|pool| (pool.config.name.clone(), pool)).collect(),
            notices,
            secret: watch::Sender::new(None),
            lives: RefCell::default(),
            strangers: Strangers::default(),
        }
    }

    /// Learns the secret under which tokens are made.
    pub(super) fn learn(&self, secret: Secret) {
        self.secret.send_replace(Some(secret));
    }

    /// The latest life seen of each place.
    pub(super) fn seen(&self) -> Vec<Incarnation> {
        self.lives.borrow().iter().map(|(worker, life)| worker.life(life.generation)).collect()
    }

    /// The workers whose links are up.
    pub(super) fn linked(&self) -> Vec<Incarnation> {
        self.pools.values().flat_map(|pool| pool.linked()).collect()
    }

    /// Sends a worker away once it has done what it holds. Whether it was there.
    pub(super) fn drain(&self, life: &Incarnation) -> bool {
        let found = self.pools.get(&life.worker.pool).and_then(|pool| Some((pool, pool.seat_of(life)?)));
        if let Some((pool, seat)) = found {
            pool.dismiss(seat, Retirement::Told);
        }
        found.is_some()
    }

    /// Sends a worker to another door.
    pub(super) fn move_away(&self, life: &Incarnation, to: &str) {
        if let Some(pool) = self.pools.get(&life.worker.pool)
            && let Some(seat) = pool.seat_of(life)
        {
            pool.move_away(seat, to);
        }
    }

    /// Gives a worker that is about to be killed no turn for a while.
    pub(super) fn withhold(&self, life: &Incarnation) {
        let found = self.pools.get(&life.worker.pool).and_then(|pool| Some((pool, pool.seat_of(life)?)));
        if let Some((pool, seat)) = found {
            pool.withhold(seat);
            let pool = Rc::clone(pool);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(WITHHELD).await;
                pool.release(seat);
            });
        }
    }

    /// Ends a worker's process, where it can be reached through its link.
    pub(super) fn kill(&self, life: &Incarnation) {
        if let Some(pool) = self.pools.get(&life.worker.pool)
            && let Some(seat) = pool.seat_of(life)
        {
            pool.kill(seat);
        }
    }

    /// Notes that a worker's life is over, and decides about its turns even if its link still looks open.
    pub(super) fn bury(&self, life: &Incarnation) {
        self.note(life, true);
        let found = self.pools.get(&life.worker.pool).and_then(|pool| Some((pool, pool.seat_of(life)?)));
        let Some((pool, seat)) = found else { return };
        if let Some(link) = pool.fd_link(seat) {
            hear_last_words(pool, seat, &link);
        }
        // Somebody who has inherited the other end may go on talking, to nobody.
        pool.sever(seat);
        pool.left(seat, &LinkEnd::Buried);
    }

    /// Notes that these lives have ended where this door has not seen it. One place has one entry, however many they were,
    /// and places of pools that are not served here have none.
    pub(super) fn learn_of_ends(&self, lives: &[Incarnation]) {
        let ours = lives.iter().filter(|life| self.pools.contains_key(&life.worker.pool));
        ours.for_each(|life| self.note(life, true));
    }

    pub(super) fn note(&self, life: &Incarnation, over: bool) {
        let mut lives = self.lives.borrow_mut();
        let known = lives.entry(life.worker.clone()).or_insert(Life { generation: 0, over: true });
        if life.generation >= known.generation {
            *known = Life { generation: life.generation, over };
        }
    }

    /// Accepts links for as long as it is polled.
    pub(super) async fn accept(self: Rc<Self>, listener: OwnedFd) {
        let listener = match sys::watch(listener, Interest::READABLE) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot wait for workers"),
        };
        loop {
            let Ok(mut ready) = listener.readable().await else { return };
            match accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let greeting = tokio::task::spawn_local(Rc::clone(&self).greet(socket));
                    self.strangers.host(greeting.abort_handle());
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a worker's link");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            // However many come, the others have their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// The secret, as soon as it is known: who comes before the controller does has to wait for it.
    pub(super) async fn secret(&self) -> Option<Secret> {
        self.secret.subscribe().wait_for(Option::is_some).await.ok()?.clone()
    }

    /// The pool that a worker is of, if this door serves it: one that was started with another spec may.
    pub(super) fn pool_of(&self, life: &Incarnation) -> Result<&Rc<Pool>, String> {
        self.pools.get(&life.worker.pool).ok_or_else(|| format!("there is no pool {}", life.worker.pool))
    }

    /// Whether there may be such a worker at all, before it has proved anything by its hello.
    pub(super) fn may_come(&self, life: &Incarnation) -> Result<(), String> {
        self.judge(link::VERSION, 1, life, true).map(|_| ())
    }

    /// A worker's link has ended.
    pub(super) fn gone(&self, life: &Incarnation, pool: &Pool, seat: Seat, end: &LinkEnd) {
        let lives_on = pool.left(seat, end);
        self.note(life, !lives_on);
    }

    /// Hears out somebody who has connected, and serves the link if it is a worker of ours.
    async fn greet(self: Rc<Self>, socket: OwnedFd) {
        if let Some(guest) = self.hear_out(socket).await {
            // A task of its own: whoever is known cannot be turned away as a stranger any more.
            tokio::task::spawn_local(Rc::clone(&self).serve(guest));
        }
    }

    async fn serve(self: Rc<Self>, Guest { pool, life, seat, link }: Guest) {
        listen(&pool, seat, &link).await;
        self.gone(&life, &pool, seat, &LinkEnd::Dead);
    }

    async fn hear_out(&self, socket: OwnedFd) -> Option<Guest> {
        let link = Rc::new(sys::watch_slow(SlowToClose::new(socket)).ok()?);
        let (claimed, refusal) = match timeout(HELLO, receive_hello(&link)).await {
            Ok(Some(Ok(FromWorker::Hello { version, credit, token, life }))) => {
                let secret = self.secret().await?;
                match self.judge(version, credit, &life, secret.vouches_for(&life, &token)) {
                    Ok(pool) => {
                        let credit = granted(&life, credit, pool.config.credit);
                        let board = Scoreboard::new(credit).ok()?;
                        let mut welcome = Vec::new();
                        ToWorker::Welcome(pool.terms()).encode(&mut welcome);
                        link::send_with(link.as_fd(), &welcome, board.as_fd()).ok()?;
                        // Without waiting for anything since it was judged: whoever says that it is the same one, and
                        // is judged next, has to be found out.
                        self.note(&life, false);
                        let seat =
                            pool.welcome(life.clone(), credit, Wire::Fd { socket: Rc::clone(&link), board });
                        return Some(Guest { pool, life, seat, link });
                    }
                    Err(refusal) => (Some(life), refusal),
                }
            }
            Ok(Some(Ok(_))) => (None, "it did not begin with a hello".to_owned()),
            Ok(Some(Err(breach))) => (None, breach.to_string()),
            Ok(None) => return None,
            Err(_elapsed) => (None, format!("it said no hello within {HELLO:?}")),
        };
        say(&link, &ToWorker::Refused { why: refusal.clone() });
        self.notices.post(Notice::Refused { claimed, detail: refusal });
        None
    }

    /// Whether a worker that says this of itself may come in; the pool that it belongs to.
    pub(super) fn judge(
        &self,
        version: u16,
        credit: u16,
        life: &Incarnation,
        proven: bool,
    ) -> Result<Rc<Pool>, String> {
        if version != link::VERSION {
            return Err(format!(
                "it speaks version {version} of the link, this door speaks {}",
                link::VERSION
            ));
        }
        if !proven {
            return Err("its token is not the one of the worker that it says it is".to_owned());
        }
        let pool = self.pool_of(life)?;
        if credit == 0 {
            return Err("it takes no turns".to_owned());
        }
        if pool.is_linked(life) {
            return Err(format!("{life} is here already"));
        }
        match self.lives.borrow().get(&life.worker) {
            Some(known) if life.generation < known.generation => {
                Err(format!("{life} has been replaced by {}", life.worker.life(known.generation)))
            }
            Some(known) if life.generation == known.generation && known.over => {
                Err(format!("{life} has left already"))
            }
            _ => Ok(Rc::clone(pool)),
        }
    }
}

/// The credit of a worker that says it takes `claimed` turns at a time, in a pool whose model takes `most`. A worker that
/// is left over from another model is as good with less; one that lies gets no more clients to harm than an honest one.
pub(super) fn granted(life: &Incarnation, claimed: u16, most: u16) -> u16 {
    if claimed > most {
        tracing::warn!(worker = %life, claimed, most, "it takes more turns at a time than its pool's model: it gets no more");
    }
    claimed.min(most)
}

/// A worker whose hello was good, and who has its seat.
struct Guest {
    pool: Rc<Pool>,
    life: Incarnation,
    seat: Seat,
    link: Rc<WorkerLink>,
}

async fn receive_hello(link: &WorkerLink) -> Option<Result<FromWorker, link::Breach>> {
    let mut buffer = [0; LONGEST + 1];
    loop {
        let mut ready = link.readable().await.ok()?;
        match link::receive_bare(link.as_fd(), &mut buffer).ok()? {
            Received::Frame { len, .. } => return Some(FromWorker::decode(&buffer[..len])),
            Received::Nothing => ready.clear_ready(),
            Received::Uninvited | Received::Closed => return None,
        }
    }
}

/// Hears what a dead worker had still to say: that a turn was done, perhaps. No more than its link has room for, because
/// somebody who has inherited it may fill it again and again.
fn hear_last_words(pool: &Rc<Pool>, seat: Seat, link: &WorkerLink) {
    const MOST: usize = 1024;
    let mut buffer = [0; LONGEST + 1];
    for _ in 0..MOST {
        let Ok(Received::Frame { len, .. }) = link::receive_bare(link.as_fd(), &mut buffer) else { return };
        if let Ok(frame) = FromWorker::decode(&buffer[..len]) {
            hear(pool, seat, frame);
        }
    }
}

/// How long a worker that is about to be killed is believed to be.
const WITHHELD: Duration = Duration::from_secs(1);

/// Listens to a worker until its link closes.
async fn listen(pool: &Rc<Pool>, seat: Seat, link: &WorkerLink) {
    let mut buffer = [0; LONGEST + 1];
    loop {
        let Ok(mut ready) = link.readable().await else { return };
        for _ in 0..FRAMES_AT_A_TIME {
            match link::receive_bare(link.as_fd(), &mut buffer) {
                Ok(Received::Frame { len, .. }) => {
                    let heard = match FromWorker::decode(&buffer[..len]) {
                        Ok(frame) => hear(pool, seat, frame),
                        Err(breach) => Heard::Breach(breach.to_string()),
                    };
                    match heard {
                        Heard::Fine => {}
                        Heard::Late => pool.dismiss(seat, Retirement::Told),
                        Heard::Breach(detail) => pool.breach(seat, &detail),
                    }
                }
                Ok(Received::Uninvited) => pool.breach(seat, "it sent descriptors"),
                Ok(Received::Nothing) => {
                    ready.clear_ready();
                    break;
                }
                Ok(Received::Closed) | Err(_) => return,
            }
            // Whoever talks without a pause must not keep the others from being heard.
            tokio::task::consume_budget().await;
        }
    }
}

pub(super) fn hear(pool: &Rc<Pool>, seat: Seat, frame: FromWorker) -> Heard {
    match frame {
        FromWorker::Done { turn, after } => return pool.done(seat, turn, after),
        FromWorker::Acknowledge { turn } => return pool.acknowledged(seat, turn),
        FromWorker::Goodbye(why) => pool.dismiss(seat, why),
        FromWorker::Panicked { turn, message } => return pool.panicked(seat, turn, message),
        FromWorker::Hello { .. } => return Heard::Breach("it said hello twice".to_owned()),
    }
    Heard::Fine
}

fn say(link: &WorkerLink, frame: &ToWorker) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let _ = link::send(link.as_fd(), &bytes, SendFlags::DONTWAIT);
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketType, socketpair};
    use tokio::task::LocalSet;

    use super::super::testing::{in_time, life, link, pool};
    use super::*;

    #[test]
    fn a_life_that_says_hello_twice_before_anybody_can_judge_joins_once() {
        let answers = in_time(async || {
            let both = async {
                let pool = pool();
                let workers = Rc::new(Workers::new([Rc::clone(&pool)], Rc::clone(&pool.notices)));
                let secret = Secret::try_from("5a".repeat(32)).map_err(std::io::Error::other)?;
                let (version, token, life) = (link::VERSION, secret.token(&life()), life());
                let mut hello = Vec::new();
                FromWorker::Hello { version, credit: 1, token, life }.encode(&mut hello);
                let mut dialled = Vec::new();
                for _ in 0..2 {
                    let flags = SocketFlags::CLOEXEC;
                    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
                    link::send(theirs.as_fd(), &hello, SendFlags::empty())?;
                    tokio::task::spawn_local(Rc::clone(&workers).greet(ours));
                    dialled.push(theirs);
                }
                while workers.secret.receiver_count() < 2 {
                    tokio::task::yield_now().await;
                }
                workers.learn(secret);
                let mut answers = Vec::new();
                for theirs in dialled {
                    let mut buffer = [0; LONGEST + 1];
                    answers.push(loop {
                        match link::receive(theirs.as_fd(), &mut buffer, RecvFlags::DONTWAIT)? {
                            Received::Frame { len, .. } => break ToWorker::decode(&buffer[..len]),
                            _ => tokio::task::yield_now().await,
                        }
                    });
                }
                Ok((answers, pool.linked().len()))
            };
            LocalSet::new().run_until(both).await
        });
        let Ok((answers, linked)) = answers else { return assert_eq!(answers, Ok((Vec::new(), 0))) };
        let welcome = answers.iter().filter(|it| matches!(it, Ok(ToWorker::Welcome(_)))).count();
        let refused = answers.iter().filter(|it| matches!(it, Ok(ToWorker::Refused { .. }))).count();
        assert_eq!((welcome, refused, linked), (1, 1, 1), "{answers:?}");
    }

    #[test]
    fn whose_life_ended_before_this_door_came_is_let_in_no_more() {
        let let_in = in_time(async || {
            let pool = pool();
            let workers = Workers::new([Rc::clone(&pool)], Rc::clone(&pool.notices));
            let life = |text: &str| text.parse::<Incarnation>().map_err(std::io::Error::other);
            workers.learn_of_ends(&[life("web-0.6")?, life("other-0.6")?]);
            let lives = [life("web-0.5")?, life("web-0.6")?, life("web-0.7")?, life("web-1.1")?];
            let let_in = lives.map(|life| workers.may_come(&life).is_ok());
            Ok((let_in, workers.seen().len()))
        });
        assert_eq!(let_in, Ok(([false, false, true, true], 1)));
    }

    #[test]
    fn who_has_inherited_a_link_cannot_keep_the_door_listening() {
        let buried = in_time(async || {
            let pool = pool();
            let workers = Workers::new([Rc::clone(&pool)], Rc::clone(&pool.notices));
            let (link, theirs) = link()?;
            let seat = {
                let (socket, board) = (Rc::clone(&link), Scoreboard::new(1)?);
                pool.welcome(life(), 1, Wire::Fd { socket, board })
            };
            // It never stops talking, until nobody can listen any more.
            let talker = std::thread::spawn(move || {
                while let Ok(link::Sent::Whole) =
                    link::send(theirs.as_fd(), b"D12345678abcdefgh", SendFlags::empty())
                {}
            });
            while !matches!(link::receive_bare(link.as_fd(), &mut [0; LONGEST + 1])?, Received::Frame { .. })
            {
            }
            workers.bury(&life());
            assert_eq!(pool.fd_link(seat).map(|_| ()), None);
            talker.join().map_err(|_| std::io::Error::other("the talker panicked"))
        });
        assert_eq!(buried, Ok(()));
    }
}
