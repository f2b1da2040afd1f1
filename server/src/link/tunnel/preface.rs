//! The first bytes on every connection to a door's tunnel: who comes, and that he may.
//!
//! ```text
//!  "bulkhead"  version u16  role u8  length u8  name …  MAC of all this, 32 bytes
//! ```
//! They are in the clear, in front of TLS, so that a door spends one hash on a stranger and no handshake. The MAC is
//! made with the worker's own token, or, for a controller, with the deployment's secret. Whoever overhears one can say
//! it again, and gets as far as a handshake and the hello behind it, which asks for the token, or the secret, itself; a
//! worker that has died cannot be played at all.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::identity::{Incarnation, Secret, Token};

const MAGIC: &[u8; 8] = b"bulkhead";
/// The version of what stands on a tunnel.
const VERSION: u16 = 1;
/// Bytes in front of the name.
const FIXED: usize = MAGIC.len() + 4;
/// The longest name: a pool's and two numbers.
const LONGEST_NAME: usize = 80;
const MAC: usize = 32;

const WORKER: u8 = 1;
const CONTROLLER: u8 = 2;

/// What somebody says before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    role: Role,
    signed: Vec<u8>,
    mac: [u8; MAC],
}

/// As what somebody comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// As this worker.
    Worker(Incarnation),
    /// As the controller.
    Controller,
}

/// What is no preface.
#[derive(Debug, Error)]
pub enum PrefaceError {
    /// Whoever it is does not speak our language.
    #[error("it did not begin as a worker or a controller does")]
    Foreign,
    /// It speaks another version.
    #[error("it speaks version {0} of the tunnel, this door speaks {VERSION}")]
    Version(u16),
    /// It hung up, or the network did.
    #[error("it was cut off in the middle of its first words")]
    Broken(#[source] std::io::Error),
}

impl Preface {
    /// For a worker.
    pub fn worker(life: &Incarnation, token: &Token) -> Self {
        Self::signed(Role::Worker(life.clone()), token.as_bytes())
    }

    /// For the controller.
    pub fn controller(secret: &Secret) -> Self {
        Self::signed(Role::Controller, secret.as_bytes())
    }

    fn signed(role: Role, key: &[u8; 32]) -> Self {
        let (kind, name) = match &role {
            Role::Worker(life) => (WORKER, life.to_string()),
            Role::Controller => (CONTROLLER, String::new()),
        };
        let mut signed = MAGIC.to_vec();
        signed.extend(VERSION.to_le_bytes());
        signed.push(kind);
        // A pool's name has at most 32 bytes, and numbers have at most 20.
        signed.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        signed.extend(name.bytes());
        let mac = mac(key, &signed).finalize().into_bytes().into();
        Self { role, signed, mac }
    }

    /// As it stands on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.signed[..], &self.mac].concat()
    }

    /// Reads one. It is the caller's to say how long that may take.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Self, PrefaceError> {
        let mut signed = vec![0; FIXED];
        from.read_exact(&mut signed).await.map_err(PrefaceError::Broken)?;
        let (magic, rest) = signed.split_at(MAGIC.len());
        let (version, kind, length) = (u16::from_le_bytes([rest[0], rest[1]]), rest[2], usize::from(rest[3]));
        if magic != MAGIC || length > LONGEST_NAME {
            return Err(PrefaceError::Foreign);
        }
        if version != VERSION {
            return Err(PrefaceError::Version(version));
        }
        signed.resize(FIXED + length, 0);
        from.read_exact(&mut signed[FIXED..]).await.map_err(PrefaceError::Broken)?;
        let role = match (kind, std::str::from_utf8(&signed[FIXED..]).unwrap_or_default()) {
            (WORKER, name) => Role::Worker(name.parse().map_err(|_| PrefaceError::Foreign)?),
            (CONTROLLER, "") => Role::Controller,
            _ => return Err(PrefaceError::Foreign),
        };
        let mut mac = [0; MAC];
        from.read_exact(&mut mac).await.map_err(PrefaceError::Broken)?;
        Ok(Self { role, signed, mac })
    }

    /// As what it comes, if it has proved that it may.
    pub fn proven(self, secret: &Secret) -> Option<Role> {
        let key = match &self.role {
            Role::Worker(life) => *secret.token(life).as_bytes(),
            Role::Controller => *secret.as_bytes(),
        };
        mac(&key, &self.signed).verify_slice(&self.mac).ok()?;
        Some(self.role)
    }
}

fn mac(key: &[u8; 32], signed: &[u8]) -> Hmac<Sha256> {
    // HMAC pads a short key with zeros to the block size of its hash; so does this, and cannot fail.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(b"tunnel preface\0");
    mac.update(signed);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Result<Incarnation, crate::identity::NameError> {
        "web-3.7".parse()
    }

    #[tokio::test]
    async fn who_may_come_is_known() -> Result<(), Box<dyn std::error::Error>> {
        let secret = Secret::new([7; 32]);
        let worker = Preface::worker(&life()?, &secret.token(&life()?)).to_bytes();
        let read = Preface::read(&mut &worker[..]).await?;
        assert_eq!(read.proven(&secret), Some(Role::Worker(life()?)));
        let controller = Preface::controller(&secret).to_bytes();
        assert_eq!(Preface::read(&mut &controller[..]).await?.proven(&secret), Some(Role::Controller));
        Ok(())
    }

    #[tokio::test]
    async fn who_may_not_is_not_believed() -> Result<(), Box<dyn std::error::Error>> {
        let (secret, other) = (Secret::new([7; 32]), Secret::new([8; 32]));
        let mut played = Preface::worker(&life()?, &secret.token(&life()?)).to_bytes();
        assert_eq!(Preface::read(&mut &played[..]).await?.proven(&other), None);
        // With the token of one, nobody is another.
        played[FIXED] = b'x';
        assert_eq!(Preface::read(&mut &played[..]).await?.proven(&secret), None);
        // Nor a controller, with a worker's.
        let token = Secret::new(*secret.token(&life()?).as_bytes());
        let climber = Preface::controller(&token).to_bytes();
        assert_eq!(Preface::read(&mut &climber[..]).await?.proven(&secret), None);
        Ok(())
    }

    #[tokio::test]
    async fn strangers_are_seen_to_be_strangers() {
        let foreign: [&[u8]; 3] =
            [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"bulkhead\x01\x00\x09\x00", b"bulkhead\x01\x00\x01\xff"];
        for mut bytes in foreign {
            assert!(matches!(Preface::read(&mut bytes).await, Err(PrefaceError::Foreign)), "{bytes:?}");
        }
        let mut newer: &[u8] = b"bulkhead\x02\x00\x01\x00";
        assert!(matches!(Preface::read(&mut newer).await, Err(PrefaceError::Version(2))));
        let mut cut: &[u8] = b"bulk";
        assert!(matches!(Preface::read(&mut cut).await, Err(PrefaceError::Broken(_))));
    }
}
