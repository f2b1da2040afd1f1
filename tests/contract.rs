//! The contract: the same stories on every backend, with real processes, real containers and real kills.
//!
//! Each story starts a deployment of its own through `bulkhead up`, does to it what the story tells, and leaves
//! nothing behind. A backend that is not there shows as ignored, with the reason; one that is there is required.
//!
//! ```sh
//! cargo test -p controller --test contract                     # all
//! cargo test -p controller --test contract -- process::        # one backend
//! cargo test -p controller --test contract -- kill             # one kind of story
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story that goes wrong ends there"
)]
#![allow(dead_code, unreachable_pub, reason = "the rig is shared: each program that includes it uses a part")]

mod rig;
mod stories;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use rig::backend::{Availability, Backend};

fn main() -> ExitCode {
    if let Some(socket) = rig::old_door::asked_for() {
        rig::old_door::play(&socket);
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for backend in Backend::ALL {
        let availability = backend.availability();
        for &(name, story) in stories::ALL {
            let name = format!("{backend}::{name}");
            let run = move || rig::tell(backend, story).map_err(Failed::from);
            trials.push(match &availability {
                Availability::Here => Trial::test(name, run),
                Availability::Missing { why } => {
                    Trial::test(name, run).with_kind(why.clone()).with_ignored_flag(true)
                }
            });
        }
        if let Availability::Missing { why } = availability {
            eprintln!("the stories on {backend} are ignored: {why}");
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
