//! What the stories are told with: a deployment ([`stack`]), a client ([`http`]), the wish that something becomes
//! true ([`eventually`]).

pub mod api;
pub mod backend;
pub mod browser;
pub mod compose;
pub mod controller;
pub mod http;
pub mod load;
pub mod stack;
pub mod worker;

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use backend::Backend;
pub use stack::Stack;

/// How long anything may take before a story says that it will not happen. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A story, told on one backend.
pub type Story = fn(Backend);

/// Tells a story; what a panic in it said is the failure.
pub fn tell(backend: Backend, story: Story) -> Result<(), String> {
    told(|| story(backend))
}

/// The same for a story that knows what it is told on.
pub fn told(story: impl FnOnce()) -> Result<(), String> {
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
pub fn eventually<T, S: Debug>(what: &str, mut look: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + PATIENCE;
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
