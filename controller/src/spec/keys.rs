//! Reading a section's settings one after the other, and noting what is wrong with them.

use std::ops::RangeInclusive;

use super::mistake::{Mistake, Origin};
use super::setting::Setting;
use super::units::{Limit, Value};

/// A section of the spec that is being read.
pub(super) struct Keys<'a> {
    file: &'a str,
    /// The section's own key, from the top.
    path: String,
    /// Whom to blame when nobody has said the value that is wrong: the pool's name.
    place: Origin,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Keys<'a> {
    /// The top of `file`; what is wrong with it goes into `mistakes`.
    pub(super) fn of_file(file: &'a str, mistakes: &'a mut Vec<Mistake>) -> Self {
        Self { file, path: String::new(), place: Origin::Default, mistakes }
    }

    /// The section under `key` of this one.
    pub(super) fn section(&mut self, key: &str) -> Keys<'_> {
        Keys { file: self.file, path: self.path_of(key), place: self.place.clone(), mistakes: self.mistakes }
    }

    /// The section under a `key` that somebody made up, at `place`.
    pub(super) fn entry(&mut self, key: &str, place: Origin) -> Keys<'_> {
        Keys { place, ..self.section(key) }
    }

    /// Notes a mistake about `key` that `origin` made; an empty key means this section itself.
    pub(super) fn note(
        &mut self,
        key: &str,
        origin: &Origin,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let origin = if *origin == Origin::Default { &self.place } else { origin };
        self.mistakes.push(Mistake {
            file: self.file.to_owned(),
            origin: origin.clone(),
            key: self.path_of(key),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// The value, if it could be read.
    pub(super) fn value<T: Clone>(&mut self, key: &str, setting: &Setting<T>) -> Option<T> {
        match &setting.value {
            Ok(value) => Some(value.clone()),
            Err(complaint) => {
                let problem = match &complaint.found {
                    Some(found) => format!("{found:?} is not {}", complaint.name),
                    None => "there is no value".to_owned(),
                };
                self.note(key, &setting.origin, problem, complaint.spelling);
                None
            }
        }
    }

    /// The value, if it could be read and is within `bounds`, which are there because of `why`.
    pub(super) fn within<T: Value + Copy + PartialOrd>(
        &mut self,
        key: &str,
        setting: &Setting<T>,
        bounds: RangeInclusive<T>,
        why: &str,
    ) -> Option<T> {
        let value = self.value(key, setting)?;
        self.bounded(key, &setting.origin, value, &bounds, why)
    }

    /// As [`Keys::within`], for a limit that can be lifted.
    pub(super) fn limit_within<T: Value + Copy + PartialOrd>(
        &mut self,
        key: &str,
        setting: &Setting<Limit<T>>,
        bounds: RangeInclusive<T>,
        why: &str,
    ) -> Option<Option<T>> {
        match self.value(key, setting)? {
            Limit::None => Some(None),
            Limit::To(value) => self.bounded(key, &setting.origin, value, &bounds, why).map(Some),
        }
    }

    /// As [`Keys::within`], for a value that is at hand.
    pub(super) fn bounded<T: Value + Copy + PartialOrd>(
        &mut self,
        key: &str,
        origin: &Origin,
        value: T,
        bounds: &RangeInclusive<T>,
        why: &str,
    ) -> Option<T> {
        let (least, most) = (bounds.start(), bounds.end());
        if bounds.contains(&value) {
            return Some(value);
        }
        let problem = format!("{value} is too {}", if value < *least { "little" } else { "much" });
        self.note(key, origin, problem, format!("use {least} to {most}: {why}"));
        None
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            (path, "") => path.to_owned(),
            ("", key) => key.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }
}
