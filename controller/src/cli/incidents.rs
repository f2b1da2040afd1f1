//! `bulkhead incidents`: what died, why, what it held, and what became of that.

use clap::Args;

use super::client::ApiArgs;
use super::output::{Column, Table, duration, print, print_json, printable, since, width};
use crate::api::views::{CauseKind, CauseView, HeldView, IncidentView, MemoryView, StepsView};
use crate::spec::spell_size;

/// List workers' deaths, or tell one of them in detail
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead incidents              the latest first
  bulkhead incidents web-3.7      the death of worker web-3 in its 7th life
  bulkhead incidents --json | jq '.[0].steps_ms'")]
pub(super) struct IncidentsArgs {
    /// One incident, such as web-3.7
    #[arg(value_name = "INCIDENT")]
    id: Option<String>,
    /// How many to list at most
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20, conflicts_with_all = ["id", "json"])]
    number: usize,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: IncidentsArgs) -> anyhow::Result<()> {
    let api = args.api.connect()?;
    let now = jiff::Timestamp::now();
    if let Some(id) = &args.id {
        let incident: IncidentView = api.get(&["incidents", id], &[]).await?;
        return if args.json { print_json(&incident) } else { print(&post_mortem(&incident, now)) };
    }
    let incidents: Vec<IncidentView> = api.get(&["incidents"], &[]).await?;
    if args.json {
        return print_json(&incidents);
    }
    if incidents.is_empty() {
        return print("no worker has died since this controller was started\n");
    }
    let shown = incidents.get(..args.number).unwrap_or(&incidents);
    let mut text = table(shown, now).render(width());
    if shown.len() < incidents.len() {
        text += &format!("and {} more: -n {}\n", incidents.len() - shown.len(), incidents.len());
    }
    print(&text)
}

fn table(incidents: &[IncidentView], now: jiff::Timestamp) -> Table<5> {
    let mut table = Table::new([
        Column::Left("INCIDENT"),
        Column::Right("AGO"),
        Column::Left("CAUSE"),
        Column::Right("REPLACED IN"),
        Column::Left("WHAT IT HELD"),
    ]);
    for incident in incidents {
        table.row([
            incident.id.clone(),
            since(&incident.at, now),
            cause_in_short(&incident.cause),
            incident.steps_ms.ready.map_or_else(|| "-".to_owned(), duration),
            held_in_short(&incident.held),
        ]);
    }
    table
}

/// An incident told from its cause to its end.
pub(super) fn post_mortem(incident: &IncidentView, now: jiff::Timestamp) -> String {
    let mut text = format!(
        "{}: worker {} of pool {} died\n\n",
        printable(&incident.id),
        printable(&incident.worker),
        printable(&incident.pool)
    );
    let mut fact = |name: &str, value: &str| text += &format!("{name:<9} {}\n", printable(value));
    fact("When", &format!("{} ({} ago)", incident.at, since(&incident.at, now)));
    fact("Cause", &cause_in_full(&incident.cause));
    if let Some(memory) = &incident.memory {
        fact("Memory", &memory_in_full(memory));
    }
    if let Some(unit) = &incident.unit {
        fact("Where", unit);
    }
    fact("Siblings", &siblings(incident));
    if let Some(trouble) = &incident.trouble {
        fact("Next", &format!("its replacement does not run yet: {trouble}"));
    }
    if let Some(command) = &incident.reproduce {
        fact("Again", command);
    }

    text += "\nWhat it held\n";
    if incident.held.is_empty() {
        text += "  nothing: no client noticed\n";
    }
    for held in &incident.held {
        text += &format!("  {}\n    {}\n", printable(&held.request), printable(&outcome_in_full(held)));
    }

    text += "\nHow long it took\n";
    text += &steps(&incident.steps_ms);

    text += "\nThe last that it wrote\n";
    if incident.last_output.is_empty() {
        text += "  nothing\n";
    }
    for line in &incident.last_output {
        text += &format!("  | {}\n", printable(line));
    }
    text
}

pub(super) fn cause_in_short(CauseView { kind, detail }: &CauseView) -> String {
    match kind {
        CauseKind::Signal | CauseKind::Exit => detail.clone(),
        CauseKind::Oom => "out of memory".to_owned(),
        CauseKind::RequestTimeout => "request time-out".to_owned(),
        CauseKind::StartTimeout => "start time-out".to_owned(),
        CauseKind::Protocol => "broke protocol".to_owned(),
        CauseKind::Lost => "lost".to_owned(),
        CauseKind::NotKnownYet => "not known yet".to_owned(),
    }
}

fn cause_in_full(CauseView { kind, detail }: &CauseView) -> String {
    let told = match kind {
        CauseKind::Signal => "killed by a signal",
        CauseKind::Exit => "it exited without a goodbye",
        CauseKind::Oom => "out of memory: it wanted more than its limit",
        CauseKind::RequestTimeout => "killed because a request overran its time",
        CauseKind::StartTimeout => "killed because it was not ready in time",
        CauseKind::Protocol => "killed because it broke the link's protocol",
        CauseKind::Lost => "it is gone, and nobody saw how",
        CauseKind::NotKnownYet => "what it died of is not known yet",
    };
    if detail.is_empty() || detail == told { told.to_owned() } else { format!("{told} ({detail})") }
}

fn memory_in_full(memory: &MemoryView) -> String {
    let limit = match memory.limit_bytes {
        Some(bytes) => format!("{} at most", spell_size(bytes)),
        None => "the machine itself ran out of it".to_owned(),
    };
    match memory.peak_bytes {
        Some(bytes) => format!("{limit}; {} at its peak", spell_size(bytes)),
        None => limit,
    }
}

fn siblings(incident: &IncidentView) -> String {
    let lived = match incident.siblings {
        0 => return "no other worker of the pool was there".to_owned(),
        1 => "1 other worker of the pool lived on".to_owned(),
        number => format!("{number} other workers of the pool lived on"),
    };
    match incident.siblings_failed {
        Some(1) => format!("{lived}, 1 request failed"),
        Some(failed) => format!("{lived}, {failed} requests failed"),
        None => lived,
    }
}

pub(super) fn held_in_short(held: &[HeldView]) -> String {
    match held {
        [] => "nothing".to_owned(),
        [only] => format!("{}: {}", only.request, outcome_in_short(only)),
        [oldest, more @ ..] => {
            format!("{}: {} (and {} more)", oldest.request, outcome_in_short(oldest), more.len())
        }
    }
}

fn outcome_in_short(held: &HeldView) -> String {
    match (held.outcome.as_str(), &held.to, held.status) {
        ("redelivered", Some(to), _) => format!("to {to}{}", added(held, ", +")),
        ("answered", _, Some(status)) => format!("answered {status}"),
        (outcome, ..) => outcome.to_owned(),
    }
}

fn outcome_in_full(held: &HeldView) -> String {
    let mut told = match (held.outcome.as_str(), &held.to, held.status) {
        ("redelivered", Some(to), _) => {
            format!("redelivered to {to}{}", added(held, "; the client waited longer by "))
        }
        ("answered", _, Some(status)) => format!("answered {status} by the door"),
        ("closed", ..) => "its connection was closed".to_owned(),
        ("pending", ..) => "not yet decided".to_owned(),
        (outcome, ..) => outcome.to_owned(),
    };
    if let Some(why) = &held.why {
        told += &format!(": {why}");
    }
    told
}

fn added(held: &HeldView, before: &str) -> String {
    held.added_ms.map_or_else(String::new, |ms| format!("{before}{}", duration(ms)))
}

fn steps(steps: &StepsView) -> String {
    let told = [
        ("detected", steps.detected, "after the death"),
        ("redelivered", steps.redelivered, "after it was detected"),
        ("spawned", steps.spawned, "after it was detected"),
        ("ready", steps.ready, "after it was detected"),
    ];
    let mut text = String::new();
    for (step, ms, from) in told {
        text += &match ms {
            Some(ms) => format!("  {step:<12} {:>8}  {from}\n", duration(ms)),
            None => format!("  {step:<12} {:>8}\n", "-"),
        };
    }
    text
}
