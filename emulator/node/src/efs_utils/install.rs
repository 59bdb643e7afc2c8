//! efs-utils in a node: found on this machine, brought to where its programs look for each other.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::host::NodeError;

/// The watchdog's program.
pub(crate) const WATCHDOG: &str = "amazon-efs-mount-watchdog";
/// The directory of `/sbin` in which the real programs lie.
const REAL: &str = "efs-utils";

/// The real efs-utils of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsUtils {
    /// The directory it is installed below, or its sources.
    root: PathBuf,
    /// The interpreter that runs it.
    python: PathBuf,
}

/// What the real efs-utils cannot do without.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error(
        "there is no efs-utils below {root}: neither {root}/sbin/mount.efs nor {root}/src/mount_efs/__init__.py; install it (the package \
         amazon-efs-utils, https://docs.aws.amazon.com/efs/latest/ug/installing-amazon-efs-utils.html), or give its sources \
         (https://github.com/aws/efs-utils): --faithful=DIR",
        root = root.display()
    )]
    Tree { root: PathBuf },
    #[error("efs-utils below {root} has no {file}; install it anew", root = root.display(), file = file.display())]
    File { root: PathBuf, file: PathBuf },
    #[error("efs-utils runs {0}, which is not in PATH; install it (Debian: {1})")]
    Program(&'static str, &'static str),
    #[error("efs-utils asks the API with botocore, which {python} has not got: install it (Debian: python3-botocore, or pip install botocore)", python = python.display())]
    Botocore { python: PathBuf },
}

/// Where its parts lie, below its root.
struct Layout {
    mount_efs: &'static str,
    /// The packages that it imports.
    packages: &'static str,
    watchdog: &'static str,
    config: &'static str,
}

/// As the package installs it, and as its sources lie.
const LAYOUTS: [Layout; 3] = [
    Layout {
        mount_efs: "usr/sbin/mount.efs",
        packages: "usr/sbin",
        watchdog: "usr/bin/amazon-efs-mount-watchdog",
        config: "etc/amazon/efs",
    },
    Layout { mount_efs: "sbin/mount.efs", packages: "sbin", watchdog: "usr/bin/amazon-efs-mount-watchdog", config: "etc/amazon/efs" },
    Layout { mount_efs: "src/mount_efs/__init__.py", packages: "src", watchdog: "src/watchdog/__init__.py", config: "dist" },
];
const PACKAGES: [&str; 2] = ["efs_utils_common", "mount_efs"];
const CONFIG: [&str; 2] = ["efs-utils.conf", "efs-utils.crt"];

impl EfsUtils {
    /// Looks below `root` (`/`: what is installed here) and for the programs that it runs.
    pub fn find(root: &Path) -> Result<Self, Missing> {
        let found = Self { root: root.to_owned(), python: PathBuf::new() };
        let layout = found.layout().ok_or_else(|| Missing::Tree { root: root.to_owned() })?;
        let needed = [PathBuf::from(layout.watchdog)].into_iter().chain(CONFIG.map(|file| Path::new(layout.config).join(file)));
        for file in needed {
            if !root.join(&file).is_file() {
                return Err(Missing::File { root: root.to_owned(), file });
            }
        }
        for (program, package) in [("openssl", "openssl"), ("which", "debianutils"), ("mount", "mount")] {
            in_path(program).ok_or(Missing::Program(program, package))?;
        }
        let python = in_path("python3").ok_or(Missing::Program("python3", "python3"))?;
        let botocore = Command::new(&python).args(["-c", "import botocore.session"]).stderr(Stdio::null()).status();
        if !botocore.is_ok_and(|status| status.success()) {
            return Err(Missing::Botocore { python });
        }
        Ok(Self { python, ..found })
    }

    pub fn python(&self) -> &Path {
        &self.python
    }

    fn layout(&self) -> Option<&'static Layout> {
        LAYOUTS.iter().find(|layout| is_script(&self.root.join(layout.mount_efs)))
    }

    /// Puts it into the directory that the node finds in `/sbin`: the real programs in one of their own, and under their names this
    /// program, which takes them into the instance's network.
    pub(crate) fn install(&self, sbin: &Path, this: &Path) -> Result<(), NodeError> {
        let real = sbin.join(REAL);
        let layout = self.layout().ok_or_else(|| NodeError::Config(Missing::Tree { root: self.root.clone() }.to_string()))?;
        make(&real)?;
        copy(&self.root.join(layout.mount_efs), &real.join("mount.efs"))?;
        copy(&self.root.join(layout.watchdog), &real.join(WATCHDOG))?;
        for package in PACKAGES.map(|package| (package, self.root.join(layout.packages).join(package))) {
            // Before version 2.4 it was one file.
            if package.1.is_dir() {
                copy_modules(&package.1, &real.join(package.0))?;
            }
        }
        for name in ["mount.efs", WATCHDOG, "mount.nfs4", "efs-proxy"] {
            symlink(this, sbin.join(name)).map_err(NodeError::file("creating", sbin.join(name)))?;
        }
        Ok(())
    }
}

/// Where it is found in the node.
pub(super) fn real(name: &str) -> PathBuf {
    Path::new("/sbin").join(REAL).join(name)
}

/// The directories that efs-utils writes: its configuration and its log are kept in `dir`, its state goes with the node.
pub(crate) fn mount_state(efs_utils: &EfsUtils, dir: &Path) -> Result<(), NodeError> {
    let (config, log) = (dir.join("etc"), dir.join("log"));
    make(&log)?;
    make(&config)?;
    if let Some(layout) = efs_utils.layout() {
        for file in CONFIG.iter().filter(|file| !config.join(file).exists()) {
            copy(&efs_utils.root.join(layout.config).join(file), &config.join(file))?;
        }
    }
    for (source, target) in [(&config, "/etc/amazon/efs"), (&log, "/var/log/amazon/efs")] {
        make(Path::new(target))?;
        mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|error| NodeError::file("mounting", target)(error.into()))?;
    }
    let state = "/run/efs";
    make(Path::new(state))?;
    mount(Some("efs"), state, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=750"))
        .map_err(|error| NodeError::file("mounting", state)(error.into()))
}

/// Real programs are Python; one of ours under the same name is not.
fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn make(dir: &Path) -> Result<(), NodeError> {
    std::fs::create_dir_all(dir).map_err(NodeError::file("creating", dir))
}

fn copy(from: &Path, to: &Path) -> Result<(), NodeError> {
    std::fs::copy(from, to).map(drop).map_err(NodeError::file("copying", from))
}

fn copy_modules(from: &Path, to: &Path) -> Result<(), NodeError> {
    make(to)?;
    for entry in std::fs::read_dir(from).map_err(NodeError::file("reading", from))? {
        let path = entry.map_err(NodeError::file("reading", from))?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|end| end == "py")) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_install() {
        let root = tempfile::tempdir().expect("tempdir");
        let missing = || EfsUtils::find(root.path()).expect_err("it is not there").to_string();
        assert!(missing().contains("install it (the package amazon-efs-utils"), "{}", missing());
        let sbin = root.path().join("usr/sbin");
        std::fs::create_dir_all(&sbin).expect("made");
        // A helper of ours under the same name is not efs-utils.
        std::fs::write(sbin.join("mount.efs"), b"\x7fELF").expect("written");
        assert!(missing().contains("there is no efs-utils below"), "{}", missing());
        std::fs::write(sbin.join("mount.efs"), b"#!/usr/bin/env python3\n").expect("written");
        assert!(missing().contains("has no usr/bin/amazon-efs-mount-watchdog"), "{}", missing());
    }

    #[test]
    fn sources_and_packages_are_brought_to_the_same_places() {
        for layout in &LAYOUTS {
            let root = tempfile::tempdir().expect("tempdir");
            let file = |path: &str| {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                std::fs::write(path, "#!/usr/bin/env python3\n").expect("written");
            };
            file(layout.mount_efs);
            file(layout.watchdog);
            for package in PACKAGES {
                file(&format!("{}/{package}/constants.py", layout.packages));
            }
            let sbin = tempfile::tempdir().expect("tempdir");
            let efs_utils = EfsUtils { root: root.path().to_owned(), python: PathBuf::new() };
            efs_utils.install(sbin.path(), Path::new("/usr/bin/ebbtide")).expect("installed");
            for name in ["mount.efs", "amazon-efs-mount-watchdog", "efs_utils_common/constants.py", "mount_efs/constants.py"] {
                assert!(sbin.path().join(REAL).join(name).is_file(), "{name} of {}", layout.mount_efs);
            }
            for name in ["mount.efs", "amazon-efs-mount-watchdog", "mount.nfs4", "efs-proxy"] {
                assert_eq!(std::fs::read_link(sbin.path().join(name)).expect(name), Path::new("/usr/bin/ebbtide"));
            }
        }
    }
}
