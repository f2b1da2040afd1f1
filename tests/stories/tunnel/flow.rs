//! Clients that send and do not read, and a worker that does not either: what that costs the door and others.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::rig::{Backend, PATIENCE, Stack};

/// A client that sends for as long as anybody takes it, and reads nothing.
struct Pusher {
    stream: TcpStream,
    pushed: u64,
}

impl Pusher {
    fn begins(stack: &Stack, target: &str) -> Self {
        let mut stream = TcpStream::connect(stack.address("web")).unwrap();
        // What kernels keep for it is not what is measured.
        sockopt::set_socket_recv_buffer_size(&stream, 32 * 1024).unwrap();
        sockopt::set_socket_send_buffer_size(&stream, 32 * 1024).unwrap();
        write!(stream, "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 256 << 20).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, pushed: 0 }
    }

    /// Sends what goes; whether anything did.
    fn pushes(&mut self) -> bool {
        let before = self.pushed;
        loop {
            match self.stream.write(&[b'x'; 16 * 1024]) {
                Ok(pushed) => self.pushed += pushed as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.pushed > before,
                Err(error) => panic!("after {} bytes: {error}", self.pushed),
            }
        }
    }
}

pub fn clients_that_do_not_read_cost_the_door_a_window_each(backend: Backend) {
    /// Those of each kind.
    const CLIENTS: u64 = 25;
    /// What is under way of a turn in each direction by default: a whole request has to fit, 16 KiB of head and 64 KiB of
    /// body.
    const WINDOW: u64 = 80 * 1024;
    /// What is read from a client at a time.
    const PIECE: u64 = 32 * 1024;
    /// What waits for the network at the most before no more is read for it: twice, while it is written and anew.
    const OUT: u64 = 2 * 512 * 1024;
    /// Tasks, sockets, and what the allocator does not give back.
    const SLACK: u64 = 2 * 1024 * 1024;
    const LOST_AFTER: Duration = Duration::from_secs(1);

    let pool = "size: { workers: 1 }\nworker: { model: { threads: 56 }, limits: { pids: 128, memory: 256MiB } }\n\
                timeouts: { head: 60s, request: 120s }\n";
    let link = backend.link(", heartbeat: 200ms, lost_after: 1s");
    let lines: String = pool.lines().map(|line| format!("  {line}\n")).collect();
    let stack = Stack::up_linked(backend, &link, &format!("web:\n  listen: 127.0.0.1:0\n{lines}"));
    let worker = stack.ready("web", 1)[0].clone();
    for _ in 0..100 {
        assert_eq!(stack.connect().get("/work?ms=0").status, 200);
    }
    let door = stack.door_pid();
    let before = Stack::resident(door);
    // The worker answers these as it reads them, and they do not read that.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Pusher::begins(&stack, "/body")).collect();
    // The worker reads nothing of these.
    clients.extend((0..CLIENTS).map(|_| Pusher::begins(&stack, "/work?ms=18000")));
    // Until nobody takes anything any more, and on for several times as long as a silent worker would be given. Others are
    // served meanwhile, by the same worker.
    let (mut moved, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut others = stack.connect();
    while moved.elapsed() < 3 * LOST_AFTER {
        if clients.iter_mut().filter_map(|client| client.pushes().then_some(())).count() > 0 {
            moved = Instant::now();
        }
        let asked = Instant::now();
        assert_eq!(others.get("/work?ms=1").status, 200);
        slowest = slowest.max(asked.elapsed());
    }
    let grown = Stack::resident(door).saturating_sub(before);
    let pushed = clients.iter().map(|client| client.pushed).sum::<u64>();
    println!(
        "{} clients have sent {} KiB and read nothing, the door has grown by {} KiB; others waited {slowest:?} at the most",
        clients.len(),
        pushed / 1024,
        grown / 1024
    );
    let bound = 2 * CLIENTS * (WINDOW + PIECE) + OUT + SLACK;
    assert!(grown < bound, "the door has grown by {} KiB, the bound is {} KiB", grown / 1024, bound / 1024);
    assert!(slowest < PATIENCE / 20, "somebody else waited for {slowest:?}");
    // All of them are still held by the worker that had them first.
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    assert_eq!(stack.api().worker("web-0").holding.len(), clients.len());
    assert!(stack.api().incidents().is_empty(), "{:#?}", stack.api().incidents());
    drop(clients);
    assert_eq!(others.get("/work?ms=1").status, 200);
    stack.down();
}
