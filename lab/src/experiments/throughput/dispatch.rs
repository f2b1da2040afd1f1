//! What the open loop says: pure, from runs of the mix of short and long requests to tables, bars and notes.

use super::outcome::{cell, quantile};
use super::{DISPATCH, DispatchRun, MixRun, Run, rate};
use crate::findings::{Bar, Table, surprise};
use crate::stats::{Spread, digits};
use crate::systems::System;

pub(super) fn dispatch_table(dispatch: &[DispatchRun], workers: usize) -> Table {
    let mut table = Table::new(
        &format!(
            "dispatch to {} workers, {} requests/s in an open loop: 90% take 5 ms, 10% take 200 ms; of those that take 5 ms",
            workers,
            digits(rate(workers))
        ),
        &["each request goes", "p50, ms", "p95, ms", "p99, ms", "failed", "sent late at most, ms"],
    );
    for way in ways(dispatch) {
        let runs = || dispatch.iter().filter(move |it| it.way == way);
        let short = || runs().map(|it| it.short);
        table.row([
            way.to_owned(),
            quantile(short(), |it| it.p50_ms),
            quantile(short(), |it| it.p95_ms),
            quantile(short(), |it| it.p99_ms),
            runs().map(|it| it.all.failures).sum::<u64>().to_string(),
            cell(Spread::of(runs().map(|it| it.all.latest_ms))),
        ]);
    }
    table
}

fn ways(dispatch: &[DispatchRun]) -> Vec<&'static str> {
    let ways = DISPATCH.iter().map(|(.., way)| *way);
    ways.filter(|way| dispatch.iter().any(|it| it.way == *way)).collect()
}

pub(super) fn waits(dispatch: &[DispatchRun]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for way in ways(dispatch) {
        let spread = |figure: fn(&Run) -> Option<f64>| {
            let of = dispatch.iter().filter(|it| it.way == way).map(|it| figure(&it.short));
            of.collect::<Option<Vec<f64>>>().and_then(Spread::of)
        };
        let bar = |group: &str, value| Bar { name: way.to_owned(), group: group.to_owned(), value };
        bars.extend(spread(|it| it.p50_ms).map(|value| bar("median", value)));
        bars.extend(spread(|it| it.p95_ms).map(|value| bar("p95", value)));
    }
    bars
}

pub(super) fn mix_table(systems: &[System], mixed: &[MixRun], workers: usize) -> Table {
    let mut table = Table::new(
        &format!(
            "the same mix of short and long, {} requests/s, over each system; of those that take 5 ms",
            digits(rate(workers))
        ),
        &["system", "p50, ms", "p95, ms", "failed", "sent late at most, ms"],
    );
    for &system in systems {
        let runs = || mixed.iter().filter(move |it| it.system == system);
        table.row([
            system.name().to_owned(),
            quantile(runs().map(|it| it.short), |it| it.p50_ms),
            quantile(runs().map(|it| it.short), |it| it.p95_ms),
            runs().map(|it| it.all.failures).sum::<u64>().to_string(),
            cell(Spread::of(runs().map(|it| it.all.latest_ms))),
        ]);
    }
    table
}

/// Where dispatch came out differently from what was written down first.
pub(super) fn differences(dispatch: &[DispatchRun]) -> Vec<String> {
    let median =
        |way: &str| Spread::of(dispatch.iter().filter(|it| it.way == way).filter_map(|it| it.short.p50_ms));
    let Some(random) = median(DISPATCH[0].2) else { return Vec::new() };
    let others = DISPATCH[1..].iter().filter_map(|(.., way)| Some((way, median(way)?)));
    others
        .filter(|(_, it)| it.median * 2.0 > random.median)
        .map(|(way, it)| {
            let was = format!("the median of short requests is {it} ms, and at random {random} ms");
            surprise(&format!("dispatch {way}"), &was, "less than half")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::Model;

    fn run(p50_ms: f64) -> Run {
        Run { p50_ms: Some(p50_ms), p95_ms: Some(p50_ms * 2.0), ..Run::default() }
    }

    fn dispatch(way: &'static str, p50_ms: f64) -> DispatchRun {
        DispatchRun { way, all: run(p50_ms), short: run(p50_ms) }
    }

    #[test]
    fn who_waits_as_long_as_at_random_is_noted() {
        let runs =
            [dispatch(DISPATCH[0].2, 80.0), dispatch(DISPATCH[1].2, 6.0), dispatch(DISPATCH[2].2, 70.0)];
        let notes = differences(&runs);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("prefork"), "{notes:?}");
    }

    #[test]
    fn each_way_is_a_row_whatever_the_number_of_rounds() {
        let runs: Vec<_> =
            [80.0, 90.0].into_iter().flat_map(|p50| DISPATCH.map(|(.., way)| dispatch(way, p50))).collect();
        let rows = dispatch_table(&runs, 8).rows;
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0][1], "85.0 (80.0–90.0)");
    }

    #[test]
    fn every_system_that_was_given_the_mix_is_a_row() {
        let prefork = System::Model(Model::Prefork);
        let mixed = [MixRun { system: prefork, all: run(9.0), short: run(6.0) }];
        let row = &mix_table(&[prefork], &mixed, 8).rows[0];
        assert!(row[0] == "prefork" && row[1].starts_with("6.00"), "{row:?}");
    }
}
