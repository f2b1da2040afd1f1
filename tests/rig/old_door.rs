//! A door of another build, which this program plays in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::{Stack, eventually};

const ROLE: &str = "--play-old-door";

/// The socket on which this process is to play an old door, if that is what it was started for.
pub fn asked_for() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == ROLE).then(|| arguments.next().map(PathBuf::from))?
}

/// Answers every hello with a version of long ago, until it is ended.
pub fn play(socket: &Path) -> ! {
    let listener = UnixListener::bind(socket).unwrap();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = String::new();
        let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut hello);
        let _ =
            stream.write_all(b"{\"notice\":\"welcome\",\"version\":1,\"and\":\"nothing that we know\"}\n");
    }
}

/// Starts one in the place of the door of `stack`, which has to be dead.
pub fn start(stack: &Stack) -> Child {
    let socket = stack.run_dir().join("control/door.sock");
    std::fs::remove_file(&socket).unwrap();
    let child = Command::new(std::env::current_exe().unwrap()).arg(ROLE).arg(&socket).spawn().unwrap();
    eventually("the old door listens", || if socket.exists() { Ok(()) } else { Err(socket.clone()) });
    child
}
