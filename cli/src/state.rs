//! What a running `ebbtide up` leaves in its data directory for the other commands: who it is and where it listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use emulator_common::places::Places;
use scenarios::language::ProfileName;
use serde::{Deserialize, Serialize};

use emulator_common::process::Process;

/// `up.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Up {
    #[serde(flatten)]
    pub process: Process,
    pub version: String,
    pub aws: SocketAddr,
    pub kube: SocketAddr,
    pub kubeconfig: PathBuf,
    pub region: String,
    #[serde(default)]
    pub profile: model_aws::Profile,
    pub access_key: String,
    pub nodes: Vec<String>,
    /// Nodes that were not Ready in time, each with the reason.
    #[serde(default)]
    pub not_ready: BTreeMap<String, String>,
}

impl Up {
    fn file(places: &Places) -> PathBuf {
        places.data().join("up.json")
    }

    /// What the last `up` of this data directory wrote, whether it still runs or not.
    pub fn last(places: &Places) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::file(places)).ok()?).ok()
    }

    /// The one that runs now.
    pub fn running(places: &Places) -> anyhow::Result<Self> {
        match Self::last(places) {
            Some(up) if up.process.is_alive() => Ok(up),
            _ => bail!("no ebbtide runs on {}; start one with `ebbtide up -d`", places.data().display()),
        }
    }

    /// Written whole or not at all: the other commands may read at any time.
    pub fn write(&self, places: &Places) -> anyhow::Result<()> {
        let file = Self::file(places);
        let new = file.with_extension("json.new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", new.display()))?;
        std::fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    pub fn remove(places: &Places) {
        let _ = std::fs::remove_file(Self::file(places));
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.aws)
    }

    /// Where live runs and checks go.
    pub fn target(&self, places: &Places) -> scenarios::live::Target {
        let secret = std::env::var("EBBTIDE_SECRET_KEY").unwrap_or_else(|_| "test".into());
        scenarios::live::Target {
            profile: Some(match self.profile {
                model_aws::Profile::Instant => ProfileName::Instant,
                model_aws::Profile::Aws => ProfileName::Aws,
            }),
            aws_endpoint: self.endpoint(),
            region: self.region.clone(),
            kubeconfig: self.kubeconfig.clone(),
            credentials: (self.access_key.clone(), secret),
            machines: Some(std::sync::Arc::new(crate::node::Machines(places.clone()))),
        }
    }
}

/// The lock of a data directory; held by `up` for its life, and in it who holds it: known from the first moment, before there is an
/// `up.json`. The kernel drops it when the process ends, however it ends.
pub struct Lock(#[allow(dead_code)] std::fs::File);

impl Lock {
    pub fn take(places: &Places) -> anyhow::Result<Self> {
        let path = places.data().join("lock");
        std::fs::create_dir_all(places.data()).with_context(|| format!("making the data directory {}", places.data().display()))?;
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                let this = Process::this().context("reading /proc/self/stat; is /proc mounted?")?;
                std::fs::write(&path, serde_json::to_vec(&this)?).with_context(|| format!("writing {}", path.display()))?;
                Ok(Self(file))
            }
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "another ebbtide uses {}; stop it with `ebbtide down`, or give this one its own --data-dir, --listen and --kube-listen",
                places.data().display()
            ),
            Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// The `up` that holds it, ready or still starting.
    pub fn holder(places: &Places) -> Option<Process> {
        let holder: Process = serde_json::from_slice(&std::fs::read(places.data().join("lock")).ok()?).ok()?;
        holder.is_alive().then_some(holder)
    }
}
