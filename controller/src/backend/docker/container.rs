//! What a worker's container looks like: its name, its labels, and how it is shut in. All of it is pure.
//!
//! ```text
//!   network    none, unless the pool names one       filesystem   read-only
//!   rights     user 65532, no capabilities, no new   memory       the limit, and no swap beyond it
//!              privileges, the engine's seccomp      cpus, pids, open files as the pool says
//!   restart    never: the master replaces            init         reaps what the worker leaves behind
//! ```
//! The one thing that it shares with the world is the directory of the door's link socket, mounted read-only; a
//! socket on a read-only mount can still be dialled.
//!
//! A controller that starts anew knows its workers from their labels alone, so everything that it needs to adopt
//! one is written there ([`labels`]) and read back by [`Tags::read`].
//!
//! A pool without a network gets `NetworkDisabled` as well as `NetworkMode: none`. For a container in mode `none`,
//! engines up to 27 run a hook at each start that executes the whole of dockerd once more to register a network
//! namespace in which there is nothing: it took half of the 0.2 s of a start (engine 20.10, two busy cores:
//! 234 ms with it, 116 ms without).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use server::identity::{Incarnation, PoolName, WorkerId};
use server::worker::SelfLimits;
use sha2::{Digest, Sha256};

use super::engine::Init;
use crate::backend::SpawnOrder;
use crate::cli::worker::{TOKEN_VARIABLE, TUNNEL_CA_VARIABLE, arguments};
use crate::spec::{Limits, Network};

/// The owner whose containers are named without one: `bulkhead-web-3.7`.
pub const DEFAULT_OWNER: &str = "bulkhead";

/// The user and group that workers run as. It owns nothing, on any machine.
pub(super) const NOBODY: &str = "65532:65532";

/// Where a worker finds the door's socket inside its container.
const LINK_DIR: &str = "/run/bulkhead/link";
const LINK_SOCKET: &str = "/run/bulkhead/link/door.sock";

/// The label by which an owner's containers are found.
pub(super) const OWNER_LABEL: &str = "io.bulkhead.owner";
const POOL_LABEL: &str = "io.bulkhead.pool";
const WORKER_LABEL: &str = "io.bulkhead.worker";
const GENERATION_LABEL: &str = "io.bulkhead.generation";
const SPEC_LABEL: &str = "io.bulkhead.spec";
const MEMORY_LABEL: &str = "io.bulkhead.memory";

/// Where containers get the directory of the door's socket from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// A directory of this machine, which is the engine's too.
    Directory(PathBuf),
    /// A volume of the engine, by name; the door itself runs in a container then.
    Volume(String),
}

/// What the labels of a container of ours say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) life: Incarnation,
    pub(super) spec_hash: String,
    pub(super) memory_bytes: Option<u64>,
}

/// The name of a life's container, unique on the engine as long as owners are.
pub(super) fn name(owner: &str, life: &Incarnation) -> String {
    if owner == DEFAULT_OWNER {
        return format!("bulkhead-{life}");
    }
    let digest = Sha256::digest(owner.as_bytes());
    let [a, b, c, ..]: [u8; 32] = digest.into();
    format!("bulkhead-{a:02x}{b:02x}{c:02x}-{life}")
}

/// What the engine is asked to create for `order`.
pub(super) fn body(
    owner: &str,
    order: &SpawnOrder,
    image: &str,
    link: &Link,
    init: Init,
) -> ContainerCreateBody {
    let worker = &order.pool.worker;
    let (network_mode, network_disabled) = match &worker.network {
        Network::None => ("none".to_owned(), Some(true)),
        Network::Named(network) => (network.clone(), None),
    };
    ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(arguments(order, Path::new(LINK_SOCKET), &SelfLimits::default())),
        env: Some(environment(order)),
        user: Some(NOBODY.to_owned()),
        labels: Some(labels(owner, order)),
        network_disabled,
        host_config: Some(HostConfig {
            network_mode: Some(network_mode),
            mounts: Some(vec![mount(link)]),
            init: Some(init == Init::Reaper),
            log_config: Some(log()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            cgroup_parent: worker.cgroup.parent.clone(),
            cpu_shares: worker.cgroup.cpu_shares.map(i64::from),
            ..shut_in(&worker.limits)
        }),
        ..ContainerCreateBody::default()
    }
}

fn environment(order: &SpawnOrder) -> Vec<String> {
    let token = format!("{TOKEN_VARIABLE}={}", order.token);
    let ca = order.tunnel_ca().map(|ca| format!("{TUNNEL_CA_VARIABLE}={ca}"));
    std::iter::once(token).chain(ca).collect()
}

impl Tags {
    /// Reads them back. `None` when they are not as [`labels`] writes them.
    pub(super) fn read(labels: &HashMap<String, String>) -> Option<Self> {
        let text = |label: &str| labels.get(label).map(String::as_str);
        let worker: WorkerId = text(WORKER_LABEL)?.parse().ok()?;
        let generation: u64 = text(GENERATION_LABEL)?.parse().ok()?;
        let pool: PoolName = text(POOL_LABEL)?.parse().ok()?;
        (pool == worker.pool).then(|| Self {
            life: worker.life(generation),
            spec_hash: text(SPEC_LABEL).unwrap_or_default().to_owned(),
            memory_bytes: text(MEMORY_LABEL).and_then(|bytes| bytes.parse().ok()),
        })
    }
}

fn labels(owner: &str, order: &SpawnOrder) -> HashMap<String, String> {
    let worker = &order.life.worker;
    let memory = order.pool.worker.limits.memory_bytes.map(|bytes| (MEMORY_LABEL, bytes.to_string()));
    [
        (OWNER_LABEL, owner.to_owned()),
        (POOL_LABEL, worker.pool.to_string()),
        (WORKER_LABEL, worker.to_string()),
        (GENERATION_LABEL, order.life.generation.to_string()),
        (SPEC_LABEL, order.spec_hash.clone()),
    ]
    .into_iter()
    .chain(memory)
    .map(|(label, value)| (label.to_owned(), value))
    .collect()
}

/// The compartment's walls. `OomScoreAdj` stays as it is: lowering it takes a capability that engines may lack.
fn shut_in(limits: &Limits) -> HostConfig {
    let memory = limits.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    HostConfig {
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        memory,
        memory_swap: memory,
        nano_cpus: limits.cpus.map(nano_cpus),
        pids_limit: limits.pids.map(|pids| i64::from(pids.get())),
        ulimits: limits.open_files.map(|files| vec![open_files(files)]),
        ..HostConfig::default()
    }
}

/// Billionths of a processor. A spec's cpus are at most a few thousand, far from what overflows.
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

fn open_files(files: NonZeroU32) -> ResourcesUlimits {
    let files = i64::from(files.get());
    ResourcesUlimits { name: Some("nofile".to_owned()), soft: Some(files), hard: Some(files) }
}

/// A worker that writes without end fills one megabyte, not the disk.
fn log() -> HostConfigLogConfig {
    let config = [("max-size", "1m"), ("max-file", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(config.into()) }
}

fn mount(link: &Link) -> Mount {
    // A mount, not a "bind": an engine makes a missing bind's directory up, as root, and says nothing.
    let (typ, source, volume_options) = match link {
        Link::Directory(path) => (MountType::BIND, path.display().to_string(), None),
        Link::Volume(name) => {
            let as_it_is = MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() };
            (MountType::VOLUME, name.clone(), Some(as_it_is))
        }
    };
    Mount {
        target: Some(LINK_DIR.to_owned()),
        source: Some(source),
        typ: Some(typ),
        read_only: Some(true),
        volume_options,
        ..Mount::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use server::identity::Secret;

    use super::*;
    use crate::spec;

    #[test]
    fn a_container_is_shut_in() {
        let body =
            body("me", &order("web-3.7"), "bulkhead:1234", &Link::Directory("/r/link".into()), Init::Reaper);
        let mut shown = serde_json::to_value(&body).unwrap();
        // The default of a dozen fields that we leave alone is noise.
        prune(&mut shown);
        shown["Env"] = "(one token)".into();
        insta::assert_json_snapshot!(shown, @r#"
        {
          "Cmd": [
            "worker",
            "--life",
            "web-3.7",
            "--link",
            "/run/bulkhead/link/door.sock",
            "--app",
            "demo",
            "--protocol",
            "http",
            "--turn",
            "request",
            "--model",
            "prefork"
          ],
          "Env": "(one token)",
          "HostConfig": {
            "CapDrop": [
              "ALL"
            ],
            "Init": true,
            "LogConfig": {
              "Config": {
                "max-file": "1",
                "max-size": "1m"
              },
              "Type": "json-file"
            },
            "Memory": 67108864,
            "MemorySwap": 67108864,
            "Mounts": [
              {
                "ReadOnly": true,
                "Source": "/r/link",
                "Target": "/run/bulkhead/link",
                "Type": "bind"
              }
            ],
            "NanoCpus": 500000000,
            "NetworkMode": "none",
            "PidsLimit": 64,
            "ReadonlyRootfs": true,
            "RestartPolicy": {
              "Name": "no"
            },
            "SecurityOpt": [
              "no-new-privileges"
            ],
            "Ulimits": [
              {
                "Hard": 1024,
                "Name": "nofile",
                "Soft": 1024
              }
            ]
          },
          "Image": "bulkhead:1234",
          "Labels": {
            "io.bulkhead.generation": "7",
            "io.bulkhead.memory": "67108864",
            "io.bulkhead.owner": "me",
            "io.bulkhead.pool": "web",
            "io.bulkhead.spec": "0123456789ab",
            "io.bulkhead.worker": "web-3"
          },
          "NetworkDisabled": true,
          "User": "65532:65532"
        }
        "#);
    }

    #[test]
    fn only_the_default_owner_needs_no_name() {
        let life = "web-3.7".parse().unwrap();
        assert_eq!(name(DEFAULT_OWNER, &life), "bulkhead-web-3.7");
        assert_eq!(name("someone", &life), "bulkhead-2a59d5-web-3.7");
        assert_ne!(name("someone", &life), name("someone else", &life));
    }

    #[test]
    fn a_volume_is_taken_as_it_is() {
        let mount = mount(&Link::Volume("shop_link".to_owned()));
        assert_eq!((mount.typ, mount.source.as_deref()), (Some(MountType::VOLUME), Some("shop_link")));
        assert_eq!(mount.read_only, Some(true));
    }

    proptest! {
        #[test]
        fn labels_are_read_back(place: u32, generation: u64, memory in proptest::option::of(1_u64..)) {
            let mut order = order(&format!("web-{place}.{generation}"));
            Arc::make_mut(&mut order.pool).worker.limits.memory_bytes = memory;
            let tags = Tags::read(&labels("me", &order));
            prop_assert_eq!(
                tags,
                Some(Tags { life: order.life, spec_hash: order.spec_hash, memory_bytes: memory })
            );
        }
    }

    /// An order for a pool with every limit that there is.
    fn order(life: &str) -> SpawnOrder {
        let life: Incarnation = life.parse().unwrap();
        let limits = "{ memory: 64MiB, cpus: 0.5, pids: 64, open_files: 1024 }";
        let spec = format!("pools: {{ {}: {{ worker: {{ limits: {limits} }} }} }}", life.worker.pool);
        SpawnOrder {
            token: Secret::new([7; 32]).token(&life),
            life,
            pool: Arc::new(spec::parse("a test", &spec).unwrap().pools.remove(0)),
            retire_after: None,
            spec_hash: "0123456789ab".to_owned(),
            tunnel: None,
        }
    }

    fn prune(value: &mut serde_json::Value) {
        if let Some(object) = value.as_object_mut() {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(prune);
        }
    }
}
