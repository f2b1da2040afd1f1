//! What a waiting worker costs.

use std::process::Command;

use crate::Sample;
use crate::rig::{Backend, Stack};

pub(crate) fn measure() {
    println!("\nmemory: resident KiB of an idle prefork worker of its own");
    let stack = Stack::web(Backend::Process, 4, "");
    let tell = |how: &str, stack: &Stack| {
        let workers = stack.ready("web", 4);
        let figure = |name| Sample::of(workers.iter().map(|it| status(it.pid.expect("a pid"), name) as f64));
        println!("  {how:38}  {}", figure("VmRSS"));
        println!("    of which its own, not the file's      {}", figure("RssAnon"));
    };
    tell("as built by cargo, dynamic", &stack);
    stack.down();
    match static_binary() {
        Ok(program) => {
            let stack = Stack::up_with(&program, Backend::Process, &crate::rig::stack::web(4, ""));
            tell("as a static binary", &stack);
            stack.down();
        }
        Err(why) => println!("  not measured as a static binary: {why}"),
    }
}

/// Builds the program as the image does: static, with libc in it.
fn static_binary() -> Result<String, String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--release", "--bin", "bulkhead", "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(format!("{root}/target/{target}/release/bulkhead"))
}

/// A figure of `/proc/PID/status`, in KiB.
pub(crate) fn status(pid: i32, name: &str) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok()).expect("a figure in /proc")
}
