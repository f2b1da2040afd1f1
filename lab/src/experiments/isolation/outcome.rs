//! What the rounds of all cells say together, as tables, a heat map and answers. Pure.

use serde_json::json;

use super::judge::{Damage, Harm};
use super::{Fault, Record, expected};
use crate::findings::{Answer, HeatCell, HeatKey, HeatRow, Outcome, Plot, Table, Verdict};
use crate::servers::Model;
use crate::stats::Spread;
use crate::systems::System;

/// What the rounds of one cell say together.
struct Cell {
    system: System,
    fault: Fault,
    damages: Vec<Damage>,
    not_run: Option<String>,
}

impl Cell {
    /// The worst of all rounds.
    fn harm(&self) -> Option<Harm> {
        self.damages.iter().map(Damage::harm).max()
    }

    fn expected(&self) -> Option<Harm> {
        let nth = Fault::ALL.iter().position(|it| *it == self.fault)?;
        expected(self.system)?.get(nth).copied()
    }

    /// In every round.
    fn as_expected(&self) -> Option<bool> {
        let expected = self.expected()?;
        (!self.damages.is_empty()).then(|| self.damages.iter().all(|it| it.harm() == expected))
    }

    /// In any round, and each time that it was tried again.
    fn machine_stood_still(&self) -> bool {
        self.damages.iter().any(Damage::machine_stood_still)
    }

    fn spread(&self, figure: impl Fn(&Damage) -> f64) -> Option<Spread> {
        Spread::of(self.damages.iter().map(figure))
    }

    fn text(&self) -> String {
        match (self.damages.first(), self.harm()) {
            (Some(first), Some(harm)) => {
                let hit = self.damages.iter().map(|it| it.hit).max().unwrap_or(0);
                let still = if self.machine_stood_still() { " !" } else { "" };
                format!("{hit}/{}{}{still}", first.kept, harm.suffix())
            }
            _ => "not run".to_owned(),
        }
    }

    /// As above, with the sign of what came out differently, which the heat map has of its own.
    fn marked(&self) -> String {
        let sign = if self.as_expected() == Some(false) { " ≠" } else { "" };
        self.text() + sign
    }

    fn detail(&self) -> String {
        let Some(harm) = self.harm() else {
            return format!("not run: {}", self.not_run.as_deref().unwrap_or("it was not asked for"));
        };
        let expected = self.expected().map_or(String::new(), |it| format!("; expected: {}", it.words()));
        let outage = self.spread(|it| it.longest_ms).map_or(String::new(), |it| it.to_string());
        let newcomers: u64 = self.damages.iter().map(|it| it.newcomers_failed).sum();
        let late = self.spread(|it| it.newcomers_longest_ms).map_or(String::new(), |it| it.to_string());
        let still = if self.machine_stood_still() {
            "; the machine itself stood still, each time that this was tried: whoever is on it is hit"
        } else {
            ""
        };
        let failures = self.damages.iter().flat_map(|it| &it.failures);
        let mut how: Vec<&str> = failures.map(|(failure, _)| failure.as_str()).collect();
        how.sort_unstable();
        how.dedup();
        let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
        let back = if self.damages.iter().any(|it| it.back_ms.is_none()) {
            "not back while it was looked at".to_owned()
        } else {
            let back = self.spread(|it| it.back_ms.unwrap_or(0.0));
            format!("full capacity back after {} ms", back.map_or(String::new(), |it| it.to_string()))
        };
        format!(
            "{}{expected}; the longest that a connected client waited: {outage} ms, a newcomer: {late} ms; newcomers' requests that failed: {newcomers}{how}; {back}{still}",
            harm.words()
        )
    }
}

pub(super) fn outcome(
    systems: &[System],
    faults: &[Fault],
    records: &[Record],
    missing: Vec<String>,
) -> Option<Outcome> {
    let cell = |system: System, fault: Fault| {
        let mut cell = Cell { system, fault, damages: Vec::new(), not_run: None };
        for record in records.iter().filter(|it| it.system == system && it.fault == fault) {
            match &record.result {
                Ok(damage) => cell.damages.push(damage.clone()),
                Err(why) => cell.not_run = Some(why.not_run.clone()),
            }
        }
        cell
    };
    let first = records.iter().find_map(|it| it.result.as_ref().ok())?;
    let columns: Vec<&str> =
        std::iter::once("system").chain(faults.iter().map(|fault| fault.name())).collect();
    let mut hits = Table::new(
        &format!(
            "of {} other clients that were connected, so many failed or stalled in the worst round",
            first.kept
        ),
        &columns,
    );
    let mut waits = Table::new("the longest that one of them had no answer, ms", &columns);
    let mut late = Table::new("the longest that a newcomer had none, ms", &columns);
    let mut naps = Table::new("the longest that the machine held up a mere sleeper meanwhile, ms", &columns);
    let mut backs = Table::new("until as much was answered again as before, ms", &columns);
    let (mut rows, mut notes) = (Vec::new(), vec![LEGEND.to_owned()]);
    for &system in systems {
        let cells: Vec<_> = faults.iter().map(|&fault| cell(system, fault)).collect();
        let row = |text: &dyn Fn(&Cell) -> String| {
            std::iter::once(system.name().to_owned()).chain(cells.iter().map(text)).collect::<Vec<_>>()
        };
        hits.row(row(&Cell::marked));
        let figure =
            |it: &Cell, of: fn(&Damage) -> f64| it.spread(of).map_or("–".to_owned(), |it| it.to_string());
        waits.row(row(&|it| figure(it, |it| it.longest_ms)));
        late.row(row(&|it| figure(it, |it| it.newcomers_longest_ms)));
        naps.row(row(&|it| figure(it, |it| it.machine_ms)));
        backs.row(row(&|it| match it.spread(|it| it.back_ms.unwrap_or(f64::NAN)) {
            Some(back) => back.to_string(),
            None if it.damages.is_empty() => "–".to_owned(),
            None => "not back".to_owned(),
        }));
        for it in &cells {
            if it.as_expected() != Some(true) {
                notes.push(format!("{system}, {}: {}", it.fault.name(), it.detail()));
            }
        }
        let heat = |it: &Cell| HeatCell {
            text: it.text(),
            heat: it.harm().map(Harm::heat),
            expected: it.as_expected(),
            detail: it.detail(),
        };
        rows.push(HeatRow { name: system.name().to_owned(), cells: cells.iter().map(heat).collect() });
    }
    notes.extend(missing);
    let map = Plot::HeatMap {
        title: "who else is hit by one client's fault".to_owned(),
        columns: faults.iter().map(|fault| fault.name().to_owned()).collect(),
        rows,
        key: Harm::ALL.map(|it| HeatKey { heat: it.heat(), text: it.words().to_owned() }).to_vec(),
    };
    let worst = |system: System, fault: Fault| cell(system, fault).harm();
    Some(Outcome {
        tables: vec![hits, waits, late, naps, backs],
        plots: vec![map],
        answers: answers(systems, faults, &worst),
        notes,
        data: json!({ "records": records }),
    })
}

const LEGEND: &str = "cells: clients hit / clients connected, in the worst round; + newcomers were not served, or late; ! the machine itself stood still; ∞ somebody was still out when the measurement ended; \
     ≠ came out differently from what was written down first";

/// What the worst of each cell says about the claims.
fn answers(
    systems: &[System],
    faults: &[Fault],
    worst: &dyn Fn(System, Fault) -> Option<Harm>,
) -> Vec<Answer> {
    let crashes = || Fault::CRASHES.iter().copied().filter(|it| faults.contains(it));
    let of = |models: &[Model], faults: &mut dyn Iterator<Item = Fault>| -> Vec<(System, Fault, Harm)> {
        let systems = models.iter().map(|it| System::Model(*it)).filter(|it| systems.contains(it));
        let systems: Vec<_> = systems.collect();
        faults
            .flat_map(|fault| systems.iter().filter_map(move |&it| Some((it, fault, worst(it, fault)?))))
            .collect()
    };
    let answer = |claim: u8, cells: Vec<(System, Fault, Harm)>, good: &dyn Fn(Harm) -> bool, what: &str| {
        let held = cells.iter().filter(|(.., harm)| good(*harm)).count();
        let others: Vec<_> = cells
            .iter()
            .filter(|(.., harm)| !good(*harm))
            .map(|(system, fault, harm)| format!("{system}, {}: {}", fault.name(), harm.words()))
            .collect();
        let but = if others.is_empty() { String::new() } else { format!("; but {}", others.join("; ")) };
        Answer {
            claim,
            verdict: match (held, cells.len()) {
                (_, 0) => Verdict::NotMeasured,
                (held, all) if held == all => Verdict::Held,
                (0, _) => Verdict::DidNotHold,
                _ => Verdict::InPart,
            },
            evidence: format!("{what} in {held} of {} cells{but}", cells.len()),
        }
    };
    let threads = [Model::ThreadPerConnection, Model::ThreadPool];
    let processes = [Model::ProcessPerConnection, Model::Prefork];
    let alone = crashes().chain(Fault::ALL.into_iter().filter(|it| !Fault::CRASHES.contains(it)));
    vec![
        answer(
            1,
            of(&processes, &mut alone.into_iter().filter(|it| faults.contains(it))),
            &|harm| harm == Harm::Nobody,
            "with a process for each client, and with prefork, a fault hit nobody else",
        ),
        answer(
            7,
            of(&threads, &mut crashes()),
            &|harm| harm == Harm::AllForGood,
            "a crash in one thread ended all clients for good",
        ),
        answer(
            8,
            of(&[Model::Hybrid], &mut crashes()),
            &|harm| harm == Harm::Some,
            "a crash in a process with threads hit those of that process, who were served again",
        ),
        answer(
            9,
            of(&[Model::EventWorkers], &mut crashes()),
            &|harm| harm == Harm::Some,
            "the death of one event worker hit its own clients, who were served again",
        ),
    ]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]
mod tests {
    use super::super::NotRun;
    use super::*;

    fn damage(hit: usize, out: usize) -> Damage {
        Damage {
            kept: 10,
            hit,
            failed: hit,
            out,
            newcomers_hit: 0,
            newcomers_failed: 0,
            failures: Vec::new(),
            newcomers_out: false,
            longest_ms: 20.0,
            newcomers_longest_ms: 20.0,
            stall_ms: 250.0,
            machine_ms: 6.0,
            back_ms: (out == 0).then_some(0.0),
        }
    }

    fn record(model: Model, fault: Fault, hit: usize, out: usize) -> Record {
        Record { system: System::Model(model), fault, result: Ok(damage(hit, out)) }
    }

    fn verdict(outcome: &Outcome, claim: u8) -> Option<Verdict> {
        outcome.answers.iter().find(|it| it.claim == claim).map(|it| it.verdict)
    }

    #[test]
    fn what_came_out_as_expected_is_no_note_and_answers_the_claims() {
        let systems = [Model::Prefork, Model::ThreadPool, Model::Hybrid].map(System::Model);
        let records = [
            record(Model::Prefork, Fault::Segfault, 0, 0),
            record(Model::ThreadPool, Fault::Segfault, 10, 10),
            record(Model::Hybrid, Fault::Segfault, 4, 0),
        ];
        let outcome = outcome(&systems, &[Fault::Segfault], &records, Vec::new()).unwrap();
        assert_eq!(outcome.notes, [LEGEND]);
        for claim in [1, 7, 8] {
            assert_eq!(verdict(&outcome, claim), Some(Verdict::Held), "{claim}: {:?}", outcome.answers);
        }
        assert_eq!(verdict(&outcome, 9), Some(Verdict::NotMeasured));
    }

    #[test]
    fn what_came_out_differently_in_one_round_is_said() {
        let systems = [System::Model(Model::Prefork)];
        let records =
            [record(Model::Prefork, Fault::Abort, 0, 0), record(Model::Prefork, Fault::Abort, 3, 0)];
        let outcome = outcome(&systems, &[Fault::Abort], &records, Vec::new()).unwrap();
        assert!(outcome.notes.iter().any(|note| note.contains("prefork, abort")), "{:?}", outcome.notes);
        assert_eq!(verdict(&outcome, 1), Some(Verdict::DidNotHold));
        let Some(Plot::HeatMap { rows, .. }) = outcome.plots.first() else { panic!("no heat map") };
        assert_eq!(rows[0].cells[0].text, "3/10");
        assert_eq!(rows[0].cells[0].expected, Some(false));
        assert_eq!(outcome.tables[0].rows[0][1], "3/10 ≠");
    }

    #[test]
    fn what_was_not_run_says_why() {
        let system = System::Model(Model::Prefork);
        let not_run = NotRun { not_run: "no limit".to_owned() };
        let records = [
            record(Model::Prefork, Fault::Abort, 0, 0),
            Record { system, fault: Fault::ForkBomb, result: Err(not_run) },
        ];
        let outcome = outcome(&[system], &[Fault::Abort, Fault::ForkBomb], &records, Vec::new()).unwrap();
        assert!(outcome.notes.iter().any(|note| note.contains("fork bomb: not run: no limit")));
        assert_eq!(outcome.tables[0].rows[0][2], "not run");
    }

    #[test]
    fn what_only_newcomers_feel_is_held_against_processes_too() {
        let system = Model::ProcessPerConnection;
        let mut bomb = record(system, Fault::ForkBomb, 0, 0);
        bomb.result = Ok(Damage { newcomers_hit: 1, ..damage(0, 0) });
        let records = [record(system, Fault::Segfault, 0, 0), bomb];
        let faults = [Fault::Segfault, Fault::ForkBomb];
        let outcome = outcome(&[System::Model(system)], &faults, &records, Vec::new()).unwrap();
        assert_eq!(verdict(&outcome, 1), Some(Verdict::InPart), "{:?}", outcome.answers);
        assert_eq!(outcome.tables[0].rows[0][2], "0/10 +");
    }

    #[test]
    fn a_cell_says_that_the_machine_stood_still() {
        let mut hog = record(Model::Prefork, Fault::Hog, 10, 0);
        hog.result = Ok(Damage { machine_ms: 400.0, ..damage(10, 0) });
        let outcome = outcome(&[System::Model(Model::Prefork)], &[Fault::Hog], &[hog], Vec::new()).unwrap();
        assert_eq!(outcome.tables[0].rows[0][1], "10/10 ! ≠");
        assert!(outcome.notes.iter().any(|it| it.contains("the machine itself stood still, each time")));
    }
}
