//! What ten thousand idle keep-alive connections cost.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Sample;
use crate::rig::http::Connection;
use crate::rig::{Backend, Stack};

const IDLE: usize = 10_000;
const ACTIVE: usize = 4;
const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;

pub(crate) fn measure() {
    println!(
        "\nparking: {IDLE} idle keep-alive connections on 4 process workers, {ACTIVE} active clients, GET /work?ms=5"
    );
    let limit = rustix::process::Resource::Nofile;
    let files = rustix::process::getrlimit(limit).maximum;
    rustix::process::setrlimit(limit, rustix::process::Rlimit { current: files, maximum: files }).unwrap();
    if files.is_some_and(|files| files < IDLE as u64 + 500) {
        return println!("  not measured: the limit of open files is {files:?}");
    }
    let clients = format!("clients: {{ connections: {} }}\ntimeouts: {{ keep_alive: 10m }}", IDLE + 100);
    let stack = Stack::web(Backend::Process, 4, &clients);
    stack.ready("web", 4);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let door = stack.door_pid().as_raw_nonzero().get();
    p99(&stack);
    without.extend((0..ROUNDS).map(|_| p99(&stack)));
    let before = resident_kib(door);
    let mut idle: Vec<_> = (0..IDLE).map(|_| stack.connect()).collect();
    for connection in &mut idle {
        assert_eq!(connection.get("/work?ms=0").status, 200);
    }
    let after = resident_kib(door);
    let held: usize = stack.api().workers().iter().map(|it| it.holding.len()).sum();
    with.extend((0..ROUNDS).map(|_| p99(&stack)));
    println!("  workers held by idle connections        {held}");
    println!("  p99 without them, ms                    {}", Sample::of(without.clone()));
    println!("  p99 beside them, ms                     {}", Sample::of(with.clone()));
    println!(
        "  ratio of the medians                    {:.2}",
        Sample::of(with).median() / Sample::of(without).median()
    );
    println!("  the door's memory per connection, KiB   {:.2}", (after - before) as f64 / IDLE as f64);
    drop(idle);
    stack.down();
}

/// The 99th percentile, in milliseconds, of a closed loop of active clients.
fn p99(stack: &Stack) -> f64 {
    let address = stack.address("web");
    let clients: Vec<_> = (0..ACTIVE)
        .map(|_| {
            std::thread::spawn(move || {
                let mut latencies = Histogram::<u64>::new(3).unwrap();
                let mut connection = Connection::to(address);
                let start = Instant::now();
                while start.elapsed() < ROUND {
                    let asked = Instant::now();
                    assert_eq!(connection.get("/work?ms=5").status, 200);
                    latencies.record(asked.elapsed().as_micros().try_into().unwrap()).unwrap();
                }
                latencies
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3).unwrap();
    for client in clients {
        all.add(client.join().unwrap()).unwrap();
    }
    all.value_at_quantile(0.99) as f64 / 1000.0
}

fn resident_kib(pid: i32) -> i64 {
    super::memory::status(pid, "VmRSS")
}
