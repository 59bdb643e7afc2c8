//! What is mounted, read from `/proc`.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub major: u64,
    pub minor: u64,
    /// What of the file system is mounted: `/` but for bind mounts.
    pub root: PathBuf,
    pub point: PathBuf,
    /// `/dev/nvme1n1`, `127.0.0.1:/`, `tmpfs`.
    pub source: String,
    pub kind: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let (major, minor) = fields.get(2)?.split_once(':')?;
        let mut rest = rest.split(' ');
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            root: unescape(fields.get(3)?).into(),
            point: unescape(fields.get(4)?).into(),
            kind: rest.next()?.to_owned(),
            source: unescape(rest.next()?),
        })
    }
}

/// mountinfo writes blanks, tabs, newlines and backslashes as octal numbers.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read(path: &Path) -> Vec<Mount> {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(Mount::parse).collect()
}

/// The mounts of this mount namespace, oldest first.
pub fn all() -> Vec<Mount> {
    read(Path::new("/proc/self/mountinfo"))
}

/// The mount on a path: the uppermost, where several are stacked.
pub fn at(path: &Path) -> Option<Mount> {
    all().into_iter().rev().find(|mount| mount.point == path)
}

/// Where the file system of a device is mounted in this mount namespace.
pub fn mount_point(major: u64, minor: u64) -> Option<PathBuf> {
    all().into_iter().find(|mount| (mount.major, mount.minor) == (major, minor)).map(|mount| mount.point)
}

/// Who uses a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Its file system is mounted at this path of some mount namespace.
    Mounted(PathBuf),
    /// A process has it open.
    Open { pid: u32, name: String },
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted(point) => write!(f, "mounted at {}", point.display()),
            Self::Open { pid, name } => write!(f, "open in process {pid} ({name})"),
        }
    }
}

/// Who uses a block device, in any mount namespace below this process's PID namespace.
pub fn holder(major: u64, minor: u64) -> Option<Holder> {
    let rdev = makedev(major, minor);
    let mut namespaces = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let process = entry.path();
        // One look a mount namespace.
        if let Ok(namespace) = std::fs::read_link(process.join("ns/mnt"))
            && namespaces.insert(namespace)
            && let Some(mount) = read(&process.join("mountinfo")).iter().find(|mount| (mount.major, mount.minor) == (major, minor))
        {
            return Some(Holder::Mounted(mount.point.clone()));
        }
        let Ok(fds) = std::fs::read_dir(process.join("fd")) else { continue };
        for fd in fds.flatten() {
            if std::fs::metadata(fd.path()).is_ok_and(|meta| meta.file_type().is_block_device() && meta.rdev() == rdev) {
                let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
                return Some(Holder::Open { pid, name: name.trim().to_owned() });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let line = r"36 35 7:1000 / /var/lib/a\040b rw,noatime master:1 - ext4 /dev/nvme1n1 rw,errors=continue";
        assert_eq!(
            Mount::parse(line),
            Some(Mount {
                major: 7,
                minor: 1000,
                root: "/".into(),
                point: "/var/lib/a b".into(),
                source: "/dev/nvme1n1".into(),
                kind: "ext4".into()
            })
        );
        assert_eq!(Mount::parse("nonsense"), None);
        assert!(all().iter().any(|mount| mount.point == Path::new("/")));
    }
}
