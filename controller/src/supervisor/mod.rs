//! The master.

pub mod plan;
pub mod restart;
