//! Names and label values that a cluster accepts, from names that it might not.
//!
//! A name that is legal already stays as it is. Any other loses what is not allowed and gets six digits of a hash over
//! all of it, so that two owners who differ keep differing.

use server::identity::Incarnation;
use sha2::{Digest, Sha256};

/// How long a label of the domain name system may be, a pod's host name among them, and a label's value.
const LONGEST: usize = 63;

/// The name of a life's pod: `bulkhead-web-3-7`.
pub(super) fn pod(owner: &str, life: &Incarnation) -> String {
    let life = format!("{}-{}", life.worker, life.generation);
    // An owner's name begins with a letter or digit, and never ends in a dash.
    let room = LONGEST.saturating_sub(life.len() + 1);
    format!("{}-{life}", legal(owner, room))
}

/// A label's value.
pub(super) fn label(text: &str) -> String {
    legal(text, LONGEST)
}

/// Six digits, by which two that differ can be told apart.
pub(super) fn digest(bytes: &[u8]) -> String {
    let [a, b, c, ..]: [u8; 32] = Sha256::digest(bytes).into();
    format!("{a:02x}{b:02x}{c:02x}")
}

fn legal(text: &str, longest: usize) -> String {
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let plain: String = text.to_lowercase().chars().map(allowed).collect();
    let plain = plain.trim_matches('-');
    if plain == text && (1..=longest).contains(&text.len()) {
        return plain.to_owned();
    }
    let digest = digest(text.as_bytes());
    let kept: String = plain.chars().take(longest.saturating_sub(digest.len() + 1)).collect();
    match kept.trim_end_matches('-') {
        "" => digest,
        kept => format!("{kept}-{digest}"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_legal_name_stays_and_others_stay_apart() {
        let life: Incarnation = "web-3.7".parse().unwrap();
        assert_eq!(pod("bulkhead", &life), "bulkhead-web-3-7");
        insta::assert_snapshot!(pod("/run/Bulk head", &life), @"run-bulk-head-eee18a-web-3-7");
        assert_ne!(label("/run/bulkhead"), label("/run-bulkhead"));
    }

    proptest! {
        #[test]
        fn every_owner_and_life_has_a_legal_name(
            owner in ".{0,80}",
            pool in "[a-z]([a-z0-9-]{0,30}[a-z0-9])?",
            place: u32,
            // A place that loses ten workers a second gets there in thirteen years.
            generation: u32,
        ) {
            let life: Incarnation = format!("{pool}-{place}.{generation}").parse().unwrap();
            for name in [pod(&owner, &life), label(&owner)] {
                prop_assert!((1..=LONGEST).contains(&name.len()), "{name}");
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
                prop_assert!(!name.starts_with('-') && !name.ends_with('-'), "{name}");
            }
        }
    }
}
