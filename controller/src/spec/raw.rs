//! The spec as it is written: every key there is, what it means, and what holds when it is left out.
//!
//! `bulkhead schema` is made from these types, their comments included; so is the YAML that
//! [`Deployment::to_yaml`](super::Deployment::to_yaml) writes. Nothing here knows which values go together:
//! that is [`check`](super::check)'s.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_yaml::Spanned;
use server::config::{App, Model, Protocol, RedeliverMethods, TurnUnit};

use super::mistake::Place;
use super::setting::{Block, Setting, block, given};
use super::tunnel::Tunnel;
use super::units::{CgroupName, Deadline, FilePath, Fraction, HostName, Limit, Size, Time};
use super::{AccessChoice, BackendChoice, LinkChoice, Network};

/// A Bulkhead deployment: the backend, the API and the pools.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "bulkhead.yaml")]
pub(super) struct Spec {
    /// Where workers run. auto: docker if an engine answers, else process; kubernetes: pods, each on any node.
    pub(super) backend: Setting<BackendChoice>,
    /// How workers reach the door. fd: by a socket in a directory that they share, over which it hands them the
    /// client's own connection; tunnel: over TCP. Left out: tunnel with backend: kubernetes, else fd.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<LinkChoice>")]
    pub(super) link: Option<Setting<LinkChoice>>,
    /// How workers reach the door over TCP; for link: tunnel alone.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "block")]
    #[schemars(with = "Tunnel")]
    pub(super) tunnel: Option<Block<Tunnel>>,
    /// The controller's API.
    pub(super) api: Api,
    /// The pools, by name: 1 to 32 of a-z, 0-9 and '-'.
    #[schemars(required)]
    pub(super) pools: Named<Pool>,
}

/// The controller's API.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Api {
    /// Where it listens. Who may act there can kill workers: keep it on loopback where you can.
    pub(super) listen: Setting<SocketAddr>,
    /// Who may ask. auto: on loopback everybody, unless there is a token file or a host_name, and elsewhere whoever
    /// has a token; token: whoever has one, everywhere; open: whoever reaches the address, wherever that is.
    pub(super) access: Setting<AccessChoice>,
    /// The file with the token of those who may do everything. Left out where one is needed: one is made up, kept in
    /// the run directory and told once, to a terminal.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<FilePath>")]
    pub(super) token_file: Option<Setting<FilePath>>,
    /// The file with the token of those who may look. Left out: there are none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<FilePath>")]
    pub(super) viewer_token_file: Option<Setting<FilePath>>,
    /// A host name under which it may be asked, besides IP addresses and localhost. Only one that nobody else can
    /// make resolve to this address: web pages of that name can ask it, too.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<HostName>")]
    pub(super) host_name: Option<Setting<HostName>>,
}

/// A named set of interchangeable workers behind one listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pool {
    /// Where clients come in.
    pub(super) listen: Setting<SocketAddr>,
    /// What clients speak.
    pub(super) protocol: Setting<Protocol>,
    /// What a worker is given at a time: one request, or a whole connection. Left out: request for http,
    /// connection for tcp.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<TurnUnit>")]
    pub(super) turn: Option<Setting<TurnUnit>>,
    /// How large the pool is.
    pub(super) size: PoolSize,
    /// What each worker is.
    pub(super) worker: Worker,
    /// How long things may take.
    pub(super) timeouts: Timeouts,
    /// Where requests wait for a worker.
    pub(super) queue: Queue,
    /// What a client may ask of the door.
    pub(super) clients: Clients,
    /// What becomes of a request whose worker died before it had answered.
    pub(super) redeliver: Redeliver,
    /// When workers are replaced of their own accord.
    pub(super) recycle: Recycle,
    /// How fast dead workers are replaced.
    pub(super) restart: Restart,
}

/// How large a pool is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PoolSize {
    /// How many workers: 0 to 1000.
    pub(super) workers: Setting<u32>,
}

/// What each worker of a pool is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Worker {
    /// What it runs. Left out: demo for http, echo for tcp.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<App>")]
    pub(super) app: Option<Setting<App>>,
    /// How it serves. prefork: one turn at a time; threads: so many, a thread each; event: so many on one
    /// event loop.
    pub(super) model: Setting<Model>,
    /// What its compartment may use before the kernel says no.
    pub(super) limits: Limits,
    /// What its container may reach: none, or a network of the engine by its name. Left out: none with link: fd, where
    /// it needs none; bridge with link: tunnel, which has to reach the door.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<Network>")]
    pub(super) network: Option<Setting<Network>>,
    /// Where the engine puts its container among everything else that wants a processor. Docker only.
    #[serde(skip_serializing_if = "Cgroup::is_left_to_the_engine")]
    pub(super) cgroup: Cgroup,
}

/// Where a container is in the engine's tree of control groups, and what it weighs there.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cgroup {
    /// The group that the container's own is made in. Left out: the engine's, /docker or system.slice, which counts as
    /// one beside every other process of the machine.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<CgroupName>")]
    pub(super) parent: Option<Setting<CgroupName>>,
    /// Its weight beside the others in there, on the scale of cgroup version 1: 2 to 262144. Left out: as the engine has
    /// it, which is 1024 there, and what a plain process weighs.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<u32>")]
    pub(super) cpu_shares: Option<Setting<u32>>,
}

impl Cgroup {
    fn is_left_to_the_engine(&self) -> bool {
        self.parent.is_none() && self.cpu_shares.is_none()
    }
}

/// What a compartment may use before the kernel says no.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    /// Memory, with no swap beyond it.
    pub(super) memory: Setting<Limit<Size>>,
    /// Processors, as a fraction. Containers only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<Limit<Fraction>>")]
    pub(super) cpus: Option<Setting<Limit<Fraction>>>,
    /// Processes and threads.
    pub(super) pids: Setting<Limit<u32>>,
    /// Open descriptors.
    pub(super) open_files: Setting<Limit<u32>>,
}

/// How long things may take before somebody gives up on them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    /// From spawning a worker until it is ready.
    pub(super) start: Setting<Time>,
    /// For a client to send its whole head (and small body); also the longest that a client may stall a worker.
    pub(super) head: Setting<Time>,
    /// From the first delivery of a request until it is answered, redeliveries included; the worker that
    /// overruns it is killed. Left out: 30s for turn: request, off for turn: connection.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Setting<Deadline>")]
    pub(super) request: Option<Setting<Deadline>>,
    /// How long an idle connection may stay parked.
    pub(super) keep_alive: Setting<Time>,
    /// From the order to drain until what is left is cut off.
    pub(super) drain: Setting<Time>,
}

/// The bounded queue in front of a pool.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Queue {
    /// How many requests may wait; one more is answered 503.
    pub(super) depth: Setting<u32>,
    /// How long a request may wait before it is answered 503.
    pub(super) wait: Setting<Time>,
}

/// What a client may ask of the door.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Clients {
    /// Open connections, idle ones included; one more is answered 503.
    pub(super) connections: Setting<u32>,
    /// Size of request line and headers, 512 bytes to 64KiB; more is answered 431, or 414.
    pub(super) head: Setting<Size>,
    /// Size of body, at most 8MiB, up to which the door waits for all of it, so that a slow upload holds no
    /// worker and the request can be redelivered.
    pub(super) buffered_body: Setting<Size>,
    /// Size of body above which a request is answered 413.
    pub(super) body: Setting<Size>,
}

/// What becomes of a request whose worker died before it had answered.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Redeliver {
    /// Deliveries in all, the first one included.
    pub(super) attempts: Setting<u32>,
    /// Which requests may run twice. Of a worker that is lost, whose link has vanished and who may be alive, no request is
    /// given to another but for an idempotent method, whatever is said here.
    pub(super) methods: Setting<RedeliverMethods>,
}

/// When workers are replaced of their own accord.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Recycle {
    /// After so many requests; 0: never.
    pub(super) requests: Setting<u32>,
    /// The share, 0 to 1, by which that number varies from worker to worker, so that they do not all go at once.
    pub(super) jitter: Setting<Fraction>,
}

/// How fast dead workers are replaced. The first replacement in a place does not wait.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restart {
    /// The first wait; each further one is twice as long.
    pub(super) backoff: Setting<Time>,
    /// The longest wait.
    pub(super) longest: Setting<Time>,
    /// A worker that lived so long was healthy: its place starts over without a wait.
    pub(super) healthy_after: Setting<Time>,
    /// More deaths than this within the time below, and the pool is degraded; each of its workers may die once all the same.
    pub(super) deaths: Setting<u32>,
    /// The time within which deaths are counted.
    pub(super) within: Setting<Time>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            backend: Setting::default_of(BackendChoice::Auto),
            link: None,
            tunnel: None,
            api: Api::default(),
            pools: Named(Vec::new()),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: address(Ipv4Addr::LOCALHOST, 9090),
            access: Setting::default_of(AccessChoice::Auto),
            token_file: None,
            viewer_token_file: None,
            host_name: None,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            listen: address(Ipv4Addr::UNSPECIFIED, 8080),
            protocol: Setting::default_of(Protocol::Http),
            turn: None,
            size: PoolSize::default(),
            worker: Worker::default(),
            timeouts: Timeouts::default(),
            queue: Queue::default(),
            clients: Clients::default(),
            redeliver: Redeliver::default(),
            recycle: Recycle::default(),
            restart: Restart::default(),
        }
    }
}

impl Default for PoolSize {
    fn default() -> Self {
        Self { workers: Setting::default_of(4) }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            app: None,
            model: Setting::default_of(Model::Prefork),
            limits: Limits::default(),
            network: None,
            cgroup: Cgroup::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Setting::default_of(Limit::To(Size(64 << 20))),
            cpus: None,
            pids: Setting::default_of(Limit::To(64)),
            open_files: Setting::default_of(Limit::To(1024)),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            start: seconds(10),
            head: seconds(10),
            request: None,
            keep_alive: seconds(75),
            drain: seconds(30),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { depth: Setting::default_of(1024), wait: seconds(10) }
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            connections: Setting::default_of(10_000),
            head: Setting::default_of(Size(16 << 10)),
            buffered_body: Setting::default_of(Size(64 << 10)),
            body: Setting::default_of(Size(1 << 30)),
        }
    }
}

impl Default for Redeliver {
    fn default() -> Self {
        Self { attempts: Setting::default_of(2), methods: Setting::default_of(RedeliverMethods::Idempotent) }
    }
}

impl Default for Recycle {
    fn default() -> Self {
        Self { requests: Setting::default_of(0), jitter: Setting::default_of(Fraction(0.1)) }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            backoff: Setting::default_of(Time(Duration::from_millis(100))),
            longest: seconds(30),
            healthy_after: seconds(10),
            deaths: Setting::default_of(10),
            within: seconds(10),
        }
    }
}

fn address(ip: Ipv4Addr, port: u16) -> Setting<SocketAddr> {
    Setting::default_of((ip, port).into())
}

fn seconds(seconds: u64) -> Setting<Time> {
    Setting::default_of(Time(Duration::from_secs(seconds)))
}

/// Things by name, in the file's order, with the place of each name.
#[derive(Debug, Clone)]
pub(super) struct Named<T>(pub(super) Vec<Entry<T>>);

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    pub(super) name: String,
    pub(super) place: Option<Place>,
    pub(super) value: T,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names, each with its settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some((name, value)) = map.next_entry::<Spanned<String>, T>()? {
                    entries.push(Entry { place: Place::of(name.referenced), name: name.value, value });
                }
                Ok(Named(entries))
            }
        }

        from.deserialize_map(Entries(PhantomData))
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for Entry { name, value, .. } in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Named".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$" },
            "additionalProperties": generator.subschema_for::<T>(),
            "minProperties": 1,
        })
    }
}
