//! The record of one worker's death.
//!
//! It is put together from what three sides tell in whichever order: the door (the link closed, what was held,
//! what became of each turn), the backend (what it died of), and the supervisor itself (what it had killed it
//! for, when its replacement was ready). So an [`Incident`] only collects facts; everything that depends on more
//! than one of them ([`Incident::cause`], [`Incident::is_one`], the steps) is worked out when it is asked
//! for. Its name is the name of the life that ended, on which door and controller agree without a word.
//!
//! A worker that said goodbye and held nothing leaves no incident, and neither does one that was being drained
//! and exited as it should. Incidents are kept in memory only, the latest [`Incidents::MOST`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rustix::process::Signal;
use server::control::{Held, Outcome, Stamp};
use server::identity::Incarnation;

use super::death::{Autopsy, Cause};
use super::place::KillReason;
use crate::backend::{LinkEnd, Unit};

/// As [`Cause::Signal`] has it.
const SIGKILL: i32 = 9;

/// The facts of one death.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Who died.
    pub life: Incarnation,
    /// Where it ran, where that was known.
    pub unit: Option<Unit>,
    /// What the door saw.
    pub left: Option<Left>,
    /// What the backend saw.
    pub died: Option<Died>,
    /// What became of the turns that it held, by turn.
    pub settled: BTreeMap<u64, Settled>,
    /// What the supervisor had to do with it.
    pub notes: Notes,
    /// How many others of its pool were live, by the supervisor's count.
    pub others: usize,
    /// When the backend had started the replacement.
    pub spawned: Option<Stamp>,
    /// When the replacement's link was up.
    pub ready: Option<Stamp>,
}

/// What the door saw of a death.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// When.
    pub at: Stamp,
    /// What the worker held.
    pub held: Vec<Held>,
    /// How many others of its pool were linked.
    pub siblings: usize,
    /// Why the door had lost sight of it, where nobody had told the door that it was dead.
    pub vanished: Option<String>,
}

/// What the backend saw of a death.
#[derive(Debug, Clone, PartialEq)]
pub struct Died {
    /// When we heard of it.
    pub noticed: Stamp,
    /// What it told.
    pub autopsy: Autopsy,
}

/// What became of one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// When.
    pub at: Stamp,
    /// What.
    pub outcome: Outcome,
}

/// What the supervisor knows about a worker that its death will not show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// What we have killed it for.
    pub killed_for: Option<KillReason>,
    /// The signal that somebody had sent to it through us, of those that can end it.
    pub asked: Option<Asked>,
    /// When we began to kill it: the earliest moment at which it can have died of that.
    pub kill_sent: Option<Stamp>,
    /// Whether it was killed when it had lost its place already, to be certain of its end: it may have died of that.
    pub finish: Option<Finish>,
    /// Whether it had been told to finish.
    pub was_draining: bool,
    /// Whether it went before it had been healthy, and nobody had asked it to: that counts for back-off even when it
    /// turns out that it had said goodbye.
    pub premature: bool,
}

/// What has become of a kill that was to make an end certain. Where it found nothing to kill, it was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It may have been carried out.
    UnderWay,
    /// It was carried out.
    Done,
}

/// A signal that somebody has sent through us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub signal: i32,
    /// When: the earliest moment at which it can have ended anybody.
    pub at: Stamp,
}

impl Asked {
    /// How long after it was sent a SIGKILL may take effect: an engine that carries it out may be slow.
    const KILLS_WITHIN: Duration = Duration::from_secs(30);
    /// The same for other signals. Whoever lives on beyond that has caught or ignored it, and dies of something else.
    const ENDS_WITHIN: Duration = Duration::from_secs(5);

    /// Notes a signal, if it can end a worker at all. A SIGKILL is not outdone by any other.
    pub(super) fn note(known: &mut Option<Self>, signal: i32, at: Stamp) {
        const HARMLESS: [Signal; 8] = [
            Signal::CHILD,
            Signal::CONT,
            Signal::STOP,
            Signal::TSTP,
            Signal::TTIN,
            Signal::TTOU,
            Signal::URG,
            Signal::WINCH,
        ];
        let harmless = HARMLESS.iter().any(|harmless| harmless.as_raw() == signal);
        if !harmless && !known.is_some_and(Self::is_kill) {
            *known = Some(Self { signal, at });
        }
    }

    /// Whether a death that was noticed then can have come of it.
    fn explains(self, detected: Option<Stamp>) -> bool {
        let within = if self.is_kill() { Self::KILLS_WITHIN } else { Self::ENDS_WITHIN };
        detected.is_none_or(|detected| self.at <= detected && detected.since(self.at) <= within)
    }

    fn is_kill(self) -> bool {
        self.signal == Signal::KILL.as_raw()
    }
}

/// Why a worker died, all things considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// We killed it for this.
    Killed(KillReason),
    /// Somebody sent this signal through us.
    Asked(i32),
    /// What the backend found.
    Found(Cause),
    /// The door lost sight of it, for this reason, and its end was made certain by killing it.
    Vanished(String),
    /// The door saw its link close, and the backend has not said why yet.
    NotKnownYet,
}

impl Incident {
    fn new(life: Incarnation) -> Self {
        Self {
            life,
            unit: None,
            left: None,
            died: None,
            settled: BTreeMap::new(),
            notes: Notes::default(),
            others: 0,
            spawned: None,
            ready: None,
        }
    }

    /// Whether this is an incident at all, as far as is known by now.
    pub fn is_one(&self) -> bool {
        match (&self.left, &self.died) {
            (Some(_), _) => true,
            (None, Some(died)) => !(self.notes.was_draining && is_graceful(&died.autopsy.cause)),
            (None, None) => false,
        }
    }

    /// Why it died. What we killed it for comes first, because then the signal is ours and says nothing; a signal
    /// that somebody sent through us comes next, unless the worker can be seen to have died of something else.
    pub fn cause(&self) -> Reason {
        if let Some(why) = &self.notes.killed_for {
            return Reason::Killed(why.clone());
        }
        let found = self.died.as_ref().map(|died| &died.autopsy.cause);
        match (self.asked().map(|asked| asked.signal), found) {
            (Some(asked), None | Some(Cause::Lost)) => Reason::Asked(asked),
            (Some(asked), Some(Cause::Signal(found))) if asked == *found => Reason::Asked(asked),
            // Whom we have not killed, somebody else has.
            (None, Some(Cause::Signal(SIGKILL))) if self.notes.finish.is_none() => {
                Reason::Found(Cause::Signal(SIGKILL))
            }
            (None, None | Some(Cause::Lost | Cause::Signal(SIGKILL))) if let Some(why) = self.vanished() => {
                Reason::Vanished(why.to_owned())
            }
            // Told to go by us, when its links had been given up, it may still have been able to.
            (None, Some(Cause::Exit(0)))
                if self.notes.finish.is_some()
                    && let Some(why) = self.vanished() =>
            {
                Reason::Vanished(why.to_owned())
            }
            (_, Some(found)) => Reason::Found(found.clone()),
            (None, None) => Reason::NotKnownYet,
        }
    }

    /// How its link has ended, as its door saw it.
    pub fn link_end(&self) -> LinkEnd {
        match self.left {
            Some(Left { vanished: None, .. }) => LinkEnd::Closed,
            Some(Left { vanished: Some(_), .. }) | None => LinkEnd::Vanished,
        }
    }

    fn vanished(&self) -> Option<&str> {
        self.left.as_ref()?.vanished.as_deref()
    }

    /// The signal sent through us that it may have died of.
    fn asked(&self) -> Option<Asked> {
        self.notes.asked.filter(|asked| asked.explains(self.detected()))
    }

    /// When the first of us noticed. `None` only for what [is no incident](Self::is_one).
    pub fn detected(&self) -> Option<Stamp> {
        let left = self.left.as_ref().map(|left| left.at);
        let died = self.died.as_ref().map(|died| died.noticed);
        left.into_iter().chain(died).min()
    }

    /// From the death until somebody noticed, where something dates the death: the kill that we sent, or the
    /// kernel's or engine's own date when that is not after the door's.
    pub fn detection(&self) -> Option<Duration> {
        let detected = self.detected()?;
        let by_engine = self.died.as_ref().and_then(|died| died.autopsy.died_at).map(Stamp::from);
        let by_us = match self.cause() {
            Reason::Killed(_) => self.notes.kill_sent,
            Reason::Asked(_) => self.asked().map(|asked| asked.at),
            Reason::Found(_) | Reason::Vanished(_) | Reason::NotKnownYet => None,
        };
        let death = by_us.or(by_engine).filter(|death| *death <= detected)?;
        Some(detected.since(death))
    }

    /// From detection until the last turn that was redelivered was in other hands.
    pub fn redelivery(&self) -> Option<Duration> {
        let redelivered = |settled: &&Settled| matches!(settled.outcome, Outcome::Redelivered { .. });
        let last = self.settled.values().filter(redelivered).map(|settled| settled.at).max()?;
        Some(last.since(self.detected()?))
    }

    /// From detection until the replacement had been started. A worker can be linked before its backend has
    /// returned from starting it; then it counts as started when it was linked.
    pub fn respawn(&self) -> Option<Duration> {
        let started = self.spawned.into_iter().chain(self.ready).min()?;
        Some(started.since(self.detected()?))
    }

    /// From detection until the replacement was ready.
    pub fn recovery(&self) -> Option<Duration> {
        Some(self.ready?.since(self.detected()?))
    }

    /// Whether everything is known that there will be to know: what it died of, what became of all that it held, and
    /// when its replacement was ready.
    pub fn is_complete(&self) -> bool {
        self.died.is_some() && self.ready.is_some() && self.pending() == 0
    }

    /// Of how many of the turns that it held nobody knows yet what became of them.
    pub fn pending(&self) -> usize {
        let held = self.left.as_ref().map_or(&[][..], |left| &left.held);
        held.iter().filter(|held| self.outcome(held.turn).is_none()).count()
    }

    /// What became of `turn`; `None` while that is not known.
    pub fn outcome(&self, turn: u64) -> Option<&Outcome> {
        self.settled.get(&turn).map(|settled| &settled.outcome)
    }

    /// How many others of the pool were there and lived on. The door's count is of the very moment.
    pub fn siblings(&self) -> usize {
        self.left.as_ref().map_or(self.others, |left| left.siblings)
    }
}

/// Whether a worker that had been told to finish may end like this: with success; before it had come as far as to
/// listen for it, of the SIGTERM that told it; or, as somebody else's child, without anybody seeing how.
pub(super) fn is_graceful(cause: &Cause) -> bool {
    const SIGTERM: i32 = 15;
    matches!(cause, Cause::Exit(0) | Cause::Signal(SIGTERM) | Cause::Lost)
}

/// The latest incidents.
#[derive(Debug, Clone, Default)]
pub struct Incidents {
    kept: VecDeque<Kept>,
    /// How often any of them has been touched.
    touches: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    incident: Incident,
    /// Which touch of any incident was the latest of this one.
    touched: u64,
}

impl Incidents {
    /// How many are kept.
    pub const MOST: usize = 1000;

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Incident> {
        self.kept.iter().rev().map(|kept| &kept.incident).filter(|incident| incident.is_one())
    }

    /// The one of this name.
    pub fn get(&self, life: &Incarnation) -> Option<&Incident> {
        self.iter().find(|incident| incident.life == *life)
    }

    /// How often any of them has been touched.
    pub fn touches(&self) -> u64 {
        self.touches
    }

    /// Those to which something may have been added since there were so many [touches](Self::touches); oldest first.
    pub fn touched_since(&self, touches: u64) -> impl Iterator<Item = &Incident> {
        let touched = self.kept.iter().filter(move |kept| kept.touched > touches);
        touched.map(|kept| &kept.incident).filter(|incident| incident.is_one())
    }

    /// The facts about this life, to add to; the oldest ones make room for them.
    pub(super) fn of(&mut self, life: &Incarnation) -> &mut Incident {
        let index = self.kept.iter().rposition(|kept| kept.incident.life == *life).unwrap_or_else(|| {
            if self.kept.len() >= Self::MOST {
                // What is no incident goes before what is one.
                let victim = self.kept.iter().position(|kept| !kept.incident.is_one()).unwrap_or(0);
                self.kept.remove(victim);
            }
            self.kept.push_back(Kept { incident: Incident::new(life.clone()), touched: 0 });
            self.kept.len() - 1
        });
        self.touch(index)
    }

    /// The facts about this life, if any have been kept.
    pub(super) fn known(&mut self, life: &Incarnation) -> Option<&mut Incident> {
        let index = self.kept.iter().rposition(|kept| kept.incident.life == *life)?;
        Some(self.touch(index))
    }

    /// Whether the door has told of this death, and the backend has not said what it was of.
    pub(super) fn awaits_autopsy(&self, life: &Incarnation) -> bool {
        let mut latest_first = self.kept.iter().rev().map(|kept| &kept.incident);
        latest_first.find(|incident| incident.life == *life).is_some_and(|incident| {
            let told = incident.died.as_ref().is_some_and(|died| died.autopsy.cause != Cause::Lost);
            incident.left.is_some() && !told
        })
    }

    /// It was no incident after all.
    pub(super) fn retract(&mut self, life: &Incarnation) {
        self.kept.retain(|kept| kept.incident.life != *life);
    }

    fn touch(&mut self, index: usize) -> &mut Incident {
        self.touches += 1;
        let kept = &mut self.kept[index];
        kept.touched = self.touches;
        &mut kept.incident
    }
}
