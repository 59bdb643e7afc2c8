//! The CSI calls that are under way.

use std::collections::BTreeMap;

use model_common::csi::{AccessMode, Code, ControllerCall, Error, NodeCall};

use super::known::Known;
use super::names::Sym;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    CreateVolume,
    DeleteVolume,
    Publish,
    Unpublish,
    ControllerExpand,
    Modify,
    CreateSnapshot,
    DeleteSnapshot,
    NodeStage,
    NodeUnstage,
    NodePublish,
    NodeUnpublish,
    NodeExpand,
    /// It changes nothing.
    Read,
}

/// Who sends a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    Provisioner,
    Attacher,
    Resizer,
    Snapshotter,
    Kubelet,
}

impl Verb {
    pub(super) fn component(self) -> Component {
        match self {
            Self::CreateVolume | Self::DeleteVolume => Component::Provisioner,
            Self::Publish | Self::Unpublish => Component::Attacher,
            Self::ControllerExpand | Self::Modify => Component::Resizer,
            Self::CreateSnapshot | Self::DeleteSnapshot => Component::Snapshotter,
            Self::NodeStage | Self::NodeUnstage | Self::NodePublish | Self::NodeUnpublish | Self::NodeExpand | Self::Read => {
                Component::Kubelet
            }
        }
    }

    /// The name of the RPC.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateVolume => "CreateVolume",
            Self::DeleteVolume => "DeleteVolume",
            Self::Publish => "ControllerPublishVolume",
            Self::Unpublish => "ControllerUnpublishVolume",
            Self::ControllerExpand => "ControllerExpandVolume",
            Self::Modify => "ControllerModifyVolume",
            Self::CreateSnapshot => "CreateSnapshot",
            Self::DeleteSnapshot => "DeleteSnapshot",
            Self::NodeStage => "NodeStageVolume",
            Self::NodeUnstage => "NodeUnstageVolume",
            Self::NodePublish => "NodePublishVolume",
            Self::NodeUnpublish => "NodeUnpublishVolume",
            Self::NodeExpand => "NodeExpandVolume",
            Self::Read => "a reading call",
        }
    }
}

/// A call as the monitors see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub verb: Verb,
    pub driver: Sym,
    /// The volume's handle; the name to be of what is created; the id of a snapshot.
    pub volume: Sym,
    /// The node; empty for what has none.
    pub node: Sym,
    /// The target, or the staging target of stage and unstage.
    pub path: Sym,
    /// `NodePublishVolume` names a staging target: the driver stages.
    pub staged: bool,
    /// The capability allows one node only.
    pub single: bool,
    /// What its caller was told before it ended: whether it went well.
    pub told: Option<bool>,
}

/// Which service a call went to, and its number there.
type Number = (bool, u64);

/// The calls that their drivers work on.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<Number, Call>,
    /// By volume and node.
    places: BTreeMap<(Sym, Sym), Vec<Number>>,
    /// The one that ended last: its caller is told right after.
    last: Option<(Number, Call)>,
}

impl Calls {
    pub(super) fn controller_began(&mut self, rpc: u64, driver: &str, call: &ControllerCall, known: &mut Known) -> Call {
        let names = &mut known.names;
        let (none, driver) = (names.sym(""), names.sym(driver));
        let mut new = Call { verb: Verb::Read, driver, volume: none, node: none, path: none, staged: false, single: false, told: None };
        (new.verb, new.volume) = match call {
            ControllerCall::CreateVolume { name, .. } => (Verb::CreateVolume, names.sym(name)),
            ControllerCall::DeleteVolume { volume_id } => (Verb::DeleteVolume, names.sym(volume_id)),
            ControllerCall::ControllerPublishVolume { volume_id, node_id, capability, .. } => {
                new.node = names.sym(node_id);
                new.single = is_single(capability.mode);
                (Verb::Publish, names.sym(volume_id))
            }
            ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => {
                new.node = names.sym(node_id);
                (Verb::Unpublish, names.sym(volume_id))
            }
            ControllerCall::ControllerExpandVolume { volume_id, .. } => (Verb::ControllerExpand, names.sym(volume_id)),
            ControllerCall::ControllerModifyVolume { volume_id, .. } => (Verb::Modify, names.sym(volume_id)),
            ControllerCall::CreateSnapshot { name, .. } => (Verb::CreateSnapshot, names.sym(name)),
            ControllerCall::DeleteSnapshot { snapshot_id } => (Verb::DeleteSnapshot, names.sym(snapshot_id)),
            ControllerCall::ValidateVolumeCapabilities { .. } | ControllerCall::ListSnapshots { .. } => (Verb::Read, none),
        };
        new.node = known.node_name(new.node);
        self.begin((false, rpc), new)
    }

    pub(super) fn node_began(&mut self, rpc: u64, node: &str, driver: &str, call: &NodeCall, known: &mut Known) -> Call {
        let names = &mut known.names;
        let (none, driver, node) = (names.sym(""), names.sym(driver), names.sym(node));
        let mut new = Call { verb: Verb::Read, driver, volume: none, node, path: none, staged: false, single: false, told: None };
        (new.verb, new.volume, new.path) = match call {
            NodeCall::NodeStageVolume { volume_id, staging_target_path, .. } => {
                (Verb::NodeStage, names.sym(volume_id), names.sym(staging_target_path))
            }
            NodeCall::NodeUnstageVolume { volume_id, staging_target_path } => {
                (Verb::NodeUnstage, names.sym(volume_id), names.sym(staging_target_path))
            }
            NodeCall::NodePublishVolume { volume_id, target_path, staging_target_path, .. } => {
                new.staged = !staging_target_path.is_empty();
                (Verb::NodePublish, names.sym(volume_id), names.sym(target_path))
            }
            NodeCall::NodeUnpublishVolume { volume_id, target_path } => (Verb::NodeUnpublish, names.sym(volume_id), names.sym(target_path)),
            NodeCall::NodeExpandVolume { volume_id, volume_path, .. } => (Verb::NodeExpand, names.sym(volume_id), names.sym(volume_path)),
            NodeCall::NodeGetVolumeStats { .. } | NodeCall::NodeGetCapabilities | NodeCall::NodeGetInfo => (Verb::Read, none, none),
        };
        self.begin((true, rpc), new)
    }

    fn begin(&mut self, number: Number, call: Call) -> Call {
        self.open.insert(number, call);
        if call.verb != Verb::Read {
            self.places.entry((call.volume, call.node)).or_default().push(number);
        }
        call
    }

    fn remove(&mut self, number: Number) -> Option<Call> {
        let call = self.open.remove(&number)?;
        if let Some(numbers) = self.places.get_mut(&(call.volume, call.node)) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.places.remove(&(call.volume, call.node));
            }
        }
        Some(call)
    }

    /// The driver has ended its work for a call.
    pub(super) fn ended(&mut self, node: bool, rpc: u64) -> Option<Call> {
        let call = self.remove((node, rpc))?;
        self.last = Some(((node, rpc), call));
        Some(call)
    }

    /// The caller was told something, before that or right after.
    pub(super) fn answered(&mut self, node: bool, rpc: u64, well: bool) -> Option<Call> {
        if let Some(call) = self.open.get_mut(&(node, rpc)) {
            call.told = Some(well);
            return Some(*call);
        }
        self.last.filter(|(number, _)| *number == (node, rpc)).map(|(_, call)| call)
    }

    /// What a call on a node waits for, nobody waits for any more.
    pub(super) fn kubelet_stopped(&mut self, node: &str, known: &Known) {
        let Some(node) = known.names.find(node) else { return };
        self.open.iter_mut().filter(|((on_node, _), call)| *on_node && call.node == node).for_each(|(_, call)| call.told = Some(false));
    }

    /// The driver's node service died with its machine; nothing more comes of its calls.
    pub(super) fn power_lost(&mut self, node: &str, known: &Known) {
        let Some(node) = known.names.find(node) else { return };
        let lost: Vec<Number> =
            self.open.iter().filter(|((on_node, _), call)| *on_node && call.node == node).map(|(number, _)| *number).collect();
        for number in lost {
            self.remove(number);
        }
    }

    /// A call for the same volume that the same component sent before and still waits for. The kubelet unpublishes from several
    /// targets at once: its table of pending operations has a row a pod there (§3.4).
    pub(super) fn beside(&self, rpc: u64, call: &Call) -> Option<&Call> {
        let node = call.verb >= Verb::NodeStage;
        let numbers = self.places.get(&(call.volume, call.node)).into_iter().flatten().filter(|number| **number != (node, rpc));
        let mut others = numbers.filter_map(|number| self.open.get(number));
        others.find(|other| {
            let targets = call.verb == Verb::NodeUnpublish && other.verb == Verb::NodeUnpublish && call.path != other.path;
            other.told.is_none() && other.verb.component() == call.verb.component() && !targets
        })
    }

    /// The calls under way; there are few at any time.
    pub(super) fn open(&self) -> impl Iterator<Item = &Call> {
        self.open.values()
    }
}

fn is_single(mode: AccessMode) -> bool {
    use AccessMode::*;
    match mode {
        SingleNodeWriter | SingleNodeReaderOnly | SingleNodeSingleWriter | SingleNodeMultiWriter => true,
        MultiNodeReaderOnly | MultiNodeSingleWriter | MultiNodeMultiWriter => false,
    }
}

/// Whether a call that failed so may have done its work, or still do it (§5).
pub(super) fn is_uncertain(error: &Error) -> bool {
    matches!(error.code, Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
}
