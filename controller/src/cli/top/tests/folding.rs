//! What the stream tells, and what is shown of it.

use super::*;
use crate::api::stream_views::Gap;
use crate::api::views::PhaseView;
use crate::cli::stream::Breakage;
use crate::cli::top::model::{Liveness, Pane, Shown, Tone};
use crate::cli::top::order::Order;

/// How the worker of that row is shown.
fn shown(model: &Model, row: usize) -> Shown {
    model.shown(&model.workers()[row])
}

#[test]
fn a_rate_is_what_was_answered_over_the_last_seconds() {
    let mut model = watching();
    assert_eq!(model.rate("web"), Some(250.0));
    // Three seconds later the first frames do not count any more.
    for (nth, answered) in [(21_u64, 1_250), (31, 1_250), (41, 1_280), (51, 1_310)] {
        model.fold(frame(at(nth * 100), answered), at(nth * 100));
    }
    assert_eq!(model.rate("web"), Some(20.0));
    // Another door counts from 0 again.
    model.fold(frame(at(6_100), 5), at(6_100));
    assert_eq!(model.rate("web"), None);
    model.fold(frame(at(7_100), 15), at(7_100));
    assert_eq!(model.rate("web"), Some(10.0));
    assert_eq!(model.rate("nobody"), None);
}

#[test]
fn a_death_is_one_row_however_often_it_is_told() {
    let mut model = Model::new(String::new(), at(0));
    model.fold(event("k3f9x2-1", incident("web-3.6", None)), at(0));
    model.fold(event("k3f9x2-2", incident("web-1.1", None)), at(1));
    model.fold(event("k3f9x2-3", incident("web-3.6", 5.0)), at(2));
    let told: Vec<_> = model
        .incidents
        .iter()
        .map(|death| (death.incident.id.as_str(), death.incident.steps_ms.ready))
        .collect();
    assert_eq!(told, [("web-1.1", None), ("web-3.6", Some(5.0))]);
    // Under another controller it is another death.
    model.fold(event("zzzzzz-1", incident("web-3.6", None)), at(3));
    assert_eq!(model.incidents.len(), 3);
}

#[test]
fn deaths_and_events_are_kept_up_to_a_bound() {
    let mut model = Model::new(String::new(), at(0));
    for nth in 0..500 {
        model.fold(event(&format!("k-{nth}"), incident(&format!("web-0.{nth}"), None)), at(nth));
        model.fold(event(&format!("k-{nth}"), worker("web-0", nth, "ready", "")), at(nth));
    }
    assert_eq!((model.incidents.len(), model.log.len()), (200, 200));
    assert_eq!(model.incidents[0].incident.id, "web-0.499");
}

#[test]
fn whoever_was_stopped_is_paused_until_continued_or_dead() {
    let mut model = watching();
    assert_eq!(shown(&model, 0), Shown::Phase(PhaseView::Busy));
    // By us.
    let Intent::Give(pause) = type_in(&mut model, "P") else { panic!("no order") };
    model.answered(&pause, Err("the engine is on fire".to_owned()));
    assert_eq!(shown(&model, 0), Shown::Phase(PhaseView::Busy));
    model.answered(&pause, Ok(()));
    assert_eq!(shown(&model, 0), Shown::Paused);
    let Intent::Give(resume) = type_in(&mut model, "P") else { panic!("no order") };
    assert_eq!(resume.command(), "bulkhead kill web-0 --signal CONT");
    model.answered(&resume, Ok(()));
    assert_eq!(shown(&model, 0), Shown::Phase(PhaseView::Busy));
    // By somebody else.
    model.fold(event("k-7", worker("web-0", 1, "kill_requested", "SIGSTOP")), at(1_200));
    assert_eq!(shown(&model, 0), Shown::Paused);
    model.fold(event("k-8", worker("web-0", 1, "kill_requested", "SIGCONT")), at(1_300));
    assert_eq!(shown(&model, 0), Shown::Phase(PhaseView::Busy));
    // Its next life was never stopped.
    model.answered(&pause, Ok(()));
    let mut next = state(at(1_400), 1_300);
    next["workers"][0]["generation"] = 2.into();
    model.fold(Told::State(next.to_string()), at(1_400));
    assert_eq!(shown(&model, 0), Shown::Phase(PhaseView::Busy));
}

#[test]
fn what_is_picked_stays_picked_by_name() {
    let mut model = watching();
    type_in(&mut model, "jjj");
    assert_eq!(model.worker().unwrap().id, "web-3");
    let mut fewer = state(at(1_200), 1_300);
    fewer["workers"].as_array_mut().unwrap().remove(0);
    model.fold(Told::State(fewer.to_string()), at(1_200));
    assert_eq!((model.row(Pane::Workers), model.worker().unwrap().id.as_str()), (2, "web-3"));
    // Gone: whoever is now where it was.
    fewer["workers"].as_array_mut().unwrap().truncate(1);
    model.fold(Told::State(fewer.to_string()), at(1_300));
    assert_eq!(model.worker().unwrap().id, "web-1");
    fewer["workers"] = json!([]);
    model.fold(Told::State(fewer.to_string()), at(1_400));
    assert!(model.worker().is_none());
}

#[test]
fn the_latest_death_is_picked_until_another_one_is() {
    let mut model = watching();
    model.pane = Pane::Incidents;
    model.fold(event("k3f9x2-2", incident("web-1.1", None)), at(1_200));
    assert_eq!(model.death().unwrap().incident.id, "web-1.1");
    type_in(&mut model, "j");
    model.fold(event("k3f9x2-3", incident("web-1.2", None)), at(1_300));
    assert_eq!(model.death().unwrap().incident.id, "web-3.6");
    type_in(&mut model, "g");
    model.fold(event("k3f9x2-4", incident("web-1.3", None)), at(1_400));
    assert_eq!(model.death().unwrap().incident.id, "web-1.3");
}

#[test]
fn the_connection_is_told_as_it_is() {
    let mut model = Model::new(String::new(), at(0));
    assert_eq!(model.liveness(at(10)), Liveness::Waiting);
    assert_eq!(model.liveness(at(2_500)), Liveness::Silent(Duration::from_millis(2_500)));
    model.fold(frame(at(3_000), 1), at(3_000));
    assert_eq!(model.liveness(at(4_999)), Liveness::Live);
    assert_eq!(model.liveness(at(5_000)), Liveness::Silent(Duration::from_secs(2)));
    let breakage = Breakage { why: "connection reset".to_owned(), again_in: Some(Duration::from_secs(2)) };
    model.fold(Told::Broken(breakage), at(6_000));
    let reconnecting = |ms| Liveness::Reconnecting {
        why: "connection reset".to_owned(),
        again_in: Duration::from_millis(ms),
    };
    assert_eq!(model.liveness(at(6_500)), reconnecting(1_500));
    assert_eq!(model.liveness(at(60_000)), reconnecting(0));
    // Connected again, a new state has two seconds to come before it is missed.
    model.fold(Told::Connected, at(61_000));
    assert_eq!(model.liveness(at(61_100)), Liveness::Live);
}

#[test]
fn what_was_missed_and_what_is_not_understood_is_said() {
    let mut model = watching();
    let gap = Gap { asked: "k3f9x2-17".into(), oldest: None, why: "another controller".into() };
    model.fold(Told::Missed(gap), at(1_200));
    let notice = model.notice.clone().unwrap();
    assert_eq!(notice.tone, Tone::Trouble);
    assert_eq!(notice.text, "not everything after k3f9x2-17 is remembered (another controller)");
    model.fold(Told::State("{}".to_owned()), at(1_300));
    let notice = model.notice.clone().unwrap();
    assert!(notice.text.starts_with("the controller is of another version"), "{}", notice.text);
    assert_eq!(model.workers().len(), 5, "what was known is still shown");
}

#[test]
fn what_became_of_an_order_is_said_with_the_command() {
    let mut model = watching();
    let order = Order::Scale { pool: "web".into(), workers: 5 };
    model.asked(&order);
    assert_eq!(model.pools()[0].pool.wanted, 5, "the next press counts from here");
    model.answered(&order, Err("1025 workers are too many".into()));
    let notice = model.notice.clone().unwrap();
    assert_eq!((notice.tone, notice.text.as_str()), (Tone::Trouble, "not done: 1025 workers are too many"));
    assert_eq!(notice.command.as_deref(), Some("bulkhead scale web 5"));
}
