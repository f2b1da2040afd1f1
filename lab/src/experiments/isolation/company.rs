//! Which process a client is in, where several are in one.
//!
//! A fault takes along whoever is in the same process. So that this shows, some of the others have to be there, and some
//! elsewhere; the kernel deals clients out as it likes. Where they are is told by the sockets that each process has open,
//! and for the client that does harm by the page that says who serves it.

use std::collections::HashSet;
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

/// The processes that have clients.
pub(super) fn found(running: &Running) -> io::Result<Vec<Pid>> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let clients = accepted(&table, running.address.port());
    let has_clients = |pid: &Pid| {
        let links = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
        let links = links.into_iter().flatten().flatten().filter_map(|it| std::fs::read_link(it.path()).ok());
        links.into_iter().any(|link| clients.contains(link.to_string_lossy().as_ref()))
    };
    Ok(running.compartment.members().into_iter().filter(has_clients).collect())
}

/// The sockets behind connections that have come to this port, by the names that descriptors have. One that nobody has
/// taken yet has none.
fn accepted(table: &str, port: u16) -> HashSet<String> {
    const ESTABLISHED: &str = "01";
    let rows = table.lines().skip(1).filter_map(|row| {
        // sl, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode
        let columns: Vec<&str> = row.split_ascii_whitespace().collect();
        let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
        let (_, local) = local.split_once(':')?;
        let is_it = *state == ESTABLISHED && u16::from_str_radix(local, 16).ok()? == port;
        (is_it && *inode != "0").then(|| format!("socket:[{inode}]"))
    });
    rows.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_sockets_those_are_clients_that_are_connected_to_the_port_and_taken() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 20 4 30 10 -1
   2: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 20 4 30 10 -1
   3: 0100007F:1F90 0100007F:C002 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
   4: 0100007F:1F90 0100007F:C003 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
";
        assert_eq!(accepted(table, 8080), HashSet::from(["socket:[101]".to_owned()]));
    }
}
