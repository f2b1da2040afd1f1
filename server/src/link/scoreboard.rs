//! The scoreboard: what a worker notes about the answer that it is about to write, for the door to read if it dies.
//!
//! A worker that is killed between the last byte of an answer and its `done` has done nothing wrong, and its client
//! has its answer; but the door sees only that bytes have been written, and whether they were all of them it cannot
//! know. It would have to cut the connection, and a client that sends its next request at that moment loses it.
//!
//! So before the first byte of an answer whose length is known, the worker notes turn and length here. The door
//! counts what has been written by itself: when it is exactly what was announced, the answer is whole, and the
//! connection goes on. A worker that lies here can spoil the connections that it holds, which it can in any case.
//!
//! The board is a small file without a name (`memfd`) that the door makes and hands over with its welcome. It
//! outlives the worker, and it is read only after a death. The worker maps it, so that a note is three stores in memory
//! and no system call; its size is sealed, so that the mapping cannot be cut short. The door makes it and not the
//! worker, because reading a stranger's descriptor could block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::sys::SharedWords;

/// Words of a note: the turn, the bytes, and whether the connection can go on.
const WORDS: usize = 3;
/// Bytes of a note.
const NOTE: usize = WORDS * size_of::<u64>();

/// What a worker announces of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The turn that is being answered.
    pub turn: u64,
    /// Bytes of the whole answer, head and body.
    pub bytes: u64,
    /// Whether the connection can carry another request after it.
    pub keep: bool,
}

/// A worker's scoreboard as the door holds it, with a line for each turn that the worker can hold.
#[derive(Debug)]
pub struct Scoreboard(OwnedFd);

/// A worker's scoreboard as the worker holds it.
#[derive(Debug)]
pub struct ScoreboardPen(SharedWords);

/// Where the answers of one turn are noted: a line of the board that nobody else writes to meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct ScoreLine<'p> {
    pen: &'p ScoreboardPen,
    line: u16,
    turn: u64,
}

impl Scoreboard {
    /// A board with `lines` lines.
    pub fn new(lines: u16) -> io::Result<Self> {
        let board = rustix::fs::memfd_create("scoreboard", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&board, u64::from(lines) * NOTE as u64)?;
        rustix::fs::fcntl_add_seals(&board, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(board))
    }

    /// What was noted of a turn; the worker is dead.
    pub fn of_turn(&self, turn: u64, lines: u16) -> Option<Note> {
        (0..lines).filter_map(|line| self.read(line)).find(|note| note.turn == turn)
    }

    fn read(&self, line: u16) -> Option<Note> {
        let mut bytes = [0; NOTE];
        let read = rustix::io::pread(&self.0, &mut bytes[..], u64::from(line) * NOTE as u64).ok()?;
        let word = |at: usize| Some(u64::from_ne_bytes(*bytes[at * size_of::<u64>()..].first_chunk()?));
        (read == NOTE).then_some(())?;
        Some(Note { turn: word(0)?, bytes: word(1)?, keep: word(2)? == 1 })
    }
}

impl ScoreboardPen {
    /// For the board that came over a link.
    ///
    /// # Errors
    /// It is none, or cannot be mapped.
    pub fn for_board(board: impl AsFd) -> io::Result<Self> {
        SharedWords::map(board).map(Self)
    }

    /// What was noted of a turn, for whoever shares the worker's memory.
    pub fn of_turn(&self, turn: u64, lines: u16) -> Option<Note> {
        (0..lines).find_map(|line| {
            let word = |at: usize| self.0.get(usize::from(line) * WORDS + at);
            (word(0)?.load(Ordering::Acquire) == turn).then_some(())?;
            let (bytes, keep) = (word(1)?.load(Ordering::Relaxed), word(2)?.load(Ordering::Relaxed));
            Some(Note { turn, bytes, keep: keep == 1 })
        })
    }

    /// The line of a turn. Only the caller may write to it until the turn is over.
    pub fn line(&self, line: u16, turn: u64) -> ScoreLine<'_> {
        ScoreLine { pen: self, line, turn }
    }

    /// Notes an answer on a line that only the caller writes to. On a line that the board does not have, nothing is
    /// noted: a death at the worst moment then cuts the connection, as it would without a board.
    pub fn note(&self, line: u16, note: &Note) {
        let word = |at: usize| self.0.get(usize::from(line) * WORDS + at);
        let (Some(turn), Some(bytes), Some(keep)) = (word(0), word(1), word(2)) else { return };
        bytes.store(note.bytes, Ordering::Relaxed);
        keep.store(note.keep.into(), Ordering::Relaxed);
        // Last: whoever dies on the way here leaves the number of a turn that is over.
        turn.store(note.turn, Ordering::Release);
    }
}

impl ScoreLine<'_> {
    /// Notes the answer that is about to be written: its bytes, and whether the connection can go on behind it.
    pub fn announce(&self, bytes: u64, keep: bool) {
        self.pen.note(self.line, &Note { turn: self.turn, bytes, keep });
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_found_by_its_turn() -> io::Result<()> {
        let door = Scoreboard::new(3)?;
        let worker = ScoreboardPen::for_board(&door)?;
        let (one, two) =
            (Note { turn: 7, bytes: 100, keep: true }, Note { turn: 9, bytes: 1 << 40, keep: false });
        worker.note(0, &one);
        worker.note(2, &two);
        assert_eq!(
            (door.of_turn(7, 3), door.of_turn(9, 3), door.of_turn(8, 3)),
            (Some(one), Some(two), None)
        );
        worker.note(0, &Note { turn: 10, ..one });
        assert_eq!(door.of_turn(7, 3), None, "the line was used again");
        Ok(())
    }

    #[test]
    fn a_worker_cannot_take_it_away() -> io::Result<()> {
        let board = Scoreboard::new(1)?;
        assert!(rustix::fs::ftruncate(&board, 0).is_err() && rustix::fs::ftruncate(&board, 1 << 30).is_err());
        ScoreboardPen::for_board(&board)?.note(1, &Note { turn: 1, bytes: 1, keep: true });
        assert_eq!(board.of_turn(1, 2), None, "it grew");
        Ok(())
    }
}
