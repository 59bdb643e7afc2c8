//! The CSI drivers of this node: where they answer, and what CSINode and the Node's labels say of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use emulator_common::csi::{connect, node_call};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{Api, Patch, PatchParams, PostParams};
use model_common::csi::{NodeCall, NodeReply};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::volumes::CSI_TIMEOUT;
use super::{KubeletConfig, api_message};

/// How often a driver that is not there yet is asked.
const LOOK: Duration = Duration::from_millis(100);

/// The drivers, shared by who registers them and who calls them.
#[derive(Clone)]
pub struct Drivers(Arc<Shared>);

struct Shared {
    client: kube::Client,
    node: String,
    sockets: RwLock<BTreeMap<String, PathBuf>>,
    /// CSINode's entries by name; held while CSINode is written, so that writes follow each other.
    entries: Mutex<BTreeMap<String, Value>>,
}

impl Drivers {
    pub fn new(client: kube::Client, config: &KubeletConfig) -> Self {
        let sockets = RwLock::new(config.drivers.clone());
        Self(Arc::new(Shared { client, node: config.node_name.clone(), sockets, entries: Mutex::default() }))
    }

    /// Where a driver answers.
    pub fn socket(&self, driver: &str) -> Option<PathBuf> {
        self.0.sockets.read().unwrap_or_else(PoisonError::into_inner).get(driver).cloned()
    }

    /// Makes the node's CSINode, without drivers: no kubelet is Ready before it is there (`InitializeCSINodeWithAnnotation`).
    pub async fn init(&self) -> Result<(), kube::Error> {
        self.write(&*self.0.entries.lock().await).await
    }

    /// Registers each of these once its socket answers.
    pub async fn built_in(&self, drivers: &BTreeMap<String, PathBuf>) {
        let retried = async |name: &str, socket: &Path| {
            while let Err(why) = self.install(name, socket).await {
                tracing::debug!(driver = name, why, "the driver is not registered yet");
                tokio::time::sleep(LOOK).await;
            }
        };
        futures::future::join_all(drivers.iter().map(|(name, socket)| retried(name, socket))).await;
    }

    /// Asks a driver who it is on this node and says it in CSINode and on the Node.
    pub async fn install(&self, name: &str, socket: &Path) -> Result<(), String> {
        let reply = node_call(&connect(socket), NodeCall::NodeGetInfo, CSI_TIMEOUT).await.map_err(|error| error.to_string())?;
        let NodeReply::NodeGetInfo { node_id, max_volumes_per_node, accessible_topology } = reply else {
            return Err(format!("the driver {name} answered NodeGetInfo with something else"));
        };
        let topology = accessible_topology.unwrap_or_default();
        let count = (max_volumes_per_node > 0).then(|| json!({"count": max_volumes_per_node}));
        let entry = json!({"name": name, "nodeID": node_id, "topologyKeys": topology.keys().collect::<Vec<_>>(), "allocatable": count});
        if !topology.is_empty() {
            let patch = Patch::Merge(json!({"metadata": {"labels": topology}}));
            let nodes = Api::<Node>::all(self.0.client.clone());
            nodes.patch(&self.0.node, &PatchParams::default(), &patch).await.map_err(|error| api_message(&error))?;
        }
        let mut entries = self.0.entries.lock().await;
        let mut new = entries.clone();
        new.insert(name.to_owned(), entry);
        self.write(&new).await.map_err(|error| api_message(&error))?;
        *entries = new;
        self.0.sockets.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), socket.to_owned());
        tracing::info!(driver = name, node_id, "driver registered");
        Ok(())
    }

    /// Forgets a driver: CSINode loses it, the Node keeps its labels.
    pub async fn uninstall(&self, name: &str) {
        self.0.sockets.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let mut entries = self.0.entries.lock().await;
        if entries.remove(name).is_none() {
            return;
        }
        // The API may be away; a driver that is gone must not stay in CSINode for ever, where pods are scheduled by it.
        while let Err(error) = self.write(&entries).await {
            tracing::debug!(error = api_message(&error), "CSINode was not written");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tracing::info!(driver = name, "driver unregistered");
    }

    async fn write(&self, entries: &BTreeMap<String, Value>) -> Result<(), kube::Error> {
        let Shared { client, node: name, .. } = &*self.0;
        let drivers: Vec<&Value> = entries.values().collect();
        let node = Api::<Node>::all(client.clone()).get(name).await?;
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}]);
        let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
            "metadata": {"name": name, "ownerReferences": owner}, "spec": {"drivers": drivers}});
        let nodes = Api::<CSINode>::all(client.clone());
        match nodes.get_opt(name).await? {
            None => {
                let object: CSINode = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
                nodes.create(&PostParams::default(), &object).await?;
            }
            Some(_) => {
                let patch = json!({"metadata": {"ownerReferences": owner}, "spec": {"drivers": drivers}});
                nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
        }
        Ok(())
    }
}
