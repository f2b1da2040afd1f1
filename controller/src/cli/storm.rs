//! `bulkhead storm`: load that never retries, kills under it, and a verdict.
//!
//! The clients and what is counted are the lab's ([`lab::storm`]). Here is who gets killed: a worker that serves at the moment, by
//! way of the controller's API; or whoever a command of the user's kills, and then the server may be anything that speaks
//! HTTP.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::{Command, ExitCode};
use std::time::Duration;

use ::lab::load::{Connections, Log, Method, NUMBER, Plan, Shape};
use ::lab::progress::Progress;
use ::lab::storm::{self, Bars, Judged, Weather};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use reqwest::Url;
use serde::Serialize;

use super::client::{Api, ApiArgs};
use super::kill::anybody;
use super::output::{duration, print, print_json};
use crate::api::signal::Signal;
use crate::api::{KillOrder, Killed};
use crate::spec::read_time;

/// Load a server, kill its workers under it, and say who noticed
///
/// Requests are numbered and never retried. One is answered (2xx and whole), failed (another status, or no connection), lost (cut off, or
/// not answered in time) or answered twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead storm                                      30 s of GETs on the demo, a worker killed every second
  bulkhead storm --rate 200 --max-p99 500ms           requests that come as they come: an open loop
  bulkhead storm --method post --max-failed 10        POSTs are not given to a second worker
  bulkhead storm http://127.0.0.1:8000/ --kill-command 'pkill -KILL -o -f gunicorn.*worker'
The bars:
  --max-failed, --max-lost (0 unless said otherwise), --max-gap, --max-p99; nothing may be answered twice.
Exit codes:
  0  all bars kept      1  one was missed, or it could not be run")]
pub(super) struct StormArgs {
    /// What to ask for. An n in braces becomes the request's number
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080/work?ms=20&n={n}")]
    url: String,
    /// So many clients, each asking again as soon as it has been answered: a closed loop
    #[arg(long, value_name = "N", default_value_t = 16, conflicts_with = "rate")]
    clients: usize,
    /// So many requests a second, whatever becomes of those before: an open loop
    #[arg(long, value_name = "PER SECOND")]
    rate: Option<f64>,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = read_time)]
    time: Duration,
    /// How often somebody is killed
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = read_time)]
    kill_every: Duration,
    /// Kill nobody
    #[arg(long, conflicts_with_all = ["kill_every", "kill_command", "signal", "pool"])]
    no_kills: bool,
    /// Instead of asking the controller for a kill: run this in a shell. What it prints is noted as the victim
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["signal", "pool"])]
    kill_command: Option<String>,
    /// Kill workers of this pool only
    #[arg(long, value_name = "POOL", default_value = "web")]
    pool: String,
    /// By which signal
    #[arg(long, value_name = "SIGNAL", default_value = "KILL")]
    signal: Signal,
    /// By which method to ask
    #[arg(long, value_enum, default_value_t = MethodArg::Get)]
    method: MethodArg,
    /// An answer that takes longer is not waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = read_time)]
    patience: Duration,
    /// A new connection for each request
    #[arg(long)]
    no_keep_alive: bool,
    /// How many may fail
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_failed: u64,
    /// How many may be lost
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_lost: u64,
    /// For how long nobody may be answered
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    max_gap: Option<Duration>,
    /// How long 99% of the answers may take at most
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    max_p99: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// It may be executed twice, and so a second worker gets it
    Get,
    /// It may not
    Post,
}

/// Who kills.
enum Killer {
    Nobody,
    Shell(String),
    Controller { api: Api, pool: String, signal: Signal },
}

/// Most connections of an open loop: what needs more is not kept up with.
const MOST_CONNECTIONS: usize = 4096;

pub(super) async fn run(args: StormArgs) -> anyhow::Result<ExitCode> {
    let plan = plan(&args).await?;
    let killer = match &args.kill_command {
        _ if args.no_kills => Killer::Nobody,
        Some(command) => Killer::Shell(command.clone()),
        None => Killer::Controller { api: args.api.connect()?, pool: args.pool.clone(), signal: args.signal },
    };
    if let Killer::Controller { api, pool, .. } = &killer {
        // Before it begins, not at the first kill.
        anybody(api, Some(pool))
            .await
            .context("there is nobody to kill: --kill-command kills by other means, --no-kills not at all")?;
    }
    let every = (!args.no_kills).then_some(args.kill_every.max(Duration::from_millis(1)));
    let bars = Bars { failed: args.max_failed, lost: args.max_lost, gap: args.max_gap, p99: args.max_p99 };
    let handle = tokio::runtime::Handle::current();
    let weather = tokio::task::spawn_blocking(move || {
        let progress = Progress::new("storm", plan.time.as_secs());
        storm::run(plan, every, &progress, || killer.kill(&handle))
    });
    let weather = weather.await?.context("the clients could not be started")?;
    let judged = weather.judge(&bars);
    let kept = judged.iter().all(|it| it.kept);
    if args.json {
        print_json(&Said { weather: &weather, bars: &judged, kept })?;
    } else {
        print(&text(&weather, &judged))?;
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn plan(args: &StormArgs) -> anyhow::Result<Plan> {
    let (address, target) = address_and_target(&args.url)?;
    if args.time < Duration::from_secs(1) {
        bail!("--time {:?} is too short to say anything: 1s at least", args.time);
    }
    if args.clients == 0 || args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
        bail!("there have to be requests: --clients 1 at least, --rate above 0 and at most 1000000");
    }
    if let Err(error) = tokio::net::TcpStream::connect(address).await {
        bail!(
            "nobody takes a connection at {address}: {error}\n  `bulkhead up` starts the server that this is made for"
        );
    }
    Ok(Plan {
        address,
        method: match args.method {
            MethodArg::Get => Method::Get,
            MethodArg::Post => Method::Post,
        },
        targets: vec![(target, 1)],
        shape: match args.rate {
            Some(rate) => Shape::Open { rate, most: MOST_CONNECTIONS },
            None => Shape::Closed { clients: args.clients, think: Duration::ZERO },
        },
        time: args.time,
        patience: args.patience,
        connections: if args.no_keep_alive { Connections::OneForEach } else { Connections::Kept },
        log: Log::EachEvent,
    })
}

/// Where a URL leads, and what is asked there.
fn address_and_target(text: &str) -> anyhow::Result<(SocketAddr, String)> {
    let url: Url =
        text.parse().with_context(|| format!("{text:?} is not a URL such as http://127.0.0.1:8080/"))?;
    if url.scheme() != "http" {
        bail!("{text:?}: only http:// is spoken here");
    }
    let host = url.host_str().with_context(|| format!("{text:?} names no host"))?;
    let port = url.port().unwrap_or(80);
    let address = (host.trim_matches(['[', ']']), port).to_socket_addrs();
    let address = address.with_context(|| format!("{host} is not known"))?.next();
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    // In a path braces are escaped, in a query they stay.
    let target = target.replace("%7Bn%7D", NUMBER);
    Ok((address.with_context(|| format!("{host} has no address"))?, target))
}

impl Killer {
    /// Kills somebody; whom, or why nobody.
    fn kill(&self, handle: &tokio::runtime::Handle) -> Result<String, String> {
        match self {
            Self::Nobody => Err("nobody is to be killed".to_owned()),
            Self::Shell(command) => by_command(command),
            Self::Controller { api, pool, signal } => {
                handle.block_on(by_controller(api, pool, *signal)).map_err(|error| format!("{error:#}"))
            }
        }
    }
}

fn by_command(command: &str) -> Result<String, String> {
    let output = Command::new("/bin/sh").args(["-c", command]).output().map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(said(&output.stdout))
    } else {
        Err(format!("{}: {}", output.status, said(&output.stderr)))
    }
}

async fn by_controller(api: &Api, pool: &str, signal: Signal) -> anyhow::Result<String> {
    let victim = anybody(api, Some(pool)).await?;
    let killed: Killed =
        api.post(&["workers", &victim, "kill"], &KillOrder { signal: signal.to_string() }).await?;
    Ok(killed.worker)
}

/// What is printed for programs.
#[derive(Debug, Serialize)]
struct Said<'a> {
    #[serde(flatten)]
    weather: &'a Weather,
    bars: &'a [Judged],
    kept: bool,
}

fn text(weather: &Weather, judged: &[Judged]) -> String {
    let Weather { sent, answered, failed, lost, duplicated, .. } = weather;
    let mut text = format!(
        "sent {sent}: {answered} answered, {failed} failed, {lost} lost, {duplicated} answered twice\n\
         latency p50 {}, p99 {}, p99.9 {}; {:.0} answers/s; longest gap {}\n",
        duration(weather.p50_ms),
        duration(weather.p99_ms),
        duration(weather.p999_ms),
        weather.rate,
        duration(weather.longest_gap_ms),
    );
    for (reason, count) in &weather.reasons {
        text += &format!("  {count} × {reason}\n");
    }
    text += &format!("kills: {} of {} asked for\n", weather.killed(), weather.kills.len());
    for kill in &weather.kills {
        if let Err(why) = &kill.victim {
            text += &format!("  at {}: nobody: {why}\n", duration(kill.at_ms));
        }
    }
    for judged in judged {
        text += &format!("{judged}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_its_number_is_left_in_place() -> anyhow::Result<()> {
        let (address, target) = address_and_target("http://127.0.0.1:8080/work?ms=20&n={n}")?;
        assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(target, "/work?ms=20&n={n}");
        assert_eq!(address_and_target("http://127.0.0.1/a/{n}")?.1, "/a/{n}");
        Ok(())
    }

    #[test]
    fn what_is_no_http_url_is_refused_by_name() {
        for text in ["https://127.0.0.1/", "127.0.0.1:80", "nonsense"] {
            let error = address_and_target(text).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|said| said.contains(text)), "{error:?}");
        }
    }

    #[test]
    fn a_command_that_fails_has_killed_nobody() {
        assert_eq!(by_command("echo web-1"), Ok("web-1".to_owned()));
        let failed = by_command("echo none left >&2; exit 1");
        assert!(failed.as_ref().is_err_and(|said| said.contains("none left")), "{failed:?}");
    }
}
