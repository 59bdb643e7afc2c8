//! What a claim says that it has, and what its volume and file system have: S25.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use model_common::csi::NodeReply;
use model_kube::quantity;

use super::super::calls::Call;
use super::super::known::Known;
use super::super::names::Id;
use super::super::seen::Used;
use super::super::table::Rule;
use super::super::watch::Log;
use super::Claims;

/// How far a volume has grown.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Grown {
    /// What `ControllerExpandVolume` gave, and whether the nodes have to do their part.
    pub controller: u64,
    pub node_expansion: bool,
    /// What `NodeExpandVolume` gave.
    pub node: u64,
}

impl Claims {
    pub(in super::super) fn node_ended(&mut self, call: &Call, reply: &NodeReply) {
        if let NodeReply::NodeExpandVolume { capacity_bytes } = reply {
            let grown = self.grown.entry(call.volume).or_default();
            grown.node = grown.node.max(*capacity_bytes);
        }
    }

    pub(in super::super) fn file_system(&mut self, tree: &str, bytes: u64, known: &mut Known) {
        let tree = known.names.sym(tree);
        self.file_systems.insert(tree, bytes);
    }

    /// S25, where a container begins to rely on what its claim says.
    pub(in super::super) fn started(&self, at: Duration, volumes: &[Used], known: &Known, log: &mut Log) {
        for used in volumes {
            let Some((namespace, name)) = used.claim.as_deref().and_then(|claim| claim.split_once('/')) else { continue };
            let Some(id) = known.names.find(namespace).zip(known.names.find(name)) else { continue };
            if let Some(claim) = known.claims.get(&id) {
                self.capacity(at, id, claim, known, log);
            }
        }
    }

    /// S25: what a claim shows against what its file system spans.
    pub(super) fn capacity(&self, at: Duration, id: Id, claim: &core::PersistentVolumeClaim, known: &Known, log: &mut Log) {
        let shown = capacity_of(claim);
        let spans = known.pv_of_claim(id).filter(|pv| !pv.is_block()).and_then(|pv| self.file_systems.get(&pv.handle?));
        if let Some((shown, spans)) = shown.zip(spans).filter(|(shown, spans)| shown > *spans) {
            log.say(at, Rule::S25, || {
                format!("claim {} shows a capacity of {shown} bytes, and its file system spans {spans}", known.names.path(id))
            });
        }
    }

    /// S25: a claim says that it has grown.
    pub(super) fn grew(&self, at: Duration, id: Id, to: u64, known: &Known, log: &mut Log) {
        let Some(pv) = known.pv_of_claim(id) else { return };
        let grown = pv.handle.and_then(|handle| self.grown.get(&handle)).copied().unwrap_or_default();
        let path = || known.names.path(id);
        if grown.controller < to {
            log.say(at, Rule::S25, || format!("claim {} shows {to} bytes, and its volume was grown to {}", path(), grown.controller));
        } else if grown.node_expansion && grown.node < to {
            log.say(at, Rule::S25, || format!("claim {} shows {to} bytes, and a node grew its file system to {}", path(), grown.node));
        }
    }
}

pub(in super::super) fn capacity_of(claim: &core::PersistentVolumeClaim) -> Option<u64> {
    let shown = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    quantity::bytes(&shown.0).and_then(|bytes| u64::try_from(bytes).ok())
}
