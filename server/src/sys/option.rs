//! Socket options whose value is a number, where no safe wrapper knows them.

#![expect(unsafe_code, reason = "setsockopt takes an address")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an option of that level.
///
/// # Errors
/// The kernel does not know it, or refuses the value.
pub(super) fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an `int`, whose address and size the kernel is told, and which it copies; the descriptor is
    // open for as long as `socket` is borrowed. An option whose value is anything else is refused for its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
