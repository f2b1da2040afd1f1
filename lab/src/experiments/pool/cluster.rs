//! A PostgreSQL to experiment on: one of its own in a temporary directory, or the one that somebody named.
//!
//! One of its own is made by Debian's `initdb` (a second or two), listens on a free port of the loopback address, holds
//! no more than [`MOST`] connections, so that its limit can be reached, and does not wait for the disk. PostgreSQL
//! refuses to run as root; root therefore starts it as `postgres` or `nobody`. It ends with its compartment, and its
//! directory goes with it.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use postgres::{Client, Config, NoTls};

use crate::compartment::{Compartment, Limits};
use crate::systems::{self, Scratch};

/// Connections that a server of the lab's own takes.
pub(super) const MOST: usize = 40;

/// Where the server is.
pub(super) struct Database {
    /// How clients reach it, as text that another process can be given.
    pub(super) url: String,
    config: Config,
    cluster: Option<Cluster>,
}

struct Cluster {
    // Fields are dropped in this order: first the processes, then their files.
    compartment: Compartment,
    _dir: Scratch,
}

impl Drop for Cluster {
    /// In peace, so that the server waits for its own processes and nobody else has to.
    fn drop(&mut self) {
        self.compartment.ask_to_end(Duration::from_secs(5));
    }
}

/// The programs of a server that is installed.
struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

/// Who a server runs as.
struct User {
    uid: u32,
    gid: u32,
}

/// Whether a server of the lab's own can be started here; if not, what to do about it.
pub(super) fn is_installed() -> Result<(), String> {
    programs().map(|_| ()).ok_or_else(|| {
        "PostgreSQL is not installed: `apt-get install --no-install-recommends postgresql`, or name a server with \
         --database-url"
            .to_owned()
    })
}

impl Database {
    /// The one at that address, or else one of its own.
    pub(super) fn open(url: Option<&str>) -> anyhow::Result<Self> {
        if let Some(url) = url {
            let config = url.parse().with_context(|| format!("--database-url {url} is no address"))?;
            return Ok(Self { url: url.to_owned(), config, cluster: None });
        }
        // Somebody else may take the port between looking for it and listening on it.
        let mut last = None;
        for _ in 0..3 {
            match Self::start() {
                Ok(database) => return Ok(database),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("PostgreSQL was not started")))
    }

    fn start() -> anyhow::Result<Self> {
        let Programs { initdb, postgres } = programs().context("PostgreSQL is not installed")?;
        let dir = Scratch::new()?;
        let user = user()?;
        if let Some(user) = &user {
            chown(dir.path(), Some(user.uid), Some(user.gid))
                .context("cannot give PostgreSQL its directory")?;
        }
        let data = dir.path().join("data");
        let mut make = as_user(user.as_ref(), &initdb);
        make.arg("-D").arg(&data).args(["-U", "lab", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]);
        let made = make.current_dir(dir.path()).output().context("cannot run initdb")?;
        if !made.status.success() {
            bail!("initdb has failed: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = as_user(user.as_ref(), &postgres);
        let log = dir.path().join("log");
        // What it says goes into a file of its own: the terminal is for what was found.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "log=$1; shift; exec \"$@\" >\"$log\" 2>&1", "sh"]).arg(&log);
        command.arg(server.get_program()).args(server.get_args()).arg("-D").arg(&data);
        command.args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            &format!("max_connections={MOST}"),
            "superuser_reserved_connections=0",
            "fsync=off",
            "shared_buffers=16MB",
        ] {
            command.args(["-c", setting]);
        }
        command.current_dir(dir.path());
        let mut compartment = Compartment::new(Limits { memory: 1 << 30, pids: 256 });
        compartment.start(command, Stdio::null()).context("cannot start PostgreSQL")?;
        let url = format!("postgresql://lab@127.0.0.1:{port}/postgres");
        let mut database =
            Self { config: url.parse()?, url, cluster: Some(Cluster { compartment, _dir: dir }) };
        database.await_service(&log)?;
        Ok(database)
    }

    fn await_service(&mut self, log: &Path) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.connect() {
            let lives = self.cluster.as_mut().is_some_and(|it| it.compartment.lives());
            if !lives || Instant::now() > until {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("PostgreSQL does not serve: {error}; it said: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A session of its own.
    pub(super) fn connect(&self) -> Result<Client, postgres::Error> {
        self.config.connect(NoTls)
    }

    /// Whether the lab may use it up.
    pub(super) fn is_own(&self) -> bool {
        self.cluster.is_some()
    }

    /// What its processes take together, in MiB, if they can be seen.
    pub(super) fn memory_mib(&self) -> Option<f64> {
        let members = self.cluster.as_ref()?.compartment.members();
        Some(systems::usage(&members).pss_kib as f64 / 1024.0)
    }
}

fn programs() -> Option<Programs> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    // By version, the newest first: 15 before 9.6.
    let version = |dir: &PathBuf| {
        let name = dir.parent()?.file_name()?.to_str()?.to_owned();
        name.split('.').next()?.parse::<u32>().ok()
    };
    dirs.sort_by_key(|dir| std::cmp::Reverse(version(dir)));
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    dirs.into_iter().find_map(|dir| {
        let (initdb, postgres) = (dir.join("initdb"), dir.join("postgres"));
        (initdb.exists() && postgres.exists()).then_some(Programs { initdb, postgres })
    })
}

/// `None`: whoever runs the lab. Root is not let in.
fn user() -> anyhow::Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").context("cannot read who there is")?;
    let of = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    };
    let user = of("postgres").or_else(|| of("nobody"));
    user.map(Some).context("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
}

/// The program, run by that user.
fn as_user(user: Option<&User>, program: &Path) -> Command {
    let Some(User { uid, gid }) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    let words = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    command.args(words.map(OsString::from)).arg(program);
    command
}
