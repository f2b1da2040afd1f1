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

mod rig;
mod stories;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use rig::Missing;
use rig::backend::{Availability, Backend};
use stories::{adoption, throttled, tunnel::partition};

fn main() -> ExitCode {
    if let Some(socket) = rig::old_door::asked_for() {
        rig::old_door::play(&socket);
    }
    let mut trials = Vec::new();
    for backend in Backend::ALL {
        let missing = missing(backend);
        if let Some(Missing { why, .. }) = &missing {
            eprintln!("the stories on {backend} cannot be told: {why}");
        }
        let of_tunnels = stories::TUNNEL.iter().filter(|_| backend.is_tunnel());
        trials.extend(stories::ALL.iter().chain(of_tunnels).map(|&(name, story)| {
            let missing = missing.clone().or_else(|| stories::untold(name, backend));
            rig::trial(format!("{backend}::{name}"), move || missing, move || story(backend))
        }));
    }
    let tunnel = Backend::ProcessTunnel;
    trials.push(rig::trial(
        format!("{tunnel}::who_is_behind_a_cut_cable_is_lost_and_not_let_in_again"),
        partition::missing,
        move || partition::who_is_behind_a_cut_cable_is_lost_and_not_let_in_again(tunnel),
    ));
    let pods = Backend::Kubernetes;
    trials.push(rig::trial(
        format!("{pods}::whose_workers_are_somebody_elses_is_refused"),
        move || missing(pods),
        move || adoption::whose_workers_are_somebody_elses_is_refused(pods),
    ));
    trials.push(rig::trial(
        format!("{pods}::an_api_that_throttles_costs_no_request"),
        move || missing(pods),
        move || throttled::an_api_that_throttles_costs_no_request(pods),
    ));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    rig::pods::leave();
    conclusion.exit_code()
}

/// Why no story can be told on this backend.
fn missing(backend: Backend) -> Option<Missing> {
    match backend.availability() {
        Availability::Here => None,
        Availability::Missing { why } => Some(Missing { why, excused: true }),
        Availability::Broken { why } => Some(Missing { why, excused: !rig::in_ci() }),
    }
}
