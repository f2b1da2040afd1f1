//! Reaching a door: all that a worker knows of are dialled, one beside the other, and the first that goes on has it.
//!
//! What a worker was told of doors when it was made may be old: after a rollout most of its addresses lead nowhere, and
//! one that leads nowhere says so only by silence. So the next door is not dialled when the last has been given up, but
//! [`STAGGER`] after it, or at once where the last has refused. In order they are dialled all the same: a door that is
//! there answers long before that, and is the one that was meant.
//!
//! A door that says that this worker's life is over is believed when no other takes it: it may be the one that has not
//! noticed yet that this worker's link to it has ended.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{BEFORE, NoTunnel, Severity};
use crate::link::tunnel::{Connector, GO_ON, OVER, Stream, is_of_the_certificate, watch_over};

/// How long a door may take to accept a connection, and to see a handshake through; and, where there is another, to say
/// whether it goes on.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one door is waited for alone before the next is dialled beside it.
const STAGGER: Duration = Duration::from_millis(200);

/// What doors have said that did not go on.
#[derive(Default)]
struct Refusals {
    over: bool,
    away: Option<io::Error>,
    distrusted: Option<(SocketAddr, io::Error)>,
}

impl Refusals {
    fn note(&mut self, why: NoTunnel) {
        match why {
            NoTunnel::Over => self.over = true,
            NoTunnel::Distrusted(address, error) => self.distrusted = Some((address, error)),
            NoTunnel::Away(error) | NoTunnel::NoThread(error) => self.away = Some(error),
            NoTunnel::Tls(error) => self.away = Some(io::Error::other(error)),
        }
    }

    /// What they come to.
    fn verdict(self) -> NoTunnel {
        match (self.over, self.away, self.distrusted) {
            (true, ..) => NoTunnel::Over,
            (false, None, Some((address, error))) => NoTunnel::Distrusted(address, error),
            // Where one is away, it may be the one that can be trusted.
            (false, away, _) => NoTunnel::Away(away.unwrap_or_else(|| io::ErrorKind::NotFound.into())),
        }
    }
}

/// The first door that goes on.
pub(super) async fn reach(
    doors: &[String],
    preface: &[u8],
    connector: &Connector,
) -> Result<(Stream, Severity), NoTunnel> {
    let preface: Arc<[u8]> = preface.into();
    let (mut left, mut dialling, mut refusals) = (doors.iter(), JoinSet::new(), Refusals::default());
    loop {
        if let Some(door) = left.next() {
            let (door, is_only_one) = (door.clone(), doors.len() == 1);
            dialling.spawn(dial(door, is_only_one, Arc::clone(&preface), connector.clone()));
        }
        let answer = match left.len() {
            0 => dialling.join_next().await,
            _ => match timeout(STAGGER, dialling.join_next()).await {
                Ok(answer) => answer,
                Err(_elapsed) => continue,
            },
        };
        match answer {
            // The others are hung up on, wherever they are.
            Some(Ok(Ok(reached))) => return Ok(reached),
            Some(Ok(Err(why))) => refusals.note(why),
            Some(Err(error)) => refusals.note(NoTunnel::Away(io::Error::other(error))),
            None => return Err(refusals.verdict()),
        }
    }
}

/// Dials all the addresses of one door, one after the other.
async fn dial(
    door: String,
    is_only_one: bool,
    preface: Arc<[u8]>,
    connector: Connector,
) -> Result<(Stream, Severity), NoTunnel> {
    // As long as the resolver takes: a look-up that were given up would keep its thread all the same, and the next one
    // need another.
    let addresses: Vec<SocketAddr> = lookup_host(door).await.map_err(NoTunnel::Away)?.collect();
    // Only who knows of another door has something better to do than to wait for this one.
    let patience = (!(is_only_one && addresses.len() == 1)).then_some(CONNECT);
    let mut refusals = Refusals::default();
    for address in addresses {
        match knock(address, &preface, &connector, patience).await {
            Ok(reached) => return Ok(reached),
            Err(why) => refusals.note(why),
        }
    }
    Err(refusals.verdict())
}

/// `patience`: how long it is waited for an answer. Without any it is waited for as long as the door is there.
async fn knock(
    address: SocketAddr,
    preface: &[u8],
    connector: &Connector,
    patience: Option<Duration>,
) -> Result<(Stream, Severity), NoTunnel> {
    let away = |error: io::Error| NoTunnel::Away(error);
    let late = |_elapsed| NoTunnel::Away(io::ErrorKind::TimedOut.into());
    let mut stream = timeout(CONNECT, TcpStream::connect(address)).await.map_err(late)?.map_err(away)?;
    watch_over(&stream, BEFORE.lost_after).map_err(away)?;
    stream.write_all(preface).await.map_err(away)?;
    // A door that has no controller yet keeps its workers waiting. So does one that hangs, for which its kernel accepts and
    // acknowledges all that we say.
    let answer = match patience {
        Some(patience) => timeout(patience, stream.read_u8()).await.map_err(late)?.map_err(away)?,
        None => stream.read_u8().await.map_err(away)?,
    };
    match answer {
        GO_ON => {
            let severity = Severity(stream.as_fd().try_clone_to_owned().map_err(away)?);
            let shaken = timeout(CONNECT, connector.connect(stream)).await.map_err(late)?;
            let stream = shaken.map_err(|error| match is_of_the_certificate(&error) {
                true => NoTunnel::Distrusted(address, error),
                false => away(error),
            })?;
            Ok((stream, severity))
        }
        OVER => Err(NoTunnel::Over),
        _ => Err(NoTunnel::Away(io::ErrorKind::InvalidData.into())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Two doors of which nothing is known but their addresses, and what they are dialled by.
    async fn two() -> io::Result<([TcpListener; 2], [String; 2])> {
        let doors = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
        let addresses = [doors[0].local_addr()?.to_string(), doors[1].local_addr()?.to_string()];
        Ok((doors, addresses))
    }

    async fn reached(doors: &[String]) -> Option<Result<(Stream, Severity), NoTunnel>> {
        timeout(10 * CONNECT, reach(doors, b"it", &Connector::Plain)).await.ok()
    }

    #[tokio::test]
    async fn a_door_that_hangs_is_left_for_the_next() -> io::Result<()> {
        // For both their kernel accepts; one of them never says anything.
        let ([_hung, well], addresses) = two().await?;
        let answers = async {
            let (mut stream, _) = well.accept().await?;
            stream.write_all(&[GO_ON]).await?;
            Ok::<_, io::Error>(stream)
        };
        let (reached, answered) = tokio::join!(reached(&addresses), answers);
        assert!(answered.is_ok() && matches!(reached, Some(Ok(_))));
        Ok(())
    }

    #[tokio::test]
    async fn a_door_that_is_slow_is_not_given_up_for_the_next() -> io::Result<()> {
        let ([slow, hung], addresses) = two().await?;
        let answers = async {
            let (mut stream, _) = slow.accept().await?;
            // Dialled while the other is waited for.
            let other = hung.accept().await?;
            stream.write_all(&[GO_ON]).await?;
            Ok::<_, io::Error>((stream, other))
        };
        let (reached, answered) = tokio::join!(reached(&addresses), answers);
        assert!(answered.is_ok() && matches!(reached, Some(Ok(_))));
        Ok(())
    }

    #[tokio::test]
    async fn a_life_is_over_when_no_door_says_otherwise() -> io::Result<()> {
        for (second, goes_on) in [(GO_ON, true), (OVER, false)] {
            let ([one, other], addresses) = two().await?;
            let answers = async {
                let mut streams = Vec::new();
                for (door, says) in [(one, OVER), (other, second)] {
                    let (mut stream, _) = door.accept().await?;
                    stream.write_all(&[says]).await?;
                    streams.push(stream);
                }
                Ok::<_, io::Error>(streams)
            };
            let (reached, answered) = tokio::join!(reached(&addresses), answers);
            assert!(answered.is_ok());
            match reached {
                Some(Ok(_)) => assert!(goes_on),
                Some(Err(NoTunnel::Over)) => assert!(!goes_on),
                _ => unreachable!("neither"),
            }
        }
        Ok(())
    }
}
