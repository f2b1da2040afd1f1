//! One value of a spec, with where it was said.
//!
//! A value that makes no sense does not stop the reading: it is kept as a [`Complaint`], so that all of a
//! file's wrong values can be reported at once, each with its place.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_yaml::Spanned;

use super::mistake::{Origin, Place};
use super::units::Value;

/// A value, or what is wrong with it, and who said it.
#[derive(Debug, Clone)]
pub(super) struct Setting<T> {
    pub(super) value: Result<T, Complaint>,
    pub(super) origin: Origin,
}

/// What is wrong with a value that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    /// What was found, as the file spells it; `None` when there was nothing.
    pub(super) found: Option<String>,
    /// [`Value::NAME`].
    pub(super) name: &'static str,
    /// [`Value::SPELLING`].
    pub(super) spelling: &'static str,
}

impl<T> Setting<T> {
    /// What holds when nobody says otherwise.
    pub(super) fn default_of(value: T) -> Self {
        Self { value: Ok(value), origin: Origin::Default }
    }

    /// What the command line says with the words `flag`.
    pub(super) fn by_flag(value: T, flag: String) -> Self {
        Self { value: Ok(value), origin: Origin::Flag(flag) }
    }
}

impl<'de, T: Value> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Spanned { value: Text { text, .. }, referenced, .. } = Spanned::<Text<T>>::deserialize(from)?;
        let value = text.as_deref().and_then(T::read).ok_or(Complaint {
            found: text,
            name: T::NAME,
            spelling: T::SPELLING,
        });
        Ok(Self { value, origin: Place::of(referenced).map_or(Origin::Default, Origin::File) })
    }
}

/// For a setting whose default depends on another one: as [`Setting`], and `None` only when the key is left out.
pub(super) fn given<'de, T: Value, D: Deserializer<'de>>(from: D) -> Result<Option<Setting<T>>, D::Error> {
    Setting::deserialize(from).map(Some)
}

/// What a document says where a `T` belongs.
struct Text<T> {
    text: Option<String>,
    of: PhantomData<T>,
}

impl<'de, T: Value> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self { text: T::text(from)?, of: PhantomData })
    }
}

impl<T: Value> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Ok(value) => value.write(to),
            Err(complaint) => Err(S::Error::custom(complaint.spelling)),
        }
    }
}

impl<T: Value> JsonSchema for Setting<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Setting".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

/// A section whose being there says something in itself, with its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Block<T> {
    pub(super) value: T,
    pub(super) place: Option<Place>,
}

impl<T> From<T> for Block<T> {
    fn from(value: T) -> Self {
        Self { value, place: None }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Block<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<T>::deserialize(from)?;
        Ok(Self { value, place: Place::of(referenced) })
    }
}

impl<T: Serialize> Serialize for Block<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(to)
    }
}

/// For a section that is there or is not: left out it is `None`, and without keys of its own it is a mistake like that
/// of any other section.
pub(super) fn block<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Block<T>>, D::Error> {
    Block::deserialize(from).map(Some)
}
