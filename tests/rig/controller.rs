//! A controller that a story plays itself, on the door's control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use server::control::{Notice, Order, Report, VERSION};
use server::identity::Secret;

use super::{PATIENCE, Stack};

/// The controller's end of the control socket, in the story's own hands. The real one has to be dead: it would
/// take its place back.
pub struct FakeController {
    to: UnixStream,
    from: BufReader<UnixStream>,
    queries: u64,
}

impl FakeController {
    /// Takes the place of the controller of `stack`.
    pub fn takes_over(stack: &Stack) -> Self {
        let control = stack.run_dir().join("control");
        let secret = std::fs::read_to_string(control.join("secret")).unwrap();
        let secret = Secret::try_from(secret.trim().to_owned()).unwrap();
        let to = UnixStream::connect(control.join("door.sock")).unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = BufReader::new(to.try_clone().unwrap());
        let mut controller = Self { to, from, queries: 0 };
        controller.orders(&Order::Hello { version: VERSION, secret });
        controller.hears(|notice| matches!(notice, Notice::Welcome { .. }));
        controller
    }

    pub fn orders(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).unwrap();
        line.push(b'\n');
        self.to.write_all(&line).unwrap();
    }

    /// Waits for a notice, and passes over those that come before it.
    pub fn hears(&mut self, wanted: impl Fn(&Notice) -> bool) -> Notice {
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the door has closed the control socket");
            let notice = serde_json::from_str(&line).unwrap();
            if wanted(&notice) {
                return notice;
            }
        }
    }

    /// Asks for a report.
    pub fn report(&mut self, turns: bool) -> Report {
        self.queries += 1;
        let asked = self.queries;
        self.orders(&Order::Report { query: asked, turns });
        match self.hears(|notice| matches!(notice, Notice::Report { query, .. } if *query == asked)) {
            Notice::Report { report, .. } => report,
            other => panic!("no report: {other:?}"),
        }
    }
}
