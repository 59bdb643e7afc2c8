//! S2 to S9 and S22.

use model_common::csi::{Code, NodeReply};
use model_kube::object::Kind;
use serde_json::json;

use super::history::{global, target};
use super::{Pair, hold};
use crate::invariants::seen::Seen;

pub const PAIRS: &[Pair] = &[
    Pair {
        invariant: "single-writer",
        what: "incident 8, #61832: a partitioned node's process still writes when the pod runs elsewhere",
        bad: |h| {
            h.up("p1", "n1", "i-1").up("p2", "n2", "i-2");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1").away("n1", "i-1").up("p2", "n2", "i-2");
        },
    },
    Pair {
        invariant: "single-writer",
        what: "two nodes, one of which has lost its power",
        bad: |h| {
            h.up("p1", "n1", "i-1").up("p2", "n2", "i-2");
        },
        near: |h| {
            h.up("p1", "n1", "i-1");
            h.see(Seen::PowerLost { node: "n1" });
            h.up("p2", "n2", "i-2");
        },
    },
    Pair {
        invariant: "single-writer",
        what: "a write from a node whose container nobody told of",
        bad: |h| {
            h.up("p1", "n1", "i-1");
            h.see(Seen::Wrote { node: "n2", pod: "uid-x", tree: "vol" });
        },
        near: |h| {
            h.up("p1", "n1", "i-1");
            h.see(Seen::Wrote { node: "n1", pod: "uid-p1", tree: "vol" });
        },
    },
    Pair {
        invariant: "fs-group",
        what: "incident 33, #89776: a container starts after a walk over its files that was cut short",
        bad: |h| {
            h.starts_with_groups("n1", "p1", "vol", Some((1000, None)));
        },
        near: |h| {
            h.starts_with_groups("n1", "p1", "vol", Some((1000, Some(1000)))).starts_with_groups("n1", "p2", "vol", None);
        },
    },
    Pair {
        invariant: "rwop-one-pod",
        what: "#124244: two pods on one node",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
            h.up("p1", "n1", "i-1").bound("n1", "vol", "p2");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").bound("n1", "vol", "p2");
        },
    },
    Pair {
        invariant: "rwop-one-pod",
        what: "the second pod after the first one's unpublish",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
            h.staged("n1", "vol").bound("n1", "vol", "p1").bound("n1", "vol", "p2");
        },
        near: |h| {
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
            h.staged("n1", "vol").bound("n1", "vol", "p1").unbound("n1", "vol", "p1").bound("n1", "vol", "p2");
        },
    },
    Pair {
        invariant: "mounted-implies-attached",
        what: "incident 2, #101791: the global mount leaks and the volume is detached",
        bad: |h| {
            h.up("p1", "n1", "i-1").stops("n1", "p1").unbound("n1", "vol", "p1").unpublish("vol", "i-1");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").stops("n1", "p1").unbound("n1", "vol", "p1").unstaged("n1", "vol").unpublish("vol", "i-1");
        },
    },
    Pair {
        invariant: "mounted-implies-attached",
        what: "incident 3, #106710: a healthy node is force-detached after 6 minutes",
        bad: |h| {
            h.up("p1", "n1", "i-1").after(400).unpublish("vol", "i-1");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").ready("n1", "Unknown").after(311).unpublish("vol", "i-1");
        },
    },
    Pair {
        invariant: "mounted-implies-attached",
        what: "a node that was unhealthy and is well again",
        bad: |h| {
            h.up("p1", "n1", "i-1").ready("n1", "Unknown").after(400).ready("n1", "True").unpublish("vol", "i-1");
        },
        near: |h| {
            let taint = json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}});
            h.up("p1", "n1", "i-1").put(Kind::Node, "n1", taint).unpublish("vol", "i-1");
        },
    },
    Pair {
        invariant: "mounted-implies-attached",
        what: "the Node object is gone",
        bad: |h| {
            h.up("p1", "n1", "i-1").gone(Kind::Node, "n2").unpublish("vol", "i-1");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").gone(Kind::Node, "n1").unpublish("vol", "i-1");
        },
    },
    Pair {
        invariant: "mounted-implies-attached",
        what: "incident 40, #109132: the device goes under the mount",
        bad: |h| {
            h.up("p1", "n1", "i-1").device("n1", "vol", None);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").device("n1", "vol", Some(2 << 30)).device("n2", "vol", None);
        },
    },
    Pair {
        invariant: "no-unstage-while-published",
        what: "#122342: unstage under another pod of the node",
        bad: |h| {
            h.staged("n1", "vol").bound("n1", "vol", "p1").bound("n1", "vol", "p2").unbound("n1", "vol", "p1").unstage("n1", "vol");
        },
        near: |h| {
            h.staged("n1", "vol").bound("n1", "vol", "p1").unbound("n1", "vol", "p1").unstage("n1", "vol");
        },
    },
    Pair {
        invariant: "publish-after-stage",
        what: "incident 25, #86360: an unstage that timed out goes on",
        bad: |h| {
            h.staged("n1", "vol");
            let rpc = h.unstage("n1", "vol");
            h.told(rpc, Code::DeadlineExceeded).bind("n1", "vol", "p2");
        },
        near: |h| {
            h.staged("n1", "vol");
            let rpc = h.unstage("n1", "vol");
            h.told(rpc, Code::DeadlineExceeded)
                .node_answer(rpc, Ok(NodeReply::NodeUnstageVolume))
                .staged("n1", "vol")
                .bind("n1", "vol", "p2");
        },
    },
    Pair {
        invariant: "publish-after-stage",
        what: "incident 26, #106729: an unstage that failed after it unmounted",
        bad: |h| {
            h.staged("n1", "vol");
            let rpc = h.unstage("n1", "vol");
            h.unmounted("n1", &global("vol"), "vol").node_answer(rpc, Err(Code::Internal)).bind("n1", "vol", "p2");
        },
        near: |h| {
            h.staged("n1", "vol").staged("n1", "vol").bind("n1", "vol", "p2");
        },
    },
    Pair {
        invariant: "publish-after-stage",
        what: "incident 24, #82190: a stage whose success the kubelet was not told",
        bad: |h| {
            let rpc = h.stage("n1", "vol");
            h.node_answer(rpc, Ok(NodeReply::NodeStageVolume)).told(rpc, Code::DeadlineExceeded).bind("n1", "vol", "p1");
        },
        near: |h| {
            let rpc = h.stage("n1", "vol");
            h.node_answer(rpc, Ok(NodeReply::NodeStageVolume)).bind("n1", "vol", "p1");
        },
    },
    Pair {
        invariant: "publish-after-stage",
        what: "incident 32, #120853: a publish after a reboot without a stage",
        bad: |h| {
            h.up("p1", "n1", "i-1");
            h.see(Seen::PowerLost { node: "n1" });
            h.bind("n1", "vol", "p2");
        },
        near: |h| {
            h.up("p1", "n1", "i-1");
            h.see(Seen::PowerLost { node: "n1" });
            h.staged("n1", "vol").bind("n1", "vol", "p2");
        },
    },
    Pair {
        invariant: "stage-unstage-apart",
        what: "incident 27, #121357: an unstage hangs past its caller's patience, and the stage that follows works beside it",
        bad: |h| {
            h.staged("n1", "vol");
            let rpc = h.unstage("n1", "vol");
            h.told(rpc, Code::DeadlineExceeded).staged("n1", "vol");
        },
        near: |h| {
            h.staged("n1", "vol");
            let rpc = h.unstage("n1", "vol");
            let other = h.told(rpc, Code::DeadlineExceeded).stage("n1", "vol");
            h.node_answer(other, Err(Code::Aborted)).node_answer(rpc, Ok(NodeReply::NodeUnstageVolume)).staged("n1", "vol");
        },
    },
    Pair {
        invariant: "container-sees-its-volume",
        what: "incident 32, #51982: the container finds a plain directory",
        bad: |h| {
            h.runs("n1", "p1", "vol", None);
        },
        near: |h| {
            h.runs("n1", "p1", "vol", Some("vol"));
        },
    },
    Pair {
        invariant: "container-sees-its-volume",
        what: "incident 12, #29324: the container finds another volume",
        bad: |h| {
            h.runs("n1", "p1", "vol", Some("vol-2"));
        },
        near: |h| {
            h.see(Seen::Started { node: "n1", pod: "uid-p1", container: "app", volumes: &[] });
        },
    },
    Pair {
        invariant: "no-unmount-under-container",
        what: "incident 30, #113979: the kubelet unpublishes what a container uses",
        bad: |h| {
            h.up("p1", "n1", "i-1").unbind("n1", "vol", "p1");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").stops("n1", "p1").unbound("n1", "vol", "p1");
        },
    },
    Pair {
        invariant: "no-unmount-under-container",
        what: "incident 43, #121271: a failed republish takes the live mount away",
        bad: |h| {
            h.up("p1", "n1", "i-1").unmounted("n1", &target("vol", "p1"), "vol");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").bound("n1", "vol", "p2").unmounted("n1", &target("vol", "p2"), "vol");
        },
    },
    Pair {
        invariant: "content-kept",
        what: "#60987: an orphan's directory is removed with the volume in it",
        bad: |h| h.see(Seen::Removed { node: "n1", path: "/var/lib/kubelet/pods/x/volumes/mount/file", tree: Some("vol") }),
        near: |h| h.see(Seen::Removed { node: "n1", path: "/var/lib/kubelet/pods/x", tree: None }),
    },
];

#[test]
fn mounts() {
    hold(PAIRS);
}
