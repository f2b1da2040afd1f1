//! Memory that processes of the lab have in common: a file without a name, sealed, found by way of `/proc`.

use std::fs::File;
use std::io;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};

/// So many bytes, all zero, whose size is sealed; whoever maps them cannot have them cut off.
///
/// # Errors
/// When there is no memory for it.
pub(crate) fn fresh(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(memory)
}

/// Where another process of the same user finds a descriptor of this one, for as long as it is open here.
pub(crate) fn path_of(descriptor: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd())
}

/// Opens, for reading and writing, what another process has named with [`path_of`].
///
/// # Errors
/// When that process has closed it, or has ended.
pub(crate) fn open(path: &str) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}
