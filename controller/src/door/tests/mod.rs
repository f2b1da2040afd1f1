//! Several doors at once: pretended ones over TCP, whose words a test chooses, and real ones on Unix sockets.

mod muster;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{Stream, stream};
use server::control::{Counters, Notice, Order, PoolReport, Report, Stamp, VERSION, WorkerReport};
use server::identity::{Incarnation, Secret};
use server::link::tunnel::{Acceptor, GO_ON, Preface, Role, TlsIdentity};
use tokio::io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::certificates::{Authority, today};

const DEADLINE: Duration = Duration::from_secs(20);

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| unreachable!("waited in vain for {what}"))
}

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn life(text: &str) -> Incarnation {
    text.parse().unwrap()
}

/// A door at the other end of TCP that says what it is told to.
struct FakeDoor {
    listener: TcpListener,
    acceptor: Acceptor,
    address: SocketAddr,
    talk: Option<Talk>,
}

type Wire = server::link::tunnel::Stream;
type Talk = (BufReader<ReadHalf<Wire>>, WriteHalf<Wire>);

impl FakeDoor {
    async fn new(acceptor: Acceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, acceptor, address, talk: None }
    }

    fn site(&self, name: &str) -> Site {
        Site { name: name.to_owned(), address: Address::There(self.address.to_string()), machine: None }
    }

    /// Takes a controller in, and tells it whom this door has.
    async fn welcome(&mut self, linked: &[&str]) {
        let (mut stream, _) = in_time("a call", self.listener.accept()).await.unwrap();
        let preface = Preface::read(&mut stream).await.unwrap();
        assert_eq!(preface.proven(&secret()), Some(Role::Controller));
        stream.write_all(&[GO_ON]).await.unwrap();
        let (from, to) = tokio::io::split(self.acceptor.accept(stream).await.unwrap());
        self.talk = Some((BufReader::new(from), to));
        assert!(matches!(self.order().await, Order::Hello { version: VERSION, .. }));
        self.say(&Notice::Welcome {
            version: VERSION,
            pid: 1,
            pools: BTreeMap::from([("web".parse().unwrap(), ([0, 0, 0, 0], 80).into())]),
            tunnel: Some(self.address),
            linked: linked.iter().map(|text| life(text)).collect(),
            seen: Vec::new(),
        })
        .await;
    }

    async fn say(&mut self, notice: &Notice) {
        let (_, to) = self.talk.as_mut().unwrap();
        to.write_all((serde_json::to_string(notice).unwrap() + "\n").as_bytes()).await.unwrap();
        to.flush().await.unwrap();
    }

    /// The next order that is not a question for a sign of life.
    async fn order(&mut self) -> Order {
        loop {
            let mut line = String::new();
            in_time("an order", self.talk.as_mut().unwrap().0.read_line(&mut line)).await.unwrap();
            match serde_json::from_str(&line).unwrap() {
                Order::Ping => self.say(&Notice::Pong).await,
                order => return order,
            }
        }
    }

    /// Answers the next order, which has to be for a report.
    async fn report(&mut self, turns: u64, workers: &[&str]) {
        let Order::Report { query, .. } = self.order().await else { unreachable!("it is no question") };
        self.answer(query, turns, workers).await;
    }

    /// The next order that is no question. Whoever asks for a report is told of these workers, who hold nothing.
    async fn order_but_a_report(&mut self, idle: &[&str]) -> Order {
        loop {
            match self.order().await {
                Order::Report { query, .. } => self.answer(query, 1, idle).await,
                order => return order,
            }
        }
    }

    async fn answer(&mut self, query: u64, turns: u64, workers: &[&str]) {
        let worker = |text: &&str| WorkerReport {
            worker: life(text),
            turns: 1,
            credit: 1,
            draining: false,
            idle_for: Duration::ZERO,
            holding: Vec::new(),
        };
        let pool = PoolReport {
            name: "web".parse().unwrap(),
            listen: ([0, 0, 0, 0], 80).into(),
            connections: 1,
            queued: 0,
            longest_wait: Duration::ZERO,
            counters: Counters { turns, ..Counters::default() },
            turn_time: Default::default(),
            queue_wait: Default::default(),
            workers: workers.iter().map(worker).collect(),
        };
        self.say(&Notice::Report { query, report: Report { pools: vec![pool], ..Report::default() } }).await;
    }
}

/// Sites that a test changes.
fn sites() -> (UnboundedSender<Vec<Site>>, impl Stream<Item = Vec<Site>> + Send + 'static) {
    let (change, changes) = unbounded_channel();
    (change, stream::unfold(changes, |mut changes| async move { Some((changes.recv().await?, changes)) }))
}

/// The next event that is about a door.
async fn event(events: &mut Receiver<DoorEvent>) -> DoorEvent {
    loop {
        match in_time("an event", events.recv()).await.unwrap() {
            DoorEvent::Company(_) => {}
            event => return event,
        }
    }
}

/// Of a controller that gives no door up for saying nothing: a test answers for one at a time.
fn patient(approach: Approach) -> Approach {
    approach.losing_after(Duration::from_secs(60))
}

/// Two doors that are there and have these workers, and what is told of them from there on.
async fn two(
    acceptor: impl Fn() -> Acceptor,
    approach: Approach,
) -> (Door, Receiver<DoorEvent>, FakeDoor, FakeDoor, UnboundedSender<Vec<Site>>) {
    let (change, sites) = sites();
    let (door, mut events) = Door::connect(sites, approach);
    let (mut a, mut b) = (FakeDoor::new(acceptor()).await, FakeDoor::new(acceptor()).await);
    change.send(vec![a.site("a"), b.site("b")]).unwrap();
    a.welcome(&["web-0.1"]).await;
    let up = event(&mut events).await;
    assert!(matches!(&up, DoorEvent::Up(welcome) if welcome.linked == [life("web-0.1")]), "{up:?}");
    b.welcome(&["web-1.1", "web-2.1"]).await;
    assert!(matches!(event(&mut events).await, DoorEvent::Another(welcome) if welcome.linked.len() == 2));
    (door, events, a, b, change)
}

#[tokio::test]
async fn two_doors_over_tls_are_one() {
    let authority = Authority::new(today()).unwrap();
    let identity = authority.door(today()).unwrap();
    let identity = TlsIdentity {
        certificates_pem: identity.certificate.into_bytes(),
        key_pem: identity.key.into_bytes(),
    };
    let approach = patient(Approach::new(secret(), Some(&authority.certificate)).unwrap());
    let acceptor = || Acceptor::tls(&identity).unwrap();
    let (door, mut events, mut a, mut b, change) = two(acceptor, approach).await;

    // Orders go to the door that has the worker.
    door.order(Order::Drain { worker: life("web-1.1") });
    assert_eq!(b.order().await, Order::Drain { worker: life("web-1.1") });
    door.order(Order::Drain { worker: life("web-0.1") });
    assert_eq!(a.order().await, Order::Drain { worker: life("web-0.1") });

    // New workers go where there are fewest.
    let dial = door.to_dial(&"web".parse().unwrap(), 7);
    let at = |door: &FakeDoor| Mouth::Address(door.address.to_string());
    assert_eq!(dial, [at(&a), at(&b)]);

    // Reports are one, from those that answer.
    let both = async { tokio::join!(a.report(3, &["web-0.1"]), b.report(4, &["web-1.1", "web-2.1"])) };
    let (report, _) =
        in_time("a report", async { tokio::join!(door.report(Turns::Leave, DEADLINE), both) }).await;
    let report = report.unwrap();
    assert_eq!((report.pools[0].counters.turns, report.pools[0].workers.len()), (7, 3));
    let (report, ()) = in_time("half a report", async {
        tokio::join!(door.report(Turns::Leave, Duration::from_millis(500)), a.report(5, &["web-0.1"]))
    })
    .await;
    let report = report.unwrap();
    assert_eq!((report.pools[0].counters.turns, report.pools[0].workers.len()), (9, 1));

    // One goes, and its worker comes to the other.
    a.talk = None;
    let lost = event(&mut events).await;
    assert!(matches!(&lost, DoorEvent::Lost { linked, .. } if *linked == [life("web-0.1")]), "{lost:?}");
    b.say(&Notice::Joined { worker: life("web-0.1"), at: Stamp::now() }).await;
    assert!(matches!(event(&mut events).await, DoorEvent::Notice(Notice::Joined { .. })));
    assert!(matches!(b.order().await, Order::Report { .. }), "the one that it did not answer");
    door.order(Order::Drain { worker: life("web-0.1") });
    assert_eq!(b.order().await, Order::Drain { worker: life("web-0.1") });

    // Another takes its place, and then the last one of before goes for good.
    let mut c = FakeDoor::new(acceptor()).await;
    change.send(vec![b.site("b"), c.site("c")]).unwrap();
    c.welcome(&[]).await;
    assert!(matches!(event(&mut events).await, DoorEvent::Another(_)));
    change.send(vec![c.site("c")]).unwrap();
    door.order(Order::Drain { worker: life("web-1.1") });
    assert_eq!(b.order().await, Order::Drain { worker: life("web-1.1") }, "it has its workers until it goes");
    drop(b);
    assert!(matches!(event(&mut events).await, DoorEvent::Lost { linked, .. } if linked.len() == 3));
    drop(c);
    assert!(matches!(event(&mut events).await, DoorEvent::Down { .. }));
}

#[tokio::test]
async fn one_of_several_of_which_nothing_is_heard_is_given_up() {
    let approach = Approach::plain(secret()).losing_after(Duration::from_millis(20));
    let (_door, mut events, _a, mut b, _change) = two(|| Acceptor::Plain, approach).await;
    // One of them answers, and the other does not, though its connection is open.
    let lost = tokio::select! {
        lost = event(&mut events) => lost,
        order = b.order() => unreachable!("{order:?}"),
    };
    assert!(matches!(&lost, DoorEvent::Lost { linked, .. } if *linked == [life("web-0.1")]), "{lost:?}");
}

#[tokio::test]
async fn a_worker_is_sent_to_the_door_that_has_too_few() {
    let approach = patient(Approach::plain(secret()));
    let (door, mut events, mut a, mut b, _change) = two(|| Acceptor::Plain, approach).await;
    for worker in ["web-3.1", "web-4.1"] {
        b.say(&Notice::Joined { worker: life(worker), at: Stamp::now() }).await;
        assert!(matches!(event(&mut events).await, DoorEvent::Notice(Notice::Joined { .. })));
    }
    let to = a.address.to_string();
    let worker = life("web-3.1");
    let moved = b.order_but_a_report(&["web-3.1"]).await;
    assert_eq!(moved, Order::Move { worker: worker.clone(), to: to.clone() }, "the others are at work");
    a.say(&Notice::Joined { worker: worker.clone(), at: Stamp::now() }).await;
    assert!(matches!(event(&mut events).await, DoorEvent::Notice(Notice::Joined { .. })));
    b.say(&Notice::Moved { worker: worker.clone(), to }).await;
    door.order(Order::Drain { worker: worker.clone() });
    let order = a.order_but_a_report(&[]).await;
    assert_eq!(order, Order::Drain { worker }, "its old door's word is none any more");
}

#[tokio::test]
async fn a_door_that_cannot_prove_that_it_is_one_is_not_told_the_secret() {
    let (ours, theirs) = (Authority::new(today()).unwrap(), Authority::new(today()).unwrap());
    let identity = theirs.door(today()).unwrap();
    let identity = TlsIdentity {
        certificates_pem: identity.certificate.into_bytes(),
        key_pem: identity.key.into_bytes(),
    };
    let impostor = FakeDoor::new(Acceptor::tls(&identity).unwrap()).await;
    let approach = Approach::new(secret(), Some(&ours.certificate)).unwrap();
    let (_door, mut events) = Door::connect(only(impostor.site("a")), approach);
    for _ in 0..2 {
        let (mut stream, _) = in_time("a call", impostor.listener.accept()).await.unwrap();
        Preface::read(&mut stream).await.unwrap();
        stream.write_all(&[GO_ON]).await.unwrap();
        assert!(impostor.acceptor.accept(stream).await.is_err(), "a handshake that came about");
    }
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn a_stranger_to_the_door_is_no_controller() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site {
        name: "a".to_owned(),
        address: Address::There(listener.local_addr().unwrap().to_string()),
        machine: None,
    };
    let (_door, _events) = Door::connect(only(site), Approach::plain(Secret::new([8; 32])));
    let (mut stream, _) = in_time("a call", listener.accept()).await.unwrap();
    assert_eq!(Preface::read(&mut stream).await.unwrap().proven(&secret()), None);
    // Sent away, it says nothing more, and comes again.
    stream.write_all(&[GO_ON + 1]).await.unwrap();
    let mut rest = Vec::new();
    in_time("the end", stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    in_time("another call", listener.accept()).await.unwrap();
}

#[tokio::test]
async fn two_real_doors_are_one_and_are_told_to_stop_together() {
    let temp = tempfile::tempdir().unwrap();
    let mut doors = Vec::new();
    let mut found = Vec::new();
    for name in ["a", "b"] {
        let directory = temp.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        let spec = "pools: { web: { listen: 127.0.0.1:0, size: { workers: 0 }, timeouts: { drain: 1s } } }";
        let pools = crate::spec::parse("a spec", spec).unwrap().pools;
        let config = server::door::Config {
            pools: pools.into_iter().map(|pool| pool.door).collect(),
            link_socket: directory.join("link.sock"),
            control_socket: directory.join("door.sock"),
            tunnel: None,
            linger: Duration::ZERO,
        };
        found.push(Site { name: name.to_owned(), ..Site::here(&config.control_socket) });
        doors.push(std::thread::spawn(move || server::door::run(&config)));
    }
    let (change, sites) = sites();
    let (door, mut events) = Door::connect(sites, Approach::plain(secret()));
    change.send(found).unwrap();
    assert!(matches!(event(&mut events).await, DoorEvent::Up(_)));
    assert!(matches!(event(&mut events).await, DoorEvent::Another(_)));
    let request =
        || Order::Request { pool: "web".parse().unwrap(), method: "GET".to_owned(), path: "/".to_owned() };
    door.order(request());
    door.order(request());
    let report = in_time("both requests", async {
        loop {
            let report = door.report(Turns::Leave, DEADLINE).await.unwrap();
            if report.pools[0].counters.connections == 2 {
                return report;
            }
        }
    })
    .await;
    assert_eq!((report.pools.len(), report.pools[0].connections), (1, 2), "they wait for workers");
    assert_eq!(door.to_dial(&"web".parse().unwrap(), 0), [], "neither listens over TCP");
    door.order(Order::Stop);
    let told = in_time("the end of both", async {
        let mut told = Vec::new();
        loop {
            told.push(event(&mut events).await);
            if matches!(told.last(), Some(DoorEvent::Down { .. })) {
                return told;
            }
        }
    })
    .await;
    assert!(
        matches!(
            &told[..],
            [DoorEvent::Notice(Notice::Stopping), DoorEvent::Lost { .. }, DoorEvent::Down { .. }]
                | [DoorEvent::Lost { .. }, DoorEvent::Notice(Notice::Stopping), DoorEvent::Down { .. }]
        ),
        "{told:?}"
    );
    for door in doors {
        door.join().unwrap().unwrap();
    }
}
