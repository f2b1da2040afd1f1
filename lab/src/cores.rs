//! Which cores a thread may run on. What it starts, threads and processes, may run where it may.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps this thread, and what it starts from now on, to the first so many of the cores that it may use. Where it could
/// run before, for [`allow`].
///
/// # Errors
/// When the kernel does not let it.
pub(crate) fn keep_to(cores: usize) -> io::Result<CpuSet> {
    let before = sched_getaffinity(None)?;
    let mut some = CpuSet::new();
    for core in (0..CpuSet::MAX_CPU).filter(|&core| before.is_set(core)).take(cores.max(1)) {
        some.set(core);
    }
    sched_setaffinity(None, &some)?;
    Ok(before)
}

/// Lets this thread run on these cores.
///
/// # Errors
/// When the kernel does not let it.
pub(crate) fn allow(cores: &CpuSet) -> io::Result<()> {
    Ok(sched_setaffinity(None, cores)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn who_is_kept_to_one_core_has_one_and_gets_the_others_back() {
        let count = || sched_getaffinity(None).unwrap().count();
        let all = count();
        let before = keep_to(1).unwrap();
        assert_eq!(count(), 1);
        assert_eq!(std::thread::spawn(move || sched_getaffinity(None).unwrap().count()).join().unwrap(), 1);
        allow(&before).unwrap();
        assert_eq!(count(), all);
    }
}
