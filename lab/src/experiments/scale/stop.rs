//! What ends a ladder: the machine, or the limits that the lab has set so that the machine survives it. Which of them it
//! was is told apart, for only the first says anything of the machine.

use std::fmt;

use serde::Serialize;

use crate::compartment::{Compartment, Limits};
use crate::servers::Model;
use crate::systems::{Running, System};

/// What ended a step before all were answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Stop {
    pub(super) by: By,
    /// What the system itself was told, or what the client saw.
    pub(super) words: String,
}

/// Who did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    /// The machine, or the system that was measured.
    Machine,
    /// The limits that this experiment has set so that the machine survives it.
    Lab,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one line, however many were said.
        let words = self.words.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.by {
            By::Machine => f.write_str(&words),
            By::Lab => write!(f, "the lab's own limit: {words}"),
        }
    }
}

/// What keeps a ladder from taking the machine along.
#[derive(Debug, Clone, Copy)]
pub(super) enum Caps {
    /// Control groups with limits of memory and of processes.
    Groups,
    /// Nothing: this user may make no such groups.
    Nothing,
}

impl Caps {
    pub(super) fn of(limits: Limits) -> Self {
        let compartment = Compartment::new(limits);
        if compartment.caps_memory() && compartment.caps_processes() { Self::Groups } else { Self::Nothing }
    }

    /// Why this step is not taken: so many processes could take the machine along.
    pub(super) fn forbid(self, system: System, connections: usize) -> Option<Stop> {
        const MOST: usize = 1000;
        let one_each = matches!(system, System::Model(Model::ProcessPerConnection | Model::Prefork));
        (matches!(self, Self::Nothing) && one_each && connections > MOST).then(|| Stop {
            by: By::Lab,
            words: format!(
                "not tried: without a control group that limits memory and processes, more than {MOST} processes could take \
                 the machine along"
            ),
        })
    }
}

/// Who has stopped a system that runs into its end: the limits of its compartment, if it is at one of them.
pub(super) fn by(running: &Running, limits: Limits) -> By {
    let groups = &running.compartment;
    let full = groups.caps_processes() && is_full(running.usage().threads, limits.pids);
    // The kernel kills for memory in this group alone when it is the group that has none left.
    let killed = groups.caps_memory() && groups.killed_for_memory() > Some(0);
    if full || killed { By::Lab } else { By::Machine }
}

/// Whether so many processes and threads are all that there may be, but for a few that have just ended or not yet begun.
fn is_full(threads: usize, most: u32) -> bool {
    const A_FEW: usize = 16;
    threads + A_FEW >= usize::try_from(most).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_groups_that_limit_them_a_ladder_of_processes_ends_at_a_thousand() {
        let process = System::Model(Model::ProcessPerConnection);
        let forbidden = |caps: Caps, system, connections| caps.forbid(system, connections).is_some();
        assert!(forbidden(Caps::Nothing, process, 3000) && !forbidden(Caps::Nothing, process, 1000));
        assert!(!forbidden(Caps::Groups, process, 3000));
        assert!(!forbidden(Caps::Nothing, System::Model(Model::ThreadPerConnection), 3000));
    }

    #[test]
    fn a_limit_is_reached_a_few_before_it() {
        assert!(is_full(4096, 4096) && is_full(4090, 4096) && !is_full(3000, 4096));
    }
}
