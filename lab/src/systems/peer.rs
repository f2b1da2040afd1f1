//! Other servers that are installed here, started with the configurations in `lab/peers/`, to be measured beside.
//!
//! They run in the foreground, from a scratch directory, on a loopback port, in a compartment like everything else. Apache and
//! nginx serve one small file, which is the least that they can do; gunicorn, Passenger and php-fpm run a page that
//! blocks for as long as it is asked to.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{Running, Scratch, Shape};
use crate::compartment::Compartment;
use crate::servers::Protocol;

/// A server that somebody else has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Apache, mod_prefork: a file.
    ApachePrefork,
    /// Apache, mod_worker: a file.
    ApacheWorker,
    /// Apache, mod_event: a file.
    ApacheEvent,
    /// nginx: a file.
    Nginx,
    /// nginx in front of php-fpm: a page that blocks.
    NginxFpm,
    /// Apache in front of Passenger: a page that blocks.
    Passenger,
    /// gunicorn with its workers of the kind `sync`: a page that blocks.
    Gunicorn,
}

/// What a peer consists of.
struct Needs {
    /// The programs, each in any of these places.
    programs: &'static [&'static str],
    /// Other files.
    files: &'static [&'static str],
    /// Debian's packages.
    packages: &'static str,
}

const MODULES: &str = "/usr/lib/apache2/modules";
const PASSENGER: &str = "/usr/lib/ruby/vendor_ruby/phusion_passenger/locations.ini";

impl Peer {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::ApachePrefork,
        Self::ApacheWorker,
        Self::ApacheEvent,
        Self::Nginx,
        Self::NginxFpm,
        Self::Passenger,
        Self::Gunicorn,
    ];

    /// The name that it is called by in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApachePrefork => "Apache prefork",
            Self::ApacheWorker => "Apache worker",
            Self::ApacheEvent => "Apache event",
            Self::Nginx => "nginx",
            Self::NginxFpm => "nginx + php-fpm",
            Self::Passenger => "Passenger",
            Self::Gunicorn => "gunicorn",
        }
    }

    /// Whether its page blocks for as long as it is asked to; else it is a file.
    pub fn blocks(self) -> bool {
        matches!(self, Self::NginxFpm | Self::Passenger | Self::Gunicorn)
    }

    fn needs(self) -> Needs {
        match self {
            Self::ApachePrefork | Self::ApacheWorker | Self::ApacheEvent => {
                Needs { programs: &["apache2"], files: &[MODULES], packages: "apache2" }
            }
            Self::Nginx => Needs { programs: &["nginx"], files: &[], packages: "nginx" },
            Self::NginxFpm => {
                Needs { programs: &["nginx", "php-fpm"], files: &[], packages: "nginx php-fpm" }
            }
            Self::Passenger => Needs {
                programs: &["apache2", "python3"],
                files: &["/usr/lib/apache2/modules/mod_passenger.so", PASSENGER],
                packages: "libapache2-mod-passenger python3",
            },
            Self::Gunicorn => Needs { programs: &["gunicorn"], files: &[], packages: "gunicorn" },
        }
    }

    /// What is missing for it and how to get it; `None` if nothing is.
    pub(super) fn missing(self) -> Option<String> {
        let Needs { programs, files, packages } = self.needs();
        let lacks_program = programs.iter().find(|name| find(name).is_none());
        let lacks = lacks_program.or_else(|| files.iter().find(|path| !Path::new(path).exists()))?;
        Some(format!("{lacks} is not here: apt-get install {packages}"))
    }

    /// Starts it, and waits until it serves.
    pub(super) fn start(self, shape: &Shape) -> anyhow::Result<Running> {
        if let Some(missing) = self.missing() {
            bail!(missing);
        }
        if shape.protocol != Protocol::Http {
            bail!("it speaks HTTP only");
        }
        let scratch = Scratch::new()?;
        // Its children may be another user.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(scratch.0.path(), readable)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let command = self.prepare(scratch.0.path(), address.port(), shape)?;
        let mut compartment = Compartment::new(shape.limits);
        let errors = tempfile::tempfile().context("cannot make a file for what it says")?;
        let (leader, _) = compartment.start_with(
            command,
            Stdio::null(),
            Stdio::null(),
            Stdio::from(errors.try_clone()?),
        )?;
        let mut running =
            Running { address, leader, compartment, deployment: None, errors, _scratch: Some(scratch) };
        running.await_service(shape.protocol)?;
        Ok(running)
    }

    /// Whether a process of it is one that serves, by its command line: not a master, nor a front.
    pub(super) fn serves(self, command_line: &str) -> bool {
        match self {
            Self::NginxFpm => command_line.contains("pool www"),
            Self::Passenger => command_line.contains("wsgi"),
            Self::ApachePrefork | Self::ApacheWorker | Self::ApacheEvent | Self::Nginx | Self::Gunicorn => {
                true
            }
        }
    }

    /// Writes its files, and says how to start it.
    fn prepare(self, dir: &Path, port: u16, shape: &Shape) -> anyhow::Result<Command> {
        let workers = shape.processes.max(2);
        // Whoever is root has to say whom Apache's children are to be.
        let user = if rustix::process::geteuid().is_root() { "User www-data\nGroup www-data" } else { "" };
        let fill = |text: &str| {
            text.replace("@USER@", user)
                .replace("@DIR@", &dir.display().to_string())
                .replace("@PORT@", &port.to_string())
                .replace("@MODULES@", MODULES)
                .replace("@PASSENGER@", PASSENGER)
                // Two processes share the threads evenly.
                .replace("@THREADS@", &workers.div_ceil(2).to_string())
                .replace("@WORKERS@", &(2 * workers.div_ceil(2)).to_string())
        };
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(dir))
                .and_then(|()| std::fs::write(&path, fill(text)))
                .with_context(|| format!("cannot write {}", path.display()))
        };
        write("files/work", "worked 0 ms\n")?;
        let config = dir.join("config");
        match self {
            Self::ApachePrefork | Self::ApacheWorker | Self::ApacheEvent => {
                let model = match self {
                    Self::ApachePrefork => "prefork",
                    Self::ApacheWorker => "worker",
                    _ => "event",
                };
                write("config", &include_str!("../../peers/apache.conf").replace("@MPM@", model))?;
                Ok(apache(&config))
            }
            Self::Passenger => {
                let instances = dir.join("instances");
                std::fs::create_dir(&instances)?;
                // It insists on a directory that everybody may write to.
                std::fs::set_permissions(&instances, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
                write("app/public/index.html", "")?;
                write("app/passenger_wsgi.py", include_str!("../../peers/wsgi.py"))?;
                write("config", include_str!("../../peers/passenger.conf"))?;
                Ok(apache(&config))
            }
            Self::Nginx => {
                write("config", include_str!("../../peers/nginx.conf"))?;
                Ok(nginx(dir, &config))
            }
            Self::NginxFpm => {
                write("work.php", include_str!("../../peers/work.php"))?;
                write("fpm.conf", include_str!("../../peers/fpm.conf"))?;
                write("config", include_str!("../../peers/nginx-fpm.conf"))?;
                let (fpm, nginx) = (find("php-fpm").context("php-fpm is not here")?, nginx(dir, &config));
                let mut both = Command::new("/bin/sh");
                // As root it has to be told that its children may be root, too.
                both.args(["-c", "\"$1\" -R -F -y \"$2/fpm.conf\" & shift 2; exec \"$@\"", "sh"]);
                both.arg(fpm).arg(dir).arg(nginx.get_program()).args(nginx.get_args());
                Ok(both)
            }
            Self::Gunicorn => {
                write("wsgi.py", include_str!("../../peers/wsgi.py"))?;
                let mut gunicorn = Command::new("gunicorn");
                gunicorn.args(["--workers", &workers.to_string(), "--bind", &format!("127.0.0.1:{port}")]);
                gunicorn.args(["--log-level", "critical", "--error-logfile"]).arg(dir.join("error.log"));
                gunicorn.arg("--chdir").arg(dir).arg("wsgi:application");
                Ok(gunicorn)
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn apache(config: &Path) -> Command {
    let mut apache = Command::new(find("apache2").unwrap_or_else(|| "apache2".into()));
    apache.args(["-D", "FOREGROUND", "-f"]).arg(config);
    apache
}

fn nginx(dir: &Path, config: &Path) -> Command {
    let mut nginx = Command::new(find("nginx").unwrap_or_else(|| "nginx".into()));
    nginx.arg("-p").arg(dir).arg("-e").arg(dir.join("error.log")).arg("-c").arg(config);
    nginx
}

/// Where a program is: in the path or where Debian has those of the administrator; `php-fpm` in any version.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    for dir in dirs {
        let exact = dir.join(program);
        if exact.is_file() {
            return Some(exact);
        }
        if program != "php-fpm" {
            continue;
        }
        let versions = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let named = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                name.strip_prefix("php-fpm")
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        if let Some(found) = versions.into_iter().find(named) {
            return Some(found);
        }
    }
    None
}
