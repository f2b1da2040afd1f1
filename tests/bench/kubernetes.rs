//! How fast capacity is back in a cluster: one worker's process is killed after another, then a node dies.

use std::time::Instant;

use jiff::Timestamp;
use rustix::process::{Signal, kill_process};

use crate::Sample;
use crate::rig::kubernetes::{Deployment, cluster, nodes};
use crate::rig::load::Load;

const KILLS: usize = 20;
const CLIENTS: usize = 4;
const POOLS: &str = "\
web:
  listen: 0.0.0.0:8080
  size: { workers: 4 }
  worker: { app: demo, limits: { memory: 64MiB, cpus: 0.1, open_files: 1024 } }
  restart: { backoff: 1ms, longest: 1ms, deaths: 10000, within: 10s }";

pub(crate) fn measure() {
    println!(
        "\nkubernetes: {CLIENTS} keep-alive clients, GET /work?ms=20 on 4 pods; {KILLS} kills in a row, then a node's end"
    );
    match nodes() {
        Err(why) => return println!("  not measured: {why}"),
        Ok(nodes) if nodes.len() < 2 => return println!("  not measured: it takes two nodes"),
        Ok(_) => {}
    }
    let deployment = Deployment::apply(POOLS);
    deployment.ready("web", 4);
    let load = Load::start(deployment.web(), CLIENTS, "/work?ms=20");
    kills(&deployment);
    let tally = load.stop();
    println!("    {} answered, {} failed", tally.answered, tally.failed.len());
    node(&deployment);
    deployment.delete();
}

fn kills(deployment: &Deployment) {
    let (mut noticed, mut ready) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let victim = deployment.ready("web", 4).swap_remove(kill % 4);
        let (pod, node) = (victim.pod.as_deref().unwrap(), victim.node.as_deref().unwrap());
        let process = deployment.process(pod, node, "worker");
        // By the clock of this machine, which is that of all nodes.
        let killed = Timestamp::now();
        kill_process(process, Signal::KILL).unwrap();
        let told = deployment.api().told(&victim.life());
        let at: Timestamp = told["at"].as_str().unwrap().parse().unwrap();
        noticed.push(at.duration_since(killed).as_secs_f64() * 1e3);
        ready.extend(told["steps_ms"]["ready"].as_f64());
    }
    println!("    noticed after, ms                     {}", Sample::of(noticed));
    println!("    replacement ready after, ms           {}", Sample::of(ready.clone()));
    println!("      the first kill                      {:.0}", ready[0]);
    println!("      the {KILLS}th kill                       {:.0}", ready[KILLS - 1]);
}

fn node(deployment: &Deployment) {
    let second = deployment.nodes[1].name.clone();
    let mut lost = deployment.ready("web", 4);
    lost.retain(|it| it.node.as_deref() == Some(&second));
    let load = Load::start(deployment.web(), CLIENTS, "/work?ms=20");
    // As when its power is cut: no kernel is left that would end its connections.
    let silence = deployment.silence(&lost);
    let began = Instant::now();
    cluster("stop-node2");
    deployment.ready_where("web", 4, "none is on the dead node", |it| it.node.as_deref() != Some(&second));
    let took = began.elapsed();
    let tally = load.stop();
    drop(silence);
    cluster("start-node2");
    println!(
        "  a node dies without a word, with {} of 4 workers: {} answered, {} failed",
        lost.len(),
        tally.answered,
        tally.failed.len()
    );
    println!("    all replaced elsewhere after, ms      {:.0}", took.as_secs_f64() * 1e3);
}
