//! What the figures say: pure, from round trips to a table, plots and an answer.

use serde_json::json;

use super::{Measured, Way};
use crate::findings::{Answer, Axis, Outcome, Plot, Point, Series, Table, Verdict, surprise};
use crate::stats::{Spread, digits};

pub(super) fn of(ways: &[Way], lengths: &[usize], all: &[Measured], mut notes: Vec<String>) -> Outcome {
    let figures = Figures(all);
    notes.extend(surprises(figures, lengths));
    let mut table = Table::new(
        "a message there and back, and messages one way",
        &["way", "bytes", "round trip, µs", "sleeps", "MiB/s one way", "times a channel"],
    );
    for &way in ways {
        for &bytes in lengths {
            let Some(trip) = figures.trip(way, bytes) else { continue };
            let text = |spread: Option<Spread>| spread.map_or_else(|| "–".to_owned(), |it| it.to_string());
            table.row([
                way.name().to_owned(),
                bytes.to_string(),
                trip.to_string(),
                text(figures.of(way, bytes, |it| Some(it.sleeps))),
                text(figures.of(way, bytes, |it| it.mib_per_s)),
                text(figures.times(way, Way::Channel, bytes)),
            ]);
        }
    }
    let lines = |title: &str, y: &str, figure: fn(&Measured) -> Option<f64>| {
        let series = ways.iter().map(|&way| {
            let points = lengths.iter().filter_map(|&bytes| {
                let y = figures.of(way, bytes, figure).filter(|it| it.low > 0.0)?;
                Some(Point { x: bytes as f64, y })
            });
            Series { name: way.name().to_owned(), points: points.collect() }
        });
        let series: Vec<Series> = series.filter(|it| !it.points.is_empty()).collect();
        Plot::Lines { title: title.to_owned(), x: Axis::log("message, bytes"), y: Axis::log(y), series }
    };
    Outcome {
        tables: vec![table],
        plots: vec![
            lines("a message there and back", "round trip, µs", |it| Some(it.trip_us)),
            lines("messages one way", "MiB/s", |it| it.mib_per_s),
        ],
        answers: vec![answer(figures, lengths)],
        notes,
        data: json!({ "measured": all }),
    }
}

/// All that was measured.
#[derive(Debug, Clone, Copy)]
struct Figures<'a>(&'a [Measured]);

impl Figures<'_> {
    fn of(self, way: Way, bytes: usize, figure: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.0.iter().filter(|it| it.way == way && it.bytes == bytes).filter_map(figure))
    }

    fn trip(self, way: Way, bytes: usize) -> Option<Spread> {
        self.of(way, bytes, |it| Some(it.trip_us))
    }

    /// How many times as long as another way it takes, round by round.
    fn times(self, way: Way, other: Way, bytes: usize) -> Option<Spread> {
        let of =
            |way| self.0.iter().filter(move |it| it.way == way && it.bytes == bytes).map(|it| it.trip_us);
        Spread::of(of(way).zip(of(other)).map(|(one, other)| one / other.max(1e-6)))
    }

    /// The quickest way between processes with messages of that length.
    fn quickest_apart(self, bytes: usize) -> Option<(Way, Spread)> {
        Way::ALL
            .into_iter()
            .filter(|way| way.is_between_processes())
            .filter_map(|way| Some((way, self.trip(way, bytes)?)))
            .min_by(|one, other| one.1.median.total_cmp(&other.1.median))
    }
}

/// Where it came out differently from what was written down first: a call is the fastest and the door the slowest of short
/// messages, whatever is between two threads or processes takes microseconds, and of long messages shared memory takes most.
fn surprises(figures: Figures<'_>, lengths: &[usize]) -> Vec<String> {
    let (Some(&shortest), Some(&longest)) = (lengths.iter().min(), lengths.iter().max()) else {
        return Vec::new();
    };
    let trips: Vec<(Way, f64)> =
        Way::ALL.into_iter().filter_map(|way| Some((way, figures.trip(way, shortest)?.median))).collect();
    let mut notes = Vec::new();
    let mut note = |what: &str, (way, figure): (Way, f64), unit: &str, expected: &str| {
        notes.push(surprise(what, &format!("{}, {} {unit}", way.name(), digits(figure)), expected));
    };
    let quickest = trips.iter().copied().min_by(|one, other| one.1.total_cmp(&other.1));
    if let Some(it) = quickest.filter(|it| it.0 != Way::Call) {
        note("the quickest with short messages", it, "µs", Way::Call.name());
    }
    let slowest = trips.iter().copied().max_by(|one, other| one.1.total_cmp(&other.1));
    if let Some(it) = slowest.filter(|it| it.0 != Way::Door && trips.iter().any(|it| it.0 == Way::Door)) {
        note("the slowest with short messages", it, "µs", Way::Door.name());
    }
    for &it in trips.iter().filter(|it| it.0 != Way::Call && it.1 < 1.0) {
        note("what has to wake somebody up", it, "µs", "microseconds");
    }
    let most = Way::ALL
        .into_iter()
        .filter(|way| way.is_between_processes())
        .filter_map(|way| Some((way, figures.of(way, longest, |it| it.mib_per_s)?.median)))
        .max_by(|one, other| one.1.total_cmp(&other.1));
    if let Some(it) = most.filter(|it| it.0 != Way::SharedMemory) {
        note("the most of long messages one way", it, "MiB/s", Way::SharedMemory.name());
    }
    notes
}

/// Whether it costs something to be apart: at each length the quickest way between processes is held against a channel
/// between threads. It need not: then it did not hold at that length.
fn answer(figures: Figures<'_>, lengths: &[usize]) -> Answer {
    /// As many times as long as the channel, and it costs something; less may be chance.
    const COSTS: f64 = 1.15;
    let at = |&bytes: &usize| {
        let (way, quickest) = figures.quickest_apart(bytes)?;
        let (channel, times) = (figures.trip(Way::Channel, bytes)?, figures.times(way, Way::Channel, bytes)?);
        let said = format!("{bytes} bytes: {quickest} µs ({}) and {channel} µs", way.name());
        Some((times.median > COSTS, said))
    };
    let (costs, said): (Vec<bool>, Vec<String>) = lengths.iter().filter_map(at).unzip();
    let verdict = match costs.iter().filter(|it| **it).count() {
        _ if costs.is_empty() => Verdict::NotMeasured,
        all if all == costs.len() => Verdict::Held,
        0 => Verdict::DidNotHold,
        _ => Verdict::InPart,
    };
    let evidence = if said.is_empty() {
        "nothing could be held against a channel between threads; the notes say why".to_owned()
    } else {
        format!(
            "there and back, by the quickest way between processes and by a channel between threads of one: {}",
            said.join("; ")
        )
    };
    Answer { claim: 2, verdict, evidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(way: Way, trip_us: f64) -> Measured {
        Measured { way, bytes: 64, trips: 100, trip_us, sleeps: 0.0, mib_per_s: None }
    }

    #[test]
    fn what_it_costs_to_be_apart_is_held_against_a_channel_at_each_length() {
        let answer = |pipes: [f64; 2]| {
            let at = |bytes, way, us| Measured { bytes, ..measured(way, us) };
            let all = [
                at(64, Way::Call, 0.1),
                at(64, Way::Channel, 5.0),
                at(64, Way::Pipes, pipes[0]),
                at(64, Way::Tcp, 20.0),
                at(4096, Way::Call, 0.4),
                at(4096, Way::Channel, 8.0),
                at(4096, Way::Pipes, pipes[1]),
            ];
            answer(Figures(&all), &[64, 4096])
        };
        assert_eq!(answer([9.0, 12.0]).verdict, Verdict::Held);
        assert_eq!(answer([9.0, 8.0]).verdict, Verdict::InPart);
        // Slower than a call it is all the same.
        assert_eq!(answer([4.0, 8.0]).verdict, Verdict::DidNotHold);
        let evidence = answer([9.0, 12.0]).evidence;
        assert!(evidence.contains("64 bytes: 9.00 µs (pipes) and 5.00 µs; 4096 bytes: 12.0"), "{evidence}");
        let alone = super::answer(Figures(&[measured(Way::Pipes, 9.0)]), &[64]);
        assert_eq!(alone.verdict, Verdict::NotMeasured);
    }

    #[test]
    fn an_order_other_than_expected_is_noted() {
        let notes = |pipes: f64, door: f64| {
            let all = [measured(Way::Call, 0.1), measured(Way::Pipes, pipes), measured(Way::Door, door)];
            surprises(Figures(&all), &[64])
        };
        assert!(notes(9.0, 80.0).is_empty());
        assert!(notes(90.0, 80.0)[0].contains("pipes, 90.0 µs; expected was through the door"));
        assert!(notes(0.05, 80.0)[0].contains("expected was a call"));
    }
}
