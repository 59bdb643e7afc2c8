//! Volume handles of the EFS driver (`parseVolumeId`, efs.md §3.1).

use crate::driver::go::clean_path;
use model_common::csi::{Code, Error};

/// `efs:fs-…:path:fsap-…`, or the older `fs-…:path:fsap-…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handle {
    pub file_system_id: String,
    /// Cleaned, may be relative; empty when not given.
    pub path: String,
    /// Empty when not given.
    pub access_point_id: String,
}

impl Handle {
    /// Reads a handle; the errors are the real driver's.
    pub fn parse(handle: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::new(Code::InvalidArgument, format!("volume ID '{handle}' is invalid: {why}"));
        let mut fields: Vec<&str> = handle.split(':').collect();
        if fields[0] == "s3files" {
            return Err(wrong("S3 Files file systems are not supported by this driver"));
        }
        let most = if fields[0] == "efs" {
            fields.remove(0);
            "Expected at most four fields separated by ':'"
        } else {
            "Expected at most three fields separated by ':'"
        };
        if fields.len() > 3 {
            return Err(wrong(most));
        }
        let Some(&file_system_id) = fields.first() else { return Err(wrong("Missing file system ID")) };
        if !is_id(file_system_id, "fs-") {
            return Err(wrong("Expected a file system ID of the form 'fs-[0-9a-f]{8,40}'"));
        }
        let field = |n: usize| fields.get(n).copied().unwrap_or_default();
        let access_point_id = field(2);
        if !access_point_id.is_empty() && !is_id(access_point_id, "fsap-") {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "volume ID '{handle}' has an invalid access point ID '{access_point_id}': Expected it to be of the form \
                     'fsap-[0-9a-f]{{8,40}}'"
                ),
            ));
        }
        let path = if field(1).is_empty() { String::new() } else { clean_path(field(1)) };
        Ok(Self { file_system_id: file_system_id.to_owned(), path, access_point_id: access_point_id.to_owned() })
    }
}

fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|hex| (8..=40).contains(&hex.len()) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles() {
        let parsed = |handle: &str| Handle::parse(handle).map(|h| (h.file_system_id, h.path, h.access_point_id));
        let ok = |fs: &str, path: &str, ap: &str| Ok((fs.to_owned(), path.to_owned(), ap.to_owned()));
        assert_eq!(parsed("fs-0123abcd"), ok("fs-0123abcd", "", ""));
        assert_eq!(parsed("fs-0123abcd:/a/../b"), ok("fs-0123abcd", "/b", ""));
        assert_eq!(parsed("fs-0123abcd::fsap-0123abcd"), ok("fs-0123abcd", "", "fsap-0123abcd"));
        assert_eq!(parsed("efs:fs-0123abcd:x:fsap-0123abcd"), ok("fs-0123abcd", "x", "fsap-0123abcd"));
        for (bad, why) in [
            ("fs-xyz", "form 'fs-"),
            ("vol-0123abcd", "form 'fs-"),
            ("fs-0123abcd:::x", "at most three"),
            ("efs:fs-0123abcd:::x", "at most four"),
            ("efs", "Missing"),
            ("fs-0123abcd::fsap-1", "form 'fsap-"),
            ("s3files:fs-0123abcd", "not supported"),
        ] {
            assert!(parsed(bad).unwrap_err().message.contains(why), "{bad}");
        }
    }
}
