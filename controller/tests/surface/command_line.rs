//! What people see: the real binary, what it prints, and its exit code.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::canned::Surface;

/// Runs `bulkhead WORDS` against the API and tells what came of it. Addresses and times are masked.
async fn transcript(surface: &Surface, words: &[&str]) -> String {
    transcript_with(&surface.address.to_string(), words).await
}

async fn transcript_with(api: &str, words: &[&str]) -> String {
    transcript_in(api, &[], words).await
}

/// The same with more in the environment.
pub(crate) async fn transcript_in(api: &str, environment: &[(&str, &str)], words: &[&str]) -> String {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args(words)
        .env_clear()
        .env("BULKHEAD_API", api)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let mut told = out;
    if !err.is_empty() {
        told += &format!("-- stderr\n{err}");
    }
    if output.status.code() != Some(0) {
        told += &format!("-- {}\n", output.status);
    }
    masked(&told.replace(api, "[api]"))
}

/// RFC 3339 times are replaced by `[time]`.
fn masked(text: &str) -> String {
    let word = |word: &str| match word.trim_matches(['"', ',']).parse::<jiff::Timestamp>() {
        Ok(_) => word.replace(word.trim_matches(['"', ',']), "[time]"),
        Err(_) => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(|text| line(text) + "\n").collect()
}

#[tokio::test]
async fn ps_shows_what_each_worker_holds() {
    let surface = Surface::open().await;
    insta::assert_snapshot!(transcript(&surface, &["ps"]).await, @r"
    WORKER  PHASE     GEN  WHERE                       UP  TURNS  HOLDING
    web-0   busy        1  pid 4711                   3 h   1200  GET /work?ms=20 for 12 ms
    web-1   held up     1  bulkhead-web-1-1 on node2    -   1200
    web-2   dead        1  -                          3 h   1200
    web-3   draining    7  bulkhead-web-3.7           3 h   1200  GET /\u{1b}]0;owned\u{7} for 61 s and 1 more
    echo-0  idle        1  pid 4711                   3 h   1200

    web-1: the image cannot be had: \u{1b}[31mErrImagePull
    ");
    insta::assert_snapshot!(transcript(&surface, &["ps", "--pool", "echo"]).await, @r"
    WORKER  PHASE  GEN  WHERE      UP  TURNS  HOLDING
    echo-0  idle     1  pid 4711  3 h   1200
    ");
    insta::assert_snapshot!(transcript(&surface, &["ps", "--pools"]).await, @r"
    POOL  LISTENS AT             RUNS          READY  BUSY  QUEUED  CLIENTS  STATE
    web   http://127.0.0.1:8080  demo prefork    1/4     1       2    10000  recovering
    echo  tcp://127.0.0.1:12345  echo prefork    1/1     1       2    10000  degraded
    ");
}

#[tokio::test]
async fn json_is_what_the_api_says() {
    let surface = Surface::open().await;
    for (words, path) in [
        (&["ps", "--json"][..], "workers"),
        (&["ps", "--pools", "--json"], "pools"),
        (&["incidents", "--json"], "incidents"),
        (&["incidents", "web-3.6", "--json"], "incidents/web-3.6"),
        (&["logs", "web-0", "-n", "2", "--json"], "workers/web-0/logs?lines=2"),
    ] {
        let printed: serde_json::Value = serde_json::from_str(&transcript(&surface, words).await).unwrap();
        let url = format!("{}/api/v1/{path}", surface.url());
        let said = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
        let said: serde_json::Value = said.json().await.unwrap();
        // Times differ by the moment at which each was asked for.
        let said: serde_json::Value =
            serde_json::from_str(&masked(&serde_json::to_string_pretty(&said).unwrap())).unwrap();
        assert_eq!(printed, said, "{words:?}");
    }
}

#[tokio::test]
async fn kill_says_what_it_did() {
    let surface = Surface::open().await;
    insta::assert_snapshot!(transcript(&surface, &["kill", "web-0"]).await, @r"
    sent SIGKILL to web-0
    `bulkhead incidents` tells what became of it
    ");
    insta::assert_snapshot!(transcript(&surface, &["kill", "web-1", "-s", "11", "--json"]).await, @r#"
    {
      "worker": "web-1",
      "signal": "SIGSEGV"
    }
    "#);
    assert_eq!(surface.orders(), ["kill web-0 with 9", "kill web-1 with 11"]);
}

#[tokio::test]
async fn a_random_victim_is_one_that_serves() {
    let surface = Surface::open().await;
    // Of web's workers one is busy; the others start, are dead or drain.
    for _ in 0..5 {
        transcript(&surface, &["kill", "random", "--pool", "web"]).await;
    }
    assert_eq!(surface.orders(), vec!["kill web-0 with 9"; 5]);
    let nobody = Surface::open_before_anybody_is_ready().await;
    insta::assert_snapshot!(transcript(&nobody, &["kill", "random", "--pool", "web"]).await, @r"
    -- stderr
    bulkhead: no worker serves at the moment; `bulkhead ps` shows what each is doing
    -- exit status: 1
    ");
}

#[tokio::test]
async fn mistakes_are_explained() {
    let surface = Surface::open().await;
    let mut told = String::new();
    for words in [
        &["kill", "web-9"][..],
        &["kill", "web-2"],
        &["kill", "web-3"],
        &["kill", "web-0", "--pool", "web"],
        &["kill", "../../pools"],
        &["ps", "--pool", "wbe"],
        &["incidents", "web-3"],
        &["logs", "nobody-7"],
        &["scale", "web", "1001"],
    ] {
        told += &format!("$ bulkhead {}\n{}", words.join(" "), transcript(&surface, words).await);
    }
    insta::assert_snapshot!(told, @r#"
    $ bulkhead kill web-9
    -- stderr
    bulkhead: there is no worker web-9: see 'bulkhead ps'
    -- exit status: 1
    $ bulkhead kill web-2
    -- stderr
    bulkhead: worker web-2 is not running at this moment: its next life is on its way
    -- exit status: 1
    $ bulkhead kill web-3
    -- stderr
    bulkhead: the backend could not signal web-3: cannot kill web-3.1: the engine is on fire
    -- exit status: 1
    $ bulkhead kill web-0 --pool web
    -- stderr
    bulkhead: --pool goes with `random` only; web-0 says which worker already
    -- exit status: 1
    $ bulkhead kill ../../pools
    -- stderr
    bulkhead: "../../pools" is not a worker id: it looks like 'web-3'
    -- exit status: 1
    $ bulkhead ps --pool wbe
    -- stderr
    bulkhead: there is no pool wbe; there are web, echo
    -- exit status: 1
    $ bulkhead incidents web-3
    -- stderr
    bulkhead: "web-3" is not one life of a worker: it looks like 'web-3.7'
    -- exit status: 1
    $ bulkhead logs nobody-7
    -- stderr
    bulkhead: there is no worker nobody-7: see 'bulkhead ps'
    -- exit status: 1
    $ bulkhead scale web 1001
    -- stderr
    bulkhead: 1001 workers are too many: a pool has at most 1000
    -- exit status: 1
    "#);
    assert!(surface.orders().is_empty());
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    let surface = Surface::open().await;
    insta::assert_snapshot!(transcript(&surface, &["kill", "web-0", "-s", "NOSUCH"]).await, @r#"
    -- stderr
    error: invalid value 'NOSUCH' for '--signal <SIGNAL>': "NOSUCH" is not a signal: use a name such as KILL or SIGTERM, or a number from 1 to 31

    For more information, try '--help'.
    -- exit status: 2
    "#);
    let told = transcript_with("ftp://127.0.0.1", &["ps"]).await;
    insta::assert_snapshot!(told, @r#"
    -- stderr
    error: invalid value '[api]' for '--api <URL>': "ftp" is not spoken here: it looks like http://127.0.0.1:9090

    For more information, try '--help'.
    -- exit status: 2
    "#);
}

#[tokio::test]
async fn no_controller_is_exit_code_3() {
    // Bound and closed again: nobody listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    insta::assert_snapshot!(transcript_with(&address, &["ps"]).await, @r"
    -- stderr
    bulkhead: no controller answers at http://[api] (Connection refused (os error 111))
      start one with `bulkhead up`, or say where it is with --api URL or BULKHEAD_API
    -- exit status: 3
    ");
}

#[tokio::test]
async fn somebody_else_at_the_address_is_exit_code_3() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4096];
        assert!(client.read(&mut asked).await.unwrap() > 0);
        let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\nhello";
        client.write_all(page.as_bytes()).await.unwrap();
    });
    insta::assert_snapshot!(transcript_with(&address, &["ps"]).await, @r"
    -- stderr
    bulkhead: what answers at http://[api] is not a Bulkhead controller (it answered with status 200, text/html)
      say where the controller is with --api URL or BULKHEAD_API
    -- exit status: 3
    ");
}

#[tokio::test]
async fn drain_logs_and_scale() {
    let surface = Surface::open().await;
    insta::assert_snapshot!(transcript(&surface, &["drain", "web-0"]).await, @"web-0 finishes what it holds and is then replaced");
    insta::assert_snapshot!(transcript(&surface, &["logs", "web-0", "-n", "2"]).await, @r"
    a request
    thread 'main' panicked
    ");
    insta::assert_snapshot!(transcript(&surface, &["scale", "web", "6", "--no-wait"]).await, @"web is to have 6 workers");
    let waited = transcript(&surface, &["scale", "web", "1"]).await;
    assert!(waited.starts_with("web has 1 worker ("), "{waited}");
    assert_eq!(surface.orders(), ["drain web-0", "scale web to 6", "scale web to 1"]);
}

#[tokio::test]
async fn a_scale_that_is_not_reached_says_how_far_it_came() {
    let surface = Surface::open().await;
    // With 4 workers the canned ones are in all phases, for ever.
    insta::assert_snapshot!(transcript(&surface, &["scale", "web", "4", "--timeout", "0"]).await, @r"
    -- stderr
    bulkhead: web is not yet where it is to be after 0.0 ms: 1 ready, 1 starting, 1 draining
      it keeps trying; `bulkhead ps` and `bulkhead incidents` say more
    -- exit status: 1
    ");
}

#[tokio::test]
async fn incidents_are_listed_and_told() {
    let surface = Surface::open().await;
    insta::assert_snapshot!(transcript(&surface, &["incidents"]).await, @r"
    INCIDENT  AGO  CAUSE          REPLACED IN  WHAT IT HELD
    web-3.6   3 h  SIGKILL             231 ms  GET /work?ms=20: to web-1, +3.2 ms (and 2 more)
    web-0.1   3 h  out of memory            -  nothing
    ");
    insta::assert_snapshot!(transcript(&surface, &["incidents", "-n", "1"]).await, @r"
    INCIDENT  AGO  CAUSE    REPLACED IN  WHAT IT HELD
    web-3.6   3 h  SIGKILL       231 ms  GET /work?ms=20: to web-1, +3.2 ms (and 2 more)
    and 1 more: -n 2
    ");
    insta::assert_snapshot!(transcript(&surface, &["incidents", "web-3.6"]).await, @r"
    web-3.6: worker web-3 of pool web died

    When      [time] (3 h ago)
    Cause     killed by a signal (SIGKILL)
    Where     pid 4714
    Siblings  3 other workers of the pool lived on, 0 requests failed
    Again     kill -9 4714

    What it held
      GET /work?ms=20
        redelivered to web-1; the client waited longer by 3.2 ms
      POST /body
        answered 502 by the door: POST may not run twice
      GET /stream
        its connection was closed: its answer had begun

    How long it took
      detected       0.4 ms  after the death
      redelivered    1.1 ms  after it was detected
      spawned        2.0 ms  after it was detected
      ready          231 ms  after it was detected

    The last that it wrote
      | listening
      | \u{1b}[31mred\u{1b}[0m
    ");
    insta::assert_snapshot!(transcript(&surface, &["incidents", "web-0.1"]).await, @r"
    web-0.1: worker web-0 of pool web died

    When      [time] (3 h ago)
    Cause     out of memory: it wanted more than its limit (64 MiB)
    Memory    64MiB at most
    Where     pid 4711
    Siblings  1 other worker of the pool lived on
    Next      its replacement does not run yet: Unschedulable: no node has as much

    What it held
      nothing: no client noticed

    How long it took
      detected            -
      redelivered         -
      spawned             -
      ready               -

    The last that it wrote
      nothing
    ");
}

#[tokio::test]
async fn help_shows_the_commands_and_the_exit_codes() {
    insta::assert_snapshot!(transcript_with("unused:1", &["--help"]).await, @r"
    A prefork server whose processes are containers

    Usage: bulkhead <COMMAND>

    Commands:
      up           Run door, workers and master on this machine
      ps           List workers, and what each holds at this moment
      top          Watch pools, workers and deaths live, and kill what you see
      kill         Send a signal to a worker and see what becomes of what it held
      storm        Load a server, kill its workers under it, and say who noticed
      incidents    List workers' deaths, or tell one of them in detail
      events       Tell what happened: workers that come and go, deaths, orders, troubles
      logs         Show what a worker wrote to its standard output and error
      drain        Let a worker finish what it holds, then replace it
      scale        Change how many workers a pool has
      check        Check a spec file and say what it means
      schema       Print the JSON Schema of the spec file
      image        Pack this program into an image for its workers, and print the image's name
      lab          Measure what the ways to serve many clients cost and survive
      controller   Spawn, watch and replace workers for a door that runs elsewhere (a part of `up`)
      door         Accept clients and hand their requests to workers (a part of `up`)
      worker       Serve as one worker of a pool (started by a backend, seldom by hand)
      completions  Print a completion script for a shell

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Examples:
      bulkhead up                          door, workers and master, on this machine
      bulkhead up --backend docker         each worker in a container of its own
      bulkhead ps                          who is there, and what each holds
      bulkhead top                         the same, live, with a key for every harm
      bulkhead kill random                 what one tries first
      bulkhead incidents                   what became of it
      bulkhead storm                       load, and a kill every second: who notices?
      bulkhead lab                         what processes, threads and event loops cost and survive

    Exit codes:
      0  done
      1  failed, or refused by the controller
      2  the command line or the spec file is wrong
      3  no controller answers
    ");
}
