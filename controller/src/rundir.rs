//! The directory in which door, controller and workers of one deployment meet.
//!
//! ```text
//! RUN/                0711
//!   link/             0711  door.sock: workers dial it; the one thing that their containers mount
//!   control/          0700  door.sock, secret, lock, door.log, and what the next one has to know (spec.yaml,
//!                           quarters.json, scale.json), tunnel/: no worker can reach it
//!   workers/          0700  state and output of process workers
//! ```
//! 0711 lets a worker under another user pass through to the socket whose name it was told, and read nothing.
//!
//! One controller at a time works here: it holds a lock on `control/lock`, which the kernel releases when it
//! dies, however it dies. The directory outlives it, so that the next one finds the workers again. Who owns
//! the directory owns every worker in it, hence one that belongs to somebody else, or a symbolic link to who
//! knows where, is refused: in `/tmp` anybody may have been there first.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use server::identity::{NameError, Secret};
use thiserror::Error;

/// The longest path of a Unix socket in bytes: 108 in `sockaddr_un`, less the terminating zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// The paths of one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

/// The right to be the one controller of a run directory, for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    /// Closing it is what unlocks; no child inherits it.
    _file: File,
}

/// A run directory that cannot be used.
#[derive(Debug, Error)]
pub enum RunDirError {
    /// Its sockets' paths would be too long for the kernel.
    #[error(
        "the run directory {} makes a socket path of {length} bytes, and Unix allows {LONGEST_SOCKET_PATH}: \
         choose a shorter one", path.display()
    )]
    TooLong {
        /// The run directory.
        path: PathBuf,
        /// Of the longest socket path.
        length: usize,
    },
    /// It is there already and not ours.
    #[error(
        "{} is {}: remove it, or choose another run directory", path.display(),
        .owner.map_or_else(|| "no directory".to_owned(), |owner| format!("a directory of user {owner}, not ours"))
    )]
    NotOurs {
        /// What is not ours.
        path: PathBuf,
        /// Whose it is; `None` when it is no directory at all.
        owner: Option<u32>,
    },
    /// Somebody keeps other things there.
    #[error("{} has {found:?} in it, which is not ours: choose an empty run directory, or a new one", path.display())]
    InUse {
        /// The run directory.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// Others cannot get to it.
    #[error(
        "workers that root starts are users of their own, and {} lets none of them through to {}: `chmod o+x {}`, or \
         choose another run directory", closed.display(), path.display(), closed.display()
    )]
    Closed {
        /// The run directory.
        path: PathBuf,
        /// The directory above it that is closed to others.
        closed: PathBuf,
    },
    /// Another controller is at work there.
    #[error(
        "{} is in use by {}: stop that one first, or choose another run directory", path.display(),
        .holder.map_or_else(|| "another controller".to_owned(), |pid| format!("the controller with process id {pid}"))
    )]
    Busy {
        /// The run directory.
        path: PathBuf,
        /// The other controller, where it has said so.
        holder: Option<u32>,
    },
    /// The secret is there and is none.
    #[error(
        "{} is damaged: remove it; workers that are running stay, and new ones get tokens under a new secret",
        path.display()
    )]
    BadSecret {
        /// The secret's file.
        path: PathBuf,
        /// In what way.
        #[source]
        source: NameError,
    },
    /// The file system, or the source of random bytes, refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RunDir {
    /// The run directory at `path`, which need not exist yet. A relative path counts from the working directory
    /// of this moment, because workers have another.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self(std::path::absolute(&path).unwrap_or(path))
    }

    /// Where it is when nobody says otherwise: in the session's own directory where there is one, else in `/run`
    /// for root, else in `/tmp`.
    pub fn default_path() -> PathBuf {
        let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let user = rustix::process::geteuid();
        match session {
            Some(dir) => dir.join("bulkhead"),
            None if user.is_root() => PathBuf::from("/run/bulkhead"),
            None => PathBuf::from(format!("/tmp/bulkhead-{}", user.as_raw())),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What workers' containers mount.
    pub fn link_dir(&self) -> PathBuf {
        self.0.join("link")
    }

    /// Where workers dial.
    pub fn link_socket(&self) -> PathBuf {
        self.link_dir().join("door.sock")
    }

    /// What no worker can reach.
    pub fn control_dir(&self) -> PathBuf {
        self.0.join("control")
    }

    /// Where the controller dials.
    pub fn control_socket(&self) -> PathBuf {
        self.control_dir().join("door.sock")
    }

    /// Where the last controller's workers live is noted here.
    pub fn quarters(&self) -> PathBuf {
        self.control_dir().join("quarters.json")
    }

    /// What pools have been scaled to is noted here.
    pub fn scale(&self) -> PathBuf {
        self.control_dir().join("scale.json")
    }

    /// What the door proves itself with to those who dial its tunnel.
    pub fn tunnel_dir(&self) -> PathBuf {
        self.control_dir().join("tunnel")
    }

    /// State and output of process workers.
    pub fn workers_dir(&self) -> PathBuf {
        self.0.join("workers")
    }

    /// Whether processes of any user can get to what is open to them in here.
    pub fn is_within_reach(&self) -> Result<(), RunDirError> {
        let path = fs::canonicalize(self.path()).map_err(failed("look at", self.path()))?;
        for above in path.ancestors().skip(1) {
            let found = fs::metadata(above).map_err(failed("look at", above))?;
            if found.mode() & 0o001 == 0 {
                return Err(RunDirError::Closed { path: self.path().to_owned(), closed: above.to_owned() });
            }
        }
        Ok(())
    }

    /// Makes the directories that are not there yet, each with its mode. Safe to repeat.
    pub fn create(&self) -> Result<(), RunDirError> {
        let length =
            [self.link_socket(), self.control_socket()].iter().map(|path| path.as_os_str().len()).max();
        if let Some(length) = length.filter(|length| *length > LONGEST_SOCKET_PATH) {
            return Err(RunDirError::TooLong { path: self.0.clone(), length });
        }
        if let Some(parent) = self.0.parent() {
            fs::create_dir_all(parent).map_err(failed("create", parent))?;
        }
        self.refuse_what_is_not_ours()?;
        own_directory(&self.0, 0o711)?;
        own_directory(&self.link_dir(), 0o711)?;
        own_directory(&self.control_dir(), 0o700)?;
        own_directory(&self.workers_dir(), 0o700)
    }

    /// A directory in which somebody keeps other things is not one to change the mode of, or to clean up one day.
    fn refuse_what_is_not_ours(&self) -> Result<(), RunDirError> {
        // What else may stand in its place is told by whoever tries to own it.
        if !fs::symlink_metadata(&self.0).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        for entry in fs::read_dir(&self.0).map_err(failed("read", &self.0))? {
            let name = entry.map_err(failed("read", &self.0))?.file_name();
            if !["link", "control", "workers"].iter().any(|ours| name == *ours) {
                return Err(RunDirError::InUse {
                    path: self.0.clone(),
                    found: name.to_string_lossy().into_owned(),
                });
            }
        }
        Ok(())
    }

    /// Removes what door, controller and workers keep here, by name; and the directories, if that leaves them empty.
    pub fn remove(&self) -> Result<(), RunDirError> {
        let (link, control, workers) = (self.link_dir(), self.control_dir(), self.workers_dir());
        let mut ours = vec![link.join("door.sock")];
        if let Ok(entries) = fs::read_dir(&workers) {
            let files = entries.flatten().map(|entry| entry.path());
            ours.extend(files.filter(|path| {
                path.extension().is_some_and(|it| it == "json" || it == "log" || it == "new")
            }));
        }
        // The lock last: until then nobody else can be at work here.
        for name in [
            "door.sock",
            "door.log",
            "spec.yaml",
            "spec.new",
            "secret",
            "secret.new",
            "quarters.json",
            "quarters.new",
            "scale.json",
            "scale.new",
            "lock",
        ] {
            ours.push(control.join(name));
        }
        ours.extend([self.api_token_file(), self.api_token_file().with_extension("new")]);
        for directory in [self.tunnel_dir(), self.tunnel_dir().with_extension("new")] {
            ours.extend(["ca.crt", "ca.key", "tls.crt", "tls.key"].map(|name| directory.join(name)));
        }
        for path in ours {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        let tunnel = self.tunnel_dir();
        for directory in [&tunnel.with_extension("new"), &tunnel, &link, &workers, &control, &self.0] {
            // Somebody keeps something there, or it was never made.
            let _stays = fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Uses the directories that whoever deploys has made, with the owners and modes that they have, so that door and
    /// controller can be two users (as in two containers that share volumes); makes what is not there.
    pub fn join(&self) -> Result<(), RunDirError> {
        if !(self.link_dir().is_dir() && self.control_dir().is_dir()) {
            return self.create();
        }
        // Whoever could put other directories in their place would own what meets here.
        let found = fs::symlink_metadata(&self.0).map_err(failed("look at", &self.0))?;
        let ours = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
        if !ours || !found.is_dir() || found.mode() & 0o022 != 0 {
            let owner = found.is_dir().then(|| found.uid());
            return Err(RunDirError::NotOurs { path: self.0.clone(), owner });
        }
        Ok(())
    }

    /// Takes the lock, or says who holds it. The directories must be there.
    pub fn lock(&self) -> Result<Lock, RunDirError> {
        let path = self.control_dir().join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _unreadable_is_unknown = file.read_to_string(&mut text);
                return Err(RunDirError::Busy { path: self.0.clone(), holder: text.trim().parse().ok() });
            }
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        // A controller that stops removes the directory, this file included: who has waited for the lock of a file
        // that is no more has nothing.
        let locked = file.metadata().map_err(failed("look at", &path))?.ino();
        if fs::metadata(&path).map(|there| there.ino()).ok() != Some(locked) {
            return Err(RunDirError::Busy { path: self.0.clone(), holder: None });
        }
        // The pid is for people; the lock is what counts.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed("write", &path))?;
        Ok(Lock { _file: file })
    }

    /// The secret under which workers' tokens are made: the one that is there, or a new one. The caller holds
    /// the [`Lock`], so that nobody else makes one at the same time.
    pub fn secret(&self, _held: &Lock) -> Result<Secret, RunDirError> {
        let path = self.control_dir().join("secret");
        match fs::read_to_string(&path) {
            Ok(text) => Secret::try_from(text.trim().to_owned())
                .map_err(|source| RunDirError::BadSecret { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Secret::new(random_bytes(&path)?);
                create_private(&path, &String::from(secret.clone()))?;
                Ok(secret)
            }
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Where the API's token is that was made up because nobody gave one.
    pub fn api_token_file(&self) -> PathBuf {
        self.control_dir().join("api-token")
    }

    /// Lets `token` be that token. The caller holds the [`Lock`].
    pub fn keep_api_token(&self, _held: &Lock, token: &str) -> Result<(), RunDirError> {
        create_private(&self.api_token_file(), &format!("{token}\n"))
    }

    /// That token, and whether it is new. The caller holds the [`Lock`].
    pub fn api_token(&self, _held: &Lock) -> Result<(String, Novelty), RunDirError> {
        let path = self.api_token_file();
        match fs::read_to_string(&path) {
            Ok(text) => Ok((text.trim().to_owned(), Novelty::Known)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes: [u8; 32] = random_bytes(&path)?;
                let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                create_private(&path, &format!("{token}\n"))?;
                Ok((token, Novelty::New))
            }
            Err(error) => Err(failed("read", &path)(error)),
        }
    }
}

/// Whether something has just been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// Just now.
    New,
    /// It was there already.
    Known,
}

fn random_bytes(path: &Path) -> Result<[u8; 32], RunDirError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| failed("draw random bytes for", path)(io::Error::other(error)))?;
    Ok(bytes)
}

/// Written aside and renamed, so that a death in between leaves no half of a secret.
fn create_private(path: &Path, text: &str) -> Result<(), RunDirError> {
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &aside)(error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&aside, path))
        .map_err(failed("create", path))
}

/// Makes the directory with `mode`, or makes sure that the one that is there is ours and has it.
fn own_directory(path: &Path, mode: u32) -> Result<(), RunDirError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", path)(error));
        }
        _ => {}
    }
    // Of the link itself, not of what a symbolic link may point to.
    let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let owner = found.is_dir().then(|| found.uid());
    if owner != Some(rustix::process::geteuid().as_raw()) {
        return Err(RunDirError::NotOurs { path: path.to_owned(), owner });
    }
    // Whatever umask took away, or an earlier version gave.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError::Io { operation, path, source }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_other_things_in_it_is_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "irreplaceable").unwrap();
        let error = RunDir::at(temp.path()).create().unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert!(!temp.path().join("control").exists());
    }

    #[test]
    fn what_is_ours_is_removed_and_nothing_else() {
        let (temp, run) = fresh();
        run.create().unwrap();
        let lock = run.lock().unwrap();
        run.secret(&lock).unwrap();
        fs::write(run.workers_dir().join("web-0.1.json"), "{}").unwrap();
        let theirs = run.workers_dir().join("notes.txt");
        fs::write(&theirs, "irreplaceable").unwrap();
        run.remove().unwrap();
        assert!(theirs.exists() && !run.control_dir().exists() && !run.link_dir().exists());
        fs::remove_file(&theirs).unwrap();
        run.remove().unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    fn fresh() -> (tempfile::TempDir, RunDir) {
        let temp = tempfile::tempdir().unwrap();
        let run = RunDir::at(temp.path().join("run"));
        (temp, run)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_closed_above_it_is_named_with_the_remedy() {
        let (temp, run) = fresh();
        run.create().unwrap();
        fs::set_permissions(temp.path(), Permissions::from_mode(0o700)).unwrap();
        let refusal = run.is_within_reach().unwrap_err().to_string();
        assert!(refusal.contains(&format!("`chmod o+x {}`", temp.path().display())), "{refusal}");
        fs::set_permissions(temp.path(), Permissions::from_mode(0o711)).unwrap();
        run.is_within_reach().unwrap();
    }

    #[test]
    fn workers_can_pass_through_and_read_nothing() {
        let (_temp, run) = fresh();
        run.create().unwrap();
        fs::set_permissions(run.control_dir(), Permissions::from_mode(0o755)).unwrap();
        run.create().unwrap();
        assert_eq!(mode(run.path()), 0o711);
        assert_eq!(mode(&run.link_dir()), 0o711);
        assert_eq!(mode(&run.control_dir()), 0o700);
        assert_eq!(mode(&run.workers_dir()), 0o700);
    }

    #[test]
    fn a_symbolic_link_in_its_place_is_refused() {
        let (temp, run) = fresh();
        std::os::unix::fs::symlink(temp.path(), run.path()).unwrap();
        assert!(matches!(run.create(), Err(RunDirError::NotOurs { owner: None, .. })));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let (_temp, run) = fresh();
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a directory away");
            return;
        }
        fs::create_dir(run.path()).unwrap();
        std::os::unix::fs::chown(run.path(), Some(65534), None).unwrap();
        let error = run.create().unwrap_err();
        assert!(error.to_string().contains("a directory of user 65534, not ours"), "{error}");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let (temp, _) = fresh();
        let run = RunDir::at(temp.path().join("long/".repeat(20)));
        assert!(matches!(run.create(), Err(RunDirError::TooLong { length, .. }) if length > 107));
        assert!(!temp.path().join("long").exists());
    }

    #[test]
    fn one_controller_at_a_time() {
        let (_temp, run) = fresh();
        run.create().unwrap();
        let first = run.lock().unwrap();
        let refused = run.lock().unwrap_err();
        let pid = std::process::id();
        assert!(refused.to_string().contains(&format!("the controller with process id {pid}")), "{refused}");
        drop(first);
        run.lock().unwrap();
    }

    #[test]
    fn the_secret_stays_and_is_for_nobody_else() {
        let (_temp, run) = fresh();
        run.create().unwrap();
        let lock = run.lock().unwrap();
        let secret = run.secret(&lock).unwrap();
        assert_eq!(run.secret(&lock).unwrap(), secret);
        let path = run.control_dir().join("secret");
        assert_eq!(mode(&path), 0o600);
        fs::write(&path, "half").unwrap();
        assert!(matches!(run.secret(&lock), Err(RunDirError::BadSecret { .. })));
        fs::remove_file(&path).unwrap();
        assert_ne!(run.secret(&lock).unwrap(), secret);
    }

    #[test]
    fn a_token_is_made_up_once_and_is_for_nobody_else() {
        let (_temp, run) = fresh();
        run.create().unwrap();
        let lock = run.lock().unwrap();
        let (token, novelty) = run.api_token(&lock).unwrap();
        assert_eq!((token.len(), novelty), (64, Novelty::New));
        assert_eq!(mode(&run.api_token_file()), 0o600);
        assert_eq!(run.api_token(&lock).unwrap(), (token, Novelty::Known));
        run.remove().unwrap();
        assert!(!run.path().exists());
    }
}
