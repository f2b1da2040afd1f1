//! `bulkhead storm`: load that never retries, kills under it, and a verdict.
//!
//! The clients and what is counted are the lab's ([`lab::storm`]). Here is who gets killed: a worker that serves at the moment, by
//! way of the controller's API; or whoever a command of the user's kills, and then the server may be anything that speaks
//! HTTP.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use ::lab::load::crowd::raise_open_files;
use ::lab::load::{Connections, Method, NUMBER, Plan, Shape};
use ::lab::progress::Progress;
use ::lab::storm::{self, Bars, Judged, Weather};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use reqwest::Url;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal as ProcessSignal, kill_process_group};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::client::{Api, ApiArgs};
use super::kill::anybody;
use super::output::{duration, print, print_json};
use crate::api::signal::Signal;
use crate::api::{KillOrder, Killed};
use crate::spec::read_time;

/// Load a server, kill its workers under it, and say who noticed
///
/// Requests are numbered and never retried. One is answered (2xx and whole), failed (another status, no HTTP, or no connection) or lost
/// (cut off, or not answered in time). Answered twice is one that was followed by a second answer on its connection; that a request
/// was executed twice cannot be seen from here.
///
/// An answer that says neither its length nor that it comes in chunks ends with its connection, and counts as whole
/// when that ends in order: where a server answers like that, a kill in the middle of an answer can go unnoticed. A connection that the
/// server ends between two requests is opened anew, and nothing is lost by that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead storm                                      30 s of GETs on the demo, a worker killed every second
  bulkhead storm --rate 200 --max-p99 500ms           requests that come as they come: an open loop
  bulkhead storm --method post --max-failed 10        POSTs are not given to a second worker
  bulkhead storm http://127.0.0.1:8000/ --kill-command 'kill -9 $(pgrep -P \"$(cat gunicorn.pid)\" | head -1)'
The bars:
  --max-failed, --max-lost (0 unless said otherwise), --max-gap, --max-p99. Nothing may be answered twice; something has
  to be sent, and with --rate all that is due; unless --no-kills is given, somebody has to have been killed.
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
    /// How often somebody is killed; not so late that it could not show any more
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = read_time)]
    kill_every: Duration,
    /// Kill nobody
    #[arg(long, conflicts_with_all = ["kill_every", "kill_command", "signal", "pool"])]
    no_kills: bool,
    /// Instead of asking the controller for a kill: run this in a shell, for 10 s at most. What it prints is noted as the victim
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

/// Most connections of an open loop: what needs more is not sent.
const MOST_CONNECTIONS: usize = 4096;
/// Files that this process has open besides its clients' connections, and some to spare.
const OTHER_FILES: usize = 64;
/// How long a command may take that is to kill somebody.
const LONGEST_COMMAND: Duration = Duration::from_secs(10);
/// From this share of the time on that the clients are busy themselves, they may be what was measured.
const BUSY: f64 = 0.8;
/// From this on it is said how late requests were sent.
const LATE_MS: f64 = 10.0;

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
    let bars = Bars {
        failed: args.max_failed,
        lost: args.max_lost,
        kills: every.is_some().then_some(1),
        gap: args.max_gap,
        p99: args.max_p99,
    };
    let handle = tokio::runtime::Handle::current();
    let weather = tokio::task::spawn_blocking(move || {
        let progress = Progress::new("storm", plan.time.as_secs());
        storm::run(plan, every, &progress, || killer.kill(&handle))
    });
    let weather = weather.await?.context("the clients could not go on, which is not the server's fault")?;
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
    let asked = Asked::from_url(&args.url)?;
    if args.time < Duration::from_secs(1) {
        bail!("--time {:?} is too short to say anything: 1s at least", args.time);
    }
    if !args.no_kills && args.time < args.kill_every * 2 {
        bail!(
            "--time {:?} leaves no time for a kill: it has to be twice --kill-every ({:?}) at least, so that what a kill does can show",
            args.time,
            args.kill_every
        );
    }
    if args.clients == 0 || args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
        bail!("there have to be requests: --clients 1 at least, --rate above 0 and at most 1000000");
    }
    let files = usize::try_from(raise_open_files()).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES);
    if args.rate.is_none() && args.clients > files {
        bail!(
            "--clients {} would need more open files than this process may have: `ulimit -n`",
            args.clients
        );
    }
    let address = asked.who_takes_a_connection(args.patience).await?;
    Ok(Plan {
        host: asked.host,
        method: match args.method {
            MethodArg::Get => Method::Get,
            MethodArg::Post => Method::Post,
        },
        shape: match args.rate {
            Some(rate) => Shape::Open { rate, most: MOST_CONNECTIONS.min(files) },
            None => Shape::Closed { clients: args.clients, think: Duration::ZERO },
        },
        patience: args.patience,
        connections: if args.no_keep_alive { Connections::OneForEach } else { Connections::Kept },
        ..Plan::closed(address, &asked.target, args.clients, args.time)
    })
}

/// Where a URL leads, and what is asked there.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// All that its name stands for.
    addresses: Vec<SocketAddr>,
    /// As the header `Host` says it.
    host: String,
    target: String,
}

impl Asked {
    fn from_url(text: &str) -> anyhow::Result<Self> {
        let url: Url =
            text.parse().with_context(|| format!("{text:?} is not a URL such as http://127.0.0.1:8080/"))?;
        if url.scheme() != "http" {
            bail!("{text:?}: only http:// is spoken here");
        }
        let name = url.host_str().with_context(|| format!("{text:?} names no host"))?;
        let port = url.port().unwrap_or(80);
        let addresses = (name.trim_matches(['[', ']']), port).to_socket_addrs();
        let addresses = addresses.with_context(|| format!("{name} is not known"))?.collect();
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        // In a path braces are escaped, in a query they stay.
        Ok(Self { addresses, host, target: target.replace("%7Bn%7D", NUMBER) })
    }

    /// The first of the addresses where somebody takes a connection: of `localhost` it is often the second.
    async fn who_takes_a_connection(&self, patience: Duration) -> anyhow::Result<SocketAddr> {
        let mut why = Vec::new();
        for &address in &self.addresses {
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(_)) => return Ok(address),
                Ok(Err(error)) => why.push(format!("{address}: {error}")),
                Err(_) => why.push(format!("{address}: nothing in {patience:?}")),
            }
        }
        let why = why.join("; ");
        bail!("nobody takes a connection at {why}\n  `bulkhead up` starts the server that this is made for");
    }
}

impl Killer {
    /// Kills somebody; whom, or why nobody.
    fn kill(&self, handle: &tokio::runtime::Handle) -> Result<String, String> {
        match self {
            Self::Nobody => Err("nobody is to be killed".to_owned()),
            Self::Shell(command) => handle.block_on(by_command(command, LONGEST_COMMAND)),
            Self::Controller { api, pool, signal } => {
                handle.block_on(by_controller(api, pool, *signal)).map_err(|error| format!("{error:#}"))
            }
        }
    }
}

/// Runs a command in a process group of its own, and ends it all when it takes too long.
async fn by_command(command: &str, at_most: Duration) -> Result<String, String> {
    let words = |error: io::Error| format!("{command:?} cannot be run: {error}");
    // Not pipes: what a command leaves running in the background would keep them open.
    let (output, errors) = (scratch().map_err(words)?, scratch().map_err(words)?);
    let (stdout, stderr) = (output.try_clone().map_err(words)?, errors.try_clone().map_err(words)?);
    let mut shell = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(words)?;
    let Ok(status) = timeout(at_most, shell.wait()).await else {
        let group = shell.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        // It is not reaped yet, so the group is still its own.
        let _ = group.map(|group| kill_process_group(group, ProcessSignal::KILL));
        let _ = shell.wait().await;
        return Err(format!("the command had not ended after {at_most:?}, and was killed"));
    };
    match status.map_err(words)? {
        status if status.success() => Ok(read_back(output).map_err(words)?),
        status => Err(format!("{status}: {}", read_back(errors).map_err(words)?)),
    }
}

/// A file without a name, in memory.
fn scratch() -> io::Result<File> {
    Ok(memfd_create("said", MemfdFlags::CLOEXEC)?.into())
}

fn read_back(mut file: File) -> io::Result<String> {
    const MOST: u64 = 4096;
    file.rewind()?;
    let mut said = Vec::new();
    file.take(MOST).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
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
    if weather.ended_between > 0 {
        let ended = weather.ended_between;
        text +=
            &format!("  {ended} × a connection was ended between two requests: nothing was lost by that\n");
    }
    if weather.busy > BUSY {
        text += &format!(
            "the clients, which are one thread, were busy for {:.0}% of the time: what was measured may be them\n",
            weather.busy * 100.0
        );
    }
    if weather.latest_ms > LATE_MS {
        let late = duration(weather.latest_ms);
        text +=
            &format!("requests were sent up to {late} after they were due, which the latencies include\n");
    }
    text += &format!("kills: {} of {} asked for\n", weather.killed(), weather.kills.len());
    for kill in &weather.kills {
        if let Err(why) = &kill.victim {
            text += &format!("  at {}: nobody: {why}\n", duration(kill.at_ms));
        }
    }
    // What goes without saying is said when it is not so.
    let goes_without_saying = |it: &Judged| it.kept && matches!(it.what.as_str(), "sent" | "not sent");
    for judged in judged.iter().filter(|it| !goes_without_saying(it)) {
        text += &format!("{judged}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_its_number_is_left_in_place() -> anyhow::Result<()> {
        let asked = Asked::from_url("http://127.0.0.1:8080/work?ms=20&n={n}")?;
        assert_eq!(asked.addresses, [SocketAddr::from(([127, 0, 0, 1], 8080))]);
        assert_eq!((asked.host.as_str(), asked.target.as_str()), ("127.0.0.1:8080", "/work?ms=20&n={n}"));
        let asked = Asked::from_url("http://[::1]/a/{n}")?;
        assert_eq!((asked.host.as_str(), asked.target.as_str()), ("[::1]", "/a/{n}"));
        Ok(())
    }

    #[test]
    fn what_is_no_http_url_is_refused_by_name() {
        for text in ["https://127.0.0.1/", "127.0.0.1:80", "nonsense"] {
            let error = Asked::from_url(text).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|said| said.contains(text)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn of_a_names_addresses_the_one_is_asked_that_answers() -> anyhow::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let (gone, there) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let addresses = vec![gone.local_addr()?, there.local_addr()?];
        drop(gone);
        let asked = Asked { addresses, host: "two".to_owned(), target: "/".to_owned() };
        assert_eq!(asked.who_takes_a_connection(PATIENCE).await?, there.local_addr()?);
        drop(there);
        let error = asked.who_takes_a_connection(PATIENCE).await.map_err(|error| error.to_string());
        assert!(
            error.as_ref().is_err_and(|said| said.contains(&asked.addresses[0].to_string())),
            "{error:?}"
        );
        Ok(())
    }

    #[tokio::test]
    async fn a_command_that_fails_or_does_not_end_has_killed_nobody() {
        const LONG: Duration = Duration::from_secs(60);
        assert_eq!(by_command("echo web-1", LONG).await, Ok("web-1".to_owned()));
        let failed = by_command("echo none left >&2; exit 1", LONG).await;
        assert!(failed.as_ref().is_err_and(|said| said.contains("none left")), "{failed:?}");
        // Whatever it leaves in the background is not waited for.
        assert_eq!(by_command("sleep 5 & echo web-2", LONG).await, Ok("web-2".to_owned()));
        let endless = by_command("sleep 1000", Duration::from_millis(50)).await;
        assert!(endless.as_ref().is_err_and(|said| said.contains("50ms")), "{endless:?}");
    }
}
