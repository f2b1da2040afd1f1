//! Requests a second through the door, beside Apache prefork serving a static file.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::rig::backend::{Backend, docker};
use crate::rig::{Stack, eventually};
use crate::{Sample, backends, have};

const ROUNDS: usize = 5;
const CLIENTS: &str = "50";
const SECONDS: &str = "4";
/// What a container weighs that is put beside the machine's other processes: door and load generator are among these.
const SHARES: u32 = 4096;

pub(crate) fn measure() {
    println!(
        "\ndispatch: requests/s, keep-alive, wrk -t1 -c{CLIENTS} -d{SECONDS}s beside it, {ROUNDS} rounds in turn"
    );
    if !have("wrk") {
        return;
    }
    let apache = Apache::start();
    let process = stack(Backend::Process, "127.0.0.1", "");
    let containers = backends().contains(&Backend::Docker).then(|| {
        let bridge = docker(&["network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"]);
        let bridge = bridge.ok().filter(|it| !it.is_empty()).unwrap_or_else(|| "172.17.0.1".to_owned());
        let by_systemd = docker(&["info", "-f", "{{.CgroupDriver}}"]).is_ok_and(|it| it.trim() == "systemd");
        // There each container is beside the machine's other services already.
        let parent = if by_systemd { "" } else { "parent: /, " };
        let weighty = format!("cgroup: {{ {parent}cpu_shares: {SHARES} }}");
        let stacks = [stack(Backend::Docker, "0.0.0.0", ""), stack(Backend::Docker, "0.0.0.0", &weighty)];
        (stacks, bridge)
    });
    let (mut ours, mut theirs, mut contained) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        ours.push(wrk(&format!("http://{}/work?ms=0", process.address("web"))));
        if let Some(apache) = &apache {
            theirs.push(wrk(&format!("http://{}/index.html", apache.address)));
        }
        if let Some((stacks, bridge)) = &containers {
            for (stack, rates) in stacks.iter().zip(&mut contained) {
                rates.push(wrk(&format!("http://{bridge}:{}/work?ms=0", stack.address("web").port())));
            }
        }
    }
    let ratios = |a: &[f64], b: &[f64]| Sample::of(a.iter().zip(b).map(|(a, b)| a / b));
    println!("  4 process workers                       {}", Sample::of(ours.clone()));
    if !theirs.is_empty() {
        println!("  Apache prefork, 64 children, a file     {}", Sample::of(theirs.clone()));
        println!("  ratio to Apache                         {}", ratios(&ours, &theirs));
    }
    if let Some((stacks, _)) = containers {
        let where_they_are = ["the engine's group".to_owned(), format!("their door's, {SHARES} shares")];
        for (rates, place) in contained.iter().zip(where_they_are) {
            println!("  4 containers, at the bridge address, in {place:<24} {}", Sample::of(rates.clone()));
            println!("  ratio to processes                      {}", ratios(rates, &ours));
        }
        for stack in stacks {
            stack.down();
        }
    }
    process.down();
}

fn stack(backend: Backend, listen: &str, cgroup: &str) -> Stack {
    // No limit of processors: what is measured is the way there and back.
    let worker = format!("worker: {{ limits: {{ cpus: none }}, {cgroup} }}");
    let spec = crate::rig::stack::web(4, &worker).replace("127.0.0.1:0", &format!("{listen}:0"));
    let stack = Stack::up(backend, &spec);
    stack.ready("web", 4);
    stack
}

pub(crate) fn wrk(url: &str) -> f64 {
    let output = Command::new("wrk").args(["-t1", "-c", CLIENTS, "-d", SECONDS, url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    assert!(failed.is_none(), "{url}: {text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("{url}: {text}"))
}

/// Apache with its prefork model, on a port and in a directory of its own.
struct Apache {
    address: SocketAddr,
    process: std::process::Child,
    _dir: tempfile::TempDir,
}

impl Apache {
    fn start() -> Option<Self> {
        if !have("apache2") {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("apache-").tempdir().unwrap();
        // Its children are another user.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("index.html"), "worked 0 ms, or so\n").unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (root, modules) = (dir.path().display(), "/usr/lib/apache2/modules");
        let conf = format!(
            "ServerRoot {root}\nServerName test\nListen {address}\nPidFile {root}/pid\nErrorLog {root}/log\n\
             LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so\n\
             LoadModule authz_core_module {modules}/mod_authz_core.so\n\
             DocumentRoot {root}\nKeepAlive On\nMaxKeepAliveRequests 0\n\
             StartServers 64\nMinSpareServers 64\nMaxSpareServers 64\nMaxRequestWorkers 64\n"
        );
        std::fs::write(dir.path().join("httpd.conf"), conf).unwrap();
        let process = Command::new("apache2")
            .args(["-D", "FOREGROUND", "-f"])
            .arg(dir.path().join("httpd.conf"))
            // On SIGTERM it ends its whole group, and that is not to be ours.
            .process_group(0)
            .spawn()
            .unwrap();
        eventually("Apache serves", || std::net::TcpStream::connect(address));
        Some(Self { address, process, _dir: dir })
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        // Its children end with it only when it is asked, not killed.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}
