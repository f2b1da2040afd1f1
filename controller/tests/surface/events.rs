//! `bulkhead events` against a stream that breaks, forgets, and wants to know who asks.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::command_line::transcript_in;
use crate::fake_stream::{End, FakeStream};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `bulkhead events` that goes on. Killed when dropped.
struct Following {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Following {
    fn start(fake: &FakeStream, words: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .args(["events", "--follow"])
            .args(words)
            .env_clear()
            .env("BULKHEAD_API", fake.api())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err }
    }

    /// The next line of standard output.
    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.out.next_line()).await;
        line.expect("no line came in time").unwrap().expect("the output ended")
    }

    /// The ids of so many lines of JSON.
    async fn ids(&mut self, number: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..number {
            let event: Value = serde_json::from_str(&self.line().await).unwrap();
            ids.push(event["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    async fn complaint(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.err.next_line()).await;
        line.expect("no complaint came in time").unwrap().expect("standard error ended")
    }
}

/// `k3f9x2-1` and so on.
fn numbered(numbers: std::ops::RangeInclusive<usize>) -> Vec<String> {
    numbers.map(|number| format!("k3f9x2-{number}")).collect()
}

fn eventful() -> Vec<Value> {
    let worker = |generation: u64, what: &str, detail: Value| {
        json!({"kind": "worker", "worker": "web-3", "pool": "web", "generation": generation, "what": what,
               "detail": detail})
    };
    let incident = |stage: &str, ready: Value| {
        json!({"kind": "incident", "stage": stage, "incident": {
            "id": "web-3.6", "pool": "web", "worker": "web-3", "at": "2026-01-02T03:04:05.678901Z",
            "cause": {"kind": "signal", "detail": "SIGKILL"},
            "held": [{"request": "GET /\u{1b}[31m", "outcome": "redelivered", "to": "web-1", "status": null,
                      "why": null, "added_ms": 3.21}],
            "steps_ms": {"detected": 0.4, "redelivered": 1.1, "spawned": 2.0, "ready": ready},
            "siblings": 3, "last_output": [],
            "memory": null, "siblings_failed": 0, "reproduce": "kill -9 4711", "backend": "process",
            "unit": "pid 4711",
        }})
    };
    vec![
        json!({"kind": "door", "what": "up", "detail": null}),
        worker(6, "kill_requested", json!("SIGKILL")),
        worker(6, "link_closed", json!(null)),
        incident("opened", json!(null)),
        worker(7, "ready", json!(null)),
        incident("complete", json!(231.0)),
        json!({"kind": "pool", "pool": "web", "what": "scaled", "detail": "4 to 6 workers"}),
        json!({"kind": "engine", "what": "silent", "detail": "no answer within 5 s"}),
        json!({"kind": "trickle", "pool": "web", "what": "began", "detail": "4 a second of GET /work?ms=300"}),
        json!({"kind": "weather", "what": "rain"}),
    ]
}

#[tokio::test]
async fn what_is_remembered_is_told_and_that_is_all() {
    let fake = FakeStream::open().await;
    assert_eq!(transcript_in(&fake.api(), &[], &["events"]).await, "");
    assert_eq!(fake.asked(), ["?after=0&follow=false"]);
    for event in eventful() {
        fake.happens(event);
    }
    insta::assert_snapshot!(transcript_in(&fake.api(), &[], &["events"]).await, @r#"
    [time]  up                  door
    [time]  kill requested      web-3.6     SIGKILL
    [time]  link closed         web-3.6
    [time]  incident            web-3.6     SIGKILL; held GET /\u{1b}[31m: to web-1, +3.2 ms
    [time]  ready               web-3.7
    [time]  incident, complete  web-3.6     SIGKILL; held GET /\u{1b}[31m: to web-1, +3.2 ms; replaced in 231 ms
    [time]  scaled              web         4 to 6 workers
    [time]  silent              engine      no answer within 5 s
    [time]  trickle began       web         4 a second of GET /work?ms=300
    weather {"at":"2026-01-02T03:04:05.678901Z","id":"k3f9x2-10","kind":"weather","what":"rain"}
    "#);
    insta::assert_snapshot!(transcript_in(&fake.api(), &[], &["events", "--after", "k3f9x2-8"]).await, @r#"
    [time]  trickle began       web         4 a second of GET /work?ms=300
    weather {"at":"2026-01-02T03:04:05.678901Z","id":"k3f9x2-10","kind":"weather","what":"rain"}
    "#);
}

#[tokio::test]
async fn json_lines_are_what_was_sent() {
    let fake = FakeStream::open().await;
    let mut sent = Vec::new();
    for (nth, mut event) in (1..).zip(eventful()) {
        fake.happens(event.clone());
        event["id"] = format!("k3f9x2-{nth}").into();
        event["at"] = "2026-01-02T03:04:05.678901Z".into();
        sent.push(event);
    }
    let mut following = Following::start(&fake, &["--json"]);
    for event in sent {
        assert_eq!(serde_json::from_str::<Value>(&following.line().await).unwrap(), event);
    }
}

#[tokio::test]
async fn a_reader_that_is_cut_off_goes_on_where_it_was() {
    let fake = FakeStream::open().await;
    fake.lives(1..=6);
    fake.ends([End::Broken(2), End::Broken(0), End::Ended(1), End::Dropped(2)]);
    let mut following = Following::start(&fake, &["--json"]);
    assert_eq!(following.ids(6).await, numbered(1..=6));
    // And what happens from now on.
    fake.lives(7..=8);
    assert_eq!(following.ids(2).await, numbered(7..=8));
    assert_eq!(
        fake.asked(),
        ["?after=0", "? after k3f9x2-2", "? after k3f9x2-2", "? after k3f9x2-3", "? after k3f9x2-5"]
    );
    let mut told = Vec::new();
    for _ in 0..8 {
        told.push(following.complaint().await);
    }
    assert_eq!(told[4], "bulkhead: the stream broke off: the controller ended it; connecting again");
    assert_eq!(
        told[6],
        "bulkhead: the stream broke off: this reader is too slow: 64 events behind; connecting again"
    );
    for again in [1, 3, 5, 7] {
        assert_eq!(told[again], "bulkhead: connected again");
    }
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let fake = FakeStream::open().await;
    fake.lives(1..=1);
    insta::assert_snapshot!(transcript_in(&fake.api(), &[], &["events", "--after", "zzzzzz-7"]).await, @r"
    [time]  ready               web-0.1
    -- stderr
    bulkhead: not everything after zzzzzz-7 is remembered (another controller); what is follows
    ");
}

#[tokio::test]
async fn half_of_what_is_remembered_is_an_error() {
    let fake = FakeStream::open().await;
    fake.lives(1..=2);
    fake.ends([End::Broken(1), End::Dropped(1)]);
    let told = transcript_in(&fake.api(), &[], &["events"]).await;
    assert!(told.contains("ready") && told.contains("-- exit status: 1"), "{told}");
    assert!(told.contains("bulkhead: the stream broke off before its end: "), "{told}");
    let told = transcript_in(&fake.api(), &[], &["events"]).await;
    assert!(told.contains("before its end: this reader is too slow: 64 events behind\n"), "{told}");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let fake = FakeStream::open().await;
    fake.lives(1..=1);
    let mut following = Following::start(&fake, &[]);
    assert!(following.line().await.contains("web-0.1"));
    let Following { mut child, out, mut err } = following;
    drop(out);
    fake.lives(2..=2);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it goes on").unwrap();
    let mut complaints = String::new();
    err.get_mut().read_to_string(&mut complaints).await.unwrap();
    assert_eq!((status.code(), complaints.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_token_comes_from_a_file_or_from_the_environment() {
    let fake = FakeStream::with_token(Some("s3cret")).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let file = file.to_str().unwrap();

    insta::assert_snapshot!(transcript_in(&fake.api(), &[], &["events"]).await, @r"
    -- stderr
    bulkhead: a token is needed
      give a token with --token-file PATH, BULKHEAD_API_TOKEN_FILE or BULKHEAD_API_TOKEN
    -- exit status: 1
    ");
    let wrong = [("BULKHEAD_API_TOKEN", "guessed")];
    insta::assert_snapshot!(transcript_in(&fake.api(), &wrong, &["events"]).await, @r"
    -- stderr
    bulkhead: this token is not known
      give a token with --token-file PATH, BULKHEAD_API_TOKEN_FILE or BULKHEAD_API_TOKEN
    -- exit status: 1
    ");
    assert_eq!(fake.asked(), Vec::<String>::new());

    assert_eq!(transcript_in(&fake.api(), &[("BULKHEAD_API_TOKEN", "s3cret")], &["events"]).await, "");
    assert_eq!(transcript_in(&fake.api(), &[("BULKHEAD_API_TOKEN_FILE", file)], &["events"]).await, "");
    // The file that was named counts more than what happens to be set.
    assert_eq!(transcript_in(&fake.api(), &wrong, &["events", "--token-file", file]).await, "");
    // Orders carry it, too.
    let killed = transcript_in(&fake.api(), &[], &["kill", "web-0", "--token-file", file]).await;
    assert!(killed.starts_with("sent SIGKILL to web-0\n"), "{killed}");
}

#[tokio::test]
async fn what_is_no_token_is_not_sent() {
    let fake = FakeStream::open().await;
    insta::assert_snapshot!(transcript_in(&fake.api(), &[("BULKHEAD_API_TOKEN", " ")], &["ps"]).await, @r"
    -- stderr
    bulkhead: BULKHEAD_API_TOKEN holds no token: a token is one word of letters, digits and signs
    -- exit status: 1
    ");
    insta::assert_snapshot!(transcript_in(&fake.api(), &[], &["ps", "--token-file", "/no/such/file"]).await, @r"
    -- stderr
    bulkhead: cannot read the token in /no/such/file: No such file or directory (os error 2)
    -- exit status: 1
    ");
    let two_words = [("BULKHEAD_API_TOKEN", "two words")];
    insta::assert_snapshot!(transcript_in(&fake.api(), &two_words, &["ps"]).await, @r"
    -- stderr
    bulkhead: BULKHEAD_API_TOKEN holds no token: a token is one word of letters, digits and signs
    -- exit status: 1
    ");
}
