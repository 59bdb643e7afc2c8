//! What happens in a world, as far as the invariants care.

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::csi;
use model_kube::object::{Change, Key};

/// Something that happened. Nodes are named as in Kubernetes, instances and volumes by their AWS ids.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// A node is in the world from the start; its limit counts CSI volumes.
    Node {
        name: &'a str,
        instance: &'a str,
        zone: &'a str,
        volume_limit: usize,
    },
    /// A write to the Kubernetes API was committed.
    Object(&'a Change),
    /// The `Object` that comes next is a user's write, not a component's.
    ByUser {
        key: &'a Key,
    },
    /// The attach/detach controller's watches are late: what was written before this time may not have reached it until then.
    WatchBehind {
        until: Duration,
    },
    /// EC2 made a volume.
    VolumeMade {
        volume: &'a str,
        multi_attach: bool,
        tags: &'a BTreeMap<String, String>,
    },
    /// EC2 deleted a volume, or began to.
    VolumeDeleted {
        volume: &'a str,
    },
    /// EC2's attachments of a volume are these now: `attaching`, `attached`, `detaching` or `busy` by instance.
    Attachments {
        volume: &'a str,
        instances: &'a BTreeMap<String, &'static str>,
    },
    /// A device appeared in a node (`bytes` long), grew, or went (none).
    Device {
        node: &'a str,
        volume: &'a str,
        bytes: Option<u64>,
    },
    /// A sidecar called a driver's controller service; the driver may work on it until `ControllerRpcEnded` with this number.
    ControllerRpcBegan {
        rpc: u64,
        driver: &'a str,
        call: &'a csi::ControllerCall,
    },
    /// The driver has ended its work for a call: what it did, whatever its caller was told.
    ControllerRpcEnded {
        rpc: u64,
        result: &'a Result<csi::ControllerReply, csi::Error>,
    },
    /// The sidecar was told something else than the driver did, or before it ended: a timeout, a lost answer, its own crash.
    ControllerRpcAnswered {
        rpc: u64,
        result: &'a Result<csi::ControllerReply, csi::Error>,
    },
    /// The kubelet called a driver's node service; the driver may work on it until `NodeRpcEnded` with this number.
    NodeRpcBegan {
        rpc: u64,
        node: &'a str,
        driver: &'a str,
        call: &'a csi::NodeCall,
    },
    /// The driver has ended its work for a call: what it did, whatever its caller was told.
    NodeRpcEnded {
        rpc: u64,
        result: &'a Result<csi::NodeReply, csi::Error>,
    },
    /// The kubelet was told something else than the driver did, or before it ended: a timeout, a lost answer.
    NodeRpcAnswered {
        rpc: u64,
        result: &'a Result<csi::NodeReply, csi::Error>,
    },
    /// A file system was made on a volume, or grew; it spans so many bytes.
    FileSystem {
        tree: &'a str,
        bytes: u64,
    },
    /// The content of a snapshot, or of a clone, was fixed. `cut`: the snapshot's id, or the clone's.
    Cut {
        cut: &'a str,
        digest: u64,
    },
    /// A volume was filled from a snapshot, or a clone from its source, and has this content now.
    Filled {
        volume: &'a str,
        cut: &'a str,
        digest: u64,
    },
    /// Something was mounted. `tree`: the id of the volume or file system.
    Mounted {
        node: &'a str,
        path: &'a str,
        tree: &'a str,
        read_only: bool,
    },
    Unmounted {
        node: &'a str,
        path: &'a str,
        tree: &'a str,
    },
    /// The kubelet removed a file, or a directory with all below it. `tree`: the volume whose content that was, if it was one's.
    Removed {
        node: &'a str,
        path: &'a str,
        tree: Option<&'a str>,
    },
    /// A file or directory of a kubelet came or went: of a pod (by its uid), or of a volume's staging.
    Path {
        node: &'a str,
        path: &'a str,
        pod: Option<&'a str>,
        volume: Option<&'a str>,
        there: bool,
    },
    /// A container of a pod (by its uid) started. `volumes`: the claim behind each of its volumes, what ought to be there and what its process finds.
    Started {
        node: &'a str,
        pod: &'a str,
        container: &'a str,
        volumes: &'a [Used],
    },
    Ended {
        node: &'a str,
        pod: &'a str,
        container: &'a str,
    },
    /// A process wrote to a volume.
    Wrote {
        node: &'a str,
        pod: &'a str,
        tree: &'a str,
    },
    /// I/O on a network file system hangs on a node.
    IoHangs {
        node: &'a str,
        tree: &'a str,
    },
    IoGoesOn {
        node: &'a str,
        tree: &'a str,
    },
    /// The kubelet started; `found` volumes it knows from the disk.
    KubeletStarted {
        node: &'a str,
    },
    KubeletStopped {
        node: &'a str,
    },
    /// The machine lost its power, or was told to stop: processes and mounts are gone.
    PowerLost {
        node: &'a str,
    },
    PowerBack {
        node: &'a str,
    },
    /// How many faults are at work now. 0: the world is calm from here on.
    Faults {
        active: usize,
    },
}

/// A volume of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Its name in the pod.
    pub name: String,
    /// `namespace/name` of the claim; none: not a claim's.
    pub claim: Option<String>,
    /// The id of the volume or file system that the claim's PersistentVolume names.
    pub wanted: Option<String>,
    /// The id of what is mounted where the container sees it; none: a plain directory.
    pub mounted: Option<String>,
    pub read_only: bool,
    /// The pod's fsGroup, and the group that all files have (none: not all the same). None: nobody asks for a group.
    pub groups: Option<(u32, Option<u32>)>,
}
