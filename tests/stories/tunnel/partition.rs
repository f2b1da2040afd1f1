//! A real partition: a worker in a network of its own, whose only cable is cut while it holds what it was given.
//!
//! It needs root, for a network namespace, and is left out where none can be made.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::rig::stack::{BULKHEAD, web};
use crate::rig::tunnel::token;
use crate::rig::{Backend, Missing, Stack, eventually};

/// The default of `tunnel.lost_after`, and as much as everything else may take.
const IN_TIME: Duration = Duration::from_secs(3 + 7);

/// A network with one cable, which leads to this machine. Dropping it takes it away.
struct Network {
    name: String,
    /// This machine's end, as an address.
    here: String,
}

impl Network {
    fn new() -> Result<Self, String> {
        let pid = std::process::id();
        let network = Self { name: format!("bulkhead-{pid}"), here: format!("10.213.{}.1", pid % 250) };
        let (name, cable) = (&network.name, network.cable());
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "far", "netns", name])?;
        ip(&["addr", "add", &format!("{}/24", network.here), "dev", &cable])?;
        ip(&["link", "set", &cable, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("10.213.{}.2/24", pid % 250), "dev", "far"])?;
        network.connect("up")?;
        Ok(network)
    }

    /// This machine's end of the cable, as an interface.
    fn cable(&self) -> String {
        self.name.replace("ulkhead", "h")
    }

    fn connect(&self, how: &str) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", "far", how])
    }

    /// Starts a worker in it.
    fn worker(&self, stack: &Stack, life: &str) -> Child {
        let link = format!("tcp://{}", stack.tunnel());
        let exec = ["netns", "exec", &self.name, BULKHEAD, "worker", "--life", life, "--link", &link];
        Command::new("ip")
            .args(exec)
            .args(["--app", "demo", "--protocol", "http", "--turn", "request", "--model", "threads:2"])
            .env("BULKHEAD_TOKEN", token(stack, &life.parse().unwrap()).to_string())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable would go with its network, but not at once.
        let _ = ip(&["link", "del", &self.cable()]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", arguments.join(" "), said.trim())) }
}

/// Why this story cannot be told here.
pub fn missing() -> Option<Missing> {
    Network::new().err().map(|why| Missing { why, excused: true })
}

pub fn who_is_behind_a_cut_cable_is_lost_and_not_let_in_again(backend: Backend) {
    let network = Network::new().unwrap();
    let link = format!("link: tunnel\ntunnel: {{ listen: '{}:0' }}\n", network.here);
    let stack = Stack::up_linked(backend, &link, &web(1, "worker: { model: { threads: 2 } }"));
    stack.ready("web", 1);
    let mut far = network.worker(&stack, "web-90.1");
    eventually("the worker behind the cable has joined", || match stack.said() {
        said if said.contains("ready worker=web-90.1") => Ok(()),
        said => Err(said),
    });
    assert!((200..300).contains(&stack.api().scale("web", 0).status));
    eventually("it is the only one", || match stack.api().pool("web")["counters"]["deliveries"].as_u64() {
        Some(_) if stack.api().workers().iter().all(|it| it.id != "web-0") => Ok(()),
        deliveries => Err(deliveries),
    });
    let (mut get, mut post) = (stack.connect(), stack.connect());
    get.send_get("/work?ms=6000");
    post.send_post("/work?ms=6000", "charge 10");
    eventually("it holds both", || match stack.api().pool("web") {
        pool if pool["counters"]["deliveries"] == 2 && pool["counters"]["turns"] == 0 => Ok(()),
        pool => Err(pool),
    });
    network.connect("down").unwrap();
    let since = Instant::now();
    let answer = post.response();
    assert_eq!((answer.status, &answer.json()["incident"]), (502, &"web-90.1".into()));
    assert!(since.elapsed() < IN_TIME, "after {:?}", since.elapsed());
    // The GET waits for one who can be reached.
    assert!((200..300).contains(&stack.api().scale("web", 1).status));
    assert_eq!(get.response().text(), "worked 6000 ms\n");
    let incident = stack.api().incident("web-90.1", |it| {
        it["held"].as_array().is_some_and(|held| held.iter().all(|it| it["outcome"] != "pending"))
    });
    assert_eq!(incident["cause"]["kind"], "lost", "{incident:#}");
    let outcomes = ["GET", "POST"].map(|method| {
        let held = incident["held"].as_array().unwrap().iter();
        let mut of = held.filter(|it| it["request"].as_str().unwrap().starts_with(method));
        of.next().unwrap()["outcome"].as_str().unwrap().to_owned()
    });
    assert_eq!(outcomes, ["redelivered", "answered"], "{incident:#}");
    // It has gone on all the while, and finds its way back.
    assert!(far.try_wait().unwrap().is_none(), "it has ended by itself");
    network.connect("up").unwrap();
    let ended = eventually("it has ended", || far.try_wait().unwrap().ok_or("it runs on"));
    let mut said = String::new();
    far.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(ended.code(), Some(77), "{said}");
    assert!(said.contains("the door is gone") && said.contains("knows that this worker is dead"), "{said}");
    stack.down();
}
