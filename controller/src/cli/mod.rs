//! The command line.

pub mod check;
pub mod schema;
pub mod worker;

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
