//! A worker that a story plays itself, to do what no honest one does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};
use server::identity::{Incarnation, Secret, Token};
use server::link::{self, FromWorker, LONGEST, Note, Received, ScoreboardPen, ToWorker, TurnFrame};

use super::{PATIENCE, Stack};

/// One end of a link, in the story's own hands.
pub struct FakeWorker {
    link: OwnedFd,
    board: Option<ScoreboardPen>,
}

impl FakeWorker {
    /// Dials the door of `stack` and says hello as `life`, with the right token.
    pub fn joins(stack: &Stack, life: &str, credit: u16) -> Self {
        let life: Incarnation = life.parse().unwrap();
        let secret = std::fs::read_to_string(stack.run_dir().join("control/secret")).unwrap();
        let secret = Secret::try_from(secret.trim().to_owned()).unwrap();
        let mut worker = Self::dials(&stack.link_socket());
        let answer = worker.says_hello(&life, secret.token(&life), credit);
        assert!(matches!(answer, Some(ToWorker::Welcome(_))), "as {life}: {answer:?}");
        worker
    }

    pub fn dials(socket: &Path) -> Self {
        let link = link::dial(socket).unwrap();
        // A story that waits for a turn which never comes is to fail, not to hang.
        set_socket_timeout(&link, Timeout::Recv, Some(PATIENCE)).unwrap();
        Self { link, board: None }
    }

    /// Says hello; what the door answers, or nothing when it closes.
    pub fn says_hello(&mut self, life: &Incarnation, token: Token, credit: u16) -> Option<ToWorker> {
        self.says(&FromWorker::Hello { version: link::VERSION, credit, token, life: life.clone() });
        let (frame, board) = self.hears()?;
        self.board = board.map(|board| ScoreboardPen::for_board(board).unwrap());
        Some(frame)
    }

    pub fn says(&mut self, frame: &FromWorker) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.sends(&bytes);
    }

    pub fn sends(&mut self, bytes: &[u8]) {
        link::send(self.link.as_fd(), bytes, SendFlags::empty()).unwrap();
    }

    /// The next frame, and the descriptor that came with it; `None` at the link's end.
    pub fn hears(&mut self) -> Option<(ToWorker, Option<OwnedFd>)> {
        let mut buffer = [0; LONGEST + 1];
        match link::receive(self.link.as_fd(), &mut buffer, RecvFlags::empty()).unwrap() {
            Received::Frame { len, descriptor } => {
                Some((ToWorker::decode(&buffer[..len]).unwrap(), descriptor))
            }
            Received::Nothing => panic!("nothing came within {PATIENCE:?}"),
            Received::Uninvited | Received::Closed => None,
        }
    }

    /// Announces an answer of so many bytes, as an honest worker does before it writes it.
    pub fn announces(&self, turn: &TurnFrame, bytes: usize) {
        let note = Note { turn: turn.turn, bytes: bytes as u64, keep: true };
        self.board.as_ref().expect("it has joined").note(0, &note);
    }

    /// Waits for a turn and the client's socket.
    pub fn takes_a_turn(&mut self) -> (TurnFrame, OwnedFd) {
        match self.hears() {
            Some((ToWorker::Turn(turn), Some(socket))) => (turn, socket),
            other => panic!("no turn: {other:?}"),
        }
    }
}
