//! `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`.
    pub device: String,
    pub target: PathBuf,
    /// As `fuse.efs`.
    pub fs_type: String,
}

/// The rows in mount order; what is not a row is skipped.
pub fn parse(table: &str) -> impl Iterator<Item = Mount> {
    table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let target = unescape(fields.nth(1)?);
        let fs_type = right.split(' ').next()?.to_owned();
        Some(Mount { device, target, fs_type })
    })
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_device_target_and_type() {
        let table = "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                     99 36 0:54 / /a\\040b\\134c rw shared:7 - fuse.efs 127.0.0.1:/ rw,user_id=0\nnonsense\n";
        let mounts: Vec<_> = parse(table).collect();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1], Mount { device: "0:54".into(), target: "/a b\\c".into(), fs_type: "fuse.efs".into() });
    }
}
