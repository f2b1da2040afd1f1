//! `bulkhead events`: what happened, a line each, as it happens.
//!
//! What is asked for goes to standard output and is complete there, or standard error says what is missing: the
//! stream is resumed after every break (see the module `stream`), and where the controller cannot go on from where
//! we were, it says so. So a script may trust the lines, and whoever watches knows why nothing comes.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::client::ApiArgs;
use super::incidents::{cause_in_short, held_in_short};
use super::output::{duration, print_on, printable, printable_json};
use super::stream::{self, Breakage, Event, Extent, FROM_THE_BEGINNING, Told};
use crate::api::stream_views::{Gap, Happened, IncidentStage, JournalEvent};
use crate::api::views::IncidentView;

/// Tell what happened: workers that come and go, deaths, orders, troubles
#[derive(Debug, Args)]
#[command(after_help = "\
What is missing on standard output is said on standard error: the controller
remembers the latest events only, and forgets them when it is restarted.

Examples:
  bulkhead events                   what is remembered
  bulkhead events -f                that, and what happens from now on
  bulkhead events --after k3f9x2-17 what followed that event
  bulkhead events -f --json | jq -c 'select(.kind == \"incident\").incident.cause'")]
pub(super) struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    /// Only what followed this event
    #[arg(long, value_name = "ID", default_value = FROM_THE_BEGINNING, hide_default_value = true)]
    after: String,
    /// Print the API's JSON, a line each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let extent = if args.follow { Extent::Follow } else { Extent::Remembered };
    let mut told = stream::open(&args.api.connect()?, &args.after, extent).await?;
    let on_a_terminal = io::stdout().is_terminal();
    let mut cut_off = false;
    while let Some(told) = told.recv().await {
        match told {
            Told::State(_) => {}
            Told::Event(event) => {
                let line = match args.json {
                    true if on_a_terminal => format!("{}\n", printable_json(&event.sent)),
                    true => event.sent.clone() + "\n",
                    false => line(&event),
                };
                if let ControlFlow::Break(()) = print_on(&line)? {
                    return Ok(());
                }
            }
            Told::Missed(gap) => eprintln!("bulkhead: {}; what is follows", missed(&gap)),
            Told::Connected if std::mem::take(&mut cut_off) => eprintln!("bulkhead: connected again"),
            Told::Connected => {}
            Told::Broken(Breakage { why, again_in: None }) => {
                bail!("the stream broke off before its end: {why}");
            }
            Told::Broken(Breakage { why, .. }) => {
                // Once a break: how often it takes is of no interest to a script's log.
                if !std::mem::replace(&mut cut_off, true) {
                    eprintln!("bulkhead: the stream broke off: {why}; connecting again");
                }
            }
        }
    }
    Ok(())
}

/// What is missing, and why.
pub(super) fn missed(gap: &Gap) -> String {
    format!("not everything after {} is remembered ({})", printable(&gap.asked), printable(&gap.why))
}

/// An event, for people.
fn line(event: &Event) -> String {
    match &event.read {
        Some(event) => {
            let Telling { time, what, who, detail } = telling(event);
            let line = format!("{time}  {what:<18}  {who:<10}  {detail}");
            format!("{}\n", line.trim_end())
        }
        // Of a later version: better told as it is than not at all.
        None => format!("{} {}\n", printable(&event.name), printable(&event.sent)),
    }
}

/// An event in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Telling {
    /// To the millisecond.
    pub(super) time: String,
    pub(super) what: String,
    pub(super) who: String,
    pub(super) detail: String,
}

pub(super) fn telling(event: &JournalEvent) -> Telling {
    let (what, who, detail) = match &event.happened {
        Happened::Worker { worker, generation, what, detail, .. } => {
            (word(what), format!("{worker}.{generation}"), detail.clone())
        }
        Happened::Incident { incident, stage } => {
            let what = match stage {
                IncidentStage::Opened => "incident",
                IncidentStage::Updated => "incident, more",
                IncidentStage::Complete => "incident, complete",
            };
            (what.to_owned(), incident.id.clone(), Some(incident_in_short(incident)))
        }
        Happened::Pool { pool, what, detail } => (word(what), pool.clone(), detail.clone()),
        Happened::Door { what, detail } => (word(what), "door".to_owned(), detail.clone()),
        Happened::Engine { what, detail } => (word(what), "engine".to_owned(), detail.clone()),
        Happened::Trickle { pool, what, detail } => {
            (format!("trickle {}", word(what)), pool.clone(), detail.clone())
        }
    };
    Telling {
        time: to_the_millisecond(&event.at),
        what: printable(&what).into_owned(),
        who: printable(&who).into_owned(),
        detail: printable(&detail.unwrap_or_default()).into_owned(),
    }
}

/// What killed it, what it held, and how soon its place was filled.
fn incident_in_short(incident: &IncidentView) -> String {
    let replaced = match incident.steps_ms.ready {
        Some(ms) => format!("; replaced in {}", duration(ms)),
        None => String::new(),
    };
    format!("{}; held {}{replaced}", cause_in_short(&incident.cause), held_in_short(&incident.held))
}

/// `link_closed`, as the API says it, in plain words.
fn word(what: &impl Serialize) -> String {
    match serde_json::to_value(what) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => "?".to_owned(),
    }
}

/// `2026-01-02T03:04:05.678901Z` without the last three digits; anything else as it is.
fn to_the_millisecond(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) if fraction.len() > 4 && fraction.is_ascii() => {
            format!("{seconds}.{}Z", &fraction[..3])
        }
        _ => printable(time).into_owned(),
    }
}
