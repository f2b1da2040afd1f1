//! What came out of dinners, as tables, plots and answers. Pure.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::record::{Diary, Doing};
use super::table::{Dinner, Way};
use super::{PARTIES, Seen, Shown};
use crate::findings::{Answer, Axis, Bar, Lane, Outcome, Plot, Point, Series, Span, Table, Verdict};
use crate::stats::{Spread, digits};

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) stuck: Vec<Stuck>,
    pub(super) remedies: Vec<Fixed>,
    pub(super) pictures: Vec<(Way, Vec<Diary>)>,
    /// What the kernel showed of the slow dinner that got stuck.
    pub(super) kernel: Option<Vec<Shown>>,
    /// What was not measured, and why.
    pub(super) not_run: Vec<String>,
}

/// A dinner without a remedy.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Stuck {
    pub(super) parties: usize,
    pub(super) reach_us: u64,
    /// Whether it was stuck before patience was at its end.
    pub(super) stuck: bool,
    /// Whether that was concluded from silence, because the kernel does not show on what its threads sleep.
    pub(super) guessed: bool,
    /// Of all together, until then.
    pub(super) meals: u64,
    /// Until the last meal.
    pub(super) lasted_ms: f64,
}

/// A dinner with one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Fixed {
    pub(super) parties: usize,
    pub(super) way: Way,
    pub(super) lasted_s: f64,
    /// Whether somebody did not get up in the end.
    pub(super) stuck: bool,
    pub(super) diaries: Vec<Diary>,
}

impl Stuck {
    pub(super) fn of(dinner: Dinner, seen: &Seen) -> Self {
        Self {
            parties: dinner.parties,
            reach_us: dinner.pace.reach,
            stuck: seen.shown.is_some(),
            guessed: seen.shown.iter().flatten().any(|it| it.thread.call == super::Call::Hidden),
            meals: seen.diaries.iter().map(|it| it.meals).sum(),
            lasted_ms: seen.lasted.as_secs_f64() * 1e3,
        }
    }
}

impl Fixed {
    pub(super) fn of(dinner: Dinner, seen: &Seen) -> Self {
        let Dinner { parties, way, .. } = dinner;
        let (lasted_s, stuck) = (seen.lasted.as_secs_f64(), seen.shown.is_some());
        Self { parties, way, lasted_s, stuck, diaries: seen.diaries.clone() }
    }

    fn meals(&self) -> u64 {
        self.diaries.iter().map(|it| it.meals).sum()
    }

    fn per_1000_meals(&self, count: impl Fn(&Diary) -> u64) -> f64 {
        self.diaries.iter().map(count).sum::<u64>() as f64 * 1e3 / self.meals().max(1) as f64
    }

    /// Whether everybody has eaten, and has got up in the end.
    fn went_well(&self) -> bool {
        !self.stuck && self.diaries.iter().all(|it| it.meals > 0)
    }
}

pub(super) fn outcome(figures: &Figures, patience: Duration) -> Outcome {
    let mut plots = vec![until_stuck_plot(&figures.stuck), remedies_plot(&figures.remedies)];
    plots.extend(figures.pictures.iter().map(|(way, diaries)| picture(*way, diaries)));
    let mut tables = vec![until_stuck_table(&figures.stuck), remedies_table(&figures.remedies)];
    tables.extend(figures.kernel.as_deref().map(kernel_table));
    Outcome {
        tables,
        plots,
        answers: vec![answer(figures)],
        notes: notes(figures, patience),
        data: json!({
            "until_stuck": figures.stuck, "remedies": figures.remedies, "kernel": figures.kernel
        }),
    }
}

fn reaches(stuck: &[Stuck]) -> Vec<u64> {
    let mut reaches: Vec<u64> = stuck.iter().map(|it| it.reach_us).collect();
    reaches.sort_unstable();
    reaches.dedup();
    reaches
}

fn until_stuck_table(stuck: &[Stuck]) -> Table {
    let columns = ["parties", "reaching, µs", "got stuck", "meals until then", "ms until then"];
    let mut table = Table::new("no remedy: two locks, taken in opposite order", &columns);
    for parties in PARTIES {
        for reach in reaches(stuck) {
            let of = || stuck.iter().filter(|it| (it.parties, it.reach_us) == (parties, reach));
            let (Some(meals), Some(ms)) =
                (Spread::of(of().map(|it| it.meals as f64)), Spread::of(of().map(|it| it.lasted_ms)))
            else {
                continue;
            };
            let count = of().filter(|it| it.stuck).count();
            let got_stuck = format!("{count} of {}", of().count());
            table.row([parties.to_string(), reach.to_string(), got_stuck, meals.to_string(), ms.to_string()]);
        }
    }
    table
}

fn until_stuck_plot(stuck: &[Stuck]) -> Plot {
    let series = PARTIES.map(|parties| {
        let points = reaches(stuck).into_iter().filter_map(|reach| {
            let of = stuck.iter().filter(|it| (it.parties, it.reach_us) == (parties, reach));
            Some(Point { x: reach as f64, y: Spread::of(of.map(|it| it.meals as f64))? })
        });
        Series { name: format!("{parties} parties"), points: points.collect() }
    });
    Plot::Lines {
        title: "how long it goes well without a remedy, over how long a party reaches for its second lock"
            .to_owned(),
        x: Axis::linear("between the first lock and the second, µs"),
        y: Axis::log("meals until stuck, or until patience was at its end"),
        series: series.to_vec(),
    }
}

fn remedies_table(remedies: &[Fixed]) -> Table {
    let columns = [
        "remedy",
        "parties",
        "meals/s",
        "retries per 1,000 meals",
        "victims per 1,000 meals",
        "fewest of a party, %",
        "got stuck",
    ];
    let mut table = Table::new("the remedies (an equal share would be 100 %)", &columns);
    for way in Way::REMEDIES {
        for parties in PARTIES {
            let of = || remedies.iter().filter(|it| (it.way, it.parties) == (way, parties));
            let figure = |figure: &dyn Fn(&Fixed) -> f64| {
                Spread::of(of().map(figure)).map(|it| it.to_string()).unwrap_or_default()
            };
            table.row([
                way.name().to_owned(),
                parties.to_string(),
                figure(&|it| it.meals() as f64 / it.lasted_s),
                figure(&|it| it.per_1000_meals(|diary| diary.retries)),
                figure(&|it| it.per_1000_meals(|diary| diary.victim)),
                figure(&|it| {
                    let fewest = it.diaries.iter().map(|diary| diary.meals).min().unwrap_or(0);
                    100.0 * fewest as f64 * it.parties as f64 / it.meals().max(1) as f64
                }),
                format!("{} of {}", of().filter(|it| it.stuck).count(), of().count()),
            ]);
        }
    }
    table
}

fn remedies_plot(remedies: &[Fixed]) -> Plot {
    let bars = Way::REMEDIES.iter().flat_map(|&way| {
        PARTIES.iter().filter_map(move |&parties| {
            let of = remedies.iter().filter(|it| (it.way, it.parties) == (way, parties));
            let value = Spread::of(of.map(|it| it.meals() as f64 / it.lasted_s))?;
            Some(Bar { name: way.name().to_owned(), group: format!("{parties} parties"), value })
        })
    });
    Plot::Bars {
        title: "what each remedy leaves to eat".to_owned(),
        value: Axis::linear("meals/s of all together"),
        bars: bars.collect(),
    }
}

/// What is shown of a dinner that got stuck: how it came to that, and that nothing came after.
const SHOWN_US: u64 = 150_000;

fn picture(way: Way, diaries: &[Diary]) -> Plot {
    let last = diaries.iter().flat_map(|it| &it.log).map(|(at, _)| *at).max().unwrap_or(0);
    let (begin, end) = match way {
        Way::Opposite => (last.saturating_sub(SHOWN_US), last + SHOWN_US / 4),
        Way::Ordered | Way::TimeOut | Way::Detection => (0, last),
    };
    let ms = |at: u64| at.clamp(begin, end).saturating_sub(begin) as f64 / 1e3;
    let lanes = diaries.iter().enumerate().map(|(party, diary)| {
        let ends = diary.log.iter().skip(1).map(|(at, _)| *at).chain([end]);
        let spans = diary.log.iter().zip(ends).map(|((from, doing), to)| Span {
            from_ms: ms(*from),
            to_ms: ms(to),
            kind: doing.name().to_owned(),
        });
        Lane { name: format!("party {party}"), spans: spans.filter(|it| it.to_ms > it.from_ms).collect() }
    });
    let title = match way {
        Way::Opposite => "five at a table, each taking its left fork first: the end of it".to_owned(),
        Way::Ordered | Way::TimeOut | Way::Detection => format!("the same five with {}", way.name()),
    };
    let kinds = Doing::ALL.map(|it| it.name().to_owned()).to_vec();
    Plot::Timeline { title, kinds, lanes: lanes.collect(), animated: true }
}

fn kernel_table(shown: &[Shown]) -> Table {
    let mut table = Table::new(
        "five that are stuck, as the kernel shows them in /proc/PID/task/TID/{comm,stat,wchan,syscall}",
        &["thread", "state", "sleeps in", "system call", "that is the lock", "held by"],
    );
    for Shown { thread, wants, held_by } in shown {
        let call = match thread.call {
            super::Call::Futex(address) => format!("futex on {address:#x}"),
            super::Call::Other(number) => format!("number {number}"),
            super::Call::Running => "none".to_owned(),
            super::Call::Hidden => "not shown".to_owned(),
        };
        table.row([
            thread.name.clone(),
            thread.state.to_string(),
            if thread.sleeps_in.is_empty() { "–".to_owned() } else { thread.sleeps_in.clone() },
            call,
            wants.map_or("–".to_owned(), |fork| format!("of fork {fork}")),
            held_by.map_or("–".to_owned(), |party| format!("party {party}")),
        ]);
    }
    table
}

/// Dinners in which there was time between the locks: those of which it was expected that they get stuck.
fn had_time(stuck: &[Stuck]) -> impl Iterator<Item = &Stuck> {
    stuck.iter().filter(|it| it.reach_us >= 200)
}

fn answer(figures: &Figures) -> Answer {
    let (count, of) =
        (had_time(&figures.stuck).filter(|it| it.stuck).count(), had_time(&figures.stuck).count());
    let meals = Spread::of(had_time(&figures.stuck).filter(|it| it.stuck).map(|it| it.meals as f64));
    let well = figures.remedies.iter().filter(|it| it.went_well()).count();
    let not_up = figures.remedies.iter().filter(|it| it.stuck).count();
    let with: u64 = figures.remedies.iter().map(Fixed::meals).sum();
    let remedied = !figures.remedies.is_empty() && well == figures.remedies.len();
    let guessed = figures.stuck.iter().any(|it| it.guessed);
    Answer {
        claim: 12,
        verdict: match (count > 0 && count == of, remedied) {
            // A remedy that fails has failed, whatever can be seen of the rest.
            _ if not_up > 0 => Verdict::DidNotHold,
            _ if guessed || of == 0 || figures.remedies.is_empty() => Verdict::NotMeasured,
            (true, true) => Verdict::Held,
            (false, false) => Verdict::DidNotHold,
            _ => Verdict::InPart,
        },
        evidence: format!(
            "{count} of {of} dinners with 200 µs and more between the locks stopped for ever, after {} meals; with an order, \
             time-outs or detection everybody ate and got up in {well} of {}, {} meals in all{}{}",
            meals.map_or("no".to_owned(), |it| it.to_string()),
            figures.remedies.len(),
            digits(with as f64),
            if not_up > 0 { format!("; {not_up} of them were stuck") } else { String::new() },
            if guessed {
                "; the kernel does not show here on what a thread sleeps, so that a dinner is stuck is a guess"
            } else {
                ""
            }
        ),
    }
}

fn notes(figures: &Figures, patience: Duration) -> Vec<String> {
    let mut notes = vec![
        "A party reaches for its second lock after a sleep, which the kernel makes some 50 µs longer than was asked for; \
         0 µs is no sleep at all."
            .to_owned(),
    ];
    notes.extend(figures.not_run.iter().map(|it| format!("Not measured: {it}")));
    let got_away = figures.stuck.iter().filter(|it| !it.stuck).count();
    if got_away > 0 {
        notes.push(format!(
            "{got_away} of {} dinners without a remedy were not stuck within {} s: they were not safe, they were lucky, and \
             their meals are counted up to then.",
            figures.stuck.len(),
            digits(patience.as_secs_f64())
        ));
    }
    let rate = |way: Way| {
        let of = figures.remedies.iter().filter(|it| (it.way, it.parties) == (way, 5));
        Spread::of(of.map(|it| it.meals() as f64 / it.lasted_s)).map_or(0.0, |it| it.median)
    };
    let mut rates = Way::REMEDIES.map(|way| (way.name(), rate(way)));
    rates.sort_by(|one, other| other.1.total_cmp(&one.1));
    let order: Vec<_> = rates.iter().map(|(name, rate)| format!("{name} ({}/s)", digits(*rate))).collect();
    let as_expected = rates.last().is_some_and(|(name, _)| *name == Way::TimeOut.name());
    notes.push(format!(
        "Expected: the time-out leaves the fewest meals. It came {}: of five parties, from most to fewest, {}.",
        if as_expected { "so" } else { "out differently" },
        order.join(", ")
    ));
    let hidden = figures.kernel.iter().flatten().any(|it| it.thread.call == super::Call::Hidden);
    if hidden {
        notes.push(
            "The kernel does not show this user the system calls of its own threads, so stuck is here who has not eaten for \
             2 s: run it as root, or on a kernel with /proc/PID/syscall."
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    fn diary(meals: u64) -> Diary {
        Diary { meals, retries: 1, victim: 0, log: vec![(0, Doing::Thinks), (1_000, Doing::Eats)] }
    }

    fn figures(stuck: bool, meals: u64) -> Figures {
        let fixed = |way| Fixed {
            parties: 5,
            way,
            lasted_s: 2.0,
            stuck: false,
            diaries: vec![diary(100), diary(meals)],
        };
        Figures {
            stuck: vec![
                Stuck { parties: 2, reach_us: 0, stuck: false, guessed: false, meals: 900, lasted_ms: 5.0 },
                Stuck { parties: 2, reach_us: 200, stuck, guessed: false, meals: 3, lasted_ms: 1.0 },
            ],
            remedies: Way::REMEDIES.map(fixed).to_vec(),
            pictures: vec![(Way::Opposite, vec![diary(1), diary(1)])],
            kernel: None,
            not_run: Vec::new(),
        }
    }

    fn verdict(stuck: bool, meals: u64) -> Verdict {
        answer(&figures(stuck, meals)).verdict
    }

    #[test]
    fn the_claim_holds_if_all_got_stuck_that_had_time_to_and_nobody_with_a_remedy_starved() {
        assert_eq!(verdict(true, 1), Verdict::Held);
        assert_eq!(verdict(true, 0), Verdict::InPart);
        assert_eq!(verdict(false, 1), Verdict::InPart);
        assert_eq!(verdict(false, 0), Verdict::DidNotHold);
    }

    #[test]
    fn a_remedy_that_got_stuck_did_not_hold_and_a_guess_is_no_measurement() {
        let mut stuck = figures(true, 1);
        stuck.remedies[0].stuck = true;
        let said = answer(&stuck);
        assert!(
            said.verdict == Verdict::DidNotHold && said.evidence.contains("1 of them were stuck"),
            "{said:?}"
        );
        let mut guessed = figures(true, 1);
        guessed.stuck[1].guessed = true;
        assert_eq!(answer(&guessed).verdict, Verdict::NotMeasured);
    }

    #[test]
    fn figures_are_of_all_parties_and_per_second() {
        let table = remedies_table(&figures(true, 100).remedies);
        let row = table.rows.iter().find(|row| row[1] == "5").unwrap();
        assert_eq!(row[2..], ["100", "10.0", "0", "250", "0 of 1"].map(str::to_owned));
    }

    #[test]
    fn who_was_lucky_is_named() {
        let notes = notes(&figures(true, 1), Duration::from_secs(5));
        assert!(
            notes
                .iter()
                .any(|it| it.contains("1 of 2 dinners without a remedy were not stuck within 5.00 s")),
            "{notes:?}"
        );
    }

    #[test]
    fn a_picture_shows_how_a_dinner_got_stuck_and_that_it_stayed_so() {
        let mut late = diary(1);
        late.log = vec![(0, Doing::Thinks), (100_000, Doing::Eats), (250_000, Doing::HoldsOne)];
        let Plot::Timeline { lanes, .. } = picture(Way::Opposite, &[late]) else { panic!("no timeline") };
        let shown: Vec<_> = lanes[0].spans.iter().map(|it| (it.from_ms, it.to_ms, &*it.kind)).collect();
        assert_eq!(shown, [(0.0, 150.0, "eats"), (150.0, 187.5, "holds one fork")]);
    }
}
