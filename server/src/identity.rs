//! Who a worker is, and how it proves it.
//!
//! A [`WorkerId`] names a *place*: the third worker of pool `web` is `web-3`, before and after it is killed.
//! An [`Incarnation`] names one life of that place: `web-3.7` is its seventh. Each incarnation dies once, so
//! the incident that records its death has the same name, and door and controller agree on that name without
//! a word between them.
//!
//! A worker proves its incarnation with a [`Token`], the HMAC of the incarnation under a [`Secret`] that the
//! controller keeps and tells the door alone. Nothing has to be remembered for each worker, so tokens outlive
//! a restart of either; a leaked token is worth nothing once its one incarnation is dead.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

/// The name of a pool: 1 to 32 of `a-z`, `0-9` and `-`, beginning with a letter, ending without a dash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(Box<str>);

/// A place in a pool that one worker after another fills: `web-3`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId {
    /// The pool that the place belongs to.
    pub pool: PoolName,
    /// Counted from 0.
    pub place: u32,
}

/// One life of one place: `web-3.7`. Also the name of the incident that records its death.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation {
    /// The place.
    pub worker: WorkerId,
    /// Counted from 1; it only grows.
    pub generation: u64,
}

/// A name that is not of the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not a pool's name.
    #[error("{0:?} is not a pool name: use 1 to 32 of a-z, 0-9 and '-', a letter first, no '-' last")]
    Pool(String),
    /// Not a worker's id.
    #[error("{0:?} is not a worker id: it looks like 'web-3'")]
    Worker(String),
    /// Not an incarnation.
    #[error("{0:?} is not one life of a worker: it looks like 'web-3.7'")]
    Incarnation(String),
    /// Not a token or a secret.
    #[error("not 64 hexadecimal digits")]
    Key,
}

impl PoolName {
    /// The longest name there is, in bytes.
    pub const LONGEST: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl WorkerId {
    /// The place `place` of `pool`.
    pub fn new(pool: PoolName, place: u32) -> Self {
        Self { pool, place }
    }

    /// Life number `generation` of this place.
    pub fn life(&self, generation: u64) -> Incarnation {
        Incarnation { worker: self.clone(), generation }
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pool, self.place)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.worker, self.generation)
    }
}

impl FromStr for PoolName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let well_formed = (1..=Self::LONGEST).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::Pool(text.to_owned())) }
    }
}

impl FromStr for WorkerId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parsed = text.rsplit_once('-').and_then(|(pool, place)| {
            Some(Self { pool: pool.parse().ok()?, place: plain_number(place)?.try_into().ok()? })
        });
        parsed.ok_or_else(|| NameError::Worker(text.to_owned()))
    }
}

impl FromStr for Incarnation {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parsed = text.rsplit_once('.').and_then(|(worker, generation)| {
            Some(Self { worker: worker.parse().ok()?, generation: plain_number(generation)? })
        });
        parsed.ok_or_else(|| NameError::Incarnation(text.to_owned()))
    }
}

/// A number as we print it: no sign, no leading zero, so that every name has one spelling.
fn plain_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }
    )*};
}
serde_as_text!(PoolName, WorkerId, Incarnation);

macro_rules! debug_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}
debug_as_text!(PoolName, WorkerId, Incarnation);

/// The key under which tokens are made. The controller keeps it; the door is told it; no worker ever sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; 32]);

/// What a worker shows to prove that it is the incarnation it says it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Secret {
    /// A secret of the given bytes, which the caller draws from the operating system's random source.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether it is the same, in a time that does not tell how nearly.
    pub fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |differs, (ours, theirs)| differs | (ours ^ theirs)) == 0
    }

    /// The token of `life`.
    pub fn token(&self, life: &Incarnation) -> Token {
        Token(self.mac(life).finalize().into_bytes().into())
    }

    /// Whether `token` is the one of `life`, in a time that does not tell how nearly.
    pub fn vouches_for(&self, life: &Incarnation, token: &Token) -> bool {
        self.mac(life).verify_slice(&token.0).is_ok()
    }

    fn mac(&self, life: &Incarnation) -> Hmac<Sha256> {
        // HMAC pads a short key with zeros to the block size of its hash; so does this, and cannot fail.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(life.to_string().as_bytes());
        mac
    }
}

impl Token {
    /// A token of bytes that came over a link.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to go over a link.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Token {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Token {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(Self(read_hex(text)?))
    }
}

impl TryFrom<String> for Secret {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Ok(Self(read_hex(&text)?))
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> String {
        Token(secret.0).to_string()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex(text: &str) -> Result<[u8; 32], NameError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(NameError::Key);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| NameError::Key)?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NameError::Key);
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| NameError::Key)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_one_spelling() -> Result<(), NameError> {
        let life: Incarnation = "web-api-3.7".parse()?;
        assert_eq!(life.worker.pool.as_str(), "web-api");
        assert_eq!((life.worker.place, life.generation), (3, 7));
        for wrong in
            ["web", "web-", "web-03.7", "web-3.07", "Web-3.7", "-3.7", "web-3.+7", "web-3.", "w_b-3.1"]
        {
            assert!(wrong.parse::<Incarnation>().is_err(), "{wrong} was taken for an incarnation");
        }
        Ok(())
    }

    #[test]
    fn a_token_vouches_for_one_life_under_one_secret() -> Result<(), NameError> {
        let (ours, theirs) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let (this, next): (Incarnation, Incarnation) = ("web-3.7".parse()?, "web-3.8".parse()?);
        let token = ours.token(&this);
        assert!(ours.vouches_for(&this, &token));
        assert!(!ours.vouches_for(&next, &token));
        assert!(!theirs.vouches_for(&this, &token));
        assert_eq!(token.to_string().parse::<Token>()?, token);
        Ok(())
    }

    proptest! {
        #[test]
        fn text_round_trips(pool in "[a-z]([a-z0-9-]{0,30}[a-z0-9])?", place: u32, generation: u64) {
            let life = WorkerId::new(pool.parse()?, place).life(generation);
            prop_assert_eq!(life.to_string().parse::<Incarnation>()?, life);
        }
    }
}
