//! The stories. Each is one thing that a user was promised, told in the words of the domain.

#![allow(unreachable_pub, reason = "a story is told by the program, from the list below")]

pub mod adoption;
mod bytes;
mod death;
mod doorstep;
mod faults;
mod hostile;
mod life;
mod models;
mod observation;
mod storm;
pub mod throttled;
pub mod tunnel;
mod watching;

use crate::rig::{Backend, Missing, Story};

pub use tunnel::ALL as TUNNEL;

/// Every story, by the name that a run prints.
pub const ALL: &[(&str, Story)] = &[
    ("serves", life::serves),
    ("a_worker_knows_its_clients_address", life::a_worker_knows_its_clients_address),
    ("a_connection_is_a_turn_on_the_echo_pool", life::a_connection_is_a_turn_on_the_echo_pool),
    (
        "drain_lets_a_turn_finish_and_replaces_its_worker",
        life::drain_lets_a_turn_finish_and_replaces_its_worker,
    ),
    ("scale_follows_up_and_down_and_loses_nothing", life::scale_follows_up_and_down_and_loses_nothing),
    ("recycled_workers_cost_no_request", life::recycled_workers_cost_no_request),
    (
        "an_answer_that_a_drain_cuts_does_not_look_whole",
        life::an_answer_that_a_drain_cuts_does_not_look_whole,
    ),
    ("ctrl_c_lets_turns_finish_and_leaves_nothing", life::ctrl_c_lets_turns_finish_and_leaves_nothing),
    (
        "who_is_idle_with_a_worker_does_not_hold_up_a_drain",
        life::who_is_idle_with_a_worker_does_not_hold_up_a_drain,
    ),
    ("who_has_got_through_before_a_stop_is_served", life::who_has_got_through_before_a_stop_is_served),
    ("a_door_that_hangs_does_not_hold_up_a_stop", life::a_door_that_hangs_does_not_hold_up_a_stop),
    (
        "who_has_got_through_is_served_when_descriptors_run_out",
        life::who_has_got_through_is_served_when_descriptors_run_out,
    ),
    ("a_second_ctrl_c_cuts_off_and_leaves_nothing", life::a_second_ctrl_c_cuts_off_and_leaves_nothing),
    ("killed_while_idle_is_replaced", death::killed_while_idle_is_replaced),
    ("killed_in_a_get_is_answered_by_another", death::killed_in_a_get_is_answered_by_another),
    ("killed_in_a_post_is_executed_at_most_once", death::killed_in_a_post_is_executed_at_most_once),
    ("killed_in_an_answer_cuts_it_and_answers_once", death::killed_in_an_answer_cuts_it_and_answers_once),
    ("killed_behind_its_answer_costs_nothing", death::killed_behind_its_answer_costs_nothing),
    ("a_poison_get_stops_at_the_limit", death::a_poison_get_stops_at_the_limit),
    ("killed_under_load_loses_no_get", death::killed_under_load_loses_no_get),
    ("whoever_is_about_to_be_killed_gets_no_turn", death::whoever_is_about_to_be_killed_gets_no_turn),
    ("a_raw_connection_is_closed_with_its_worker", death::a_raw_connection_is_closed_with_its_worker),
    ("a_hang_is_ended_named_and_answered_504", faults::a_hang_is_ended_named_and_answered_504),
    ("a_client_that_stalls_costs_no_worker", faults::a_client_that_stalls_costs_no_worker),
    (
        "a_client_that_may_still_be_sending_costs_no_worker",
        faults::a_client_that_may_still_be_sending_costs_no_worker,
    ),
    ("out_of_memory_is_told_as_such", faults::out_of_memory_is_told_as_such),
    ("a_fork_bomb_stays_in_its_compartment", faults::a_fork_bomb_stays_in_its_compartment),
    (
        "descriptor_exhaustion_stays_in_its_compartment",
        faults::descriptor_exhaustion_stays_in_its_compartment,
    ),
    (
        "a_child_that_keeps_the_link_does_not_hide_a_death",
        faults::a_child_that_keeps_the_link_does_not_hide_a_death,
    ),
    (
        "the_controller_can_die_and_the_next_one_adopts",
        adoption::the_controller_can_die_and_the_next_one_adopts,
    ),
    ("a_turn_outlives_its_door", adoption::a_turn_outlives_its_door),
    ("a_door_of_another_build_is_replaced", adoption::a_door_of_another_build_is_replaced),
    ("a_door_that_hangs_is_told_of_and_replaced", adoption::a_door_that_hangs_is_told_of_and_replaced),
    ("a_door_that_hangs_is_replaced_by_the_next_up", adoption::a_door_that_hangs_is_replaced_by_the_next_up),
    (
        "another_backend_is_refused_while_workers_live",
        adoption::another_backend_is_refused_while_workers_live,
    ),
    ("the_door_can_die_and_workers_find_the_next", adoption::the_door_can_die_and_workers_find_the_next),
    ("a_slow_client_holds_no_worker", doorstep::a_slow_client_holds_no_worker),
    ("idle_connections_hold_no_worker", doorstep::idle_connections_hold_no_worker),
    ("a_full_queue_is_answered_503", doorstep::a_full_queue_is_answered_503),
    ("a_long_wait_is_answered_503", doorstep::a_long_wait_is_answered_503),
    ("what_is_not_a_request_is_refused_at_the_door", doorstep::what_is_not_a_request_is_refused_at_the_door),
    (
        "what_follows_on_a_connection_of_its_own_is_bounded",
        doorstep::what_follows_on_a_connection_of_its_own_is_bounded,
    ),
    ("bodies_of_every_kind_arrive", doorstep::bodies_of_every_kind_arrive),
    (
        "what_follows_a_large_body_reaches_the_next_turn",
        bytes::what_follows_a_large_body_reaches_the_next_turn,
    ),
    ("a_connection_in_tiny_pieces_is_one_turn", bytes::a_connection_in_tiny_pieces_is_one_turn),
    (
        "an_old_clients_answer_that_is_cut_is_seen_to_be",
        bytes::an_old_clients_answer_that_is_cut_is_seen_to_be,
    ),
    ("http_is_spoken_as_written", doorstep::http_is_spoken_as_written),
    ("garbage_on_a_link_evicts_that_worker_only", hostile::garbage_on_a_link_evicts_that_worker_only),
    ("strangers_are_turned_away", hostile::strangers_are_turned_away),
    ("a_done_without_an_answer_is_a_breach", hostile::a_done_without_an_answer_is_a_breach),
    ("who_is_left_without_an_answer_is_told", hostile::who_is_left_without_an_answer_is_told),
    (
        "a_worker_that_claims_too_much_gets_what_its_model_takes",
        hostile::a_worker_that_claims_too_much_gets_what_its_model_takes,
    ),
    ("a_worker_that_hoards_or_is_deaf_stalls_nobody", hostile::a_worker_that_hoards_or_is_deaf_stalls_nobody),
    (
        "what_the_door_sends_itself_is_served_counted_and_seen",
        observation::what_the_door_sends_itself_is_served_counted_and_seen,
    ),
    ("a_storm_of_kills_costs_no_get", storm::a_storm_of_kills_costs_no_get),
    ("a_storm_says_which_bar_was_missed", storm::a_storm_says_which_bar_was_missed),
    ("a_death_is_told_as_it_happens", watching::a_death_is_told_as_it_happens),
    (
        "who_resumes_at_another_controller_is_told_that",
        watching::who_resumes_at_another_controller_is_told_that,
    ),
    ("a_trickle_loses_nothing_to_a_kill", observation::a_trickle_loses_nothing_to_a_kill),
    ("threads_share_a_fault_and_catch_a_panic", models::threads_share_a_fault_and_catch_a_panic),
    (
        "a_panic_over_each_request_of_a_connection_costs_no_worker",
        models::a_panic_over_each_request_of_a_connection_costs_no_worker,
    ),
    ("a_worker_of_many_threads_leaves_when_told", models::a_worker_of_many_threads_leaves_when_told),
    (
        "an_event_loop_waits_for_many_and_blocks_for_all",
        models::an_event_loop_waits_for_many_and_blocks_for_all,
    ),
];

/// What cannot be told of pods, and why.
const NOT_OF_PODS: &[(&str, &str)] = &[(
    "a_fork_bomb_stays_in_its_compartment",
    "how many processes a pod may have is for its kubelet to say (podPidsLimit), and for all pods of the node alike",
)];

/// Why a story is not told on this backend.
pub fn untold(story: &str, backend: Backend) -> Option<Missing> {
    let (_, why) = NOT_OF_PODS.iter().find(|(name, _)| backend.is_pods() && *name == story)?;
    Some(Missing { why: (*why).to_owned(), excused: true })
}
