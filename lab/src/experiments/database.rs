//! A PostgreSQL to experiment on: one of its own in a temporary directory, or the one that somebody named.
//!
//! One of its own is made by Debian's `initdb` (a second or two), holds no more than [`MOST`] connections, so that its limit
//! can be reached, and does not wait for the disk. It lets everybody in who gets to it, and asks for no password: so it
//! listens only on a Unix socket in its directory, into which no other user gets but root. PostgreSQL
//! refuses to run as root; root therefore starts it as `postgres` or `nobody`. It ends with its compartment, and its
//! directory goes with it.

use std::ffi::OsString;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use postgres::{Client, Config, NoTls};
use rustix::process::{Pid, Signal};

use crate::compartment::{Compartment, End, Limits};
use crate::processes;
use crate::systems::{self, Scratch, Usage};

/// Connections that a server of the lab's own takes.
pub(super) const MOST: usize = 40;

/// Who asks it, and for what.
const USER: &str = "lab";
const DATABASE: &str = "postgres";

/// What a server and its processes may have.
const LIMITS: Limits = Limits { memory: 1 << 30, pids: 256 };

/// How long its files may take to be made.
const INITDB: Duration = Duration::from_secs(60);

/// Where the server is.
pub(super) struct Database {
    /// How clients reach it, as text that another process can be given: an address, or words with values.
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
    /// In order (a "fast shutdown"), so that the server waits for its own processes and gives its shared memory back.
    fn drop(&mut self) {
        self.compartment.ask_with(Signal::INT, Duration::from_secs(5));
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
        "PostgreSQL is not installed: `apt-get install --no-install-recommends postgresql`".to_owned()
    })
}

impl Database {
    /// The one at that address, or else one of its own.
    pub(super) fn open(url: Option<&str>) -> anyhow::Result<Self> {
        if let Some(url) = url {
            let config = url.parse().with_context(|| format!("--database-url {url} is no address"))?;
            return Ok(Self { url: url.to_owned(), config, cluster: None });
        }
        Self::start()
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
        make.arg("-D").arg(&data).args(["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]);
        make.current_dir(dir.path());
        let said = dir.path().join("initdb");
        let output = std::fs::File::create(&said).context("cannot make a file for what initdb says")?;
        let mut making = Compartment::new(LIMITS);
        let errors = Stdio::from(output.try_clone()?);
        // Asked to end it ends the servers that it has started, which give their shared memory back.
        making
            .start_to_end(make, End::AskAll(Signal::TERM), Stdio::null(), Stdio::from(output), errors)
            .context("cannot run initdb")?;
        if !making.await_success(INITDB) {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            bail!("initdb has failed: {}", said.trim());
        }
        drop(making);
        let server = as_user(user.as_ref(), &postgres);
        let log = dir.path().join("log");
        // What it says goes into a file of its own: the terminal is for what was found.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "log=$1; shift; exec \"$@\" >\"$log\" 2>&1", "sh"]).arg(&log);
        command.arg(server.get_program()).args(server.get_args()).arg("-D").arg(&data);
        let socket_dir =
            dir.path().to_str().context("the directory for scratch files has no name in UTF-8")?;
        for setting in [
            "listen_addresses=",
            // It names the socket; nobody else's can be in this directory.
            "port=5432",
            &format!("unix_socket_directories={socket_dir}"),
            &format!("max_connections={MOST}"),
            "superuser_reserved_connections=0",
            "fsync=off",
            // In its directory, which goes with it, and not in /dev/shm.
            "dynamic_shared_memory_type=mmap",
            "shared_buffers=16MB",
        ] {
            command.args(["-c", setting]);
        }
        command.current_dir(dir.path());
        let mut compartment = Compartment::new(LIMITS);
        compartment
            // An "immediate shutdown": it waits for nobody, and removes its shared memory.
            .start_to_end(command, End::Ask(Signal::QUIT), Stdio::null(), Stdio::inherit(), Stdio::inherit())
            .context("cannot start PostgreSQL")?;
        // An apostrophe would end the value.
        let quoted = socket_dir.replace('\\', "\\\\").replace('\'', "\\'");
        let url = format!("host='{quoted}' user={USER} dbname={DATABASE}");
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

    /// The server's version, as one number: 150_004 is 15.4.
    pub(super) fn version(&self) -> anyhow::Result<u32> {
        let row = self.connect()?.query_one("SHOW server_version_num", &[])?;
        row.try_get::<_, String>(0)?.parse().context("the server's version is no number")
    }

    /// Whether the lab may use it up.
    pub(super) fn is_own(&self) -> bool {
        self.cluster.is_some()
    }

    /// What its processes take together, if they can be seen.
    pub(super) fn usage(&self) -> Option<Usage> {
        Some(systems::usage(&self.cluster.as_ref()?.compartment.members()))
    }

    /// Of the processes that serve a session the one that has been running longest.
    pub(super) fn oldest_session(&self) -> Option<Pid> {
        let mut members = self.cluster.as_ref()?.compartment.members();
        // PostgreSQL's processes say what they do: `postgres: USER DATABASE ADDRESS STATEMENT` is one of these.
        let serves = format!("postgres: {USER} {DATABASE} ");
        members
            .retain(|pid| systems::command_line(*pid).first().is_some_and(|said| said.starts_with(&serves)));
        members.into_iter().min_by_key(|pid| processes::start_time(*pid))
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
