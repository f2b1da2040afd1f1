//! Shared memory with a futex: messages in a ring that both processes see, and a word to sleep on.
//!
//! ```text
//!   data    slot 0 │ slot 1 │ slot 2 │ slot 3        written by one side, read by the other
//!   bells   sent · taken · reader sleeps · writer sleeps
//! ```
//!
//! Whoever finds nothing to read, or no slot to write to, says that he sleeps, looks once more, and sleeps until the
//! count changes; the kernel compares the count as it puts him to sleep, so no ring of the bell is missed. Whoever has
//! moved on wakes the other only if he sleeps: without that a message would cost a system call even while both are busy.
//! The kernel copies nothing: a message is written once and read once. What it takes is this file.
//!
//! If the other side dies in the middle, nobody says so, as a closed pipe would: the sleeper gives up after a while.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};
use server::sys::SharedWords;

use super::wires::{MOST, Wire};
use crate::memory;

const SLOTS: u32 = 4;
const WORD: usize = size_of::<u64>();
/// In words.
const SLOT: usize = MOST.div_ceil(WORD);

const SENT: usize = 0;
const TAKEN: usize = 1;
const READER_SLEEPS: usize = 2;
const WRITER_SLEEPS: usize = 3;
const BELLS: usize = 4;

/// Messages in one direction.
#[derive(Debug)]
struct Ring {
    data: SharedWords,
    bells: SharedWords<AtomicU32>,
}

/// Where another process finds a ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RingPath {
    data: String,
    bells: String,
}

/// Where another process finds both.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Paths {
    there: RingPath,
    back: RingPath,
}

/// One ring there and one back.
#[derive(Debug)]
pub(super) struct Rings {
    out: Ring,
    into: Ring,
}

/// The files of rings: to be kept until the other process has opened them.
#[derive(Debug)]
pub(super) struct Files {
    _open: [OwnedFd; 4],
}

impl Rings {
    /// Fresh ones: this side, their files, and where the other side finds them.
    pub(super) fn fresh() -> io::Result<(Self, Files, Paths)> {
        let make = || -> io::Result<(Ring, [OwnedFd; 2], RingPath)> {
            let bytes = SLOTS as usize * SLOT * WORD;
            let data = memory::fresh("ring", u64::try_from(bytes).unwrap_or(u64::MAX))?;
            let bells = memory::fresh("bells", (BELLS * size_of::<u32>()) as u64)?;
            let paths = RingPath { data: memory::path_of(&data), bells: memory::path_of(&bells) };
            let ring = Ring { data: SharedWords::map(&data)?, bells: SharedWords::map_u32(&bells)? };
            Ok((ring, [data, bells], paths))
        };
        let ((out, [out_data, out_bells], there), (into, [into_data, into_bells], back)) = (make()?, make()?);
        let files = Files { _open: [out_data, out_bells, into_data, into_bells] };
        Ok((Self { out, into }, files, Paths { there, back }))
    }

    /// The other side of those that another process has made.
    pub(super) fn open(paths: &Paths) -> io::Result<Self> {
        let open = |path: &RingPath| -> io::Result<Ring> {
            Ok(Ring {
                data: SharedWords::map(memory::open(&path.data)?)?,
                bells: SharedWords::map_u32(memory::open(&path.bells)?)?,
            })
        };
        Ok(Self { out: open(&paths.back)?, into: open(&paths.there)? })
    }
}

impl Wire for Rings {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.out.write(message)
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.into.read(into)
    }
}

impl Ring {
    fn write(&self, message: &[u8]) -> io::Result<()> {
        let sent = self.bell(SENT)?.load(Ordering::Relaxed);
        self.await_change(TAKEN, WRITER_SLEEPS, |taken| sent.wrapping_sub(taken) < SLOTS)?;
        for (word, bytes) in self.slot(sent).zip(message.chunks(WORD)) {
            let mut whole = [0; WORD];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
        self.move_on(SENT, READER_SLEEPS)
    }

    fn read(&self, into: &mut [u8]) -> io::Result<()> {
        let taken = self.bell(TAKEN)?.load(Ordering::Relaxed);
        self.await_change(SENT, READER_SLEEPS, |sent| sent != taken)?;
        for (word, bytes) in self.slot(taken).zip(into.chunks_mut(WORD)) {
            let whole = word.load(Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&whole[..bytes.len()]);
        }
        self.move_on(TAKEN, WRITER_SLEEPS)
    }

    /// Waits until the other side's count is as wanted. What he had written before he counted is seen then.
    fn await_change(&self, count: usize, sleeps: usize, wanted: impl Fn(u32) -> bool) -> io::Result<()> {
        const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
        loop {
            let seen = self.bell(count)?.load(Ordering::SeqCst);
            if wanted(seen) {
                return Ok(());
            }
            self.bell(sleeps)?.store(1, Ordering::SeqCst);
            if self.bell(count)?.load(Ordering::SeqCst) != seen {
                continue;
            }
            match futex::wait(self.bell(count)?, Flags::empty(), seen, Some(&PATIENCE)) {
                // The count had changed before he slept, or somebody has interrupted him.
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn move_on(&self, count: usize, sleeps: usize) -> io::Result<()> {
        self.bell(count)?.fetch_add(1, Ordering::SeqCst);
        if self.bell(sleeps)?.swap(0, Ordering::SeqCst) != 0 {
            futex::wake(self.bell(count)?, Flags::empty(), 1)?;
        }
        Ok(())
    }

    fn bell(&self, nth: usize) -> io::Result<&AtomicU32> {
        self.bells.get(nth).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn slot(&self, nth: u32) -> impl Iterator<Item = &AtomicU64> {
        let first = (nth % SLOTS) as usize * SLOT;
        (first..first + SLOT).map_while(|nth| self.data.get(nth))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_and_whole_though_the_ring_is_small() {
        let (mut here, files, paths) = Rings::fresh().unwrap();
        let mut there = Rings::open(&paths).unwrap();
        drop(files);
        let sender = std::thread::spawn(move || {
            for nth in 0..10 * SLOTS as u8 {
                here.send(&[nth; 13]).unwrap();
            }
            let mut answer = [0; 3];
            here.receive(&mut answer).unwrap();
            answer
        });
        for nth in 0..10 * SLOTS as u8 {
            let mut message = [0; 13];
            there.receive(&mut message).unwrap();
            assert_eq!(message, [nth; 13]);
        }
        there.send(b"end").unwrap();
        assert_eq!(&sender.join().unwrap(), b"end");
    }
}
