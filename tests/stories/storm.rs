//! `bulkhead storm`, against the real thing.

use std::process::{Command, Output};

use serde_json::Value;

use crate::rig::stack::BULKHEAD;
use crate::rig::{Backend, Stack};

fn storm(stack: &Stack, arguments: &[&str]) -> Output {
    let url = format!("http://{}/work?ms=20&n={{n}}", stack.address("web"));
    let api = format!("http://{}", stack.api().address());
    Command::new(BULKHEAD).args(["storm", &url, "--api", &api]).args(arguments).output().unwrap()
}

pub fn a_storm_of_kills_costs_no_get(backend: Backend) {
    let stack = Stack::web(backend, 3, "restart: { backoff: 1ms, longest: 1ms, deaths: 1000, within: 10s }");
    stack.ready("web", 3);
    let output = storm(
        &stack,
        &["--clients", "2", "--time", "6s", "--kill-every", "1500ms", "--patience", "60s", "--json"],
    );
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert!(output.status.success() && said["kept"] == true, "{said:#}");
    assert_eq!(said["sent"], said["answered"], "{said:#}");
    assert_eq!((&said["lost"], &said["duplicated"]), (&Value::from(0), &Value::from(0)), "{said:#}");
    // How many it comes to is the machine's affair, which may be slow to kill; that it was one at least is a bar.
    let kills = said["kills"].as_array().unwrap();
    let victims = kills.iter().filter(|kill| kill["victim"]["Ok"].is_string()).count();
    let incidents = stack.api().incidents();
    assert_eq!(incidents.len(), victims, "{said:#}\n{incidents:#?}");
    stack.down();
}

pub fn a_storm_says_which_bar_was_missed(backend: Backend) {
    let stack = Stack::web(backend, 1, "");
    stack.ready("web", 1);
    let output = storm(&stack, &["--clients", "1", "--time", "1s", "--no-kills", "--max-p99", "1ms"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = |what: &str| said.lines().find(|line| line.contains(what)).unwrap_or_default();
    assert!(line("p99:").starts_with("MISSED"), "{said}");
    assert!(line("lost:").starts_with("kept"), "{said}");

    // Whoever is to be killed by other means: what the command says is what is noted, and a storm without a kill is none.
    let arguments = [
        "--clients",
        "1",
        "--time",
        "1s",
        "--kill-every",
        "300ms",
        "--kill-command",
        "echo none left >&2; exit 1",
    ];
    let output = storm(&stack, &arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nobody: exit status: 1: none left"), "{output:?}");
    let missed: Vec<_> = said.lines().filter(|line| line.starts_with("MISSED")).collect();
    assert_eq!(missed, ["MISSED kills: 0, wanted at least 1"], "{said}");
    stack.down();
}
