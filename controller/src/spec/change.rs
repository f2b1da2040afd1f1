//! What a spec that has changed means for those who run: what follows at once, and what waits. Pure.
//!
//! A door reads its part of the spec when it is started, for it listens, queues and keeps its clients by it. So a change
//! to that part waits until it is started again, and is told by name. All else is the controller's, and follows: workers
//! that were made from another spec are replaced one by one, as always.
//!
//! What clients speak, and what a worker is given at a time, are of both: a worker that speaks tcp is of no use to a door
//! that expects http. While such a change waits, the pool's workers stay as they are, too.

use std::fmt;

use super::valid::Pool;

/// How a pool's spec differs from what it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The keys that are followed at once.
    pub follows: Vec<&'static str>,
    /// The keys that wait for a restart of the door.
    pub waits: Vec<&'static str>,
    /// The keys that wait for a restart of door and controller.
    pub waits_for_both: Vec<&'static str>,
}

impl Change {
    /// How `new` differs from `old`.
    pub fn between(old: &Pool, new: &Pool) -> Self {
        let mut change = Self::default();
        let (door, then) = (&new.door, &old.door);
        let (times, before) = (&door.timeouts, &then.timeouts);
        let incompatible = [("protocol", door.protocol != then.protocol), ("turn", door.turn != then.turn)];
        change.waits_for_both.extend(changed(&incompatible));
        let held = !change.waits_for_both.is_empty();
        if held && new.worker != old.worker {
            change.waits_for_both.push("worker");
        }
        change.follows.extend(changed(&[
            ("size", new.workers != old.workers),
            ("worker", !held && new.worker != old.worker),
            ("timeouts.start", times.start != before.start),
            ("recycle", new.recycle != old.recycle),
            ("restart", new.restart != old.restart),
        ]));
        change.waits.extend(changed(&[
            ("listen", door.listen != then.listen),
            // The door gives a worker as many turns at a time as its model takes, as far as the door knows.
            ("worker.model (more turns at a time)", !held && door.credit > then.credit),
            ("timeouts.head", times.head != before.head),
            ("timeouts.request", times.request != before.request),
            ("timeouts.keep_alive", times.keep_alive != before.keep_alive),
            ("timeouts.drain", times.drain != before.drain),
            ("queue", door.queue != then.queue),
            ("clients", door.clients != then.clients),
            ("redeliver", door.redeliver != then.redeliver),
        ]));
        change
    }

    /// Whether nothing has changed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a pool of which `old` runs is from now on, when `new` is what is written.
pub fn effective(old: &Pool, new: &Pool) -> Pool {
    let mut pool = new.clone();
    if (new.door.protocol, new.door.turn) != (old.door.protocol, old.door.turn) {
        (pool.door.protocol, pool.door.turn) = (old.door.protocol, old.door.turn);
        pool.door.credit = old.door.credit;
        pool.worker = old.worker.clone();
    }
    pool
}

fn changed(keys: &[(&'static str, bool)]) -> impl Iterator<Item = &'static str> {
    keys.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key)
}

impl fmt::Display for Change {
    /// `size, worker follow; queue waits for a restart of the door`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (&self.follows, "is followed", "are followed"),
            (&self.waits, "waits for a restart of the door", "wait for a restart of the door"),
            (
                &self.waits_for_both,
                "waits for a restart of door and controller",
                "wait for a restart of door and controller",
            ),
        ];
        let told = parts.iter().filter(|(keys, ..)| !keys.is_empty()).map(|(keys, one, many)| {
            format!("{} {}", keys.join(", "), if keys.len() == 1 { one } else { many })
        });
        f.write_str(&told.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn pool(settings: &str) -> Pool {
        let text = format!("backend: docker\npools: {{ web: {{ {settings} }} }}");
        parse("bulkhead.yaml", &text).unwrap().pools.remove(0)
    }

    fn told(old: &str, new: &str) -> String {
        Change::between(&pool(old), &pool(new)).to_string()
    }

    #[test]
    fn what_follows_and_what_waits_is_named() {
        assert!(Change::between(&pool(""), &pool("")).is_none());
        insta::assert_snapshot!(told("", "size: { workers: 9 }"), @"size is followed");
        insta::assert_snapshot!(
            told("", "size: { workers: 9 }, recycle: { requests: 5 }, queue: { depth: 7 }"),
            @"size, recycle are followed; queue waits for a restart of the door"
        );
        insta::assert_snapshot!(
            told("", "worker: { model: { threads: 8 } }, timeouts: { start: 1s, head: 1s }"),
            @"worker, timeouts.start are followed; worker.model (more turns at a time), timeouts.head wait for a restart of the door"
        );
        insta::assert_snapshot!(
            told("", "protocol: tcp, listen: 127.0.0.1:1, size: { workers: 9 }"),
            @"size is followed; listen, timeouts.request wait for a restart of the door; protocol, turn, worker wait for a restart of door and controller"
        );
    }

    #[test]
    fn a_pool_that_is_to_speak_something_else_keeps_its_workers_as_long_as_its_door_does_not() {
        let (old, new) = (pool(""), pool("protocol: tcp, size: { workers: 9 }"));
        let effective = effective(&old, &new);
        assert_eq!((effective.workers, effective.spec_hash()), (9, old.spec_hash()));
        let new = pool("worker: { model: { threads: 8 } }, queue: { depth: 7 }");
        assert_eq!(super::effective(&old, &new), new);
    }
}
