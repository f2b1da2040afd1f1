//! The limits that a plain process puts on itself, before it has a link and long before it runs a handler.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::SelfLimits;

/// Puts `limits` on this process, for good. To be called while it has one thread: the user is a thread's own.
pub(super) fn apply(limits: &SelfLimits) -> io::Result<()> {
    if let Some(bytes) = limits.memory_bytes {
        limit(Resource::Data, bytes)?;
    }
    if let Some(files) = limits.open_files {
        limit(Resource::Nofile, files.get().into())?;
    }
    // A core file of every crash would fill the disk of a machine that is there to see crashes.
    limit(Resource::Core, 0)?;
    if let Some(user) = limits.user
        && rustix::process::getuid().is_root()
    {
        let (uid, gid) = (Uid::from_raw(user.get()), Gid::from_raw(user.get()));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    // Counted against the user that this process is from here on.
    if let Some(pids) = limits.pids {
        limit(Resource::Nproc, pids.get().into())?;
    }
    Ok(())
}

/// Lowers a limit, soft and hard. One that is lower already stays.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}
