//! A cluster whose API has too much to do: it refuses, or does what it was asked and says that it has failed.

use crate::rig::load::{Load, Tally};
use crate::rig::stack::web;
use crate::rig::throttle::Throttle;
use crate::rig::{Backend, Stack, eventually};

pub fn an_api_that_throttles_costs_no_request(backend: Backend) {
    let throttle = Throttle::before_the_api();
    // A creation that is refused counts as a death.
    let restart = "restart: { backoff: 10ms, longest: 1s, deaths: 100, within: 10s }";
    let stack = Stack::up_by_way_of(&throttle.kubeconfig(), backend, &web(3, restart));
    stack.ready("web", 3);
    throttle.begin();
    let load = Load::start(stack.address("web"), 3, "/work?ms=20");
    for round in 0..4 {
        let victim = stack.ready("web", 3).remove(round % 3);
        stack.kill_from_outside(&victim);
        eventually(&format!("the next one is in the place of {}", victim.life()), || {
            let next = stack.api().worker(&victim.id);
            let there = next.generation > victim.generation && next.is_ready();
            if there { Ok(()) } else { Err((vec![next], throttle.refused())) }
        });
        // Why it died is told through the same API.
        stack.api().told(&victim.life());
    }
    // More of them are made and ended, too.
    assert!(stack.api().scale("web", 5).status < 300);
    stack.ready("web", 5);
    assert!(stack.api().scale("web", 3).status < 300);
    stack.ready("web", 3);
    let Tally { answered, failed } = load.stop();
    assert_eq!(failed, Vec::<String>::new(), "of {answered} that were answered");
    let refused = throttle.refused();
    assert!(refused.iter().all(|times| *times > 0), "the API was not busy: {refused:?}");
    stack.down();
}
