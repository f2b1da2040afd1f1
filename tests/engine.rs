//! The Docker engine is restarted under load, which is what an upgrade of Docker does.
//!
//! The engine is a `dockerd` of the story's own, so that nobody else's containers are at stake; it keeps containers
//! alive without it (`--live-restore`), which is the condition. Where there is no `dockerd`, or we are not root, the
//! story shows as ignored, with the reason.
//!
//! ```sh
//! cargo test -p controller --test engine
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story that goes wrong ends there"
)]
#![allow(dead_code, unreachable_pub, reason = "the rig is shared: each program that includes it uses a part")]

mod rig;

use std::collections::BTreeSet;
use std::process::ExitCode;

use libtest_mimic::Arguments;
use rig::api::Worker;
use rig::engine::OwnEngine;
use rig::load::Load;
use rig::stack::web;
use rig::{Missing, Stack, eventually};
use rustix::process::Signal;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let story = an_engine_that_is_restarted_under_load_costs_no_request;
    let missing = || OwnEngine::is_missing().map(|why| Missing { why, excused: true });
    let name = "an_engine_that_is_restarted_under_load_costs_no_request".to_owned();
    let trial = rig::trial(name, missing, story);
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

fn an_engine_that_is_restarted_under_load_costs_no_request() {
    let mut engine = OwnEngine::start();
    let stack = Stack::up_on(&engine.host(), &web(3, ""));
    let before = lives(&stack.ready("web", 3));
    let load = Load::start(stack.address("web"), 4, "/work?ms=5");

    engine.stop();
    served_without_an_engine(&stack, &load, 1);
    engine.start_again();
    found_again(&stack, 1);
    assert_eq!(lives(&stack.ready("web", 3)), before, "workers were replaced although none had died");

    // Now without a chance for it to put anything in order; and a worker dies meanwhile.
    engine.kill();
    served_without_an_engine(&stack, &load, 2);
    let victim = stack.api().worker("web-1");
    stack.signal(&victim, Signal::KILL);
    engine.start_again();
    found_again(&stack, 2);
    stack.api().told(&victim.life());
    let after = lives(&stack.ready("web", 3));
    assert_eq!(
        before.difference(&after).collect::<Vec<_>>(),
        [&victim.life()],
        "others were replaced as well"
    );

    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    stack.down();
}

/// Waits until the controller misses the engine for the `time`th time, and a hundred requests longer.
fn served_without_an_engine(stack: &Stack, load: &Load, time: usize) {
    said(stack, "the engine is away", time);
    let from = load.answered();
    eventually("a hundred requests are served without an engine", || {
        let served = load.answered() - from;
        if served >= 100 { Ok(()) } else { Err(served) }
    });
}

fn found_again(stack: &Stack, time: usize) {
    said(stack, "the engine is back", time);
}

fn said(stack: &Stack, words: &str, times: usize) {
    eventually(&format!("{words:?} is said for the {times}. time"), || {
        let said = stack.said();
        if said.matches(words).count() >= times { Ok(()) } else { Err(said) }
    });
}

fn lives(workers: &[Worker]) -> BTreeSet<String> {
    workers.iter().map(Worker::life).collect()
}
