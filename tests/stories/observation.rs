//! What the door tells of itself while it runs, and the requests that it sends itself.

use std::time::Duration;

use rustix::process::Signal;
use server::control::{Notice, Order, Report};
use server::observation::{LONGEST_TRICKLE, TraceEnd, TurnTrace};

use crate::rig::controller::FakeController;
use crate::rig::{Backend, Stack, eventually};

fn trickle(path: &str, per_second: f64, lasting: Duration) -> Order {
    Order::Trickle { pool: "web".parse().unwrap(), path: path.to_owned(), per_second, lasting }
}

/// Asks again and again, and keeps the turns that it is told of.
struct Watcher {
    controller: FakeController,
    turns: Vec<TurnTrace>,
    omitted: u64,
}

impl Watcher {
    /// Takes the controller's place before the first turn has been given.
    fn of(stack: &Stack) -> Self {
        let mut controller = FakeController::takes_over(stack);
        assert_eq!(controller.report(true).turns, [], "turns were noted before anybody watched");
        Self { controller, turns: Vec::new(), omitted: 0 }
    }

    fn look(&mut self) -> Report {
        let report = self.controller.report(true);
        self.turns.extend(report.turns.iter().cloned());
        self.omitted += report.turns_omitted;
        report
    }

    /// Looks until nobody holds anything and nothing is under way.
    fn wait_for_quiet(&mut self) -> Report {
        eventually("all turns have ended", || {
            let report = self.look();
            let busy = report.pools[0].workers.iter().any(|worker| !worker.holding.is_empty());
            if busy || report.pools[0].connections > 0 { Err(report) } else { Ok(report) }
        })
    }
}

pub fn what_the_door_sends_itself_is_served_counted_and_seen(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    stack.ready("web", 2);
    stack.kill_controller();
    let mut watcher = Watcher::of(&stack);
    watcher.controller.orders(&trickle("/work?ms=5", 50.0, LONGEST_TRICKLE));
    watcher.controller.orders(&Order::Request {
        pool: "web".parse().unwrap(),
        method: "POST".to_owned(),
        path: "/work?ms=7".to_owned(),
    });
    let report = eventually("a worker has answered 20", || match watcher.look() {
        report if report.trickles.iter().any(|trickle| trickle.answered >= 20) => Ok(report),
        report => Err(report),
    });
    let told = &report.trickles[0];
    assert_eq!((told.pool.as_str(), told.path.as_str(), told.failed), ("web", "/work?ms=5", 0), "{told:?}");
    assert_eq!(told.sent, told.answered + told.in_flight as u64, "{told:?}");
    watcher.controller.orders(&Order::EndTrickle { pool: "web".parse().unwrap() });
    watcher
        .controller
        .hears(|notice| matches!(notice, Notice::TrickleEnded { pool } if pool.as_str() == "web"));
    let report = watcher.wait_for_quiet();
    assert_eq!(report.trickles, []);

    // The turns name who had what, when and for how long.
    let post = watcher.turns.iter().find(|turn| turn.request == "POST /work?ms=7");
    let post = post.unwrap_or_else(|| panic!("the single request is not among {:?}", watcher.turns));
    assert!(post.took >= Duration::from_millis(7), "{post:?}");
    for turn in watcher.turns.iter().filter(|turn| *turn != post) {
        assert_eq!((turn.request.as_str(), turn.delivery, turn.end), ("GET /work?ms=5", 1, TraceEnd::Done));
        assert!(["web-0.1", "web-1.1"].contains(&turn.worker.to_string().as_str()), "{turn:?}");
        assert!(turn.took >= Duration::from_millis(5) && turn.took < Duration::from_secs(20), "{turn:?}");
    }
    assert!(watcher.turns.iter().any(|turn| turn.began > watcher.turns[0].began), "{:?}", watcher.turns);

    // And all accounts agree.
    let web = &report.pools[0];
    assert_eq!(watcher.turns.len() as u64 + watcher.omitted, web.counters.turns);
    assert_eq!(web.turn_time.count(), web.counters.turns, "{web:?}");
    assert_eq!(web.queue_wait.count(), web.counters.deliveries, "{web:?}");
    let took: Duration = watcher.turns.iter().map(|turn| turn.took).sum();
    let difference = took.abs_diff(web.turn_time.sum());
    assert!(difference < Duration::from_millis(1), "{took:?} as turns, {:?} in the histogram", web.turn_time);
    assert!(web.turn_time.quantile(0.0) >= Some(Duration::from_millis(2)), "{web:?}");

    // One ends by itself, and says so; the one that it took the place of does not.
    watcher.controller.orders(&trickle("/work?ms=1", 0.1, LONGEST_TRICKLE));
    watcher.controller.orders(&trickle("/work?ms=2", 50.0, Duration::from_secs(3)));
    let told = watcher.controller.report(false);
    assert_eq!((told.trickles.len(), told.trickles[0].path.as_str()), (1, "/work?ms=2"), "{told:?}");
    assert_eq!((told.turns.len(), told.turns_omitted), (0, 0), "turns were told without being asked for");
    watcher.controller.hears(|notice| matches!(notice, Notice::TrickleEnded { .. }));
    watcher.controller.orders(&Order::Report { query: 0, turns: false });
    let next = watcher
        .controller
        .hears(|notice| matches!(notice, Notice::TrickleEnded { .. } | Notice::Report { query: 0, .. }));
    assert!(matches!(&next, Notice::Report { report, .. } if report.trickles.is_empty()), "{next:?}");

    // It goes on without a controller, and ends with the door.
    watcher.controller.orders(&trickle("/work?ms=3", 50.0, LONGEST_TRICKLE));
    assert_eq!(watcher.controller.report(false).trickles.len(), 1);
    drop(watcher);
    stack.start();
    stack.down();
}

pub fn a_trickle_loses_nothing_to_a_kill(backend: Backend) {
    let mut stack = Stack::web(backend, 2, "");
    let workers = stack.ready("web", 2);
    stack.kill_controller();
    let mut watcher = Watcher::of(&stack);
    // Long enough for a kill to come to pass in the middle of one, on a slow machine too.
    watcher.controller.orders(&trickle("/work?ms=3000", 0.3, LONGEST_TRICKLE));
    let life = eventually("somebody has just been given a request", || {
        let report = watcher.look();
        let fresh = report.pools[0].workers.iter().find(|worker| {
            worker.holding.first().is_some_and(|held| held.held_for < Duration::from_millis(1000))
        });
        fresh.map(|worker| worker.worker.clone()).ok_or(report)
    });
    let victim = workers.iter().find(|worker| worker.life() == life.to_string()).expect("it is one of them");
    match &victim.container {
        Some(container) => {
            crate::rig::backend::docker(&["kill", container]).unwrap();
        }
        None => stack.signal(victim, Signal::KILL),
    }
    let report = eventually("its request has been answered, and the next as well", || match watcher.look() {
        report if report.trickles[0].answered >= 2 => Ok(report),
        report => Err(report),
    });
    assert_eq!(report.trickles[0].failed, 0, "{report:?}");
    assert_eq!(report.pools[0].counters.redelivered, 1, "{report:?}");
    watcher.controller.orders(&Order::EndTrickle { pool: "web".parse().unwrap() });
    let report = watcher.wait_for_quiet();
    // Once in the hands of the dead, once done by the other.
    let lost: Vec<_> = watcher.turns.iter().filter(|turn| turn.end == TraceEnd::Lost).collect();
    let again: Vec<_> = watcher.turns.iter().filter(|turn| turn.delivery == 2).collect();
    assert_eq!((lost.len(), again.len()), (1, 1), "{:?}", watcher.turns);
    assert_eq!((&lost[0].worker, lost[0].delivery), (&life, 1), "{lost:?}");
    assert_ne!(again[0].worker, life);
    assert!(again[0].end == TraceEnd::Done && again[0].began >= lost[0].began, "{again:?} after {lost:?}");
    let web = &report.pools[0];
    assert_eq!(web.turn_time.count(), web.counters.turns, "{web:?}");
    assert_eq!(web.queue_wait.count(), web.counters.deliveries, "{web:?}");
    assert_eq!(watcher.turns.len() as u64 + watcher.omitted, web.counters.turns + 1, "{:?}", watcher.turns);
    stack.start();
    stack.down();
}
