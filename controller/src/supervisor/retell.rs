//! What an incident says beyond the facts of one death: what it cost the others, and how to see it again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use server::control::{Held, Outcome, Stamp};
use server::identity::{Incarnation, PoolName, WorkerId};

use crate::api::views::MemoryView;
use crate::model::{Cause, Incident, KillReason, Reason, Settled, State, signal_name};

/// Of a worker that died for want of memory.
pub(super) fn memory(incident: &Incident) -> Option<MemoryView> {
    match incident.cause() {
        Reason::Found(Cause::Oom { limit_bytes }) => {
            let peak_bytes = incident.died.as_ref().and_then(|died| died.autopsy.peak_memory_bytes);
            Some(MemoryView { limit_bytes, peak_bytes })
        }
        _ => None,
    }
}

/// When requests of dead workers were answered by the door or cut: of a pool, of one place of it, and, of those that
/// somebody else had held before, of one life. Each is sorted, so what a death is told about takes a few searches,
/// however many deaths there were.
#[derive(Debug, Default)]
pub(super) struct Failures<'a> {
    of_pool: BTreeMap<&'a PoolName, Vec<Stamp>>,
    of_place: BTreeMap<&'a WorkerId, Vec<Stamp>>,
    redelivered: BTreeMap<&'a Incarnation, Vec<Stamp>>,
}

impl<'a> Failures<'a> {
    pub(super) fn of(state: &'a State) -> Self {
        let mut failures = Self::default();
        for incident in state.incidents.iter() {
            failures.add(incident);
        }
        let lists = failures.of_pool.values_mut();
        let lists = lists.chain(failures.of_place.values_mut()).chain(failures.redelivered.values_mut());
        lists.for_each(|list| list.sort_unstable());
        failures
    }

    fn add(&mut self, incident: &'a Incident) {
        let failed =
            |settled: &Settled| matches!(settled.outcome, Outcome::Answered { .. } | Outcome::Closed { .. });
        let failed: BTreeMap<u64, Stamp> = incident
            .settled
            .iter()
            .filter(|(_, settled)| failed(settled))
            .map(|(turn, settled)| (*turn, settled.at))
            .collect();
        if failed.is_empty() {
            return;
        }
        self.of_pool.entry(&incident.life.worker.pool).or_default().extend(failed.values());
        self.of_place.entry(&incident.life.worker).or_default().extend(failed.values());
        let held = incident.left.as_ref().map_or(&[][..], |left| &left.held);
        // Somebody else had held it before.
        let redelivered = held.iter().filter(|held| held.delivery > 1);
        let redelivered = redelivered.filter_map(|held| failed.get(&held.turn));
        self.redelivered.entry(&incident.life).or_default().extend(redelivered);
    }

    /// How many requests of other workers of the pool were answered by the door or cut because *their* worker had died,
    /// between the detection of this death and the readiness of its replacement. Isolation is that this is 0 when
    /// nobody else was killed. A request that this worker had held, and that killed the next one as well, is not
    /// another's.
    pub(super) fn of_siblings(&self, incident: &Incident) -> Option<u64> {
        let within = (incident.detected()?, incident.ready?);
        let ours = &incident.life.worker;
        let failed = count(self.of_pool.get(&ours.pool), within)
            .saturating_sub(count(self.of_place.get(ours), within));
        let passed_on: BTreeSet<&Incarnation> = incident
            .settled
            .values()
            .filter_map(|settled| match &settled.outcome {
                Outcome::Redelivered { to, .. } if to.worker.pool == ours.pool && to.worker != *ours => {
                    Some(to)
                }
                _ => None,
            })
            .collect();
        let our_own: usize = passed_on.into_iter().map(|to| count(self.redelivered.get(to), within)).sum();
        Some(failed.saturating_sub(our_own) as u64)
    }
}

/// How many of them there are between these two, both of them included.
fn count(sorted: Option<&Vec<Stamp>>, (from, until): (Stamp, Stamp)) -> usize {
    let Some(sorted) = sorted else { return 0 };
    let before = sorted.partition_point(|at| *at < from);
    sorted.partition_point(|at| *at <= until).saturating_sub(before)
}

/// The command that does the same again. `None` where we cannot know: it went of its own accord, or nobody saw how.
pub(super) fn reproduce(incident: &Incident, listen: Option<SocketAddr>) -> Option<String> {
    let held = incident.left.as_ref().map_or(&[][..], |left| &left.held);
    // Only where there is but one request can we tell which one it was.
    let by_request = || match held {
        [Held { request, .. }] => ask(request, listen?),
        _ => None,
    };
    match incident.cause() {
        Reason::Asked(signal) => Some(by_us(incident, signal)),
        Reason::Killed(KillReason::RequestTimeout { request }) => ask(&request, listen?),
        Reason::Killed(KillReason::DrainTimeout) => Some(format!("bulkhead drain {}", incident.life.worker)),
        Reason::Killed(KillReason::StartTimeout { .. } | KillReason::Protocol { .. }) => None,
        Reason::Found(Cause::Signal(signal)) if is_a_fault(signal) => {
            Some(by_request().unwrap_or_else(|| by_us(incident, signal)))
        }
        // Whoever sent it past us named a pid or a container, which may be somebody else's by now.
        Reason::Found(Cause::Signal(signal)) => Some(by_us(incident, signal)),
        Reason::Found(Cause::Exit(_) | Cause::Oom { .. }) => by_request(),
        Reason::Found(Cause::Taken { .. } | Cause::Lost) | Reason::Vanished(_) | Reason::NotKnownYet => None,
    }
}

/// Through our own API.
fn by_us(incident: &Incident, signal: i32) -> String {
    match signal {
        9 => format!("bulkhead kill {}", incident.life.worker),
        _ => format!("bulkhead kill {} --signal {}", incident.life.worker, signal_name(signal)),
    }
}

/// The same request once more: `GET /segv` at the pool's address.
fn ask(request: &str, mut listen: SocketAddr) -> Option<String> {
    let (method, target) = request.split_once(' ')?;
    // What was shortened for people is not what was asked; and a connection is no request.
    if !target.starts_with('/') || request.ends_with('…') {
        return None;
    }
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let url = quoted(&format!("http://{listen}{target}"));
    // As it was sent: curl would otherwise take brackets for patterns, and dots for steps.
    Some(match method {
        "GET" => format!("curl -g --path-as-is {url}"),
        "HEAD" => format!("curl -g --path-as-is -I {url}"),
        _ => format!("curl -g --path-as-is -X {} {url}", quoted(method)),
    })
}

/// As a shell takes it for one word. What it quotes was sent by a client, and somebody is going to paste it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@%+=,[]".contains(&byte);
    if word.bytes().all(plain) && !word.contains(['[', ']']) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether the kernel sends this signal for what a program does itself: SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE,
/// SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS.
fn is_a_fault(signal: i32) -> bool {
    matches!(signal, 4..=8 | 11 | 24 | 25 | 31)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_asked_again_by_curl() {
        let web = SocketAddr::from(([0, 0, 0, 0], 8080));
        let ask = |request| ask(request, web);
        assert_eq!(ask("GET /segv").unwrap(), "curl -g --path-as-is http://127.0.0.1:8080/segv");
        assert_eq!(
            ask("GET /work?ms=5&x=1").unwrap(),
            "curl -g --path-as-is 'http://127.0.0.1:8080/work?ms=5&x=1'"
        );
        assert_eq!(ask("POST /exit").unwrap(), "curl -g --path-as-is -X POST http://127.0.0.1:8080/exit");
        assert_eq!(ask("GET /much…"), None);
        assert_eq!(ask("connection from 127.0.0.1:5"), None);
    }

    #[test]
    fn what_a_client_sent_is_one_word_to_a_shell() {
        let web = SocketAddr::from(([127, 0, 0, 1], 80));
        let hostile = "GET /';reboot;'$(reboot)`reboot`";
        let command = ask(hostile, web).unwrap();
        let script = format!("printf %s {}", command.strip_prefix("curl -g --path-as-is ").unwrap());
        let said = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(
            String::from_utf8(said.stdout).unwrap(),
            "http://127.0.0.1:80/';reboot;'$(reboot)`reboot`"
        );
    }
}
