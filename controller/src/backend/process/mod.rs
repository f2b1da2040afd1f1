//! Workers as plain processes.
