//! The only place for `unsafe`, and for the few system calls that no library offers in a safe form.
//!
//! Each function here is safe to call with any argument; what makes it so stands beside the block.

mod batch;
mod fault;
mod option;
mod pages;
mod peek;
mod port;
mod room;
mod shared;
mod slow_close;
mod tcp;
mod terminate;
mod watch;

pub use batch::schedule_as_batch;
pub use fault::{fork_sleeper, segfault};
pub use pages::release_code_pages;
pub use peek::wait_for_more;
pub use port::choose_port_late;
pub use room::make_room;
pub use shared::SharedWords;
pub use slow_close::SlowToClose;
pub use tcp::{Progress, progress, progress_and_consumed};
pub use terminate::{Termination, end_now, told_to_go};
pub use watch::{watch, watch_slow};
