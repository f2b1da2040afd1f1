//! The worker that this program plays in its containers.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{abort, exit};
use std::time::Duration;

/// Behaves as the pool's name says, in a container.
pub(crate) fn play(args: &[String]) -> ! {
    let life = args.iter().position(|arg| arg == "--life").and_then(|at| args.get(at + 1));
    let role = life.and_then(|life| life.split('-').next()).unwrap_or_default();
    match role {
        "prober" => {
            let link = UnixStream::connect("/run/bulkhead/link/door.sock");
            let told = link.and_then(|mut link| link.write_all(facts().as_bytes()));
            exit(if told.is_ok() { 0 } else { 1 })
        }
        "dialler" => {
            let link = UnixStream::connect("/run/bulkhead/link/door.sock");
            let _link = link
                .and_then(|mut link| writeln!(link, "{}", life.map_or(role, String::as_str)).map(|()| link));
            sleep_for_good()
        }
        "exiter" => {
            (1..=30).for_each(|line| println!("line {line}"));
            exit(3)
        }
        "aborter" => abort(),
        "leaker" => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1_u8; 1 << 20]);
            }
        }
        _ => {
            println!("{role} is up");
            sleep_for_good()
        }
    }
}

fn sleep_for_good() -> ! {
    loop {
        // Standard input is empty or a terminal that never answers; either way there is nothing else to do.
        let _ = io::stdin().read(&mut [0; 1]);
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn facts() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut facts: Vec<String> = status
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some(format!("{name}={}", value.split_whitespace().next()?))
        })
        .collect();
    let interfaces = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let interfaces: Vec<&str> =
        interfaces.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    facts.push(format!("interfaces={}", interfaces.join(" ")));
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files: Vec<&str> = files.unwrap_or_default().split_whitespace().take(2).collect();
    facts.push(format!("open_files={}", files.join(" ")));
    for (name, path) in [("writes_root", "/here"), ("writes_link", "/run/bulkhead/link/here")] {
        let outcome = match fs::write(path, "x") {
            Ok(()) => "done".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => "read-only".to_owned(),
            Err(error) => error.to_string(),
        };
        facts.push(format!("{name}={outcome}"));
    }
    facts.push(format!("pid={}", std::process::id()));
    facts.join("\n")
}
