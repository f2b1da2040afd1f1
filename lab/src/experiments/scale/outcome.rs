//! What the ladders say: pure, from the steps to tables, plots and answers.

use serde_json::json;

use super::{Step, Stopped, Threads};
use crate::findings::{Answer, Axis, Outcome, Plot, Point, Series, Table, Verdict};
use crate::servers::Model;
use crate::stats::{Spread, digits};
use crate::systems::System;

/// From so many on threads are said to be easy, and processes not.
const MANY: usize = 10_000;

pub(super) fn of(systems: &[System], steps: &[Step], stopped: &[Stopped], notes: Vec<String>) -> Outcome {
    let all = All(steps);
    let mut tables = vec![ladder(systems, all)];
    tables.extend(ends(systems, all));
    tables.push(low_limits(stopped));
    tables.extend(threads(all));
    Outcome {
        tables,
        plots: plots(systems, all),
        answers: answers(all),
        notes,
        data: json!({ "steps": steps, "stopped": stopped }),
    }
}

/// All steps of all systems.
#[derive(Debug, Clone, Copy)]
struct All<'a>(&'a [Step]);

impl<'a> All<'a> {
    fn of(self, system: System) -> impl Iterator<Item = &'a Step> {
        self.0.iter().filter(move |it| it.system == system)
    }

    fn at(self, system: System, connections: usize) -> impl Iterator<Item = &'a Step> {
        self.of(system).filter(move |it| it.connections == connections)
    }

    fn sizes(self, system: System) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.of(system).map(|it| it.connections).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn spread(
        self,
        system: System,
        connections: usize,
        figure: impl Fn(&Step) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(self.at(system, connections).filter_map(figure))
    }

    /// What a further connection adds, from the smallest step: the system's own memory cancels out.
    fn each(
        self,
        system: System,
        connections: usize,
        figure: impl Fn(&Step) -> Option<f64>,
    ) -> Option<Spread> {
        let smallest = *self.sizes(system).first()?;
        let base = self.spread(system, smallest, &figure)?.median;
        let held = self.at(system, smallest).map(|it| it.opened.answered).min()?;
        let added = self.at(system, connections).filter_map(|it| {
            let more = it.opened.answered.checked_sub(held).filter(|more| *more > 0)?;
            Some((figure(it)? - base) / more as f64)
        });
        Spread::of(added)
    }

    /// What a connection takes at the highest step, as the kernel charges it, or as processes show it.
    fn kib_each(self, system: System) -> Option<Spread> {
        let highest = *self.sizes(system).last()?;
        self.each(system, highest, |it| it.charged_kib).or_else(|| self.each(system, highest, pss))
    }

    /// The most connections that were answered.
    fn most(self, system: System) -> usize {
        self.of(system).map(|it| it.opened.answered).max().unwrap_or(0)
    }
}

fn pss(it: &Step) -> Option<f64> {
    Some(it.usage.pss_kib as f64)
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

fn ladder(systems: &[System], all: All<'_>) -> Table {
    let mut table = Table::new(
        "more and more connections at a time",
        &[
            "system",
            "connections",
            "answered",
            "up after, ms",
            "open, ms",
            "PSS each, KiB",
            "charged each, KiB",
            "processes",
            "threads",
            "answers/s",
            "p99, ms",
            "switches each",
        ],
    );
    for &system in systems {
        for connections in all.sizes(system) {
            // Of a step that nobody was answered in there are no figures.
            let of = |figure: fn(&Step) -> f64| {
                cell(all.spread(system, connections, |it| (it.opened.answered > 0).then(|| figure(it))))
            };
            table.row([
                system.name().to_owned(),
                connections.to_string(),
                of(|it| it.opened.answered as f64),
                of(|it| it.started_ms),
                of(|it| it.opened.median_ms),
                cell(all.each(system, connections, pss)),
                cell(all.each(system, connections, |it| it.charged_kib)),
                of(|it| it.usage.processes as f64),
                of(|it| it.usage.threads as f64),
                of(|it| it.worked.rate),
                of(|it| it.worked.p99_ms),
                of(|it| it.switches_each),
            ]);
        }
    }
    table
}

/// Where ladders came to an end, and why.
fn ends(systems: &[System], all: All<'_>) -> Option<Table> {
    let mut table = Table::new("what stopped it", &["system", "asked for", "answered", "in its words"]);
    for &system in systems {
        for it in all.of(system) {
            if let Some(words) = &it.stop {
                let (asked, answered) = (it.connections.to_string(), it.opened.answered.to_string());
                table.row([system.name().to_owned(), asked, answered, words.clone()]);
            }
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

fn low_limits(stopped: &[Stopped]) -> Table {
    let mut table =
        Table::new("with limits set low", &["system", "limit", "asked for", "answered", "in its words"]);
    for it in stopped {
        table.row([
            it.system.name().to_owned(),
            it.limit.clone(),
            it.asked.to_string(),
            it.answered.to_string(),
            it.words.clone().unwrap_or_else(|| "nothing stopped it".to_owned()),
        ]);
    }
    table
}

fn threads(all: All<'_>) -> Option<Table> {
    let mut table = Table::new(
        "threads of the server with a thread for each connection, its main one and one for whoever asks included",
        &["connections", "own count", "ps huH p PID | wc -l", "/proc/PID/task"],
    );
    for (connections, it) in counted(all) {
        table.row([
            connections.to_string(),
            it.own.to_string(),
            it.ps.map_or_else(|| "no ps: apt-get install procps".to_owned(), |ps| ps.to_string()),
            it.kernel.to_string(),
        ]);
    }
    (!table.rows.is_empty()).then_some(table)
}

fn counted(all: All<'_>) -> impl Iterator<Item = (usize, Threads)> {
    all.0.iter().filter_map(|it| Some((it.opened.answered, it.threads?)))
}

fn plots(systems: &[System], all: All<'_>) -> Vec<Plot> {
    let lines = |title: &str, y: &str, figure: &dyn Fn(System, usize) -> Option<Spread>| {
        let series = systems.iter().map(|&system| {
            let points = all.sizes(system).into_iter().filter_map(|connections| {
                // A logarithm has no place for what is nothing or less.
                let y = figure(system, connections).filter(|it| it.low > 0.0)?;
                Some(Point { x: connections as f64, y })
            });
            Series { name: system.name().to_owned(), points: points.collect() }
        });
        let series: Vec<Series> = series.filter(|it| !it.points.is_empty()).collect();
        Plot::Lines { title: title.to_owned(), x: Axis::log("connections"), y: Axis::log(y), series }
    };
    let figure = |of: fn(&Step) -> f64| move |system, n| all.spread(system, n, |it| Some(of(it)));
    vec![
        lines("memory of the whole system", "PSS, MiB", &figure(|it| it.usage.pss_kib as f64 / 1024.0)),
        lines("from connecting to the first answer", "median, ms", &figure(|it| it.opened.median_ms)),
        lines("all connections at work", "answers/s", &figure(|it| it.worked.rate)),
        lines("all connections at work", "p99, ms", &figure(|it| it.worked.p99_ms)),
    ]
}

fn answers(all: All<'_>) -> Vec<Answer> {
    let model = System::Model;
    let (process, thread) = (model(Model::ProcessPerConnection), model(Model::ThreadPerConnection));
    let (prefork, events) = (model(Model::Prefork), model(Model::EventWorkers));
    let mut answers = Vec::new();
    let common = all
        .sizes(prefork)
        .into_iter()
        .filter(|n| all.at(process, *n).next().is_some() && all.at(prefork, *n).all(|it| it.stop.is_none()))
        .max();
    if let Some(n) = common {
        let all_answered =
            [process, prefork].iter().all(|it| all.at(*it, n).all(|step| step.opened.answered == n));
        let open = |system| cell(all.spread(system, n, |it| Some(it.opened.median_ms)));
        answers.push(Answer {
            claim: 4,
            verdict: Verdict::of(all_answered),
            evidence: format!(
                "both served {n} connections at a time with a process each; a client's first answer took {} ms where the \
                 process had been started in advance and {} ms where it was started for the client",
                open(prefork),
                open(process)
            ),
        });
    }
    let counts: Vec<Threads> = counted(all).map(|(_, it)| it).collect();
    if let Some(most) = counts.iter().max_by_key(|it| it.own) {
        let agree = counts.iter().all(|it| it.ps == Some(it.own) && it.kernel == it.own);
        answers.push(Answer {
            claim: 5,
            verdict: if most.ps.is_none() { Verdict::NotMeasured } else { Verdict::of(agree) },
            evidence: format!(
                "the server counted {} threads, `ps huH` wrote {} lines",
                most.own,
                most.ps.map_or_else(|| "no".to_owned(), |ps| ps.to_string())
            ),
        });
    }
    let each = |system| cell(all.kib_each(system));
    if let (Some(of_thread), Some(of_process)) = (all.kib_each(thread), all.kib_each(process)) {
        let (threads, processes) = (all.most(thread), all.most(process));
        answers.push(Answer {
            claim: 6,
            verdict: match (threads >= MANY, processes >= MANY) {
                (true, false) => Verdict::Held,
                // Easy they are; but so many processes fit as well.
                (true, true) => Verdict::InPart,
                (false, _) if all.sizes(thread).last().is_none_or(|top| *top < MANY) => Verdict::NotMeasured,
                (false, _) => Verdict::DidNotHold,
            },
            evidence: format!(
                "{threads} threads and {processes} processes served at a time; a thread took {} KiB, a process {} KiB, \
                 {} times as much",
                each(thread),
                each(process),
                digits(of_process.median / of_thread.median.max(0.001))
            ),
        });
        if let Some(of_event) = all.kib_each(events) {
            answers.push(Answer {
                claim: 9,
                verdict: Verdict::of(
                    of_event.median < of_thread.median && of_event.median < of_process.median,
                ),
                evidence: format!(
                    "a connection took event workers {} KiB and a thread {} KiB",
                    each(events),
                    each(thread)
                ),
            });
        }
    } else {
        answers.push(Answer {
            claim: 6,
            verdict: Verdict::NotMeasured,
            evidence: "threads or processes came no further than the first step; the notes say why"
                .to_owned(),
        });
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::crowd::{Opened, Worked};
    use crate::systems::Usage;

    fn step(model: Model, connections: usize, answered: usize, charged_kib: f64) -> Step {
        Step {
            system: System::Model(model),
            connections,
            started_ms: 1.0,
            opened: Opened { answered, ..Opened::default() },
            usage: Usage::default(),
            charged_kib: Some(charged_kib),
            worked: Worked::default(),
            switches_each: 0.0,
            threads: None,
            stop: None,
        }
    }

    fn verdict(steps: &[Step], claim: u8) -> Option<Verdict> {
        answers(All(steps)).iter().find(|it| it.claim == claim).map(|it| it.verdict)
    }

    #[test]
    fn what_a_connection_takes_is_what_it_adds() {
        let system = System::Model(Model::ThreadPerConnection);
        let steps = [
            step(Model::ThreadPerConnection, 10, 10, 1500.0),
            step(Model::ThreadPerConnection, 110, 110, 6500.0),
        ];
        assert_eq!(All(&steps).kib_each(system).map(|it| it.median), Some(50.0));
    }

    #[test]
    fn of_many_threads_and_processes_it_is_told_only_where_many_were_tried() {
        let ladder = |top: usize, processes: usize| {
            vec![
                step(Model::ThreadPerConnection, 10, 10, 1500.0),
                step(Model::ThreadPerConnection, top, top, 6500.0),
                step(Model::ProcessPerConnection, 10, 10, 5000.0),
                step(Model::ProcessPerConnection, top, processes, 50_000.0),
            ]
        };
        assert_eq!(verdict(&ladder(1000, 1000), 6), Some(Verdict::NotMeasured));
        assert_eq!(verdict(&ladder(MANY, 3000), 6), Some(Verdict::Held));
        assert_eq!(verdict(&ladder(MANY, MANY), 6), Some(Verdict::InPart));
    }

    #[test]
    fn counts_of_threads_have_to_agree() {
        let with = |threads: Threads| Step {
            threads: Some(threads),
            ..step(Model::ThreadPerConnection, 10, 10, 0.0)
        };
        let counted = |ps| [with(Threads { own: 12, ps, kernel: 12 })];
        assert_eq!(verdict(&counted(Some(12)), 5), Some(Verdict::Held));
        assert_eq!(verdict(&counted(Some(11)), 5), Some(Verdict::DidNotHold));
        assert_eq!(verdict(&counted(None), 5), Some(Verdict::NotMeasured));
    }
}
