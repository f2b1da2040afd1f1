//! When a client's port is chosen.

use std::io;
use std::os::fd::AsFd;

use super::option;

/// Has a client's port chosen when it connects, although it is bound to an address before that. Otherwise it is chosen when
/// it is bound, for any server at all, and the kernel looks through all who are bound already: milliseconds, where
/// thousands are.
pub fn choose_port_late(socket: impl AsFd) -> io::Result<()> {
    option::set(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}
