//! What clients lose, and how fast capacity is back, while workers are killed without a pause.

use std::time::{Duration, Instant};

use crate::rig::api::Worker;
use crate::rig::load::Load;
use crate::rig::{Backend, Stack, eventually};
use crate::{Sample, backends};

const CLIENTS: usize = 16;
const EVERY: Duration = Duration::from_millis(100);
const FOR: Duration = Duration::from_secs(30);

pub(crate) fn measure() {
    println!(
        "\nloss: {CLIENTS} keep-alive clients, GET /work?ms=20 on 4 workers, one SIGKILL every {EVERY:?} for {FOR:?}"
    );
    for backend in backends() {
        storm(backend);
    }
}

fn storm(backend: Backend) {
    let restart = "restart: { backoff: 1ms, longest: 1ms, deaths: 10000, within: 10s }";
    let stack = Stack::web(backend, 4, restart);
    stack.ready("web", 4);
    let load = Load::start(stack.address("web"), CLIENTS, "/work?ms=20");
    let start = Instant::now();
    let mut kills = 0;
    loop {
        // A rate is what is asked for: this wait is the measurement's, not for anything to happen. A tick that is
        // late or finds nobody alive is not made up for: two kills at once would be another storm.
        let tick = start.elapsed().div_duration_f64(EVERY).ceil().max(1.0);
        let at = EVERY.mul_f64(tick);
        if at > FOR {
            break;
        }
        std::thread::sleep(at.saturating_sub(start.elapsed()));
        let workers: Vec<_> = stack.api().workers().into_iter().filter(Worker::is_ready).collect();
        // One after another, so that every place has its share.
        if !workers.is_empty() && stack.api().kill(&workers[kills % workers.len()].id, "SIGKILL").status < 300
        {
            kills += 1;
        }
    }
    let ticks = FOR.div_duration_f64(EVERY);
    let incidents = eventually("every kill is an incident, told to its end", || {
        let incidents = stack.api().incidents();
        let told = incidents.iter().filter(|it| it["steps_ms"]["ready"].is_number()).count();
        if told >= kills && told == incidents.len() {
            Ok(incidents)
        } else {
            Err((kills, told, incidents.len()))
        }
    });
    let tally = load.stop();
    // Oldest first.
    let step = |name: &'static str| {
        let values: Vec<_> = incidents.iter().rev().filter_map(|it| it["steps_ms"][name].as_f64()).collect();
        values
    };
    let ready = step("ready");
    let ends = ready.len().min(20);
    println!(
        "  {backend}: {} answered, {} failed, {kills} kills at {ticks} ticks",
        tally.answered,
        tally.failed.len()
    );
    for failure in tally.failed.iter().take(3) {
        println!("    failed: {}", failure.trim());
    }
    println!("    redelivered after, ms                 {}", Sample::of(step("redelivered")));
    println!("    replacement started after, ms         {}", Sample::of(step("spawned")));
    println!("    replacement ready after, ms           {}", Sample::of(ready.clone()));
    println!("      the first {ends} kills                  {}", Sample::of(ready[..ends].to_vec()));
    println!(
        "      the last {ends} kills                   {}",
        Sample::of(ready[ready.len() - ends..].to_vec())
    );
    stack.down();
}
