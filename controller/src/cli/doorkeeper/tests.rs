//! With a door that is a shell, and one that is real.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use rustix::process::kill_process;
use tempfile::TempDir;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A doorway whose door is a shell script. A script cannot listen: where the door is to answer, the test does.
fn doorway(script: &str) -> (TempDir, Doorway) {
    let dir = TempDir::new().unwrap();
    let run_dir = RunDir::at(dir.path().join("run"));
    fs::create_dir_all(run_dir.control_dir()).unwrap();
    let program = dir.path().join("door.sh");
    fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, Doorway { program, run_dir })
}

/// The lines of a file that the script writes, once there are so many.
async fn lines(path: &Path, number: usize) -> Vec<String> {
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= number && text.ends_with('\n') {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(started.elapsed() < DEADLINE, "{} has only {text:?}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn alive(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[tokio::test]
async fn a_door_that_cannot_start_is_told_in_its_own_words() {
    let (_dir, doorway) = doorway(
        "echo some log line >&2; echo 'bulkhead: cannot listen on pool \"web\" at 127.0.0.1:80' >&2; exit 1",
    );
    let mut door = doorway.engage("pools: {}", |_| true, DEADLINE).await.unwrap();
    let error = door.answers().await.unwrap_err().to_string();
    insta::assert_snapshot!(error, @r#"
    the door ended (exit status: 1) before it served
      bulkhead: cannot listen on pool "web" at 127.0.0.1:80
    "#);
}

#[tokio::test]
async fn a_dead_door_is_started_again_and_an_expected_exit_is_not() {
    let (dir, doorway) = doorway("echo $$ >>pids; exec sleep 1000");
    let mut door = doorway.clone().engage("pools: {}", |_| true, DEADLINE).await.unwrap();
    assert!(!door.adopted);
    let _listener = UnixListener::bind(doorway.run_dir.control_socket()).unwrap();
    door.answers().await.unwrap();
    let kept = door.keep();
    let pids = dir.path().join("pids");

    let first = lines(&pids, 1).await[0].clone();
    kill_process(Pid::from_raw(first.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let second = lines(&pids, 2).await[1].clone();
    assert!(alive(&second) && second != first);

    kept.expect_exit();
    kill_process(Pid::from_raw(second.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert!(kept.gone(DEADLINE).await, "it left by itself");
    assert_eq!(lines(&pids, 2).await.len(), 2, "nobody started a third");
}

#[tokio::test]
async fn a_door_that_is_started_again_has_the_spec_that_is_written_by_then() {
    let (dir, doorway) = doorway("cat run/control/spec.yaml >>specs; echo $$ >>pids; exec sleep 1000");
    let kept = doorway.clone().engage("pools: { old: {} }\n", |_| true, DEADLINE).await.unwrap().keep();
    let pids = dir.path().join("pids");
    let first = lines(&pids, 1).await[0].clone();
    kept.remember_for_the_next("pools: { new: {} }\n".to_owned());
    assert_eq!(fs::read_to_string(doorway.spec()).unwrap(), "pools: { old: {} }\n", "it has not changed yet");
    kill_process(Pid::from_raw(first.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    lines(&pids, 2).await;
    assert_eq!(lines(&dir.path().join("specs"), 2).await, ["pools: { old: {} }", "pools: { new: {} }"]);
    kept.expect_exit();
    kept.kill();
    assert!(kept.gone(DEADLINE).await);
}

#[tokio::test]
async fn a_door_that_hangs_is_started_again_when_it_is_to_be_replaced() {
    let (dir, doorway) = doorway("echo $$ >>pids; exec sleep 1000");
    let kept = doorway.engage("pools: {}", |_| true, DEADLINE).await.unwrap().keep();
    let pids = dir.path().join("pids");
    let first = lines(&pids, 1).await[0].clone();
    kill_process(Pid::from_raw(first.parse().unwrap()).unwrap(), Signal::STOP).unwrap();
    kept.replace();
    let second = lines(&pids, 2).await[1].clone();
    assert!(alive(&second) && !alive(&first));
    kept.expect_exit();
    kept.kill();
    assert!(kept.gone(DEADLINE).await);
    assert_eq!(lines(&pids, 2).await.len(), 2, "one replacement, and no more");
}

#[tokio::test]
async fn the_door_gets_nothing_of_our_environment_and_its_log_is_bounded() {
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")), "there is something to hide");
    let (dir, doorway) = doorway(
        "env >environment; yes 'a line of a log' | head -c 3000000 >&2; echo $$ >>pids; exec sleep 1000",
    );
    let door = doorway.clone().engage("pools: {}", |_| true, DEADLINE).await.unwrap();
    lines(&dir.path().join("pids"), 1).await;
    let kept = door.keep();
    let started = Instant::now();
    while fs::metadata(doorway.log()).unwrap().len() > bounded::KEPT {
        assert!(started.elapsed() < DEADLINE, "its log is not cut back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kept.expect_exit();
    kept.kill();
    assert!(kept.gone(DEADLINE).await);
    let environment = lines(&dir.path().join("environment"), 1).await;
    // A shell adds these by itself.
    let own = ["PWD=", "OLDPWD=", "SHLVL=", "_=", "PATH="];
    let ours = |line: &&String| !own.iter().any(|name| line.starts_with(name)) && line.contains('=');
    let passed_on = |line: &String| PASSED_ON.iter().any(|name| line.starts_with(name));
    let leaked: Vec<_> = environment.iter().filter(ours).filter(|line| !passed_on(line)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[tokio::test]
async fn a_door_that_does_not_go_is_cut_off() {
    let (dir, doorway) = doorway("trap '' TERM; echo $$ >>pids; while :; do sleep 0.1; done");
    let door = doorway.engage("pools: {}", |_| true, DEADLINE).await.unwrap();
    let pid = lines(&dir.path().join("pids"), 1).await[0].clone();
    door.dismiss(Duration::from_millis(50)).await;
    assert!(!alive(&pid));
}

/// Answers whoever asks next with a line.
fn answers_once(listener: &UnixListener, line: &str) -> std::thread::JoinHandle<io::Result<()>> {
    let (listener, line) = (listener.try_clone().unwrap(), format!("{line}\n"));
    std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let mut asked = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(&stream), &mut asked)?;
        io::Write::write_all(&mut &stream, line.as_bytes())
    })
}

#[tokio::test]
async fn a_door_that_is_asked_whether_it_lives_has_to_say_so() {
    let (_dir, doorway) = doorway("");
    let probed = || probe(&doorway.run_dir, Wanted::SignOfLife, Duration::from_millis(100));
    assert!(probed().await.unwrap_err().to_string().contains("no door listens"));
    let listener = UnixListener::bind(doorway.run_dir.control_socket()).unwrap();
    let hung = probed().await.unwrap_err().to_string();
    assert!(hung.contains("no sign of life"), "its kernel accepts: {hung}");
    // Who has come before is heard, too late, before who comes now.
    drop(listener.accept().unwrap());
    let answering = answers_once(&listener, r#"{"version":1}"#);
    assert!(probe(&doorway.run_dir, Wanted::SignOfLife, DEADLINE).await.is_ok());
    answering.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_door_is_staffed_when_each_of_its_pools_has_a_worker_or_when_it_has_been_there_for_long() {
    let (_dir, doorway) = doorway("");
    let listener = UnixListener::bind(doorway.run_dir.control_socket()).unwrap();
    let probed = async |linked: &[&str], or_there_for| {
        let welcome = server::control::Notice::Welcome {
            version: server::control::VERSION,
            pid: 1,
            pools: ["echo", "web"].map(|pool| (pool.parse().unwrap(), ([0, 0, 0, 0], 80).into())).into(),
            tunnel: None,
            linked: linked.iter().map(|life| life.parse().unwrap()).collect(),
            // Whose lives are over it may know of without ever having had them.
            seen: vec!["echo-0.1".parse().unwrap()],
        };
        let answering = answers_once(&listener, &serde_json::to_string(&welcome).unwrap());
        let outcome = probe(&doorway.run_dir, Wanted::Workers { or_there_for }, DEADLINE).await;
        answering.join().unwrap().unwrap();
        outcome
    };
    let hour = Duration::from_secs(60 * 60);
    let lacking = probed(&["web-0.1"], hour).await.unwrap_err().to_string();
    assert!(lacking.starts_with("pool echo has no worker"), "{lacking}");
    assert!(probed(&["web-0.1", "echo-0.2"], hour).await.is_ok());
    assert!(probed(&[], Duration::ZERO).await.is_ok());
}

#[test]
fn doors_that_die_young_wait_longer_each_time() {
    let waits: Vec<_> = (1..=12).map(|deaths| wait_before(deaths).as_millis()).collect();
    assert_eq!(waits[..4], [0, 100, 200, 400]);
    assert!(waits.is_sorted());
    assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
}
