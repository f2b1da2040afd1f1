//! The controller as seen from outside: the API over real connections, and the real binary against that API.
//!
//! Behind the API stands a master with canned answers, so what is tested is what users see, and nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod api;
mod canned;
mod command_line;
mod events;
mod fake_stream;
mod metrics;
mod openapi;
mod stream;
mod top;
