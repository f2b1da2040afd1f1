//! The lab: every way to serve many clients at once, measured for what it costs and what it survives.
//!
//! Processes isolate and cost memory; threads are cheap and die together; event loops hold thousands of clients and
//! are held up by one greedy task. All of this is said often and shown seldom. Here each of these models is a server
//! of one page ([`servers`]), and each saying is an experiment ([`experiments`]) that prints a table and adds to one
//! report ([`report`]).
//!
//! ```text
//!   experiment ──► System::start ──► Running            a server in a compartment with limits, at an address
//!        │                             ▲
//!        ├────► load::run ─────────────┘                clients: closed loop or open loop, never retrying
//!        │          │
//!        │          └──► Tally                          answered, failed, latencies; on request, every single answer
//!        └────► Findings ──► table · JSON · report      every figure with its spread over runs
//! ```
//!
//! What the lab starts are processes of this very program, which is told by its arguments which [`play::Part`] it is to play. So
//! a lab needs nothing beside the program, and each server is separate from whoever measures it.
//!
//! Honest figures: something is measured several times, and what is compared is measured in turn within one run, but for
//! `isolation`, which looks at several systems side by side; the median is given with the least and the most, and a figure
//! of a single run says so. The load generator runs on the same machine and has a limit of its own, which is measured and
//! shown.

pub mod claims;
mod cli;
pub mod compartment;
mod cores;
pub mod engine;
pub mod experiments;
pub mod findings;
mod groups;
pub mod janitor;
pub mod load;
pub mod machine;
mod memory;
pub mod play;
mod processes;
pub mod progress;
pub mod report;
mod serve;
pub mod servers;
pub mod stats;
pub mod storm;
pub mod systems;

pub use cli::{LabArgs, run};
