//! A few words of memory that two processes see.

#![expect(unsafe_code, reason = "a mapping lives outside of what Rust tracks")]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A sealed memory file, mapped for writing. Its words are [`AtomicU64`] or [`AtomicU32`], for there is no other way to
/// make one; a file that is mapped in both ways has to keep them apart.
#[derive(Debug)]
pub struct SharedWords<W = AtomicU64> {
    first: NonNull<W>,
    count: usize,
}

// SAFETY: all that the mapping is used for are atomic words, which any thread may use at any time; and it belongs to
// no thread, so whichever is last may unmap it.
unsafe impl Send for SharedWords<AtomicU64> {}
// SAFETY: as above.
unsafe impl Sync for SharedWords<AtomicU64> {}
// SAFETY: as above.
unsafe impl Send for SharedWords<AtomicU32> {}
// SAFETY: as above.
unsafe impl Sync for SharedWords<AtomicU32> {}

impl SharedWords<AtomicU64> {
    /// Maps the whole words of `file`.
    ///
    /// # Errors
    /// An empty file, or one whose size is not sealed: touching what has been cut off would be fatal.
    pub fn map(file: impl AsFd) -> io::Result<Self> {
        Self::map_words(file)
    }
}

impl SharedWords<AtomicU32> {
    /// As [`SharedWords::map`], in words of the size that a futex has.
    ///
    /// # Errors
    /// As there.
    pub fn map_u32(file: impl AsFd) -> io::Result<Self> {
        Self::map_words(file)
    }
}

impl<W> SharedWords<W> {
    /// To be called for atomic integers only: whatever bits there are must be a word.
    fn map_words(file: impl AsFd) -> io::Result<Self> {
        use rustix::fs::SealFlags;
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let bytes = usize::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let count = bytes / size_of::<W>();
        if count == 0 || !seals.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so nothing that is mapped is replaced.
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, rights, MapFlags::SHARED, &file, 0) }?;
        let first = NonNull::new(at.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { first, count })
    }

    /// How many words there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The word at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&W> {
        // SAFETY: the word lies within the mapping, which lives as long as `self`, is aligned to a page at least, and
        // cannot be cut short by anybody, for its size is sealed. Any bits are a valid word, for `map` and `map_u32` make
        // no other kind, and whoever else writes
        // to it makes it change as another thread would.
        (index < self.count).then(|| unsafe { self.first.add(index).as_ref() })
    }
}

impl<W> Drop for SharedWords<W> {
    fn drop(&mut self) {
        // SAFETY: this is what `map` has mapped, and every reference into it has borrowed `self`.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.count * size_of::<W>()) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn what_could_be_cut_short_is_not_mapped() -> io::Result<()> {
        let file = memfd_create("words", MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, 16)?;
        assert!(SharedWords::map(&file).is_err());
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::SHRINK)?;
        let words = SharedWords::map(&file)?;
        assert!(words.get(1).is_some() && words.get(2).is_none());
        Ok(())
    }
}
