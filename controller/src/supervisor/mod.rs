//! The master's loop.
