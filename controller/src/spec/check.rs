//! Raw to valid: which values are in bounds, and which go together.
//!
//! Every mistake is noted and the reading goes on, so that one run names them all. A function here therefore
//! reads *all* of its keys first and only then puts them together with `?`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use server::config::{self, App, DoorPool, Model, Protocol, TurnUnit};
use server::identity::PoolName;

use super::keys::Keys;
use super::mistake::{Mistake, Origin};
use super::raw;
use super::setting::Setting;
use super::tunnel;
use super::units::{Deadline, FilePath, Fraction, LARGEST_SIZE, LONGEST_TIME, Limit, Size, Time};
use super::valid::{
    AccessChoice, Api, ApiAccess, BackendChoice, Cgroup, Deployment, Limits, LinkChoice, Network, Pool,
    Recycle, Restart, Worker,
};

/// The deployment that `raw` describes, or everything that is wrong with it. `already` are the mistakes that
/// were found on the way here.
pub(super) fn check(file: &str, raw: &raw::Spec, already: Vec<Mistake>) -> Result<Deployment, Vec<Mistake>> {
    let mut mistakes = already;
    let deployment = deployment(&mut Keys::of_file(file, &mut mistakes), raw);
    match deployment {
        Some(deployment) if mistakes.is_empty() => Ok(deployment),
        _ => Err(mistakes),
    }
}

fn deployment(keys: &mut Keys<'_>, raw: &raw::Spec) -> Option<Deployment> {
    let backend = keys.value("backend", &raw.backend);
    let tunnel = tunnel::check(keys, raw);
    let api = api(&mut keys.section("api"), &raw.api);
    if raw.pools.0.is_empty() {
        keys.note("pools", &Origin::Default, "there is no pool", "add one: pools: { web: {} }");
    }
    let pools: Vec<_> = raw
        .pools
        .0
        .iter()
        .map(|entry| pool(&mut keys.section("pools").entry(&entry.name, entry.place.into()), entry, raw))
        .collect();
    addresses(keys, raw);
    let pools = pools.into_iter().collect::<Option<_>>();
    Some(Deployment { backend: backend?, tunnel: tunnel?, api: api?, pools: pools? })
}

fn api(keys: &mut Keys<'_>, raw: &raw::Api) -> Option<Api> {
    let listen = keys.value("listen", &raw.listen);
    let choice = keys.value("access", &raw.access);
    let mut file = |key, setting: &Option<Setting<FilePath>>| match setting {
        None => Some(None),
        Some(setting) => keys.value(key, setting).map(|path| Some(PathBuf::from(path.0))),
    };
    let operator = file("token_file", &raw.token_file);
    let viewer = file("viewer_token_file", &raw.viewer_token_file);
    let host_name = match &raw.host_name {
        None => Some(None),
        Some(setting) => keys.value("host_name", setting).map(|name| Some(name.0)),
    };
    let (listen, operator, viewer) = (listen?, operator?, viewer?);
    let named = [("token_file", &raw.token_file), ("viewer_token_file", &raw.viewer_token_file)];
    let access = match choice? {
        AccessChoice::Open => {
            for (key, setting) in named {
                if let Some(setting) = setting {
                    keys.note(
                        key,
                        &setting.origin,
                        "nobody is asked for a token with access: open",
                        "remove it, or write access: token",
                    );
                }
            }
            ApiAccess::Open
        }
        // One that has a name is meant for others than this machine, by way of a proxy that listens for them.
        AccessChoice::Auto
            if listen.ip().is_loopback()
                && operator.is_none()
                && viewer.is_none()
                && raw.host_name.is_none() =>
        {
            ApiAccess::Open
        }
        AccessChoice::Auto | AccessChoice::Token => ApiAccess::Token { operator, viewer },
    };
    Some(Api { listen, access, host_name: host_name? })
}

fn pool(keys: &mut Keys<'_>, entry: &raw::Entry<raw::Pool>, whole: &raw::Spec) -> Option<Pool> {
    let raw = &entry.value;
    let name = entry.name.parse::<PoolName>();
    if name.is_err() {
        keys.note(
            "",
            &Origin::Default,
            format!("{:?} is not a pool name", entry.name),
            format!("use 1 to {} of a-z, 0-9 and '-', a letter first, no '-' last", PoolName::LONGEST),
        );
    }
    let listen = keys.value("listen", &raw.listen);
    let protocol = keys.value("protocol", &raw.protocol);
    let turn = turn(keys, raw.turn.as_ref(), protocol);
    let workers = keys.section("size").within(
        "workers",
        &raw.size.workers,
        0..=1000,
        "0 scales the pool to nothing, and no machine that runs more than a thousand is known to us",
    );
    let worker = worker(&mut keys.section("worker"), &raw.worker, protocol, whole);
    let timeouts = timeouts(&mut keys.section("timeouts"), &raw.timeouts, turn);
    let queue = queue(&mut keys.section("queue"), &raw.queue);
    let clients = clients(&mut keys.section("clients"), &raw.clients);
    let redeliver = redeliver(&mut keys.section("redeliver"), &raw.redeliver);
    let recycle = recycle(&mut keys.section("recycle"), &raw.recycle);
    let restart = restart(&mut keys.section("restart"), &raw.restart);
    Some(Pool {
        door: DoorPool {
            name: name.ok()?,
            listen: listen?,
            protocol: protocol?,
            turn: turn?,
            credit: worker.as_ref()?.model.credit(),
            timeouts: timeouts?,
            queue: queue?,
            clients: clients?,
            redeliver: redeliver?,
        },
        workers: workers?,
        worker: worker?,
        recycle: recycle?,
        restart: restart?,
    })
}

/// Left out, the turn follows from the protocol: only HTTP says where a request ends.
fn turn(
    keys: &mut Keys<'_>,
    setting: Option<&Setting<TurnUnit>>,
    protocol: Option<Protocol>,
) -> Option<TurnUnit> {
    let Some(setting) = setting else {
        return Some(match protocol? {
            Protocol::Http => TurnUnit::Request,
            Protocol::Tcp => TurnUnit::Connection,
        });
    };
    let turn = keys.value("turn", setting)?;
    if (turn, protocol) == (TurnUnit::Request, Some(Protocol::Tcp)) {
        keys.note(
            "turn",
            &setting.origin,
            "this pool speaks tcp, where nothing says where a request ends",
            "write turn: connection, or protocol: http",
        );
        return None;
    }
    Some(turn)
}

fn worker(
    keys: &mut Keys<'_>,
    raw: &raw::Worker,
    protocol: Option<Protocol>,
    whole: &raw::Spec,
) -> Option<Worker> {
    let app = app(keys, raw.app.as_ref(), protocol);
    let model = keys.value("model", &raw.model);
    let limits = limits(&mut keys.section("limits"), &raw.limits, model, whole);
    let network = network(keys, raw.network.as_ref(), whole);
    let cgroup = cgroup(&mut keys.section("cgroup"), &raw.cgroup, &whole.backend);
    Some(Worker { app: app?, model: model?, limits: limits?, network: network?, cgroup: cgroup? })
}

/// Left out, the app follows from the protocol.
fn app(keys: &mut Keys<'_>, setting: Option<&Setting<App>>, protocol: Option<Protocol>) -> Option<App> {
    let speaks = |app| match app {
        App::Demo => Protocol::Http,
        App::Echo => Protocol::Tcp,
    };
    let Some(setting) = setting else {
        return [App::Demo, App::Echo].into_iter().find(|app| Some(speaks(*app)) == protocol);
    };
    let (app, protocol) = (keys.value("app", setting)?, protocol?);
    if speaks(app) != protocol {
        let other = speaks(app);
        keys.note(
            "app",
            &setting.origin,
            format!("{app} speaks {other}, and this pool speaks {protocol}"),
            format!("write protocol: {other}, or another app"),
        );
        return None;
    }
    Some(app)
}

fn limits(keys: &mut Keys<'_>, raw: &raw::Limits, model: Option<Model>, whole: &raw::Spec) -> Option<Limits> {
    let turns = u32::from(model.map_or(1, Model::credit));
    let threads = if let Some(Model::Threads(threads)) = model { u32::from(threads) } else { 1 };
    let memory = keys.limit_within(
        "memory",
        &raw.memory,
        Size(6 << 20)..=LARGEST_SIZE,
        "below that, engines start nothing",
    );
    let cpus = cpus(keys, raw.cpus.as_ref(), &whole.backend);
    let (others, why) = match tunnel::link(whole) {
        Some(LinkChoice::Tunnel) => (
            5,
            "a worker of this model needs that many threads, three for its init, its main thread and signals, and two for its tunnel",
        ),
        Some(LinkChoice::Fd) | None => (
            3,
            "a worker of this model needs that many threads, and three for its init, its main thread and signals",
        ),
    };
    let pids = keys.limit_within("pids", &raw.pids, threads + others..=4_000_000, why);
    let open_files = keys.limit_within(
        "open_files",
        &raw.open_files,
        turns + 32..=1_000_000,
        "a worker needs one for each turn of its model, and 32 for itself",
    );
    Some(Limits {
        memory_bytes: memory?.map(|size| size.0),
        cpus: cpus?.map(|fraction| fraction.0),
        pids: pids?.and_then(NonZeroU32::new),
        open_files: open_files?.and_then(NonZeroU32::new),
    })
}

/// Half a processor unless the spec says otherwise; none on plain processes, which cannot be held to a share.
/// There a share is a mistake only where one file asks for both: the same file serves every backend, so
/// `--backend process` and `auto` leave it aside.
fn cpus(
    keys: &mut Keys<'_>,
    setting: Option<&Setting<Limit<Fraction>>>,
    backend: &Setting<BackendChoice>,
) -> Option<Option<Fraction>> {
    let half = Setting::default_of(Limit::To(Fraction(0.5)));
    let setting = setting.unwrap_or(&half);
    let cpus = keys.limit_within(
        "cpus",
        setting,
        Fraction(0.01)..=Fraction(1024.0),
        "1 is one whole processor; none lifts the limit",
    )?;
    if backend.value != Ok(BackendChoice::Process) {
        return Some(cpus);
    }
    if cpus.is_some() && both_in_file(&setting.origin, &backend.origin) {
        keys.note(
            "cpus",
            &setting.origin,
            "plain processes cannot be held to a share of a processor, and this file says backend: process",
            "remove cpus, or write backend: auto or backend: docker",
        );
        return None;
    }
    Some(None)
}

/// Plain processes share the machine's network and pods have the cluster's, whatever is written; see [`cpus`] for when
/// that is a mistake. A container that dials its door has to have one.
fn network(keys: &mut Keys<'_>, setting: Option<&Setting<Network>>, whole: &raw::Spec) -> Option<Network> {
    let backend = &whole.backend;
    let tunnel = tunnel::link(whole) == Some(LinkChoice::Tunnel);
    let network = match setting {
        Some(setting) => Some(keys.value("network", setting)?),
        None => None,
    };
    let chosen = network.as_ref().zip(setting);
    let who = match backend.value {
        Ok(BackendChoice::Process) => "plain processes join",
        Ok(BackendChoice::Kubernetes) => "pods join",
        Ok(BackendChoice::Docker) if tunnel && network == Some(Network::None) => {
            keys.note(
                "network",
                setting.map_or(&Origin::Default, |setting| &setting.origin),
                "a worker without a network cannot dial its door, and this deployment has link: tunnel",
                "write bridge, or another of the engine's networks; or write link: fd, which needs none",
            );
            return None;
        }
        Ok(BackendChoice::Auto | BackendChoice::Docker) | Err(_) => {
            let usual = if tunnel { Network::Named("bridge".to_owned()) } else { Network::None };
            return Some(network.unwrap_or(usual));
        }
    };
    if let Some((Network::Named(_), setting)) = chosen
        && both_in_file(&setting.origin, &backend.origin)
    {
        let backend = backend.value.as_ref().map_or_else(|_| String::new(), ToString::to_string);
        keys.note(
            "network",
            &setting.origin,
            format!("{who} no network of an engine, and this file says backend: {backend}"),
            "remove network, or write backend: docker",
        );
        return None;
    }
    Some(Network::None)
}

/// Plain processes stay in the group of whoever has started them and pods in that of their kubelet; see [`cpus`] for when
/// it is a mistake to say otherwise.
fn cgroup(keys: &mut Keys<'_>, raw: &raw::Cgroup, backend: &Setting<BackendChoice>) -> Option<Cgroup> {
    let parent = raw.parent.as_ref().map(|setting| keys.value("parent", setting));
    let shares = raw.cpu_shares.as_ref().map(|setting| {
        keys.within("cpu_shares", setting, 2..=262_144, "1024 is what a plain process weighs")
    });
    let (parent, cpu_shares) =
        (parent.map_or(Some(None), |it| it.map(Some)), shares.map_or(Some(None), |it| it.map(Some)));
    let who = match backend.value {
        Ok(BackendChoice::Process) => "plain processes stay",
        Ok(BackendChoice::Kubernetes) => "pods stay",
        Ok(BackendChoice::Auto | BackendChoice::Docker) | Err(_) => {
            return Some(Cgroup { parent: parent?.map(|name| name.0), cpu_shares: cpu_shares? });
        }
    };
    let origins = [
        ("parent", raw.parent.as_ref().map(|it| &it.origin)),
        ("cpu_shares", raw.cpu_shares.as_ref().map(|it| &it.origin)),
    ];
    for (key, origin) in origins {
        if let Some(origin) = origin.filter(|origin| both_in_file(origin, &backend.origin)) {
            let backend = backend.value.as_ref().map_or_else(|_| String::new(), ToString::to_string);
            keys.note(
                key,
                origin,
                format!("{who} in the control group that they are started in, and this file says backend: {backend}"),
                "remove cgroup, or write backend: docker",
            );
            return None;
        }
    }
    Some(Cgroup::default())
}

fn both_in_file(one: &Origin, other: &Origin) -> bool {
    matches!((one, other), (Origin::File(_), Origin::File(_)))
}

const SHORTEST: Time = Time(Duration::from_millis(1));
const NO_TIME: Time = Time(Duration::ZERO);

fn timeouts(keys: &mut Keys<'_>, raw: &raw::Timeouts, turn: Option<TurnUnit>) -> Option<config::Timeouts> {
    let start = keys.within("start", &raw.start, SHORTEST..=LONGEST_TIME, "a worker needs time to start");
    let head = keys.within("head", &raw.head, SHORTEST..=LONGEST_TIME, "a client needs time to send");
    let request = request_timeout(keys, raw.request.as_ref(), turn);
    let keep_alive = keys.value("keep_alive", &raw.keep_alive);
    let drain = keys.value("drain", &raw.drain);
    Some(config::Timeouts {
        start: start?.0,
        head: head?.0,
        request: request?,
        keep_alive: keep_alive?.0,
        drain: drain?.0,
    })
}

/// A connection may rightly last for ever, a request may not: hence the two defaults.
fn request_timeout(
    keys: &mut Keys<'_>,
    setting: Option<&Setting<Deadline>>,
    turn: Option<TurnUnit>,
) -> Option<Option<Duration>> {
    let Some(setting) = setting else {
        return Some((turn? == TurnUnit::Request).then_some(Duration::from_secs(30)));
    };
    match keys.value("request", setting)? {
        Deadline::Off => Some(None),
        Deadline::After(time) => {
            let bounds = SHORTEST..=LONGEST_TIME;
            let time = keys.bounded("request", &setting.origin, time, &bounds, "off is for ever")?;
            Some(Some(time.0))
        }
    }
}

fn queue(keys: &mut Keys<'_>, raw: &raw::Queue) -> Option<config::Queue> {
    let depth = keys.within(
        "depth",
        &raw.depth,
        1..=1_000_000,
        "every request passes through the queue, if only for a moment",
    );
    let wait = keys.within("wait", &raw.wait, NO_TIME..=LONGEST_TIME, "0s answers 503 at once");
    Some(config::Queue { depth: usize::try_from(depth?).ok()?, wait: wait?.0 })
}

fn clients(keys: &mut Keys<'_>, raw: &raw::Clients) -> Option<config::Clients> {
    let connections = keys.within(
        "connections",
        &raw.connections,
        1..=1_000_000,
        "each costs the door a descriptor and some memory",
    );
    let head = keys.within(
        "head",
        &raw.head,
        Size(512)..=Size(64 << 10),
        "less refuses honest clients, and more does not fit into a socket's buffer, where requests wait",
    );
    let buffered_body = keys.within(
        "buffered_body",
        &raw.buffered_body,
        Size(0)..=Size(8 << 20),
        "it waits in the kernel's memory, as much for each client",
    );
    let body = keys.value("body", &raw.body);
    Some(config::Clients {
        connections: usize::try_from(connections?).ok()?,
        head_bytes: usize::try_from(head?.0).ok()?,
        buffered_body_bytes: usize::try_from(buffered_body?.0).ok()?,
        body_bytes: body?.0,
    })
}

fn redeliver(keys: &mut Keys<'_>, raw: &raw::Redeliver) -> Option<config::Redeliver> {
    let attempts = keys.within(
        "attempts",
        &raw.attempts,
        1..=100,
        "the first delivery counts as one, so that 1 means: never again",
    );
    let methods = keys.value("methods", &raw.methods);
    Some(config::Redeliver { attempts: attempts?, methods: methods? })
}

fn recycle(keys: &mut Keys<'_>, raw: &raw::Recycle) -> Option<Recycle> {
    let requests = keys.value("requests", &raw.requests);
    let jitter = keys.within(
        "jitter",
        &raw.jitter,
        Fraction(0.0)..=Fraction(1.0),
        "it is a share of requests, so that 0.1 means up to a tenth more or less",
    );
    Some(Recycle { requests: NonZeroU32::new(requests?), jitter: jitter?.0 })
}

fn restart(keys: &mut Keys<'_>, raw: &raw::Restart) -> Option<Restart> {
    let long_enough = SHORTEST..=LONGEST_TIME;
    let backoff = keys.within(
        "backoff",
        &raw.backoff,
        Time(Duration::ZERO)..=LONGEST_TIME,
        "0ms means no wait ever, for pools whose workers are killed on purpose",
    );
    let longest = keys.within("longest", &raw.longest, long_enough.clone(), "it is the longest wait");
    let healthy_after = keys.within(
        "healthy_after",
        &raw.healthy_after,
        long_enough.clone(),
        "a worker has to live for a while to count as healthy",
    );
    let deaths = keys.value("deaths", &raw.deaths);
    let within = keys.within("within", &raw.within, long_enough, "deaths are counted within it");
    if let (Some(backoff), Some(longest)) = (backoff, longest)
        && longest < backoff
    {
        let (key, origin) = match raw.longest.origin {
            Origin::Default => ("backoff", &raw.backoff.origin),
            _ => ("longest", &raw.longest.origin),
        };
        keys.note(
            key,
            origin,
            format!("the longest wait, {longest}, is shorter than the first, {backoff}"),
            format!("write longest: {backoff} or more"),
        );
    }
    Some(Restart {
        backoff: backoff?.0,
        longest: longest?.0,
        healthy_after: healthy_after?.0,
        deaths: deaths?,
        within: within?.0,
    })
}

/// No two listeners of one deployment may want the same address. Whether somebody else has it already is
/// found when the door binds it.
fn addresses(keys: &mut Keys<'_>, raw: &raw::Spec) {
    let mut taken: Vec<(SocketAddr, String)> = Vec::new();
    if let Ok(listen) = raw.api.listen.value {
        taken.push((listen, "the API (api.listen)".to_owned()));
    }
    if let Some((listen, origin)) = tunnel::listens(raw) {
        claim(keys, &mut taken, "tunnel.listen", listen, &origin, "the tunnel (tunnel.listen)".to_owned());
    }
    for raw::Entry { name, place, value } in &raw.pools.0 {
        let Ok(listen) = value.listen.value else { continue };
        let origin = match &value.listen.origin {
            Origin::Default => Origin::from(*place),
            said => said.clone(),
        };
        let key = format!("pools.{name}.listen");
        claim(keys, &mut taken, &key, listen, &origin, format!("pool {name}"));
    }
}

/// Notes that `whose` listens there, and that somebody does already, if so.
fn claim(
    keys: &mut Keys<'_>,
    taken: &mut Vec<(SocketAddr, String)>,
    key: &str,
    listen: SocketAddr,
    origin: &Origin,
    whose: String,
) {
    if let Some((other, theirs)) = taken.iter().find(|(other, _)| overlap(listen, *other)) {
        let problem = if *other == listen {
            format!("{listen} is where {theirs} listens already")
        } else {
            format!("{listen} overlaps {other}, where {theirs} listens already")
        };
        keys.note(key, origin, problem, "give one of them another port");
    }
    taken.push((listen, whose));
}

/// Whether both cannot be bound at once. An unspecified address stands for all of its family, and `[::]` for
/// those of IPv4 too, as Linux has it unless told otherwise.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers =
        |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}
