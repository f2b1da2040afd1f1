//! Bulkhead's data path: what happens between a client's first byte and its answer.
//!
//! A **door** accepts clients, parks the idle ones and hands each whole request to one idle **worker**.
//! What it hands over is the client's own socket, through a **link**. The worker reads and answers the client
//! directly, with blocking calls, in a compartment of its own. When a worker is killed in the middle of a
//! request its link closes; the door still has its duplicate of the socket, sees that the request is whole and
//! unanswered, and gives it to another worker. When that is not allowed, the door answers `502` itself.
//!
//! This crate never depends on the control path: with the controller dead, everything here runs on.

pub mod apps;
pub mod config;
pub mod control;
pub mod door;
pub mod http;
pub mod identity;
pub mod link;
pub mod observation;
pub mod sys;
pub mod worker;
