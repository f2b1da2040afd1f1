//! `bulkhead lab serve`: one of the lab's own servers in the foreground, to be tried with `nc`, `curl` and `ps`.
//!
//! It runs as in an experiment, in a compartment with the same limits. It ends with this command, for which Ctrl-C is
//! enough: then the janitor ends it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::servers::{Model, Protocol, fastcgi};
use crate::systems::{self, Shape};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// How it serves
    model: Name,
    /// Where
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:12345")]
    listen: SocketAddr,
    /// What it speaks
    #[arg(long, value_enum, default_value = "echo")]
    protocol: Speech,
    /// Processes that serve, of models that start them in advance
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// Threads that serve, of models that bound them: of all processes together
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    threads: u16,
}

/// A model, as it is called here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// A process for each connection
    ProcessPerConnection,
    /// Processes that wait on one listening socket
    Prefork,
    /// A process for each session, all started afresh when one crashes
    Sessions,
    /// A thread for each connection
    ThreadPerConnection,
    /// So many threads on one queue
    ThreadPool,
    /// Processes with threads in each
    Hybrid,
    /// An event loop in each of several processes
    EventWorkers,
    /// Responders behind a web server; HTTP only
    Fastcgi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speech {
    /// `Echo: ` and what was sent
    Echo,
    /// The pages of the demo: /work?ms=5, /cpu?ms=5, /segv
    Http,
}

impl Name {
    fn model(self) -> Model {
        match self {
            Self::ProcessPerConnection => Model::ProcessPerConnection,
            Self::Prefork => Model::Prefork,
            Self::Sessions => Model::Sessions,
            Self::ThreadPerConnection => Model::ThreadPerConnection,
            Self::ThreadPool => Model::ThreadPool,
            Self::Hybrid => Model::Hybrid,
            Self::EventWorkers => Model::EventWorkers,
            Self::Fastcgi => Model::FastCgi(fastcgi::Responder::Own),
        }
    }
}

/// Serves until it is ended. `say` prints.
pub(crate) fn run(serve: &Serve, say: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let model = serve.model.model();
    let protocol = match serve.protocol {
        Speech::Echo => Protocol::Echo,
        Speech::Http => Protocol::Http,
    };
    if !model.speaks(protocol) {
        bail!("{model} speaks HTTP only: say --protocol http");
    }
    let shape = Shape {
        protocol,
        processes: usize::from(serve.workers),
        threads: usize::from(serve.threads),
        ..Shape::of(1)
    };
    let mut running = systems::start_model(model, &shape, serve.listen)?;
    say(&greeting(model, protocol, running.address, running.leader.as_raw_nonzero().get()))?;
    while running.compartment.lives() {
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("it has ended; what it said last: {}", running.last_words())
}

fn greeting(model: Model, protocol: Protocol, address: SocketAddr, master: i32) -> String {
    let (ip, port) = (address.ip(), address.port());
    let talk = match protocol {
        Protocol::Echo => format!("nc {ip} {port}"),
        Protocol::Http => format!("curl 'http://{address}/work?ms=5'"),
    };
    format!(
        "{model} at {address}, master {master}; Ctrl-C ends it\n\
         try in another terminal:\n  \
         {talk}\n  \
         ps huH p {master} | wc -l      threads of the master\n  \
         ps --ppid {master}             its children\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_says_where_and_who_and_what_to_try() {
        let address = SocketAddr::from(([127, 0, 0, 1], 12345));
        let said = greeting(Model::Prefork, Protocol::Echo, address, 4711);
        assert_eq!(
            said,
            "prefork at 127.0.0.1:12345, master 4711; Ctrl-C ends it\n\
             try in another terminal:\n  \
             nc 127.0.0.1 12345\n  \
             ps huH p 4711 | wc -l      threads of the master\n  \
             ps --ppid 4711             its children\n"
        );
    }
}
