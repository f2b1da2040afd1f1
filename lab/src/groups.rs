//! Control groups: where this user may make them, and how.
//!
//! A group is made beneath the lab's own and never beside or above it, so that a limit that somebody has set for the lab
//! holds for all that the lab starts. In hierarchies of version 1 that is simply done. In that of version 2 a group that has
//! processes hands out no controllers. So the lab first steps aside: it moves into a group of its own within the one that
//! it was given (delegated), which then has nobody in it and may be divided. Where somebody else is in there,
//! it moves back, and there are no groups.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Pid, getpid};

use crate::compartment::Limits;
use crate::janitor::{self, Belonging};
use crate::processes;

/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";

/// What is asked of version 2.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// One control group that belongs to a compartment.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    pub(crate) dir: PathBuf,
    pub(crate) caps_processes: bool,
    pub(crate) caps_memory: bool,
}

impl ControlGroup {
    pub(crate) fn members(&self) -> Vec<Pid> {
        members(&self.dir)
    }
}

/// Who is in a group.
pub(crate) fn members(dir: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

/// Makes the groups that this user may make: one in the unified hierarchy, or one each in those of version 1.
pub(crate) fn make(name: &str, limits: Limits) -> Vec<ControlGroup> {
    let (memory, pids) = (limits.memory.to_string(), limits.pids.to_string());
    if is_unified() {
        let files: [(&str, &str); 3] =
            [("pids.max", &pids), ("memory.max", &memory), ("memory.swap.max", "0")];
        return divided().and_then(|own| make_one(own.join(name), &files)).into_iter().collect();
    }
    let pids_files: [(&str, &str); 1] = [("pids.max", &pids)];
    // Without the other two what has no room would go to the disk, where the limit does not reach. The limit of memory and
    // swap together may not be below that of memory: it comes after it, and where the kernel has none it fails.
    let memory_files: [(&str, &str); 3] = [
        ("memory.limit_in_bytes", &memory),
        ("memory.memsw.limit_in_bytes", &memory),
        ("memory.swappiness", "0"),
    ];
    let one = |controller: &str, files: &[(&str, &str)]| make_one(own(controller)?.join(name), files);
    [one("pids", &pids_files), one("memory", &memory_files)].into_iter().flatten().collect()
}

/// Caps the processor time of everybody in `groups`, taken together: in the first of them, or in one more that is returned.
///
/// # Errors
/// When this user may not.
pub(crate) fn cap_cpu(
    groups: &[ControlGroup],
    name: &str,
    quota_us: f64,
    period_us: f64,
) -> io::Result<Option<ControlGroup>> {
    let none = || io::Error::from(io::ErrorKind::PermissionDenied);
    let quota = format!("{quota_us:.0}");
    if is_unified() {
        let group = groups.first().ok_or_else(none)?;
        std::fs::write(group.dir.join("cpu.max"), format!("{quota} {period_us:.0}"))?;
        return Ok(None);
    }
    let group = own("cpu").and_then(|own| make_one(own.join(name), &[("cpu.cfs_quota_us", &quota)]));
    group.map(Some).ok_or_else(none)
}

/// Makes one group and sets its limits; `None` if it may not, or may set none.
fn make_one(dir: PathBuf, files: &[(&str, &str)]) -> Option<ControlGroup> {
    std::fs::create_dir(&dir).ok()?;
    let set = files.iter().filter(|(file, value)| std::fs::write(dir.join(file), value).is_ok());
    let set: Vec<&str> = set.map(|(file, _)| *file).collect();
    if set.is_empty() {
        let _ = std::fs::remove_dir(&dir);
        return None;
    }
    Some(ControlGroup {
        caps_processes: set.contains(&"pids.max"),
        caps_memory: set.contains(&"memory.max") || set.contains(&"memory.limit_in_bytes"),
        dir,
    })
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The directory of the group that this process is in, in that controller's hierarchy of version 1.
fn own(controller: &str) -> Option<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    seen_from_here(&Path::new(ROOT).join(controller), path_of(&table, controller)?, Path::is_dir)
}

/// The group that this process was given in the unified hierarchy, divided so that groups in it have controllers.
/// `None`: that cannot be done.
fn divided() -> Option<&'static Path> {
    static DIVIDED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let divide = || {
        let table = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = seen_from_here(Path::new(ROOT), path_of(&table, "")?, Path::is_dir)?;
        // The root of all may be divided with processes in it.
        let whole = hand_out(&own) || step_aside(&own);
        whole.then_some(own)
    };
    DIVIDED.get_or_init(divide).as_deref()
}

/// Whether groups in this one have the controllers that it takes, or some of them.
fn hand_out(own: &Path) -> bool {
    let file = own.join("cgroup.subtree_control");
    for controller in CONTROLLERS {
        let _ = std::fs::write(&file, format!("+{controller}"));
    }
    let handed_out = std::fs::read_to_string(&file).unwrap_or_default();
    handed_out.split_whitespace().any(|it| CONTROLLERS.contains(&it))
}

/// Moves this process and its children into a group within `own`, if nobody else is in that.
fn step_aside(own: &Path) -> bool {
    let aside = own.join(format!("bulkhead-lab-{}-itself", std::process::id()));
    if std::fs::create_dir(&aside).is_err() {
        return false;
    }
    let ours = processes::with_descendants(getpid());
    move_all(own, &aside, |pid| ours.contains(&pid));
    let done = members(own).is_empty() && hand_out(own);
    if done {
        janitor::have(Belonging::Aside { own: own.to_owned(), aside });
    } else {
        step_back(own, &aside);
    }
    done
}

/// The opposite: whoever stepped aside is in `own` again, which hands out nothing any more.
pub(crate) fn step_back(own: &Path, aside: &Path) {
    for controller in CONTROLLERS {
        let _ = std::fs::write(own.join("cgroup.subtree_control"), format!("-{controller}"));
    }
    move_all(aside, own, |_| true);
    let _ = std::fs::remove_dir(aside);
}

fn move_all(from: &Path, to: &Path, whom: impl Fn(Pid) -> bool) {
    for pid in members(from).into_iter().filter(|pid| whom(*pid)) {
        let _ = std::fs::write(to.join("cgroup.procs"), pid.as_raw_nonzero().to_string());
    }
}

/// Of `/proc/PID/cgroup` the path in the hierarchy with that controller; that of version 2 has none.
fn path_of<'a>(table: &'a str, controller: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        // Number, controllers, path.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|it| it == controller).then_some(path)
    })
}

/// Where the group with that path is found under `mounted`. In a container only a part of the hierarchy may be mounted, and the
/// path begins above that.
fn seen_from_here(mounted: &Path, path: &str, is_there: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = path.trim_start_matches('/');
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let shorter = (0..=names.len()).map(|from| mounted.join(names.get(from..).unwrap_or(&[]).join("/")));
    shorter.into_iter().find(|dir| is_there(dir))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    const TABLE: &str =
        "5:devices:/\n4:memory:/lab/7\n3:cpu,cpuacct:/both\n1:name=systemd:/\n0::/user.slice/a:b\n";

    #[test]
    fn each_hierarchy_has_its_own_path() {
        assert_eq!(path_of(TABLE, "memory"), Some("/lab/7"));
        assert_eq!(path_of(TABLE, "cpu"), Some("/both"));
        assert_eq!(path_of(TABLE, ""), Some("/user.slice/a:b"));
        assert_eq!(path_of(TABLE, "pids"), None);
    }

    #[test]
    fn a_group_is_looked_for_where_it_is_mounted() {
        let mounted = Path::new("/m");
        let found = |path: &str, there: &[&str]| {
            let dirs: Vec<PathBuf> = there.iter().map(|it| mounted.join(it)).collect();
            seen_from_here(mounted, path, |dir| dirs.iter().any(|it| it == dir))
        };
        assert_eq!(found("/lab/7", &["", "lab/7"]), Some(mounted.join("lab/7")));
        // Of a container's hierarchy its own part is mounted, and here a group within that.
        assert_eq!(found("/docker/7/sub", &["", "sub"]), Some(mounted.join("sub")));
        assert_eq!(found("/docker/7", &[""]), Some(mounted.join("")));
        assert_eq!(found("/docker/7", &[]), None);
    }

    #[test]
    fn a_group_is_made_beneath_its_own() {
        let limits = Limits { memory: 64 << 20, pids: 8 };
        let name = format!("bulkhead-lab-{}-beneath", std::process::id());
        for group in make(&name, limits) {
            let own = group.dir.parent().unwrap().to_owned();
            let aside = own.join(format!("bulkhead-lab-{}-itself", std::process::id()));
            let is_in = |dir: &Path| members(dir).contains(&getpid());
            assert!(is_in(&own) || is_in(&aside), "{}", group.dir.display());
            std::fs::remove_dir(&group.dir).unwrap();
        }
    }
}
