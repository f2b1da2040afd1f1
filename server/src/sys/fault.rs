//! Faults that safe code cannot commit, for the demo app.

#![expect(unsafe_code, reason = "safe Rust can neither fault nor fork")]

use std::io;

/// Writes to an address that is mapped in no process, and dies of SIGSEGV.
pub fn segfault() -> ! {
    // SAFETY: there is none, which is the purpose: page zero is never mapped (vm.mmap_min_addr), so the store
    // faults and the process dies here. `write_volatile` keeps the compiler from reasoning about it.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(0) };
    std::process::abort()
}

/// Forks a child that sleeps until it is killed. With `keep_descriptors` it holds on to everything that this
/// process has open, the link included, as a careless program's child would.
pub fn fork_sleeper(keep_descriptors: bool) -> io::Result<()> {
    // SAFETY: the child calls only `close_range`, `pause` and nothing else, which are async-signal-safe, so it
    // does not matter which locks other threads held when it was forked; it never returns into Rust.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => loop {
            // SAFETY: closing descriptors of this child, which uses none; waiting for a signal.
            unsafe {
                if !keep_descriptors {
                    libc::close_range(0, libc::c_uint::MAX, 0);
                }
                libc::pause();
            }
        },
        _ => Ok(()),
    }
}
