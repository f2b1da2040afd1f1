//! `bulkhead lab` as people use it: the command line, and Bulkhead among the systems that it measures.
//!
//! What each experiment is to show is told in `lab/tests/patterns.rs`. Here is what takes the whole program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that goes wrong ends there")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn lab(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.arg("lab").args(arguments).current_dir(dir).output().unwrap()
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bulkhead-lab-test-").tempdir().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_name_the_experiments_are_listed_and_a_wrong_name_is_answered_with_the_right_ones() {
    let dir = scratch();
    let listed = lab(dir.path(), &[]);
    assert!(listed.status.success(), "{listed:?}");
    let wrong = lab(dir.path(), &["isolatoin"]);
    assert_eq!(wrong.status.code(), Some(1));
    for name in [
        "isolation",
        "scale",
        "idle",
        "throughput",
        "preemption",
        "races",
        "deadlock",
        "pool",
        "talk",
        "chaos",
        "peers",
    ] {
        assert!(text(&listed.stdout).contains(name), "{}", text(&listed.stdout));
        assert!(text(&wrong.stderr).contains(name), "{}", text(&wrong.stderr));
    }
    assert!(!dir.path().join("bulkhead-lab").exists(), "nothing was found, and nothing is to be kept");
}

#[test]
fn a_report_of_nothing_says_what_to_run_first() {
    let dir = scratch();
    let report = lab(dir.path(), &["report"]);
    assert_eq!(report.status.code(), Some(1));
    assert!(text(&report.stderr).contains("bulkhead lab all --quick"), "{}", text(&report.stderr));
}

#[test]
fn what_is_found_is_printed_kept_and_reported() {
    let dir = scratch();
    let found = lab(dir.path(), &["races", "--quick", "--json"]);
    assert!(found.status.success(), "{}", text(&found.stderr));
    let findings: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(findings["experiment"], "races");
    let rounds = findings["data"]["rounds"].as_array().unwrap();
    let exact = |round: &Value| round["expected"] == round["counted"];
    assert!(rounds.iter().filter(|it| it["way"] != "load_and_store").all(exact), "{findings:#}");
    let kept = std::fs::read(dir.path().join("bulkhead-lab/races.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), findings);

    let report = lab(dir.path(), &["report"]);
    assert!(report.status.success(), "{}", text(&report.stderr));
    let page = std::fs::read_to_string(dir.path().join("bulkhead-lab/report.html")).unwrap();
    let table = findings["tables"][0]["title"].as_str().unwrap();
    assert!(page.contains(table) && page.contains("<svg"), "the page has not what was found");
}

#[test]
fn kills_cost_bulkhead_nothing_and_one_process_of_threads_everything() {
    let dir = scratch();
    let found = lab(dir.path(), &["chaos", "--quick", "--json"]);
    assert!(found.status.success(), "{}", text(&found.stderr));
    let findings: Value = serde_json::from_slice(&found.stdout).unwrap();
    let storms = findings["data"]["storms"].as_array().unwrap();
    let of = |system: Value| {
        let storm = storms.iter().find(|it| it["system"] == system);
        storm.unwrap_or_else(|| panic!("no storm over {system}: {findings:#}"))["weather"].clone()
    };
    let ours = of(serde_json::json!({ "bulkhead": "process" }));
    assert!(ours["kills"].as_array().is_some_and(|kills| !kills.is_empty()), "{ours:#}");
    assert!(ours["answered"].as_u64() > Some(0), "{ours:#}");
    assert_eq!((&ours["failed"], &ours["lost"]), (&Value::from(0), &Value::from(0)), "{ours:#}");
    let threads = of(serde_json::json!({ "model": "thread_per_connection" }));
    assert!(
        threads["failed"].as_u64() > Some(0),
        "the only process was killed, and nobody noticed: {threads:#}"
    );
}
