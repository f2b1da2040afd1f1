//! How much of the program a worker keeps mapped.
//!
//! One binary is door, controller and worker, so little of it is a worker's. But the kernel maps whatever of a file
//! is cached around each page that is touched (64 KiB at a time, or a whole folio), and starting up touches
//! something nearly everywhere: an idle worker had 4 MiB resident, 0.1 MiB of it its own.

#![expect(unsafe_code, reason = "madvise acts on memory that Rust knows nothing of")]

use std::io;

/// Unmaps this process's executable pages. Those that are needed again come back from the page cache one by one.
/// Nothing that was written is lost: executable pages never are. Worth calling once, between starting and waiting.
pub fn release_code_pages() -> io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let Some((start, len)) = code(line) else { continue };
        // SAFETY: the range is a mapping of this process that the kernel has just listed, and it is private, backed
        // by a file and not writable: its pages equal the file's, and a page that is dropped is read from there
        // again when it is next touched. Another mapping could stand there by now only if code had been unloaded
        // meanwhile, and nothing here unloads code.
        let done = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Start and length of a mapping of a file's code, from a line of `/proc/self/maps`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, _offset, _device, inode) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (rights == "r-xp" && inode != "0").then(|| (start, end.saturating_sub(start)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_unmapped() {
        let maps = [
            "00200000-00441000 r--p 00000000 fe:00 5441676   /bulkhead",
            "00441000-00d0a000 r-xp 00240000 fe:00 5441676   /bulkhead",
            "00d10000-00d14000 rw-p 00b0d000 fe:00 5441676   /bulkhead",
            "00d20000-00d24000 rwxp 00b0d000 fe:00 5441676   /bulkhead",
            "7fbb9f199000-7fbb9f19b000 r-xp 00000000 00:00 0  [vdso]",
            "nonsense",
        ];
        assert_eq!(maps.iter().filter_map(|line| code(line)).collect::<Vec<_>>(), [(0x441000, 0x8c9000)]);
    }

    #[test]
    fn less_is_resident_and_code_runs_on() {
        // In a process of its own: what other tests touch at the same time becomes resident too.
        const ALONE: &str = "BULKHEAD_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "sys::pages::tests::less_is_resident_and_code_runs_on";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let ended = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
        };
        // Touches a good deal of code, and tells how much is mapped then.
        let before = resident();
        release_code_pages().unwrap();
        assert!(resident() < before, "from {before} KiB to {} KiB", resident());
    }
}
