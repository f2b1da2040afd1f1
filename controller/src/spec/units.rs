//! How values are written in a spec: `30s`, `64MiB`, `127.0.0.1:8080`, `threads:8`.
//!
//! Each type here reads one spelling and writes it again, so that what [`Value::read`] accepts and what the
//! type's [`Display`](fmt::Display) prints cannot drift apart. A value that cannot be read is answered with
//! [`Value::SPELLING`], which always shows a right one.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{Schema, json_schema};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serializer};
use server::config::{App, Model, Protocol, RedeliverMethods, TurnUnit};

use super::{AccessChoice, BackendChoice, LinkChoice, Network};

/// What a spec's spelling of a time means; else how to spell one.
pub fn read_time(text: &str) -> Result<Duration, &'static str> {
    Time::read(text).map(|Time(time)| time).ok_or(Time::SPELLING)
}

/// `time` as a spec spells it: `30s`.
pub fn spell_time(time: Duration) -> String {
    Time(time).to_string()
}

/// A number of bytes as a spec spells it: `64MiB`.
pub fn spell_size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// Something that one plain value of a spec can say.
pub(super) trait Value: Sized + fmt::Display {
    /// What it is, to complete "… is not".
    const NAME: &'static str;

    /// How it is written, with an example: the remedy for a wrong one.
    const SPELLING: &'static str;

    /// Reads it; `None` when `text` is not one.
    fn read(text: &str) -> Option<Self>;

    /// What a JSON Schema says of it.
    fn schema() -> Schema;

    /// Fishes its text out of a document; `None` when there is nothing.
    fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        Option::deserialize(from)
    }

    /// Writes it so that [`Value::text`] finds it again: numbers bare, the rest as text.
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A length of time: a number and its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Time(pub(super) Duration);

/// The longest time that a spec may ask for. Far more than anybody wants, and safe to add to any clock.
pub(super) const LONGEST_TIME: Time = Time(Duration::from_secs(30 * 24 * 3600));

const TIME_UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

impl Value for Time {
    const NAME: &'static str = "a time";
    const SPELLING: &'static str =
        "write a number and us, ms, s, m or h, such as 30s, 100ms or 2m (720h at most)";

    fn read(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let (_, seconds) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
        let time = Duration::try_from_secs_f64(number * seconds).ok()?;
        // Floating point is exact to far less than this within the longest time.
        let time = Duration::from_micros(u64::try_from((time + Duration::from_nanos(500)).as_micros()).ok()?);
        (Self(time) <= LONGEST_TIME).then_some(Self(time))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h)$", "examples": ["30s", "100ms"] })
    }
}

impl fmt::Display for Time {
    /// In the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            0 => f.write_str("0s"),
            n if n.is_multiple_of(3_600_000_000) => write!(f, "{}h", n / 3_600_000_000),
            n if n.is_multiple_of(60_000_000) => write!(f, "{}m", n / 60_000_000),
            n if n.is_multiple_of(1_000_000) => write!(f, "{}s", n / 1_000_000),
            n if n.is_multiple_of(1_000) => write!(f, "{}ms", n / 1_000),
            n => write!(f, "{n}us"),
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Size(pub(super) u64);

const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// The largest size that a spec may ask for, well within what a float holds exactly.
pub(super) const LARGEST_SIZE: Size = Size(1 << 50);

impl Value for Size {
    const NAME: &'static str = "a size";
    const SPELLING: &'static str =
        "write bytes, or a number and KiB, MiB, GiB, KB, MB or GB, such as 64MiB (1048576GiB at most)";

    fn read(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
        let bytes = number * (*factor as f64);
        #[expect(clippy::cast_sign_loss, reason = "whole, not negative and within bounds, as just checked")]
        (bytes <= LARGEST_SIZE.0 as f64 && bytes.fract() == 0.0).then_some(Self(bytes as u64))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|KB|MB|GB)?$",
            "minimum": 0,
            "examples": ["64MiB", 65536],
        })
    }

    /// A size that needs no unit is a number.
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1 << 10) && self.0 > 0 {
            to.collect_str(self)
        } else {
            to.serialize_u64(self.0)
        }
    }
}

impl fmt::Display for Size {
    /// In the largest binary unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            n if n.is_multiple_of(1 << 30) => write!(f, "{}GiB", n >> 30),
            n if n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

/// A limit that can be lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit<T> {
    /// `none`: there is no limit of ours.
    None,
    /// The limit.
    To(T),
}

impl<T> From<Option<T>> for Limit<T> {
    fn from(limit: Option<T>) -> Self {
        limit.map_or(Self::None, Self::To)
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::To(limit) => limit.fmt(f),
        }
    }
}

macro_rules! limits {
    ($($of:ty: $name:literal, $spelling:literal;)*) => {$(
        impl Value for Limit<$of> {
            const NAME: &'static str = $name;
            const SPELLING: &'static str = $spelling;

            fn read(text: &str) -> Option<Self> {
                if text == "none" { Some(Self::None) } else { <$of>::read(text).map(Self::To) }
            }

            fn schema() -> Schema {
                json_schema!({ "anyOf": [{ "const": "none" }, <$of>::schema()] })
            }

            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::None => to.collect_str(self),
                    Self::To(limit) => limit.write(to),
                }
            }
        }
    )*};
}
limits! {
    Size: "a memory limit", "write a size such as 64MiB, or none";
    Fraction: "a number of processors", "write a number such as 0.5, or none";
    u32: "a limit", "write a whole number such as 64, or none";
}

/// A time after which somebody gives up, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deadline {
    /// `off`: never.
    Off,
    /// After so long.
    After(Time),
}

impl Value for Deadline {
    const NAME: &'static str = "a time";
    const SPELLING: &'static str = "write a number and us, ms, s, m or h, such as 30s, or off";

    fn read(text: &str) -> Option<Self> {
        if text == "off" { Some(Self::Off) } else { Time::read(text).map(Self::After) }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, Time::schema()] })
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::After(time) => time.fmt(f),
        }
    }
}

/// A number that may have a fraction.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Fraction(pub(super) f64);

impl Value for Fraction {
    const NAME: &'static str = "a number";
    const SPELLING: &'static str = "write digits, such as 0.5";

    fn read(text: &str) -> Option<Self> {
        text.parse::<f64>().ok().filter(|n| n.is_finite() && !n.is_sign_negative()).map(Self)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number", "minimum": 0 })
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.0)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for u32 {
    const NAME: &'static str = "a whole number";
    const SPELLING: &'static str = "write digits, such as 4";

    fn read(text: &str) -> Option<Self> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(*self)
    }
}

impl Value for bool {
    const NAME: &'static str = "a yes or no";
    const SPELLING: &'static str = "write true or false";

    fn read(text: &str) -> Option<Self> {
        match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bool(*self)
    }
}

impl Value for SocketAddr {
    const NAME: &'static str = "an address";
    const SPELLING: &'static str = "write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up; port 0 takes a free one)";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080"] })
    }
}

impl Value for Model {
    const NAME: &'static str = "a model";
    const SPELLING: &'static str =
        "write prefork, { threads: 8 } or { event: 8 }, with a number from 1 to 1024";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    /// `{ threads: 8 }` is the same as `threads:8`.
    fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        from.deserialize_any(ModelText)
    }

    fn schema() -> Schema {
        let turns = json_schema!({ "type": "integer", "minimum": 1, "maximum": 1024 });
        json_schema!({ "anyOf": [
            { "const": "prefork" },
            { "type": "string", "pattern": "^(threads|event):[0-9]+$" },
            { "type": "object", "properties": { "threads": turns }, "required": ["threads"], "additionalProperties": false },
            { "type": "object", "properties": { "event": turns }, "required": ["event"], "additionalProperties": false },
        ] })
    }
}

/// Finds a model's text in either of its forms.
struct ModelText;

impl<'de> Visitor<'de> for ModelText {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Model::NAME)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, word: bool) -> Result<Self::Value, E> {
        Ok(Some(word.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((kind, turns)) = map.next_entry::<String, String>()? {
            pairs.push(format!("{kind}:{turns}"));
        }
        Ok(Some(pairs.join(", ")))
    }
}

impl Value for Network {
    const NAME: &'static str = "a network";
    const SPELLING: &'static str =
        "write none, or the name of one of the engine's networks, such as backend-net";

    fn read(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self::None);
        }
        // What engines accept for a name.
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
            && text.len() <= 128;
        well_formed.then(|| Self::Named(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$", "examples": ["none"] })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupName(pub(super) String);

impl Value for CgroupName {
    const NAME: &'static str = "a control group";
    const SPELLING: &'static str = "write a path such as / or /bulkhead, or a slice such as bulkhead.slice where the engine leaves them to systemd";

    fn read(text: &str) -> Option<Self> {
        let well_formed = !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace());
        well_formed.then(|| Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\S+$", "examples": ["/bulkhead", "bulkhead.slice"] })
    }
}

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) String);

impl Value for FilePath {
    const NAME: &'static str = "a path";
    const SPELLING: &'static str = "write the path of a file, such as /etc/bulkhead/token; a relative one counts from the working directory";

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "examples": ["/etc/bulkhead/token"] })
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name of a host, as it stands in a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostName(pub(super) String);

impl Value for HostName {
    const NAME: &'static str = "a host name";
    const SPELLING: &'static str = "write a name without a port, such as controller or bulkhead.example.com";

    fn read(text: &str) -> Option<Self> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        (text.len() <= 253 && text.split('.').all(label)).then(|| Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)*$", "examples": ["controller"] })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for AccessChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Token => "token",
            Self::Open => "open",
        })
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
        })
    }
}

impl fmt::Display for LinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fd => "fd",
            Self::Tunnel => "tunnel",
        })
    }
}

macro_rules! words {
    ($($of:ty: $name:literal, $spelling:literal, [$($word:literal => $value:expr),+];)*) => {$(
        impl Value for $of {
            const NAME: &'static str = $name;
            const SPELLING: &'static str = $spelling;

            fn read(text: &str) -> Option<Self> {
                match text {
                    $($word => Some($value),)+
                    _ => None,
                }
            }

            fn schema() -> Schema {
                json_schema!({ "enum": [$($word),+] })
            }
        }
    )*};
}
words! {
    AccessChoice: "a way to be let in", "write auto, token or open",
        ["auto" => Self::Auto, "token" => Self::Token, "open" => Self::Open];
    BackendChoice: "a backend", "write auto, process, docker or kubernetes",
        ["auto" => Self::Auto, "process" => Self::Process, "docker" => Self::Docker,
         "kubernetes" => Self::Kubernetes];
    LinkChoice: "a link", "write fd or tunnel", ["fd" => Self::Fd, "tunnel" => Self::Tunnel];
    Protocol: "a protocol", "write http or tcp", ["http" => Self::Http, "tcp" => Self::Tcp];
    TurnUnit: "a turn", "write request or connection",
        ["request" => Self::Request, "connection" => Self::Connection];
    App: "an app", "write demo or echo", ["demo" => Self::Demo, "echo" => Self::Echo];
    RedeliverMethods: "a choice of methods", "write none, idempotent or all",
        ["none" => Self::None, "idempotent" => Self::Idempotent, "all" => Self::All];
}

/// `1.5s` is 1.5 and `s`. Digits with at most one point between them, then letters; nothing else.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let well_formed = number.starts_with(|c: char| c.is_ascii_digit()) && !number.ends_with('.');
    Some((well_formed.then(|| number.parse().ok())??, unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let read = |text| Time::read(text).map(|time| time.0);
        assert_eq!(read("30s"), Some(Duration::from_secs(30)));
        assert_eq!(read("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(read("2m"), Some(Duration::from_secs(120)));
        assert_eq!(read("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(read("720h"), Some(LONGEST_TIME.0));
        for wrong in ["", "30", "s", "-1s", "1e3s", "30 s", "1.s", ".5s", "1.2.3s", "721h", "30sec", "30S"] {
            assert_eq!(read(wrong), None, "{wrong:?} was taken for a time");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        let read = |text| Size::read(text).map(|size| size.0);
        assert_eq!(read("64MiB"), Some(64 << 20));
        assert_eq!(read("16KB"), Some(16_000));
        assert_eq!(read("1.5KiB"), Some(1536));
        assert_eq!(read("65536"), Some(65536));
        for wrong in ["", "MiB", "64mib", "64 MiB", "64M", "-1", "0.5", "99999999GiB", "1e9"] {
            assert_eq!(read(wrong), None, "{wrong:?} was taken for a size");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            micros in 0..=u64::try_from(LONGEST_TIME.0.as_micros()).unwrap_or(0),
            bytes in 0..=1_u64 << 50,
            number in 0.0..1e6_f64,
        ) {
            let time = Time(Duration::from_micros(micros));
            prop_assert_eq!(Time::read(&time.to_string()), Some(time));
            prop_assert_eq!(Size::read(&Size(bytes).to_string()), Some(Size(bytes)));
            prop_assert_eq!(Fraction::read(&number.to_string()), Some(Fraction(number)));
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = (Time::read(&text), Size::read(&text), Fraction::read(&text), Network::read(&text));
        }
    }
}
