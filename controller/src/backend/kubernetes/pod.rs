//! What a worker's pod looks like: its name, its labels, and how it is shut in. All of it is pure.
//!
//! ```text
//!   network    no port; whom it may reach is a         filesystem   read-only
//!              NetworkPolicy's to say, by label        memory, cpus the limits, requested as well
//!   rights     user 65532, no capabilities, no new     API          no token is mounted
//!              privileges, the runtime's seccomp       restart      never: the master replaces
//! ```
//! That is what the Pod Security Standard calls *restricted*. Nothing in it is younger than Kubernetes 1.20.
//!
//! A limit of processes cannot be had here: the kubelet has one for the whole node, and a worker cannot put one on
//! itself, because the kernel counts by user over all pods of a node. The limit of open files it puts on itself.
//!
//! A pod has no init, so what a worker forks and abandons is not reaped before the worker ends. A process namespace that
//! is shared with the pod's own would have one, but then the worker's end would not be the end of all its processes.
//!
//! A controller that starts anew knows its workers from their labels alone, so everything that it needs to adopt
//! one is written there ([`labels`]) and read back by [`Tags::read`].

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, LocalObjectReference, NodeAffinity, NodeSelectorRequirement,
    NodeSelectorTerm, Pod, PodSecurityContext, PodSpec, PreferredSchedulingTerm, ResourceRequirements,
    SeccompProfile, SecurityContext, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use server::identity::{Incarnation, PoolName, WorkerId};
use server::worker::SelfLimits;

use super::names;
use crate::backend::{Doing, SpawnOrder};
use crate::cli::worker::{TOKEN_VARIABLE, TUNNEL_CA_VARIABLE, arguments};
use crate::spec::{Limits, Network};

/// The user and group that workers run as. It owns nothing, on any machine.
const NOBODY: i64 = 65532;

/// The one container of a worker's pod.
pub(super) const CONTAINER: &str = "worker";

/// How long a worker stays on a node that does not answer before its pod is given up. Its place is not empty for so
/// long: the door misses it sooner, and then it is replaced.
const UNREACHABLE_FOR: Duration = Duration::from_secs(30);

const NAME_LABEL: &str = "app.kubernetes.io/name";
const OWNER_LABEL: &str = "app.kubernetes.io/instance";
const MANAGER_LABEL: &str = "app.kubernetes.io/managed-by";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const POOL_LABEL: &str = "bulkhead.io/pool";
const WORKER_LABEL: &str = "bulkhead.io/worker";
const GENERATION_LABEL: &str = "bulkhead.io/generation";
const SPEC_LABEL: &str = "bulkhead.io/spec";
/// What it is doing, for people: [`Doing::name`]. The only label that changes.
pub(super) const PHASE_LABEL: &str = "bulkhead.io/phase";
/// For NetworkPolicies: a spec's `network: NAME`.
const NETWORK_LABEL: &str = "bulkhead.io/network";
const PRODUCT: &str = "bulkhead";

/// What it was made to run, as it was asked for: what stands in its container somebody may have changed on the way in.
const IMAGE_ANNOTATION: &str = "bulkhead.io/image";
/// In place of a spec's hash, of a pod that was made to run something else than pods are now.
const OUT_OF_DATE: &str = "of another image";

/// What the labels of a pod of ours say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) life: Incarnation,
    pub(super) spec_hash: String,
}

/// What all pods of a deployment have in common.
#[derive(Debug, Clone)]
pub(super) struct Mould {
    /// Whose they are.
    pub(super) owner: String,
    /// What they run. Its entry point is this program.
    pub(super) image: String,
    /// What they go with when it is deleted.
    pub(super) belongs_to: Option<OwnerReference>,
    /// By which their image may be pulled.
    pub(super) pull_secrets: Vec<LocalObjectReference>,
}

/// The selector that finds an owner's workers.
pub(super) fn selector(owner: &str) -> String {
    let ours = [
        (MANAGER_LABEL, PRODUCT.to_owned()),
        (COMPONENT_LABEL, "worker".to_owned()),
        (OWNER_LABEL, names::label(owner)),
    ];
    ours.map(|(label, value)| format!("{label}={value}")).join(",")
}

/// The selector that finds the doors that belong to the same deployment.
pub(super) fn door_selector(owner: &str) -> String {
    let ours = [
        (NAME_LABEL, PRODUCT.to_owned()),
        (COMPONENT_LABEL, "door".to_owned()),
        (OWNER_LABEL, names::label(owner)),
    ];
    ours.map(|(label, value)| format!("{label}={value}")).join(",")
}

/// The pod that the API is asked to create for `order`; rather not on one of the nodes in `doubtful`.
pub(super) fn body(mould: &Mould, order: &SpawnOrder, doubtful: &[String]) -> Pod {
    let worker = &order.pool.worker;
    let limits = SelfLimits { open_files: worker.limits.open_files, ..SelfLimits::default() };
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(mould.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(arguments(order, Path::new(&mould.owner), &limits)),
        env: Some(environment(order)),
        resources: Some(resources(&worker.limits)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        // A second source for its last words: what it wrote is in the pod's state even where its log cannot be had.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(names::pod(&mould.owner, &order.life)),
            labels: Some(labels(&mould.owner, order)),
            annotations: Some([(IMAGE_ANNOTATION.to_owned(), mould.image.clone())].into()),
            owner_references: mould.belongs_to.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![container],
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            image_pull_secrets: (!mould.pull_secrets.is_empty()).then(|| mould.pull_secrets.clone()),
            termination_grace_period_seconds: Some(whole_seconds(order.pool.door.timeouts.drain)),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(NOBODY),
                run_as_group: Some(NOBODY),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            tolerations: Some(["not-ready", "unreachable"].map(for_a_while).to_vec()),
            // Either, not both: a scheduler gives the spread twice the weight.
            topology_spread_constraints: doubtful.is_empty().then(|| vec![spread(&mould.owner, order)]),
            affinity: (!doubtful.is_empty()).then(|| rather_not_on(doubtful)),
            ..PodSpec::default()
        }),
        status: None,
    }
}

impl Tags {
    /// Reads them back. `None` when they are not as [`labels`] writes them.
    pub(super) fn read(labels: &BTreeMap<String, String>) -> Option<Self> {
        let text = |label: &str| labels.get(label).map(String::as_str);
        let worker: WorkerId = text(WORKER_LABEL)?.parse().ok()?;
        let generation: u64 = text(GENERATION_LABEL)?.parse().ok()?;
        let pool: PoolName = text(POOL_LABEL)?.parse().ok()?;
        (pool == worker.pool).then(|| Self {
            life: worker.life(generation),
            spec_hash: text(SPEC_LABEL).unwrap_or_default().to_owned(),
        })
    }
}

/// What a pod was made from, for who asks whether it is out of date: its spec, if it runs what pods run now.
pub(super) fn made_from(mould: &Mould, pod: &Pod, tags: &Tags) -> String {
    let noted = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(IMAGE_ANNOTATION));
    // Somebody may take annotations away that he does not know.
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.iter().find(|it| it.name == CONTAINER));
    let runs = noted.or_else(|| container?.image.as_ref());
    if runs == Some(&mould.image) { tags.spec_hash.clone() } else { OUT_OF_DATE.to_owned() }
}

/// Whether a pod is what was ordered by those labels, whatever it has come to do since, and whatever somebody has added on
/// the way in, as a cluster's admission may.
pub(super) fn is_as_ordered(there: &BTreeMap<String, String>, ordered: &BTreeMap<String, String>) -> bool {
    let mut lasting = ordered.iter().filter(|(label, _)| *label != PHASE_LABEL);
    lasting.all(|(label, value)| there.get(label) == Some(value))
}

/// What everything of ours carries that we have made.
pub(super) fn product_labels() -> BTreeMap<String, String> {
    [NAME_LABEL, MANAGER_LABEL].map(|label| (label.to_owned(), PRODUCT.to_owned())).into()
}

fn labels(owner: &str, order: &SpawnOrder) -> BTreeMap<String, String> {
    let worker = &order.life.worker;
    let network = match &order.pool.worker.network {
        Network::None => None,
        Network::Named(name) => Some((NETWORK_LABEL, names::label(name))),
    };
    [
        (NAME_LABEL, PRODUCT.to_owned()),
        (MANAGER_LABEL, PRODUCT.to_owned()),
        (COMPONENT_LABEL, "worker".to_owned()),
        (OWNER_LABEL, names::label(owner)),
        (POOL_LABEL, worker.pool.to_string()),
        (WORKER_LABEL, worker.to_string()),
        (GENERATION_LABEL, order.life.generation.to_string()),
        (SPEC_LABEL, order.spec_hash.clone()),
        (PHASE_LABEL, Doing::Starting.name().to_owned()),
    ]
    .into_iter()
    .chain(network)
    .map(|(label, value)| (label.to_owned(), value))
    .collect()
}

fn environment(order: &SpawnOrder) -> Vec<EnvVar> {
    let variable =
        |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() };
    let token = variable(TOKEN_VARIABLE, order.token.to_string());
    let ca = order.tunnel_ca().map(|ca| variable(TUNNEL_CA_VARIABLE, ca.to_owned()));
    std::iter::once(token).chain(ca).collect()
}

/// Asked for in full: a worker that has been given room keeps it, whatever its neighbours do.
fn resources(limits: &Limits) -> ResourceRequirements {
    let memory = limits.memory_bytes.map(|bytes| ("memory".to_owned(), Quantity(bytes.to_string())));
    let cpus = limits.cpus.map(|cpus| ("cpu".to_owned(), Quantity(format!("{}m", millicpus(cpus)))));
    let all: BTreeMap<_, _> = memory.into_iter().chain(cpus).collect();
    ResourceRequirements { limits: Some(all.clone()), requests: Some(all), claims: None }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, which is meant")]
fn millicpus(cpus: f64) -> u64 {
    ((cpus * 1000.0).ceil() as u64).max(1)
}

/// Rounded up: a worker is not cut off before its time.
fn whole_seconds(duration: Duration) -> i64 {
    let up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(up).unwrap_or(i64::MAX)
}

fn for_a_while(condition: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{condition}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(whole_seconds(UNREACHABLE_FOR)),
        value: None,
    }
}

/// Takes the place of the spread, and is no condition: there may be no other node. By their names, which a node's host
/// name need not be, and one by one: a requirement takes no more.
fn rather_not_on(nodes: &[String]) -> Affinity {
    let not_on = |node: &String| {
        let elsewhere = NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec![node.clone()]),
        };
        let preference =
            NodeSelectorTerm { match_fields: Some(vec![elsewhere]), ..NodeSelectorTerm::default() };
        PreferredSchedulingTerm { preference, weight: 100 }
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(nodes.iter().map(not_on).collect()),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// A pool's workers are spread over the nodes, where there is room: better all on one node than not at all.
fn spread(owner: &str, order: &SpawnOrder) -> TopologySpreadConstraint {
    let of_the_pool = [
        (OWNER_LABEL.to_owned(), names::label(owner)),
        (POOL_LABEL.to_owned(), order.life.worker.pool.to_string()),
    ];
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(of_the_pool.into()),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use server::identity::Secret;
    use server::link::Dial;

    use super::*;
    use crate::backend::Tunnel;
    use crate::spec;

    #[test]
    fn a_worker_is_shut_in() {
        let mould = Mould {
            owner: "bulkhead".to_owned(),
            image: "bulkhead:1".to_owned(),
            belongs_to: Some(OwnerReference {
                api_version: "apps/v1".to_owned(),
                kind: "Deployment".to_owned(),
                name: "bulkhead-controller".to_owned(),
                uid: "6b2a".to_owned(),
                ..OwnerReference::default()
            }),
            pull_secrets: vec![LocalObjectReference { name: "registry".to_owned() }],
        };
        let mut order = order("web-3.7");
        Arc::make_mut(&mut order.pool).worker.network = Network::Named("lan".to_owned());
        insta::assert_json_snapshot!(body(&mould, &order, &[]), @r#"
        {
          "apiVersion": "v1",
          "kind": "Pod",
          "metadata": {
            "annotations": {
              "bulkhead.io/image": "bulkhead:1"
            },
            "labels": {
              "app.kubernetes.io/component": "worker",
              "app.kubernetes.io/instance": "bulkhead",
              "app.kubernetes.io/managed-by": "bulkhead",
              "app.kubernetes.io/name": "bulkhead",
              "bulkhead.io/generation": "7",
              "bulkhead.io/network": "lan",
              "bulkhead.io/phase": "starting",
              "bulkhead.io/pool": "web",
              "bulkhead.io/spec": "0123456789ab",
              "bulkhead.io/worker": "web-3"
            },
            "name": "bulkhead-web-3-7",
            "ownerReferences": [
              {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": "bulkhead-controller",
                "uid": "6b2a"
              }
            ]
          },
          "spec": {
            "automountServiceAccountToken": false,
            "containers": [
              {
                "args": [
                  "worker",
                  "--life",
                  "web-3.7",
                  "--link",
                  "tls://bulkhead-door:7411",
                  "--home",
                  "bulkhead",
                  "--app",
                  "demo",
                  "--protocol",
                  "http",
                  "--turn",
                  "request",
                  "--model",
                  "prefork",
                  "--limit-open-files",
                  "1024"
                ],
                "env": [
                  {
                    "name": "BULKHEAD_TOKEN",
                    "value": "96393724c68746ed4f6ac51024f80c5993def7e9b9f16a4339752a5cf3864580"
                  },
                  {
                    "name": "BULKHEAD_TUNNEL_CA",
                    "value": "-----BEGIN CERTIFICATE-----"
                  }
                ],
                "image": "bulkhead:1",
                "imagePullPolicy": "IfNotPresent",
                "name": "worker",
                "resources": {
                  "limits": {
                    "cpu": "500m",
                    "memory": "67108864"
                  },
                  "requests": {
                    "cpu": "500m",
                    "memory": "67108864"
                  }
                },
                "securityContext": {
                  "allowPrivilegeEscalation": false,
                  "capabilities": {
                    "drop": [
                      "ALL"
                    ]
                  },
                  "readOnlyRootFilesystem": true
                },
                "terminationMessagePolicy": "FallbackToLogsOnError"
              }
            ],
            "enableServiceLinks": false,
            "imagePullSecrets": [
              {
                "name": "registry"
              }
            ],
            "restartPolicy": "Never",
            "securityContext": {
              "runAsGroup": 65532,
              "runAsNonRoot": true,
              "runAsUser": 65532,
              "seccompProfile": {
                "type": "RuntimeDefault"
              }
            },
            "terminationGracePeriodSeconds": 30,
            "tolerations": [
              {
                "effect": "NoExecute",
                "key": "node.kubernetes.io/not-ready",
                "operator": "Exists",
                "tolerationSeconds": 30
              },
              {
                "effect": "NoExecute",
                "key": "node.kubernetes.io/unreachable",
                "operator": "Exists",
                "tolerationSeconds": 30
              }
            ],
            "topologySpreadConstraints": [
              {
                "labelSelector": {
                  "matchLabels": {
                    "app.kubernetes.io/instance": "bulkhead",
                    "bulkhead.io/pool": "web"
                  }
                },
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway"
              }
            ]
          }
        }
        "#);
    }

    #[test]
    fn seconds_and_processors_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(30)), 30);
        assert_eq!([millicpus(0.5), millicpus(0.0001), millicpus(2.0)], [500, 1, 2000]);
    }

    #[test]
    fn a_pod_is_what_was_ordered_whatever_others_have_written_on_it() {
        let ordered = labels("me", &order("web-3.7"));
        let with = |label: &str, value: &str| {
            let mut there = ordered.clone();
            there.insert(label.to_owned(), value.to_owned());
            there
        };
        assert!(is_as_ordered(&ordered, &ordered));
        assert!(is_as_ordered(&with("mesh/injected", "true"), &ordered), "somebody has added a label");
        assert!(is_as_ordered(&with(PHASE_LABEL, Doing::Ready.name()), &ordered), "it has gone on");
        assert!(!is_as_ordered(&with(SPEC_LABEL, "another"), &ordered));
        let mut lacking = ordered.clone();
        lacking.remove(GENERATION_LABEL);
        assert!(!is_as_ordered(&lacking, &ordered));
    }

    proptest! {
        #[test]
        fn labels_are_read_as_they_were_written(place: u32, generation: u64) {
            let order = order(&format!("web-{place}.{generation}"));
            let tags = Tags::read(&labels("me", &order));
            prop_assert_eq!(tags, Some(Tags { life: order.life, spec_hash: order.spec_hash }));
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
            tunnel: Some(Tunnel {
                link: Dial::Tunnel { doors: vec!["bulkhead-door:7411".to_owned()], tls: true },
                ca: Some("-----BEGIN CERTIFICATE-----".to_owned()),
            }),
        }
    }
}
