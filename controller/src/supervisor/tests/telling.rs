//! What the journal is told, and what those who watch are shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use server::control::{Held, Notice, Outcome, Stamp};

use super::two_live;
use crate::api::stream_views::{Happened, IncidentStage, PoolChange, WorkerChange};
use crate::backend::{BackendKind, Sighting};
use crate::model::{Action, Cause, Command, DoorEvent, Event, Incidents, Now, State};
use crate::supervisor::plan::plan;
use crate::supervisor::tell::Teller;
use crate::supervisor::testing::{died_of, life, unit};
use crate::supervisor::views;

/// A state and who tells of it, in step with each other as the loop keeps them.
struct Told {
    state: State,
    teller: Teller,
    now: Now,
}

impl Told {
    /// Of the two live workers everything has been told.
    fn two_live() -> Self {
        let (state, now) = two_live();
        let mut teller = Teller::new(BackendKind::Docker);
        teller.compare(&state, None, now);
        Self { state, teller, now }
    }

    /// What is told of this event.
    fn take(&mut self, event: Event) -> Vec<Happened> {
        let mut news = self.teller.heard(&event, &self.state, self.now);
        self.state.fold(event, self.now);
        news.extend(self.teller.compare(&self.state, None, self.now));
        news.into_iter().map(|news| news.happened).collect()
    }

    fn notice(&mut self, notice: Notice) -> Vec<Happened> {
        self.take(Event::Door(DoorEvent::Notice(notice)))
    }

    fn later(&mut self, time: Duration) {
        self.now.at += time;
        self.now.stamp = (SystemTime::from(self.now.stamp) + time).into();
    }

    fn link_closes(&mut self, worker: &str, held: Vec<Held>) -> Vec<Happened> {
        let at = self.now.stamp;
        self.notice(Notice::Left {
            worker: life(worker),
            at,
            cleanly: false,
            held,
            siblings: 1,
            vanished: None,
        })
    }

    fn dies(&mut self, worker: &str) -> Vec<Happened> {
        let autopsy = died_of(Cause::Signal(9));
        self.take(Event::Sighted(Sighting::Died { life: life(worker), autopsy }))
    }

    /// Whatever is planned is done, and well.
    fn replace(&mut self) -> Vec<Happened> {
        let mut told = Vec::new();
        for action in plan(&self.state, self.now.at).actions {
            self.state.begin(&action, self.now);
            if let Action::Spawn { life } = action {
                told.extend(self.take(Event::Spawned { life: life.clone(), result: Ok(unit(&life)) }));
                told.extend(self.notice(Notice::Joined { worker: life, at: self.now.stamp }));
            }
        }
        told
    }
}

/// In short: `web-0 link_closed`, `incident web-0.1 opened`.
fn short(told: &[Happened]) -> Vec<String> {
    let word = |word: &dyn erased::Word| word.word();
    told.iter()
        .map(|happened| match happened {
            Happened::Worker { worker, what, .. } => format!("{worker} {}", word(what)),
            Happened::Incident { incident, stage } => format!("incident {} {}", incident.id, word(stage)),
            Happened::Pool { pool, what, .. } => format!("{pool} {}", word(what)),
            Happened::Door { what, .. } => format!("door {}", word(what)),
            Happened::Engine { what, .. } => format!("engine {}", word(what)),
            Happened::Trickle { pool, what, .. } => format!("trickle of {pool} {}", word(what)),
        })
        .collect()
}

/// The word by which a view goes over the wire.
mod erased {
    pub(super) trait Word {
        fn word(&self) -> String;
    }

    impl<T: serde::Serialize> Word for T {
        fn word(&self) -> String {
            serde_json::to_value(self)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default()
        }
    }
}

fn held(turn: u64) -> Held {
    let held_for = Duration::from_millis(12);
    Held { turn, request: "GET /work".to_owned(), held_for, delivery: 1, overran: false }
}

fn the_incident(told: &[Happened]) -> &crate::api::views::IncidentView {
    let incident = told.iter().rev().find_map(|happened| match happened {
        Happened::Incident { incident, .. } => Some(incident),
        _ => None,
    });
    incident.unwrap()
}

#[test]
fn an_incident_is_told_anew_until_it_is_complete() {
    let mut world = Told::two_live();
    let told = world.link_closes("web-0.1", vec![held(5)]);
    assert_eq!(short(&told), ["web-0 link_closed", "incident web-0.1 opened"]);
    assert_eq!(the_incident(&told).held[0].outcome, "pending");
    let outcome = Outcome::Redelivered { to: life("web-1.1"), added: Duration::from_millis(2) };
    let settled = Notice::Settled { worker: life("web-0.1"), turn: 5, at: world.now.stamp, outcome };
    assert_eq!(short(&world.notice(settled.clone())), ["incident web-0.1 updated"]);
    assert_eq!(short(&world.notice(settled)), [""; 0], "nothing new is no news");
    world.later(Duration::from_millis(5));
    let told = world.replace();
    assert_eq!(
        short(&told),
        ["web-0 spawned", "incident web-0.1 updated", "web-0 ready", "incident web-0.1 updated"]
    );
    let told = world.dies("web-0.1");
    assert_eq!(short(&told), ["web-0 died", "incident web-0.1 complete"]);
    let incident = the_incident(&told);
    assert_eq!(incident.unit.as_deref(), Some("web-0.1"));
    assert_eq!(incident.reproduce.as_deref(), Some("bulkhead kill web-0"));
    assert_eq!(incident.siblings_failed, Some(0));
    assert_eq!(world.teller.total_incidents(), 1);
}

#[test]
fn what_a_sibling_lost_meanwhile_is_counted() {
    let mut world = Told::two_live();
    world.link_closes("web-0.1", Vec::new());
    world.later(Duration::from_millis(1));
    world.link_closes("web-1.1", vec![held(5), held(6)]);
    let lost = |turn, at| {
        let outcome = Outcome::Closed { why: "its answer had begun".to_owned() };
        Notice::Settled { worker: life("web-1.1"), turn, at, outcome }
    };
    let at = world.now.stamp;
    world.notice(lost(5, at));
    world.later(Duration::from_millis(1));
    let told = world.replace();
    let first = |told: &[Happened]| {
        let mut incidents = told.iter().rev().filter_map(|happened| match happened {
            Happened::Incident { incident, .. } if incident.id == "web-0.1" => Some(incident.siblings_failed),
            _ => None,
        });
        incidents.next().unwrap()
    };
    assert_eq!(first(&told), Some(1));
    // What is lost when it has been replaced is not on its account.
    world.later(Duration::from_secs(1));
    let at = world.now.stamp;
    world.notice(lost(6, at));
    let told = world.dies("web-0.1");
    assert_eq!(first(&told), Some(1));
}

#[test]
fn a_request_that_kills_two_is_not_on_the_account_of_the_first() {
    let mut world = Told::two_live();
    world.link_closes("web-0.1", vec![held(5)]);
    let at = world.now.stamp;
    let outcome = Outcome::Redelivered { to: life("web-1.1"), added: Duration::from_millis(2) };
    world.notice(Notice::Settled { worker: life("web-0.1"), turn: 5, at, outcome });
    world.link_closes("web-1.1", vec![Held { delivery: 2, ..held(6) }]);
    let outcome = Outcome::Answered { status: 502, why: "it was delivered 2 times".to_owned() };
    world.notice(Notice::Settled { worker: life("web-1.1"), turn: 6, at, outcome });
    world.replace();
    let incident = world.state.incidents.get(&life("web-0.1")).unwrap();
    let view = views::incident(&world.state, BackendKind::Docker, incident);
    assert_eq!(view.siblings_failed, Some(0));
}

#[test]
fn a_death_with_a_thousand_turns_is_not_told_a_thousand_times() {
    let mut world = Told::two_live();
    let mut told = world.link_closes("web-0.1", (0..1000).map(held).collect());
    let at = world.now.stamp;
    for turn in 0..1000 {
        let outcome = Outcome::Redelivered { to: life("web-1.1"), added: Duration::from_millis(2) };
        told.extend(world.notice(Notice::Settled { worker: life("web-0.1"), turn, at, outcome }));
    }
    let incidents = told.iter().filter_map(|told| match told {
        Happened::Incident { incident, .. } => Some(incident),
        _ => None,
    });
    let pending = |incident: &crate::api::views::IncidentView| {
        incident.held.iter().filter(|held| held.outcome == "pending").count()
    };
    let pending: Vec<usize> = incidents.map(|incident| pending(incident)).collect();
    assert_eq!(pending, [1000, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 0]);
    assert_eq!(short(&world.dies("web-0.1")), ["web-0 died", "incident web-0.1 updated"]);
}

#[test]
fn the_list_of_incidents_says_what_each_of_them_says() {
    let mut world = Told::two_live();
    world.link_closes("web-0.1", vec![held(5)]);
    world.later(Duration::from_millis(1));
    world.link_closes("web-1.1", vec![held(6)]);
    let at = world.now.stamp;
    let outcome = Outcome::Closed { why: "its answer had begun".to_owned() };
    world.notice(Notice::Settled { worker: life("web-1.1"), turn: 6, at, outcome });
    world.replace();
    let all = views::incidents(&world.state, BackendKind::Docker);
    let each = world.state.incidents.iter().map(|it| views::incident(&world.state, BackendKind::Docker, it));
    assert_eq!(all, each.collect::<Vec<_>>());
    let failed: Vec<_> =
        all.iter().map(|incident| (incident.id.as_str(), incident.siblings_failed)).collect();
    assert_eq!(failed, [("web-1.1", Some(0)), ("web-0.1", Some(1))]);
}

#[test]
fn what_is_asked_for_is_told_with_who_it_was_for() {
    let mut world = Told::two_live();
    let worker = || life("web-1.1").worker;
    let told = world.take(Event::Command(Command::Kill { worker: worker(), signal: 19 }));
    let expected = Happened::Worker {
        worker: "web-1".to_owned(),
        pool: "web".to_owned(),
        generation: 1,
        what: WorkerChange::KillRequested,
        detail: Some("SIGSTOP".to_owned()),
    };
    assert_eq!(told, [expected]);
    let told = world.take(Event::Command(Command::Drain { worker: worker() }));
    assert_eq!(short(&told), ["web-1 drain_requested"]);
    let pool = worker().pool;
    let told = world.take(Event::Command(Command::Scale { pool: pool.clone(), workers: 6 }));
    let detail = Some("2 to 6 workers".to_owned());
    assert_eq!(told, [Happened::Pool { pool: "web".to_owned(), what: PoolChange::Scaled, detail }]);
    let told = world.take(Event::Command(Command::Scale { pool, workers: 6 }));
    assert_eq!(told, [], "nothing was changed by it");
}

#[test]
fn a_pool_that_loses_too_many_is_told_once_and_when_it_is_sound_again() {
    let mut world = Told::two_live();
    let mut spec = (*world.state.pools[0].spec).clone();
    spec.restart.backoff = Duration::ZERO;
    world.state.pools[0].spec = Arc::new(spec);
    let mut told = Vec::new();
    for death in 1..=12 {
        told.extend(world.dies(&format!("web-0.{death}")));
        told.extend(world.replace());
    }
    world.later(Duration::from_secs(11));
    told.extend(world.take(Event::Tick));
    let mut told = short(&told);
    told.retain(|told| told.starts_with("web "));
    assert_eq!(told, ["web degraded", "web sound"]);
}

#[test]
fn a_goodbye_leaves_no_incident() {
    let mut world = Told::two_live();
    let at = world.now.stamp;
    let left = Notice::Left {
        worker: life("web-0.1"),
        at,
        cleanly: true,
        held: Vec::new(),
        siblings: 1,
        vanished: None,
    };
    assert_eq!(short(&world.notice(left)), ["web-0 left"]);
    assert_eq!(world.teller.total_incidents(), 0);
}

#[test]
fn more_incidents_than_are_kept_are_each_told_once() {
    let mut world = Told::two_live();
    let many = Incidents::MOST as u64 + 500;
    let mut opened = 0;
    for number in 1..=many {
        let at = world.now.stamp;
        // Of lives that nobody knows any more: of an earlier controller's.
        let left = Notice::Left {
            worker: life(&format!("gone-0.{number}")),
            at,
            cleanly: false,
            held: vec![],
            siblings: 0,
            vanished: None,
        };
        opened += world
            .notice(left)
            .iter()
            .filter(|told| matches!(told, Happened::Incident { stage: IncidentStage::Opened, .. }))
            .count() as u64;
    }
    assert_eq!((opened, world.teller.total_incidents()), (many, many));
    assert_eq!(world.state.incidents.iter().count(), Incidents::MOST);
}

#[test]
fn a_trickle_is_told_in_the_same_words_at_both_ends() {
    let mut world = Told::two_live();
    let pool = life("web-0.1").worker.pool;
    let began = world.teller.trickle_began(&pool, "/work?ms=300", 4.0, Stamp::now()).happened;
    let ended = world.notice(Notice::TrickleEnded { pool: pool.clone() });
    let detail = |told: &Happened| match told {
        Happened::Trickle { detail, .. } => detail.clone(),
        other => Some(format!("no trickle: {other:?}")),
    };
    assert_eq!(detail(&began).as_deref(), Some("4 a second of GET /work?ms=300"));
    assert_eq!(detail(&ended[0]), detail(&began));
    // A door that died has taken its trickles along: the next one's are others.
    world.teller.trickle_began(&pool, "/", 1.0, Stamp::now());
    world.take(Event::Door(DoorEvent::Down { why: "it is gone".to_owned() }));
    assert_eq!(detail(&world.notice(Notice::TrickleEnded { pool })[0]), None);
}

#[test]
fn the_door_comes_and_goes() {
    let mut world = Told::two_live();
    let told = world.take(Event::Door(DoorEvent::Down { why: "the door closed the connection".to_owned() }));
    assert_eq!(short(&told), ["door down"]);
    let welcome =
        crate::model::Welcome { pid: 7, pools: BTreeMap::new(), linked: vec![life("web-0.1")], seen: vec![] };
    let told = world.take(Event::Door(DoorEvent::Up(welcome)));
    assert_eq!(short(&told), ["door up"]);
    assert!(
        matches!(&told[0], Happened::Door { detail: Some(it), .. } if it == "process 7, 1 worker linked")
    );
    assert_eq!(short(&world.notice(Notice::Stopping)), ["door stopping"]);
}
