//! Text to [`raw::Spec`]: the parser's bounds, and its complaints in our words.
//!
//! What the parser refuses (broken YAML, an unknown or repeated key, a list where a section belongs) ends the
//! reading: there is one such mistake at a time. It knows line and column but not which key it stood at, so a
//! second, untyped reading of the same text ([`key_at`]) tells the key's path from the place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, Error, Options, Spanned};

use super::mistake::{Mistake, Place, nearest};
use super::raw;

/// Reads `text`, which came from `file`.
pub(super) fn read(file: &str, text: &str) -> Result<raw::Spec, Mistake> {
    serde_yaml::from_str_with_options(text, options(DuplicateKeyPolicy::Error))
        .map_err(|error| translate(file, text, &error))
}

/// A spec is small: what is larger than this is a mistake, or somebody's attempt to keep us busy.
fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: 16,
            flow_nesting_limit: 16,
            max_nodes: 50_000,
            max_events: 200_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            // One; the second is refused by its name.
            max_documents: 2,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: duplicate_keys,
        with_snippet: false,
        // `off` is a word here.
        strict_booleans: true,
    }
}

fn translate(file: &str, text: &str, error: &Error) -> Mistake {
    let place = error.location().and_then(Place::of);
    let (problem, remedy) = explain(error.without_snippet());
    Mistake {
        file: file.to_owned(),
        origin: place.into(),
        key: place.map(|place| key_at(text, place)).unwrap_or_default(),
        problem,
        remedy,
    }
}

/// What is wrong, and what to do about it.
fn explain(error: &Error) -> (String, String) {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => (
            format!("there is no key {field:?} here"),
            match nearest(field, expected.iter().copied()) {
                Some(meant) => format!("did you mean {meant}? The keys here are {}", expected.join(", ")),
                None => format!("the keys here are {}", expected.join(", ")),
            },
        ),
        Error::DuplicateMappingKey { key, .. } => (
            key.as_ref()
                .map_or_else(|| "this key is here twice".to_owned(), |key| format!("{key:?} is here twice")),
            "remove one of the two, or give it another name".to_owned(),
        ),
        Error::Unexpected { expected: "mapping start", .. } => (
            "keys with values are needed here".to_owned(),
            "write them indented below this key; write {} for the defaults, or leave the key out".to_owned(),
        ),
        Error::Unexpected { expected: "string scalar", .. } | Error::SerdeInvalidType { .. } => (
            "one plain value is needed here, not a list and not keys of its own".to_owned(),
            "write the value on the line of its key; `bulkhead schema` tells which ones there are".to_owned(),
        ),
        Error::MultipleDocuments { .. } => (
            "a second document begins here".to_owned(),
            "keep one document: remove the --- line and what follows it".to_owned(),
        ),
        Error::AliasError { error, .. } => explain(error),
        Error::Budget { .. } => (
            format!("this is larger or nested deeper than any spec has to be ({})", brief(error)),
            "make it smaller".to_owned(),
        ),
        _ => (
            format!("this is not YAML that can be read: {}", brief(error)),
            "mind indentation (spaces, no tabs), colons and quotes around this place".to_owned(),
        ),
    }
}

/// The parser's words without the place, which we say ourselves.
fn brief(error: &Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The path of the key that stands at `place`, or else of the last one before it.
fn key_at(text: &str, place: Place) -> String {
    let options = options(DuplicateKeyPolicy::PassThrough);
    let Ok(document) = serde_yaml::from_str_with_options::<Node>(text, options) else {
        return String::new();
    };
    let mut keys = Vec::new();
    document.keys("", &mut keys);
    keys.into_iter()
        .filter(|(at, _)| *at <= place)
        .max_by_key(|(at, _)| *at)
        .map(|(_, key)| key)
        .unwrap_or_default()
}

/// A document of which only the keys and their places matter.
enum Node {
    Leaf,
    List(Vec<Node>),
    Section(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn keys(&self, path: &str, into: &mut Vec<(Place, String)>) {
        match self {
            Self::Leaf => {}
            Self::List(nodes) => nodes.iter().for_each(|node| node.keys(path, into)),
            Self::Section(entries) => {
                for (key, node) in entries {
                    let path =
                        if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                    node.keys(&path, into);
                    into.extend(Place::of(key.referenced).map(|place| (place, path)));
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Section(entries))
    }
}
