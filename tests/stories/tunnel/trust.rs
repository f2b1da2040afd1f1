//! Who is believed to be a door of this deployment, and who is not.

use controller::certificates::{Authority, today};

use crate::rig::tunnel::token;
use crate::rig::{Backend, Stack};

pub fn who_cannot_prove_to_be_the_door_gets_no_worker(backend: Backend) {
    let stack = Stack::up_linked(backend, &backend.link_with_tls(), &crate::rig::stack::web(1, ""));
    let worker = stack.ready("web", 1)[0].clone();
    // One that knows another authority has nothing to do with this door, and says why.
    let another = Authority::new(today()).unwrap();
    let token = token(&stack, &"web-90.1".parse().unwrap()).to_string();
    let link = format!("tls://{}", stack.tunnel());
    let as_worker = |ca: &str| {
        let arguments = ["worker", "--life", "web-90.1", "--link", &link, "--app", "demo"];
        let arguments = [&arguments[..], &["--protocol", "http", "--turn", "request"]].concat();
        stack.run(&arguments, &[("BULKHEAD_TOKEN", &token), ("BULKHEAD_TUNNEL_CA", ca)])
    };
    let (code, said) = as_worker(&another.certificate);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("web-90.1") && said.contains(&stack.tunnel().to_string()), "{said}");
    assert!(said.contains("cannot be trusted"), "{said}");
    for nothing in ["", "no certificate"] {
        let (code, said) = as_worker(nothing);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("no door can be trusted"), "{said}");
    }
    // A door without a certificate does not begin to be one.
    let empty = stack.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let spec = stack.dir.path().join("bulkhead.yaml");
    let run_dir = stack.dir.path().join("another");
    let (code, said) = stack.run(
        &["door", "--spec", spec.to_str().unwrap(), "--run-dir", run_dir.to_str().unwrap()],
        &[("BULKHEAD_TUNNEL_IDENTITY", empty.to_str().unwrap())],
    );
    assert_ne!(code, Some(0), "{said}");
    assert!(
        said.contains("--tunnel-identity") && said.contains("tls.crt") && said.contains("tls.key"),
        "{said}"
    );
    assert_eq!(stack.api().worker("web-0").generation, worker.generation);
    assert_eq!(stack.connect().get("/work?ms=1").status, 200);
    stack.down();
}
