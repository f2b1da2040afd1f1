//! What each key comes to.

use super::*;
use crate::cli::top::model::{Overlay, Pane};
use crate::cli::top::order::{Chosen, Deed, Order};

/// What the last of `keys` orders.
fn ordered(model: &mut Model, keys: &str) -> String {
    match type_in(model, keys) {
        Intent::Give(order) => order.command(),
        other => panic!("{keys:?} came to {other:?}"),
    }
}

#[test]
fn capitals_hurt_the_chosen_worker() {
    let mut model = watching();
    let told: Vec<_> = ["K", "jC", "jP", "jd", "gK"].map(|keys| ordered(&mut model, keys)).into();
    assert_eq!(
        told,
        [
            "bulkhead kill web-0",
            "bulkhead kill web-1 --signal SEGV",
            "bulkhead kill web-2 --signal STOP",
            "bulkhead drain web-3",
            "bulkhead kill web-0",
        ]
    );
}

#[test]
fn small_letters_look() {
    let mut model = watching();
    for keys in ["j", "k", "G", "g", "\t", "\t", "\t", "?", "\u{1b}", "x", "c", "p", "D"] {
        assert_eq!(type_in(&mut model, keys), Intent::Look, "{keys:?}");
    }
}

#[test]
fn a_worker_is_hurt_only_where_it_is_looked_at() {
    for pane in [Pane::Pools, Pane::Incidents] {
        let mut model = watching();
        model.pane = pane;
        for key in ["K", "C", "P", "d"] {
            assert_eq!(type_in(&mut model, key), Intent::Look, "{key:?} in {pane:?}");
            assert!(model.notice.take().is_some(), "{key:?} in {pane:?} says nothing");
        }
    }
}

#[test]
fn nobody_is_there_and_no_key_fails() {
    let mut model = Model::new(String::new(), at(0));
    for key in "KCPd+-rjkgG\n\t?\u{1b}\t\n\tKCPd+-rjkgG\n".chars() {
        assert_eq!(press(&mut model, key_of(key), 0.5), Intent::Look, "{key:?}");
    }
}

#[test]
fn scaling_means_the_chosen_pool_or_the_chosen_workers() {
    let mut model = watching();
    for wanted in ["bulkhead scale web 5", "bulkhead scale web 6"] {
        let Intent::Give(order) = type_in(&mut model, "+") else { panic!("no order") };
        model.asked(&order);
        assert_eq!(order.command(), wanted);
    }
    assert_eq!(ordered(&mut model, "G-"), "bulkhead scale echo 3");
    model.pane = Pane::Pools;
    assert_eq!(ordered(&mut model, "-"), "bulkhead scale web 5");
    assert_eq!(ordered(&mut model, "j+"), "bulkhead scale echo 5");
}

#[test]
fn nobody_is_scaled_below_zero() {
    let mut model = watching();
    for _ in 0..6 {
        let Intent::Give(order) = type_in(&mut model, "-") else { panic!("no order") };
        model.asked(&order);
    }
    assert_eq!(ordered(&mut model, "-"), "bulkhead scale web 0");
}

#[test]
fn a_victim_of_chance_serves_in_the_chosen_pool() {
    let mut model = watching();
    // Of web's workers one is busy; the others start, are dead or drain.
    for dice in [0.0, 0.5, 0.999, 1.0] {
        let Intent::Give(order) = press(&mut model, key_of('r'), dice) else { panic!("no order") };
        let web_0 = Order::Worker {
            deed: Deed::Kill,
            worker: "web-0".into(),
            generation: 1,
            chosen: Chosen::ByChance,
        };
        assert_eq!(order, web_0);
        assert_eq!(order.account(), "sent SIGKILL to web-0, chosen by chance");
    }
    assert_eq!(ordered(&mut model, "Gr"), "bulkhead kill echo-0");
}

#[test]
fn an_incident_is_opened_scrolled_and_closed() {
    let mut model = watching();
    assert_eq!(type_in(&mut model, "\n"), Intent::Look);
    assert_eq!(model.overlay, Overlay::None, "a worker is no incident");
    type_in(&mut model, "\t\n");
    let card = |scroll| Overlay::Card { key: "k3f9x2/web-3.6".into(), scroll };
    assert_eq!(model.overlay, card(0));
    model.drawn.deepest = 2;
    type_in(&mut model, "jjjjj");
    assert_eq!(model.overlay, card(2), "not beyond the end");
    // What hurts on the lists does nothing here.
    assert_eq!(type_in(&mut model, "K"), Intent::Look);
    type_in(&mut model, "kq");
    assert_eq!(model.overlay, Overlay::None);
    assert_eq!(type_in(&mut model, "q"), Intent::Quit);
}

#[test]
fn control_c_leaves_from_everywhere() {
    let mut model = watching();
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut model, control_c, 0.5), Intent::Quit);
    type_in(&mut model, "?");
    assert_eq!(press(&mut model, control_c, 0.5), Intent::Quit);
    let control_k = KeyEvent::new(KeyCode::Char('K'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut model, control_k, 0.5), Intent::Look);
}
