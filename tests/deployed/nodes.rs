//! A machine of the cluster is lost, or what leads to it: nobody says a word, and what was there runs elsewhere.

use std::time::Instant;

use crate::rig::api::Worker;
use crate::rig::eventually_within;
use crate::rig::http::Connection;
use crate::rig::kubernetes::{self, CLUSTERS_PATIENCE, Deployment};
use crate::rig::load::Load;
use crate::{SOON, goes_on, nobody_lost};

pub(super) fn workers_are_cut_off_without_a_word(deployment: &Deployment) {
    let second = &deployment.nodes[1].name;
    let workers = deployment.ready("web", 4).into_iter();
    let there: Vec<_> = workers.filter(|it| it.node.as_deref() == Some(second)).collect();
    assert!(!there.is_empty(), "nobody is on {second}");
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    goes_on(&load, 50);
    let cut = deployment.silence(&there);
    let began = Instant::now();
    let api = deployment.api();
    for worker in &there {
        api.incident(&worker.life(), |it| it["steps_ms"]["ready"].is_number());
    }
    let took = began.elapsed();
    for worker in &there {
        let incident = deployment.api().told(&worker.life());
        assert_eq!(incident["cause"]["kind"], "lost", "{incident:#}");
    }
    goes_on(&load, 100);
    drop(cut);
    deployment.ready("web", 4);
    nobody_lost(load);
    assert!(took < SOON, "replaced after {}", kubernetes::seconds(took));
}

/// Who is lost is named, with the pod and the node that it was on, before anybody can tell more of it.
fn each_has_its_incident(deployment: &Deployment, lost: &[Worker]) {
    assert!(!lost.is_empty());
    for worker in lost {
        let (pod, node) = (worker.pod.as_deref().unwrap(), worker.node.as_deref().unwrap());
        let incident = deployment.api().incident(&worker.life(), |_| true);
        assert_eq!(incident["unit"], format!("{pod} on {node}"), "{incident:#}");
    }
}

pub(super) fn a_node_dies(deployment: &Deployment) {
    let second = deployment.nodes[1].name.clone();
    let there = |it: &Worker| it.node.as_deref() == Some(&second);
    // What was told before may have sent all of them to the other node, and put this one in doubt for a minute. Whoever
    // comes after that is put where fewer are.
    eventually_within(CLUSTERS_PATIENCE, "somebody is on the second node", || {
        let workers = deployment.ready("web", 4);
        if workers.iter().any(there) {
            return Ok(());
        }
        deployment.must(&["delete", "pod", workers[0].pod.as_deref().unwrap(), "--wait=false"]);
        Err(workers)
    });
    let load = Load::start(deployment.web(), 4, "/work?ms=20");
    goes_on(&load, 50);
    let lost: Vec<_> = deployment.ready("web", 4).into_iter().filter(there).collect();
    // As when its power is cut: no kernel is left that would end its connections.
    let silence = deployment.silence(&lost);
    let began = Instant::now();
    kubernetes::cluster("stop-node2");
    deployment.ready_where("web", 4, "none is on the dead node", |it| !there(it));
    let took = began.elapsed();
    goes_on(&load, 100);
    each_has_its_incident(deployment, &lost);
    drop(silence);
    kubernetes::cluster("start-node2");
    nobody_lost(load);
    assert!(took < SOON, "replaced after {}", kubernetes::seconds(took));
}

pub(super) fn a_node_dies_with_its_door(deployment: &Deployment) {
    let second = deployment.nodes[1].name.clone();
    let there = |it: &Worker| it.node.as_deref() == Some(&second);
    let stays = deployment.pods("door").remove(0);
    let goes = deployment.door_on(&second);
    let at_work = |door: &str| {
        let mut clients = [(); 3].map(|()| Connection::to(deployment.pod_address(door, 8080)));
        for client in &mut clients {
            client.send_get("/work?ms=3000");
        }
        deployment.holder_of("GET /work?ms=3000");
        let workers = deployment.api().workers().into_iter().filter(|it| !it.holding.is_empty()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
        workers
    };
    // Of those on the node that dies one at least is at the door that dies with it.
    assert!(deployment.api().scale("web", 8).status < 300);
    deployment.ready("web", 8);
    eventually_within(CLUSTERS_PATIENCE, "a worker of that node is at that door", || {
        let workers: Vec<Worker> = at_work(&goes);
        if workers.iter().any(there) { Ok(()) } else { Err(workers) }
    });
    at_work(&stays);
    // Of what its clients have to a door that dies nobody can say anything; others must not notice.
    let load = Load::start(deployment.pod_address(&stays, 8080), 4, "/work?ms=20");
    goes_on(&load, 50);
    let lost: Vec<_> = deployment.ready("web", 8).into_iter().filter(there).collect();
    let began = Instant::now();
    kubernetes::cluster("stop-node2");
    deployment.ready_where("web", 8, "none is on the dead node", |it| !there(it));
    let took = began.elapsed();
    goes_on(&load, 100);
    each_has_its_incident(deployment, &lost);
    kubernetes::cluster("start-node2");
    assert!(deployment.api().scale("web", 4).status < 300);
    deployment.must(&["delete", "pod", &goes, "--grace-period=0", "--force"]);
    nobody_lost(load);
    // Whoever was with that door is waited for at the other one first.
    assert!(took < SOON, "replaced after {}", kubernetes::seconds(took));
}
