//! The whole as somebody gets it who has Docker and nothing else: `docker compose up --build` from a clean checkout.
//!
//! One story, told with each of the programs that read a compose.yaml. It takes as long as a release build takes
//! where the engine has not built this commit before. What is told is what is committed: the image is built from a
//! clone. Without an engine, a compose program or a base image it shows as ignored, with the reason; on CI an engine
//! that answers makes it required, with one of the two programs at least.
//!
//! ```sh
//! cargo test -p controller --test compose
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story that goes wrong ends there"
)]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use libtest_mimic::Arguments;
use rig::Missing;
use rig::backend::{Availability, Backend, docker};
use rig::compose::{Compose, Deployment, base_image};
use rig::load::Load;
use serde_json::json;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after the other: the second finds the layers that the first has built.
    arguments.test_threads = Some(1);
    let trials = Compose::ALL.map(|compose| {
        let name = format!("{compose}::from_a_clean_checkout").replace(' ', "_");
        rig::trial(name, move || what_is_missing(compose), move || from_a_clean_checkout(compose))
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn what_is_missing(compose: Compose) -> Option<Missing> {
    if let Availability::Missing { why } = Backend::Docker.availability() {
        return Some(Missing { why, excused: true });
    }
    let optional = std::env::var("CI").as_deref() != Ok("true");
    if let Err(why) = compose.is_here() {
        let another = Compose::ALL.into_iter().any(|other| other.is_here().is_ok());
        return Some(Missing { why, excused: optional || another });
    }
    base_image().err().map(|why| Missing { why, excused: optional })
}

fn from_a_clean_checkout(compose: Compose) {
    let deployment = Deployment::from_clean_checkout(compose);
    deployment.up_and_build();
    deployment.ready("web", 4);
    deployment.ready("echo", 4);

    both_pools_answer(&deployment);
    the_door_holds_nothing_worth_taking(&deployment);
    a_killed_worker_costs_no_request(&deployment);
    a_killed_controller_costs_no_request(&deployment);
    a_restart_of_the_controller_costs_no_request(&deployment);
    down_lets_turns_finish_and_leaves_nothing(&deployment);
}

fn both_pools_answer(deployment: &Deployment) {
    let page = deployment.connect().get("/");
    assert_eq!((page.status, page.line("pool")), (200, "web".to_owned()));
    let mut echo = deployment.connect_to_echo();
    echo.send("hello");
    assert_eq!(echo.exactly(11), b"Echo: hello");
}

fn the_door_holds_nothing_worth_taking(deployment: &Deployment) {
    let door = deployment.inspect("door");
    assert_eq!(door["Config"]["User"], "65532:65532");
    let host = &door["HostConfig"];
    assert_eq!(
        (&host["ReadonlyRootfs"], &host["CapDrop"], &host["CapAdd"], &host["Privileged"]),
        (&json!(true), &json!(["ALL"]), &json!(null), &json!(false))
    );
    let mounts = door["Mounts"].as_array().unwrap();
    assert!(mounts.iter().all(|it| it["Type"] == "volume"), "{mounts:#?}");
    // The controller has the engine's socket, and its API is not for the network.
    let published = &deployment.inspect("controller")["HostConfig"]["PortBindings"];
    let everywhere = published.as_object().unwrap().values().flat_map(|at| at.as_array().unwrap());
    assert!(everywhere.into_iter().all(|at| at["HostIp"] == "127.0.0.1"), "{published:#}");
    // Nor does the door share one with it: they meet in a volume.
    let networks = |service| -> BTreeSet<String> {
        let attached = deployment.inspect(service)["NetworkSettings"]["Networks"].take();
        attached.as_object().unwrap().keys().cloned().collect()
    };
    let (of_door, of_controller) = (networks("door"), networks("controller"));
    assert!(of_door.is_disjoint(&of_controller), "{of_door:?} and {of_controller:?}");
}

fn a_killed_worker_costs_no_request(deployment: &Deployment) {
    let mut client = deployment.connect();
    client.send_get("/work?ms=5000");
    let victim = deployment.holder_of("GET /work?ms=5000");
    docker(&["kill", victim.container.as_deref().expect("a container")]).unwrap();
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "worked 5000 ms\n"));

    let incident = deployment.api().told(&victim.life());
    assert_eq!(incident["cause"]["kind"], "signal", "{incident:#}");
    assert_eq!(incident["cause"]["detail"], "SIGKILL", "{incident:#}");
    assert_eq!(incident["held"][0]["outcome"], "redelivered", "{incident:#}");
    let told = deployment.bulkhead(&["incidents"]).unwrap();
    assert!(told.as_array().unwrap().iter().any(|it| it["id"] == victim.life()), "{told:#}");
    let now = deployment.ready("web", 4);
    let successor = now.iter().find(|it| it.id == victim.id).unwrap();
    assert!(successor.generation > victim.generation && successor.container != victim.container);
}

/// Who is alive, by place: the generation and the container.
fn lives(deployment: &Deployment) -> BTreeMap<String, (u64, Option<String>)> {
    let workers = [deployment.ready("web", 4), deployment.ready("echo", 4)].concat();
    workers.into_iter().map(|it| (it.id, (it.generation, it.container))).collect()
}

fn a_killed_controller_costs_no_request(deployment: &Deployment) {
    let before = lives(deployment);
    let load = Load::start(deployment.web(), 4, "/work?ms=5");
    let controller = deployment.inspect("controller");
    docker(&["kill", controller["Id"].as_str().unwrap()]).unwrap();
    let so_far = load.answered();
    rig::eventually("clients are served without a controller", || {
        let answered = load.answered();
        if answered > so_far + 20 { Ok(()) } else { Err(answered) }
    });
    // The engine's restart policy takes a kill through its API for a wish.
    deployment.up();
    assert_eq!(lives(deployment), before, "other workers than before");
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
}

fn a_restart_of_the_controller_costs_no_request(deployment: &Deployment) {
    let load = Load::start(deployment.web(), 4, "/work?ms=5");
    deployment.restart("controller");
    deployment.ready("web", 4);
    let tally = load.stop();
    assert_eq!(tally.failed, Vec::<String>::new());
    assert!(tally.answered > 0);
}

fn down_lets_turns_finish_and_leaves_nothing(deployment: &Deployment) {
    let mut client = deployment.connect();
    client.send_get("/work?ms=1500");
    deployment.holder_of("GET /work?ms=1500");
    deployment.down();
    assert_eq!(client.response().text(), "worked 1500 ms\n");
    assert_eq!(deployment.leftovers(), Vec::<String>::new());
}
