//! The task that puts the doors together: it starts a line for each, passes on what they say as far as the supervisor has
//! to know it, sends orders where they belong, and sees to it that workers are dealt out evenly.
//!
//! What is decided is decided in [`muster`](super::muster), [`tally`](super::tally) and [`share`](super::share). Nothing
//! here waits for a door: a report is gathered by a task of its own, which comes back when all have answered or patience
//! is over.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _};
use server::control::{Order, Report};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::line::{Ask, Line, Said};
use super::muster::{MemberId, Muster};
use super::share::{Balance, Move, PACE, Roll};
use super::site::{Approach, Site};
use super::tally::Tally;
use super::{EVENTS, ORDERS, Request, Turns};
use crate::model::{Company, DoorEvent};

/// What is left of a reporter's patience for the answers to be put together.
const MARGIN: u32 = 10;

/// Who can be found, as a stream of all of them.
pub(super) type Sites = Pin<Box<dyn Stream<Item = Vec<Site>> + Send>>;

/// What others can see at any time.
pub(super) struct Shown {
    pub(super) beats: watch::Sender<u32>,
    pub(super) rolls: watch::Sender<Roll>,
}

/// All lines, and what they come to.
pub(super) struct Fleet {
    approach: Approach,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<DoorEvent>,
    shown: Shown,
    lines: BTreeMap<MemberId, Connected>,
    company: watch::Sender<Company>,
    /// The machines that are known to be dark.
    dark: BTreeSet<String>,
    next: u32,
    muster: Muster,
    tally: Tally,
    balance: Balance,
}

/// A line, and what goes into it.
struct Connected {
    site: Site,
    asks: mpsc::Sender<Ask>,
    task: AbortHandle,
    beats: u32,
}

/// What doors have answered.
struct Gathered {
    reports: Vec<(MemberId, Report)>,
    turns: Turns,
    reply: oneshot::Sender<Report>,
}

/// Nobody needs a door any more.
struct NotNeeded;

impl Fleet {
    pub(super) fn new(
        approach: Approach,
        requests: mpsc::Receiver<Request>,
        events: mpsc::Sender<DoorEvent>,
        shown: Shown,
    ) -> Self {
        let (muster, tally, balance) = (Muster::default(), Tally::default(), Balance::default());
        let lines = BTreeMap::new();
        let company = watch::Sender::new(Company::Alone);
        Self {
            approach,
            requests,
            events,
            shown,
            lines,
            company,
            dark: BTreeSet::new(),
            next: 0,
            muster,
            tally,
            balance,
        }
    }

    pub(super) async fn run(mut self, mut sites: Sites) {
        let (says, mut said) = mpsc::channel(EVENTS);
        let (gathers, mut gathered) = mpsc::unbounded_channel();
        let mut look = interval(PACE);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_found = false;
        loop {
            let going_on = tokio::select! {
                found = sites.next(), if !all_found => match found {
                    Some(sites) => self.find(sites, &says).await,
                    None => {
                        all_found = true;
                        Ok(())
                    }
                },
                // Never the end of it: we have a sender ourselves.
                Some((member, said)) = said.recv() => self.hear(member, said).await,
                Some(gathered) = gathered.recv() => {
                    // What a door has said before its answer is heard before it.
                    let heard = self.hear_all(&mut said).await;
                    self.answer(gathered);
                    heard
                }
                request = self.requests.recv() => match request {
                    None => Err(NotNeeded),
                    Some(Request::Order(order)) => {
                        self.order(&order);
                        Ok(())
                    }
                    Some(Request::Connections(pools)) => {
                        self.balance.learn(pools);
                        Ok(())
                    }
                    Some(Request::Report(turns, patience, reply)) => {
                        self.gather(turns, patience, reply, &gathers);
                        Ok(())
                    }
                },
                _ = look.tick(), if self.lines.len() > 1 => {
                    self.deal_out();
                    if self.balance.looks_for_idle() {
                        // Who is idle, for the next look. Nobody but the tally hears it.
                        let (reply, _) = oneshot::channel();
                        self.gather(Turns::Leave, PACE, reply, &gathers);
                    }
                    Ok(())
                }
            };
            if going_on.is_err() {
                break;
            }
        }
        self.lines.values().for_each(|line| line.task.abort());
    }

    /// Dials those that are new, and leaves those that are not there any more. One that is on its way out and has its
    /// workers yet is listened to until it has gone: they are with it, and are told by it what they are to do.
    async fn find(
        &mut self,
        sites: Vec<Site>,
        says: &mpsc::Sender<(MemberId, Said)>,
    ) -> Result<(), NotNeeded> {
        let mut old = Vec::new();
        for (member, line) in &self.lines {
            match sites.contains(&line.site) {
                true => self.muster.stays_on(*member),
                false => old.push(*member),
            }
        }
        for site in sites {
            if self.lines.values().any(|line| line.site == site) {
                continue;
            }
            let member = MemberId(self.next);
            self.next += 1;
            let (asks, requests) = mpsc::channel(ORDERS);
            let line = Line {
                member,
                address: site.address.clone(),
                approach: self.approach.clone(),
                requests,
                events: says.clone(),
                company: self.company.subscribe(),
                beats: 0,
                unheard_turns: 0,
            };
            self.muster.found(member, site.clone());
            let task = tokio::spawn(line.keep_up()).abort_handle();
            self.lines.insert(member, Connected { site, asks, task, beats: 0 });
        }
        for member in old {
            let events = self.muster.leaves(member);
            self.tell(events).await?;
            self.forget_if_gone(member);
        }
        self.show();
        self.tell_company().await
    }

    /// Tells whether there are several doors, and whose machines are dark, when that has changed.
    async fn tell_company(&mut self) -> Result<(), NotNeeded> {
        let now = self.muster.company();
        if self.company.send_replace(now) != now {
            self.tell(vec![DoorEvent::Company(now)]).await?;
        }
        let dark = self.muster.dark();
        if dark != self.dark {
            self.dark.clone_from(&dark);
            self.tell(vec![DoorEvent::Dark(dark)]).await?;
        }
        Ok(())
    }

    /// Leaves a door that is on its way out and is not there any more.
    fn forget_if_gone(&mut self, member: MemberId) {
        if self.muster.has_gone(member) {
            if let Some(line) = self.lines.remove(&member) {
                line.task.abort();
            }
            self.muster.forget(member);
            self.tally.gone(member);
        }
    }

    /// Hears what has been said by now, and nothing that is said meanwhile.
    async fn hear_all(&mut self, said: &mut mpsc::Receiver<(MemberId, Said)>) -> Result<(), NotNeeded> {
        for _ in 0..said.len() {
            let Ok((member, said)) = said.try_recv() else { break };
            self.hear(member, said).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, member: MemberId, said: Said) -> Result<(), NotNeeded> {
        if let Said::Beats(beats) = said {
            if let Some(line) = self.lines.get_mut(&member) {
                line.beats = beats;
            }
            let least = self.lines.values().map(|line| line.beats).min().unwrap_or(0);
            self.shown.beats.send_if_modified(|beats| std::mem::replace(beats, least) != least);
            return Ok(());
        }
        let events = self.muster.hear(member, said);
        self.forget_if_gone(member);
        for (other, order) in self.muster.follow_ups() {
            self.send(other, order);
        }
        self.show();
        self.tell_company().await?;
        self.tell(events).await
    }

    async fn tell(&self, events: Vec<DoorEvent>) -> Result<(), NotNeeded> {
        for event in events {
            self.events.send(event).await.map_err(|_| NotNeeded)?;
        }
        Ok(())
    }

    fn show(&self) {
        self.shown.rolls.send_replace(self.muster.roll());
    }

    fn order(&mut self, order: &Order) {
        for member in self.muster.route(order) {
            self.send(member, order.clone());
        }
    }

    fn send(&self, member: MemberId, order: Order) {
        if let Some(line) = self.lines.get(&member)
            && line.asks.try_send(Ask::Order(order)).is_err()
        {
            tracing::warn!("an order to a door was dropped: too many wait already");
        }
    }

    /// Asks every door that answers; what they say comes back by `gathers`.
    fn gather(
        &self,
        turns: Turns,
        patience: Duration,
        reply: oneshot::Sender<Report>,
        gathers: &mpsc::UnboundedSender<Gathered>,
    ) {
        let asked = self.muster.answering().into_iter().filter_map(|member| {
            let (answer, answered) = oneshot::channel();
            self.lines.get(&member)?.asks.try_send(Ask::Report(turns, answer)).ok()?;
            Some((member, answered))
        });
        let deadline = Instant::now() + patience - patience / MARGIN;
        let answers = asked.map(|(member, answered)| async move {
            let answer = tokio::time::timeout_at(deadline, answered).await;
            Some((member, answer.ok()?.ok()?))
        });
        let answers = join_all(answers.collect::<Vec<_>>());
        let gathers = gathers.clone();
        tokio::spawn(async move {
            let reports: Vec<(MemberId, Report)> = answers.await.into_iter().flatten().collect();
            // With no answer at all `reply` is dropped, which says so.
            if !reports.is_empty() {
                let _ = gathers.send(Gathered { reports, turns, reply });
            }
        });
    }

    fn answer(&mut self, Gathered { reports, turns, reply }: Gathered) {
        let mut report = self.tally.merge(reports, |life| self.muster.home(life));
        if turns == Turns::Take {
            report.turns_omitted += self.tally.take_unheard();
        }
        // Whoever asked may have lost patience: that is theirs to do.
        if let Err(report) = reply.send(report) {
            self.tally.unheard(&report);
        }
    }

    /// Sends somebody to another door, if the doors' shares have been uneven for long enough.
    fn deal_out(&mut self) {
        let now = Instant::now().into_std();
        for life in self.balance.given_up(now) {
            self.muster.stays(&life);
        }
        for Move { worker, to } in self.balance.look(&self.muster.roll(), self.tally.idle(), now) {
            tracing::info!(%worker, to, "is sent to another door, which has fewer of its pool");
            self.order(&Order::Move { worker, to });
        }
        self.show();
    }
}
