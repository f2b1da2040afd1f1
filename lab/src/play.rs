//! The parts that this program plays when the lab starts it: a server, one of its children, a party of an experiment.
//!
//! `bulkhead lab play PART`, where PART is JSON: what is started by a program needs no options that people can type,
//! and a child for each connection has to be up within a millisecond, so that nothing else is read or built before.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::{experiments, janitor, servers};

/// What a process of the lab is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A server. Its listening socket is descriptor 0.
    Server(servers::Setup),
    /// A child of a server.
    Child(servers::Child),
    /// A party of an experiment.
    Party(experiments::Party),
    /// Whoever clears up after the lab.
    Janitor,
}

/// Plays the part that the words of a command line, the program's name among them, ask for. `None`: they ask for none.
pub fn if_asked(mut words: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    words.next();
    if words.next().as_deref() != Some(OsStr::new("lab"))
        || words.next().as_deref() != Some(OsStr::new("play"))
    {
        return None;
    }
    let part = words.next().unwrap_or_default();
    let played = serde_json::from_str(&part.to_string_lossy())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("no part of the lab: {error}")))
        .and_then(play);
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead lab play: {error}");
            ExitCode::FAILURE
        }
    })
}

/// The part that a process plays, by the words of its command line. `None`: it is no process of the lab's.
pub(crate) fn part_of(words: &[String]) -> Option<Part> {
    match words {
        [_, lab, play, part] if lab == "lab" && play == "play" => serde_json::from_str(part).ok(),
        _ => None,
    }
}

fn play(part: Part) -> io::Result<()> {
    match part {
        Part::Server(setup) => servers::serve(&setup),
        Part::Child(child) => servers::serve_as_child(child),
        Part::Party(party) => experiments::take_part(party),
        Part::Janitor => janitor::run(),
    }
}

/// The command that starts this program in that part.
///
/// # Errors
/// When the program's own file cannot be named.
pub fn command(part: &Part) -> io::Result<Command> {
    // By way of /proc it is found even after it was replaced by a newer build.
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab", "play", &serde_json::to_string(part)?]);
    Ok(command)
}
