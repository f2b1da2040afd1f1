//! The controller's end of the door's control socket.
