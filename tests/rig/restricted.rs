//! The Pod Security Standard *restricted*, and by how much a pod misses it.
//!
//! A cluster that knows the standard refuses such a pod by the label of its namespace; the oldest that we run on does not
//! know it yet. So it is measured here, whatever the cluster. Where the standard leaves a choice, this takes the strictest:
//! no capability is added, and the seccomp profile is the runtime's.

use serde_json::Value;

/// What a volume may be made of: nothing of its node.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// All in which a pod, or the template of one, falls short of it.
pub fn offences(pod: &Value) -> Vec<String> {
    let (spec, of_the_pod) = (&pod["spec"], &pod["spec"]["securityContext"]);
    let mut offences = Vec::new();
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[shared] == true {
            offences.push(format!("the pod has its node's: {shared}"));
        }
    }
    for volume in list(&spec["volumes"]) {
        let made_of = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        for kind in made_of.filter(|key| *key != "name" && !VOLUMES.contains(key)) {
            offences.push(format!("the volume {} is a {kind}", volume["name"]));
        }
    }
    if !list(&of_the_pod["sysctls"]).is_empty() {
        offences.push(format!("the pod sets sysctls: {}", of_the_pod["sysctls"]));
    }
    let annotations = pod["metadata"]["annotations"].as_object().into_iter().flatten();
    for (name, value) in annotations.filter(|(name, _)| name.contains("apparmor.security")) {
        offences.push(format!("the pod chooses its AppArmor profile: {name}: {value}"));
    }
    chosen("the pod", of_the_pod, &mut offences);
    let kinds = ["initContainers", "containers", "ephemeralContainers"];
    let containers: Vec<_> = kinds.iter().flat_map(|kind| list(&spec[*kind])).collect();
    if containers.is_empty() {
        offences.push("the pod has no container to be measured".to_owned());
    }
    for container in containers {
        of_a_container(container, of_the_pod, &mut offences);
    }
    offences
}

fn of_a_container(container: &Value, of_the_pod: &Value, offences: &mut Vec<String>) {
    let own = &container["securityContext"];
    // What a container does not say is said by its pod.
    let said = |key: &str| if own[key].is_null() { &of_the_pod[key] } else { &own[key] };
    let name = format!("the container {}", container["name"]);
    let mut unless = |good: bool, what: &str| {
        if !good {
            offences.push(format!("{name} {what}"));
        }
    };
    unless(*said("runAsNonRoot") == true, "may be root: runAsNonRoot is not true");
    unless(*said("runAsUser") != 0, "is root: runAsUser is 0");
    unless(said("seccompProfile")["type"] == "RuntimeDefault", "does without the runtime's seccompProfile");
    unless(
        own["allowPrivilegeEscalation"] == false,
        "may come to more: allowPrivilegeEscalation is not false",
    );
    unless(own["privileged"] != true, "is privileged");
    unless(list(&own["capabilities"]["drop"]).iter().any(|it| it == "ALL"), "does not drop ALL capabilities");
    unless(list(&own["capabilities"]["add"]).is_empty(), "adds capabilities");
    unless(own["procMount"].is_null(), "chooses its procMount");
    unless(
        list(&container["ports"]).iter().all(|it| it["hostPort"].is_null()),
        "has a port of its node: hostPort",
    );
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let asks = |how: &str| container[probe][how]["host"].is_null();
        unless(asks("httpGet") && asks("tcpSocket"), &format!("has its {probe} ask another host"));
    }
    chosen(&name, own, offences);
}

/// What neither a pod nor a container may choose.
fn chosen(who: &str, context: &Value, offences: &mut Vec<String>) {
    for key in ["seLinuxOptions", "appArmorProfile", "windowsOptions"] {
        if !context[key].is_null() {
            offences.push(format!("{who} chooses its {key}"));
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
