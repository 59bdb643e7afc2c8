//! Where things lie on disk.
//!
//! The *data directory* holds all that outlives a run; the *run directory* holds sockets, which must have short paths
//! (108 bytes on Linux) and whose name is made from the data directory's, so that several ebbtides run side by side.

use std::path::{Path, PathBuf};

use model_common::digest::Digest;

/// Paths of one ebbtide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    data: PathBuf,
    run: PathBuf,
}

impl Places {
    /// The places of a data directory, which must be absolute.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let data = data.into();
        let mut digest = Digest::default();
        digest.bytes(data.as_os_str().as_encoded_bytes());
        let base = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if !is_root() => PathBuf::from(dir).join("ebbtide"),
            _ if is_root() => PathBuf::from("/run/ebbtide"),
            _ => std::env::temp_dir().join("ebbtide"),
        };
        let run = base.join(&digest.to_string()[..8]);
        Self { data, run }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The database of one side: `aws` or `kube`.
    pub fn state(&self, side: &str) -> PathBuf {
        self.data.join("state").join(side)
    }

    /// The sparse files of volumes, `<volume id>.img`.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// The files of snapshots, `<snapshot id>.img`.
    pub fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    /// The directory trees of EFS file systems, `<file system id>/`.
    pub fn efs(&self) -> PathBuf {
        self.data.join("efs")
    }

    /// The certificate authority, the token and the kubeconfig.
    pub fn kube(&self) -> PathBuf {
        self.data.join("kube")
    }

    /// The kubeconfig (mode 0600).
    pub fn kubeconfig(&self) -> PathBuf {
        self.kube().join("kubeconfig")
    }

    /// The public keys of the service accounts' tokens, as a JSON Web Key Set.
    pub fn key_set(&self) -> PathBuf {
        self.kube().join("jwks.json")
    }

    /// What a node keeps: `kubelet/` (its /var/lib/kubelet), `log`.
    pub fn node(&self, name: &str) -> PathBuf {
        self.data.join("nodes").join(name)
    }

    /// A node's sockets. Inside the node this directory is also found at `/run/ebbtide/node`.
    pub fn node_run(&self, name: &str) -> PathBuf {
        self.run.join("nodes").join(name)
    }

    /// The socket of a node's kubelet API (logs, exec).
    pub fn kubelet_socket(&self, name: &str) -> PathBuf {
        self.node_run(name).join("kubelet.sock")
    }

    /// The socket on which a node serves EFS mounts to `mount.efs`.
    pub fn efs_socket(&self, name: &str) -> PathBuf {
        self.node_run(name).join("efs.sock")
    }

    /// The socket of a built-in CSI driver's controller service: `ebs` or `efs`.
    pub fn csi_socket(&self, driver: &str) -> PathBuf {
        self.run.join("csi").join(format!("{driver}.sock"))
    }

    /// What the instances' metadata services keep: their addresses and the secret behind their tokens.
    pub fn metadata(&self) -> PathBuf {
        self.data.join("metadata")
    }

    /// What calls to the built-in drivers meet on purpose; as a rule there is no such file.
    pub fn csi_faults(&self) -> PathBuf {
        self.data.join("csi-faults.json")
    }

    /// Journals of inputs, `<machine>.jsonl`.
    pub fn journal(&self) -> PathBuf {
        self.data.join("journal")
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own /proc entry is our effective user id.
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_short_paths_whatever_the_data_directory() {
        let places = Places::new(format!("/{}", "long/".repeat(60)));
        assert!(places.kubelet_socket("ip-10-0-1-10.ec2.internal").as_os_str().len() < 108);
        assert_ne!(Places::new("/a").run(), Places::new("/b").run());
    }
}
