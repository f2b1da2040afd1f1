//! A Docker engine of a story's own, to be ended and started again without harm to anybody else's.
//!
//! It is a second `dockerd`, with its data, its sockets and its own containerd in a directory of its own, without a
//! bridge and without firewall rules. It has a network namespace of its own, too: an engine that is to have no bridge
//! takes away the one that it finds, which would be another engine's. It runs with `--live-restore`: without that, an
//! engine that is stopped in order takes its containers with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::backend::docker;
use super::eventually;
use super::stack::pids_with;

/// An engine, and what it keeps. Dropping it ends it.
pub struct OwnEngine {
    dir: TempDir,
    daemon: Option<Child>,
}

impl OwnEngine {
    /// Why there can be none here.
    pub fn is_missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("only root can run an engine".to_owned());
        }
        let missing = |program: &str| {
            let version = Command::new(program).arg("--version").output();
            version.err().map(|error| format!("{program}: {error}"))
        };
        missing("dockerd").or_else(|| missing("unshare"))
    }

    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("bulkhead-engine-").tempdir_in("/tmp").unwrap();
        std::fs::write(dir.path().join("daemon.json"), "{}").unwrap();
        let mut engine = Self { dir, daemon: None };
        engine.start_again();
        engine
    }

    /// As in `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("engine.sock").display())
    }

    /// Starts the daemon (again), and waits until it answers.
    pub fn start_again(&mut self) {
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        let daemon = Command::new("unshare")
            .args(["--net", "dockerd"])
            .arg("--config-file")
            .arg(self.path("daemon.json"))
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .args(["-H", &self.host()])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        eventually("the engine answers", || docker(&["-H", &self.host(), "version"]).map_err(|_| self.log()));
    }

    /// Ends the daemon in order.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Ends it without a chance to do anything about it, its containerd likewise.
    pub fn kill(&mut self) {
        let containerd = std::fs::read_to_string(self.path("exec/containerd/containerd.pid")).unwrap();
        self.end(Signal::KILL);
        let containerd = Pid::from_raw(containerd.trim().parse().unwrap()).unwrap();
        // It may have gone with its daemon. The next one would take one that is on its way out for alive.
        let _ = kill_process(containerd, Signal::KILL);
        let path = format!("/proc/{}/exe", containerd.as_raw_nonzero());
        eventually("its containerd is gone", || if Path::new(&path).exists() { Err(&path) } else { Ok(()) });
        // Where nobody reaps it, its number would pass for a containerd that runs.
        let _ = std::fs::remove_file(self.path("exec/containerd/containerd.pid"));
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            kill_process(Pid::from_child(&daemon), signal).unwrap();
            daemon.wait().unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for OwnEngine {
    /// Ends the daemon, and whatever a story that went wrong has left in it.
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = kill_process(Pid::from_child(daemon), Signal::TERM);
            let _ = daemon.wait();
        }
        let dir = self.dir.path().to_str().unwrap_or("?");
        for (shim, _) in pids_with(dir) {
            for child in children(shim) {
                let _ = kill_process(child, Signal::KILL);
            }
            let _ = kill_process(shim, Signal::KILL);
        }
        // It makes its data a mount of its own, and there is one for each container.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if mount.starts_with(dir) {
                let _ = Command::new("umount").arg(mount).output();
            }
        }
    }
}

fn children(of: Pid) -> Vec<Pid> {
    let tasks =
        std::fs::read_dir(format!("/proc/{}/task", of.as_raw_nonzero())).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let numbers: Vec<_> =
        lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    numbers.iter().filter_map(|number| Pid::from_raw(number.trim().parse().ok()?)).collect()
}
