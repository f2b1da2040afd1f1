//! Scale: more and more connections at a time, until something stops it.
//!
//! A crowd in a process of its own ([`crate::load::crowd`]) opens connections one after another, each answered
//! once before the next one comes, and holds them: so it is seen what beginning with a client takes. Then all of them are at work at the same time. The ladder
//! goes from 10 to 10,000 and beyond, for each model as far as it gets: a step ends where a client is not answered, and
//! why is told in the words in which the system was refused. Where it was the lab's own limits that refused, set so that the
//! machine survives this, that is told, and says nothing of the machine ([`stop`]). A model's ladder is also left where the next step would take
//! too long, which is this experiment's reason and is told as such.
//!
//! What stops it on a large machine is far up, and differs from machine to machine. So there is a second part, in which
//! the limits are set low, and each model runs into the one that is meant for it: of processes and threads, or of open files.
//!
//! Memory is told as processes show it (PSS) and as the kernel charges it to the control group, in which is what it holds
//! for them itself: stacks of threads, page tables, socket buffers.
//!
//! Expected: a thread takes tens of KiB and some ten microseconds, a process some hundred KiB and most of a millisecond; children
//! that were started in advance cost the same memory, and the time before. Event workers take a few KiB. All carry a
//! thousand; ten thousand threads are easy, ten thousand processes need gigabytes. With everybody at work
//! the p99 grows with the number, whatever the model: there are only so many cores.

mod outcome;
mod stop;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;
use serde::Serialize;

use self::stop::{By, Caps, Stop, by};
use super::{Bench, Experiment};
use crate::compartment::Limits;
use crate::findings::{Outcome, Size};
use crate::load::crowd::{Crowd, MOST, Opened, Worked, raise_open_files};
use crate::servers::Model;
use crate::systems::{Backend, Running, Shape, System, Usage};

pub(super) const QUESTION: &str =
    "How many connections at a time does each model carry, at what price, and what stops it?";
pub(super) const METHOD: &str = "Clients in a process of their own connect one after another, each once the one before has been answered, and hold on; \
     then all ask in a closed loop at the same time. Every step has a server of its own. Open: from connecting to the first answer. \
     Switches: context switches of the server for each answer. Each figure is a median over rounds, and of the highest steps there are fewer.";

/// Those that show what there is to see, where time is short.
const FEW: [System; 5] = [
    System::Model(Model::ProcessPerConnection),
    System::Model(Model::Prefork),
    System::Model(Model::ThreadPerConnection),
    System::Model(Model::EventWorkers),
    System::Bulkhead(Backend::Process),
];

/// Those that are run into limits that are set low.
const STOPPED: [System; 3] = [
    System::Model(Model::ProcessPerConnection),
    System::Model(Model::ThreadPerConnection),
    System::Model(Model::EventWorkers),
];

/// A client who is not answered for so long is not answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far, how often, and how long.
#[derive(Debug, Clone, Copy)]
struct Plan {
    steps: &'static [usize],
    rounds: usize,
    /// Steps above this are taken in fewer rounds, because they take long.
    low_up_to: usize,
    /// In how many.
    rounds_of_high: usize,
    /// For how long all are at work.
    work: Duration,
    /// How long opening the connections of one step may take.
    budget: Duration,
    limits: Limits,
}

/// One step of a ladder.
#[derive(Debug, Clone, Serialize)]
struct Step {
    system: System,
    connections: usize,
    /// Until the system was up, with the workers that it has in advance, in ms.
    started_ms: f64,
    opened: Opened,
    usage: Usage,
    charged_kib: Option<f64>,
    worked: Worked,
    /// Of the server, for each answer.
    switches_each: f64,
    threads: Option<Threads>,
    stop: Option<Stop>,
}

impl Step {
    /// Of a system that could not even be started.
    fn without_start(system: System, connections: usize, stop: Stop) -> Self {
        Self {
            system,
            connections,
            started_ms: 0.0,
            opened: Opened::default(),
            usage: Usage::default(),
            charged_kib: None,
            worked: Worked::default(),
            switches_each: 0.0,
            threads: None,
            stop: Some(stop),
        }
    }
}

/// The threads of a process, counted three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Threads {
    /// By the server itself.
    own: usize,
    /// Lines that `ps huH p PID` writes; `None` where it is not installed.
    ps: Option<usize>,
    /// Entries in the kernel's list, `/proc/PID/task`.
    kernel: usize,
}

/// A model in front of a limit that is set low.
#[derive(Debug, Clone, Serialize)]
struct Stopped {
    system: System,
    limit: String,
    asked: usize,
    answered: usize,
    words: Option<String>,
}

fn plan(size: Size) -> Plan {
    let roomy = Limits { memory: half_of_memory(), pids: most_processes() };
    match size {
        Size::Smallest => Plan {
            steps: &[4, 32],
            rounds: 1,
            low_up_to: 32,
            rounds_of_high: 1,
            work: Duration::from_millis(200),
            budget: Duration::from_secs(60),
            limits: roomy,
        },
        Size::Quick => Plan {
            steps: &[10, 100, 1000],
            rounds: 1,
            low_up_to: 100,
            rounds_of_high: 1,
            work: Duration::from_millis(250),
            budget: Duration::from_secs(2),
            limits: roomy,
        },
        Size::Full => Plan {
            steps: &[10, 100, 1000, 3000, 10_000, 20_000],
            rounds: 3,
            low_up_to: 1000,
            rounds_of_high: 2,
            work: Duration::from_secs(1),
            budget: Duration::from_secs(30),
            limits: roomy,
        },
    }
}

/// In bytes: the other half is everybody else's.
fn half_of_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok());
    available.map_or(1 << 30, |kib| kib * 1024 / 2)
}

/// Two thirds of what the kernel has room for.
fn most_processes() -> u32 {
    let read = |path: &str| {
        std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(4096)
    };
    read("/proc/sys/kernel/pid_max").min(read("/proc/sys/kernel/threads-max")) / 3 * 2
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let plan = plan(bench.size);
    let files = raise_open_files();
    let wanted: &[System] = if bench.size == Size::Full { &super::ONE_OF_EACH_COST } else { &FEW };
    let (systems, mut notes) = super::here(wanted, bench);
    let why = match bench.size {
        Size::Full => super::WHY_ONE_OF_EACH,
        _ => "where time is short those are taken that show what there is to see",
    };
    notes.extend(super::left_out(wanted, why));
    let caps = Caps::of(plan.limits);
    let progress =
        bench.progress(Experiment::Scale, plan.rounds * systems.len() * plan.steps.len() + STOPPED.len());
    let mut steps: Vec<Step> = Vec::new();
    for round in 0..plan.rounds {
        let mut ended: Vec<System> = Vec::new();
        let high = round < plan.rounds_of_high;
        for &connections in plan.steps.iter().filter(|it| high || **it <= plan.low_up_to) {
            for &system in &systems {
                progress.doing(&format!("{system}, {connections} connections"));
                progress.step();
                if ended.contains(&system) {
                    continue;
                }
                if let Some(stop) = caps.forbid(system, connections) {
                    if round == 0 {
                        steps.push(Step::without_start(system, connections, stop));
                    }
                    ended.push(system);
                    continue;
                }
                if let Some(why) = too_long(&steps, system, connections, plan.budget) {
                    if round == 0 {
                        notes.push(why);
                    }
                    ended.push(system);
                    continue;
                }
                match step(system, connections, &plan, bench) {
                    Ok(step) => {
                        if step.stop.is_some() {
                            ended.push(system);
                        }
                        steps.push(step);
                    }
                    // It costs this ladder's end, and not what is known of the others.
                    Err(error) => {
                        notes.push(format!("{system}, {connections} connections: not measured: {error:#}"));
                        ended.push(system);
                    }
                }
            }
        }
    }
    let mut stopped = Vec::new();
    for system in STOPPED {
        progress.doing(&format!("{system}, with low limits"));
        match run_into_limit(system, bench) {
            Ok(Ok(it)) => stopped.push(it),
            Ok(Err(why)) => notes.push(why),
            Err(error) => notes.push(format!("{system} was not run into a limit: {error:#}")),
        }
        progress.step();
    }
    notes.push(format!(
        "a process may have {files} files open here; the system's limits in the ladder are {} processes and threads and {} MiB",
        plan.limits.pids,
        plan.limits.memory >> 20
    ));
    Ok(outcome::of(&systems, &steps, &stopped, notes))
}

/// Why this step is not taken: it would take longer than it may, as the one before tells.
fn too_long(steps: &[Step], system: System, connections: usize, budget: Duration) -> Option<String> {
    let before = steps
        .iter()
        .filter(|it| it.system == system && it.connections < connections)
        .max_by_key(|it| it.connections)?;
    // Where workers are started in advance they are as many as the connections.
    let workers_ms = if workers_for(system, 1) == 1 { before.started_ms } else { 0.0 };
    let each_ms = (before.opened.took_ms + workers_ms) / before.connections.max(1) as f64;
    let estimate = each_ms * connections as f64 / 1e3;
    (estimate > budget.as_secs_f64()).then(|| {
        format!(
            "{system}: no step to {connections} connections, which would take some {estimate:.0} s to open; \
             this experiment gives it {} s",
            budget.as_secs_f64()
        )
    })
}

/// As many workers as connections, where workers are started in advance and belong to a connection.
fn workers_for(system: System, connections: usize) -> usize {
    const OTHERWISE: usize = 8;
    match system {
        System::Model(Model::Prefork | Model::ThreadPool | Model::Hybrid) => connections,
        _ => OTHERWISE,
    }
}

fn step(system: System, connections: usize, plan: &Plan, bench: &Bench) -> anyhow::Result<Step> {
    let begun = Instant::now();
    let shape = Shape { limits: plan.limits, ..Shape::of(workers_for(system, connections)) };
    // A system that has no room for its workers has come to its end, and this experiment has not.
    let running = match bench.start(system, &shape) {
        Ok(running) => running,
        Err(error) => {
            let stop = Stop { by: By::Machine, words: format!("{error:#}") };
            return Ok(Step::without_start(system, connections, stop));
        }
    };
    if let Err(error) = await_workers(&running, system, connections) {
        let stop = Stop { by: by(&running, plan.limits), words: format!("{error:#}") };
        return Ok(Step::without_start(system, connections, stop));
    }
    let started_ms = begun.elapsed().as_secs_f64() * 1e3;
    let mut crowds = Vec::new();
    let mut opened = Opened::default();
    for nth in 0..connections.div_ceil(MOST) {
        let mut crowd = Crowd::start(running.address, u8::try_from(nth).unwrap_or(u8::MAX))?;
        let more = crowd.queue((connections - opened.answered).min(MOST), PATIENCE)?;
        crowds.push(crowd);
        opened = Opened {
            answered: opened.answered + more.answered,
            took_ms: opened.took_ms + more.took_ms,
            // Of several crowds those of the slowest: what they are of all together is not known, and is no more.
            median_ms: opened.median_ms.max(more.median_ms),
            p99_ms: opened.p99_ms.max(more.p99_ms),
            stopped: more.stopped,
        };
        if opened.stopped.is_some() {
            break;
        }
    }
    let stop = opened
        .stopped
        .as_deref()
        .map(|said| Stop { by: by(&running, plan.limits), words: words(&running, said) });
    let mut usage = running.usage();
    let mut charged_kib = running.compartment.charged().map(|bytes| bytes as f64 / 1024.0);
    if usage.processes == 0 {
        // It has died, and what is still charged to its compartment is no connection's.
        (usage.pss_kib, charged_kib) = (None, None);
    }
    let threads = match system {
        System::Model(Model::ThreadPerConnection) if stop.is_none() => Some(count_threads(&running)?),
        _ => None,
    };
    let worked = Crowd::work(&mut crowds, plan.work)?;
    let after = running.usage().switches;
    let switches = (after.voluntary + after.involuntary)
        .saturating_sub(usage.switches.voluntary + usage.switches.involuntary);
    let switches_each = switches as f64 / worked.answered.max(1) as f64;
    Ok(Step {
        system,
        connections,
        started_ms,
        opened,
        usage,
        charged_kib,
        worked,
        switches_each,
        threads,
        stop,
    })
}

/// Waits until all workers are there that a system has in advance, so that it is not they who are waited for later.
fn await_workers(running: &Running, system: System, connections: usize) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let there = match system {
            System::Model(Model::Prefork) => running.members().len().saturating_sub(1),
            System::Model(Model::ThreadPool | Model::Hybrid) => running.usage().threads.saturating_sub(1),
            _ => return Ok(()),
        };
        if there >= connections {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("of {connections} workers {there} are there after 120 s; it said {}", running.last_words());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Why a client was not answered: what the system itself was told, or what the kernel did to it, or what the client saw.
fn words(running: &Running, client: &str) -> String {
    /// A client that is turned away may know it before the system has said why.
    const SAYS_WHY_WITHIN: Duration = Duration::from_secs(1);
    let asked = Instant::now();
    while !running.has_spoken() && asked.elapsed() < SAYS_WHY_WITHIN {
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = running.last_words();
    // Of several lines the one with the kernel's own words; a runtime says more behind it.
    let last = said.lines().rfind(|line| line.contains("os error")).or_else(|| said.lines().next_back());
    match (last, running.compartment.killed_for_memory()) {
        (_, Some(killed @ 1..)) => format!("the kernel killed {killed} of its processes: no memory left"),
        (Some(last), _) if last != "nothing" => last.to_owned(),
        _ => format!("client: {client}"),
    }
}

/// While a client asks for the server's own count, its thread is among those that are counted.
fn count_threads(running: &Running) -> anyhow::Result<Threads> {
    let mut stream = TcpStream::connect(running.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /threads HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).context("the server does not tell its threads")?;
    let text = String::from_utf8_lossy(&answer[..read]);
    let body = text.rsplit("\r\n").next().unwrap_or_default();
    let own = body.trim().parse().with_context(|| format!("{text:?} is no number of threads"))?;
    Ok(Threads { own, ps: ps(running.leader), kernel: kernel(running.leader) })
}

fn ps(pid: Pid) -> Option<usize> {
    let output = Command::new("ps").args(["huH", "p", &pid.as_raw_nonzero().to_string()]).output().ok()?;
    Some(output.stdout.iter().filter(|byte| **byte == b'\n').count())
}

fn kernel(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).map_or(0, Iterator::count)
}

/// Lets a model run into a limit that is set low. The inner error says why that is not done here.
fn run_into_limit(system: System, bench: &Bench) -> anyhow::Result<Result<Stopped, String>> {
    const LOW: u32 = 64;
    const ASKED: usize = 100;
    let mut shape = Shape::of(1);
    let limit = match system {
        System::Model(Model::EventWorkers) => {
            // Of the workers each has its own.
            shape.open_files = Some(u64::from(LOW) / 2);
            format!("{} open files in each process", LOW / 2)
        }
        _ => {
            shape.limits.pids = LOW;
            format!("{LOW} processes and threads")
        }
    };
    let running = bench.start(system, &shape)?;
    if shape.limits.pids == LOW && !running.compartment.caps_processes() {
        return Ok(Err(format!(
            "{system} was not run into a limit of processes: this user may set none; root may"
        )));
    }
    let mut crowd = Crowd::start(running.address, 0)?;
    let opened = crowd.queue(ASKED, bench.size.pick(PATIENCE, Duration::from_secs(1), PATIENCE))?;
    let words = opened.stopped.as_deref().map(|said| words(&running, said));
    Ok(Ok(Stopped { system, limit, asked: ASKED, answered: opened.answered, words }))
}
