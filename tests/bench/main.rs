//! The numbers that `PROMISES.md` states, measured and printed beside their peers in the same run.
//!
//! ```sh
//! cargo bench -p controller --bench numbers                 # all of them, about twenty minutes
//! cargo bench -p controller --bench numbers -- dispatch     # one of: dispatch loss tunnel parking kubernetes service memory
//! ```
//!
//! Nothing here passes or fails: machines are shared and noisy, so a figure is printed as the median of several
//! rounds with its range, and what is compared is measured in turn, round by round, on the same machine in the same
//! minute. What a measurement needs and does not find (`wrk`, `apache2`, a Docker engine) it names, and is left out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that fails ends there"
)]

mod dispatch;
mod kubernetes;
mod loss;
mod memory;
mod parking;
#[path = "../rig/mod.rs"]
mod rig;
mod service;
mod tunnel;

use std::fmt;
use std::process::Command;

use rig::backend::{Availability, Backend};

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|it| it == name);
    println!("machine: {}", machine());
    if wanted("dispatch") {
        dispatch::measure();
    }
    if wanted("loss") {
        loss::measure();
    }
    if wanted("tunnel") {
        tunnel::measure();
    }
    if wanted("parking") {
        parking::measure();
    }
    if wanted("kubernetes") {
        kubernetes::measure();
    }
    if wanted("service") {
        service::measure();
    }
    if wanted("memory") {
        memory::measure();
    }
}

/// The backends that are here; says which are not.
fn backends() -> Vec<Backend> {
    let here = |backend: &Backend| match backend.availability() {
        Availability::Here => true,
        Availability::Missing { why } | Availability::Broken { why } => {
            println!("  not measured on {backend}: {why}");
            false
        }
    };
    [Backend::Process, Backend::Docker].into_iter().filter(here).collect()
}

/// Whether a program is installed; says so when it is not.
fn have(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|it| it.status.success());
    if !found {
        println!("  not measured: {program} is not installed (Debian: apt-get install {program})");
    }
    found
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|it| it.1.to_owned()));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, {}, Linux {}, load {}",
        model.unwrap_or_default(),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    )
}

/// Several measurements of one thing.
struct Sample(Vec<f64>);

impl Sample {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let at = (0..last).find(|&at| (at + 1) as f64 > last as f64 * q + 0.5).unwrap_or(last);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

impl fmt::Display for Sample {
    /// The median, and in brackets from the least to the most.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median() >= 1000.0 { 0 } else { 2 };
        let text = format!(
            "{:.digits$} ({:.digits$} to {:.digits$}, n={})",
            self.median(),
            self.quantile(0.0),
            self.quantile(1.0),
            self.0.len()
        );
        f.pad(&text)
    }
}
