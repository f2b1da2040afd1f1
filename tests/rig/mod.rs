//! What the stories are told with: a deployment ([`stack`]), a client ([`http`]), the wish that something becomes
//! true ([`eventually`]).

#![allow(dead_code, unreachable_pub, reason = "each program that includes the rig uses a part of it")]

pub mod api;
pub mod backend;
pub mod browser;
pub mod compose;
pub mod controller;
pub mod engine;
pub mod http;
pub mod kubernetes;
pub mod load;
pub mod old_door;
pub mod pods;
pub mod ports;
pub mod restricted;
pub mod stack;
pub mod throttle;
pub mod tunnel;
pub mod worker;

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use backend::Backend;
use libtest_mimic::{Completion, Failed, Trial};
pub use stack::Stack;

/// How long anything may take before a story says that it will not happen. Generous: machines are shared, and a kubelet looks
/// after its pods once a second at the most, and less often where there are many of them.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A story, told on one backend.
pub type Story = fn(Backend);

/// Whether this is a run in which nothing that is there may be left out.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Why a story cannot be told here.
#[derive(Debug, Clone)]
pub struct Missing {
    pub why: String,
    /// Whether that is all right: the story shows as ignored then, and else as failed.
    pub excused: bool,
}

/// A story as a test. What a panic in it said is the failure.
pub fn trial(
    name: String,
    missing: impl FnOnce() -> Option<Missing> + Send + 'static,
    story: impl FnOnce() + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match missing() {
        Some(Missing { why, excused: true }) => Ok(Completion::ignored_with(why.trim().replace('\n', ": "))),
        Some(Missing { why, excused: false }) => Err(Failed::from(why)),
        None => told(story).map(|()| Completion::Completed).map_err(Failed::from),
    })
}

fn told(story: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(story)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "the story panicked without a word".to_owned())
    })
}

/// Looks until `look` finds something, and says what it saw last when it never does.
///
/// What is waited for here has no event that a test could subscribe to from outside; the pause only keeps the
/// looking from taking the processor away from what is looked at.
pub fn eventually<T, S: Debug>(what: &str, look: impl FnMut() -> Result<T, S>) -> T {
    eventually_within(PATIENCE, what, look)
}

/// The same for what others may take their time with.
pub fn eventually_within<T, S: Debug>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => {
                panic!("it never came true that {what}; the last that was seen: {seen:#?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
