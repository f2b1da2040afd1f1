//! Which process a client is in, where several are in one.
//!
//! A fault takes along whoever is in the same process. So that this shows, some of the others have to be there, and some
//! elsewhere; the kernel deals clients out as it likes. Where they are is told by the sockets that each process has open,
//! and for the client that does harm by the page that says who serves it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Pid;

use crate::servers::Model;
use crate::systems::{Running, System};

/// Whether clients share a process with some others and not with all.
pub(super) fn is_shared_in(system: System) -> bool {
    matches!(system, System::Model(Model::Hybrid | Model::EventWorkers))
}

/// How many sockets each process has open.
pub(super) fn sockets(running: &Running) -> Vec<(Pid, usize)> {
    let count = |pid: Pid| {
        let links = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
        let links = links.into_iter().flatten().flatten().filter_map(|it| std::fs::read_link(it.path()).ok());
        links.filter(|it| it.to_string_lossy().starts_with("socket:")).count()
    };
    running.compartment.members().into_iter().map(|pid| (pid, count(pid))).collect()
}

/// The processes that have clients: more sockets than `before` at each of several looks, as newcomers come and go.
pub(super) fn found(running: &Running, before: &[(Pid, usize)]) -> Vec<Pid> {
    let looks: Vec<_> = (0..4)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(7));
            sockets(running)
        })
        .collect();
    let of = |look: &[(Pid, usize)], pid: Pid| look.iter().find(|it| it.0 == pid).map_or(0, |it| it.1);
    let has_clients = |pid: &Pid| looks.iter().all(|look| of(look, *pid) > of(before, *pid));
    before.iter().map(|(pid, _)| *pid).filter(has_clients).collect()
}

/// Which process serves this connection, as its page says.
pub(super) fn serves(stream: &mut TcpStream) -> io::Result<Option<Pid>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let (mut answer, mut piece) = (String::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece)?;
        answer += &String::from_utf8_lossy(&piece[..read]);
        let pid = answer.lines().find_map(|line| line.strip_prefix("pid: ")?.parse().ok());
        // What follows the pid is read, too: the connection is to be quiet when the next answer comes.
        if read == 0 || (pid.is_some() && read < piece.len()) {
            return Ok(pid.and_then(Pid::from_raw));
        }
    }
}
