//! Valid to text again: every key spelled out, so that nothing depends on a default any more.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::raw::{self, Entry, Named};
use super::setting::Setting;
use super::tunnel::Tunnel;
use super::units::{CgroupName, Deadline, FilePath, Fraction, HostName, Limit, Size, Time};
use super::valid::{AccessChoice, Api, ApiAccess, Deployment, Limits, LinkChoice, Pool, Worker};

impl Deployment {
    /// The spec, with every default spelled out and every override in its place. Parsing it again gives the
    /// same deployment.
    pub fn to_yaml(&self) -> String {
        // Everything in a valid deployment is plain text or a number; there is nothing that could fail.
        serde_yaml::to_string(&raw::Spec::from(self)).unwrap_or_default()
    }

    /// The same as a JSON document.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(raw::Spec::from(self)).unwrap_or_default()
    }
}

impl Pool {
    /// A short name for all that shapes a worker of this pool. A live worker that was made under another one is
    /// out of date.
    pub fn spec_hash(&self) -> String {
        #[derive(Serialize)]
        struct Shape {
            protocol: server::config::Protocol,
            turn: server::config::TurnUnit,
            worker: raw::Worker,
        }
        let shape = Shape {
            protocol: self.door.protocol,
            turn: self.door.turn,
            worker: raw::Worker::from(&self.worker),
        };
        let text = serde_json::to_vec(&shape).unwrap_or_default();
        Sha256::digest(text).iter().take(6).fold(String::new(), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl From<&Deployment> for raw::Spec {
    fn from(valid: &Deployment) -> Self {
        let entry = |pool: &Pool| Entry { name: pool.name().to_string(), place: None, value: pool.into() };
        Self {
            backend: Setting::default_of(valid.backend),
            link: Some(Setting::default_of(match valid.tunnel {
                Some(_) => LinkChoice::Tunnel,
                None => LinkChoice::Fd,
            })),
            tunnel: valid.tunnel.as_ref().map(|tunnel| Tunnel::from(tunnel).into()),
            api: (&valid.api).into(),
            pools: Named(valid.pools.iter().map(entry).collect()),
        }
    }
}

impl From<&Api> for raw::Api {
    fn from(valid: &Api) -> Self {
        let file = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            Some(Setting::default_of(FilePath(path.to_string_lossy().into_owned())))
        };
        let (access, operator, viewer) = match &valid.access {
            ApiAccess::Open => (AccessChoice::Open, &None, &None),
            ApiAccess::Token { operator, viewer } => (AccessChoice::Token, operator, viewer),
        };
        Self {
            listen: Setting::default_of(valid.listen),
            access: Setting::default_of(access),
            token_file: file(operator),
            viewer_token_file: file(viewer),
            host_name: valid.host_name.clone().map(|name| Setting::default_of(HostName(name))),
        }
    }
}

impl From<&Pool> for raw::Pool {
    fn from(valid: &Pool) -> Self {
        let Pool { door, workers, worker, recycle, restart } = valid;
        Self {
            listen: Setting::default_of(door.listen),
            protocol: Setting::default_of(door.protocol),
            turn: Some(Setting::default_of(door.turn)),
            size: raw::PoolSize { workers: Setting::default_of(*workers) },
            worker: worker.into(),
            timeouts: raw::Timeouts {
                start: Setting::default_of(Time(door.timeouts.start)),
                head: Setting::default_of(Time(door.timeouts.head)),
                request: Some(Setting::default_of(
                    door.timeouts.request.map_or(Deadline::Off, |after| Deadline::After(Time(after))),
                )),
                keep_alive: Setting::default_of(Time(door.timeouts.keep_alive)),
                drain: Setting::default_of(Time(door.timeouts.drain)),
            },
            queue: raw::Queue {
                depth: Setting::default_of(narrow(door.queue.depth)),
                wait: Setting::default_of(Time(door.queue.wait)),
            },
            clients: raw::Clients {
                connections: Setting::default_of(narrow(door.clients.connections)),
                head: Setting::default_of(Size(door.clients.head_bytes as u64)),
                buffered_body: Setting::default_of(Size(door.clients.buffered_body_bytes as u64)),
                body: Setting::default_of(Size(door.clients.body_bytes)),
            },
            redeliver: raw::Redeliver {
                attempts: Setting::default_of(door.redeliver.attempts),
                methods: Setting::default_of(door.redeliver.methods),
            },
            recycle: raw::Recycle {
                requests: Setting::default_of(recycle.requests.map_or(0, Into::into)),
                jitter: Setting::default_of(Fraction(recycle.jitter)),
            },
            restart: raw::Restart {
                backoff: Setting::default_of(Time(restart.backoff)),
                longest: Setting::default_of(Time(restart.longest)),
                healthy_after: Setting::default_of(Time(restart.healthy_after)),
                deaths: Setting::default_of(restart.deaths),
                within: Setting::default_of(Time(restart.within)),
            },
        }
    }
}

impl From<&Worker> for raw::Worker {
    fn from(valid: &Worker) -> Self {
        let Limits { memory_bytes, cpus, pids, open_files } = valid.limits;
        Self {
            app: Some(Setting::default_of(valid.app)),
            model: Setting::default_of(valid.model),
            limits: raw::Limits {
                memory: Setting::default_of(memory_bytes.map(Size).into()),
                cpus: Some(Setting::default_of(cpus.map(Fraction).into())),
                pids: Setting::default_of(Limit::from(pids.map(u32::from))),
                open_files: Setting::default_of(Limit::from(open_files.map(u32::from))),
            },
            network: Some(Setting::default_of(valid.network.clone())),
            cgroup: raw::Cgroup {
                parent: valid.cgroup.parent.clone().map(|name| Setting::default_of(CgroupName(name))),
                cpu_shares: valid.cgroup.cpu_shares.map(Setting::default_of),
            },
        }
    }
}

/// What was checked to be in bounds fits.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
