//! What came out of the cases, as tables, plots and answers. Pure.

use serde::Serialize;
use serde_json::json;

use super::cases::{Crossed, Going, Leaked, Noticed, Served, Shared, Sharing};
use crate::experiments::database::MOST;
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Point, Series, Table, Verdict, surprise};
use crate::stats::{Spread, digits};

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) shared: Vec<Shared>,
    pub(super) served: Vec<Served>,
    pub(super) leaked: Vec<Leaked>,
    pub(super) noticed: Vec<Noticed>,
    pub(super) crossed: Vec<Crossed>,
    /// How many connections the server took, and what it said to the next one.
    pub(super) most: Option<(usize, String)>,
    /// What was not measured, and why.
    pub(super) not_run: Vec<String>,
}

pub(super) fn outcome(figures: &Figures) -> Outcome {
    Outcome {
        tables: vec![
            shared_table(&figures.shared),
            served_table(&figures.served),
            leaked_table(&figures.leaked),
            noticed_table(&figures.noticed),
            crossed_table(&figures.crossed),
        ],
        plots: vec![waiting_plot(&figures.served), noticed_plot(figures)],
        answers: vec![about_sharing(&figures.shared), about_deadlock(figures)],
        notes: notes(figures),
        data: json!(figures),
    }
}

fn text(values: impl Iterator<Item = f64>) -> String {
    Spread::of(values).map_or("–".to_owned(), |it| it.to_string())
}

fn shared_table(shared: &[Shared]) -> Table {
    let columns = [
        "four threads that add one, or a thousand and roll back",
        "said to be committed",
        "in the table",
        "wrong in",
    ];
    let mut table = Table::new("sharing a connection", &columns);
    for sharing in Sharing::ALL {
        let of = || shared.iter().filter(|it| it.sharing == sharing);
        let wrong = of().filter(|it| it.committed != it.counted).count();
        table.row([
            sharing.name().to_owned(),
            text(of().map(|it| it.committed as f64)),
            text(of().map(|it| it.counted as f64)),
            format!("{wrong} of {}", of().count()),
        ]);
    }
    table
}

/// Pools from small to large, and processes last.
fn kinds(served: &[Served]) -> Vec<Option<usize>> {
    let mut kinds: Vec<_> = served.iter().map(|it| it.connections).collect();
    kinds.sort_by_key(|it| it.unwrap_or(usize::MAX));
    kinds.dedup();
    kinds
}

fn served_table(served: &[Served]) -> Table {
    let clients = served.first().map_or(0, |it| it.clients);
    let columns =
        ["connections", "transactions/s", "waited, median, ms", "waited, 99 of 100, ms", "server, MiB"];
    let mut table = Table::new(&format!("{clients} clients that always want one, 5 ms each"), &columns);
    for kind in kinds(served) {
        let of = || served.iter().filter(|it| it.connections == kind);
        table.row([
            kind.map_or("processes, one each".to_owned(), |it| format!("threads, pool of {it}")),
            text(of().map(|it| it.per_second)),
            if kind.is_some() { text(of().map(|it| it.waited_ms.0)) } else { "–".to_owned() },
            if kind.is_some() { text(of().map(|it| it.waited_ms.1)) } else { "–".to_owned() },
            text(of().filter_map(|it| it.server_mib)),
        ]);
    }
    table
}

fn waiting_plot(served: &[Served]) -> Plot {
    let line = |name: &str, figure: fn(&Served) -> f64| {
        let points = kinds(served).into_iter().flatten().filter_map(|size| {
            let of = served.iter().filter(|it| it.connections == Some(size));
            Some(Point { x: size as f64, y: Spread::of(of.map(figure))? })
        });
        Series { name: name.to_owned(), points: points.collect() }
    };
    Plot::Lines {
        title: "how long clients wait for a connection, over how many the pool has".to_owned(),
        x: Axis::log("connections in the pool"),
        y: Axis::log("ms"),
        series: vec![line("median", |it| it.waited_ms.0), line("99 of 100", |it| it.waited_ms.1)],
    }
}

fn leaked_table(leaked: &[Leaked]) -> Table {
    let columns = ["", "figure"];
    let mut table = Table::new("every tenth borrower forgets to give back", &columns);
    table.row([
        format!("transactions until a pool of {} was empty for ever", leaked.first().map_or(0, |it| it.pool)),
        text(leaked.iter().map(|it| it.until_dry as f64)),
    ]);
    table.row([
        format!("of {} threads that asked then, waited in vain", leaked.first().map_or(0, |it| it.in_vain.1)),
        text(leaked.iter().map(|it| it.in_vain.0 as f64)),
    ]);
    table.row([
        "processes that leak as many: all closed after they end, ms".to_owned(),
        text(leaked.iter().map(|it| it.back_with_processes_ms)),
    ]);
    table
}

fn noticed_table(noticed: &[Noticed]) -> Table {
    let columns = ["a client with a row's lock", "the row is free after, ms", "not within patience"];
    let mut table = Table::new("when the server notices that a client has gone", &columns);
    for going in Going::ALL {
        let of = || noticed.iter().filter(|it| it.going == going);
        let patience = of().map(|it| it.patience_ms).max().unwrap_or(0);
        let never = of().filter(|it| it.free_after_ms.is_none()).count();
        table.row([
            going.name().to_owned(),
            text(of().filter_map(|it| it.free_after_ms)),
            match never {
                0 => "–".to_owned(),
                _ => format!("{never} of {} ({} s)", of().count(), digits(patience as f64 / 1e3)),
            },
        ]);
    }
    table
}

fn noticed_plot(figures: &Figures) -> Plot {
    let mut bars = Vec::new();
    for going in Going::ALL {
        let of = figures.noticed.iter().filter(|it| it.going == going);
        let times = of.map(|it| it.free_after_ms.unwrap_or(it.patience_ms as f64));
        let all_in_vain =
            figures.noticed.iter().filter(|it| it.going == going).all(|it| it.free_after_ms.is_none());
        let group = if all_in_vain { "still not free" } else { "free" };
        bars.extend(Spread::of(times).map(|value| Bar {
            name: going.name().to_owned(),
            group: group.to_owned(),
            value,
        }));
    }
    for timeout in timeouts(&figures.crossed) {
        let of = figures.crossed.iter().filter(|it| it.timeout_ms == timeout);
        bars.extend(Spread::of(of.map(|it| it.broken_after_ms)).map(|value| Bar {
            name: format!("deadlock, timeout {timeout} ms"),
            group: "broken".to_owned(),
            value,
        }));
    }
    Plot::Bars {
        title: "how long a row stays locked behind a client that has gone, or behind a deadlock".to_owned(),
        value: Axis::log("ms"),
        bars,
    }
}

fn timeouts(crossed: &[Crossed]) -> Vec<u64> {
    let mut timeouts: Vec<u64> = crossed.iter().map(|it| it.timeout_ms).collect();
    timeouts.sort_unstable();
    timeouts.dedup();
    timeouts
}

fn crossed_table(crossed: &[Crossed]) -> Table {
    let columns = [
        "deadlock_timeout, ms",
        "broken after, ms",
        "error of the victim",
        "went through at once",
        "with a second try",
    ];
    let mut table = Table::new("two sessions that change two rows in opposite order", &columns);
    for timeout in timeouts(crossed) {
        let of = || crossed.iter().filter(|it| it.timeout_ms == timeout);
        let victim = of().next().map(|it| format!("{} ({})", it.message, it.code)).unwrap_or_default();
        table.row([
            timeout.to_string(),
            text(of().map(|it| it.broken_after_ms)),
            victim,
            format!("{} of {}", of().map(|it| it.went_through.0).sum::<usize>(), 2 * of().count()),
            format!("{} of {}", of().map(|it| it.went_through.1).sum::<usize>(), 2 * of().count()),
        ]);
    }
    table
}

fn about_sharing(shared: &[Shared]) -> Answer {
    let wrong = |sharing: Sharing| {
        let of = || shared.iter().filter(|it| it.sharing == sharing);
        (of().filter(|it| it.committed != it.counted).count(), of().count())
    };
    let (by_statement, of) = wrong(Sharing::LockedByStatement);
    let others_right =
        wrong(Sharing::LockedByTransaction).0 + wrong(Sharing::Pooled).0 == 0 && !shared.is_empty();
    Answer {
        claim: 11,
        verdict: match (by_statement > 0, others_right) {
            (true, true) => Verdict::Held,
            (false, false) => Verdict::DidNotHold,
            _ => Verdict::InPart,
        },
        evidence: format!(
            "with a lock around each statement of one shared connection the table was wrong in {by_statement} of {of} rounds; with \
             a lock around each transaction, or a pool, {}",
            if others_right { "never" } else { "too" }
        ),
    }
}

fn is_broken(it: &Crossed) -> bool {
    it.code == "40P01" && it.went_through == (1, 2)
}

fn about_deadlock(figures: &Figures) -> Answer {
    let crossed = &figures.crossed;
    let broken = crossed.iter().filter(|it| is_broken(it)).count();
    Answer {
        claim: 12,
        verdict: match broken {
            _ if crossed.is_empty() => Verdict::NotMeasured,
            _ => Verdict::of(broken == crossed.len()),
        },
        evidence: format!(
            "PostgreSQL broke {broken} of {} deadlocks, after {} ms, with one victim (40P01) that went through when it tried again",
            crossed.len(),
            text(crossed.iter().map(|it| it.broken_after_ms))
        ),
    }
}

fn notes(figures: &Figures) -> Vec<String> {
    let mut notes = figures.not_run.clone();
    if let Some((most, said)) = &figures.most {
        notes.push(format!(
            "A connection each has an end of its own: this server, which the lab has given max_connections = {MOST}, took {most}, and said \
             to the next one: {said}."
        ));
    } else {
        notes.push("How many connections the server takes was not tried: it is somebody else's.".to_owned());
    }
    if figures.crossed.is_empty() {
        notes.push(
            "Deadlocks between sessions were not run: the server lets this user set no deadlock_timeout; name one who may."
                .to_owned(),
        );
    }
    for noticed in
        figures.noticed.iter().filter(|it| it.free_after_ms.is_none() != (it.going == Going::Frozen))
    {
        let words = |free: bool| {
            format!(
                "the row was {} within {} ms",
                if free { "free" } else { "not free" },
                noticed.patience_ms
            )
        };
        let free = noticed.free_after_ms.is_some();
        notes.push(surprise(noticed.going.name(), &words(free), &words(!free)));
    }
    if let Some(busy_ms) = figures.noticed.iter().find_map(|it| it.busy_ms) {
        notes.push(format!(
            "The statement in which a client was killed would have taken {busy_ms} ms: the server works on it to its end, for \
             nobody, unless it is told to look after its clients."
        ));
    }
    notes.push(
        "A vanished machine is played by a process that was stopped and closes nothing. Its kernel still answers keep-alive \
         probes, which a machine that is gone would not: there, tcp_keepalives_idle bounds the wait (two hours unless set)."
            .to_owned(),
    );
    notes.push("The lab's own server does not wait for its disk (fsync is off).".to_owned());
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(wrong: [bool; 3]) -> Vec<Shared> {
        let round = |(sharing, wrong): (Sharing, bool)| Shared {
            sharing,
            committed: 80,
            counted: 80 - i64::from(wrong),
        };
        Sharing::ALL.into_iter().zip(wrong).map(round).collect()
    }

    #[test]
    fn sharing_is_hard_if_a_lock_around_statements_is_not_enough_and_one_around_transactions_is() {
        let verdict = |wrong| about_sharing(&shared(wrong)).verdict;
        assert_eq!(verdict([true, false, false]), Verdict::Held);
        assert_eq!(verdict([false, false, false]), Verdict::InPart);
        assert_eq!(verdict([true, false, true]), Verdict::InPart);
        assert_eq!(verdict([false, true, false]), Verdict::DidNotHold);
    }

    #[test]
    fn a_deadlock_is_broken_if_one_goes_through_and_the_other_one_when_it_tries_again() {
        let crossed = |code: &str, went_through| Figures {
            crossed: vec![Crossed {
                timeout_ms: 50,
                broken_after_ms: 51.0,
                code: code.to_owned(),
                message: "deadlock detected".to_owned(),
                went_through,
            }],
            ..Figures::default()
        };
        assert_eq!(about_deadlock(&crossed("40P01", (1, 2))).verdict, Verdict::Held);
        assert_eq!(about_deadlock(&crossed("", (2, 2))).verdict, Verdict::DidNotHold);
        assert_eq!(about_deadlock(&Figures::default()).verdict, Verdict::NotMeasured);
    }

    #[test]
    fn what_came_out_differently_is_said() {
        let noticed =
            |going, free_after_ms| Noticed { going, free_after_ms, busy_ms: None, patience_ms: 1000 };
        let figures = Figures {
            noticed: vec![
                noticed(Going::KilledIdle, Some(1.0)),
                noticed(Going::KilledBusy, None),
                noticed(Going::Frozen, None),
            ],
            ..Figures::default()
        };
        let notes = notes(&figures);
        let odd: Vec<_> = notes.iter().filter(|it| it.starts_with("other than expected")).collect();
        assert_eq!(
            odd,
            [
                "other than expected: killed in a statement: the row was not free within 1000 ms; expected was the row was free within 1000 ms"
            ]
        );
    }

    #[test]
    fn of_nothing_tables_are_empty_and_nothing_breaks() {
        assert_eq!(outcome(&Figures::default()).tables.len(), 5);
    }
}
