//! `bulkhead`: a prefork server whose processes are containers.

fn main() -> std::process::ExitCode {
    controller::cli::main()
}
