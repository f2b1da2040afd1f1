//! The controller's HTTP API.

pub mod views;
