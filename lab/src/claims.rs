//! The claims that the lab puts to the test, as they are usually made.

/// One claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Counted from 1.
    pub number: u8,
    /// What is said.
    pub text: &'static str,
    /// The experiments that answer it, each a part of it.
    pub experiments: &'static [&'static str],
}

/// All of them, in order.
pub const CLAIMS: [Claim; 14] = [
    claim(
        1,
        "With a process for each client, blocking calls do no harm, and a failing process takes only its own client along.",
        &["isolation", "throughput"],
    ),
    claim(
        2,
        "Processes have nothing in common, so whatever they tell each other costs effort and time.",
        &["talk"],
    ),
    claim(3, "Workers that were started in advance and wait for clients are wasted resources.", &["idle"]),
    claim(
        4,
        "Many workers may wait on one listening socket, each taking one connection at a time; a process for each connection instead changes how fast it is, not how it works.",
        &["throughput", "scale"],
    ),
    claim(
        5,
        "A thread that blocks blocks only itself, and `ps huH p PID | wc -l` counts the threads of a process.",
        &["scale", "preemption"],
    ),
    claim(
        6,
        "The system spreads threads over the cores, and one machine has room for many more threads than processes: 10,000 threads are easy, 10,000 processes are not.",
        &["scale", "throughput"],
    ),
    claim(7, "Threads isolate nothing: one that crashes can take the whole process along.", &["isolation"]),
    claim(
        8,
        "Of processes with threads in each, a failing one loses only its own threads, and the master starts it again; work for the processor is spread over cores.",
        &["isolation", "throughput", "chaos"],
    ),
    claim(
        9,
        "An event loop in each of several processes under a master is light and survives the death of a process.",
        &["isolation", "scale", "idle", "chaos"],
    ),
    claim(
        10,
        "Under preemption no task can keep the processor: others stay responsive, and a task that misbehaves can be ended.",
        &["preemption"],
    ),
    claim(
        11,
        "What is shared has to be synchronised: memory is the simple case, a database connection or a pool of them the hard one.",
        &["races", "pool"],
    ),
    claim(
        12,
        "Two parties that each hold what the other needs wait for ever; an order among resources, time-outs and detection are the remedies.",
        &["deadlock", "pool"],
    ),
    claim(
        13,
        "Updates of a shared counter without synchronisation come out differently each time, and it does not always show.",
        &["races"],
    ),
    claim(
        14,
        "One global lock prevents such races, and makes threads useless for work on several cores.",
        &["races"],
    ),
];

const fn claim(number: u8, text: &'static str, experiments: &'static [&'static str]) -> Claim {
    Claim { number, text, experiments }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments::Experiment;

    #[test]
    fn claims_are_numbered_in_order_and_each_is_answered_by_an_experiment() {
        for (nth, claim) in CLAIMS.iter().enumerate() {
            assert_eq!(usize::from(claim.number), nth + 1);
            assert!(!claim.experiments.is_empty(), "{}", claim.text);
            for name in claim.experiments {
                assert!(Experiment::ALL.iter().any(|it| it.name() == *name), "{name}");
            }
        }
    }
}
