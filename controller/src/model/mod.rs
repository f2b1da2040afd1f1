//! The words that supervisor, backends and API share.

mod death;

pub use death::{Autopsy, Cause};
