//! A spec that changes while everything runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use server::control::Notice;

use super::{notice, two_live};
use crate::api::stream_views::{Happened, PoolChange};
use crate::backend::{BackendKind, Sighting};
use crate::model::{Action, Command, DoorEvent, Event, Now, Purpose, State, Welcome};
use crate::spec::Pool;
use crate::supervisor::plan::plan;
use crate::supervisor::tell::Teller;
use crate::supervisor::testing::{life, pool, unit};

fn apply(state: &mut State, pools: &[Pool], now: Now) {
    let pools = pools.iter().cloned().map(Arc::new).collect();
    state.fold(Event::Command(Command::Apply(pools)), now);
}

/// Carries out what is planned, and what comes of it, until nothing is planned any more. What was done, in words.
fn settle(state: &mut State, now: Now) -> Vec<String> {
    let mut done = Vec::new();
    loop {
        let actions = plan(state, now.at).actions;
        if actions.is_empty() {
            return done;
        }
        for action in actions {
            state.begin(&action, now);
            match action {
                Action::Spawn { life } => {
                    done.push(format!("spawn {life}"));
                    state.fold(Event::Spawned { life: life.clone(), result: Ok(unit(&life)) }, now);
                    notice(state, Notice::Joined { worker: life, at: now.stamp }, now);
                }
                Action::Drain { life: worker, purpose, .. } => {
                    done.push(format!("drain {worker} {purpose:?}"));
                    let (at, held) = (now.stamp, vec![]);
                    let left = Notice::Left {
                        worker: worker.clone(),
                        at,
                        cleanly: true,
                        vanished: None,
                        held,
                        siblings: 1,
                    };
                    notice(state, left, now);
                    let removed = Event::Removed { life: worker, result: Ok(()) };
                    state.fold(removed, now);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_pool_follows_its_spec_worker_by_worker() {
    let (mut state, now) = two_live();
    let mut spec = pool("web", 3);
    spec.worker.limits.memory_bytes = Some(128 << 20);
    spec.recycle.requests = std::num::NonZeroU32::new(7);
    apply(&mut state, &[spec.clone()], now);
    let out_of_date = Purpose::OutOfDate;
    assert_eq!(
        settle(&mut state, now),
        [
            "spawn web-2.1".to_owned(),
            format!("drain web-0.1 {out_of_date:?}"),
            "spawn web-0.2".to_owned(),
            format!("drain web-1.1 {out_of_date:?}"),
            "spawn web-1.2".to_owned(),
        ]
    );
    assert_eq!(*state.pools[0].spec, spec);
}

#[test]
fn who_is_held_up_in_its_start_goes_when_the_spec_is_another() {
    let (mut state, now) = two_live();
    let late = life("web-2.1");
    state.fold(Event::Command(Command::Scale { pool: "web".parse().unwrap(), workers: 3 }), now);
    state.begin(&Action::Spawn { life: late.clone() }, now);
    state.fold(Event::Spawned { life: late.clone(), result: Ok(unit(&late)) }, now);
    let drained = |state: &State| {
        let drains = plan(state, now.at).actions.into_iter().filter_map(|action| match action {
            Action::Drain { life, purpose, .. } => Some((life.to_string(), purpose)),
            _ => None,
        });
        drains.collect::<Vec<_>>()
    };
    let waits = |trouble: Option<&str>| {
        let trouble = trouble.map(str::to_owned);
        Event::Sighted(Sighting::Waiting { life: late.clone(), trouble })
    };
    state.fold(waits(Some("no room")), now);
    assert_eq!(drained(&state), [], "room may be made for it");
    let mut spec = pool("web", 3);
    spec.worker.limits.memory_bytes = Some(1 << 20);
    apply(&mut state, &[spec], now);
    assert_eq!(
        drained(&state),
        [("web-2.1".to_owned(), Purpose::OutOfDate)],
        "the others wait until it is there"
    );
    state.fold(waits(None), now);
    assert_eq!(drained(&state), [], "it is on its way");
}

#[test]
fn a_scaling_outlives_another_change_and_not_a_change_of_the_size() {
    let (mut state, now) = two_live();
    let web = "web".parse().unwrap();
    state.fold(Event::Command(Command::Scale { pool: web, workers: 5 }), now);
    let mut spec = pool("web", 2);
    spec.restart.backoff = Duration::from_secs(1);
    apply(&mut state, &[spec.clone()], now);
    assert_eq!(state.pools[0].wanted, 5);
    spec.workers = 4;
    apply(&mut state, &[spec], now);
    assert_eq!(state.pools[0].wanted, 4);
}

#[test]
fn pools_come_when_a_door_has_them_and_go_when_nobody_is_left() {
    let (mut state, now) = two_live();
    let has = |pools: &[&str]| {
        let at = |name: &&str| (name.parse().unwrap(), ([127, 0, 0, 1], 8080).into());
        let pools: BTreeMap<_, _> = pools.iter().map(at).collect();
        let linked = vec![life("web-0.1"), life("web-1.1")];
        Event::Door(DoorEvent::Up(Welcome { pid: 1, pools, linked, seen: vec![] }))
    };
    state.fold(has(&["web"]), now);
    apply(&mut state, &[pool("raw", 1), pool("web", 2)], now);
    assert_eq!(settle(&mut state, now), [""; 0], "the door was started without it");
    state.fold(has(&["web", "raw"]), now);
    assert_eq!(settle(&mut state, now), ["spawn raw-0.1"]);

    apply(&mut state, &[pool("raw", 1)], now);
    assert_eq!(state.pools.len(), 2, "somebody is in it");
    let surplus = Purpose::Surplus;
    let drained = settle(&mut state, now);
    assert_eq!(drained, [format!("drain web-1.1 {surplus:?}"), format!("drain web-0.1 {surplus:?}")]);
    let names: Vec<_> = state.pools.iter().map(|pool| pool.name().as_str()).collect();
    assert_eq!(names, ["raw"]);
    apply(&mut state, &[pool("raw", 1), pool("web", 1)], now);
    assert_eq!(settle(&mut state, now), ["spawn web-0.2"], "its name goes on where it was");
}

#[test]
fn a_pool_that_comes_back_before_it_is_gone_is_the_same() {
    let (mut state, now) = two_live();
    apply(&mut state, &[pool("raw", 0)], now);
    apply(&mut state, &[pool("web", 2), pool("raw", 0)], now);
    assert_eq!((state.pools[0].wanted, state.pools[0].live()), (2, 2));
    assert_eq!(settle(&mut state, now), [""; 0]);
}

#[test]
fn what_has_changed_is_told_by_name() {
    let (mut state, now) = two_live();
    let mut teller = Teller::new(BackendKind::Docker);
    teller.compare(&state, None, now);
    let mut spec = pool("web", 3);
    spec.door.queue.depth = 7;
    let pools = vec![Arc::new(spec.clone()), Arc::new(pool("raw", 1))];
    let command = Event::Command(Command::Apply(pools));
    let told = teller.heard(&command, &state, now).into_iter().map(|news| news.happened);
    let changed = |pool: &str, detail: &str| Happened::Pool {
        pool: pool.to_owned(),
        what: PoolChange::Changed,
        detail: Some(detail.to_owned()),
    };
    let size = "size is followed; queue waits for a restart of the door";
    assert_eq!(told.collect::<Vec<_>>(), [changed("web", size), changed("raw", "it is new")]);
    state.fold(command, now);
    let gone = Event::Command(Command::Apply(vec![Arc::new(pool("raw", 1))]));
    let told = teller.heard(&gone, &state, now).into_iter().map(|news| news.happened);
    assert_eq!(told.collect::<Vec<_>>(), [changed("web", "it is gone: its workers are drained")]);
}
