//! What the tunnel link costs beside the fd link, on loopback: requests a second, and latency added to one client's.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::rig::Stack;
use crate::rig::backend::Backend;
use crate::rig::http::Connection;
use crate::{Sample, dispatch, have};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

pub(crate) fn measure() {
    println!(
        "\ntunnel: 4 process workers on loopback, GET /work?ms=0, {ROUNDS} rounds in turn; wrk as in dispatch, \
         and one client with one connection"
    );
    let links = [("fd link", ""), ("tunnel", TUNNEL), ("tunnel with TLS", TLS)];
    let stacks = links.map(|(name, link)| (name, stack(link)));
    let has_wrk = have("wrk");
    let mut rates = [const { Vec::new() }; 3];
    let mut latencies = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (at, (_, stack)) in stacks.iter().enumerate() {
            if has_wrk {
                rates[at].push(dispatch::wrk(&format!("http://{}/work?ms=0", stack.address("web"))));
            }
            latencies[at].push(p50(stack));
        }
    }
    let [fd, ..] = &rates;
    for ((name, _), rate) in stacks.iter().zip(&rates).filter(|_| has_wrk) {
        println!("  {:<40}{}", format!("{name}, requests/s"), Sample::of(rate.clone()));
    }
    for ((name, _), rate) in stacks.iter().zip(&rates).skip(1).filter(|_| has_wrk) {
        let ratio = Sample::of(rate.iter().zip(fd).map(|(a, b)| a / b));
        println!("  {:<40}{ratio}", format!("{name}, ratio to the fd link"));
    }
    let [fd, ..] = &latencies;
    for ((name, _), latency) in stacks.iter().zip(&latencies) {
        println!("  {:<40}{}", format!("{name}, p50 in µs"), Sample::of(latency.clone()));
    }
    for ((name, _), latency) in stacks.iter().zip(&latencies).skip(1) {
        let added = Sample::of(latency.iter().zip(fd).map(|(a, b)| a - b));
        println!("  {:<40}{added}", format!("{name}, added at p50, µs"));
    }
    for (_, stack) in stacks {
        stack.down();
    }
}

const TUNNEL: &str = "link: tunnel\ntunnel: { listen: 127.0.0.1:0 }\n";
const TLS: &str = "link: tunnel\ntunnel: { listen: 127.0.0.1:0, tls: true }\n";

fn stack(link: &str) -> Stack {
    let limits = "worker: { limits: { cpus: none } }";
    let stack = Stack::up_linked(Backend::Process, link, &crate::rig::stack::web(4, limits));
    stack.ready("web", 4);
    stack
}

/// The median, in microseconds, of what one client waits for an answer.
fn p50(stack: &Stack) -> f64 {
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    let mut connection = Connection::to(stack.address("web"));
    let end = Instant::now() + ROUND;
    while Instant::now() < end {
        let asked = Instant::now();
        assert_eq!(connection.get("/work?ms=0").status, 200);
        latencies.record(u64::try_from(asked.elapsed().as_nanos()).unwrap()).unwrap();
    }
    latencies.value_at_quantile(0.5) as f64 / 1e3
}
