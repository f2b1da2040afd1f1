//! The loop, end to end between a fake backend and a fake door.

use std::time::{Duration, SystemTime};

use server::control::{Held, Notice, Order, Outcome, PoolReport, Report, Retirement, Stamp, WorkerReport};

use crate::api::views::{CauseKind, PhaseView};
use crate::backend::{Sighting, Vital};
use crate::model::{Cause, StopScope};
use crate::supervisor::testing::{
    Asked, FakeBackend, FakeDoor, died_of, in_time, life, pool, supervise, until, until_all,
};
use crate::supervisor::{CommandError, Handle};

fn joined(worker: &str) -> Notice {
    Notice::Joined { worker: life(worker), at: Stamp::now() }
}

pub(super) fn left(worker: &str, held: Vec<Held>) -> Notice {
    Notice::Left { worker: life(worker), at: Stamp::now(), cleanly: false, held, siblings: 1, vanished: None }
}

fn left_cleanly(worker: &str) -> Notice {
    Notice::Left {
        worker: life(worker),
        at: Stamp::now(),
        cleanly: true,
        held: Vec::new(),
        siblings: 1,
        vanished: None,
    }
}

fn turn(number: u64, request: &str) -> Held {
    Held {
        turn: number,
        request: request.to_owned(),
        held_for: Duration::from_millis(5),
        delivery: 1,
        overran: false,
    }
}

fn idle(worker: &str, for_ms: u64, holding: Vec<Held>) -> WorkerReport {
    WorkerReport {
        worker: life(worker),
        turns: 3,
        credit: 1,
        draining: false,
        idle_for: Duration::from_millis(for_ms),
        holding,
    }
}

fn report(workers: Vec<WorkerReport>) -> Report {
    Report {
        pools: vec![PoolReport {
            name: "web".parse().unwrap(),
            listen: ([127, 0, 0, 1], 8080).into(),
            connections: 0,
            queued: 0,
            longest_wait: Duration::ZERO,
            counters: Default::default(),
            turn_time: Default::default(),
            queue_wait: Default::default(),
            workers,
        }],
        ..Report::default()
    }
}

/// Asks until the answer is the right one; the deadline is the caller's.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    in_time(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Two workers of pool `web`, ready.
async fn two_ready(backend_asked: &mut Asked, door: &mut FakeDoor, handle: &Handle) {
    door.welcome(&[], &[]).await;
    until_all(backend_asked, &["spawn web-0.1", "spawn web-1.1"]).await;
    door.say(joined("web-0.1")).await;
    door.say(joined("web-1.1")).await;
    eventually("two ready workers", || async {
        let pools = door_less(handle).await;
        (pools == 2).then_some(())
    })
    .await;
}

/// How many workers are ready, without asking the door.
async fn door_less(handle: &Handle) -> u32 {
    let (reply, answer) = tokio::sync::oneshot::channel();
    handle.requests.send(crate::supervisor::handle::Request::Pools(None, reply)).await.unwrap();
    answer.await.unwrap().iter().map(|pool| pool.ready).sum()
}

#[tokio::test]
async fn what_workers_do_is_shown_once() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    // They have been made as such who start: of that nothing is said.
    two_ready(&mut asked, &mut door, &handle).await;
    eventually("both shown", || async { (backend.shown().len() >= 2).then_some(()) }).await;
    let mut shown = backend.shown();
    shown.sort();
    assert_eq!(shown, ["web-0.1 ready", "web-1.1 ready"]);

    handle.drain(&life("web-1.1").worker).await.unwrap();
    eventually("the third", || async { (backend.shown().len() >= 3).then_some(()) }).await;
    assert_eq!(backend.shown()[2], "web-1.1 draining");
    door.say(left_cleanly("web-1.1")).await;
    until(&mut asked, "spawn web-1.2").await;
    door.say(joined("web-1.2")).await;
    eventually("the fourth", || async { (backend.shown().len() >= 4).then_some(()) }).await;
    assert_eq!(backend.shown()[3..], ["web-1.2 ready"]);
}

#[tokio::test]
async fn a_killed_worker_is_replaced_at_once_and_its_incident_tells_the_story() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    door.say(left("web-0.1", vec![turn(9, "GET /work")])).await;
    door.say(Notice::Settled {
        worker: life("web-0.1"),
        turn: 9,
        at: Stamp::now(),
        outcome: Outcome::Redelivered { to: life("web-1.1"), added: Duration::from_millis(6) },
    })
    .await;
    until(&mut asked, "spawn web-0.2").await;
    backend.dies(&life("web-0.1"), Cause::Signal(9)).await;
    until(&mut asked, "remove web-0.1").await;
    door.say(joined("web-0.2")).await;

    let incident = eventually("a complete incident", || async {
        let incident = handle.incident(life("web-0.1")).await.unwrap()?;
        incident.steps_ms.ready.is_some().then_some(incident)
    })
    .await;
    assert_eq!((incident.cause.kind, incident.cause.detail.as_str()), (CauseKind::Signal, "SIGKILL"));
    assert_eq!(incident.held[0].outcome, "redelivered");
    assert_eq!(incident.held[0].to.as_deref(), Some("web-1"));
    assert_eq!(incident.last_output, ["last words"]);
    assert!(incident.steps_ms.redelivered.is_some() && incident.steps_ms.spawned <= incident.steps_ms.ready);
    assert_eq!(backend.population(), ["web-0.2", "web-1.1"]);
}

#[tokio::test]
async fn a_worker_that_does_not_become_ready_is_killed_for_it() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let mut spec = pool("web", 1);
    spec.door.timeouts.start = Duration::from_millis(30);
    let handle = supervise(&backend, &door, vec![spec]);
    door.welcome(&[], &[]).await;
    until(&mut asked, "spawn web-0.1").await;
    until(&mut asked, "signal web-0.1 9").await;
    until(&mut asked, "spawn web-0.2").await;

    let incidents = handle.incidents().await.unwrap();
    let first = incidents.iter().find(|incident| incident.id == "web-0.1").unwrap();
    assert_eq!(first.cause.kind, CauseKind::StartTimeout);
    assert_eq!(first.cause.detail, "not ready within 30ms");
}

#[tokio::test]
async fn a_request_that_overruns_gets_its_worker_killed_and_is_named() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    door.say(Notice::Overran { worker: life("web-1.1"), held: turn(3, "GET /hang") }).await;
    until(&mut asked, "signal web-1.1 9").await;
    door.say(left("web-1.1", vec![turn(3, "GET /hang")])).await;
    until(&mut asked, "spawn web-1.2").await;

    let incident =
        eventually("the incident", || async { handle.incident(life("web-1.1")).await.unwrap() }).await;
    assert_eq!(
        (incident.cause.kind, incident.cause.detail.as_str()),
        (CauseKind::RequestTimeout, "GET /hang")
    );
}

#[tokio::test]
async fn a_signal_sent_on_request_is_told_from_one_that_nobody_here_sent() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    handle.kill(&life("web-0.1").worker, 9).await.unwrap();
    until(&mut asked, "spawn web-0.2").await;
    let incident = handle.incident(life("web-0.1")).await.unwrap().unwrap();
    assert_eq!(incident.cause.detail, "SIGKILL, sent on request");
    assert!(incident.steps_ms.detected.is_some(), "we know when we sent it");

    let nobody = handle.kill(&life("web-7.1").worker, 9).await;
    assert!(matches!(nobody, Err(CommandError::UnknownWorker(_))), "{nobody:?}");
    let nonsense = handle.kill(&life("web-1.1").worker, 0).await;
    assert!(matches!(nonsense, Err(CommandError::UnknownSignal(0))), "{nonsense:?}");
}

#[tokio::test]
async fn a_drained_worker_is_replaced_and_leaves_no_incident() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    handle.drain(&life("web-0.1").worker).await.unwrap();
    assert_eq!(door.order().await, Order::Drain { worker: life("web-0.1") });
    door.say(Notice::Retiring { worker: life("web-0.1"), why: Retirement::Told }).await;
    door.say(left_cleanly("web-0.1")).await;
    until(&mut asked, "spawn web-0.2").await;
    backend.dies(&life("web-0.1"), Cause::Exit(0)).await;
    until(&mut asked, "remove web-0.1").await;
    assert_eq!(handle.incidents().await.unwrap(), []);
}

#[tokio::test]
async fn scaling_down_sends_the_idlest_away_and_scaling_up_fills_its_place() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    let web = "web".parse().unwrap();
    door.report = report(vec![idle("web-0.1", 900, vec![]), idle("web-1.1", 0, vec![turn(1, "GET /")])]);
    let (scaled, order) = tokio::join!(handle.scale(&web, 1), door.order());
    scaled.unwrap();
    assert_eq!(order, Order::Drain { worker: life("web-0.1") });
    door.say(left_cleanly("web-0.1")).await;
    backend.dies(&life("web-0.1"), Cause::Exit(0)).await;
    until(&mut asked, "remove web-0.1").await;

    door.while_answering(handle.scale(&web, 2)).await.unwrap();
    until(&mut asked, "spawn web-0.2").await;
    let wrong = door.while_answering(handle.scale(&"nosuch".parse().unwrap(), 2)).await;
    assert_eq!(wrong.unwrap_err().to_string(), "there is no pool nosuch: the pools are web");
}

#[tokio::test]
async fn a_new_controller_keeps_to_what_was_wanted_of_the_last_one() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    door.while_answering(handle.scale(&"web".parse().unwrap(), 3)).await.unwrap();
    until(&mut asked, "spawn web-2.1").await;
    // It dies; and one of its workers.
    drop(handle);
    door.hang_up();
    backend.loses(&life("web-0.1"));
    let (successor, mut asked) = FakeBackend::new();
    let hash = pool("web", 2).spec_hash();
    for place in 1..3 {
        let survivor = life(&format!("web-{place}.1"));
        successor.with_worker(&survivor, &hash, Vital::Alive { since: SystemTime::now() });
    }
    let handle = supervise(&successor, &door, vec![pool("web", 2)]);
    door.welcome(&["web-1.1", "web-2.1"], &["web-0.1", "web-1.1", "web-2.1"]).await;
    until(&mut asked, "spawn web-0.2").await;

    let (stopped, cut_off) =
        tokio::join!(handle.stop(StopScope::WorkersOnly, Duration::from_secs(60)), handle.cut_off());
    assert!(stopped.unwrap().verified && cut_off.is_ok());
    door.hang_up();
    // After a stop the spec's number counts again.
    let (fresh, mut asked) = FakeBackend::new();
    let handle = supervise(&fresh, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    assert_eq!(fresh.population(), ["web-0.1", "web-1.1"]);
}

#[tokio::test]
async fn what_a_worker_holds_is_shown_as_of_this_moment() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    door.report = report(vec![idle("web-0.1", 0, vec![turn(1, "GET /work")]), idle("web-1.1", 5, vec![])]);
    let workers = door.while_answering(handle.workers()).await.unwrap();
    assert_eq!((workers[0].phase, workers[1].phase), (PhaseView::Busy, PhaseView::Idle));
    assert_eq!(workers[0].holding[0].request, "GET /work");
    assert_eq!(workers[0].container.as_deref(), Some("web-0.1"));
    assert!(door.while_answering(handle.is_ready()).await.unwrap());
}

#[tokio::test]
async fn a_new_controller_adopts_the_workers_it_finds() {
    let (backend, mut asked) = FakeBackend::new();
    let spec = pool("web", 2);
    let hash = spec.spec_hash();
    let alive = || Vital::Alive { since: SystemTime::now() };
    backend.with_worker(&life("web-0.7"), &hash, alive());
    backend.with_worker(&life("web-1.3"), &hash, Vital::Dead(died_of(Cause::Exit(3))));
    backend.with_worker(&life("old-0.1"), &hash, alive());
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![spec]);
    door.welcome(&["web-0.7", "old-0.1"], &["web-0.7", "web-1.5", "old-0.1"]).await;

    // The life that only the door has seen counts too.
    until_all(&mut asked, &["spawn web-1.6", "remove web-1.3"]).await;
    assert_eq!(door.order().await, Order::Drain { worker: life("old-0.1") });
    let workers = door.while_answering(handle.workers()).await.unwrap();
    assert_eq!((workers[0].generation, workers[0].phase), (7, PhaseView::Idle));
    let incidents = handle.incidents().await.unwrap();
    assert_eq!(incidents.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["web-1.3"]);
    assert_eq!(incidents[0].cause.detail, "exit code 3");
}

#[tokio::test]
async fn an_older_spec_is_replaced_one_worker_at_a_time() {
    let (backend, mut asked) = FakeBackend::new();
    for old in ["web-0.1", "web-1.1"] {
        backend.with_worker(&life(old), "another", Vital::Alive { since: SystemTime::now() });
    }
    let mut door = FakeDoor::new();
    let _handle = supervise(&backend, &door, vec![pool("web", 2)]);
    door.welcome(&["web-0.1", "web-1.1"], &[]).await;
    for place in 0..2 {
        assert_eq!(door.order().await, Order::Drain { worker: life(&format!("web-{place}.1")) });
        door.say(left_cleanly(&format!("web-{place}.1"))).await;
        until(&mut asked, &format!("spawn web-{place}.2")).await;
        door.say(joined(&format!("web-{place}.2"))).await;
    }
}

#[tokio::test]
async fn nobody_is_spawned_or_killed_while_the_door_is_away() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let mut spec = pool("web", 2);
    spec.door.timeouts.start = Duration::from_millis(300);
    spec.door.timeouts.request = Some(Duration::from_millis(300));
    let handle = supervise(&backend, &door, vec![spec]);
    two_ready(&mut asked, &mut door, &handle).await;

    door.hang_up();
    eventually("the door to be missed", || async { (!handle.is_ready().await.unwrap()).then_some(()) }).await;
    backend.dies(&life("web-0.1"), Cause::Signal(11)).await;
    // Removal shows that the death has been folded; a spawn would have been planned together with it.
    until(&mut asked, "remove web-0.1").await;
    assert!(asked.try_recv().is_err(), "nothing but the removal");

    // It comes back and knows one of the two; the other gets time to dial again before it is given up.
    door.welcome(&[], &[]).await;
    until_all(&mut asked, &["spawn web-0.2", "signal web-1.1 9"]).await;
}

#[tokio::test]
async fn an_engine_that_is_silent_costs_nothing_and_is_converged_with_when_it_is_back() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    backend.is_silent(true);
    door.say(left("web-0.1", vec![])).await;
    until(&mut asked, "spawn web-0.2").await;
    until(&mut asked, "list").await;
    backend.loses(&life("web-0.1"));
    backend.loses(&life("web-1.1"));
    backend.is_silent(false);
    backend.says(Sighting::Reachable).await;
    until_all(&mut asked, &["spawn web-0.3", "spawn web-1.2"]).await;
    let lost = handle.incident(life("web-1.1")).await.unwrap().unwrap();
    assert_eq!(lost.cause.kind, CauseKind::Lost);
}

#[tokio::test]
async fn a_spawn_that_is_refused_is_shown_and_tried_again() {
    let (backend, mut asked) = FakeBackend::new();
    backend.refuses_next_spawn();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 1)]);
    door.welcome(&[], &[]).await;
    until(&mut asked, "spawn web-0.1").await;
    let trouble = eventually("trouble", || async {
        let (reply, answer) = tokio::sync::oneshot::channel();
        handle.requests.send(crate::supervisor::handle::Request::Pools(None, reply)).await.unwrap();
        answer.await.unwrap()[0].trouble.clone()
    })
    .await;
    assert_eq!(trouble, "cannot start a worker: network \"lan\" not found");
    until(&mut asked, "spawn web-0.2").await;
}

#[tokio::test]
async fn a_pool_that_loses_too_many_is_degraded_and_waits() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let mut spec = pool("web", 1);
    spec.restart.backoff = Duration::ZERO;
    spec.restart.deaths = 3;
    let handle = supervise(&backend, &door, vec![spec]);
    door.welcome(&[], &[]).await;
    until(&mut asked, "spawn web-0.1").await;
    for generation in 1..=4 {
        backend.dies(&life(&format!("web-0.{generation}")), Cause::Exit(1)).await;
        let (removal, next) =
            (format!("remove web-0.{generation}"), format!("spawn web-0.{}", generation + 1));
        if generation < 4 {
            until_all(&mut asked, &[&removal, &next]).await;
        } else {
            until(&mut asked, &removal).await;
        }
    }
    let pools = door.while_answering(handle.pools()).await.unwrap();
    assert!(pools[0].degraded);
    assert!(asked.try_recv().is_err(), "the fifth life has to wait");
}

#[tokio::test]
async fn stopping_drains_the_door_first_and_leaves_nothing_behind() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;

    let stop = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop(StopScope::DoorToo, Duration::from_millis(300)).await }
    });
    assert_eq!(door.order().await, Order::Stop);
    door.say(Notice::Stopping).await;
    door.say(left_cleanly("web-0.1")).await;
    backend.dies(&life("web-0.1"), Cause::Exit(0)).await;
    // The other one does not leave by itself, not even when the door has gone and it gets a SIGTERM.
    door.hang_up();
    until(&mut asked, "signal web-1.1 15").await;
    until(&mut asked, "signal web-1.1 9").await;

    let summary = in_time("the stop", stop).await.unwrap().unwrap();
    assert_eq!((summary.clean, summary.killed), (1, 1));
    assert_eq!(summary.left_behind, []);
    assert!(!summary.door_remains);
    assert_eq!(backend.population(), Vec::<String>::new());
    let late = handle.incidents().await;
    assert!(matches!(late, Err(CommandError::Stopped)), "{late:?}");
}

#[tokio::test]
async fn a_stop_that_is_cut_off_kills_everybody_at_once_and_asks_nobody() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    let stop = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop(StopScope::WorkersOnly, Duration::from_secs(60)).await }
    });
    assert!(matches!(door.order().await, Order::Drain { .. }));
    assert!(matches!(door.order().await, Order::Drain { .. }));
    // From here on the door hangs: it is asked for nothing, and answers nothing.
    let started = std::time::Instant::now();
    handle.cut_off().await.unwrap();
    until_all(&mut asked, &["signal web-0.1 9", "signal web-1.1 9"]).await;
    let summary = in_time("the stop", stop).await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
    assert_eq!((summary.killed, summary.verified), (2, true));
}

#[tokio::test]
async fn a_stop_that_is_cut_off_twice_does_not_wait_for_the_engine() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    backend.is_silent(true);
    let stop = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop(StopScope::WorkersOnly, Duration::from_secs(60)).await }
    });
    assert!(matches!(door.order().await, Order::Drain { .. }));
    handle.cut_off().await.unwrap();
    handle.cut_off().await.unwrap();
    let summary = in_time("the stop", stop).await.unwrap().unwrap();
    assert_eq!(summary.left_behind, [life("web-0.1"), life("web-1.1")]);
    assert!(!summary.verified);
}

#[tokio::test]
async fn a_door_that_is_away_for_a_moment_is_still_told_to_stop() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    door.hang_up();
    eventually("the door to be missed", || async { (!handle.is_ready().await.unwrap()).then_some(()) }).await;
    let stop = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop(StopScope::DoorToo, Duration::from_secs(5)).await }
    });
    until_all(&mut asked, &["signal web-0.1 15", "signal web-1.1 15"]).await;
    backend.dies(&life("web-0.1"), Cause::Exit(0)).await;
    backend.dies(&life("web-1.1"), Cause::Exit(0)).await;
    door.welcome(&[], &[]).await;
    assert_eq!(door.order().await, Order::Stop);
    door.hang_up();
    let summary = in_time("the stop", stop).await.unwrap().unwrap();
    assert!(!summary.door_remains);
}

#[tokio::test]
async fn a_door_of_another_version_is_not_talked_to() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let _handle = supervise(&backend, &door, vec![pool("web", 1)]);
    door.welcome_as(99, &[], &[]).await;
    // It dials again, and goes on as if nothing had been when the door has been replaced.
    door.welcome(&[], &[]).await;
    until(&mut asked, "spawn web-0.1").await;
}

#[tokio::test]
async fn a_door_that_talks_nonsense_is_dialled_again() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    door.say_words("{\"notice\":\"from another time\"}").await;
    door.welcome(&["web-0.1", "web-1.1"], &[]).await;
    eventually("the workers to be known again", || async {
        (door_less(&handle).await == 2 && handle.is_ready().await.unwrap()).then_some(())
    })
    .await;
    assert_eq!(backend.population(), ["web-0.1", "web-1.1"]);
}

#[tokio::test]
async fn a_worker_is_buried_when_only_the_backend_knows_that_it_is_dead() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    backend.dies(&life("web-0.1"), Cause::Signal(9)).await;
    assert_eq!(door.any_order().await, Order::Bury { worker: life("web-0.1") });
    until(&mut asked, "spawn web-0.2").await;
}

#[tokio::test]
async fn who_has_left_decides_nothing_and_leaves_everybody() {
    let (backend, mut asked) = FakeBackend::new();
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![pool("web", 2)]);
    two_ready(&mut asked, &mut door, &handle).await;
    in_time("the leave", handle.leave()).await;
    assert!(matches!(handle.is_ready().await, Err(CommandError::Stopped)));
    assert!(matches!(handle.scale(&"web".parse().unwrap(), 0).await, Err(CommandError::Stopped)));
    assert_eq!(backend.population(), ["web-0.1", "web-1.1"]);
    in_time("who leaves twice", handle.leave()).await;
}

#[tokio::test]
async fn a_stop_before_the_first_listing_finds_whom_the_last_controller_left() {
    let (backend, mut asked) = FakeBackend::new();
    backend.is_silent(true);
    let spec = pool("web", 1);
    backend.with_worker(&life("web-0.7"), &spec.spec_hash(), Vital::Alive { since: SystemTime::now() });
    let mut door = FakeDoor::new();
    let handle = supervise(&backend, &door, vec![spec]);
    door.welcome(&[], &[]).await;
    until(&mut asked, "list").await;
    let stop = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop(StopScope::WorkersOnly, Duration::from_secs(5)).await }
    });
    until(&mut asked, "list").await;
    backend.is_silent(false);
    until(&mut asked, "signal web-0.7 15").await;
    backend.dies(&life("web-0.7"), Cause::Exit(0)).await;
    let summary = in_time("the stop", stop).await.unwrap().unwrap();
    assert!(summary.verified);
    assert_eq!(backend.population(), Vec::<String>::new());
}
