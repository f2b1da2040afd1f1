//! Whether a machine answers where a door was or ought to be: not whether the door does, but whether there is a kernel that
//! would say that it is gone. Where there is none, the workers on that machine are lost with the door.
//!
//! One that has been heard of and has fallen silent is dark at the first try to reach it that nothing answers; of one that
//! has not, a first try may come before the network is ready.

use std::io;

use super::line::DoorError;
use super::site::is_dark;

/// What is known of it from the tries to reach it.
#[derive(Debug, Default)]
pub(super) struct Darkness {
    tries: u32,
    told: bool,
}

impl Darkness {
    const TRIES: u32 = 2;

    /// A connection has ended by this.
    pub(super) fn was_heard(&mut self, error: &DoorError) {
        let fell_silent = match error {
            DoorError::Vanished { .. } => true,
            DoorError::Broken(source) => is_dark(source) || source.kind() == io::ErrorKind::TimedOut,
            _ => false,
        };
        *self = Self { tries: if fell_silent { Self::TRIES - 1 } else { 0 }, told: false };
    }

    /// Whether it is dark, after a try that has failed by this, when that has changed.
    pub(super) fn after(&mut self, error: &DoorError) -> Option<bool> {
        match error {
            DoorError::Dial { source, .. } if is_dark(source) => self.tries = self.tries.saturating_add(1),
            _ => self.tries = 0,
        }
        let dark = self.tries >= Self::TRIES;
        (std::mem::replace(&mut self.told, dark) != dark).then_some(dark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::site::Address;
    use super::*;

    #[test]
    fn a_machine_is_dark_when_nothing_answers_and_not_for_a_door_that_is_gone() {
        let address = || Address::There("10.0.0.1:7411".to_owned());
        let failed = |kind: io::ErrorKind| DoorError::Dial { address: address(), source: kind.into() };
        let nothing = || failed(io::ErrorKind::HostUnreachable);
        let mut darkness = Darkness::default();
        assert_eq!(darkness.after(&nothing()), None, "the network may not be ready");
        assert_eq!(darkness.after(&nothing()), Some(true));
        assert_eq!(darkness.after(&nothing()), None, "once");
        assert_eq!(darkness.after(&failed(io::ErrorKind::ConnectionRefused)), Some(false));

        darkness.was_heard(&DoorError::Vanished { beats: 3 });
        assert_eq!(darkness.after(&nothing()), Some(true), "it was there and has fallen silent");
        darkness.was_heard(&DoorError::Closed);
        assert_eq!(darkness.after(&nothing()), None, "its kernel has said that it is gone");
        darkness.was_heard(&DoorError::Vanished { beats: 3 });
        assert_eq!(darkness.after(&DoorError::Mute), None, "its kernel answers: it hangs");
    }
}
