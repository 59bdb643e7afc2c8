//! L1 to L10 and L12 to L14: one history waits too long, the near miss does it in time or has an excuse.

use model_common::csi::Code;
use model_kube::object::Kind;
use serde_json::{Value, json};

use super::{Pair, hold};
use crate::invariants::seen::Seen;

fn snapshots() -> Kind {
    Kind::Custom { group: "snapshot.storage.k8s.io".into(), plural: "volumesnapshots".into() }
}

fn selected(node: Option<&str>) -> Value {
    json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}, "status": {"phase": "Pending"}})
}

fn asks(asks: &str, has: &str) -> Value {
    json!({"spec": {"resources": {"requests": {"storage": asks}}}, "status": {"capacity": {"storage": has}}})
}

pub const PAIRS: &[Pair] = &[
    Pair {
        invariant: "pod-runs",
        what: "incident 19, #49053: a bound pod never starts",
        bad: |h| {
            h.pod("p1", "c", Some("n1")).after(601);
        },
        near: |h| {
            h.pod("p1", "c", Some("n1")).after(599).phase(Kind::Pod, "p1", "Running").after(60);
        },
    },
    Pair {
        invariant: "pod-runs",
        what: "time counts from the last fault",
        bad: |h| {
            h.pod("p1", "c", Some("n1")).see(Seen::Faults { active: 1 });
            h.after(300).see(Seen::Faults { active: 0 });
            h.after(601);
        },
        near: |h| {
            h.pod("p1", "c", Some("n1")).see(Seen::Faults { active: 1 });
            h.after(5000).see(Seen::Faults { active: 0 });
            h.after(599);
        },
    },
    Pair {
        invariant: "pod-runs",
        what: "incident 6, #50944: a volume that another node's pod has is no excuse once that pod is gone",
        bad: |h| {
            h.pod("p1", "c", Some("n1"))
                .phase(Kind::Pod, "p1", "Running")
                .pod("p2", "c", Some("n2"))
                .after(700)
                .gone(Kind::Pod, "p1")
                .after(700);
        },
        near: |h| {
            h.pod("p1", "c", Some("n1")).phase(Kind::Pod, "p1", "Running").pod("p2", "c", Some("n2")).after(5000);
        },
    },
    Pair {
        invariant: "pod-runs",
        what: "a pod that nobody schedules",
        bad: |h| {
            h.pod("p1", "c", None).after(601);
        },
        near: |h| {
            let cordon = json!({"spec": {"unschedulable": true}});
            h.put(Kind::Node, "n1", cordon.clone()).put(Kind::Node, "n2", cordon).pod("p1", "c", None).after(601);
        },
    },
    Pair {
        invariant: "pod-runs",
        what: "a claim that the driver refuses for good",
        bad: |h| {
            let rpc = h.claim("c2", json!({"status": {"phase": "Pending"}})).pod("p1", "c2", None).create("pvc-uid-c2", None);
            h.answer(rpc, Err(Code::Internal)).after(601);
        },
        near: |h| {
            let rpc = h.claim("c2", json!({"status": {"phase": "Pending"}})).pod("p1", "c2", None).create("pvc-uid-c2", None);
            h.answer(rpc, Err(Code::InvalidArgument)).after(601);
        },
    },
    Pair {
        invariant: "pod-goes",
        what: "incident 35, #101911: stuck Terminating",
        bad: |h| {
            h.up("p1", "n1", "i-1").deleting(Kind::Pod, "p1").after(301);
        },
        near: |h| {
            let grace = json!({"metadata": {"deletionGracePeriodSeconds": 30}});
            h.up("p1", "n1", "i-1").put(Kind::Pod, "p1", grace).deleting(Kind::Pod, "p1").after(320).gone(Kind::Pod, "p1").after(60);
        },
    },
    Pair {
        invariant: "pod-goes",
        what: "a node that is down, and one of which somebody said that it will not come back",
        bad: |h| {
            let taint = json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}});
            h.up("p1", "n1", "i-1").ready("n1", "Unknown").put(Kind::Node, "n1", taint).deleting(Kind::Pod, "p1").after(301);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").ready("n1", "Unknown").deleting(Kind::Pod, "p1").after(301);
        },
    },
    Pair {
        invariant: "volume-detaches",
        what: "incident 20, #117042: attached and no pod",
        bad: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1").after(601);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1").after(300).away("n1", "i-1").after(601).cloud("by-hand", &["i-1"]).after(601);
        },
    },
    Pair {
        invariant: "volume-detaches",
        what: "incident 5, #65392: the node lost its power and its pod is Terminating for ever",
        bad: |h| {
            h.up("p1", "n1", "i-1").ready("n1", "Unknown").deleting(Kind::Pod, "p1").after(601);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").ready("n1", "Unknown").deleting(Kind::Pod, "p1").after(300).ready("n1", "True").after(601);
        },
    },
    Pair {
        invariant: "node-gone-frees",
        what: "incident 21, #67853: the VolumeAttachment of a node that is gone",
        bad: |h| {
            h.attachment("va", "pv", "n1", true).gone(Kind::Node, "n1").after(601);
        },
        near: |h| {
            h.attachment("va", "pv", "n1", true).gone(Kind::Node, "n1").after(500).gone(Kind::VolumeAttachment, "va").after(601);
        },
    },
    Pair {
        invariant: "deletion-ends",
        what: "incident 49, #45106: a claim that is being deleted",
        bad: |h| {
            h.deleting(Kind::PersistentVolumeClaim, "c").after(901);
        },
        near: |h| {
            h.pod("p1", "c", Some("n1")).deleting(Kind::PersistentVolumeClaim, "c").after(901);
        },
    },
    Pair {
        invariant: "deletion-ends",
        what: "incident 22, att#66: a released volume",
        bad: |h| {
            h.phase(Kind::PersistentVolume, "pv", "Released").after(901);
        },
        near: |h| {
            h.phase(Kind::PersistentVolume, "pv", "Released").after(800).gone(Kind::PersistentVolume, "pv").after(901);
        },
    },
    Pair {
        invariant: "reselects-node",
        what: "incident 51, #112347: the selected node stays",
        bad: |h| {
            h.claim("c2", selected(Some("n1"))).pod("p1", "c2", None).create("pvc-uid-c2", None);
            h.after(901);
        },
        near: |h| {
            h.claim("c2", selected(Some("n1"))).pod("p1", "c2", None).create("pvc-uid-c2", None);
            h.after(800).claim("c2", selected(None)).after(100).claim("c2", selected(Some("n2"))).after(800);
        },
    },
    Pair {
        invariant: "expansion-ends",
        what: "incident 53, #115124: an expansion that never ends",
        bad: |h| {
            h.claim("c", asks("2Gi", "1Gi")).after(901);
        },
        near: |h| {
            h.claim("c", asks("2Gi", "1Gi")).after(500).claim("c", asks("2Gi", "2Gi")).after(901);
        },
    },
    Pair {
        invariant: "expansion-ends",
        what: "a claim that waits for a pod, or is told no",
        bad: |h| {
            let waits = json!({"status": {"allocatedResourceStatuses": {"storage": "NodeResizePending"}}});
            h.pod("p1", "c", Some("n1")).claim("c", asks("2Gi", "1Gi")).claim("c", waits).after(901);
        },
        near: |h| {
            let waits = json!({"status": {"allocatedResourceStatuses": {"storage": "NodeResizePending"}}});
            h.claim("c", asks("2Gi", "1Gi")).claim("c", waits).after(901);
            let no = json!({"status": {"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}}});
            h.claim("c", no).after(901);
        },
    },
    Pair {
        invariant: "snapshot-ends",
        what: "incident 50, snap#1388: a snapshot that is never made",
        bad: |h| {
            h.put(snapshots(), "s", json!({})).after(1201);
        },
        near: |h| {
            h.put(snapshots(), "s", json!({})).after(1000).put(snapshots(), "s", json!({"status": {"readyToUse": true}})).after(1201);
        },
    },
    Pair {
        invariant: "snapshot-ends",
        what: "incident 50, snap#134: a snapshot that is never deleted",
        bad: |h| {
            h.put(snapshots(), "s", json!({"status": {"readyToUse": true}})).deleting(snapshots(), "s").after(1201);
        },
        near: |h| {
            h.put(snapshots(), "s", json!({"status": {"readyToUse": true}})).deleting(snapshots(), "s").gone(snapshots(), "s").after(1201);
        },
    },
    Pair {
        invariant: "retries-soon",
        what: "#71569: no second attempt",
        bad: |h| {
            let rpc = h.pod("p1", "c", Some("n1")).stage("n1", "vol");
            h.node_answer(rpc, Err(Code::Unavailable)).after(126);
        },
        near: |h| {
            let rpc = h.pod("p1", "c", Some("n1")).stage("n1", "vol");
            h.node_answer(rpc, Err(Code::Unavailable)).after(121).staged("n1", "vol").after(126);
        },
    },
    Pair {
        invariant: "retries-soon",
        what: "an unstage that failed, and one that nobody needs any more",
        bad: |h| {
            let rpc = h.staged("n1", "vol").unstage("n1", "vol");
            h.node_answer(rpc, Err(Code::Internal)).after(126);
        },
        near: |h| {
            let rpc = h.pod("p1", "c", Some("n1")).stage("n1", "vol");
            h.node_answer(rpc, Err(Code::Unavailable)).gone(Kind::Pod, "p1").after(126);
        },
    },
    Pair {
        invariant: "in-use-converges",
        what: "#62282: a ghost in volumesInUse",
        bad: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1").after(312);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1").after(300).lists("n1", &[], &["vol"]).after(312);
            h.lists("n2", &["vol"], &[]).mounted("n2", "/elsewhere", "vol").after(10).unmounted("n2", "/elsewhere", "vol").after(300);
        },
    },
    Pair {
        invariant: "no-hot-loop",
        what: "incident 18, #88565: a node's lists flap",
        bad: |h| {
            for _ in 0..10 {
                h.after(1).lists("n1", &["vol"], &[]).lists("n1", &[], &[]);
            }
        },
        near: |h| {
            // A detach is tried seven times in a minute while volumesInUse, as the controller sees it, is behind.
            h.lists("n1", &["vol"], &["vol"]);
            for wait in [0, 1, 1, 2, 4, 8, 16] {
                h.after(wait).lists("n1", &["vol"], &[]).lists("n1", &["vol"], &["vol"]);
            }
            h.after(60);
            for _ in 0..60 {
                h.after(7).lists("n1", &["vol"], &[]);
                h.after(7).lists("n1", &[], &[]);
            }
        },
    },
    Pair {
        invariant: "no-hot-loop",
        what: "incident 35, #101378: one claim is written again and again, and not by its user",
        bad: |h| {
            for round in 0..12 {
                h.claim("c", json!({"metadata": {"annotations": {"n": round.to_string()}}}));
            }
        },
        near: |h| {
            for round in 0..12 {
                h.by_hand(Kind::PersistentVolumeClaim, "c", json!({"metadata": {"annotations": {"n": round.to_string()}}}));
            }
        },
    },
    Pair {
        invariant: "unmounts-without-driver",
        what: "incident 41, #110637: the driver's own pod was evicted",
        bad: |h| {
            h.up("p1", "n1", "i-1").deleting(Kind::Pod, "p1").stops("n1", "p1").after(601);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").deleting(Kind::Pod, "p1").stops("n1", "p1").after(500).unbound("n1", "vol", "p1").after(601);
        },
    },
    Pair {
        invariant: "io-resumes",
        what: "incident 56, efs#178: I/O hangs after a restart of the driver",
        bad: |h| {
            h.see(Seen::IoHangs { node: "n1", tree: "fs" });
            h.after(31);
        },
        near: |h| {
            h.see(Seen::IoHangs { node: "n1", tree: "fs" });
            h.after(29).see(Seen::IoGoesOn { node: "n1", tree: "fs" });
            h.after(31);
        },
    },
];

#[test]
fn liveness() {
    hold(PAIRS);
}
