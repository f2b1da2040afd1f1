//! The door: accepts clients, parks the idle ones, and hands each whole request to one idle worker.

use std::path::PathBuf;

use thiserror::Error;

use crate::config::DoorPool;

/// What a door is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pools to open.
    pub pools: Vec<DoorPool>,
    /// Where workers dial: a Unix socket that the door makes, in a directory that exists.
    pub link_socket: PathBuf,
    /// Where the controller dials: likewise, in a directory that no worker can reach.
    pub control_socket: PathBuf,
}

/// Why a door could not open, or had to stop.
#[derive(Debug, Error)]
pub enum DoorError {
    /// A socket could not be opened.
    #[error("cannot listen on {what}")]
    Listen {
        /// `pool "web" at 127.0.0.1:8080`, or the path of a Unix socket.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Opens the door and serves until SIGTERM, SIGINT or [`Order::Stop`](crate::control::Order::Stop), then drains.
/// Blocks; runs an event loop of its own on this thread.
pub fn run(_config: &Config) -> Result<(), DoorError> {
    Ok(())
}
