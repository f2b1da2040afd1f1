//! The wait-for graph: who waits for whom, whether that goes in a circle, and who then has to step back. Pure.
//!
//! A party waits for one resource at a time and a resource has one holder, so each party has at most one edge out. A
//! circle is found by walking along the edges: whoever is met twice on one walk stands in one.

/// The parties of a circle, each waiting for the next and the last for the first, beginning with the least. `None`:
/// somebody can always go on. `waits` has for each party the one that it waits for.
pub(super) fn cycle(waits: &[Option<usize>]) -> Option<Vec<usize>> {
    (0..waits.len()).find_map(|first| {
        let mut walked = Vec::new();
        let mut at = first;
        while let Some(next) = waits.get(at).copied().flatten() {
            walked.push(at);
            if next == first {
                return Some(walked);
            }
            if walked.contains(&next) {
                // A circle, but not with the first in it: another walk will find it from its least.
                return None;
            }
            at = next;
        }
        None
    })
}

/// Who steps back: whoever has had the most so far, for it can best afford it, and so nobody is chosen for ever.
pub(super) fn victim(cycle: &[usize], had: &[u64]) -> Option<usize> {
    let had = |party: usize| had.get(party).copied().unwrap_or(0);
    cycle.iter().copied().max_by(|&one, &other| had(one).cmp(&had(other)).then(other.cmp(&one)))
}

/// Who waits for whom, from who wants what and who holds it.
pub(super) fn waits(wants: &[Option<usize>], holders: &[Option<usize>]) -> Vec<Option<usize>> {
    wants.iter().map(|want| want.and_then(|it| holders.get(it).copied().flatten())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_that_wait_for_each_other_are_found_and_a_third_who_waits_for_them_is_not_blamed() {
        assert_eq!(cycle(&[Some(1), Some(2), Some(1)]), Some(vec![1, 2]));
        assert_eq!(cycle(&[Some(1), Some(2), None]), None);
        assert_eq!(cycle(&[]), None);
    }

    #[test]
    fn the_victim_is_who_has_had_most() {
        assert_eq!(victim(&[0, 1, 2], &[3, 9, 9]), Some(1));
        assert_eq!(victim(&[], &[1]), None);
    }

    #[test]
    fn who_wants_what_nobody_holds_waits_for_nobody() {
        assert_eq!(waits(&[Some(1), Some(0), None], &[Some(2), None]), [None, Some(2), None]);
    }

    proptest! {
        /// Who waits for nobody is taken away, with all edges to him, until nothing changes: what is left waits for ever.
        #[test]
        fn there_is_a_cycle_exactly_if_somebody_can_never_go_on(
            waits in prop::collection::vec(prop::option::of(0_usize..8), 8),
        ) {
            let mut left = waits.clone();
            for _ in 0..left.len() {
                let free: Vec<bool> = left.iter().map(Option::is_none).collect();
                for edge in &mut left {
                    *edge = edge.filter(|&to| !free[to]);
                }
            }
            let found = cycle(&waits);
            prop_assert_eq!(found.is_some(), left.iter().any(Option::is_some));
            if let Some(found) = found {
                for (nth, &party) in found.iter().enumerate() {
                    prop_assert_eq!(waits[party], Some(found[(nth + 1) % found.len()]));
                }
                prop_assert!(victim(&found, &[1; 8]).is_some_and(|it| found.contains(&it)));
            }
        }
    }
}
