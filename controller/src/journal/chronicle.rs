//! The journal as it is shared: one writer, who never waits, and readers who follow at their own pace.
//!
//! An event is put into words once, when it is told, in the form in which every reader is sent it. A reader keeps
//! nothing but the number up to which it has read; so a reader costs the same however slow it is, and one that is
//! slower than the journal is long is told so by [`TooSlow`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use server::control::Stamp;
use thiserror::Error;
use tokio::sync::watch;

use super::{After, Boot, Bounds, EventId, Gap, Journal, Keepable, Replay};
use crate::api::sse;
use crate::api::stream_views::{self, Happened, JournalEvent};
use crate::api::views::rfc3339;

/// A journal that the supervisor writes and the API reads. Clones are the same journal.
#[derive(Debug, Clone)]
pub struct Chronicle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Mutex<Journal<Entry>>,
    /// How many events there have been: what wakes up those who have read all of them.
    count: watch::Sender<u64>,
}

/// One event, as every reader is sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub number: u64,
    /// The event in the words of a stream of server-sent events, its id among them.
    pub frame: Bytes,
}

impl Keepable for Entry {
    fn bytes(&self) -> usize {
        self.frame.len()
    }
}

/// Somebody who follows.
#[derive(Debug)]
pub struct Reader {
    chronicle: Chronicle,
    count: watch::Receiver<u64>,
    /// What it has read last.
    last: EventId,
}

/// More has happened since a reader looked last than is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more events came meanwhile than are remembered")]
pub struct TooSlow;

impl Chronicle {
    /// An empty one, of a controller that is told apart from others by `luck`.
    pub fn new(luck: u64) -> Self {
        let journal = Mutex::new(Journal::new(Boot::of(luck), Bounds::USUAL));
        Self(Arc::new(Shared { journal, count: watch::Sender::new(0) }))
    }

    /// Tells that this happened, and wakes up whoever follows.
    pub fn tell(&self, at: Stamp, happened: Happened) {
        let mut journal = self.journal();
        journal.push(|id| {
            let event = JournalEvent { id: id.to_string(), at: rfc3339(at), happened };
            Entry { number: id.number, frame: sse::event(Some(&event.id), kind(&event.happened), &event) }
        });
        let count = journal.end().number;
        drop(journal);
        // By the largest number, whoever comes first.
        self.0.count.send_if_modified(|known| {
            let more = *known < count;
            *known = count.max(*known);
            more
        });
    }

    /// What has happened after that, and from there on; without an `after`, only what happens from here on.
    pub fn follow(&self, after: Option<&After>) -> (Replay<Entry>, Reader) {
        // Subscribed first and under one lock with the replay, so that nothing falls between the two.
        let journal = self.journal();
        let reader = Reader { chronicle: self.clone(), count: self.0.count.subscribe(), last: journal.end() };
        let nothing = Replay { gap: None, events: Vec::new() };
        (after.map_or(nothing, |after| journal.after(after)), reader)
    }

    /// How many events there have been.
    pub fn count(&self) -> u64 {
        self.journal().end().number
    }

    /// The words of a gap, as a reader is sent them before what is remembered.
    pub fn gap(&self, asked: &EventId, gap: Gap) -> stream_views::Gap {
        let oldest = self.journal().oldest().map(|id| id.to_string());
        stream_views::Gap { asked: asked.to_string(), oldest, why: gap.words().to_owned() }
    }

    fn journal(&self) -> MutexGuard<'_, Journal<Entry>> {
        // Nothing that holds it can leave it half changed.
        self.0.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// What it has read last.
    pub fn position(&self) -> &EventId {
        &self.last
    }

    /// Waits for what happens next: at least one event. Dropped while it waits, it has read nothing.
    ///
    /// # Errors
    /// When some of it has been forgotten already.
    pub async fn next(&mut self) -> Result<Vec<Entry>, TooSlow> {
        loop {
            self.count.borrow_and_update();
            let replay = self.chronicle.journal().after(&After::Event(self.last.clone()));
            if replay.gap.is_some() {
                return Err(TooSlow);
            }
            if let Some(latest) = replay.events.last() {
                self.last.number = latest.number;
                return Ok(replay.events);
            }
            // The sender lives in the chronicle that we hold.
            let _ = self.count.changed().await;
        }
    }
}

/// The event's name on the stream: its `kind`.
fn kind(happened: &Happened) -> &'static str {
    match happened {
        Happened::Worker { .. } => "worker",
        Happened::Incident { .. } => "incident",
        Happened::Pool { .. } => "pool",
        Happened::Door { .. } => "door",
        Happened::Engine { .. } => "engine",
        Happened::Trickle { .. } => "trickle",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use crate::api::stream_views::PartChange;

    use super::*;

    fn tell(chronicle: &Chronicle, detail: &str) {
        let happened = Happened::Door { what: PartChange::Up, detail: Some(detail.to_owned()) };
        chronicle.tell(Stamp::now(), happened);
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_goes_on_where_it_was() {
        let chronicle = Chronicle::new(17);
        tell(&chronicle, "before");
        let (replay, mut reader) = chronicle.follow(None);
        assert_eq!(replay.events, []);
        tell(&chronicle, "while it is there");
        let seen = reader.next().await.unwrap();
        drop(reader);
        tell(&chronicle, "while it is away");
        let id = EventId { number: seen[0].number, ..chronicle.journal().end() };
        let (replay, mut reader) = chronicle.follow(Some(&After::Event(id)));
        assert_eq!((replay.gap, replay.events.len(), replay.events[0].number), (None, 1, 3));
        tell(&chronicle, "and after");
        assert_eq!(reader.next().await.unwrap()[0].number, 4);
    }

    #[tokio::test]
    async fn a_reader_that_fell_behind_is_told() {
        let chronicle = Chronicle::new(17);
        let (_, mut reader) = chronicle.follow(None);
        for _ in 0..Bounds::USUAL.events {
            tell(&chronicle, "a lot");
        }
        assert_eq!(reader.next().await.map(|events| events.len()), Ok(Bounds::USUAL.events));
        for _ in 0..=Bounds::USUAL.events {
            tell(&chronicle, "too much");
        }
        assert_eq!(reader.next().await, Err(TooSlow));
    }

    #[test]
    fn an_event_reads_like_this() {
        let chronicle = Chronicle::new(17);
        chronicle.tell(
            std::time::SystemTime::UNIX_EPOCH.into(),
            Happened::Engine { what: PartChange::Silent, detail: None },
        );
        let (replay, _) = chronicle.follow(Some(&After::Nothing));
        let frame = std::str::from_utf8(&replay.events[0].frame).unwrap();
        insta::assert_snapshot!(frame, @r#"
        id: h00000-1
        event: engine
        data: {"id":"h00000-1","at":"1970-01-01T00:00:00.000000Z","kind":"engine","what":"silent","detail":null}
        "#);
    }
}
