//! The connection to one door.
//!
//! A task dials, says hello, and from then on turns the door's notices into what is [`Said`] and what is [asked](Ask) into
//! lines. When the connection is lost it says so once and dials again: after 10 ms, then after ever longer, up
//! to half a second, for ever. Neither side's death costs a client anything, so there is no hurry and no end.
//!
//! A door that hangs keeps its sockets open, so it is asked for a sign of life once a second; anything that it says
//! is one. After [`SILENT_AFTER`] beats without any it counts as silent: the supervisor is told, and does less, for
//! nothing is inferred from silence. After [`HANGS_AFTER`] it counts as hanging, and whoever has started it may
//! replace it. Beats are counted, not seconds: if it is us who was stopped, or the machine, not one of them has passed.
//! Once its socket is full, an order to it cannot even be written: then the connection is given up after
//! [`PATIENCE`], which counts as so many beats, and it is dialled again. A silent door is asked for no reports: who
//! wants one is told at once that there is none.
//!
//! A door at the other end of a network can be gone without anything ever saying so: its machine was switched off. So
//! there a connection on which nothing is heard for [`HANGS_AFTER`] beats is given up, and where there are other doors,
//! after as many as a link takes to count as lost (`tunnel.lost_after`): the workers that were with it are waited for at
//! the others from then on. Whether the door lives is then found by dialling it.
//!
//! What can go wrong: nobody listens (the door has not started, or is restarting); a line is too long or is no
//! notice (then the connection is given up and dialled again); the door is of another version, which no amount
//! of dialling cures, but replacing the door does, so that goes on as well and is said aloud each time the
//! reason changes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use server::control::{LONGEST_LINE, Notice, Order, Report, VERSION};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::Turns;
use super::darkness::Darkness;
use super::muster::MemberId;
use super::site::{Address, Approach, Wire};
use crate::model::{Company, Welcome, in_full};

/// The first wait before dialling again.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// How long the door may take for the welcome, or to make room for an order. Its event loop answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions for a sign of life.
const BEAT: Duration = Duration::from_secs(1);
/// After so many beats without an answer the door counts as silent.
pub const SILENT_AFTER: u32 = 5;
/// After so many it counts as hanging.
pub const HANGS_AFTER: u32 = 15;
/// How many beats a door has let pass that does not even answer a hello.
const BEATS_OF_PATIENCE: u32 = 5;

/// Why the door could not be talked to.
#[derive(Debug, Error)]
pub(super) enum DoorError {
    /// Nobody listens on its socket. It may come.
    #[error("cannot reach the door at {address}")]
    Dial {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke. Another may hold.
    #[error("lost the connection to the door")]
    Broken(#[source] std::io::Error),
    /// The door closed the connection: it has exited, or another controller has taken our place.
    #[error("the door closed the connection")]
    Closed,
    /// It accepted the connection and said nothing, or takes nothing of what it is told. It may be hanging.
    #[error("the door has not answered our hello, or taken an order, within {}s", PATIENCE.as_secs())]
    Mute,
    /// Nothing has been heard of it for so long that it may as well be gone, and only its network would tell.
    #[error("nothing has been heard of the door for {beats} beats")]
    Vanished {
        /// For how many.
        beats: u32,
    },
    /// It speaks another version. Dialling again helps only when one of the two has been replaced.
    #[error(
        "the door speaks version {theirs} of the control protocol and this controller version {VERSION}: start one of the two again, so that both are of the same build (SIGTERM drains a door); until then nobody is replaced"
    )]
    Version {
        /// The door's.
        theirs: u32,
    },
    /// Its first words were no welcome.
    #[error("the door answered our hello with something else")]
    NoWelcome,
    /// It sent a line that is too long, or no text.
    #[error("the door sent an unreadable line")]
    Line(#[source] LinesCodecError),
    /// It sent a line that is no notice.
    #[error("the door sent a line that is no notice")]
    Notice(#[source] serde_json::Error),
    /// An order could not be put into words.
    #[error("cannot put an order to the door into words")]
    Order(#[source] serde_json::Error),
}

/// What a line tells the fleet.
#[derive(Debug)]
pub(super) enum Said {
    /// Its door is there.
    Up {
        /// What a controller needs to adopt it.
        welcome: Welcome,
        /// Where it listens for workers over TCP.
        tunnel: Option<SocketAddr>,
    },
    /// The door says something.
    Notice(Notice),
    /// For so many beats it has given no sign of life.
    Beats(u32),
    /// It counts as silent from now on.
    Silent,
    /// It answers again.
    Answers,
    /// Somebody answers who speaks another version.
    Foreign,
    /// Not any more.
    Away,
    /// Whether nothing answers where it is, not even to say that no door is there.
    Dark(bool),
    /// Nobody answers there any more.
    Down {
        /// In words for the log.
        why: String,
    },
}

/// What a line is asked for.
#[derive(Debug)]
pub(super) enum Ask {
    /// To pass this on.
    Order(Order),
    /// For a report.
    Report(Turns, oneshot::Sender<Report>),
}

/// The task behind one connection.
pub(super) struct Line {
    /// Whose words these are to the fleet.
    pub(super) member: MemberId,
    pub(super) address: Address,
    pub(super) approach: Approach,
    pub(super) requests: mpsc::Receiver<Ask>,
    pub(super) events: mpsc::Sender<(MemberId, Said)>,
    /// Whether there are other doors.
    pub(super) company: watch::Receiver<Company>,
    /// Let pass without a sign of life.
    pub(super) beats: u32,
    /// Ended turns that came too late for whoever had asked for them.
    pub(super) unheard_turns: u64,
}

/// Why a connection is over.
enum Over {
    /// Nobody needs it any more.
    NotNeeded,
    /// It broke; dial again.
    Lost(DoorError),
}

impl Line {
    pub(super) async fn keep_up(mut self) {
        let mut wait = FIRST_WAIT;
        let mut last_said = String::new();
        let mut is_foreign = false;
        let mut darkness = Darkness::default();
        loop {
            let lost = match greet(&self.approach, &self.address).await {
                Ok((welcome, tunnel, speaking)) => {
                    wait = FIRST_WAIT;
                    last_said.clear();
                    is_foreign = false;
                    darkness = Darkness::default();
                    if !(self.let_pass(0).await && self.tell(Said::Up { welcome, tunnel }).await) {
                        return;
                    }
                    let error = match self.talk(speaking).await {
                        Over::NotNeeded => return,
                        Over::Lost(error) => error,
                    };
                    if !self.tell(Said::Down { why: error.to_string() }).await {
                        return;
                    }
                    darkness.was_heard(&error);
                    error
                }
                Err(error) => {
                    let now = matches!(error, DoorError::Version { .. });
                    let said = if now { Said::Foreign } else { Said::Away };
                    if std::mem::replace(&mut is_foreign, now) != now && !self.tell(said).await {
                        return;
                    }
                    if let Some(dark) = darkness.after(&error)
                        && !self.tell(Said::Dark(dark)).await
                    {
                        return;
                    }
                    error
                }
            };
            let beats = match lost {
                DoorError::Mute => self.beats + BEATS_OF_PATIENCE,
                _ => 0,
            };
            if !self.let_pass(beats).await {
                return;
            }
            let said = in_full(&lost);
            if said != last_said {
                match lost {
                    DoorError::Version { .. } => tracing::error!("{said}"),
                    _ => tracing::info!("{said}; dialling again until it answers"),
                }
                last_said = said;
            }
            if self.forget_requests_for(wait).await.is_err() {
                return;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Notices out of the door, orders into it, until one side ends.
    async fn talk(&mut self, Speaking { mut notices, mut orders }: Speaking) -> Over {
        let mut asked: BTreeMap<u64, (Turns, oneshot::Sender<Report>)> = BTreeMap::new();
        let mut next_query = 0;
        let mut asked_for_a_sign = false;
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                notice = hear(&mut notices) => notice,
                _ = beat.tick() => {
                    let over = if asked_for_a_sign {
                        self.nothing_heard().await
                    } else {
                        asked_for_a_sign = true;
                        say(&mut orders, &Order::Ping).await.err().map(Over::Lost)
                    };
                    match over {
                        Some(over) => return over,
                        None => continue,
                    }
                }
                request = self.requests.recv() => {
                    let order = match request {
                        None => return Over::NotNeeded,
                        Some(Ask::Order(order)) => order,
                        Some(Ask::Report(turns, reply)) => {
                            asked.retain(|_, (_, reply)| !reply.is_closed());
                            next_query += 1;
                            asked.insert(next_query, (turns, reply));
                            Order::Report { query: next_query, turns: turns == Turns::Take }
                        }
                    };
                    match say(&mut orders, &order).await {
                        Ok(()) => continue,
                        Err(error) => return Over::Lost(error),
                    }
                }
            };
            let notice = match heard {
                Ok(notice) => notice,
                Err(error) => return Over::Lost(error),
            };
            asked_for_a_sign = false;
            let back = self.beats >= SILENT_AFTER;
            if !self.let_pass(0).await || (back && !self.tell(Said::Answers).await) {
                return Over::NotNeeded;
            }
            match notice {
                Notice::Pong => {}
                Notice::Report { query, mut report } => {
                    // Whoever asked may have lost patience: that is theirs to do. The turns that the door has
                    // forgotten by it are made known to the next one who takes some.
                    let unheard = match asked.remove(&query) {
                        Some((turns, reply)) => {
                            if turns == Turns::Take {
                                report.turns_omitted += std::mem::take(&mut self.unheard_turns);
                            }
                            reply.send(report).err()
                        }
                        None => Some(report),
                    };
                    if let Some(report) = unheard {
                        self.unheard_turns += report.turns.len() as u64 + report.turns_omitted;
                    }
                }
                notice => {
                    if !self.tell(Said::Notice(notice)).await {
                        return Over::NotNeeded;
                    }
                }
            }
        }
    }

    /// One more beat without a sign of life.
    async fn nothing_heard(&mut self) -> Option<Over> {
        let beats = self.beats + 1;
        if !self.let_pass(beats).await || (beats == SILENT_AFTER && !self.tell(Said::Silent).await) {
            return Some(Over::NotNeeded);
        }
        let most = match self.address {
            Address::Here(_) => return None,
            Address::There(_) => given_up_after(*self.company.borrow(), self.approach.lost_after),
        };
        (beats >= most).then_some(Over::Lost(DoorError::Vanished { beats }))
    }

    /// So many beats have been let pass by now. Whether anybody still wants to know.
    async fn let_pass(&mut self, beats: u32) -> bool {
        self.beats == beats || {
            self.beats = beats;
            self.tell(Said::Beats(beats)).await
        }
    }

    /// Whether anybody still wants to know.
    async fn tell(&self, said: Said) -> bool {
        self.events.send((self.member, said)).await.is_ok()
    }

    /// Waits, and meanwhile drops what nobody is there to hear. Fails when nobody needs a door any more.
    async fn forget_requests_for(&mut self, wait: Duration) -> Result<(), NotNeeded> {
        let forget = async { while self.requests.recv().await.is_some() {} };
        match tokio::time::timeout(wait, forget).await {
            Err(_elapsed) => Ok(()),
            Ok(()) => Err(NotNeeded),
        }
    }
}

/// After how many beats without a sign of life the connection to a door across a network is given up. Pure.
fn given_up_after(company: Company, lost_after: Duration) -> u32 {
    match company {
        Company::Alone => HANGS_AFTER,
        // A single beat that is late must cost nobody.
        Company::Several | Company::Unclear => {
            let beats = lost_after.as_millis().div_ceil(BEAT.as_millis());
            u32::try_from(beats).unwrap_or(HANGS_AFTER).clamp(2, HANGS_AFTER)
        }
    }
}

/// Nobody needs a door any more.
struct NotNeeded;

/// Both directions of a connection on which hello and welcome have been said.
struct Speaking {
    notices: Notices,
    orders: Orders,
}

type Notices = FramedRead<Box<dyn AsyncRead + Send + Unpin>, LinesCodec>;
type Orders = Box<dyn AsyncWrite + Send + Unpin>;

async fn greet(
    approach: &Approach,
    address: &Address,
) -> Result<(Welcome, Option<SocketAddr>, Speaking), DoorError> {
    let dial = |source| DoorError::Dial { address: address.clone(), source };
    let Wire { from, to: mut orders } = approach.dial(address).await.map_err(dial)?;
    let mut notices = FramedRead::new(from, LinesCodec::new_with_max_length(LONGEST_LINE));
    say(&mut orders, &Order::Hello { version: VERSION, secret: approach.secret.clone() }).await?;
    let first = tokio::time::timeout(PATIENCE, hear(&mut notices)).await.map_err(|_| DoorError::Mute)??;
    match first {
        Notice::Welcome { version, .. } if version != VERSION => Err(DoorError::Version { theirs: version }),
        Notice::Welcome { version: _, pid, pools, tunnel, linked, seen } => {
            Ok((Welcome { pid, pools, linked, seen }, tunnel, Speaking { notices, orders }))
        }
        _ => Err(DoorError::NoWelcome),
    }
}

async fn hear(notices: &mut Notices) -> Result<Notice, DoorError> {
    match notices.next().await {
        None => Err(DoorError::Closed),
        Some(Err(LinesCodecError::Io(source))) => Err(DoorError::Broken(source)),
        Some(Err(error)) => Err(DoorError::Line(error)),
        Some(Ok(line)) => serde_json::from_str(&line).map_err(DoorError::Notice),
    }
}

async fn say(orders: &mut Orders, order: &Order) -> Result<(), DoorError> {
    let mut line = serde_json::to_vec(order).map_err(DoorError::Order)?;
    line.push(b'\n');
    // What TLS has taken is not on its way before it is flushed.
    let write = async {
        orders.write_all(&line).await?;
        orders.flush().await
    };
    let written = tokio::time::timeout(PATIENCE, write).await;
    written.map_err(|_| DoorError::Mute)?.map_err(DoorError::Broken)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    use std::path::Path;

    use server::identity::Secret;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::door::{Door, ORDERS, Site, only};
    use crate::model::DoorEvent;

    fn connect(path: &Path) -> (Door, Receiver<DoorEvent>) {
        Door::connect(only(Site::here(path)), Approach::plain(Secret::new([7; 32])))
    }

    #[test]
    fn one_of_several_is_given_up_as_soon_as_a_link_counts_as_lost() {
        let after = |seconds: f64| given_up_after(Company::Several, Duration::from_secs_f64(seconds));
        assert_eq!([0.02, 3.0, 3.5, 60.0].map(after), [2, 3, 4, HANGS_AFTER]);
        assert_eq!(given_up_after(Company::Alone, Duration::from_secs(3)), HANGS_AFTER);
    }

    /// A door that welcomes whoever comes first and does nothing after that, not even read.
    async fn hang(listener: UnixListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new()).await.unwrap();
        let (pools, linked, seen) = (BTreeMap::new(), Vec::new(), Vec::new());
        let welcome = Notice::Welcome { version: VERSION, pid: 1, pools, tunnel: None, linked, seen };
        let line = serde_json::to_string(&welcome).unwrap() + "\n";
        stream.write_all(line.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_door_that_does_not_read_counts_as_silent_and_is_asked_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door.sock");
        let hung = tokio::spawn(hang(UnixListener::bind(&path).unwrap()));
        let (door, mut events) = connect(&path);
        assert!(matches!(events.recv().await, Some(DoorEvent::Up(_))));
        // More than any socket's buffer holds.
        for _ in 0..ORDERS {
            let path = format!("/{}", "x".repeat(1000));
            door.order(Order::Request { pool: "web".parse().unwrap(), method: "GET".to_owned(), path });
        }
        let mut silence = door.silence();
        let counted = silence.wait_for(|beats| *beats >= SILENT_AFTER);
        tokio::time::timeout(Duration::from_secs(30), counted).await.expect("no beat is counted").unwrap();
        let asked = Instant::now();
        assert!(door.report(Turns::Leave, Duration::from_secs(20)).await.is_err());
        assert!(asked.elapsed() < Duration::from_secs(10), "it was waited for");
        hung.abort();
    }
}
