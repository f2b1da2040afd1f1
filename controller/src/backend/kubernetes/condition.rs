//! What a pod's object says of the worker in it: that it waits, runs, or is dead, and of what. All of it is pure.
//!
//! ```text
//!   Waiting ───────────► Running ───────────► Dead
//!      └──────────────────────────────────────►┘   evicted before it ran, or unable to
//! ```
//! An exit code is what the kubelet keeps, and 128+n is how the runtime spells "killed by signal n"; a program that
//! exits with such a code of its own accord cannot be told from one that was killed. What the cluster itself has done,
//! it says in words ([`Cause::Taken`]): evicted for want of memory on the node, preempted for somebody more important,
//! past a deadline, on a node that shuts down. Those words go before the exit code, which then only tells of the SIGKILL.
//!
//! The kubelet dates a death in whole seconds. Recovery here takes less than one, so the date would say nothing but
//! noise, and none is given.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pod::CONTAINER;
use crate::model::Cause;

/// What goes on in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// It is not running yet.
    Waiting {
        /// What is wrong, where something is.
        trouble: Option<String>,
    },
    /// The worker runs.
    Running {
        /// Since when.
        since: Option<SystemTime>,
    },
    /// It is over.
    Dead {
        /// Why.
        cause: Cause,
        /// The end of what it wrote, as far as the kubelet has kept that in the pod's state.
        last_words: Option<String>,
    },
}

/// What the kubelet says of a container that it cannot start. Everything else that it waits for takes its time.
const CANNOT_START: [&str; 10] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "CreatePodSandboxError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "RunContainerError",
];

/// What the runtime says of a container whose program it could not start; the exit code is made up then.
const NEVER_RAN: [&str; 2] = ["ContainerCannotRun", "StartError"];

/// What a kubelet says of a container that it has lost track of; the exit code is made up then too.
const UNSEEN: &str = "ContainerStatusUnknown";

impl Condition {
    /// What this pod's object says.
    pub(super) fn of(pod: &Pod) -> Self {
        let Some(status) = &pod.status else { return Self::Waiting { trouble: None } };
        let state = state(status);
        let terminated = state.and_then(|state| state.terminated.as_ref());
        let is_over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        if terminated.is_some() || is_over {
            let cause = cause(pod, status, terminated);
            let last_words = terminated.and_then(|end| end.message.clone());
            return Self::Dead { cause, last_words };
        }
        if let Some(running) = state.and_then(|state| state.running.as_ref()) {
            return Self::Running { since: running.started_at.as_ref().map(moment) };
        }
        Self::Waiting { trouble: unscheduled(status).or_else(|| held_up(pod, state)) }
    }
}

/// A moment as the API writes it.
pub(super) fn moment(time: &Time) -> SystemTime {
    time.0.into()
}

/// Whether this pod is past the moment by which it was to be gone, by so much. The kubelet has not said that it is:
/// nobody knows whether its node still lives.
pub(super) fn is_overdue(pod: &Pod, now: SystemTime, by: std::time::Duration) -> bool {
    let due = pod.metadata.deletion_timestamp.as_ref().map(moment);
    due.is_some_and(|due| now.duration_since(due).is_ok_and(|late| late > by))
}

fn state(status: &PodStatus) -> Option<&ContainerState> {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    containers.iter().find(|container| container.name == CONTAINER)?.state.as_ref()
}

fn cause(pod: &Pod, status: &PodStatus, end: Option<&ContainerStateTerminated>) -> Cause {
    if let Some(why) = taken(pod, status) {
        return Cause::Taken { why };
    }
    let Some(end) = end else { return Cause::Lost };
    match (end.reason.as_deref(), end.signal, end.exit_code) {
        (Some("OOMKilled"), ..) => Cause::Oom { limit_bytes: memory_limit(pod) },
        (Some(reason), ..) if NEVER_RAN.contains(&reason) => {
            Cause::Taken { why: with_words(reason, end.message.as_deref()) }
        }
        (Some(UNSEEN), ..) => Cause::Lost,
        (_, Some(signal @ 1..), _) => Cause::Signal(signal),
        (_, _, code @ 129..=192) => Cause::Signal(code - 128),
        (_, _, code) => Cause::Exit(code),
    }
}

/// What the cluster has done to it, in the cluster's words.
fn taken(pod: &Pod, status: &PodStatus) -> Option<String> {
    let disruption = condition(status, "DisruptionTarget").filter(|condition| condition.status == "True");
    let why = match (&status.reason, disruption) {
        (Some(reason), _) => with_words(reason, status.message.as_deref()),
        (None, Some(PodCondition { reason: Some(reason), message, .. })) => {
            with_words(reason, message.as_deref())
        }
        (None, _) => return None,
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    Some(node.map_or_else(|| why.clone(), |node| format!("{why} ({node})")))
}

/// The scheduler's words, while it finds no place.
fn unscheduled(status: &PodStatus) -> Option<String> {
    let scheduled = condition(status, "PodScheduled").filter(|condition| condition.status == "False")?;
    Some(with_words(scheduled.reason.as_deref()?, scheduled.message.as_deref()))
}

/// The kubelet's words, when it cannot start the container. Those of a runtime that cannot get an image need not say which.
fn held_up(pod: &Pod, state: Option<&ContainerState>) -> Option<String> {
    let waiting = state?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| CANNOT_START.contains(reason))?;
    let said = with_words(reason, waiting.message.as_deref());
    let image = worker(pod).and_then(|it| it.image.as_deref()).filter(|image| !said.contains(image));
    match image {
        Some(image) if reason.contains("Image") || reason.contains("Registry") => {
            Some(format!("{said} ({image})"))
        }
        _ => Some(said),
    }
}

/// The container that the worker runs in, as it was asked for.
fn worker(pod: &Pod) -> Option<&Container> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == CONTAINER)
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.as_deref()?.iter().find(|condition| condition.type_ == kind)
}

fn with_words(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim) {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    }
}

fn memory_limit(pod: &Pod) -> Option<u64> {
    // We write plain bytes. Whatever else somebody has made of it says nothing.
    worker(pod)?.resources.as_ref()?.limits.as_ref()?.get("memory")?.0.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        let worker = json!({
            "name": "worker", "image": "bulkhead:1", "resources": { "limits": { "memory": "67108864" } },
        });
        serde_json::from_value(json!({
            "metadata": { "name": "x" },
            "spec": { "nodeName": "node2", "containers": [worker] },
            "status": status,
        }))
        .unwrap()
    }

    fn workers(state: &Value) -> Value {
        json!([
            { "name": "sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {} },
            { "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state },
        ])
    }

    fn ended(state: &Value) -> Condition {
        Condition::of(&pod(&json!({
            "phase": "Failed", "containerStatuses": workers(&json!({ "terminated": state })),
        })))
    }

    fn dead(cause: Cause) -> Condition {
        Condition::Dead { cause, last_words: None }
    }

    #[test]
    fn an_end_is_read_from_code_signal_and_reason() {
        for (state, cause) in [
            (json!({ "exitCode": 0, "reason": "Completed" }), Cause::Exit(0)),
            (json!({ "exitCode": 3, "reason": "Error" }), Cause::Exit(3)),
            (json!({ "exitCode": 137, "reason": "Error" }), Cause::Signal(9)),
            (json!({ "exitCode": 134 }), Cause::Signal(6)),
            (json!({ "exitCode": 0, "signal": 11 }), Cause::Signal(11)),
            (json!({ "exitCode": 255, "reason": "Error" }), Cause::Exit(255)),
            (json!({ "exitCode": 137, "reason": "ContainerStatusUnknown" }), Cause::Lost),
            (json!({ "exitCode": 137, "reason": "OOMKilled" }), Cause::Oom { limit_bytes: Some(64 << 20) }),
        ] {
            assert_eq!(ended(&state), dead(cause), "{state}");
        }
    }

    #[test]
    fn what_the_cluster_has_done_goes_before_the_exit_code() {
        let evicted = json!({
            "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. ",
            "containerStatuses": workers(&json!({ "terminated": { "exitCode": 137 } })),
        });
        let why = "Evicted: The node was low on resource: memory. (node2)".to_owned();
        assert_eq!(Condition::of(&pod(&evicted)), dead(Cause::Taken { why }));

        let preempted = json!({
            "phase": "Failed",
            "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": "default-scheduler: preempting to accommodate a higher priority pod",
            }],
            "containerStatuses": workers(&json!({ "terminated": { "exitCode": 143 } })),
        });
        let Condition::Dead { cause: Cause::Taken { why }, .. } = Condition::of(&pod(&preempted)) else {
            panic!("{:?}", Condition::of(&pod(&preempted)))
        };
        insta::assert_snapshot!(why, @"PreemptionByScheduler: default-scheduler: preempting to accommodate a higher priority pod (node2)");
    }

    #[test]
    fn a_program_that_could_not_be_started_has_no_exit_code() {
        let state = json!({ "exitCode": 127, "reason": "ContainerCannotRun", "message": "no such file" });
        let why = "ContainerCannotRun: no such file".to_owned();
        let last_words = Some("no such file".to_owned());
        assert_eq!(ended(&state), Condition::Dead { cause: Cause::Taken { why }, last_words });
        assert_eq!(Condition::of(&pod(&json!({ "phase": "Failed" }))), dead(Cause::Lost));
    }

    #[test]
    fn who_waits_says_why_only_when_something_is_wrong() {
        let waiting = |trouble: Option<&str>| Condition::Waiting { trouble: trouble.map(str::to_owned) };
        let no_room = json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient memory.",
        }] });
        let why = "Unschedulable: 0/2 nodes are available: 2 Insufficient memory.";
        assert_eq!(Condition::of(&pod(&no_room)), waiting(Some(why)));

        for (reason, is_trouble) in
            [("ContainerCreating", false), ("PodInitializing", false), ("ErrImagePull", true)]
        {
            let state = json!({ "waiting": { "reason": reason } });
            let status = json!({ "phase": "Pending", "containerStatuses": workers(&state) });
            let says = format!("{reason} (bulkhead:1)");
            assert_eq!(Condition::of(&pod(&status)), waiting(is_trouble.then_some(&*says)));
        }
        let state = json!({ "waiting": { "reason": "CreateContainerError", "message": "no" } });
        let status = json!({ "phase": "Pending", "containerStatuses": workers(&state) });
        assert_eq!(Condition::of(&pod(&status)), waiting(Some("CreateContainerError: no")));
        assert_eq!(Condition::of(&Pod::default()), waiting(None));

        let running = json!({ "running": { "startedAt": "1970-01-01T00:00:02Z" } });
        let status = json!({ "phase": "Running", "containerStatuses": workers(&running) });
        let since = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2));
        assert_eq!(Condition::of(&pod(&status)), Condition::Running { since });
    }

    #[test]
    fn a_pod_is_overdue_only_when_it_was_to_be_gone_long_ago() {
        let mut pod = Pod::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let by = Duration::from_secs(30);
        assert!(!is_overdue(&pod, now, by));
        for (due, overdue) in
            [("1970-01-01T00:01:00Z", true), ("1970-01-01T00:01:20Z", false), ("1970-01-01T01:00:00Z", false)]
        {
            pod.metadata.deletion_timestamp = Some(Time(due.parse().unwrap()));
            assert_eq!(is_overdue(&pod, now, by), overdue, "{due}");
        }
    }
}
