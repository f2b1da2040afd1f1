//! The door's end of the control socket.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::notices::Notices;
use super::pool::Pool;
use super::recent::RecentTurns;
use super::trickle::{Trickles, Unfit};
use super::workers::Workers;
use crate::control::{ASKS_VERSION, LONGEST_LINE, Notice, Order, Report, Stamp, VERSION};
use crate::identity::{PoolName, Secret};

/// What the control socket can reach of the door.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) pools: Vec<Rc<Pool>>,
    pub(super) workers: Rc<Workers>,
    pub(super) notices: Rc<Notices>,
    pub(super) recent: Rc<RecentTurns>,
    pub(super) trickles: Rc<Trickles>,
    /// Rung when the door is to drain.
    pub(super) stop: Rc<Notify>,
    pub(super) stopping: Cell<bool>,
    /// Where workers come in over TCP.
    pub(super) tunnel: Option<SocketAddr>,
    /// The controller that is listened to.
    pub(super) current: RefCell<Option<AbortHandle>>,
}

/// How a controller is known for one.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// By where it comes from: it tells the secret.
    Place,
    /// By the secret, which the door knows already: it has to name the same one.
    Secret(Secret),
}

impl Trust {
    /// Whether one who names this secret is believed.
    fn extends_to(&self, named: &Secret) -> bool {
        match self {
            Self::Place => true,
            Self::Secret(known) => known.is(named),
        }
    }
}

/// How long a controller may take to say hello.
const HELLO: Duration = Duration::from_secs(5);

impl Control {
    /// Serves one controller after another; a new one takes the place of the old.
    pub(super) async fn accept(self: Rc<Self>, listener: UnixListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a controller");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if !may_control(&stream) {
                tracing::warn!("somebody else's process came to the control socket and was turned away");
                continue;
            }
            let (from, to) = stream.into_split();
            tokio::task::spawn_local(Rc::clone(&self).meet(from, to, Trust::Place));
        }
    }

    /// Hears who has come. Only one who says hello as a controller takes the place of the last.
    pub(super) async fn meet<R, W>(self: Rc<Self>, from: R, mut to: W, trust: Trust)
    where
        R: AsyncRead + Unpin + 'static,
        W: AsyncWrite + Unpin + 'static,
    {
        let mut from = Lines::new(from);
        let Ok(hello) = timeout(HELLO, from.next()).await else {
            return tracing::warn!("somebody came to the control socket and said nothing");
        };
        match hello {
            Some(Ok(Order::Hello { version: VERSION, secret })) if trust.extends_to(&secret) => {
                self.workers.learn(secret);
            }
            Some(Ok(Order::Hello { version: VERSION, .. })) => {
                return tracing::error!(
                    "somebody said hello as the controller, with a secret that is not ours"
                );
            }
            Some(Ok(Order::Hello { version: ASKS_VERSION, .. })) => {
                let _ = write(&mut to, &self.welcome()).await;
                return;
            }
            Some(Ok(Order::Hello { version, .. })) => {
                tracing::error!(
                    controller = version,
                    door = VERSION,
                    "the controller speaks another version"
                );
                // It learns ours from the welcome, and refuses in turn.
                let _ = write(&mut to, &self.welcome()).await;
                return;
            }
            Some(Ok(_) | Err(())) => return tracing::warn!("a controller did not begin with a hello"),
            None => return,
        }
        let serving = tokio::task::spawn_local(Rc::clone(&self).serve(from, to, trust));
        if let Some(old) = self.current.replace(Some(serving.abort_handle())) {
            old.abort();
        }
    }

    async fn serve<R, W>(self: Rc<Self>, from: Lines<R>, mut to: W, trust: Trust)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if write(&mut to, &self.welcome()).await.is_err() {
            return;
        }
        tracing::info!("a controller is here");
        self.pools.iter().for_each(|pool| pool.repeat_what_is_wrong());
        tokio::select! {
            () = self.obey(from, &trust) => {}
            () = self.tell(to) => {}
        }
        tracing::warn!("the controller has gone; serving on without it");
    }

    fn welcome(&self) -> Notice {
        Notice::Welcome {
            tunnel: self.tunnel,
            version: VERSION,
            pid: std::process::id(),
            pools: self.pools.iter().map(|pool| (pool.config.name.clone(), pool.address)).collect(),
            linked: self.workers.linked(),
            seen: self.workers.seen(),
        }
    }

    async fn obey<R: AsyncRead + Unpin>(&self, mut orders: Lines<R>, trust: &Trust) {
        while let Some(Ok(order)) = orders.next().await {
            match order {
                Order::Hello { secret, .. } if trust.extends_to(&secret) => self.workers.learn(secret),
                Order::Hello { .. } => {
                    tracing::error!("the controller names another secret: it stays as it was");
                }
                Order::Drain { worker } => {
                    self.workers.drain(&worker);
                }
                Order::Withhold { worker } => self.workers.withhold(&worker),
                Order::Kill { worker } => self.workers.kill(&worker),
                Order::Bury { worker } => self.workers.bury(&worker),
                Order::Over { lives } => self.workers.learn_of_ends(&lives),
                Order::Report { query, turns } => {
                    let report = self.report(turns);
                    self.notices.post(Notice::Report { query, report });
                }
                Order::Request { pool, method, path } => {
                    not_sent(&pool, self.trickles.request(&pool, &method, &path));
                }
                Order::Trickle { pool, path, per_second, lasting } => {
                    not_sent(&pool, self.trickles.begin(&pool, path, per_second, lasting));
                }
                Order::EndTrickle { pool } => self.trickles.end(&pool),
                Order::Move { worker, to } => self.workers.move_away(&worker, &to),
                Order::Ping => self.notices.post(Notice::Pong),
                Order::Stop => self.stop.notify_one(),
            }
        }
    }

    fn report(&self, with_turns: bool) -> Report {
        let (turns, turns_omitted) = match with_turns {
            true => self.recent.hand_over(Instant::now(), Stamp::now()),
            false => (Vec::new(), 0),
        };
        let pools = self.pools.iter().map(|pool| pool.report()).collect();
        Report { pools, turns, turns_omitted, trickles: self.trickles.report() }
    }

    async fn tell(&self, mut to: impl AsyncWrite + Unpin) {
        if self.stopping.get() {
            self.notices.post(Notice::Stopping);
        }
        loop {
            let notice = self.notices.next().await;
            if write(&mut to, &notice).await.is_err() {
                return self.notices.put_back(notice);
            }
        }
    }
}

/// Opens the control socket. The directory that it stands in keeps others out; on top of that, whoever connects
/// has to be this user or root.
pub(super) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    UnixListener::bind(path)
}

fn may_control(stream: &UnixStream) -> bool {
    // tokio's answer, not rustix's: to the kernel, a controller in another container (another pid namespace) has the
    // pid 0, which rustix's type cannot say, and it makes an error of the whole.
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw())
}

/// The controller has checked what it asks for, so this is for whoever looks after both.
fn not_sent(pool: &PoolName, outcome: Result<(), Unfit>) {
    if let Err(why) = outcome {
        tracing::warn!(%pool, %why, "the door cannot send itself what it was told to");
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), notice: &Notice) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(notice)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    // What is encrypted is kept back until then.
    to.flush().await
}

/// Orders, a line each.
struct Lines<R> {
    from: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(from: R) -> Self {
        Self { from: BufReader::new(from), line: Vec::new() }
    }

    /// The next order; `Err` when it is none, which ends the conversation.
    async fn next(&mut self) -> Option<Result<Order, ()>> {
        self.line.clear();
        let most = LONGEST_LINE as u64;
        let read = (&mut self.from).take(most).read_until(b'\n', &mut self.line).await;
        if read.ok()? == 0 {
            return None;
        }
        Some(serde_json::from_slice(&self.line).map_err(|error| {
            tracing::warn!(%error, "the controller said something that this door does not understand");
        }))
    }
}
