//! The one model on an event loop.
use super::{Ending, Options};

pub(super) fn run(_options: &Options) -> Ending {
    Ending::Setup
}
