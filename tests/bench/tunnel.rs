//! What the tunnel link costs beside the fd link, on loopback: requests a second, and latency added to one client's. And
//! what it costs that all turns of a worker share a connection, beside a connection for each.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::rig::Stack;
use crate::rig::backend::Backend;
use crate::rig::http::Connection;
use crate::{Sample, dispatch, have};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

const TUNNEL: &str = "link: tunnel\ntunnel: { listen: 127.0.0.1:0 }\n";
const TLS: &str = "link: tunnel\ntunnel: { listen: 127.0.0.1:0, tls: true }\n";
/// Each with a link, and a connection, of its own.
const PROCESSES: (u32, &str) = (4, "worker: { limits: { cpus: none } }");
/// All on the link of one.
const THREADS: (u32, &str) = (1, "worker: { model: { threads: 4 }, limits: { cpus: none } }");

/// One way to reach four who take a turn at a time, and what was measured of it.
struct Way {
    name: &'static str,
    stack: Stack,
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

pub(crate) fn measure() {
    println!(
        "\ntunnel: 4 process workers on loopback, or 1 of 4 threads, GET /work?ms=0, {ROUNDS} rounds in turn; wrk as in \
         dispatch, and one client with one connection"
    );
    let way = |name, link, workers| Way {
        name,
        stack: stack(link, workers),
        rates: Vec::new(),
        latencies: Vec::new(),
    };
    // Each family begins with what its others are compared with.
    let mut families = [
        vec![
            way("fd link", "", PROCESSES),
            way("tunnel", TUNNEL, PROCESSES),
            way("tunnel with TLS", TLS, PROCESSES),
        ],
        vec![way("fd link, threads", "", THREADS), way("tunnel, threads on one connection", TUNNEL, THREADS)],
    ];
    let has_wrk = have("wrk");
    for _ in 0..ROUNDS {
        for way in families.iter_mut().flatten() {
            if has_wrk {
                way.rates.push(dispatch::wrk(&format!("http://{}/work?ms=0", way.stack.address("web"))));
            }
            way.latencies.push(p50(&way.stack));
        }
    }
    for family in &families {
        tell(family);
    }
    families.into_iter().flatten().for_each(|way| drop(way.stack.down()));
}

fn tell(family: &[Way]) {
    let (first, others) = family.split_first().unwrap();
    let line = |what: String, sample: Vec<f64>| println!("  {what:<56}{}", Sample::of(sample));
    let compared = |of: &[f64], with: &[f64], how: fn(f64, f64) -> f64| {
        of.iter().zip(with).map(|(a, b)| how(*a, *b)).collect::<Vec<_>>()
    };
    for way in family.iter().filter(|way| !way.rates.is_empty()) {
        line(format!("{}, requests/s", way.name), way.rates.clone());
    }
    for way in others.iter().filter(|way| !way.rates.is_empty()) {
        let ratio = compared(&way.rates, &first.rates, |a, b| a / b);
        line(format!("{}, ratio to the fd link", way.name), ratio);
    }
    for way in family {
        line(format!("{}, p50 in µs", way.name), way.latencies.clone());
    }
    for way in others {
        let added = compared(&way.latencies, &first.latencies, |a, b| a - b);
        line(format!("{}, added at p50, µs", way.name), added);
    }
}

fn stack(link: &str, (workers, pool): (u32, &str)) -> Stack {
    let stack = Stack::up_linked(Backend::Process, link, &crate::rig::stack::web(workers, pool));
    stack.ready("web", workers as usize);
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
