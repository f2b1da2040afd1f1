//! Every system that can be started here serves, and is gone when it is dropped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::load::{self, Connections, Plan};
use lab::servers::{Model, Protocol};
use lab::systems::{Shape, System};
use libtest_mimic::{Failed, Trial};

pub(crate) fn trials() -> Vec<Trial> {
    let roll = crate::bench().systems();
    let here = roll.here.into_iter().map(|system| Trial::test(name(system), move || serves(system)));
    // Ignored, and why is in the name.
    let missing = roll.missing.into_iter().map(|(system, why)| {
        Trial::test(format!("{} ({why})", name(system)), || Ok(())).with_ignored_flag(true)
    });
    let speak = Model::ALL.into_iter().filter(|model| model.speaks(Protocol::Echo));
    let echo = speak.map(|model| {
        let name = format!("systems::{}_echoes", model.name().replace(", ", "_").replace(' ', "_"));
        Trial::test(name, move || echoes(model))
    });
    here.chain(missing).chain(echo).collect()
}

/// The classic echo, twice on one connection.
fn echoes(model: Model) -> Result<(), Failed> {
    let shape = Shape { protocol: Protocol::Echo, ..Shape::of(2) };
    let running = crate::bench().start(System::Model(model), &shape)?;
    let mut stream = TcpStream::connect(running.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    for said in ["hello", "again"] {
        stream.write_all(said.as_bytes())?;
        let expected = format!("Echo: {said}");
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        if answer != expected.as_bytes() {
            return Err(format!("to {said:?} it says {:?}", String::from_utf8_lossy(&answer)).into());
        }
    }
    Ok(())
}

fn name(system: System) -> String {
    format!("systems::{}_serves_and_leaves_nothing", system.name().replace(", ", "_").replace(' ', "_"))
}

fn serves(system: System) -> Result<(), Failed> {
    const CLIENTS: usize = 4;
    let running = crate::bench().start(system, &Shape::of(CLIENTS + 2))?;
    for connections in [Connections::Kept, Connections::OneForEach] {
        let plan = Plan::closed(running.address, "/work?ms=1", CLIENTS, Duration::from_millis(300));
        let tally = load::run(Plan { connections, ..plan })?;
        if tally.answered == 0 || tally.failures() > 0 {
            return Err(format!(
                "{connections:?}: {} were answered, and {:?} failed; what it said last: {}",
                tally.answered,
                tally.failed,
                running.last_words()
            )
            .into());
        }
    }
    let members = running.members();
    let usage = running.usage();
    // Of containers' processes only root may know it; of no other system's it is hidden.
    let hidden = usage.pss_kib.is_none() && system.is_bulkhead();
    if usage.processes == 0 || !(hidden || usage.pss_kib > Some(0)) {
        return Err(format!("its members {members:?} use {usage:?}").into());
    }
    drop(running);
    let left: Vec<_> = members.into_iter().filter(|pid| lives(pid.as_raw_nonzero().get())).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?} still live").into()) }
}

/// Whether a process is there and no zombie: who adopts orphans may be slow to reap them.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
