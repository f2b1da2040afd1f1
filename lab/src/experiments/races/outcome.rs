//! What the rounds say: pure, from bumps and times to tables, plots and answers.

use serde_json::json;

use super::{Round, Way};
use crate::findings::{Answer, Axis, Outcome, Plot, Point, Series, Table, Verdict, surprise};
use crate::stats::{Spread, digits};

/// A rate of this many times one thread's is no gain from more cores: so much is chance.
const NO_GAIN: f64 = 1.2;

/// `few`: rounds of a few bumps.
pub(super) fn of(rounds: &[Round], few: &[Round], cores: usize) -> Outcome {
    let all = All { rounds, cores };
    let mut tables = vec![by_parties(all)];
    let mut plots = vec![Plot::Lines {
        title: "bumps a second over how many bump at once".to_owned(),
        x: Axis::linear("threads or processes at once"),
        y: Axis::linear("million bumps/s"),
        series: lines(|way| {
            all.parties().into_iter().filter_map(move |n| Some((n, all.rate(way, n, cores)?)))
        }),
    }];
    if let Some(kept) = all.kept() {
        tables.push(by_cores(all, kept));
        plots.push(Plot::Lines {
            title: format!("bumps a second of {kept} at once over how many cores they may run on"),
            x: Axis::linear("cores"),
            y: Axis::linear("million bumps/s"),
            series: lines(|way| {
                all.cores_of(kept).into_iter().filter_map(move |n| Some((n, all.rate(way, kept, n)?)))
            }),
        });
    }
    tables.push(of_few(few));
    let mut notes = surprises(all);
    if cores < 2 {
        notes.push("there is one core here: what more of them are good for was not measured".to_owned());
    }
    Outcome {
        tables,
        plots,
        answers: answers(all, few),
        notes,
        data: json!({ "cores": cores, "rounds": rounds, "few": few }),
    }
}

fn lines<P: Iterator<Item = (usize, Spread)>>(points: impl Fn(Way) -> P) -> Vec<Series> {
    let series = Way::ALL.into_iter().map(|way| {
        let points = points(way).map(|(x, y)| Point { x: x as f64, y });
        Series { name: way.name().to_owned(), points: points.collect() }
    });
    series.collect()
}

impl Round {
    fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.counted)
    }

    /// In million bumps a second.
    fn rate(&self) -> f64 {
        self.expected as f64 / self.took_ms / 1e3
    }
}

/// All rounds.
#[derive(Debug, Clone, Copy)]
struct All<'a> {
    rounds: &'a [Round],
    /// Of this machine.
    cores: usize,
}

impl<'a> All<'a> {
    /// In the order in which they were measured.
    fn of(self, way: Way, parties: usize, cores: usize) -> impl Iterator<Item = &'a Round> {
        self.rounds.iter().filter(move |it| (it.way, it.parties, it.cores) == (way, parties, cores))
    }

    /// How many bumped at once on all cores.
    fn parties(self) -> Vec<usize> {
        sorted(self.rounds.iter().filter(|it| it.cores == self.cores).map(|it| it.parties))
    }

    /// How many bumped at once while they were kept to fewer cores; `None`: nobody was.
    fn kept(self) -> Option<usize> {
        self.rounds.iter().find(|it| it.cores < self.cores).map(|it| it.parties)
    }

    /// How many cores so many were on.
    fn cores_of(self, parties: usize) -> Vec<usize> {
        sorted(self.rounds.iter().filter(|it| it.parties == parties).map(|it| it.cores))
    }

    fn rate(self, way: Way, parties: usize, cores: usize) -> Option<Spread> {
        Spread::of(self.of(way, parties, cores).map(Round::rate))
    }

    /// How many times as much was bumped a second as by `than` (at once, on cores), round by round.
    fn times(self, way: Way, (parties, cores): (usize, usize), than: (usize, usize)) -> Option<Spread> {
        let rounds = self.of(way, parties, cores).zip(self.of(way, than.0, than.1));
        Spread::of(rounds.map(|(it, than)| it.rate() / than.rate()))
    }

    /// The most that bumped at once with a core for each, and how many times as fast as one they were.
    fn gain(self, way: Way) -> Option<(usize, Spread)> {
        let most = self.parties().into_iter().filter(|n| (2..=self.cores).contains(n)).max()?;
        Some((most, self.times(way, (most, self.cores), (1, self.cores))?))
    }
}

fn sorted(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

fn by_parties(all: All<'_>) -> Table {
    let mut table = Table::new(
        "a counter, bumped by many at once",
        &["how", "at once", "lost, %", "million bumps/s", "times one alone"],
    );
    let lost = |it: &Round| it.lost() as f64 / it.expected as f64 * 100.0;
    for way in Way::ALL {
        for n in all.parties() {
            table.row([
                way.name().to_owned(),
                n.to_string(),
                cell(Spread::of(all.of(way, n, all.cores).map(lost))),
                cell(all.rate(way, n, all.cores)),
                cell(all.times(way, (n, all.cores), (1, all.cores))),
            ]);
        }
    }
    table
}

fn by_cores(all: All<'_>, kept: usize) -> Table {
    let mut table = Table::new(
        &format!("{kept} at once, kept to fewer cores"),
        &["how", "cores", "million bumps/s", "times one core"],
    );
    for way in Way::ALL {
        for cores in all.cores_of(kept) {
            table.row([
                way.name().to_owned(),
                cores.to_string(),
                cell(all.rate(way, kept, cores)),
                cell(all.times(way, (kept, cores), (kept, 1))),
            ]);
        }
    }
    table
}

fn of_few(few: &[Round]) -> Table {
    let mut table = Table::new(
        "a few bumps, again and again: whether a race shows",
        &["how", "at once", "bumps each", "lost something in"],
    );
    if let Some(first) = few.first() {
        table.row([
            first.way.name().to_owned(),
            first.parties.to_string(),
            (first.expected / first.parties.max(1) as u64).to_string(),
            format!("{} of {} tries", few.iter().filter(|it| it.lost() > 0).count(), few.len()),
        ]);
    }
    table
}

/// Where it came out differently from what was written down first: who loses, and who gains from more cores.
fn surprises(all: All<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for way in Way::ALL {
        for n in all.parties() {
            let lost: Vec<u64> = all.of(way, n, all.cores).map(Round::lost).collect();
            let (least, most) =
                (lost.iter().min().copied().unwrap_or(0), lost.iter().max().copied().unwrap_or(0));
            let loses = way == Way::LoadAndStore && n > 1;
            let expected = if loses { "that some are lost each time" } else { "that none is lost" };
            if loses && least == 0 || !loses && most > 0 {
                let was = format!("between {least} and {most} updates lost a round");
                notes.push(surprise(&format!("{}, {n} at once", way.name()), &was, expected));
            }
        }
        let Some((n, gain)) = all.gain(way) else { continue };
        let gains = way != Way::GlobalLock;
        if (gain.median > NO_GAIN) != gains {
            let expected = if gains { "a gain from more cores" } else { "the rate of one" };
            let was = format!("{} times one alone", digits(gain.median));
            notes.push(surprise(&format!("{}, {n} at once", way.name()), &was, expected));
        }
    }
    notes
}

fn answers(all: All<'_>, few: &[Round]) -> Vec<Answer> {
    vec![unpredictable(all, few), synchronised(all), one_lock(all)]
}

/// Rounds of as many at once are compared with each other, of those of which the most was lost: more at once lose more for
/// that reason alone.
fn unpredictable(all: All<'_>, few: &[Round]) -> Answer {
    let lost = |n: usize| -> Vec<u64> { all.of(Way::LoadAndStore, n, all.cores).map(Round::lost).collect() };
    let rounds = all.parties().into_iter().filter(|n| *n > 1).map(|n| (n, lost(n)));
    let (n, lost) = rounds.max_by_key(|(_, lost)| lost.iter().max().copied()).unwrap_or_default();
    let (least, most) = (lost.iter().min().copied().unwrap_or(0), lost.iter().max().copied().unwrap_or(0));
    let clean = few.iter().filter(|it| it.lost() == 0).count();
    Answer {
        claim: 13,
        verdict: match (least != most, clean > 0) {
            _ if most == 0 => Verdict::DidNotHold,
            (true, true) => Verdict::Held,
            (true, false) | (false, true) => Verdict::InPart,
            (false, false) => Verdict::DidNotHold,
        },
        evidence: format!(
            "by load and store {n} at once lost between {} and {} updates in {} rounds; of a few bumps nothing was lost in {clean} of {} tries",
            digits(least as f64),
            digits(most as f64),
            lost.len(),
            few.len()
        ),
    }
}

fn synchronised(all: All<'_>) -> Answer {
    let rounds = |way: Way| all.rounds.iter().filter(move |it| it.way == way && it.parties > 1);
    let lost = |way: Way| rounds(way).map(Round::lost).sum::<u64>();
    let (kept, others): (Vec<Way>, Vec<Way>) =
        Way::ALL.into_iter().filter(|way| *way != Way::LoadAndStore).partition(|way| lost(*way) == 0);
    let names = |ways: &[Way]| ways.iter().map(|it| it.name()).collect::<Vec<_>>().join("; ");
    let mut evidence = format!(
        "load and store lost {} updates in {} rounds",
        digits(lost(Way::LoadAndStore) as f64),
        rounds(Way::LoadAndStore).count()
    );
    for (ways, what) in [(&kept, "nothing was lost by"), (&others, "something was lost also by")] {
        if !ways.is_empty() {
            evidence += &format!("; {what}: {}", names(ways));
        }
    }
    Answer { claim: 11, verdict: Verdict::of(others.is_empty() && lost(Way::LoadAndStore) > 0), evidence }
}

fn one_lock(all: All<'_>) -> Answer {
    // What the cores are good for shows where nothing is shared: an atomic add is passed from core to core.
    let (Some((n, global)), Some((_, apart))) = (all.gain(Way::GlobalLock), all.gain(Way::Processes)) else {
        let evidence = "there is one core here, over which nothing can be spread".to_owned();
        return Answer { claim: 14, verdict: Verdict::NotMeasured, evidence };
    };
    let lost: u64 = all.rounds.iter().filter(|it| it.way == Way::GlobalLock).map(Round::lost).sum();
    let useless = global.median < NO_GAIN && apart.median > NO_GAIN;
    Answer {
        claim: 14,
        verdict: match (lost == 0, useless) {
            (true, true) => Verdict::Held,
            (false, false) => Verdict::DidNotHold,
            _ => Verdict::InPart,
        },
        evidence: format!(
            "{n} threads on {} cores: {global} times one thread's rate under the global lock, which lost {lost} updates; {n} processes that share nothing did {apart} times as much as one",
            all.cores
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORES: usize = 3;

    fn round(way: Way, parties: usize, lost: u64, took_ms: f64) -> Round {
        let expected = 1000 * parties as u64;
        Round { way, parties, cores: CORES, expected, counted: expected - lost, took_ms }
    }

    /// Two rounds on three cores; under the global lock three take three times as long.
    fn rounds(lost: [u64; 2], atomic_ms: f64) -> Vec<Round> {
        let of = |lost: u64| {
            let one = Way::ALL.map(|way| round(way, 1, 0, 1.0));
            let three = Way::ALL.map(|way| match way {
                Way::LoadAndStore => round(way, 3, lost, 1.0),
                Way::GlobalLock => round(way, 3, 0, 3.0),
                _ => round(way, 3, 0, atomic_ms),
            });
            one.into_iter().chain(three)
        };
        lost.into_iter().flat_map(of).collect()
    }

    fn verdict(rounds: &[Round], few: &[Round], claim: u8) -> Option<Verdict> {
        let outcome = of(rounds, few, CORES);
        outcome.answers.iter().find(|it| it.claim == claim).map(|it| it.verdict)
    }

    #[test]
    fn on_any_number_of_cores_there_is_a_gain_and_it_is_a_number() {
        let few = [round(Way::LoadAndStore, 2, 0, 0.1)];
        for (claim, expected) in [(14, Verdict::Held), (11, Verdict::Held), (13, Verdict::Held)] {
            assert_eq!(verdict(&rounds([5, 9], 1.0), &few, claim), Some(expected), "{claim}");
        }
        let outcome = of(&rounds([5, 9], 1.0), &few, CORES);
        assert!(outcome.answers.iter().all(|it| !it.evidence.contains("NaN")), "{:?}", outcome.answers);
        assert!(outcome.notes.is_empty(), "{:?}", outcome.notes);
    }

    #[test]
    fn losses_that_are_the_same_each_time_or_always_show_are_half_of_the_claim() {
        let (clean, lossy) = (round(Way::LoadAndStore, 2, 0, 0.1), round(Way::LoadAndStore, 2, 1, 0.1));
        assert_eq!(verdict(&rounds([5, 5], 1.0), &[clean], 13), Some(Verdict::InPart));
        assert_eq!(verdict(&rounds([5, 9], 1.0), &[lossy], 13), Some(Verdict::InPart));
        assert_eq!(verdict(&rounds([0, 0], 1.0), &[clean], 13), Some(Verdict::DidNotHold));
    }

    #[test]
    fn cores_that_are_good_for_nothing_without_a_global_lock_say_nothing_against_it() {
        assert_eq!(verdict(&rounds([5, 9], 3.0), &[], 14), Some(Verdict::InPart));
        let notes = of(&rounds([5, 9], 3.0), &[], CORES).notes;
        assert!(
            notes.iter().any(|it| it.contains("atomic add, 3 at once: 1.00 times one alone")),
            "{notes:?}"
        );
    }
}
