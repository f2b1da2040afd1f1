//! What the ladders say: pure, from the steps to tables, plots and answers.

use serde_json::json;

use super::stop::{By, Stop};
use super::{Step, Stopped, Threads};
use crate::findings::{Answer, Axis, Outcome, Plot, Point, Series, Table, Verdict, surprise};
use crate::servers::Model;
use crate::stats::{Spread, digits};
use crate::systems::System;

/// Those that it has something to say of.
const CLAIMS: [u8; 4] = [4, 5, 6, 9];

/// From so many on threads are said to be easy, and processes not.
const MANY: usize = 10_000;

pub(super) fn of(systems: &[System], steps: &[Step], stopped: &[Stopped], mut notes: Vec<String>) -> Outcome {
    let all = All(steps);
    notes.extend(surprises(systems, all));
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

    /// What a connection takes at the highest step of which that can be told, as the kernel charges it, or as processes show
    /// it. Of a server that has died it cannot.
    fn kib_each(self, system: System) -> Option<Spread> {
        let charged = |connections| self.each(system, connections, |it| it.charged_kib);
        let told = |connections| charged(connections).or_else(|| self.each(system, connections, pss));
        self.sizes(system).into_iter().rev().find_map(told)
    }

    /// The most connections that were answered.
    fn most(self, system: System) -> usize {
        self.of(system).map(|it| it.opened.answered).max().unwrap_or(0)
    }

    /// Which of these carried the most; of several, the first.
    fn furthest(self, systems: [System; 2]) -> System {
        let [one, other] = systems;
        if self.most(other) > self.most(one) { other } else { one }
    }

    /// What ended the ladder, if it was not the time that there is for it.
    fn end(self, system: System) -> Option<&'a Stop> {
        let stops = || self.of(system).filter_map(|it| Some((it.opened.answered, it.stop.as_ref()?)));
        // One that answered nobody may have failed for any reason, unless it was the lab that did not let it.
        let mut ends = stops().filter(|(answered, stop)| *answered > 0 || stop.by == By::Lab);
        ends.next().map(|(_, stop)| stop)
    }

    /// Whether the machine had no room for more.
    fn was_refused(self, system: System) -> bool {
        self.end(system).is_some_and(|it| it.by == By::Machine)
    }

    /// How far it came, and what ended it.
    fn how_far(self, system: System) -> String {
        let most = digits(self.most(system) as f64);
        match self.end(system) {
            Some(stop) => format!("{most}, then: {stop}"),
            None => format!("{most}, and more were not tried"),
        }
    }
}

fn pss(it: &Step) -> Option<f64> {
    it.usage.pss_kib.map(|kib| kib as f64)
}

/// Of high steps there are fewer rounds than of others, so each cell says when it is of one.
fn cell(spread: Option<Spread>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(it) if it.runs == 1 => format!("{it} (1 run)"),
        Some(it) => it.to_string(),
    }
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
            "clients busy, %",
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
                match all
                    .at(system, connections)
                    .any(|it| it.worked.answered > 0 && it.worked.p99_ms.is_none())
                {
                    true => "too few".to_owned(),
                    false => cell(all.spread(system, connections, |it| it.worked.p99_ms)),
                },
                of(|it| it.switches_each),
                of(|it| it.worked.busy * 100.0),
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
            if let Some(stop) = &it.stop {
                let (asked, answered) = (it.connections.to_string(), it.opened.answered.to_string());
                table.row([system.name().to_owned(), asked, answered, stop.to_string()]);
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
    let known = |of: fn(&Step) -> Option<f64>| move |system, n| all.spread(system, n, of);
    let figure = |of: fn(&Step) -> f64| move |system, n| all.spread(system, n, |it| Some(of(it)));
    vec![
        lines("memory of the whole system", "PSS, MiB", &known(|it| it.usage.pss_mib())),
        lines("from connecting to the first answer", "median, ms", &figure(|it| it.opened.median_ms)),
        lines("all connections at work", "answers/s", &figure(|it| it.worked.rate)),
        lines("all connections at work", "p99, ms", &known(|it| it.worked.p99_ms)),
    ]
}

/// Where it came out differently from what was written down first.
fn surprises(systems: &[System], all: All<'_>) -> Vec<String> {
    /// So many connections at a time all systems were expected to carry.
    const ALL_CARRY: usize = 1000;
    let mut notes = Vec::new();
    for &system in systems {
        for it in all.of(system).filter(|it| it.connections <= ALL_CARRY) {
            if let Some(stop) = &it.stop {
                let was = format!("{} of {} were answered: {stop}", it.opened.answered, it.connections);
                notes.push(surprise(&system.to_string(), &was, "that all systems carry a thousand"));
            }
        }
        let expected = match system {
            System::Model(Model::EventWorkers) => Some((0.0..10.0, "a few KiB")),
            System::Model(Model::ThreadPerConnection) => Some((10.0..100.0, "tens of KiB")),
            System::Model(Model::ProcessPerConnection | Model::Prefork) => {
                Some((100.0..1000.0, "some hundred KiB"))
            }
            _ => None,
        };
        if let (Some((range, words)), Some(each)) = (expected, all.kib_each(system))
            && !range.contains(&each.median)
        {
            notes.push(surprise(&system.to_string(), &format!("{each} KiB for each connection"), words));
        }
    }
    notes
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
        let answered = |system| cell(all.spread(system, n, |it| Some(it.opened.answered as f64)));
        let open = |system| cell(all.spread(system, n, |it| Some(it.opened.median_ms)));
        answers.push(Answer {
            claim: 4,
            verdict: Verdict::of(all_answered),
            evidence: format!(
                "of {n} connections at a time {} were answered where a process for each had been started in advance and {} where \
                 it was started for the client; a client's first answer took {} ms and {} ms",
                answered(prefork),
                answered(process),
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
        // Started in advance or for each client, so many fit or do not.
        let threads = all.furthest([thread, model(Model::ThreadPool)]);
        let processes = all.furthest([process, prefork]);
        answers.push(Answer {
            claim: 6,
            verdict: room(all, threads, processes),
            evidence: format!(
                "served at a time: threads {} ({threads}); processes {} ({processes}); a thread took {} KiB, a process {} KiB, {} \
                 times as much",
                all.how_far(threads),
                all.how_far(processes),
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
                    "a connection took event workers {} KiB, a thread {} KiB and a process {} KiB",
                    each(events),
                    each(thread),
                    each(process)
                ),
            });
        }
    }
    for claim in CLAIMS {
        if !answers.iter().any(|it| it.claim == claim) {
            answers.push(Answer {
                claim,
                verdict: Verdict::NotMeasured,
                evidence: "not all systems that it takes came further than the first step; the notes say why"
                    .to_owned(),
            });
        }
    }
    answers
}

/// Whether there is room for many threads and for not so many processes. What was not tried says nothing: a ladder that
/// was left because the next step would take too long has not been refused, nor has one that ran into the lab's own limits.
fn room(all: All<'_>, thread: System, process: System) -> Verdict {
    let (threads, processes) = (all.most(thread) >= MANY, all.most(process) >= MANY);
    match (threads, processes) {
        (true, false) if all.was_refused(process) => Verdict::Held,
        // Easy they are; but so many processes fit as well, or nobody knows.
        (true, _) => Verdict::InPart,
        (false, _) if all.was_refused(thread) => Verdict::DidNotHold,
        (false, _) => Verdict::NotMeasured,
    }
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
    fn what_a_connection_takes_is_not_told_by_a_server_that_has_died() {
        let system = System::Model(Model::ThreadPerConnection);
        let stop = Some(Stop { by: By::Machine, words: "Cannot allocate memory".to_owned() });
        let steps = [
            step(Model::ThreadPerConnection, 10, 10, 1500.0),
            step(Model::ThreadPerConnection, 110, 110, 6500.0),
            Step { stop, charged_kib: None, ..step(Model::ThreadPerConnection, 1000, 900, 0.0) },
        ];
        assert_eq!(All(&steps).kib_each(system).map(|it| it.median), Some(50.0));
    }

    #[test]
    fn of_many_threads_and_processes_it_is_told_only_where_many_were_tried_and_the_machine_refused() {
        let ladder = |threads: usize, processes: usize, refused: [bool; 2], by: By| {
            let stop = |refused: bool| {
                refused.then(|| Stop { by, words: "Resource temporarily unavailable".to_owned() })
            };
            vec![
                step(Model::ThreadPerConnection, 10, 10, 1500.0),
                Step { stop: stop(refused[0]), ..step(Model::ThreadPerConnection, threads, threads, 6500.0) },
                step(Model::ProcessPerConnection, 10, 10, 5000.0),
                Step {
                    stop: stop(refused[1]),
                    ..step(Model::ProcessPerConnection, processes, processes, 50_000.0)
                },
            ]
        };
        let verdict_by =
            |threads, processes, refused, by| verdict(&ladder(threads, processes, refused, by), 6);
        let verdict = |threads, processes, refused| verdict_by(threads, processes, refused, By::Machine);
        assert_eq!(verdict(1000, 1000, [false, false]), Some(Verdict::NotMeasured));
        assert_eq!(verdict(MANY, 3000, [false, true]), Some(Verdict::Held));
        // The experiment has given up on processes, and not the machine.
        assert_eq!(verdict(MANY, 3000, [false, false]), Some(Verdict::InPart));
        assert_eq!(verdict(MANY, MANY, [false, false]), Some(Verdict::InPart));
        assert_eq!(verdict(3000, 3000, [true, true]), Some(Verdict::DidNotHold));
        // Those that wait in advance count as well as those that are started for a client.
        let mut pools = ladder(3000, 3000, [false, false], By::Machine);
        pools.push(step(Model::ThreadPool, MANY, MANY, 50_000.0));
        assert_eq!(self::verdict(&pools, 6), Some(Verdict::InPart));
        // It was the lab that had no room for more.
        assert_eq!(verdict_by(MANY, 3000, [false, true], By::Lab), Some(Verdict::InPart));
        assert_eq!(verdict_by(3000, 3000, [true, true], By::Lab), Some(Verdict::NotMeasured));
    }

    #[test]
    fn a_step_that_the_lab_does_not_take_is_told_and_hides_nothing_of_the_others() {
        let stop = Stop { by: By::Lab, words: "not tried".to_owned() };
        let process = System::Model(Model::ProcessPerConnection);
        let steps = [
            step(Model::ProcessPerConnection, 10, 10, 1500.0),
            step(Model::ProcessPerConnection, 110, 110, 51_500.0),
            Step::without_start(process, 3000, stop),
        ];
        let all = All(&steps);
        assert_eq!(all.kib_each(process).map(|it| it.median), Some(500.0));
        assert_eq!(all.how_far(process), "110, then: the lab's own limit: not tried");
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
