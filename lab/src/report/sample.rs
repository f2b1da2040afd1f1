//! Findings that nobody has measured, with every kind of plot, to test the report with, and to look at it.

use serde_json::json;

use crate::findings::{
    Answer, Axis, Bar, Findings, HeatCell, HeatKey, HeatRow, Lane, Outcome, Plot, Point, Series, Size, Span,
    Table, Verdict,
};
use crate::machine::Machine;
use crate::stats::Spread;

pub(super) fn findings() -> Vec<Findings> {
    vec![Findings {
        experiment: "sample".to_owned(),
        question: "Is everything that can be shown <b>bold</b> & legible?".to_owned(),
        method: "Nothing was measured; the figures are made up.".to_owned(),
        size: Size::Smallest,
        machine: Machine {
            cores: 2,
            processor: "Imagined".to_owned(),
            memory_mib: 4096,
            kernel: "6.1".to_owned(),
            load: "0.10".to_owned(),
        },
        at: "2026-01-02T03:04:05.678Z".to_owned(),
        took_s: 12.3,
        outcome: Outcome {
            tables: vec![table()],
            plots: vec![
                lines(),
                memory(),
                bars(),
                heat(),
                timeline("who waits for whom", true),
                timeline("still", false),
            ],
            answers: vec![
                answer(1, Verdict::Held),
                answer(7, Verdict::InPart),
                answer(3, Verdict::DidNotHold),
            ],
            notes: vec!["expected <nothing>, and so it came".to_owned()],
            data: json!({}),
        },
    }]
}

fn answer(claim: u8, verdict: Verdict) -> Answer {
    Answer { claim, verdict, evidence: "1 of 64 clients & nobody else was cut off".to_owned() }
}

fn spread(median: f64) -> Spread {
    Spread { median, low: median * 0.85, high: median * 1.2, runs: 5 }
}

fn table() -> Table {
    let mut table = Table::new(
        "clients that were cut off",
        &["system", "cut off", "longest gap, ms", "capacity back, ms"],
    );
    for (name, cut) in [("thread per connection", "64"), ("prefork", "1"), ("<hybrid>", "4")] {
        table.row([name.to_owned(), cut.to_owned(), "12.3 (11.0–14.1)".to_owned(), "1,234".to_owned()]);
    }
    table
}

fn lines() -> Plot {
    let names = [
        "process per connection",
        "prefork",
        "thread pool",
        "event workers",
        "hybrid",
        "sessions, reset together",
    ];
    let series = names.iter().enumerate().map(|(nth, name)| {
        let value = |x: f64| 40_000.0 / (1.0 + nth as f64 * 0.06) * x / (x + 90.0);
        let xs = [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0].into_iter().take(7 - nth / 2);
        Series { name: (*name).to_owned(), points: xs.map(|x| Point { x, y: spread(value(x)) }).collect() }
    });
    Plot::Lines {
        title: "throughput over connections".to_owned(),
        x: Axis::log("connections"),
        y: Axis::linear("requests/s"),
        series: series.collect(),
    }
}

fn memory() -> Plot {
    let line = |name: &str, each: f64| Series {
        name: name.to_owned(),
        points: [1.0, 4.0, 16.0].map(|x| Point { x, y: spread(each * x) }).to_vec(),
    };
    Plot::Lines {
        title: "memory over clients".to_owned(),
        x: Axis::linear("clients"),
        y: Axis::log("KiB"),
        series: vec![line("processes", 900.0), line("threads", 14.0), line("tasks", 1.2)],
    }
}

fn bars() -> Plot {
    let bar = |name: &str, group: &str, value| Bar {
        name: name.to_owned(),
        group: group.to_owned(),
        value: spread(value),
    };
    Plot::Bars {
        title: "99th percentile under each kind of work".to_owned(),
        value: Axis::log("ms"),
        bars: vec![
            bar("prefork", "short", 1.2),
            bar("prefork", "mixed", 44.0),
            bar("thread per connection", "short", 1.1),
            bar("thread per connection", "mixed", 12.0),
            bar("event workers", "short", 0.7),
            bar("event workers", "mixed", 310.0),
        ],
    }
}

fn heat() -> Plot {
    let cell = |heat: Option<f64>, expected: bool| HeatCell {
        text: heat.map_or("not run".to_owned(), |heat| format!("{:.0} of 64", heat * 64.0)),
        heat,
        expected: Some(expected),
        detail: "out of memory: the kernel killed \"one\" of them".to_owned(),
    };
    let row = |name: &str, heats: [Option<f64>; 4]| HeatRow {
        name: name.to_owned(),
        cells: heats.iter().map(|&heat| cell(heat, heat != Some(0.5))).collect(),
    };
    Plot::HeatMap {
        title: "other clients that fail".to_owned(),
        columns: ["segfault", "out of memory", "hang", "fork bomb"].map(str::to_owned).to_vec(),
        rows: vec![
            row("prefork", [Some(0.0), Some(0.02), Some(0.25), None]),
            row("thread pool", [Some(1.0), Some(1.0), Some(0.5), Some(0.75)]),
            row("event workers", [Some(0.5), Some(0.4), Some(0.6), None]),
        ],
        key: [(0.0, "none"), (0.5, "<half>"), (1.0, "all")]
            .map(|(heat, text)| HeatKey { heat, text: text.to_owned() })
            .to_vec(),
    }
}

fn timeline(title: &str, animated: bool) -> Plot {
    let kinds = ["thinks", "waits", "holds one fork", "eats", "steps back"];
    let lanes = (0..5_usize).map(|nth| {
        let spans = (0..12_usize).map(|turn| Span {
            from_ms: turn as f64 * 5.0,
            to_ms: (turn + 1) as f64 * 5.0,
            kind: kinds.get((turn * (nth + 1) + nth) % 5).copied().unwrap_or_default().to_owned(),
        });
        Lane { name: format!("philosopher {}", nth + 1), spans: spans.collect() }
    });
    let kinds = kinds.map(str::to_owned).to_vec();
    Plot::Timeline { title: title.to_owned(), kinds, lanes: lanes.collect(), animated }
}

/// `BULKHEAD_LAB_SAMPLE=DIRECTORY cargo test -p lab -- --ignored a_sample_to_look_at` writes it there.
#[test]
#[ignore = "writes a page to look at into the directory that BULKHEAD_LAB_SAMPLE names"]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "a test says what is wrong by failing")]
fn a_sample_to_look_at() {
    let dir = std::env::var_os("BULKHEAD_LAB_SAMPLE").expect("BULKHEAD_LAB_SAMPLE names no directory");
    let path = super::write(std::path::Path::new(&dir), &findings()).unwrap();
    println!("{}", path.display());
}
