//! What `kubectl apply -k k8s` asks of a cluster, without one: what is made, who may talk to whom, who may ask the API for
//! what, and that no pod comes with more than the Pod Security Standard *restricted* leaves it.
//!
//! The manifests are read as `kubectl kustomize` prints them; where there is no `kubectl`, those stories show as ignored,
//! with the reason. A worker's pod is in no manifest: the backend is asked for one, by an API server that only listens.
//! That a cluster heeds the rights is told in `kubernetes.rs`. That it heeds who may talk to whom is its network's promise.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story that goes wrong ends there"
)]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Json, Router};
use controller::backend::kubernetes::{Cluster, KubernetesBackend, KubernetesOptions};
use controller::backend::{Backend, SpawnOrder, Tunnel};
use libtest_mimic::Arguments;
use rig::restricted::offences;
use rig::{Missing, kubernetes};
use serde_json::{Value, json};
use server::identity::{Incarnation, Secret};
use server::link::Dial;

const STORIES: [(&str, fn()); 7] = [
    ("each_rule_of_the_standard_is_felt", each_rule_of_the_standard_is_felt),
    ("every_pod_is_restricted", every_pod_is_restricted),
    ("this_is_made_and_nothing_else", this_is_made_and_nothing_else),
    ("a_component_adds_its_budget_alone", a_component_adds_its_budget_alone),
    ("who_is_not_named_may_not_talk", who_is_not_named_may_not_talk),
    ("the_controller_alone_has_rights_and_these", the_controller_alone_has_rights_and_these),
    (
        "a_door_waits_for_its_workers_before_its_clients_come",
        a_door_waits_for_its_workers_before_its_clients_come,
    ),
];

fn main() -> ExitCode {
    let missing = kubernetes::run("kubectl", &["version", "--client"]).err();
    let left_out = std::env::var("BULKHEAD_CI_CLUSTER").is_ok_and(|it| it == "0");
    let missing = missing.map(|why| Missing { why, excused: !rig::in_ci() || left_out });
    let trials = STORIES.map(|(name, story)| {
        let missing = missing.clone();
        rig::trial(name.to_owned(), move || missing, story)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// All that is made with these components.
fn manifests(components: &[&str]) -> Vec<Value> {
    let overlay = tempfile::Builder::new().prefix("bulkhead-overlay-").tempdir_in("/tmp").unwrap();
    // What a kustomization refers to has to be said relative to it.
    let manifests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s").canonicalize().unwrap();
    let manifests = format!("../..{}", manifests.display());
    let components: Vec<_> = components.iter().map(|it| format!("{manifests}/components/{it}")).collect();
    let text = json!({ "resources": [manifests], "components": components }).to_string();
    std::fs::write(overlay.path().join("kustomization.yaml"), text).unwrap();
    let printed = kubernetes::run("kubectl", &["kustomize", overlay.path().to_str().unwrap()]);
    serde_yaml::from_multiple(&printed.unwrap_or_else(|why| panic!("{why}"))).unwrap()
}

/// Those of a kind, by name.
fn of_kind(kind: &str) -> BTreeMap<String, Value> {
    let all = manifests(&[]).into_iter().filter(|it| it["kind"] == kind);
    all.map(|it| (it["metadata"]["name"].as_str().unwrap().to_owned(), it)).collect()
}

/// The pods that there are, by component.
fn pods() -> BTreeMap<String, Vec<Value>> {
    let component = |pod: &Value| {
        let component = &pod["metadata"]["labels"]["app.kubernetes.io/component"];
        component.as_str().unwrap_or_else(|| panic!("whose is {pod:#}?")).to_owned()
    };
    let templates = of_kind("Deployment").into_values().map(|it| it["spec"]["template"].clone());
    let mut pods = BTreeMap::<_, Vec<_>>::new();
    for pod in templates.chain(workers()) {
        pods.entry(component(&pod)).or_default().push(pod);
    }
    pods
}

/// The pods that the backend would have, one for each pool of the spec that is deployed.
fn workers() -> Vec<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let create = move |Json(pod): Json<Value>| {
            tell.send(pod.clone()).unwrap();
            std::future::ready(Json(pod))
        };
        let version = json!({
            "major": "1", "minor": "20", "gitVersion": "v1.20.2", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        });
        let api = Router::new()
            .route("/version", get(|| std::future::ready(Json(version))))
            .route("/api/v1/namespaces/bulkhead/pods", post(create));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async { axum::serve(listener, api).await });

        let cluster = Cluster::at(kube::Config::new(url), Some("bulkhead")).await.unwrap();
        let options =
            KubernetesOptions { worker_image: Some("bulkhead".to_owned()), ..KubernetesOptions::default() };
        let backend = KubernetesBackend::on(cluster, "bulkhead", &options).unwrap();
        let spec = include_str!("../k8s/base/bulkhead.yaml");
        let mut made = Vec::new();
        for pool in controller::spec::parse("k8s/base/bulkhead.yaml", spec).unwrap().pools {
            let life: Incarnation = format!("{}-0.1", pool.name()).parse().unwrap();
            let link = Dial::Tunnel { doors: vec!["bulkhead-door:7411".to_owned()], tls: true };
            let order = SpawnOrder {
                token: Secret::new([7; 32]).token(&life),
                life,
                pool: Arc::new(pool),
                retire_after: None,
                spec_hash: "5bec".to_owned(),
                tunnel: Some(Tunnel { link, ca: Some("a certificate".to_owned()) }),
            };
            backend.spawn(&order).await.unwrap();
            made.push(told.recv().await.unwrap());
        }
        made
    })
}

/// Writes `value` where `path` leads, and whatever is missing on the way.
fn put(mut place: &mut Value, path: &str, value: Value) {
    for key in path.split('/') {
        place = match key.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[key],
        };
    }
    *place = value;
}

fn each_rule_of_the_standard_is_felt() {
    let good = json!({
        "metadata": { "annotations": { "bulkhead.io/image": "bulkhead:1" } },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "it",
                "ports": [{ "containerPort": 80 }],
                "livenessProbe": { "httpGet": { "path": "/", "port": 80 } },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
            "volumes": [{ "name": "run", "emptyDir": {} }],
        },
    });
    assert_eq!(offences(&good), Vec::<String>::new());
    let breaches = [
        ("spec/hostNetwork", json!(true), "hostNetwork"),
        ("spec/hostPID", json!(true), "hostPID"),
        ("spec/hostIPC", json!(true), "hostIPC"),
        ("spec/volumes/0/hostPath", json!({ "path": "/" }), "hostPath"),
        ("spec/volumes/0/nfs", json!({ "server": "nas" }), "nfs"),
        ("spec/securityContext/sysctls", json!([{ "name": "kernel.msgmax", "value": "1" }]), "sysctls"),
        ("spec/securityContext/seLinuxOptions", json!({ "user": "me" }), "seLinuxOptions"),
        ("spec/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        ("spec/securityContext/runAsNonRoot", json!(null), "runAsNonRoot"),
        ("spec/securityContext/runAsUser", json!(0), "runAsUser"),
        ("spec/securityContext/seccompProfile", json!(null), "seccompProfile"),
        ("spec/securityContext/seccompProfile/type", json!("Unconfined"), "seccompProfile"),
        ("spec/containers", json!([]), "no container"),
        ("spec/initContainers", json!([{ "name": "first" }]), "first"),
        ("spec/containers/0/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        ("spec/containers/0/securityContext/runAsUser", json!(0), "runAsUser"),
        ("spec/containers/0/securityContext/seccompProfile/type", json!("Unconfined"), "seccompProfile"),
        (
            "spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(null),
            "allowPrivilegeEscalation",
        ),
        ("spec/containers/0/securityContext/privileged", json!(true), "privileged"),
        ("spec/containers/0/securityContext/capabilities/drop", json!(["KILL"]), "capabilities"),
        ("spec/containers/0/securityContext/capabilities/add", json!(["SYS_ADMIN"]), "capabilities"),
        ("spec/containers/0/securityContext/procMount", json!("Unmasked"), "procMount"),
        ("spec/containers/0/securityContext/appArmorProfile/type", json!("Unconfined"), "appArmorProfile"),
        ("spec/containers/0/securityContext/windowsOptions/hostProcess", json!(true), "windowsOptions"),
        ("spec/containers/0/ports/0/hostPort", json!(80), "hostPort"),
        ("spec/containers/0/livenessProbe/httpGet/host", json!("10.0.0.1"), "livenessProbe"),
        (
            "metadata/annotations/container.apparmor.security.beta.kubernetes.io~it",
            json!("unconfined"),
            "AppArmor",
        ),
    ];
    for (path, value, named) in breaches {
        let mut bad = good.clone();
        put(&mut bad, path, value.clone());
        let felt = offences(&bad);
        assert!(felt.iter().any(|it| it.contains(named)), "{path}: {value} is let pass: {felt:?}");
    }
}

fn every_pod_is_restricted() {
    let pods = pods();
    assert_eq!(pods.keys().collect::<Vec<_>>(), ["controller", "door", "worker"]);
    for (component, pod) in pods.iter().flat_map(|(component, all)| all.iter().map(move |it| (component, it)))
    {
        assert_eq!(offences(pod), Vec::<String>::new(), "{component}");
        // Who has no rights has no token either.
        let token = pod["spec"]["automountServiceAccountToken"] == true;
        assert_eq!(token, component == "controller", "{component}: {pod:#}");
    }
    let namespace = &of_kind("Namespace")["bulkhead"];
    for mode in ["enforce", "warn"] {
        let level = &namespace["metadata"]["labels"][format!("pod-security.kubernetes.io/{mode}")];
        assert_eq!(level, "restricted", "{namespace:#}");
    }
}

fn this_is_made_and_nothing_else() {
    let made: BTreeSet<_> = manifests(&[])
        .iter()
        .map(|it| {
            let name = format!("{}/{}", it["kind"], it["metadata"]["name"]).replace('"', "");
            // Nothing is outside of the namespace but itself.
            let inside = it["metadata"]["namespace"] == "bulkhead";
            assert_eq!(inside, name != "Namespace/bulkhead", "{it:#}");
            name
        })
        .collect();
    let made: Vec<_> = made.into_iter().collect();
    insta::assert_snapshot!(made.join("\n"), @r"
    ConfigMap/bulkhead
    Deployment/bulkhead-controller
    Deployment/bulkhead-door
    Namespace/bulkhead
    NetworkPolicy/bulkhead-controller
    NetworkPolicy/bulkhead-door
    NetworkPolicy/bulkhead-worker
    Role/bulkhead-controller
    RoleBinding/bulkhead-controller
    Service/bulkhead
    Service/bulkhead-controller
    Service/bulkhead-door
    ServiceAccount/bulkhead-controller
    ServiceAccount/bulkhead-door
    ");
}

fn a_component_adds_its_budget_alone() {
    let base = manifests(&[]);
    for (component, version) in [("pdb-v1", "policy/v1"), ("pdb-v1beta1", "policy/v1beta1")] {
        let (same, more): (Vec<_>, Vec<_>) =
            manifests(&[component]).into_iter().partition(|it| base.contains(it));
        assert_eq!(same.len(), base.len(), "{component}");
        let [budget] = more.as_slice() else { panic!("{component} makes {more:#?}") };
        assert_eq!(
            (&budget["kind"], &budget["apiVersion"]),
            (&json!("PodDisruptionBudget"), &json!(version))
        );
        assert_eq!(budget["metadata"]["namespace"], "bulkhead");
    }
}

fn a_door_waits_for_its_workers_before_its_clients_come() {
    let made = manifests(&[]);
    let door = made
        .iter()
        .find(|it| it["kind"] == "Deployment" && it["metadata"]["name"] == "bulkhead-door")
        .expect("there is a door");
    let probe = &door["spec"]["template"]["spec"]["containers"][0]["startupProbe"];
    let command: Vec<&str> =
        probe["exec"]["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(command[..3], ["/bulkhead", "door", "--probe"], "{probe:#}");
    assert!(command.contains(&"--staffed-or-after=8s"), "{probe:#}");
    // It has to be asked for longer than it may say no.
    let asked_for = probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
    assert!(asked_for > 8, "{probe:#}");
}

fn who_is_not_named_may_not_talk() {
    let pods_of = |component: &str| {
        json!({ "matchLabels": {
            "app.kubernetes.io/name": "bulkhead",
            "app.kubernetes.io/instance": "bulkhead",
            "app.kubernetes.io/component": component,
        } })
    };
    let peers = |components: &[&str]| -> Value {
        components.iter().map(|it| json!({ "podSelector": pods_of(it) })).collect()
    };
    let tcp = |ports: &[u16]| -> Value {
        ports.iter().map(|port| json!({ "protocol": "TCP", "port": port })).collect()
    };
    let both = json!(["Ingress", "Egress"]);
    let tunnel = tcp(&[7411]);
    let promised = [
        // Nobody comes in, and it dials doors alone: no name server.
        (
            "worker",
            json!({
                "podSelector": pods_of("worker"),
                "policyTypes": both,
                "egress": [{ "to": peers(&["door"]), "ports": tunnel }],
            }),
        ),
        (
            "door",
            json!({
                "podSelector": pods_of("door"),
                "policyTypes": both,
                "ingress": [
                    { "ports": tcp(&[8080, 12345]) },
                    { "from": peers(&["worker", "controller"]), "ports": tunnel },
                ],
                "egress": [],
            }),
        ),
        // The cluster's API is on one of these ports, wherever.
        (
            "controller",
            json!({
                "podSelector": pods_of("controller"),
                "policyTypes": both,
                "ingress": [{ "ports": tcp(&[9090, 9091]) }],
                "egress": [
                    { "to": peers(&["door"]), "ports": tunnel },
                    { "ports": tcp(&[443, 6443, 8443, 16443]) },
                ],
            }),
        ),
    ];
    let there: BTreeMap<_, _> =
        of_kind("NetworkPolicy").into_iter().map(|(name, it)| (name, it["spec"].clone())).collect();
    let promised = promised.map(|(component, it)| (format!("bulkhead-{component}"), it));
    assert_eq!(there, BTreeMap::from(promised));

    // Each is about its own pods, as those are labelled.
    for (component, pods) in pods() {
        for pod in pods {
            let labels = pod["metadata"]["labels"].as_object().unwrap();
            let heeds = |policy: &Value| {
                let wanted = policy["podSelector"]["matchLabels"].as_object().unwrap();
                wanted.iter().all(|(label, value)| labels.get(label) == Some(value))
            };
            let heeded: Vec<_> = there.iter().filter(|(_, it)| heeds(it)).map(|(name, _)| name).collect();
            assert_eq!(heeded, [&format!("bulkhead-{component}")], "{labels:?}");
        }
    }
}

fn the_controller_alone_has_rights_and_these() {
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        assert_eq!(of_kind(kind), BTreeMap::new(), "outside of the namespace");
    }
    let bindings = of_kind("RoleBinding");
    let [(_, binding)] = Vec::from_iter(&bindings)[..] else { panic!("{bindings:#?}") };
    assert_eq!(
        binding["subjects"],
        json!([{ "kind": "ServiceAccount", "name": "bulkhead-controller", "namespace": "bulkhead" }])
    );
    let role =
        json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bulkhead-controller" });
    assert_eq!(binding["roleRef"], role);

    let roles = of_kind("Role");
    let [(_, role)] = Vec::from_iter(&roles)[..] else { panic!("{roles:#?}") };
    let words = |list: &Value| -> Vec<String> {
        let list = list.as_array().map_or(&[][..], Vec::as_slice).iter();
        list.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let rules = role["rules"].as_array().unwrap().iter().map(|rule| {
        let what = [words(&rule["apiGroups"]).join(","), words(&rule["resources"]).join(",")].join("/");
        let named = words(&rule["resourceNames"]).join(",");
        format!("{what} {}: {}", if named.is_empty() { "*" } else { &named }, words(&rule["verbs"]).join(" "))
    });
    insta::assert_snapshot!(rules.collect::<Vec<_>>().join("\n"), @r"
    /pods *: get list watch create delete patch
    /pods/log *: get
    apps/replicasets *: get
    /services bulkhead-door: get
    coordination.k8s.io/leases *: create
    coordination.k8s.io/leases bulkhead-controller: get update
    /secrets *: create
    /secrets bulkhead-tunnel,bulkhead-ca: get
    /secrets bulkhead-ca: delete
    /configmaps bulkhead: get list watch
    ");
}
