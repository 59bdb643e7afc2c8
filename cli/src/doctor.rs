//! `ebbtide doctor`: does this machine have what the full product needs, and what to do where not.

use std::path::Path;
use std::process::{Command, ExitCode};

use serde::Serialize;

use crate::args::{DoctorArgs, Format};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Something smaller does not work.
    Warning,
    /// Pods cannot mount volumes.
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty when all is well.
    advice: String,
}

pub fn doctor(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let checks = checks();
    crate::output::print(args.output, &checks, |checks| text(checks))?;
    let missing = checks.iter().any(|check| check.verdict == Verdict::Missing);
    if args.output == Format::Text {
        match missing {
            true => println!("\nThe AWS and Kubernetes APIs and the simulator work without these; pods that mount volumes do not."),
            false => println!("\nEverything that pods with volumes need is here."),
        }
    }
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Missing => "MISSING",
        };
        out.push_str(&format!("{mark}  {:<22} {}\n", check.name, check.found));
        if !check.advice.is_empty() {
            out.push_str(&format!("{:33}-> {}\n", "", check.advice));
        }
    }
    out
}

fn checks() -> Vec<Check> {
    let mut checks = vec![kernel(), root()];
    checks.extend([
        exists("loop devices", "/dev/loop-control", "load the driver: modprobe loop"),
        exists("FUSE", "/dev/fuse", "load the driver: modprobe fuse"),
        file_system("overlay", "containers get their root from overlayfs: modprobe overlay"),
        file_system("ext4", "volumes are formatted with ext4: modprobe ext4"),
    ]);
    let xfs = file_system("xfs", "volumes with fsType xfs need it: modprobe xfs");
    checks.push(if xfs.verdict == Verdict::Missing { Check { verdict: Verdict::Warning, ..xfs } } else { xfs });
    for (tool, package, needed) in [
        ("mount", "mount", true),
        ("blkid", "util-linux", true),
        ("lsblk", "util-linux", true),
        ("blockdev", "util-linux", true),
        ("mkfs.ext4", "e2fsprogs", true),
        ("fsck", "util-linux", true),
        ("resize2fs", "e2fsprogs", true),
        ("mkfs.xfs", "xfsprogs", false),
        ("xfs_growfs", "xfsprogs", false),
        ("kubectl", "kubernetes-client, or any kubectl", false),
        ("aws", "awscli, or pip install awscli", false),
    ] {
        checks.push(program(tool, package, needed));
    }
    checks.push(resize_capability());
    checks
}

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (verdict, advice) = match version {
        (0, _) => (Verdict::Missing, "the full product needs Linux".to_owned()),
        v if v < (5, 8) => (Verdict::Missing, "Linux 5.8 or newer is needed (LOOP_CONFIGURE, openat2)".to_owned()),
        v if v < (6, 9) => (Verdict::Warning, "EFS file data is copied through FUSE; Linux 6.9 or newer passes it through".to_owned()),
        _ => (Verdict::Ok, String::new()),
    };
    Check { name: "kernel", verdict, found: release, advice }
}

fn root() -> Check {
    let root = rustix::process::geteuid().is_root();
    Check {
        name: "root",
        verdict: if root { Verdict::Ok } else { Verdict::Missing },
        found: if root { "yes".into() } else { format!("uid {}", rustix::process::geteuid().as_raw()) },
        advice: if root { String::new() } else { "loop devices, mounts and namespaces need root: sudo ebbtide up".into() },
    }
}

fn exists(name: &'static str, path: &str, advice: &str) -> Check {
    let there = Path::new(path).exists();
    Check {
        name,
        verdict: if there { Verdict::Ok } else { Verdict::Missing },
        found: if there { path.to_owned() } else { format!("no {path}") },
        advice: if there { String::new() } else { advice.to_owned() },
    }
}

/// A file system the kernel has, built in or as a module that modprobe can load.
fn file_system(name: &'static str, advice: &str) -> Check {
    let listed = || {
        std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.lines().any(|line| line.split_whitespace().last() == Some(name)))
    };
    let there = listed() || (Command::new("modprobe").arg("-q").arg(name).status().is_ok_and(|status| status.success()) && listed());
    Check {
        name,
        verdict: if there { Verdict::Ok } else { Verdict::Missing },
        found: if there { "in the kernel".into() } else { "not in the kernel".into() },
        advice: if there { String::new() } else { advice.to_owned() },
    }
}

fn program(name: &'static str, package: &str, needed: bool) -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir: std::path::PathBuf| dir.join(name))
        .find(|file| file.is_file());
    let verdict = match (&found, needed) {
        (Some(_), _) => Verdict::Ok,
        (None, true) => Verdict::Missing,
        (None, false) => Verdict::Warning,
    };
    Check {
        name,
        verdict,
        advice: if found.is_some() { String::new() } else { format!("install it (Debian: {package})") },
        found: found.map_or_else(|| "not in PATH".into(), |file| file.display().to_string()),
    }
}

/// Online growth of ext4 asks for CAP_SYS_RESOURCE, which containers and sandboxes often take from root.
fn resize_capability() -> Check {
    const CAP_SYS_RESOURCE: u32 = 24;
    let effective = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapEff:").map(|mask| mask.trim().to_owned())))
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .unwrap_or(0);
    let has = effective & (1 << CAP_SYS_RESOURCE) != 0;
    Check {
        name: "CAP_SYS_RESOURCE",
        verdict: if has { Verdict::Ok } else { Verdict::Warning },
        found: if has { "yes".into() } else { "no".into() },
        advice: if has { String::new() } else { "mounted ext4 volumes cannot grow without it (xfs can)".into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_what_to_install() {
        let check = program("no-such-program", "a-package", true);
        assert_eq!(check.verdict, Verdict::Missing);
        assert_eq!(check.advice, "install it (Debian: a-package)");
        assert!(text(&[check]).contains("-> install it (Debian: a-package)"));
    }

    #[test]
    fn every_check_that_fails_says_what_to_do() {
        for check in checks() {
            assert_eq!(check.verdict == Verdict::Ok, check.advice.is_empty(), "{check:?}");
        }
    }
}
