//! `bulkhead top` on a terminal of its own: what it shows, what its keys do, and how it leaves the terminal.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::command_line::transcript_in;
use crate::fake_stream::{End, FakeStream};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal with a `bulkhead top` on it.
struct Terminal {
    child: Child,
    /// Where we type.
    keyboard: File,
    /// The program's side, kept open to ask how it was left.
    line: File,
    /// All that was written to the screen so far.
    screen: watch::Receiver<String>,
    before: String,
}

impl Terminal {
    fn with_top(fake: &FakeStream) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let line = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        tcsetwinsize(&line, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = modes(&line);
        let child = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .arg("top")
            .env_clear()
            .env("BULKHEAD_API", fake.api())
            .env("TERM", "xterm")
            .stdin(line.try_clone().unwrap())
            .stdout(line.try_clone().unwrap())
            .stderr(Stdio::from(line.try_clone().unwrap()))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let keyboard = File::from(ours);
        let (tell, screen) = watch::channel(String::new());
        let mut shown = keyboard.try_clone().unwrap();
        // Ends when the last of the terminal's other side is closed, with the test.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = shown.read(&mut bytes) {
                tell.send_modify(|screen| *screen += &String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { child, keyboard, line, screen, before }
    }

    /// Waits until this was written to the screen.
    async fn shows(&mut self, text: &str) {
        let shown = self.screen.wait_for(|screen| screen.contains(text));
        let seen = tokio::time::timeout(PATIENCE, shown).await.map(|seen| seen.map(drop));
        assert!(matches!(seen, Ok(Ok(()))), "no {text:?} on {}", self.screen.borrow().escape_debug());
    }

    fn types(&self, keys: &str) {
        rustix::io::write(&self.keyboard, keys.as_bytes()).unwrap();
    }

    /// Waits until it has left, and tells its exit code. That the terminal is as it was is asserted on the way.
    async fn left(mut self) -> Option<i32> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it stays").unwrap();
        self.shows("\u{1b}[?1049l").await;
        let screen = self.screen.borrow().clone();
        assert!(screen.rfind("\u{1b}[?25h") > screen.rfind("\u{1b}[?25l"), "the cursor is hidden");
        assert_eq!(modes(&self.line), self.before);
        status.code()
    }
}

/// How the terminal treats what is typed and written.
fn modes(line: impl AsFd) -> String {
    let Termios { input_modes, output_modes, control_modes, local_modes, .. } = tcgetattr(line).unwrap();
    format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
}

#[tokio::test]
async fn it_shows_who_is_there_and_kills_whom_one_chooses() {
    let fake = FakeStream::open().await;
    let mut terminal = Terminal::with_top(&fake);
    terminal.shows("web-0").await;
    terminal.shows("/work?ms=300").await;
    terminal.types("K");
    assert_eq!(tokio::time::timeout(PATIENCE, fake.order()).await.expect("no order"), "SIGKILL to web-0");
    terminal.shows("SIGKILL").await;
    terminal.types("q");
    assert_eq!(terminal.left().await, Some(0));
}

#[tokio::test]
async fn a_terminal_is_given_back_on_sigterm() {
    let fake = FakeStream::open().await;
    let mut terminal = Terminal::with_top(&fake);
    terminal.shows("web-0").await;
    assert_ne!(modes(&terminal.line), terminal.before, "it was never taken");
    let pid = terminal.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(terminal.left().await, Some(0));
}

#[tokio::test]
async fn it_connects_again_by_itself() {
    let fake = FakeStream::open().await;
    fake.lives(1..=1);
    fake.happens(json!({"kind": "pool", "pool": "web", "what": "scaled", "detail": "to-seven-workers"}));
    fake.ends([End::Broken(1)]);
    let mut terminal = Terminal::with_top(&fake);
    terminal.shows("reconnecting").await;
    // The second event comes with the next connection.
    terminal.shows("to-seven-workers").await;
    assert_eq!(fake.asked(), ["?after=0", "? after k3f9x2-1"]);
    terminal.types("\u{3}");
    assert_eq!(terminal.left().await, Some(0));
}

#[tokio::test]
async fn without_a_terminal_it_says_what_there_is_instead() {
    let fake = FakeStream::open().await;
    insta::assert_snapshot!(transcript_in(&fake.api(), &[], &["top"]).await, @r"
    -- stderr
    bulkhead: `top` needs a terminal to draw on and to read keys from
      for a file or a pipe there are `bulkhead ps` (who is there) and `bulkhead events -f` (what happens)
    -- exit status: 1
    ");
}
