//! What a queue in front of the workers is worth: short requests among long ones, on the same worker pods behind the
//! door, and behind a plain Service of the cluster, which picks one at random whether it is busy or not.
//!
//! Each plain pod is this program with one worker behind its own listener: who is sent there waits for that worker.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::load::{self, Connections, Plan, Shape, Tally};

use crate::Sample;
use crate::rig::kubernetes::{Deployment, nodes};
use crate::rig::{eventually, http::Connection};

/// How many workers, and behind how many doors. Each door has its share of the workers and a queue of its own, so it is
/// the number of workers at each that tells how well it does.
const SETTINGS: [(usize, usize); 3] = [(8, 1), (8, 2), (16, 2)];
const POOLS: &str = "\
web:
  listen: 0.0.0.0:8080
  size: { workers: WORKERS }
  worker: { app: demo, limits: { memory: 64MiB, cpus: 0.1, open_files: 1024 } }";
const ROUNDS: usize = 3;
const SECONDS: u64 = 20;
const SHORT_MS: f64 = 5.0;
const LONG_MS: f64 = 200.0;
/// Of the workers' time.
const LOAD: f64 = 0.7;

pub(crate) fn measure() {
    println!(
        "\nservice: short requests among long ones, open loop at 70% load on one-at-a-time workers, 90% of {SHORT_MS} ms and 10% of {LONG_MS} ms, a \
         connection each, {SECONDS} s, {ROUNDS} rounds in turn"
    );
    if let Err(why) = nodes() {
        return println!("  not measured: {why}");
    }
    let pools = |workers: usize| POOLS.replace("WORKERS", &workers.to_string());
    let deployment = Deployment::apply(&pools(SETTINGS[0].0));
    let plain = plain(&deployment);
    for (workers, doors) in SETTINGS {
        deployment.change_spec(&pools(workers));
        for (name, replicas) in [("plain", workers), ("bulkhead-door", doors)] {
            deployment.must(&["scale", &format!("deployment/{name}"), &format!("--replicas={replicas}")]);
            deployment.must(&["rollout", "status", &format!("deployment/{name}"), "--timeout=180s"]);
        }
        eventually("there are as many doors", || {
            let pods = deployment.pods("door");
            if pods.len() == doors { Ok(()) } else { Err(pods) }
        });
        deployment.ready("web", workers);
        let rate = LOAD * workers as f64 / ((0.9 * SHORT_MS + 0.1 * LONG_MS) / 1e3);
        // A cluster takes its time to forget doors that are gone. Of the plain pods there are only ever more.
        eventually("nobody is sent to a door that is gone", || {
            match ask(deployment.web(), rate, Duration::from_secs(2), Duration::from_secs(2)).failed {
                failed if failed.is_empty() => Ok(()),
                failed => Err(failed),
            }
        });
        let rounds: Vec<_> = (0..ROUNDS).map(|_| (p99(deployment.web(), rate), p99(plain, rate))).collect();
        println!("    {workers} workers, {doors} door(s), {rate:.0}/s");
        println!("      p99 of the short, ms                 {}", Sample::of(rounds.iter().map(|it| it.0)));
        println!("      the same, plain Service, ms          {}", Sample::of(rounds.iter().map(|it| it.1)));
        println!(
            "      times better                         {}",
            Sample::of(rounds.iter().map(|it| it.1 / it.0))
        );
    }
    deployment.delete();
}

/// The p99 of the short requests, in ms.
fn p99(address: SocketAddr, rate: f64) -> f64 {
    let tally = ask(address, rate, Duration::from_secs(SECONDS), Duration::from_secs(30));
    assert_eq!(tally.failures(), 0, "{:?}", tally.failed);
    tally.latencies[0].quantile_ms(0.99)
}

fn ask(address: SocketAddr, rate: f64, time: Duration, patience: Duration) -> Tally {
    let target = |ms: f64| format!("/work?ms={ms}");
    load::run(Plan {
        targets: vec![(target(SHORT_MS), 9), (target(LONG_MS), 1)],
        shape: Shape::Open { rate, most: 4096 },
        patience,
        connections: Connections::OneForEach,
        ..Plan::closed(address, "/", 0, time)
    })
    .unwrap()
}

/// As many pods with a worker each, behind a Service and nothing else.
fn plain(deployment: &Deployment) -> SocketAddr {
    let image = deployment.must(&[
        "get",
        "deployment",
        "bulkhead-door",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ]);
    let mut apply = Command::new("kubectl")
        .args(["-n", &deployment.namespace, "apply", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    apply.stdin.take().unwrap().write_all(manifest(&image).as_bytes()).unwrap();
    assert!(apply.wait().unwrap().success());
    deployment.must(&["rollout", "status", "deployment/plain", "--timeout=180s"]);
    let address = deployment.must(&["get", "service", "plain", "-o", "jsonpath={.spec.clusterIP}"]);
    let address = SocketAddr::new(address.parse().unwrap(), 80);
    eventually("the plain Service answers", || Connection::try_to(address).map(drop));
    address
}

fn manifest(image: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: ConfigMap
metadata: {{ name: plain }}
data:
  bulkhead.yaml: |
    backend: process
    api: {{ listen: 127.0.0.1:9090 }}
    pools:
      web:
        listen: 0.0.0.0:8080
        size: {{ workers: 1 }}
        worker: {{ app: demo }}
        queue: {{ depth: 1024, wait: 30s }}
---
apiVersion: v1
kind: Service
metadata: {{ name: plain }}
spec:
  selector: {{ app: plain }}
  ports: [{{ port: 80, targetPort: 8080 }}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: plain }}
spec:
  podSelector: {{ matchLabels: {{ app: plain }} }}
  ingress: [{{}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: plain }}
spec:
  replicas: 1
  selector: {{ matchLabels: {{ app: plain }} }}
  template:
    metadata: {{ labels: {{ app: plain }} }}
    spec:
      automountServiceAccountToken: false
      securityContext: {{ runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
        - name: plain
          image: {image}
          imagePullPolicy: IfNotPresent
          args: [up, --backend=process, --run-dir=/run/bulkhead/plain, --spec=/etc/bulkhead/bulkhead.yaml]
          readinessProbe: {{ httpGet: {{ path: \"/work?ms=0\", port: 8080 }}, periodSeconds: 2 }}
          resources: {{ requests: {{ cpu: 50m, memory: 32Mi }}, limits: {{ memory: 256Mi }} }}
          securityContext: {{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{ drop: [ALL] }} }}
          volumeMounts:
            - {{ name: run, mountPath: /run }}
            - {{ name: spec, mountPath: /etc/bulkhead }}
      volumes:
        - {{ name: run, emptyDir: {{ medium: Memory }} }}
        - {{ name: spec, configMap: {{ name: plain }} }}
"
    )
}
