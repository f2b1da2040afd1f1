//! The spec file: from text to a deployment that can be run.

mod valid;

pub use valid::{Api, BackendChoice, Deployment, Limits, Network, Pool, Recycle, Restart, Worker};
