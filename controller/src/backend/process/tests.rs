//! Real processes: stand-ins that are told by their pool's name what to do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use server::identity::Secret;
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::*;
use crate::spec;

const DEADLINE: Duration = Duration::from_secs(20);

/// Committed and not written by the tests: a program that is still open for writing cannot be run, and a child
/// that another test starts at that moment holds it open.
const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/process/stand-in.sh");

/// A run directory of its own, and whatever was started in it; kills that in the end.
struct Rig {
    _temp: TempDir,
    run: RunDir,
}

impl Rig {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let run = RunDir::at(temp.path().join("run"));
        run.create().unwrap();
        Self { _temp: temp, run }
    }

    fn controller(&self) -> (Arc<ProcessBackend>, Receiver<Sighting>) {
        let home =
            Home { owner: "test".to_owned(), run_dir: self.run.path().to_owned(), program: STAND_IN.into() };
        let backend = Arc::new(ProcessBackend::new(&home).unwrap());
        let sightings = Arc::clone(&backend).watch();
        (backend, sightings)
    }

    /// The state file of `life`, changed.
    fn forge(&self, life: &Incarnation, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.run.workers_dir().join(format!("{life}.json"));
        let mut state = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut state);
        fs::write(&path, state.to_string()).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.run.workers_dir()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for state in
            Store::open(self.run.workers_dir()).and_then(|store| store.read_all()).unwrap_or_default()
        {
            let process = state.process.or_else(|| procfs::find_worker(&state.life, &self.run.link_socket()));
            if let Some(process) = process
                && process.open().is_ok_and(|pidfd| pidfd.is_some())
            {
                let _dead_already = kill_process_group(process.pid(), Signal::KILL);
            }
        }
    }
}

fn order(life: &str) -> SpawnOrder {
    let life: Incarnation = life.parse().unwrap();
    let text = format!("pools: {{ {}: {{}} }}", life.worker.pool);
    let pool = spec::parse("test.yaml", &text).unwrap().pools.remove(0);
    SpawnOrder {
        token: Secret::new([7; 32]).token(&life),
        spec_hash: pool.spec_hash(),
        tunnel: None,
        pool: Arc::new(pool),
        retire_after: None,
        life,
    }
}

/// The next death, which must be that of `life`.
async fn death_of(life: &Incarnation, sightings: &mut Receiver<Sighting>) -> Autopsy {
    match timeout(DEADLINE, sightings.recv()).await.expect("no death was seen in time") {
        Some(Sighting::Died { life: dead, autopsy }) => {
            assert_eq!(dead, *life);
            autopsy
        }
        other => panic!("not a death: {other:?}"),
    }
}

/// Starts `life` and waits for its end.
async fn end_of(life: &str) -> Autopsy {
    let rig = Rig::new();
    let (backend, mut sightings) = rig.controller();
    let order = order(life);
    backend.spawn(&order).await.unwrap();
    death_of(&order.life, &mut sightings).await
}

/// Waits until `life` has written a line that begins with `start`, and gives the rest of that line.
async fn said(backend: &ProcessBackend, life: &Incarnation, unit: &Unit, start: &str) -> String {
    let looking = async {
        loop {
            let lines = backend.logs(life, unit, 10).await.unwrap();
            if let Some(rest) = lines.iter().find_map(|line| line.strip_prefix(start)) {
                return rest.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(DEADLINE, looking).await {
        Ok(rest) => rest,
        Err(_) => panic!("{life} did not say {start:?}: {:?}", backend.logs(life, unit, 10).await),
    }
}

fn is_dead(pid: &str) -> bool {
    let state = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    state.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
}

fn number_of(unit: &Unit) -> i32 {
    let Unit::Process { pid, .. } = unit else { panic!("{unit:?} is no process") };
    i32::try_from(*pid).unwrap()
}

#[tokio::test]
async fn a_workers_end_is_told_with_its_last_words() {
    let exited = end_of("exits-0.1").await;
    assert_eq!((exited.cause, exited.last_output), (Cause::Exit(3), vec!["one".into(), "two".into()]));
    assert_eq!(end_of("faults-0.1").await.cause, Cause::Signal(Signal::SEGV.as_raw()));
}

#[tokio::test]
async fn an_abort_for_want_of_memory_is_told_from_any_other() {
    assert_eq!(end_of("greedy-0.1").await.cause, Cause::Oom { limit_bytes: Some(64 << 20) });
    assert_eq!(end_of("aborts-0.1").await.cause, Cause::Signal(Signal::ABORT.as_raw()));
}

#[tokio::test]
async fn a_worker_knows_its_token_and_nothing_else_of_ours() {
    let shown = end_of("shows-0.1").await.last_output;
    let token = order("shows-0.1").token;
    let ours: Vec<_> = shown.iter().filter(|line| !line.starts_with("in ")).collect();
    assert_eq!(ours, [&format!("BULKHEAD_TOKEN={token}")]);
    assert_eq!(shown.last().unwrap(), "in / from /dev/null");
}

#[tokio::test]
async fn no_child_of_a_worker_outlives_it() {
    let rig = Rig::new();
    let (backend, mut sightings) = rig.controller();
    let order = order("forks-0.1");
    let unit = backend.spawn(&order).await.unwrap();
    assert_eq!(death_of(&order.life, &mut sightings).await.cause, Cause::Exit(0));
    let child = said(&backend, &order.life, &unit, "child ").await;
    assert!(is_dead(&child), "{child} lives on");
}

#[tokio::test]
async fn a_kill_ends_the_whole_group_and_any_other_signal_goes_to_the_worker() {
    let rig = Rig::new();
    let (backend, mut sightings) = rig.controller();
    let family = order("family-0.1");
    let unit = backend.spawn(&family).await.unwrap();
    let child = said(&backend, &family.life, &unit, "child ").await;
    backend.signal(&family.life, &unit, Signal::KILL.as_raw()).await.unwrap();
    assert_eq!(death_of(&family.life, &mut sightings).await.cause, Cause::Signal(9));
    assert!(is_dead(&child), "{child} lives on");

    let obedient = order("obeys-0.1");
    let unit = backend.spawn(&obedient).await.unwrap();
    said(&backend, &obedient.life, &unit, "ready").await;
    backend.signal(&obedient.life, &unit, Signal::TERM.as_raw()).await.unwrap();
    let autopsy = death_of(&obedient.life, &mut sightings).await;
    assert_eq!((autopsy.cause, autopsy.last_output.last().unwrap().as_str()), (Cause::Exit(0), "told"));
}

#[tokio::test]
async fn the_dead_are_listed_until_they_are_removed() {
    let rig = Rig::new();
    let (backend, mut sightings) = rig.controller();
    let order = order("waits-3.7");
    let unit = backend.spawn(&order).await.unwrap();
    assert!(matches!(&backend.list().await.unwrap()[..], [Found { vital: Vital::Alive { .. }, .. }]));
    assert!(backend.remove(&order.life, &unit).await.is_err(), "a live worker was removed");

    backend.signal(&order.life, &unit, Signal::KILL.as_raw()).await.unwrap();
    death_of(&order.life, &mut sightings).await;
    let listed = backend.list().await.unwrap();
    let [Found { life, vital: Vital::Dead(autopsy), .. }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((life, &autopsy.cause), (&order.life, &Cause::Signal(9)));
    let gone = backend.signal(&order.life, &unit, Signal::KILL.as_raw()).await;
    assert!(matches!(gone, Err(BackendError::Gone { .. })), "{gone:?}");

    backend.remove(&order.life, &unit).await.unwrap();
    assert_eq!(rig.files(), [""; 0]);
    assert!(backend.list().await.unwrap().is_empty());
}

#[test]
fn workers_outlive_their_controller_and_are_adopted_by_the_next() {
    let rig = Rig::new();
    let order = order("waits-0.1");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Its tasks are dropped with the runtime, as they are when the process dies.
    let first = runtime();
    let unit = first.block_on(async { rig.controller().0.spawn(&order).await.unwrap() });
    drop(first);

    runtime().block_on(async {
        let (backend, mut sightings) = rig.controller();
        for _ in 0..2 {
            let listed = backend.list().await.unwrap();
            let [found] = &listed[..] else { panic!("{listed:?}") };
            assert_eq!((&found.life, &found.unit, &found.spec_hash), (&order.life, &unit, &order.spec_hash));
            assert!(matches!(found.vital, Vital::Alive { .. }), "{found:?}");
        }
        assert_eq!(said(&backend, &order.life, &unit, "wait").await, "ing");
        backend.signal(&order.life, &unit, Signal::KILL.as_raw()).await.unwrap();
        let autopsy = death_of(&order.life, &mut sightings).await;
        assert_eq!((autopsy.cause, autopsy.last_output), (Cause::Lost, vec!["waiting".into()]));
        assert!(timeout(Duration::ZERO, sightings.recv()).await.is_err(), "it died twice");
    });
}

#[tokio::test]
async fn who_died_while_nobody_watched_is_lost() {
    let rig = Rig::new();
    let order = order("waits-0.1");
    let unit = rig.controller().0.spawn(&order).await.unwrap();
    let (next, _sightings) = rig.controller();
    let pid = Pid::from_raw(number_of(&unit)).unwrap();
    kill_process_group(pid, Signal::KILL).unwrap();
    let looking = async {
        loop {
            if is_dead(&number_of(&unit).to_string()) {
                break next.list().await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let listed = timeout(DEADLINE, looking).await.unwrap();
    let [Found { vital: Vital::Dead(autopsy), .. }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(autopsy.cause, Cause::Lost);
}

#[tokio::test]
async fn a_recycled_pid_is_not_taken_for_a_worker() {
    let rig = Rig::new();
    let order = order("exits-0.1");
    let (first, mut sightings) = rig.controller();
    first.spawn(&order).await.unwrap();
    death_of(&order.life, &mut sightings).await;
    // The worker's pid is ours by now, as far as its state file can tell.
    rig.forge(&order.life, |state| state["process"]["pid"] = std::process::id().into());

    let (next, _sightings) = rig.controller();
    let listed = next.list().await.unwrap();
    let [Found { unit, vital: Vital::Dead(autopsy), .. }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(autopsy.cause, Cause::Lost);
    // If this is wrong, this test does not live to say so.
    let killed = next.signal(&order.life, unit, Signal::KILL.as_raw()).await;
    assert!(matches!(killed, Err(BackendError::Gone { .. })), "{killed:?}");
}

#[tokio::test]
async fn pids_of_another_boot_mean_nothing() {
    let rig = Rig::new();
    let order = order("waits-0.1");
    rig.controller().0.spawn(&order).await.unwrap();
    rig.forge(&order.life, |state| state["boot"] = "another".into());
    let (next, _sightings) = rig.controller();
    let listed = next.list().await.unwrap();
    assert!(matches!(&listed[..], [Found { vital: Vital::Dead(_), .. }]), "{listed:?}");
}

#[tokio::test]
async fn a_worker_whose_controller_died_before_it_noted_the_pid_is_found() {
    let rig = Rig::new();
    let order = order("family-0.1");
    let (first, _sightings) = rig.controller();
    let unit = first.spawn(&order).await.unwrap();
    said(&first, &order.life, &unit, "child ").await;
    rig.forge(&order.life, |state| state["process"] = serde_json::Value::Null);

    let (next, _sightings) = rig.controller();
    let listed = next.list().await.unwrap();
    let [found] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(found.unit, unit);
    assert!(matches!(found.vital, Vital::Alive { .. }), "{found:?}");
}

#[tokio::test]
async fn an_intent_that_came_to_nothing_is_cleared_away() {
    let rig = Rig::new();
    let order = order("exits-0.1");
    let (first, mut sightings) = rig.controller();
    first.spawn(&order).await.unwrap();
    death_of(&order.life, &mut sightings).await;
    rig.forge(&order.life, |state| state["process"] = serde_json::Value::Null);

    let (next, _sightings) = rig.controller();
    assert!(next.list().await.unwrap().is_empty());
    assert_eq!(rig.files(), [""; 0]);
}

#[tokio::test]
async fn a_program_that_cannot_be_run_leaves_nothing_behind() {
    let rig = Rig::new();
    let program = rig.run.path().join("not-there");
    let home = Home { owner: "test".to_owned(), run_dir: rig.run.path().to_owned(), program };
    let error = ProcessBackend::new(&home).unwrap().spawn(&order("web-0.1")).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(error.to_string(), "cannot start web-0.1");
    assert!(source.to_string().ends_with("/run/not-there"), "{source}");
    assert_eq!(rig.files(), [""; 0]);
}
