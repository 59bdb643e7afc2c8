//! Arguments and options of `mount.efs`, checked as efs-utils 3.2.0 does, with its texts (spec/efs.md §3.3).

use crate::server::View;

/// The message for stderr; `mount.efs` exits 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

/// Options in the order given, as a Python dict keeps them: a repeated key keeps its place and gets the new value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, Option<String>)>);

impl Options {
    /// `opt1,opt2=val`.
    pub fn parse(text: &str) -> Result<Options, Fatal> {
        let mut options = Options::default();
        for option in text.split(',') {
            match option.split_once('=') {
                None => options.set(option, None),
                // efs-utils dies of a Python exception here.
                Some((_, value)) if value.contains('=') => {
                    return Err(Fatal("ValueError: too many values to unpack (expected 2)".into()));
                }
                Some((key, value)) => options.set(key, Some(value)),
            }
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// The value; `None` when the option is missing or has none.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).and_then(|(_, v)| v.as_deref())
    }

    /// For the log, as Python prints a dict.
    pub fn log_form(&self) -> String {
        let items = self.0.iter().map(|(k, v)| match v {
            Some(v) => format!("'{k}': '{v}'"),
            None => format!("'{k}': None"),
        });
        format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
    }

    /// Which options the mount itself gets.
    pub fn view(&self) -> View {
        View {
            read_only: self.has("ro"),
            no_suid: self.has("nosuid"),
            no_dev: self.has("nodev"),
            no_exec: self.has("noexec"),
            no_atime: self.has("noatime"),
            no_dir_atime: self.has("nodiratime"),
            sync: self.has("sync"),
            dir_sync: self.has("dirsync"),
            nfs: false,
        }
    }

    /// `check_unsupported_options` and `check_options_validity`.
    pub fn check(&self) -> Result<(), Fatal> {
        let unsupported: Vec<_> = ["capath", "azid"].into_iter().filter(|o| self.has(o)).map(|o| format!("\"{o}\"")).collect();
        if !unsupported.is_empty() {
            return fatal(format!("Unsupported mount options detected: {}", unsupported.join(", ")));
        }
        if self.has("tls") {
            if self.has("port") {
                return fatal(r#"The "port" and "tls" options are mutually exclusive"#);
            }
            if self.has("tlsport") {
                let port = self.get("tlsport").unwrap_or("None");
                if port.trim().parse::<i64>().is_err() {
                    return fatal(format!("tlsport option [{port}] is not an integer"));
                }
            }
            if self.has("ocsp") && self.has("noocsp") {
                return fatal(r#"The "ocsp" and "noocsp" options are mutually exclusive"#);
            }
            if self.has("notls") {
                return fatal(r#"The "tls" and "notls" options are mutually exclusive"#);
            }
        }
        if self.has("accesspoint") {
            let id = self.get("accesspoint").unwrap_or_default();
            if !self.has("tls") {
                return fatal(r#"The "tls" option is required when mounting via "accesspoint""#);
            }
            if !is_access_point_id(id) {
                return fatal(format!("Access Point ID {id} is malformed"));
            }
        }
        if self.has("iam") && !self.has("tls") {
            return fatal(r#"The "tls" option is required when mounting via "iam""#);
        }
        if self.has("awsprofile") && !self.has("iam") {
            return fatal(r#"The "iam" option is required when mounting with named profile option, "awsprofile""#);
        }
        if self.has("awscredsuri") {
            if !self.has("iam") {
                return fatal(r#"The "iam" option is required when mounting with "awscredsuri""#);
            }
            if self.has("awsprofile") {
                return fatal(r#"The "awscredsuri" and "awsprofile" options are mutually exclusive"#);
            }
            let uri = self.get("awscredsuri").unwrap_or_default();
            if !uri.starts_with('/') {
                return fatal(format!("awscredsuri {uri} is malformed"));
            }
        }
        if self.has("mounttargetip") && self.has("crossaccount") {
            return fatal("mounttargetip option is incompatible with crossaccount option.");
        }
        Ok(())
    }
}

fn fatal<T>(message: impl Into<String>) -> Result<T, Fatal> {
    Err(Fatal(message.into()))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_access_point_id(id: &str) -> bool {
    id.strip_prefix("fsap-").is_some_and(|hex| hex.len() == 17 && is_lower_hex(hex))
}

fn is_file_system_id(id: &str) -> bool {
    id.strip_prefix("fs-").is_some_and(|hex| !hex.is_empty() && is_lower_hex(hex))
}

/// What to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub file_system_id: String,
    pub path: String,
    /// From a DNS name of one zone's mount target.
    pub zone: Option<String>,
}

impl Device {
    /// `fs-…`, `fs-…:`, `fs-…:/path`, or a DNS name in place of the id.
    pub fn parse(device: &str, options: &Options) -> Result<Device, Fatal> {
        let (remote, path) = device.split_once(':').unwrap_or((device, "/"));
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        if is_file_system_id(remote) {
            return Ok(Device { file_system_id: remote.into(), path, zone: None });
        }
        // efs-utils resolves the name first; here a name is what it says.
        let labels: Vec<_> = remote.split('.').collect();
        let (zone, rest) = match labels.as_slice() {
            [id, rest @ ..] if is_file_system_id(id) => (None, Some((id, rest))),
            [zone, id, rest @ ..] if is_file_system_id(id) && !zone.is_empty() => (Some((*zone).to_owned()), Some((id, rest))),
            _ => (None, None),
        };
        let Some((id, ["efs", _region, _suffix, ..])) = rest else {
            return fatal(format!(
                "Failed to resolve \"{remote}\" - check that the specified DNS name is a CNAME record resolving to a valid EFS DNS name"
            ));
        };
        if let (Some(given), Some(expected)) = (&zone, options.get("az"))
            && given != expected
        {
            return fatal(format!(
                "The hostname \"{remote}\" resolved by the specified domain name \"{remote}\" does not match the az provided in the \
                 mount options, expected = {expected}, given = {given}"
            ));
        }
        Ok(Device { file_system_id: (*id).to_owned(), path, zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str) -> Result<(), String> {
        Options::parse(options).and_then(|o| o.check()).map_err(|Fatal(m)| m)
    }

    #[test]
    fn options_are_refused_with_the_texts_of_efs_utils() {
        let ap = "accesspoint=fsap-0123456789abcdef0";
        let refused = [
            ("capath=/x", r#"Unsupported mount options detected: "capath""#),
            ("azid=use1-az1,capath=/x", r#"Unsupported mount options detected: "capath", "azid""#),
            ("tls,port=2049", r#"The "port" and "tls" options are mutually exclusive"#),
            ("tls,tlsport=abc", "tlsport option [abc] is not an integer"),
            ("tls,ocsp,noocsp", r#"The "ocsp" and "noocsp" options are mutually exclusive"#),
            ("tls,notls", r#"The "tls" and "notls" options are mutually exclusive"#),
            (ap, r#"The "tls" option is required when mounting via "accesspoint""#),
            ("tls,accesspoint=fsap-1234abcd", "Access Point ID fsap-1234abcd is malformed"),
            ("tls,accesspoint=fsap-0123456789ABCDEF0", "Access Point ID fsap-0123456789ABCDEF0 is malformed"),
            ("iam", r#"The "tls" option is required when mounting via "iam""#),
            ("tls,awsprofile=a", r#"The "iam" option is required when mounting with named profile option, "awsprofile""#),
            ("tls,awscredsuri=/a", r#"The "iam" option is required when mounting with "awscredsuri""#),
            ("tls,iam,awscredsuri=/a,awsprofile=b", r#"The "awscredsuri" and "awsprofile" options are mutually exclusive"#),
            ("tls,iam,awscredsuri=a", "awscredsuri a is malformed"),
            ("mounttargetip=10.0.0.1,crossaccount", "mounttargetip option is incompatible with crossaccount option."),
            ("a=b=c", "ValueError: too many values to unpack (expected 2)"),
        ];
        for (options, message) in refused {
            assert_eq!(check(options), Err(message.to_owned()), "{options}");
        }
    }

    #[test]
    fn what_the_driver_and_users_give_is_accepted() {
        for options in [
            "rw",
            "rw,tls,accesspoint=fsap-0123456789abcdef0",
            "rw,mounttargetip=10.0.1.2,accesspoint=fsap-0123456789abcdef0,tls",
            "tls,iam,awscredsuri=/v2/credentials/x",
            "rw,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,_netdev",
            "ro,port=2049",
        ] {
            assert_eq!(check(options), Ok(()), "{options}");
        }
    }

    #[test]
    fn a_repeated_option_keeps_its_place_and_gets_the_new_value() {
        let options = Options::parse("rw,az=a,tls,az=b").expect("valid");
        assert_eq!(options.log_form(), "{'rw': None, 'az': 'b', 'tls': None}");
    }

    #[test]
    fn options_of_the_mount_itself() {
        let view = Options::parse("ro,nosuid,nodev,noexec,noatime,sync").expect("valid").view();
        let expected = View { read_only: true, no_suid: true, no_dev: true, no_exec: true, no_atime: true, sync: true, ..View::default() };
        assert_eq!(view, expected);
    }

    #[test]
    fn devices() {
        let parse = |device: &str, options: &str| {
            let options = Options::parse(options).expect("valid");
            Device::parse(device, &options).map(|d| (d.file_system_id, d.path, d.zone)).map_err(|Fatal(m)| m)
        };
        let ok = |id: &str, path: &str, zone: Option<&str>| Ok((id.to_owned(), path.to_owned(), zone.map(str::to_owned)));
        assert_eq!(parse("fs-0abc", "rw"), ok("fs-0abc", "/", None));
        assert_eq!(parse("fs-0abc:", "rw"), ok("fs-0abc", "/", None));
        assert_eq!(parse("fs-0abc:/", "rw"), ok("fs-0abc", "/", None));
        assert_eq!(parse("fs-0abc:/a:b", "rw"), ok("fs-0abc", "/a:b", None));
        assert_eq!(parse("fs-0abc.efs.us-east-1.amazonaws.com:/x", "rw"), ok("fs-0abc", "/x", None));
        assert_eq!(parse("us-east-1a.fs-0abc.efs.us-east-1.amazonaws.com", "rw"), ok("fs-0abc", "/", Some("us-east-1a")));
        assert!(
            parse("us-east-1a.fs-0abc.efs.us-east-1.amazonaws.com", "az=us-east-1b").is_err_and(|m| m.contains("does not match the az"))
        );
        assert!(parse("fs-XYZ", "rw").is_err_and(|m| m.starts_with("Failed to resolve \"fs-XYZ\" - check that the specified DNS name")));
    }
}
