//! The stream of events as a client reads it: connected once, and again whenever it breaks.
//!
//! [`open`] makes the first connection itself, so that a controller that is not there is an error of the command
//! and not a line on its screen. From then on a task reads ([`parse`]) and tells what it read through a small
//! channel. A reader that is behind stops the task, the task stops the socket, and at last the controller drops
//! us: nothing is kept here without bound.
//!
//! When the connection ends, for whatever reason, the task waits (a quarter of a second, twice as long each time,
//! five seconds at most, each a little by chance), connects again and asks for what followed the last event that
//! it read. So a reader sees every event once, in order, however often it was cut off; where the controller cannot
//! do that, because it remembers less or is another one, it says so and we tell [`Told::Missed`].
//!
//! A connection on which nothing comes for [`SILENCE`] counts as broken: the controller says at least every 15 s
//! that it is alive, and a network that swallows packets says nothing at all.

mod parse;

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Response;
use tokio::sync::mpsc;

use self::parse::Parser;
use super::client::{Api, ApiError, root_cause};
use crate::api::stream_views::{Dropped, Gap, JournalEvent};

/// After how long without a byte a connection counts as broken: three times what the controller promises.
pub(super) const SILENCE: Duration = Duration::from_secs(45);

/// How many things may be told that the reader has not heard yet.
const UNHEARD: usize = 64;

/// From where on the journal is read: everything that is remembered.
pub(super) const FROM_THE_BEGINNING: &str = "0";

/// How far the stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What is remembered, and then no further. A connection that breaks is not made again.
    Remembered,
    /// For ever.
    Follow,
}

/// What the reader is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// There is a connection, the first one or again.
    Connected,
    /// The state: a [`StateFrame`](crate::api::stream_views::StateFrame) as it was sent. Not everybody wants it read.
    State(String),
    /// Something happened.
    Event(Event),
    /// Not all that happened is remembered; what is remembered follows.
    Missed(Gap),
    /// The connection is gone.
    Broken(Breakage),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// What it is called.
    pub(super) name: String,
    /// As it was sent: JSON.
    pub(super) sent: String,
    /// As it is understood; `None` for what only a later version knows.
    pub(super) read: Option<Box<JournalEvent>>,
}

/// The end of a connection, or of an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Breakage {
    /// Why.
    pub(super) why: String,
    /// When the next attempt is made; `None` when there is none.
    pub(super) again_in: Option<Duration>,
}

/// Connects, and tells from then on what comes. The events that followed `after` come first. The channel ends with the
/// stream, when the stream is to end ([`Extent::Remembered`]); dropping it ends the task.
pub(super) async fn open(api: &Api, after: &str, extent: Extent) -> Result<mpsc::Receiver<Told>, ApiError> {
    let (tell, told) = mpsc::channel(UNHEARD);
    let reader = Reader { api: api.clone(), after: after.to_owned(), last: None, extent, tell };
    let first = reader.connect().await?;
    tokio::spawn(reader.run(first));
    Ok(told)
}

/// How long to wait before the next attempt, after `attempts` that failed in a row. `dice` is from 0 to 1.
fn back_off(attempts: u32, dice: f64) -> Duration {
    let longest = Duration::from_secs(5);
    let doubled = Duration::from_millis(250).saturating_mul(1 << attempts.min(10));
    doubled.min(longest).mul_f64(0.75 + dice / 4.0)
}

/// The task.
struct Reader {
    api: Api,
    /// From where on, while nothing has been read yet.
    after: String,
    /// The last event that was read.
    last: Option<String>,
    extent: Extent,
    tell: mpsc::Sender<Told>,
}

/// How a connection ended.
enum End {
    /// The controller ended it.
    Whole,
    /// It broke, or we gave it up.
    Broken(String),
    /// Nobody listens to us any more.
    Unheard,
}

impl Reader {
    async fn connect(&self) -> Result<Response, ApiError> {
        let mut query = Vec::new();
        if self.last.is_none() {
            query.push(("after", self.after.clone()));
        }
        if self.extent == Extent::Remembered {
            query.push(("follow", "false".to_owned()));
        }
        self.api.events(&query, self.last.as_deref()).await
    }

    async fn run(mut self, first: Response) {
        let mut response = first;
        loop {
            let why = match self.read(response).await {
                End::Unheard => return,
                End::Whole if self.extent == Extent::Remembered => return,
                End::Whole => "the controller ended it".to_owned(),
                End::Broken(why) => why,
            };
            if self.extent == Extent::Remembered {
                let _ = self.tell.send(Told::Broken(Breakage { why, again_in: None })).await;
                return;
            }
            match self.connect_again(why).await {
                Some(again) => response = again,
                None => return,
            }
        }
    }

    /// Tries until there is a connection; `None` when nobody listens to us any more.
    async fn connect_again(&self, mut why: String) -> Option<Response> {
        for attempts in 0.. {
            let wait = back_off(attempts, rand::random());
            let broken = Told::Broken(Breakage { why, again_in: Some(wait) });
            self.tell.send(broken).await.ok()?;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.tell.closed() => return None,
            }
            match self.connect().await {
                Ok(response) => return Some(response),
                Err(error) => why = error.in_short(),
            }
        }
        None
    }

    /// Tells what comes, until the connection ends.
    async fn read(&mut self, response: Response) -> End {
        if self.tell.send(Told::Connected).await.is_err() {
            return End::Unheard;
        }
        let mut parser = Parser::default();
        let mut pieces = response.bytes_stream();
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = self.tell.closed() => return End::Unheard,
            };
            let frames = match piece {
                None => return End::Whole,
                Some(Err(error)) if error.is_timeout() => {
                    return End::Broken(format!("nothing came for {} s", SILENCE.as_secs()));
                }
                Some(Err(error)) => return End::Broken(root_cause(&error)),
                Some(Ok(piece)) => match parser.feed(&piece) {
                    Ok(frames) => frames,
                    Err(error) => return End::Broken(error.to_string()),
                },
            };
            for frame in frames {
                let told = match frame.event.as_str() {
                    "state" => Told::State(frame.data),
                    "dropped" => {
                        let dropped = serde_json::from_str(&frame.data);
                        return End::Broken(dropped.map_or_else(
                            |_| "the controller dropped this reader".to_owned(),
                            |Dropped { why }| why,
                        ));
                    }
                    "gap" => Told::Missed(serde_json::from_str(&frame.data).unwrap_or_else(|_| Gap {
                        asked: self.last.clone().unwrap_or_else(|| self.after.clone()),
                        oldest: None,
                        why: "the controller does not say why".to_owned(),
                    })),
                    // Whatever is no part of the journal has no id, and this version does not know it.
                    _ if frame.id.is_none() => continue,
                    _ => Told::Event(Event {
                        read: serde_json::from_str(&frame.data).ok(),
                        name: frame.event,
                        sent: frame.data,
                    }),
                };
                if self.tell.send(told).await.is_err() {
                    return End::Unheard;
                }
                if frame.id.is_some() {
                    // Only now: what nobody was told is asked for again.
                    self.last = frame.id;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_up_to_a_bound_and_are_never_none(attempts: u32, dice in 0.0..=1.0_f64) {
            let wait = back_off(attempts, dice);
            prop_assert!(wait >= Duration::from_millis(187) && wait <= Duration::from_secs(5), "{wait:?}");
            prop_assert!(back_off(attempts.saturating_add(1), dice) >= wait);
            prop_assert!(attempts < 5 || wait >= Duration::from_millis(3_750), "{wait:?}");
        }
    }
}
