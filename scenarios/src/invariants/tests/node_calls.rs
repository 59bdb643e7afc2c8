//! The calls of a kubelet, for histories.

use std::collections::BTreeMap;

use model_common::csi::{self, AccessMode, Code, NodeCall, NodeReply};

use super::history::{EBS, History, capability, global, target};
use crate::invariants::seen::Seen;

impl History {
    /// A node call begins; its number.
    pub fn node_ask(&mut self, node: &str, driver: &str, call: &NodeCall) -> u64 {
        self.rpc += 1;
        let rpc = self.rpc;
        self.see(Seen::NodeRpcBegan { rpc, node, driver, call });
        rpc
    }

    pub fn node_answer(&mut self, rpc: u64, result: Result<NodeReply, Code>) -> &mut Self {
        let result = result.map_err(|code| csi::Error::new(code, "told"));
        self.see(Seen::NodeRpcEnded { rpc, result: &result });
        self
    }

    pub fn told(&mut self, rpc: u64, code: Code) -> &mut Self {
        self.see(Seen::NodeRpcAnswered { rpc, result: &Err(csi::Error::new(code, "told")) });
        self
    }

    pub fn stage(&mut self, node: &str, volume: &str) -> u64 {
        let call = NodeCall::NodeStageVolume {
            volume_id: volume.into(),
            publish_context: BTreeMap::new(),
            staging_target_path: global(volume),
            capability: capability(AccessMode::SingleNodeWriter),
            volume_context: BTreeMap::new(),
        };
        self.node_ask(node, EBS, &call)
    }

    pub fn staged(&mut self, node: &str, volume: &str) -> &mut Self {
        let rpc = self.stage(node, volume);
        self.mounted(node, &global(volume), volume).node_answer(rpc, Ok(NodeReply::NodeStageVolume))
    }

    pub fn unstage(&mut self, node: &str, volume: &str) -> u64 {
        self.node_ask(node, EBS, &NodeCall::NodeUnstageVolume { volume_id: volume.into(), staging_target_path: global(volume) })
    }

    pub fn unstaged(&mut self, node: &str, volume: &str) -> &mut Self {
        let rpc = self.unstage(node, volume);
        self.unmounted(node, &global(volume), volume).node_answer(rpc, Ok(NodeReply::NodeUnstageVolume))
    }

    pub fn bind(&mut self, node: &str, volume: &str, pod: &str) -> u64 {
        let call = NodeCall::NodePublishVolume {
            volume_id: volume.into(),
            publish_context: BTreeMap::new(),
            staging_target_path: global(volume),
            target_path: target(volume, pod),
            capability: capability(AccessMode::SingleNodeWriter),
            readonly: false,
            volume_context: BTreeMap::new(),
        };
        self.node_ask(node, EBS, &call)
    }

    pub fn bound(&mut self, node: &str, volume: &str, pod: &str) -> &mut Self {
        let rpc = self.bind(node, volume, pod);
        self.mounted(node, &target(volume, pod), volume).node_answer(rpc, Ok(NodeReply::NodePublishVolume))
    }

    pub fn unbind(&mut self, node: &str, volume: &str, pod: &str) -> u64 {
        self.node_ask(node, EBS, &NodeCall::NodeUnpublishVolume { volume_id: volume.into(), target_path: target(volume, pod) })
    }

    pub fn unbound(&mut self, node: &str, volume: &str, pod: &str) -> &mut Self {
        let rpc = self.unbind(node, volume, pod);
        self.unmounted(node, &target(volume, pod), volume).node_answer(rpc, Ok(NodeReply::NodeUnpublishVolume))
    }
}
