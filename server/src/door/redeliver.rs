//! The redelivery contract: what becomes of a turn whose worker has died. Pure.
//!
//! A turn goes to another worker only if *all* of this holds: the request is still whole in the socket; not one
//! byte of an answer was written; it has been delivered fewer times than the pool allows; its time is not up;
//! and executing it twice is allowed, or nobody can have executed it once.
//!
//! A worker whose link has vanished (silence, a reset) is not known to be dead: it may be executing the turn at this very
//! moment, on the far side of a partition. What is redelivered then runs twice *at once*, which neither a pool that allows
//! all methods nor an `Idempotency-Key` has agreed to: whoever looks the key up finds nothing before the first has
//! finished. So then the method itself has to be idempotent, whatever else would do.
//!
//! Its time is the *request's*: it runs from the first delivery. A worker that was killed because a request had
//! overrun its time leaves nothing of that time to give to another, so such a request is answered `504`, not
//! tried again: otherwise one hanging request would take a worker after another for the full time each.

use std::fmt;

use crate::config::{Protocol, Redeliver, RedeliverMethods};

/// What is known of a turn when its worker has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// What the client speaks.
    pub protocol: Protocol,
    /// The client's connection is gone.
    pub client_gone: bool,
    /// What has been written to the client since the turn was given.
    pub answer: Written,
    /// All of the request is still in the socket.
    pub whole: bool,
    /// The worker was killed, or was to be, because this request had overrun its time.
    pub overran: bool,
    /// The worker was asked to acknowledge the turn before executing it, and had not.
    pub untouched: bool,
    /// The request's method is idempotent.
    pub idempotent_method: bool,
    /// It carries an `Idempotency-Key`.
    pub keyed: bool,
    /// Nobody knows that the worker is dead: its link has vanished, and it may be executing the request still.
    pub may_still_run: bool,
    /// Deliveries so far, the one that has just failed included.
    pub deliveries: u32,
}

/// How much of an answer the client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Not one byte.
    Nothing,
    /// Some of it, for all that is known.
    Begun,
    /// All of it: as many bytes as the worker had announced.
    Whole,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: the client has its answer.
    Finish,
    /// Give it to another worker.
    Redeliver,
    /// Answer in the worker's place with this status.
    Answer(u16, Reason),
    /// Close the connection: there is nothing to say, or no way to say it.
    Close(Reason),
}

/// Why a turn is not given to another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    ClientGone,
    AnswerBegun,
    RawPool,
    Overran,
    NotWhole,
    Attempts(u32),
    NotIdempotent,
    MayStillRun,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientGone => f.write_str("the client has gone"),
            Self::AnswerBegun => f.write_str("the worker had begun to answer"),
            Self::RawPool => {
                f.write_str("the worker had taken the connection, and a raw pool has no other answer")
            }
            Self::Overran => f.write_str("the request overran its time"),
            Self::NotWhole => f.write_str("the worker may have read a part of the request"),
            Self::Attempts(1) => f.write_str("it was delivered once, which is the limit"),
            Self::Attempts(n) => write!(f, "it was delivered {n} times, which is the limit"),
            Self::NotIdempotent => {
                f.write_str("it may have been executed, and this pool repeats no request of its kind")
            }
            Self::MayStillRun => f.write_str(
                "the worker was lost and may be executing it still, and its method does not say that it may run twice at once",
            ),
        }
    }
}

/// Decides.
pub(super) fn decide(facts: &Facts, policy: &Redeliver) -> Verdict {
    use Verdict::{Answer, Close};
    let may_run_again = facts.untouched
        || match policy.methods {
            RedeliverMethods::All => true,
            RedeliverMethods::Idempotent => facts.idempotent_method || facts.keyed,
            RedeliverMethods::None => false,
        };
    let may_run_beside_itself = !facts.may_still_run || facts.idempotent_method;
    if facts.client_gone {
        return Close(Reason::ClientGone);
    }
    match facts.answer {
        Written::Whole => return Verdict::Finish,
        Written::Begun => return Close(Reason::AnswerBegun),
        Written::Nothing => {}
    }
    if facts.protocol == Protocol::Tcp {
        let again =
            facts.untouched && !facts.may_still_run && !facts.overran && facts.deliveries < policy.attempts;
        return if again { Verdict::Redeliver } else { Close(Reason::RawPool) };
    }
    if facts.overran {
        return Answer(504, Reason::Overran);
    }
    if !facts.whole {
        return Answer(502, Reason::NotWhole);
    }
    if !may_run_again {
        return Answer(502, Reason::NotIdempotent);
    }
    if !may_run_beside_itself {
        return Answer(502, Reason::MayStillRun);
    }
    if facts.deliveries >= policy.attempts {
        return Answer(502, Reason::Attempts(facts.deliveries));
    }
    Verdict::Redeliver
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> impl Strategy<Value = Facts> {
        let answer = prop::sample::select(vec![Written::Nothing, Written::Begun, Written::Whole]);
        (any::<[bool; 8]>(), answer, 1u32..6).prop_map(|(b, answer, deliveries)| Facts {
            protocol: if b[0] { Protocol::Http } else { Protocol::Tcp },
            client_gone: b[1],
            answer,
            whole: b[2],
            overran: b[3],
            untouched: b[4],
            idempotent_method: b[5],
            keyed: b[6],
            may_still_run: b[7],
            deliveries,
        })
    }

    fn policy() -> impl Strategy<Value = Redeliver> {
        let methods = prop::sample::select(vec![
            RedeliverMethods::None,
            RedeliverMethods::Idempotent,
            RedeliverMethods::All,
        ]);
        (1u32..5, methods).prop_map(|(attempts, methods)| Redeliver { attempts, methods })
    }

    /// A request that is there and may be repeated, of whose worker nobody knows that it is dead.
    fn lost(idempotent_method: bool, keyed: bool) -> Facts {
        Facts {
            protocol: Protocol::Http,
            client_gone: false,
            answer: Written::Nothing,
            whole: true,
            overran: false,
            untouched: false,
            idempotent_method,
            keyed,
            may_still_run: true,
            deliveries: 1,
        }
    }

    #[test]
    fn what_may_still_run_elsewhere_is_repeated_by_its_method_alone() {
        let all = Redeliver { attempts: 2, methods: RedeliverMethods::All };
        let refused = Verdict::Answer(502, Reason::MayStillRun);
        assert_eq!(decide(&lost(false, false), &all), refused);
        assert_eq!(decide(&lost(false, true), &all), refused);
        assert_eq!(decide(&lost(true, false), &all), Verdict::Redeliver);
        let dead = Facts { may_still_run: false, ..lost(false, true) };
        assert_eq!(decide(&dead, &all), Verdict::Redeliver);
        let raw = Facts { protocol: Protocol::Tcp, untouched: true, ..lost(true, true) };
        assert_eq!(decide(&raw, &all), Verdict::Close(Reason::RawPool));
    }

    proptest! {
        /// The contract, word by word, from the other side.
        #[test]
        fn it_is_redelivered_only_if_all_of_the_contract_holds(facts in facts(), policy in policy()) {
            if decide(&facts, &policy) == Verdict::Redeliver {
                prop_assert!(!facts.client_gone && facts.answer == Written::Nothing && !facts.overran);
                prop_assert!(facts.deliveries < policy.attempts);
                prop_assert!(facts.whole || facts.protocol == Protocol::Tcp);
                let twice = match policy.methods {
                    RedeliverMethods::All => true,
                    RedeliverMethods::Idempotent => facts.idempotent_method || facts.keyed,
                    RedeliverMethods::None => false,
                };
                prop_assert!(facts.untouched || twice);
                prop_assert!(facts.idempotent_method || !facts.may_still_run);
            }
        }

        #[test]
        fn an_answer_that_has_begun_is_never_followed_by_another(facts in facts(), policy in policy()) {
            if facts.answer != Written::Nothing {
                prop_assert!(matches!(decide(&facts, &policy), Verdict::Close(_) | Verdict::Finish));
            }
        }

        #[test]
        fn an_http_client_who_is_there_and_unanswered_is_never_left_without_an_answer(facts in facts(), policy in policy()) {
            if facts.protocol == Protocol::Http && !facts.client_gone && facts.answer == Written::Nothing {
                prop_assert!(!matches!(decide(&facts, &policy), Verdict::Close(_)));
            }
        }
    }
}
