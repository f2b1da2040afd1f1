//! Stories that only a tunnel has: its workers can vanish, its door can be reached by strangers, and the clients' bytes go
//! through both.

mod flow;
pub mod partition;
mod rules;
mod strangers;
mod trust;
mod vanished;

use crate::rig::Story;

/// Every story, by the name that a run prints.
pub const ALL: &[(&str, Story)] = &[
    (
        "a_worker_that_has_stopped_is_lost_and_replaced",
        vanished::a_worker_that_has_stopped_is_lost_and_replaced,
    ),
    (
        "what_is_lost_goes_to_nobody_who_is_silent_too",
        vanished::what_is_lost_goes_to_nobody_who_is_silent_too,
    ),
    ("who_was_lost_is_not_let_in_again", vanished::who_was_lost_is_not_let_in_again),
    ("strangers_are_sent_away_in_time", strangers::strangers_are_sent_away_in_time),
    ("a_crowd_of_strangers_keeps_no_worker_out", strangers::a_crowd_of_strangers_keeps_no_worker_out),
    (
        "who_is_dead_or_here_already_gets_no_handshake",
        strangers::who_is_dead_or_here_already_gets_no_handshake,
    ),
    ("who_breaks_the_tunnels_rules_is_not_heard", rules::who_breaks_the_tunnels_rules_is_not_heard),
    ("who_speaks_for_others_harms_nobody", rules::who_speaks_for_others_harms_nobody),
    ("who_sends_beyond_the_window_is_not_heard", rules::who_sends_beyond_the_window_is_not_heard),
    ("who_lies_about_an_answer_spoils_that_alone", rules::who_lies_about_an_answer_spoils_that_alone),
    (
        "clients_that_do_not_read_cost_the_door_a_window_each",
        flow::clients_that_do_not_read_cost_the_door_a_window_each,
    ),
    ("who_cannot_prove_to_be_the_door_gets_no_worker", trust::who_cannot_prove_to_be_the_door_gets_no_worker),
];
