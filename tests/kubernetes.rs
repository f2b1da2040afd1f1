//! The whole in a cluster, as `kubectl apply -k k8s` brings it there, and what a cluster can do to it.
//!
//! One deployment, on which the stories are told one after the other; the last takes it away. They need a cluster of two
//! nodes whose engines can be reached from here (`rig::kubernetes` says how that is told); where there is none they show
//! as ignored, with the reason.
//!
//! ```sh
//! cargo test -p controller --test deployed
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story that goes wrong ends there"
)]

#[path = "deployed/nodes.rs"]
mod nodes;
mod rig;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use rig::api::{Api, Worker};
use rig::http::Connection;
use rig::kubernetes::{self, CLUSTERS_PATIENCE, Cut, Deployment, Forward};
use rig::load::{Load, Tally};
use rig::restricted::offences;
use rig::{Missing, eventually, eventually_within};
use serde_json::Value;

/// What is deployed, unless a story says otherwise.
const POOLS: &str = "\
web:
  listen: 0.0.0.0:8080
  size: { workers: 4 }
  worker: { app: demo, limits: { memory: 64MiB, cpus: 0.1, open_files: 1024 } }
  restart: { backoff: 10ms, longest: 1s, deaths: 100, within: 10s }
echo:
  listen: 0.0.0.0:12345
  protocol: tcp
  turn: connection
  size: { workers: 1 }
  worker: { app: echo, limits: { memory: 64MiB, cpus: 0.1, open_files: 1024 } }";

type Story = fn(&Deployment);

/// How soon it has to be over, on a machine that has other things to do. A cluster by itself would not have marked a dead node
/// by then: that takes 40 s.
const SOON: Duration = Duration::from_secs(30);

const STORIES: [(&str, Story); 21] = [
    ("the_api_takes_what_is_written", the_api_takes_what_is_written),
    ("the_controller_may_what_it_must_and_no_more", the_controller_may_what_it_must_and_no_more),
    ("killed_workers_cost_no_request", killed_workers_cost_no_request),
    ("a_kill_is_no_order_to_finish", a_kill_is_no_order_to_finish),
    ("a_deleted_pod_costs_no_request", a_deleted_pod_costs_no_request),
    ("the_ways_in_are_as_written", the_ways_in_are_as_written),
    ("a_pod_says_what_its_worker_does", a_pod_says_what_its_worker_does),
    ("the_api_server_is_restarted", the_api_server_is_restarted),
    ("the_api_server_is_out_of_reach", the_api_server_is_out_of_reach),
    ("scaled_and_edited_while_it_runs", scaled_and_edited_while_it_runs),
    ("what_holds_a_pod_up_is_said", what_holds_a_pod_up_is_said),
    ("the_one_that_leads_is_scraped", the_one_that_leads_is_scraped),
    ("an_upgrade_replaces_everybody", an_upgrade_replaces_everybody),
    ("the_controller_that_leads_is_killed", the_controller_that_leads_is_killed),
    ("who_takes_over_goes_by_the_spec_as_it_is", who_takes_over_goes_by_the_spec_as_it_is),
    ("a_door_is_killed", a_door_is_killed),
    ("doors_are_rolled_over", doors_are_rolled_over),
    ("workers_are_cut_off_without_a_word", nodes::workers_are_cut_off_without_a_word),
    ("a_node_dies", nodes::a_node_dies),
    ("a_node_dies_with_its_door", nodes::a_node_dies_with_its_door),
    ("deleted_it_leaves_nothing", deleted_it_leaves_nothing),
];

/// The deployment, made by the first story that is told.
type Shared = Arc<Mutex<Option<Deployment>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They do things to the cluster.
    arguments.test_threads = Some(1);
    let missing = kubernetes::nodes().and_then(|nodes| match nodes.len() {
        2.. => Ok(()),
        _ => Err("two nodes are needed, and BULKHEAD_TEST_NODES names one".to_owned()),
    });
    let missing = missing.err().map(|why| Missing { why, excused: !kubernetes::is_required() });
    let shared = Shared::default();
    let trials = STORIES.map(|(name, story)| {
        let (missing, shared) = (missing.clone(), Arc::clone(&shared));
        rig::trial(
            name.to_owned(),
            move || missing,
            move || {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let deployment = shared.get_or_insert_with(|| Deployment::apply(POOLS));
                deployment.ready("web", 4);
                deployment.ready("echo", 1);
                story(deployment);
            },
        )
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    drop(shared.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}

/// Who is alive in a pool, by place.
fn lives(workers: &[Worker]) -> BTreeMap<String, u64> {
    workers.iter().map(|it| (it.id.clone(), it.generation)).collect()
}

fn nobody_lost(load: Load) {
    let Tally { answered, failed } = load.stop();
    assert_eq!(failed, Vec::<String>::new(), "of {answered} that were answered");
    assert!(answered > 0);
}

/// Waits until so many more requests have been answered.
fn goes_on(load: &Load, more: u64) {
    let so_far = load.answered();
    eventually("clients are served", || {
        let answered = load.answered();
        if answered >= so_far + more { Ok(()) } else { Err(answered - so_far) }
    });
}

fn the_api_takes_what_is_written(deployment: &Deployment) {
    let served = kubernetes::run("kubectl", &["api-versions"]).unwrap();
    let components = [("pdb-v1", "policy/v1"), ("pdb-v1beta1", "policy/v1beta1")];
    let fit = |version: &str| served.lines().any(|it| it == version);
    let fit: Vec<_> = components.iter().filter(|(_, version)| fit(version)).collect();
    assert!(!fit.is_empty(), "no component is for a cluster that serves {served}");
    for (component, _) in fit {
        let said = deployment.would_apply_with(component);
        assert!(said.contains("poddisruptionbudget.policy/bulkhead-door created (server dry run)"), "{said}");
    }
}

fn the_controller_may_what_it_must_and_no_more(deployment: &Deployment) {
    let must = [
        "create pods",
        "watch pods",
        "delete pods",
        "patch pods",
        "get pods --subresource=log",
        "get secrets/bulkhead-ca",
        "update leases/bulkhead-controller",
        "watch configmaps/bulkhead",
    ];
    for what in must {
        assert!(deployment.may("bulkhead-controller", what), "the controller may not {what}");
    }
    let never = [
        "list secrets",
        "get secrets/another",
        "create pods --subresource=exec",
        "list nodes",
        "get secrets/bulkhead-ca -n default",
        "list pods -n default",
    ];
    for what in never {
        assert!(!deployment.may("bulkhead-controller", what), "the controller may {what}");
    }
    // Whom doors and workers run as.
    for account in ["bulkhead-door", "default"] {
        for what in ["get pods", "get secrets/bulkhead-ca", "get configmaps/bulkhead"] {
            assert!(!deployment.may(account, what), "{account} may {what}");
        }
    }

    for (component, has_a_token) in [("worker", false), ("door", false), ("controller", true)] {
        for pod in deployment.pods_as_they_are(component) {
            assert_eq!(offences(&pod), Vec::<String>::new(), "{pod:#}");
            let (name, node) = (&pod["metadata"]["name"], &pod["spec"]["nodeName"]);
            let process = deployment.process(name.as_str().unwrap(), node.as_str().unwrap(), component);
            let account = "var/run/secrets/kubernetes.io/serviceaccount";
            let token = format!("/proc/{}/root/{account}/token", process.as_raw_nonzero());
            assert_eq!(std::fs::exists(&token).unwrap(), has_a_token, "{name}: {token}");
        }
    }
}

fn killed_workers_cost_no_request(deployment: &Deployment) {
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    let mut named = 0;
    for round in 0..6 {
        let workers = deployment.ready("web", 4);
        let victim = &workers[round % workers.len()];
        let (pod, node) = (victim.pod.as_deref().unwrap(), victim.node.as_deref().unwrap());
        if round % 2 == 0 {
            deployment.kill_past_the_cluster(pod, node, "worker");
            let incident = deployment.api().told(&victim.life());
            // Of one that had something unread the kernel resets the connection, which may be anybody's doing: then it is
            // killed once more, for certainty, and nobody can tell which of the two it was.
            let detail = incident["cause"]["detail"].as_str().unwrap();
            assert!(detail == "SIGKILL" || detail.contains("reset"), "{incident:#}");
            named += usize::from(detail == "SIGKILL");
            assert_eq!(incident["unit"], format!("{pod} on {node}"), "{incident:#}");
        } else {
            deployment.must(&["delete", "pod", pod, "--grace-period=0", "--force"]);
        }
        let (id, generation) = (victim.id.clone(), victim.generation);
        deployment.ready_where("web", 4, "the next one has its place", |it| {
            it.id != id || it.generation > generation
        });
    }
    assert!(named > 0, "not one of three was said to have died of what killed it");
    nobody_lost(load);
}

fn a_kill_is_no_order_to_finish(deployment: &Deployment) {
    let mut client = deployment.connect();
    client.send_get("/work?ms=5000");
    let victim = deployment.holder_of("GET /work?ms=5000");
    let answer = deployment.api().kill(&victim.id, "SIGKILL");
    assert!(answer.status < 300, "{}", answer.text());
    let incident = deployment.api().told(&victim.life());
    // A worker that is told to finish would have finished this one.
    assert_eq!(incident["held"][0]["outcome"], "redelivered", "{incident:#}");
    assert_eq!(client.response().text(), "worked 5000 ms\n");
    assert_eq!(incident["cause"]["detail"], "SIGKILL, sent on request", "{incident:#}");
}

fn a_deleted_pod_costs_no_request(deployment: &Deployment) {
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    goes_on(&load, 50);
    let victim = deployment.ready("web", 4).remove(0);
    // As anybody would, without force and with the time that its pod gives it.
    deployment.must(&["delete", "pod", victim.pod.as_deref().unwrap(), "--wait=false"]);
    let next = deployment
        .ready_where("web", 4, "one anew", |it| it.id != victim.id || it.generation > victim.generation);
    let next = next.iter().find(|it| it.id == victim.id).unwrap();
    assert_eq!(next.generation, victim.generation + 1);
    goes_on(&load, 50);
    nobody_lost(load);

    let told = |what: &str| {
        eventually(&format!("{} is told to have {what}", victim.life()), || {
            let events = deployment.bulkhead(&["events", "--json"])?;
            let ours = events
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())
                .filter(|it| it["worker"] == victim.id.as_str() && it["generation"] == victim.generation);
            let ours: Vec<_> = ours.map(|it| it["what"].to_string()).collect();
            if ours.contains(&format!("{what:?}")) { Ok(()) } else { Err(ours.join(" ")) }
        });
    };
    told("left");
    // It was asked to go, and has gone: nothing has happened to it.
    let incidents = deployment.api().incidents();
    assert!(incidents.iter().all(|it| it["id"] != victim.life()), "{incidents:#?}");
}

/// Those of the README: by `kubectl exec` to the command line, by `kubectl port-forward` to the dashboard.
fn the_ways_in_are_as_written(deployment: &Deployment) {
    let json = |arguments: &[&str]| -> Vec<Value> {
        let said = deployment.bulkhead(arguments).unwrap_or_else(|why| panic!("{why}"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"))
    };
    let workers = deployment.ready("web", 4);
    let listed = json(&["ps", "--json"]);
    for worker in &workers {
        let pod = worker.pod.as_deref().unwrap();
        let is_listed = listed.iter().any(|it| it["id"] == worker.id.as_str() && it["pod"] == pod);
        assert!(is_listed, "{worker:?} is not in {listed:#?}");
    }

    let victim = &workers[0];
    // Asked for one after the other, with perhaps a line between them.
    eventually("the command line shows what the pod has said", || {
        let said = json(&["logs", "--json", &victim.id]);
        let in_the_pod = deployment.must(&["logs", victim.pod.as_deref().unwrap()]);
        if said.iter().filter_map(Value::as_str).eq(in_the_pod.lines()) {
            Ok(())
        } else {
            Err((said, in_the_pod))
        }
    });
    let refusal = deployment.bulkhead(&["kill", &victim.id, "--signal", "SIGSEGV"]).unwrap_err();
    assert!(refusal.contains("Kubernetes knows SIGTERM and SIGKILL alone"), "{refusal}");
    deployment.bulkhead(&["kill", &victim.id]).unwrap_or_else(|why| panic!("{why}"));
    deployment.api().told(&victim.life());
    let incidents = json(&["incidents", "--json"]);
    let incident = incidents.iter().find(|it| it["id"] == victim.life());
    let incident = incident.unwrap_or_else(|| panic!("{} is not in {incidents:#?}", victim.life()));
    assert_eq!(incident["cause"]["detail"], "SIGKILL, sent on request", "{incident:#}");

    let forward = Forward::to(deployment, "service/bulkhead-controller", 9090);
    let page = Api::at(forward.address).get("/");
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.text().contains("<title>Bulkhead"), "{}", page.text());
    assert_eq!(Api::at(forward.address).get("/api/v1/workers").status, 401, "no token was asked for");
    assert_eq!(deployment.api().by_way_of(forward.address).workers().len(), workers.len() + 1);
}

fn what_dies_now_is_seen_and_replaced(deployment: &Deployment) {
    let victim = deployment.ready("web", 4).remove(0);
    deployment.kill_past_the_cluster(
        victim.pod.as_deref().unwrap(),
        victim.node.as_deref().unwrap(),
        "worker",
    );
    deployment.api().told(&victim.life());
}

fn a_pod_says_what_its_worker_does(deployment: &Deployment) {
    let says = |pod: &str, phase: &str| {
        let labels = "bulkhead.io/pool,bulkhead.io/worker,bulkhead.io/phase";
        eventually(&format!("{pod} says that its worker is {phase}"), || {
            let ours = "app.kubernetes.io/managed-by=bulkhead,app.kubernetes.io/component=worker";
            let table = deployment.must(&["get", "pods", "-l", ours, "-L", labels, "--no-headers"]);
            let row = table.lines().find(|row| row.split_whitespace().next() == Some(pod));
            let said = row.is_some_and(|row| row.split_whitespace().last() == Some(phase));
            if said { Ok(row.unwrap_or_default().to_owned()) } else { Err(table.clone()) }
        })
    };
    for worker in deployment.ready("web", 4) {
        let row = says(worker.pod.as_deref().unwrap(), "ready");
        assert!(row.contains(" web ") && row.contains(&format!(" {} ", worker.id)), "{row}");
    }
    let mut client = deployment.connect();
    client.send_get("/work?ms=10000");
    let leaves = deployment.holder_of("GET /work?ms=10000");
    assert!(deployment.api().drain(&leaves.id).status < 300);
    says(leaves.pod.as_deref().unwrap(), "draining");
    assert_eq!(client.response().text(), "worked 10000 ms\n");
    let next = deployment
        .ready_where("web", 4, "one anew", |it| it.id != leaves.id || it.generation > leaves.generation);
    let next = next.iter().find(|it| it.id == leaves.id).unwrap();
    says(next.pod.as_deref().unwrap(), "ready");
}

fn the_api_server_is_restarted(deployment: &Deployment) {
    let before = lives(&deployment.ready("web", 4));
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    kubernetes::cluster("restart-api");
    goes_on(&load, 100);
    assert_eq!(lives(&deployment.ready("web", 4)), before, "workers were replaced although none had died");
    what_dies_now_is_seen_and_replaced(deployment);
    nobody_lost(load);
}

fn the_api_server_is_out_of_reach(deployment: &Deployment) {
    let before = lives(&deployment.ready("web", 4));
    let api = deployment.api().address();
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    let controllers = deployment.pods("controller").into_iter();
    let cut = Cut::of(controllers.map(|pod| {
        let address = deployment.pod_address(&pod, 0).ip();
        ["INPUT", "-s", &address.to_string(), "-p", "tcp", "--dport", "6443"].map(str::to_owned).to_vec()
    }));
    // Whoever leads gives up when it cannot renew its lease, and nobody can take over.
    eventually_within(CLUSTERS_PATIENCE, "nobody leads", || match Connection::try_to(api) {
        Ok(_) => Err("somebody is ready"),
        Err(_) => Ok(()),
    });
    goes_on(&load, 100);
    drop(cut);
    assert_eq!(lives(&deployment.ready("web", 4)), before, "workers were replaced although none had died");
    what_dies_now_is_seen_and_replaced(deployment);
    nobody_lost(load);
}

fn scaled_and_edited_while_it_runs(deployment: &Deployment) {
    let leader = deployment.leader();
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    assert!(deployment.api().scale("web", 6).status < 300);
    let six = lives(&deployment.ready("web", 6));
    let began = Instant::now();
    deployment.change_spec(&POOLS.replace("workers: 4", "workers: 3"));
    let three = lives(&deployment.ready("web", 3));
    let took = began.elapsed();
    assert!(took < SOON, "an edited ConfigMap was followed after {took:?}");
    assert!(three.iter().all(|(id, generation)| six.get(id) == Some(generation)), "{three:?} of {six:?}");
    deployment.change_spec(POOLS);
    deployment.ready("web", 4);
    assert_eq!(deployment.leader(), leader, "it was restarted");
    nobody_lost(load);
}

fn what_holds_a_pod_up_is_said(deployment: &Deployment) {
    let trouble = |pool: &str, words: [&str; 2]| {
        let api = deployment.api();
        eventually(&format!("{pool} is in trouble: {words:?}"), || {
            let pool: Value = api.pool(pool);
            let said = pool["trouble"].as_str().unwrap_or_default();
            if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(pool) }
        });
    };
    // No node has so much.
    deployment
        .change_spec(&POOLS.replacen("memory: 64MiB", "memory: 4096GiB", 2).replacen("4096GiB", "64MiB", 1));
    trouble("echo", ["Unschedulable", "Insufficient memory"]);
    deployment.change_spec(POOLS);
    deployment.ready("echo", 1);

    let pods = deployment.must(&["get", "pods", "-o", "name"]).lines().count();
    deployment.must(&["create", "quota", "small", &format!("--hard=pods={pods}")]);
    let counted = || {
        let used = deployment.must(&["get", "quota", "small", "-o", "jsonpath={.status.used.pods}"]);
        if used.is_empty() { Err(used) } else { Ok(()) }
    };
    eventually("somebody has counted", counted);
    assert!(deployment.api().scale("web", 6).status < 300);
    trouble("web", ["exceeded quota", "small"]);
    deployment.must(&["delete", "quota", "small"]);
    deployment.ready("web", 6);
    assert!(deployment.api().scale("web", 4).status < 300);
    deployment.ready("web", 4);

    let image = |set: &str, wanted: bool| {
        deployment.must(&["set", "env", "deployment/bulkhead-controller", set]);
        eventually("a controller leads that was made so", || {
            let names = "jsonpath={.spec.containers[0].env[*].name}";
            let leader = deployment.kubectl(&["get", "pod", &deployment.leader(), "-o", names])?;
            if leader.contains("BULKHEAD_WORKER_IMAGE") == wanted { Ok(()) } else { Err(leader) }
        });
    };
    // Who was made from another image than pods are now is replaced, one at a time: one place waits, and three serve.
    image("BULKHEAD_WORKER_IMAGE=localhost:1/no-such-image:1", true);
    trouble("web", ["ErrImagePull", "localhost:1/no-such-image:1"]);
    let api = deployment.api();
    // One of them may be on its way to another door.
    eventually("three serve", || {
        let web: Vec<_> = api.try_workers()?.into_iter().filter(|it| it.pool == "web").collect();
        let serve = web.iter().filter(|it| it.is_ready()).count();
        if serve == 3 { Ok(()) } else { Err(format!("{web:?}")) }
    });
    image("BULKHEAD_WORKER_IMAGE-", false);
    deployment.ready("web", 4);
}

fn an_upgrade_replaces_everybody(deployment: &Deployment) {
    let before = deployment.ready("web", 4);
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    let image = deployment.upgrade();
    for part in ["bulkhead-door", "bulkhead-controller"] {
        deployment.must(&["rollout", "status", &format!("deployment/{part}"), "--timeout=120s"]);
    }
    let after =
        deployment.ready_where("web", 4, "they are others", |it| before.iter().all(|old| old.pod != it.pod));
    for worker in after {
        let runs =
            ["get", "pod", worker.pod.as_deref().unwrap(), "-o", "jsonpath={.spec.containers[0].image}"];
        assert_eq!(deployment.must(&runs), image);
    }
    goes_on(&load, 50);
    nobody_lost(load);
}

fn the_one_that_leads_is_scraped(deployment: &Deployment) {
    let annotation = |what: &str| {
        let path = format!("jsonpath={{.metadata.annotations.prometheus\\.io/{what}}}");
        deployment.must(&["get", "service", "bulkhead-controller", "-o", &path])
    };
    let (port, path) = (annotation("port"), annotation("path"));
    let mut connection = Connection::to(deployment.service("bulkhead-controller", port.parse().unwrap()));
    let answer = connection.get(&path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("\nbulkhead_workers{"), "{}", answer.text());
    // Nothing else is to be had there.
    assert_eq!(connection.get("/api/v1/workers").status, 404);
}

/// Kills the controller that leads, and waits until the other does.
fn another_leads(deployment: &Deployment, load: &Load) {
    let leader = deployment.leader();
    deployment.must(&["delete", "pod", &leader, "--grace-period=0", "--force"]);
    goes_on(load, 100);
    eventually("another leads", || {
        let now = deployment.leader();
        if now.is_empty() || now == leader { Err(now) } else { Ok(()) }
    });
}

fn the_controller_that_leads_is_killed(deployment: &Deployment) {
    let before = lives(&deployment.ready("web", 4));
    assert_eq!(deployment.pods("controller").len(), 2, "two at once, of which one leads");
    // The pod of one who has led once, on a node that is not there: it cannot say that it leads no more.
    let labels = "app.kubernetes.io/name=bulkhead,app.kubernetes.io/instance=bulkhead,\
                  app.kubernetes.io/component=controller,bulkhead.io/leads=true";
    let nowhere = r#"{ "spec": {
        "nodeSelector": { "nowhere": "true" },
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{ "name": "once", "image": "bulkhead", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }] } }"#;
    let (labels, nowhere) = (format!("--labels={labels}"), format!("--overrides={nowhere}"));
    deployment.must(&["run", "once", "--image=bulkhead", "--restart=Never", &labels, &nowhere]);
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    another_leads(deployment, &load);
    eventually("the Service leads to nobody else", || {
        let leads = deployment.must(&["get", "pods", "-l", "bulkhead.io/leads=true", "-o", "name"]);
        if leads.trim() == format!("pod/{}", deployment.leader()) { Ok(()) } else { Err(leads) }
    });
    deployment.must(&["delete", "pod", "once"]);
    assert_eq!(lives(&deployment.ready("web", 4)), before, "workers were replaced although none had died");
    nobody_lost(load);
}

fn who_takes_over_goes_by_the_spec_as_it_is(deployment: &Deployment) {
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    // The one that waits has been started before that.
    deployment.change_spec(&POOLS.replace("workers: 4", "workers: 5"));
    let before = lives(&deployment.ready("web", 5));
    another_leads(deployment, &load);
    deployment.ready("web", 5);
    goes_on(&load, 100);
    assert_eq!(lives(&deployment.ready("web", 5)), before, "it went by a spec that holds no longer");
    // What somebody has said to the last one stands, too.
    assert!(deployment.api().scale("web", 6).status < 300);
    let before = lives(&deployment.ready("web", 6));
    another_leads(deployment, &load);
    deployment.ready("web", 6);
    goes_on(&load, 100);
    assert_eq!(lives(&deployment.ready("web", 6)), before, "it did not know that it had been scaled");
    deployment.change_spec(POOLS);
    deployment.ready("web", 4);
    nobody_lost(load);
}

fn a_door_is_killed(deployment: &Deployment) {
    let before = lives(&deployment.ready("web", 4));
    let incidents = deployment.api().incidents().len();
    for round in 0..2 {
        let mut doors = deployment.pods("door");
        let door = doors.remove(round);
        let elsewhere = Load::start(deployment.pod_address(&doors[0], 8080), 2, "/work?ms=20");
        goes_on(&elsewhere, 10);
        let began = Instant::now();
        let runs = || {
            let state =
                "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
            deployment.must(&["get", "pod", &door, "-o", state])
        };
        let first = runs();
        deployment.kill_past_the_cluster(&door, &deployment.nodes[0].name, "door");
        assert_eq!(
            lives(&deployment.ready("web", 4)),
            before,
            "workers were replaced although none had died"
        );
        assert!(began.elapsed() < SOON, "workers found another door after {:?}", began.elapsed());
        // The cluster goes on sending clients to a door that has just died, for as long as it takes to notice.
        eventually("clients are served", || -> std::io::Result<()> {
            let mut connection = Connection::try_to(deployment.web())?;
            connection.try_send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
            connection.try_response().map(|answer| assert_eq!(answer.status, 200))
        });
        eventually_within(CLUSTERS_PATIENCE, "it has been started again and is ready", || match runs() {
            now if now != first && now.ends_with("true") => Ok(()),
            now => Err(now),
        });
        // Nobody else's clients have noticed.
        goes_on(&elsewhere, 10);
        nobody_lost(elsewhere);
    }
    assert_eq!(deployment.api().incidents().len(), incidents, "a door's death is no worker's");
}

fn doors_are_rolled_over(deployment: &Deployment) {
    let before = lives(&deployment.ready("web", 4));
    let incidents = deployment.api().incidents().len();
    let who_stays = Load::start(deployment.web(), 2, "/work?ms=20");
    let newcomers = Load::start_with_new_connections(deployment.web(), 2, "/work?ms=20");
    deployment.must(&["rollout", "restart", "deployment/bulkhead-door"]);
    deployment.must(&["rollout", "status", "deployment/bulkhead-door", "--timeout=120s"]);
    eventually_within(CLUSTERS_PATIENCE, "the old doors are gone", || {
        let listed =
            deployment.must(&["get", "pods", "-l", "app.kubernetes.io/component=door", "-o", "name"]);
        if listed.lines().count() == 2 { Ok(()) } else { Err(listed) }
    });
    for load in [who_stays, newcomers] {
        goes_on(&load, 50);
        nobody_lost(load);
    }
    assert_eq!(lives(&deployment.ready("web", 4)), before, "workers were replaced although only doors were");
    assert_eq!(deployment.api().incidents().len(), incidents, "a door's end is no worker's");
}

fn deleted_it_leaves_nothing(deployment: &Deployment) {
    deployment.delete();
    eventually_within(CLUSTERS_PATIENCE, "nothing is left", || {
        let left = deployment.leftovers();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
