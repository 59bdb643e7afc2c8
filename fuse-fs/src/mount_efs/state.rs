//! What efs-utils leaves beside a mount: the state file and the log (spec/efs.md §3.3 items 2, 9, 11). Both are for people
//! and their tools; a mount never fails for them, and they are only written where their directory exists.

use super::mountinfo;
use crate::server::is_type;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ports that efs-utils gives its proxies: part of the state file's name.
const PORTS: std::ops::Range<u16> = 20049..21049;
/// The watchdog's patience with a state file without a mount.
const GRACE: Duration = Duration::from_secs(30);

/// `mount.log`.
#[derive(Debug)]
pub struct Log(PathBuf);

impl Log {
    pub fn new(directory: &Path) -> Log {
        Log(directory.join("mount.log"))
    }

    /// One line, as Python's logging writes it.
    pub fn write(&self, level: &str, message: &str) {
        let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(&self.0) else { return };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
        // A full disk must not fail the mount.
        let _ = writeln!(file, "{now} - {level} - {message}");
    }
}

/// `/mnt/efs` → `mnt.efs`.
fn dotted(target: &Path) -> String {
    target.to_string_lossy().replace('/', ".").trim_start_matches('.').to_owned()
}

/// Writes the state file of a new mount and does the watchdog's work: removes those without a mount.
pub fn note_mount(directory: &Path, fs_id: &str, access_point: Option<&str>, tls: bool, target: &Path, wanted_port: Option<u16>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted: Vec<_> = mountinfo::parse(&table).filter(|m| is_type(&m.fs_type)).map(|m| m.target).collect();
    let mut taken = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(port) = name.strip_prefix("fs-").and_then(|n| n.rsplit_once('.')).and_then(|(_, p)| p.parse::<u16>().ok()) else {
            continue;
        };
        let state: Option<serde_json::Value> = std::fs::read(entry.path()).ok().and_then(|s| serde_json::from_slice(&s).ok());
        let of = state.as_ref().and_then(|s| s.get("mountpoint")).and_then(|m| m.as_str()).map(PathBuf::from);
        let old = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok()).is_some_and(|age| age > GRACE);
        if of.is_some_and(|of| !mounted.contains(&of)) && old {
            let _ = std::fs::remove_file(entry.path());
        } else {
            taken.push(port);
        }
    }
    let Some(port) = wanted_port.or_else(|| PORTS.clone().find(|p| !taken.contains(p))) else { return };
    let name = format!("{fs_id}.{}.{port}", dotted(target));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let mut state = serde_json::json!({
        "pid": -1, "cmd": [], "files": [], "mount_time": now, "mountpoint": target, "service_type": "elasticfilesystem",
    });
    if tls {
        if let Some(id) = access_point {
            state["accessPoint"] = id.into();
        }
        state["mountStateDir"] = format!("{name}+").into();
        state["fsId"] = fs_id.into();
    }
    // Written under efs-utils' temporary name, then renamed.
    let draft = directory.join(format!("~{name}"));
    if std::fs::write(&draft, state.to_string()).is_ok() {
        let _ = std::fs::rename(&draft, directory.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_file_is_named_and_filled_as_by_efs_utils() {
        let directory = tempfile::tempdir().expect("tempdir");
        note_mount(directory.path(), "fs-0abc", Some("fsap-0123456789abcdef0"), true, Path::new("/mnt/efs"), None);
        note_mount(directory.path(), "fs-0abc", None, false, Path::new("/mnt/other"), None);
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(directory.path().join(name)).expect(name)).expect("JSON")
        };
        let state = read("fs-0abc.mnt.efs.20049");
        assert_eq!((state["mountpoint"].as_str(), state["fsId"].as_str()), (Some("/mnt/efs"), Some("fs-0abc")));
        // The first is not mounted, but too young to be removed: its port is taken.
        assert!(read("fs-0abc.mnt.other.20050").get("fsId").is_none());
    }
}
