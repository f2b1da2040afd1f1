//! Bulkhead's control path: the master that spawns, watches, kills and replaces workers.

mod absent;
pub mod api;
pub mod backend;
pub mod bounded;
pub mod certificates;
pub mod cli;
pub mod door;
pub mod journal;
pub mod model;
pub mod rundir;
pub mod spec;
pub mod supervisor;
