//! A tunnel's far end that a story holds itself: a worker, or a stranger, that does what no honest one does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use server::identity::{Incarnation, Secret, Token};
use server::link::tunnel::{DOOR_NAME, Frame, GO_ON, Pace, Preface};
use server::link::{self, FromWorker, ToWorker, TurnFrame};

use super::{PATIENCE, Stack};

/// A worker at the far end of a tunnel.
pub struct FarWorker {
    wire: Wire,
    read: Vec<u8>,
    /// How the door keeps this tunnel; known as soon as it is welcome.
    pub pace: Option<Pace>,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection to the door's tunnel of somebody of whom it knows nothing.
pub fn knock(stack: &Stack) -> TcpStream {
    let stream = TcpStream::connect(stack.tunnel()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What an honest worker that leads `life` begins with.
pub fn preface(stack: &Stack, life: &str) -> Vec<u8> {
    let life: Incarnation = life.parse().unwrap();
    Preface::worker(&life, &token(stack, &life)).to_bytes()
}

/// The token that the controller would issue.
pub fn token(stack: &Stack, life: &Incarnation) -> Token {
    let secret = std::fs::read_to_string(stack.run_dir().join("control/secret")).unwrap();
    Secret::try_from(secret.trim().to_owned()).unwrap().token(life)
}

/// Reads on until the door closes; all that came, and after how long it was over. A reset is an end as well.
pub fn until_closed(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let (asked, mut came) = (Instant::now(), Vec::new());
    if let Err(error) = stream.read_to_end(&mut came)
        && error.kind() != io::ErrorKind::ConnectionReset
    {
        panic!("the door has not closed the connection: {error}");
    }
    (came, asked.elapsed())
}

impl FarWorker {
    /// Comes to the door of `stack` as `life`, with the right token, and is let in.
    pub fn joins(stack: &Stack, life: &str, credit: u16) -> Self {
        let mut worker = Self::comes(stack, life);
        let answer = worker.says_hello(stack, life, credit);
        assert!(matches!(answer, Some(ToWorker::Welcome(_))), "as {life}: {answer:?}");
        worker
    }

    /// The same up to the hello, and no further.
    pub fn comes(stack: &Stack, life: &str) -> Self {
        let mut stream = knock(stack);
        stream.write_all(&preface(stack, life)).unwrap();
        let mut answer = [0xff];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [GO_ON], "as {life}");
        let wire =
            if stack.backend.has_tls() { Wire::Tls(encrypted(stack, stream)) } else { Wire::Plain(stream) };
        Self { wire, read: Vec::new(), pace: None }
    }

    /// Says hello as `life`; what the door answers, or nothing when it closes.
    pub fn says_hello(&mut self, stack: &Stack, life: &str, credit: u16) -> Option<ToWorker> {
        let life: Incarnation = life.parse().unwrap();
        self.says(&FromWorker::Hello { version: link::VERSION, credit, token: token(stack, &life), life });
        let mut pace = None;
        let answer = self.hears(|frame| match *frame {
            Frame::Pace(its) => {
                pace = Some(its);
                None
            }
            Frame::Link(bytes) => Some(ToWorker::decode(bytes).unwrap()),
            _ => None,
        });
        self.pace = pace;
        answer
    }

    /// Says something of the link's own.
    pub fn says(&mut self, frame: &FromWorker) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.posts(&Frame::Link(&bytes));
    }

    pub fn posts(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.sends(&bytes).unwrap();
    }

    /// An error when the door has closed.
    pub fn sends(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// The first that `wanted` finds among the frames that come; `None` at the end of the tunnel.
    pub fn hears<T>(&mut self, mut wanted: impl FnMut(&Frame<'_>) -> Option<T>) -> Option<T> {
        loop {
            let mut at = 0;
            while let Some((frame, length)) = Frame::decode(&self.read[at..]).unwrap() {
                at += length;
                if let Some(found) = wanted(&frame) {
                    self.read.drain(..at);
                    return Some(found);
                }
            }
            self.read.drain(..at);
            let mut piece = [0; 16 * 1024];
            let read = match &mut self.wire {
                Wire::Plain(stream) => stream.read(&mut piece),
                Wire::Tls(stream) => stream.read(&mut piece),
            };
            match read {
                Ok(read @ 1..) => self.read.extend(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing came: {error}"),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// Waits for a turn and for all of its request, where all of it comes with it.
    pub fn takes_a_turn(&mut self) -> (TurnFrame, Vec<u8>) {
        let (mut given, mut request) = (None::<TurnFrame>, Vec::new());
        let taken = self.hears(|frame| {
            match *frame {
                Frame::Link(bytes) => match ToWorker::decode(bytes).unwrap() {
                    ToWorker::Turn(turn) => given = Some(turn),
                    other => panic!("no turn: {other:?}"),
                },
                Frame::Data { turn, bytes } if given.is_some_and(|given| given.turn == turn) => {
                    request.extend(bytes);
                }
                _ => {}
            }
            given.filter(|given| request.len() >= given.whole as usize)
        });
        (taken.expect("no turn: the tunnel has ended"), request)
    }

    /// Waits until the door has ended the tunnel.
    pub fn is_cut_off(&mut self) {
        while self.hears(|_| Some(())).is_some() {}
    }

    /// Says that nothing more will come, as the kernel of a dead worker does.
    pub fn ends(&self) {
        let stream = match &self.wire {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => &stream.sock,
        };
        let _ = stream.shutdown(Shutdown::Write);
    }
}

fn encrypted(stack: &Stack, stream: TcpStream) -> Box<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    let authority = stack.run_dir().join("control/tunnel/ca.crt");
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(DOOR_NAME).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    Box::new(StreamOwned::new(connection, stream))
}
