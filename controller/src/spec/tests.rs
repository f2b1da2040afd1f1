//! What people are told about each kind of mistake, and what a good spec means.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use insta::assert_snapshot;
use proptest::prelude::*;
use server::config::{
    App, Clients, DoorPool, Model, Protocol, Queue, Redeliver, RedeliverMethods, Timeouts, Tunnel, TurnUnit,
};

use super::*;

/// The messages for a spec that must be wrong.
fn mistakes(text: &str) -> String {
    parse("bulkhead.yaml", text).expect_err("this was taken for a good spec").to_string()
}

/// The one pool of a spec that must be good.
fn pool(text: &str) -> Pool {
    parse("bulkhead.yaml", text).unwrap().pools.remove(0)
}

/// What `arguments` mean for the built-in spec.
fn overridden(arguments: &[&str]) -> Result<Deployment, SpecError> {
    overriding(BUILT_IN, arguments)
}

pub(super) fn overriding(text: &str, arguments: &[&str]) -> Result<Deployment, SpecError> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        overrides: Overrides,
    }
    let line = Line::try_parse_from(["bulkhead"].iter().chain(arguments)).unwrap();
    understand("bulkhead.yaml", text, &line.overrides)
}

#[test]
fn a_pool_without_settings_has_the_defaults() {
    let bare = parse("bulkhead.yaml", "pools: { web: {} }").unwrap();
    let built_in = parse(BUILT_IN_NAME, BUILT_IN).unwrap();
    let mut web = built_in.pools[0].clone();
    assert_eq!(web.door.listen.to_string(), "127.0.0.1:8080");
    web.door.listen = "0.0.0.0:8080".parse().unwrap();
    assert_eq!(bare.pools, [web]);
    assert_eq!((bare.backend, bare.api), (built_in.backend, built_in.api));
}

#[test]
fn a_tcp_pool_has_defaults_of_its_own() {
    let echo = pool("pools: { echo: { protocol: tcp } }");
    assert_eq!((echo.door.protocol, echo.door.turn), (Protocol::Tcp, TurnUnit::Connection));
    assert_eq!(echo.worker.app, App::Echo);
    assert_eq!(echo.door.timeouts.request, None);
}

#[test]
fn the_built_in_spec_is_the_two_pools_that_the_readme_shows() {
    let deployment = parse(BUILT_IN_NAME, BUILT_IN).unwrap();
    let pools: Vec<_> = deployment
        .pools
        .iter()
        .map(|pool| {
            let (door, worker) = (&pool.door, &pool.worker);
            format!(
                "{} {}://{} {} {}x{} {}",
                door.name, door.protocol, door.listen, door.turn, pool.workers, worker.app, worker.model
            )
        })
        .collect();
    assert_eq!(
        pools,
        [
            "web http://127.0.0.1:8080 request 4xdemo prefork",
            "echo tcp://127.0.0.1:12345 connection 4xecho prefork"
        ]
    );
}

#[test]
fn models_and_lifted_limits_have_their_spellings() {
    let threads =
        "pools: { web: { worker: { model: { threads: 8 }, limits: { memory: none, pids: none } } } }";
    assert_eq!(pool(threads).worker.model, Model::Threads(8));
    assert_eq!(pool(threads).worker.limits.memory_bytes, None);
    assert_eq!(pool("pools: { web: { worker: { model: event:16 } } }").worker.model, Model::Event(16));
    let slow = pool("pools: { web: { timeouts: { request: off }, recycle: { requests: 500 } } }");
    assert_eq!(slow.door.timeouts.request, None);
    assert_eq!(slow.recycle.requests, NonZeroU32::new(500));
}

#[test]
fn an_unknown_key_names_the_nearest() {
    assert_snapshot!(mistakes("pools:\n  web:\n    worker:\n      limits:\n        memroy: 64MiB\n"), @r#"
    bulkhead.yaml:5:9: pools.web.worker.limits.memroy: there is no key "memroy" here
        did you mean memory? The keys here are memory, cpus, pids, open_files
    "#);
    assert_snapshot!(mistakes("pools:\n  web:\n    colour: blue\n"), @r#"
    bulkhead.yaml:3:5: pools.web.colour: there is no key "colour" here
        the keys here are listen, protocol, turn, size, worker, timeouts, queue, clients, redeliver, recycle, restart
    "#);
}

#[test]
fn wrong_values_are_all_named_at_once_with_a_right_example() {
    assert_snapshot!(mistakes(r"
backend: podman
api: { listen: localhost:9090 }
pools:
  web:
    listen: 8080
    protocol: htp
    size: { workers: four }
    worker:
      app: php
      model: { thread: 8 }
      limits: { memory: 64 parsecs, cpus: half, pids: -1 }
      network: a network
    timeouts: { head: 10, request: never }
    queue: { depth: }
    redeliver: { methods: GET }
"), @r#"
    bulkhead.yaml:2:10: backend: "podman" is not a backend
        write auto, process, docker or kubernetes
    bulkhead.yaml:3:16: api.listen: "localhost:9090" is not an address
        write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up; port 0 takes a free one)
    bulkhead.yaml:6:13: pools.web.listen: "8080" is not an address
        write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up; port 0 takes a free one)
    bulkhead.yaml:7:15: pools.web.protocol: "htp" is not a protocol
        write http or tcp
    bulkhead.yaml:8:22: pools.web.size.workers: "four" is not a whole number
        write digits, such as 4
    bulkhead.yaml:10:12: pools.web.worker.app: "php" is not an app
        write demo or echo
    bulkhead.yaml:11:14: pools.web.worker.model: "thread:8" is not a model
        write prefork, { threads: 8 } or { event: 8 }, with a number from 1 to 1024
    bulkhead.yaml:12:25: pools.web.worker.limits.memory: "64 parsecs" is not a memory limit
        write a size such as 64MiB, or none
    bulkhead.yaml:12:43: pools.web.worker.limits.cpus: "half" is not a number of processors
        write a number such as 0.5, or none
    bulkhead.yaml:12:55: pools.web.worker.limits.pids: "-1" is not a limit
        write a whole number such as 64, or none
    bulkhead.yaml:13:16: pools.web.worker.network: "a network" is not a network
        write none, or the name of one of the engine's networks, such as backend-net
    bulkhead.yaml:14:23: pools.web.timeouts.head: "10" is not a time
        write a number and us, ms, s, m or h, such as 30s, 100ms or 2m (720h at most)
    bulkhead.yaml:14:36: pools.web.timeouts.request: "never" is not a time
        write a number and us, ms, s, m or h, such as 30s, or off
    bulkhead.yaml:15:19: pools.web.queue.depth: there is no value
        write digits, such as 4
    bulkhead.yaml:16:27: pools.web.redeliver.methods: "GET" is not a choice of methods
        write none, idempotent or all
    "#);
}

#[test]
fn only_containers_are_put_into_a_control_group() {
    assert_snapshot!(mistakes(r"
backend: process
pools:
  web: { worker: { cgroup: { parent: /, cpu_shares: 4096 } } }
"), @"
    bulkhead.yaml:4:38: pools.web.worker.cgroup.parent: plain processes stay in the control group that they are started in, and this file says backend: process
        remove cgroup, or write backend: docker
    ");
    assert_snapshot!(mistakes(r"
pools:
  web: { worker: { cgroup: { parent: 'a b', cpu_shares: 1 } } }
"), @r#"
    bulkhead.yaml:3:38: pools.web.worker.cgroup.parent: "a b" is not a control group
        write a path such as / or /bulkhead, or a slice such as bulkhead.slice where the engine leaves them to systemd
    bulkhead.yaml:3:57: pools.web.worker.cgroup.cpu_shares: 1 is too little
        use 2 to 262144: 1024 is what a plain process weighs
    "#);
    let cgroup = |backend: &str| {
        let text =
            format!("{backend}pools: {{ web: {{ worker: {{ cgroup: {{ parent: bulkhead.slice }} }} }} }}");
        parse("bulkhead.yaml", &text).unwrap().pools[0].worker.cgroup.clone()
    };
    let chosen = Cgroup { parent: Some("bulkhead.slice".to_owned()), cpu_shares: None };
    assert_eq!(cgroup("backend: docker\n"), chosen);
    // What backend there will be is not known yet.
    assert_eq!(cgroup(""), chosen);
}

#[test]
fn values_out_of_bounds_say_why_there_are_bounds() {
    assert_snapshot!(mistakes(r"
pools:
  web:
    size: { workers: 1001 }
    worker:
      model: threads:100
      limits: { memory: 1MiB, cpus: 0, open_files: 10 }
    timeouts: { start: 0s }
    queue: { depth: 0 }
    clients: { connections: 0, head: 1MiB, buffered_body: 9MiB }
    redeliver: { attempts: 0 }
    recycle: { jitter: 1.5 }
    restart: { backoff: 1m }
"), @"
    bulkhead.yaml:4:22: pools.web.size.workers: 1001 is too much
        use 0 to 1000: 0 scales the pool to nothing, and no machine that runs more than a thousand is known to us
    bulkhead.yaml:7:25: pools.web.worker.limits.memory: 1MiB is too little
        use 6MiB to 1048576GiB: below that, engines start nothing
    bulkhead.yaml:7:37: pools.web.worker.limits.cpus: 0 is too little
        use 0.01 to 1024: 1 is one whole processor; none lifts the limit
    bulkhead.yaml:3:3: pools.web.worker.limits.pids: 64 is too little
        use 103 to 4000000: a worker of this model needs that many threads, and three for its init, its main thread and signals
    bulkhead.yaml:7:52: pools.web.worker.limits.open_files: 10 is too little
        use 132 to 1000000: a worker needs one for each turn of its model, and 32 for itself
    bulkhead.yaml:8:24: pools.web.timeouts.start: 0s is too little
        use 1ms to 720h: a worker needs time to start
    bulkhead.yaml:9:21: pools.web.queue.depth: 0 is too little
        use 1 to 1000000: every request passes through the queue, if only for a moment
    bulkhead.yaml:10:29: pools.web.clients.connections: 0 is too little
        use 1 to 1000000: each costs the door a descriptor and some memory
    bulkhead.yaml:10:38: pools.web.clients.head: 1MiB is too much
        use 512 to 64KiB: less refuses honest clients, and more does not fit into a socket's buffer, where requests wait
    bulkhead.yaml:10:59: pools.web.clients.buffered_body: 9MiB is too much
        use 0 to 8MiB: it waits in the kernel's memory, as much for each client
    bulkhead.yaml:11:28: pools.web.redeliver.attempts: 0 is too little
        use 1 to 100: the first delivery counts as one, so that 1 means: never again
    bulkhead.yaml:12:24: pools.web.recycle.jitter: 1.5 is too much
        use 0 to 1: it is a share of requests, so that 0.1 means up to a tenth more or less
    bulkhead.yaml:13:25: pools.web.restart.backoff: the longest wait, 30s, is shorter than the first, 1m
        write longest: 1m or more
    ");
}

#[test]
fn settings_that_contradict_each_other_are_mistakes() {
    assert_snapshot!(mistakes(r"
pools:
  raw: { protocol: tcp, turn: request, listen: 127.0.0.1:1 }
  demo: { protocol: tcp, worker: { app: demo }, listen: 127.0.0.1:2 }
  echo: { worker: { app: echo }, listen: 127.0.0.1:3 }
  slow: { restart: { backoff: 10s, longest: 1s }, listen: 127.0.0.1:4 }
"), @"
    bulkhead.yaml:3:31: pools.raw.turn: this pool speaks tcp, where nothing says where a request ends
        write turn: connection, or protocol: http
    bulkhead.yaml:4:41: pools.demo.worker.app: demo speaks http, and this pool speaks tcp
        write protocol: http, or another app
    bulkhead.yaml:5:26: pools.echo.worker.app: echo speaks tcp, and this pool speaks http
        write protocol: tcp, or another app
    bulkhead.yaml:6:45: pools.slow.restart.longest: the longest wait, 1s, is shorter than the first, 10s
        write longest: 10s or more
    ");
    assert_snapshot!(mistakes(r"
backend: process
pools:
  web: { worker: { limits: { cpus: 0.5 }, network: backend-net } }
"), @"
    bulkhead.yaml:4:36: pools.web.worker.limits.cpus: plain processes cannot be held to a share of a processor, and this file says backend: process
        remove cpus, or write backend: auto or backend: docker
    bulkhead.yaml:4:52: pools.web.worker.network: plain processes join no network of an engine, and this file says backend: process
        remove network, or write backend: docker
    ");
}

#[test]
fn one_file_serves_every_backend() {
    let text = "pools: { web: { worker: { limits: { cpus: 0.5 }, network: backend-net } } }";
    let auto = pool(text);
    assert_eq!(auto.worker.limits.cpus, Some(0.5));
    let process = overriding(text, &["--backend", "process"]).unwrap().pools.remove(0);
    assert_eq!((process.worker.limits.cpus, process.worker.network), (None, Network::None));
}

#[test]
fn two_listeners_of_one_address_are_a_mistake() {
    assert_snapshot!(mistakes(r"
api: { listen: '[::1]:9090' }
pools:
  a: { listen: 127.0.0.1:8080 }
  b: { listen: 127.0.0.1:8080 }
  c: {}
  d: { listen: '[::]:9090' }
"), @"
    bulkhead.yaml:5:16: pools.b.listen: 127.0.0.1:8080 is where pool a listens already
        give one of them another port
    bulkhead.yaml:6:3: pools.c.listen: 0.0.0.0:8080 overlaps 127.0.0.1:8080, where pool a listens already
        give one of them another port
    bulkhead.yaml:7:16: pools.d.listen: [::]:9090 overlaps [::1]:9090, where the API (api.listen) listens already
        give one of them another port
    ");
    let free = "pools: { a: { listen: 127.0.0.1:0 }, b: { listen: 127.0.0.1:0 }, c: { listen: 127.0.0.2:80 }, d: { listen: 127.0.0.1:80 } }";
    assert_eq!(parse("bulkhead.yaml", free).unwrap().pools.len(), 4);
}

#[test]
fn names_of_pools_are_checked() {
    assert_snapshot!(mistakes("pools:\n  web: {}\n  web: {}\n"), @r#"
    bulkhead.yaml:3:3: pools.web: "web" is here twice
        remove one of the two, or give it another name
    "#);
    assert_snapshot!(mistakes("pools:\n  Web_1: {}\n"), @r#"
    bulkhead.yaml:2:3: pools.Web_1: "Web_1" is not a pool name
        use 1 to 32 of a-z, 0-9 and '-', a letter first, no '-' last
    "#);
    assert_snapshot!(mistakes(""), @"
    bulkhead.yaml: pools: there is no pool
        add one: pools: { web: {} }
    ");
}

#[test]
fn what_is_no_spec_at_all_is_explained() {
    assert_snapshot!(mistakes("pools:\n\tweb: {}\n"), @"
    bulkhead.yaml:2:2: this is not YAML that can be read: tabs disallowed within this context (block indentation)
        mind indentation (spaces, no tabs), colons and quotes around this place
    ");
    assert_snapshot!(mistakes("pools:\n  web:\n    worker:\n    size: {}\n"), @"
    bulkhead.yaml:3:11: pools.web.worker: keys with values are needed here
        write them indented below this key; write {} for the defaults, or leave the key out
    ");
    assert_snapshot!(mistakes("pools:\n  web:\n    timeouts:\n      head: [10s]\n"), @"
    bulkhead.yaml:4:13: pools.web.timeouts.head: one plain value is needed here, not a list and not keys of its own
        write the value on the line of its key; `bulkhead schema` tells which ones there are
    ");
    assert_snapshot!(mistakes("pools: { web: {} }\n---\npools: {}\n"), @"
    bulkhead.yaml:3:1: a second document begins here
        keep one document: remove the --- line and what follows it
    ");
    assert_snapshot!(mistakes("pools: { web: { worker: { model: [prefork] } } }"), @"
    bulkhead.yaml:1:27: pools.web.worker.model: one plain value is needed here, not a list and not keys of its own
        write the value on the line of its key; `bulkhead schema` tells which ones there are
    ");
}

#[test]
fn a_document_made_to_be_huge_is_refused() {
    let pools: String = (0..50_000).map(|n| format!("  p{n}: {{}}\n")).collect();
    let told = mistakes(&format!("pools:\n{pools}"));
    assert!(told.contains("larger or nested deeper than any spec has to be"), "{told}");
    assert_snapshot!(mistakes(&format!("pools: {}", "[".repeat(1000))), @"
    bulkhead.yaml:1:8: keys with values are needed here
        write them indented below this key; write {} for the defaults, or leave the key out
    ");
}

#[test]
fn the_command_line_wins() {
    let deployment = overridden(&[
        "--backend=docker",
        "--workers=8",
        "--workers=echo=2",
        "--listen=web=127.0.0.1:0",
        "--api=127.0.0.1:1234",
    ])
    .unwrap();
    assert_eq!(deployment.backend, BackendChoice::Docker);
    assert_eq!(deployment.api.listen.to_string(), "127.0.0.1:1234");
    assert_eq!(deployment.pools.iter().map(|pool| pool.workers).collect::<Vec<_>>(), [8, 2]);
    assert_eq!(deployment.pools[0].door.listen.to_string(), "127.0.0.1:0");
}

#[test]
fn mistakes_of_the_command_line_are_named_by_its_words() {
    let wrong = ["--workers=wbe=8", "--workers=echo=2000", "--listen=127.0.0.1:0", "--api=127.0.0.1:12345"];
    assert_snapshot!(overridden(&wrong).unwrap_err(), @"
    --workers wbe=8: there is no pool wbe in bulkhead.yaml
        did you mean web? The pools are web, echo
    --listen 127.0.0.1:0: it does not say which pool is to listen there
        write --listen POOL=127.0.0.1:0; the pools are web, echo
    --workers echo=2000: pools.echo.size.workers: 2000 is too much
        use 0 to 1000: 0 scales the pool to nothing, and no machine that runs more than a thousand is known to us
    bulkhead.yaml:61:13: pools.echo.listen: 127.0.0.1:12345 is where the API (api.listen) listens already
        give one of them another port
    ");
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let missing = Path::new("/nonexistent/bulkhead.yaml");
    assert_snapshot!(load(Some(missing), &Overrides::default()).unwrap_err(), @"
    cannot read the spec file /nonexistent/bulkhead.yaml
    ");
}

#[test]
fn the_hash_changes_with_what_shapes_a_worker_and_with_nothing_else() {
    let before = pool("pools: { web: {} }");
    assert_eq!(before.spec_hash(), pool("pools: { web: {} }").spec_hash());
    assert_eq!(
        before.spec_hash(),
        pool("pools: { web: { size: { workers: 9 }, recycle: { requests: 7 } } }").spec_hash()
    );
    assert_eq!(before.spec_hash().len(), 12);
    for different in
        ["worker: { model: threads:2 }", "worker: { limits: { memory: 65MiB } }", "turn: connection"]
    {
        assert_ne!(before.spec_hash(), pool(&format!("pools: {{ web: {{ {different} }} }}")).spec_hash());
    }
}

fn any_pool() -> impl Strategy<Value = Pool> {
    let time = || (1..=86_400_000_u64).prop_map(Duration::from_millis);
    let door = (
        (any::<[u8; 4]>(), any::<bool>(), any::<bool>(), proptest::option::of(time())),
        (time(), time(), time(), time(), time()),
        (1..=1_000_000_usize, 1..=1_000_000_usize, 512..=65_536_usize, 0..=8_388_608_usize, 0..=1_u64 << 50),
        (
            1..=100_u32,
            prop_oneof![
                Just(RedeliverMethods::None),
                Just(RedeliverMethods::Idempotent),
                Just(RedeliverMethods::All)
            ],
        ),
    );
    let model = prop_oneof![
        Just(Model::Prefork),
        (1..=1024_u16).prop_map(Model::Threads),
        (1..=1024_u16).prop_map(Model::Event)
    ];
    let network = prop_oneof![
        Just(Network::None),
        "[a-z0-9][a-z0-9_.-]{0,20}"
            .prop_filter_map("none is no name", |name| { (name != "none").then_some(Network::Named(name)) })
    ];
    let limits = (
        proptest::option::of(6_u64 << 20..=1 << 50),
        proptest::option::of(0.01..=1024.0),
        proptest::option::of(2000..=4_000_000_u32),
        proptest::option::of(2000..=1_000_000_u32),
    );
    let cgroup =
        ("(/[a-z]{0,9}){0,3}", proptest::option::of(2..=262_144_u32)).prop_map(|(parent, cpu_shares)| {
            Cgroup { parent: Some(parent).filter(|path| !path.is_empty()), cpu_shares }
        });
    let rest = (0..=1000_u32, any::<u32>(), 0.0..=1.0, any::<u32>(), time(), time(), time(), time());
    ("[a-z]([a-z0-9-]{0,30}[a-z0-9])?", door, model, (network, cgroup), limits, rest).prop_map(
        |(name, (place, times, counts, redeliver), model, (network, cgroup), limits, rest)| {
            let (ip, http, by_request, request) = place;
            let protocol = if http { Protocol::Http } else { Protocol::Tcp };
            Pool {
                door: DoorPool {
                    name: name.parse().unwrap(),
                    listen: (ip, 0).into(),
                    protocol,
                    turn: if http && by_request { TurnUnit::Request } else { TurnUnit::Connection },
                    credit: model.credit(),
                    timeouts: Timeouts {
                        start: times.0,
                        head: times.1,
                        request,
                        keep_alive: times.2,
                        drain: times.3,
                    },
                    queue: Queue { depth: counts.0, wait: times.4 },
                    clients: Clients {
                        connections: counts.1,
                        head_bytes: counts.2,
                        buffered_body_bytes: counts.3,
                        body_bytes: counts.4,
                    },
                    redeliver: Redeliver { attempts: redeliver.0, methods: redeliver.1 },
                },
                workers: rest.0,
                worker: Worker {
                    app: if http { App::Demo } else { App::Echo },
                    model,
                    limits: Limits {
                        memory_bytes: limits.0,
                        cpus: limits.1,
                        pids: limits.2.and_then(NonZeroU32::new),
                        open_files: limits.3.and_then(NonZeroU32::new),
                    },
                    network,
                    cgroup,
                },
                recycle: Recycle { requests: NonZeroU32::new(rest.1), jitter: rest.2 },
                restart: Restart {
                    backoff: rest.4.min(rest.5),
                    longest: rest.4.max(rest.5),
                    healthy_after: rest.6,
                    deaths: rest.3,
                    within: rest.7,
                },
            }
        },
    )
}

fn any_tunnel() -> impl Strategy<Value = Tunnel> {
    (any::<[u8; 4]>(), any::<bool>(), 10..=60_000_u64, 3..10_u32, 16_384..=16_777_216_u32).prop_map(
        |(ip, tls, heartbeat, times, window_bytes)| {
            let heartbeat = Duration::from_millis(heartbeat);
            // A port of its own, which no pool has here.
            Tunnel { listen: (ip, 0).into(), tls, heartbeat, lost_after: heartbeat * times, window_bytes }
        },
    )
}

fn any_api() -> impl Strategy<Value = Api> {
    let file = || proptest::option::of("/[a-z ]{1,20}").prop_map(|path| path.map(PathBuf::from));
    let token = (file(), file()).prop_map(|(operator, viewer)| ApiAccess::Token { operator, viewer });
    let access = prop_oneof![Just(ApiAccess::Open), token];
    let name = proptest::option::of("[a-z]{1,8}(\\.[a-z0-9]{1,8}){0,2}");
    (any::<u16>(), any::<bool>(), access, name).prop_map(|(port, loopback, access, host_name)| {
        let listen = (if loopback { [127, 0, 0, 1] } else { [0, 0, 0, 0] }, port).into();
        Api { listen, access, host_name }
    })
}

#[test]
fn who_may_ask_the_api_follows_from_where_it_listens() -> Result<(), SpecError> {
    let access = |api: &str| {
        parse("bulkhead.yaml", &format!("api: {{ {api} }}\npools: {{ web: {{}} }}")).map(|it| it.api.access)
    };
    let made_up = ApiAccess::Token { operator: None, viewer: None };
    assert_eq!(access("listen: 127.0.0.1:9090")?, ApiAccess::Open);
    assert_eq!(access("listen: '[::1]:9090'")?, ApiAccess::Open);
    assert_eq!(access("listen: 0.0.0.0:9090")?, made_up);
    assert_eq!(access("listen: 10.1.2.3:9090")?, made_up);
    assert_eq!(access("listen: 0.0.0.0:9090, access: open")?, ApiAccess::Open);
    assert_eq!(access("access: token")?, made_up);
    assert_eq!(access("host_name: bulkhead.example.com")?, made_up, "a proxy on loopback serves strangers");
    assert_eq!(access("host_name: bulkhead.example.com, access: open")?, ApiAccess::Open);
    let viewers = ApiAccess::Token { operator: None, viewer: Some("look".into()) };
    assert_eq!(access("viewer_token_file: look")?, viewers, "a file that is named is not ignored");
    Ok(())
}

#[test]
fn an_open_api_with_tokens_is_a_mistake() {
    let spec = "api:\n  access: open\n  token_file: /run/token\n  host_name: a..b\npools: { web: {} }";
    insta::assert_snapshot!(mistakes(spec), @r#"
    bulkhead.yaml:4:14: api.host_name: "a..b" is not a host name
        write a name without a port, such as controller or bulkhead.example.com
    bulkhead.yaml:3:15: api.token_file: nobody is asked for a token with access: open
        remove it, or write access: token
    "#);
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(
        pools in proptest::collection::vec(any_pool(), 1..4),
        api in any_api(),
        backend in prop_oneof![
            Just(BackendChoice::Auto),
            Just(BackendChoice::Docker),
            Just(BackendChoice::Kubernetes)
        ],
        tunnel in any_tunnel(),
        asked: bool,
    ) {
        let kubernetes = backend == BackendChoice::Kubernetes;
        let tunnel = (asked || kubernetes).then_some(tunnel);
        let mut deployment = Deployment { backend, tunnel, api, pools };
        for pool in &mut deployment.pools {
            let network = &mut pool.worker.network;
            match backend {
                BackendChoice::Kubernetes => {
                    *network = Network::None;
                    pool.worker.cgroup = Cgroup::default();
                }
                BackendChoice::Docker if tunnel.is_some() && *network == Network::None => {
                    *network = Network::Named("bridge".to_owned());
                }
                _ => {}
            }
        }
        let mut names = HashSet::new();
        deployment.pools.retain(|pool| names.insert(pool.name().clone()));
        let text = deployment.to_yaml();
        prop_assert_eq!(parse("bulkhead.yaml", &text).map_err(|error| error.to_string()), Ok(deployment), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".*") {
        let _ = parse("bulkhead.yaml", &text);
    }

    #[test]
    fn no_almost_good_text_makes_it_panic(cut in 0..BUILT_IN.len(), junk in "[ -~\n\t]{0,8}", skip in 0..12_usize) {
        let head: String = BUILT_IN.chars().take(cut).collect();
        let tail: String = BUILT_IN.chars().skip(cut + skip).collect();
        let _ = parse("bulkhead.yaml", &format!("{head}{junk}{tail}"));
    }
}
