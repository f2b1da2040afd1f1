//! What the notes say: pure, from what was noted to tables, timelines and answers.

use serde::Serialize;
use serde_json::json;

use super::notes::Lane;
use super::{Arrangement, Deed, SCENES, Scene};
use crate::findings::{self, Answer, Outcome, Plot, Span, Table, Verdict, surprise};
use crate::stats::{Spread, digits};

/// A scene that was played. Times are in ns on the clock that all processes share.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub scene: Scene,
    pub start: u64,
    pub greedy: Lane,
    pub interactive: Vec<Lane>,
}

/// A scene in which somebody tried to end the greedy task.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub arrangement: Arrangement,
    /// When the order was given.
    pub ordered: u64,
    /// When the greedy task would have had enough by itself.
    pub own_end: u64,
    /// When it was last at it.
    pub last: u64,
    pub interactive: Vec<Lane>,
}

/// What one run comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Figures {
    /// Steps that were due while the greedy task was at it.
    due: usize,
    /// Steps that were done in that time, begun in it or before.
    done: usize,
    /// Of the steps that were due in it.
    median_ms: f64,
    worst_ms: f64,
    /// How much of that time the greedy task had the processor, in percent.
    share: f64,
}

/// What came of an order to end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Fate {
    /// From the order to when the greedy task was last at it.
    went_on_ms: f64,
    /// Whether that was before it would have had enough by itself.
    was_ended: bool,
    /// Interactive tasks that still did steps later than that.
    others_left: usize,
}

fn ms(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

fn figures(run: &Run) -> Figures {
    let (from, to) = (run.greedy.began, run.greedy.ended);
    let during = |at: u64| from < at && at < to;
    let steps = || run.interactive.iter().flat_map(|lane| lane.steps.iter().copied());
    let latencies: Vec<f64> =
        steps().filter(|(due, _)| during(*due)).map(|(due, done)| ms(due, done)).collect();
    let spread = Spread::of(latencies.iter().copied());
    let had: f64 = run.greedy.spans.iter().map(|&(from, to)| ms(from, to)).sum();
    Figures {
        due: latencies.len(),
        done: steps().filter(|(_, done)| during(*done)).count(),
        median_ms: spread.map_or(f64::NAN, |it| it.median),
        worst_ms: spread.map_or(f64::NAN, |it| it.high),
        share: if to > from { had / ms(from, to) * 100.0 } else { 0.0 },
    }
}

fn fate(ending: &Ending) -> Fate {
    let goes_on = |lane: &&Lane| lane.steps.iter().any(|(due, _)| *due > ending.own_end);
    Fate {
        went_on_ms: ms(ending.ordered, ending.last),
        was_ended: ending.last < ending.own_end,
        others_left: ending.interactive.iter().filter(goes_on).count(),
    }
}

pub(super) fn of(runs: &[Run], endings: &[Ending], mut notes: Vec<String>) -> Outcome {
    let all: Vec<(Scene, Figures)> = runs.iter().map(|run| (run.scene, figures(run))).collect();
    let fates: Vec<(Arrangement, Fate)> = endings.iter().map(|it| (it.arrangement, fate(it))).collect();
    notes.extend(surprises(&all, &fates));
    notes.push(
        "a timer of the event loop is exact to 1 ms, one of a thread to some 0.1 ms: so much of a latency is not waiting"
            .to_owned(),
    );
    Outcome {
        tables: vec![latency_table(&all), ending_table(&fates)],
        plots: SCENES
            .iter()
            .filter_map(|scene| timeline(runs.iter().find(|it| it.scene == *scene)?))
            .collect(),
        answers: answers(&all, &fates),
        notes,
        data: json!({
            "scenes": all.iter().map(|(scene, figures)| json!({ "scene": scene, "figures": figures })).collect::<Vec<_>>(),
            "endings": fates.iter().map(|(how, fate)| json!({ "arrangement": how, "fate": fate })).collect::<Vec<_>>(),
        }),
    }
}

fn latency_table(all: &[(Scene, Figures)]) -> Table {
    let mut table = Table::new(
        "interactive tasks beside a greedy one, on one core",
        &["how", "steps due", "done meanwhile", "median, ms", "worst, ms", "the greedy one had, %"],
    );
    for scene in SCENES {
        let cell = |figure: fn(&Figures) -> f64| {
            let values = all.iter().filter(|(of, _)| *of == scene).map(|(_, figures)| figure(figures));
            Spread::of(values).map_or_else(|| "not run".to_owned(), |it| it.to_string())
        };
        table.row([
            scene.name(),
            cell(|it| it.due as f64),
            cell(|it| it.done as f64),
            cell(|it| it.median_ms),
            cell(|it| it.worst_ms),
            cell(|it| it.share),
        ]);
    }
    table
}

fn ending_table(fates: &[(Arrangement, Fate)]) -> Table {
    let mut table = Table::new(
        "the greedy task is ordered to end in the middle of its time",
        &["how", "by", "went on for, ms", "was ended", "others left, of 4"],
    );
    for arrangement in super::ENDINGS {
        let of = || fates.iter().filter(|(how, _)| *how == arrangement).map(|(_, fate)| fate);
        let (Some(went_on), Some(left)) =
            (Spread::of(of().map(|it| it.went_on_ms)), Spread::of(of().map(|it| it.others_left as f64)))
        else {
            continue;
        };
        let ended = of().filter(|it| it.was_ended).count();
        let by = match arrangement {
            Arrangement::Threads => "SIGKILL to the thread",
            Arrangement::EventLoop | Arrangement::EventLoopMovedOff => "abort() of the task",
            _ => "SIGKILL to the process",
        };
        table.row([
            arrangement.name().to_owned(),
            by.to_owned(),
            went_on.to_string(),
            format!("{ended} of {}", of().count()),
            left.to_string(),
        ]);
    }
    table
}

/// Who ran when, from a little before the greedy task to a little after it.
fn timeline(run: &Run) -> Option<Plot> {
    const MARGIN: u64 = 40_000_000;
    run.scene.deed?;
    let (from, to) = (run.greedy.began.saturating_sub(MARGIN).max(run.start), run.greedy.ended + MARGIN);
    let span = |(begin, end): (u64, u64), kind: &str| {
        let (begin, end) = (begin.max(from), end.min(to));
        (begin < end).then(|| Span { from_ms: ms(from, begin), to_ms: ms(from, end), kind: kind.to_owned() })
    };
    let lane = |name: String, of: &Lane, wanted: &[(u64, u64)], otherwise: &str| {
        let runs = of.spans.iter().filter_map(|&it| span(it, "runs"));
        let waits = without(wanted, &of.spans).into_iter().filter_map(|it| span(it, otherwise));
        let mut spans: Vec<Span> = runs.chain(waits).collect();
        spans.sort_by(|one, other| one.from_ms.total_cmp(&other.from_ms));
        findings::Lane { name, spans }
    };
    let otherwise = if run.scene.deed == Some(Deed::Blocks) { "blocks" } else { "waits" };
    let at_it = [(run.greedy.began, run.greedy.ended)];
    let mut lanes = vec![lane("greedy".to_owned(), &run.greedy, &at_it, otherwise)];
    for (nth, of) in run.interactive.iter().enumerate() {
        lanes.push(lane(format!("interactive {}", nth + 1), of, &of.steps, "waits"));
    }
    let kinds = ["runs", "waits", "blocks"].map(str::to_owned).to_vec();
    Some(Plot::Timeline { title: run.scene.name(), kinds, lanes, animated: false })
}

/// What is left of `wanted` where it is not covered by `had`. Of the stretches of `wanted` the later may begin before
/// the earlier has ended, as steps do that are due while the one before still waits; it is not told twice.
fn without(wanted: &[(u64, u64)], had: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut told = 0;
    for &(from, to) in wanted {
        let start = from.max(told);
        let mut from = start;
        for &(begin, end) in had.iter().filter(|(begin, end)| *end > start && *begin < to) {
            if begin > from {
                left.push((from, begin));
            }
            from = from.max(end);
        }
        if from < to {
            left.push((from, to));
        }
        told = told.max(to);
    }
    left
}

/// A step that is done later than this after it was due is late, in ms: people take twice that for at once.
const IN_TIME_MS: f64 = 50.0;

impl Figures {
    /// Whether those beside the greedy task did their steps, half of them in time.
    fn goes_on(&self) -> bool {
        self.done > 0 && self.median_ms <= IN_TIME_MS
    }
}

/// Whether a scene came out as expected: the others go on where the kernel decides, and do nothing at all on the loop.
fn as_expected(scene: Scene, figures: &Figures) -> bool {
    match scene.deed {
        None => true,
        Some(_) if scene.arrangement.is_preemptive() => figures.goes_on(),
        Some(_) => figures.done == 0,
    }
}

/// What was expected of an order to end.
fn expected_fate(arrangement: Arrangement) -> (bool, bool) {
    match arrangement {
        Arrangement::Threads => (true, false),
        Arrangement::EventLoop | Arrangement::EventLoopMovedOff => (false, true),
        _ => (true, true),
    }
}

fn surprises(all: &[(Scene, Figures)], fates: &[(Arrangement, Fate)]) -> Vec<String> {
    let mut notes = Vec::new();
    for (scene, figures) in all.iter().filter(|(scene, figures)| !as_expected(*scene, figures)) {
        let was = format!(
            "{} of {} steps done meanwhile, in the median {} ms after they were due",
            figures.done,
            figures.due,
            digits(figures.median_ms)
        );
        let expected = match scene.arrangement.is_preemptive() {
            true => format!("steps, half of them within {IN_TIME_MS} ms"),
            false => "no step".to_owned(),
        };
        notes.push(surprise(&scene.name(), &was, &expected));
    }
    for (arrangement, fate) in fates {
        if (fate.was_ended, fate.others_left > 0) != expected_fate(*arrangement) {
            let (ended, left) = expected_fate(*arrangement);
            let words = |ended: bool| if ended { "ended" } else { "did not end" };
            notes.push(surprise(
                &format!("{}, the greedy task ordered to end", arrangement.name()),
                &format!("it {}, and {} of the others were left", words(fate.was_ended), fate.others_left),
                &format!(
                    "that it {}, and {}",
                    words(ended),
                    if left { "the others are left" } else { "nobody is left" }
                ),
            ));
        }
    }
    notes
}

fn answers(all: &[(Scene, Figures)], fates: &[(Arrangement, Fate)]) -> Vec<Answer> {
    let worst = |arrangement: Arrangement, deed: Deed| {
        let scene = Scene { arrangement, deed: Some(deed) };
        let values = all.iter().filter(|(of, _)| *of == scene).map(|(_, figures)| figures.worst_ms);
        Spread::of(values).map_or_else(|| "not measured".to_owned(), |it| format!("{} ms", digits(it.median)))
    };
    let goes_on = |wanted: &dyn Fn(Scene) -> bool| {
        let mut of = all.iter().filter(|(scene, _)| wanted(*scene)).peekable();
        of.peek().is_some().then(|| of.all(|(_, figures)| figures.goes_on()))
    };
    let responsive =
        goes_on(&|scene| scene.deed == Some(Deed::Computes) && scene.arrangement.is_preemptive());
    let blocks_itself_only =
        goes_on(&|scene| scene == Scene { arrangement: Arrangement::Threads, deed: Some(Deed::Blocks) });
    vec![
        Answer {
            claim: 10,
            // What the kernel ends is a process. Of a thread it is only told what became of it, and of those beside it.
            verdict: match (responsive, ended_alone(fates)) {
                (None, _) | (_, None) => Verdict::NotMeasured,
                (Some(true), Some(true)) => Verdict::Held,
                (Some(false), Some(false)) => Verdict::DidNotHold,
                _ => Verdict::InPart,
            },
            evidence: format!(
                "the latest step beside a computing task was done after {} among threads, {} among processes, {} on an \
                 event loop; ordered to end, {}; what can be ended by itself is a process, and not a thread in it",
                worst(Arrangement::Threads, Deed::Computes),
                worst(Arrangement::Processes, Deed::Computes),
                worst(Arrangement::EventLoop, Deed::Computes),
                fates_in_words(fates),
            ),
        },
        Answer {
            claim: 5,
            verdict: blocks_itself_only.map_or(Verdict::NotMeasured, Verdict::of),
            evidence: format!(
                "beside a task that blocks the latest step was done after {} among threads and {} on an event loop",
                worst(Arrangement::Threads, Deed::Blocks),
                worst(Arrangement::EventLoop, Deed::Blocks),
            ),
        },
    ]
}

/// Whether a greedy task that is a process could be ended and the others were left, each time; `None`: it was not tried.
fn ended_alone(fates: &[(Arrangement, Fate)]) -> Option<bool> {
    let mut of = fates.iter().filter(|(how, _)| how.has_a_process_for_each()).peekable();
    of.peek().is_some().then(|| of.all(|(_, fate)| fate.was_ended && fate.others_left > 0))
}

/// What came of each order to end.
fn fates_in_words(fates: &[(Arrangement, Fate)]) -> String {
    let words = super::ENDINGS.into_iter().filter_map(|arrangement| {
        let of = || fates.iter().filter(|(how, _)| *how == arrangement).map(|(_, fate)| fate);
        let (ended, left) =
            (of().filter(|it| it.was_ended).count(), of().filter(|it| it.others_left > 0).count());
        (of().count() > 0).then(|| {
            format!(
                "the greedy task of {} ended in {ended} of {} tries and others were left in {left}",
                arrangement.name(),
                of().count()
            )
        })
    });
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn run(scene: Scene, steps: &[(u64, u64)]) -> Run {
        let steps = steps.iter().map(|(due, done)| (due * MS, done * MS)).collect();
        let greedy = Lane {
            began: 100 * MS,
            ended: 200 * MS,
            last: 200 * MS,
            spans: vec![(100 * MS, 140 * MS), (150 * MS, 200 * MS)],
            ..Lane::default()
        };
        Run { scene, start: 0, greedy, interactive: vec![Lane { steps, ..Lane::default() }] }
    }

    fn computes(arrangement: Arrangement) -> Scene {
        Scene { arrangement, deed: Some(Deed::Computes) }
    }

    #[test]
    fn only_what_was_due_beside_the_greedy_task_counts() {
        let figures =
            figures(&run(computes(Arrangement::Threads), &[(90, 91), (120, 130), (150, 210), (250, 251)]));
        let expected = Figures { due: 2, done: 1, median_ms: 35.0, worst_ms: 60.0, share: 90.0 };
        assert_eq!(figures, expected);
    }

    #[test]
    fn a_loop_starves_and_a_kernel_does_not() {
        let through = [(110, 115), (130, 135)];
        let starved = [(110, 201), (130, 202)];
        let expected = |arrangement, steps| {
            let run = run(computes(arrangement), steps);
            as_expected(run.scene, &figures(&run))
        };
        assert!(expected(Arrangement::Threads, &through) && expected(Arrangement::EventLoop, &starved));
        assert!(!expected(Arrangement::Threads, &starved) && !expected(Arrangement::EventLoop, &through));
    }

    #[test]
    fn a_claim_holds_if_others_are_responsive_and_a_process_can_be_ended_by_itself() {
        let of = |steps: &[(u64, u64)], processes_left: usize| {
            let fates: Vec<(Arrangement, Fate)> =
                [(Arrangement::Processes, processes_left), (Arrangement::Threads, 0)]
                    .map(|(how, others_left)| (how, Fate { went_on_ms: 1.0, was_ended: true, others_left }))
                    .to_vec();
            let run = run(computes(Arrangement::Threads), steps);
            answers(&[(run.scene, figures(&run))], &fates)
        };
        let (in_time, too_late) = ([(110, 115), (130, 135)], [(110, 190), (120, 195)]);
        let held = of(&in_time, 4);
        assert_eq!(held[0].verdict, Verdict::Held, "{}", held[0].evidence);
        assert!(held[0].evidence.contains("of threads ended in 1 of 1 tries and others were left in 0"));
        assert_eq!(held[1].verdict, Verdict::NotMeasured);
        for (steps, left, verdict) in [
            (&too_late, 4, Verdict::InPart),
            (&in_time, 0, Verdict::InPart),
            (&too_late, 0, Verdict::DidNotHold),
        ] {
            assert_eq!(of(steps, left)[0].verdict, verdict);
        }
        let scene = computes(Arrangement::Threads);
        let late = figures(&run(scene, &too_late));
        assert!(late.done == 2 && !as_expected(scene, &late), "{late:?}");
    }

    #[test]
    fn whoever_goes_on_beyond_its_own_end_was_not_ended() {
        let lane = |due: u64| Lane { steps: vec![(due * MS, (due + 1) * MS)], ..Lane::default() };
        let ending = |last: u64, interactive: Vec<Lane>| Ending {
            arrangement: Arrangement::Processes,
            ordered: 100 * MS,
            own_end: 200 * MS,
            last: last * MS,
            interactive,
        };
        let alone = fate(&ending(103, vec![lane(210), lane(90)]));
        assert_eq!(alone, Fate { went_on_ms: 3.0, was_ended: true, others_left: 1 });
        let unmoved = fate(&ending(200, vec![lane(210)]));
        assert_eq!(unmoved, Fate { went_on_ms: 100.0, was_ended: false, others_left: 1 });
    }

    #[test]
    fn who_waits_is_who_is_due_and_does_not_run() {
        assert_eq!(without(&[(10, 30)], &[(12, 20), (25, 30)]), [(10, 12), (20, 25)]);
        assert_eq!(without(&[(10, 30), (20, 40)], &[(28, 30), (38, 40)]), [(10, 28), (30, 38)]);
        assert_eq!(without(&[(10, 30)], &[]), [(10, 30)]);
        assert_eq!(without(&[(10, 30)], &[(0, 50)]), []);
    }
}
