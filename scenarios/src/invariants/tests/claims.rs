//! S10 to S13, S20, S24 to S26 and S29.

use std::collections::BTreeMap;

use model_kube::object::Kind;
use serde_json::json;

use super::{Pair, hold};
use crate::invariants::seen::Seen;

fn contents() -> Kind {
    Kind::Custom { group: "snapshot.storage.k8s.io".into(), plural: "volumesnapshotcontents".into() }
}

pub const PAIRS: &[Pair] = &[
    Pair {
        invariant: "delete-only-released",
        what: "incident 28, #94108: DeleteVolume before the detach",
        bad: |h| {
            h.cloud("vol", &["i-1"]).gone(Kind::PersistentVolumeClaim, "c").phase(Kind::PersistentVolume, "pv", "Released").delete("vol");
        },
        near: |h| {
            h.cloud("vol", &["i-1"]).gone(Kind::PersistentVolumeClaim, "c").phase(Kind::PersistentVolume, "pv", "Released");
            h.cloud("vol", &[]).delete("vol");
        },
    },
    Pair {
        invariant: "delete-only-released",
        what: "incident 45, #48081: a bound volume is reclaimed",
        bad: |h| {
            h.delete("vol");
        },
        near: |h| {
            h.created("pvc-x", "orphan").delete("orphan");
        },
    },
    Pair {
        invariant: "delete-only-released",
        what: "incident 44, #83177: Released while its claim is there",
        bad: |h| {
            h.phase(Kind::PersistentVolume, "pv", "Released").delete("vol");
        },
        near: |h| {
            h.gone(Kind::PersistentVolumeClaim, "c").phase(Kind::PersistentVolume, "pv", "Released").delete("vol");
        },
    },
    Pair {
        invariant: "delete-only-released",
        what: "still staged on a node",
        bad: |h| {
            h.staged("n1", "vol").gone(Kind::PersistentVolumeClaim, "c").phase(Kind::PersistentVolume, "pv", "Released").delete("vol");
        },
        near: |h| {
            h.staged("n1", "vol").unstaged("n1", "vol").gone(Kind::PersistentVolumeClaim, "c");
            h.phase(Kind::PersistentVolume, "pv", "Released").delete("vol");
        },
    },
    Pair {
        invariant: "pv-bound-once",
        what: "incident 46, #23886: two claims are bound to one PersistentVolume",
        bad: |h| {
            h.claim("c2", json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}));
        },
        near: |h| {
            h.claim("c2", json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Pending"}}));
        },
    },
    Pair {
        invariant: "pv-bound-once",
        what: "the claimRef changes hands without being cleared",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"claimRef": {"name": "c2", "uid": "uid-c2"}}}));
        },
        near: |h| {
            h.gone(Kind::PersistentVolumeClaim, "c").put(Kind::PersistentVolume, "pv", json!({"spec": {"claimRef": null}}));
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"claimRef": {"namespace": "d", "name": "c2", "uid": "uid-c2"}}}));
            h.claim("c2", json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}));
        },
    },
    Pair {
        invariant: "retain-kept",
        what: "a volume of policy Retain is deleted",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).delete("vol");
        },
        near: |h| {
            h.delete("vol");
        },
    },
    Pair {
        invariant: "retain-kept",
        what: "a bound claim changes its volume",
        bad: |h| {
            h.claim("c", json!({"spec": {"volumeName": "pv2"}}));
        },
        near: |h| {
            h.claim("c2", json!({"spec": {}, "status": {"phase": "Pending"}})).claim("c2", json!({"spec": {"volumeName": "pv2"}}));
            h.phase(Kind::PersistentVolumeClaim, "c2", "Bound");
        },
    },
    Pair {
        invariant: "claim-outlives-pods",
        what: "#23886: a claim vanishes under a scheduled pod",
        bad: |h| {
            h.pod("p1", "c", Some("n1")).gone(Kind::PersistentVolumeClaim, "c");
        },
        near: |h| {
            h.pod("p1", "c", None).pod("p2", "c", Some("n1")).gone(Kind::Pod, "p2").gone(Kind::PersistentVolumeClaim, "c");
        },
    },
    Pair {
        invariant: "claim-outlives-pods",
        what: "a claim that was made for a pod goes when the pod has ended, and when it has shut down, held by a finalizer",
        bad: |h| {
            h.claim(
                "p1-data",
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p1", "uid": "uid-p1"}]}}),
            );
            h.pod("p1", "p1-data", Some("n1")).phase(Kind::Pod, "p1", "Succeeded").gone(Kind::PersistentVolumeClaim, "p1-data");
        },
        near: |h| {
            h.claim(
                "p1-data",
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p1", "uid": "uid-p1"}]}}),
            );
            h.pod("p1", "p1-data", Some("n1")).deleting(Kind::Pod, "p1");
            h.put(Kind::Pod, "p1", json!({"metadata": {"deletionGracePeriodSeconds": 0}})).gone(Kind::PersistentVolumeClaim, "p1-data");
        },
    },
    Pair {
        invariant: "no-leak",
        what: "incident 47, prov#131: a volume was made, its maker was told that it timed out, and the claim is gone",
        bad: |h| h.see(Seen::VolumeMade { volume: "lost", multi_attach: false, tags: &named("pvc-gone") }),
        near: |h| {
            h.see(Seen::VolumeMade { volume: "kept", multi_attach: false, tags: &named("pvc-uid-waits") });
            h.claim("waits", json!({"status": {"phase": "Pending"}}));
            h.see(Seen::VolumeMade { volume: "by-hand", multi_attach: false, tags: &BTreeMap::new() });
            h.see(Seen::VolumeMade { volume: "deleted", multi_attach: false, tags: &named("pvc-gone") });
            h.see(Seen::VolumeDeleted { volume: "deleted" });
        },
    },
    Pair {
        invariant: "no-leak",
        what: "incident 49, prov#546: the PersistentVolume goes, its volume stays",
        bad: |h| {
            h.created("pvc-uid-gone", "v2").volume("pv2", "v2", "c2", json!({})).gone(Kind::PersistentVolume, "pv2");
        },
        near: |h| {
            h.created("pvc-uid-gone", "v2").volume("pv2", "v2", "c2", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
            h.gone(Kind::PersistentVolume, "pv2");
            h.created("pvc-uid-x", "v3").deleted("v3").created("pvc-uid-y", "v4");
            h.create("pvc-uid-y", None);
        },
    },
    Pair {
        invariant: "no-leak",
        what: "snap#134: a snapshot that no object refers to",
        bad: |h| {
            h.cut("snapshot-1", "snap-1", true);
        },
        near: |h| {
            h.cut("snapshot-1", "snap-1", true).put(contents(), "content", json!({"status": {"snapshotHandle": "snap-1"}}));
        },
    },
    Pair {
        invariant: "node-affinity",
        what: "incident 51, #112347: a pod on a node that its volume does not reach",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", in_zone("y")).pod("p1", "c", None).pod("p1", "c", Some("n1"));
        },
        near: |h| {
            h.put(Kind::PersistentVolume, "pv", in_zone("z")).pod("p1", "c", None).pod("p1", "c", Some("n1"));
        },
    },
    Pair {
        invariant: "node-affinity",
        what: "a pod whose node was set by hand before its claim was bound",
        bad: |h| {
            h.claim("c2", json!({"status": {"phase": "Pending"}})).pod("p1", "c2", Some("n1")).volume("pv2", "v2", "c2", in_zone("y"));
        },
        near: |h| {
            h.claim("c2", json!({"status": {"phase": "Pending"}})).pod("p1", "c2", Some("n1")).volume("pv2", "v2", "c2", in_zone("z"));
        },
    },
    Pair {
        invariant: "capacity-is-real",
        what: "incident 53, #131402: a claim shows what no node has grown yet",
        bad: |h| {
            h.claim("c", shows("1Gi")).grown("vol", 2 << 30).claim("c", shows("2Gi"));
        },
        near: |h| {
            h.claim("c", shows("1Gi")).grown("vol", 2 << 30).node_grown("n1", "vol", 2 << 30).claim("c", shows("2Gi"));
        },
    },
    Pair {
        invariant: "capacity-is-real",
        what: "incident 54, #88683: a new claim on a volume whose file system was never grown",
        bad: |h| {
            h.see(Seen::FileSystem { tree: "vol", bytes: 1 << 30 });
            h.claim("c", shows("2Gi"));
        },
        near: |h| {
            h.see(Seen::FileSystem { tree: "vol", bytes: 1 << 30 });
            h.claim("c", shows("1Gi")).runs("n1", "p1", "vol", Some("vol"));
        },
    },
    Pair {
        invariant: "capacity-is-real",
        what: "a claim shows more than the cloud grew",
        bad: |h| {
            h.claim("c", shows("1Gi")).claim("c", shows("2Gi"));
        },
        near: |h| {
            h.claim("c", shows("2Gi")).claim("c", shows("2Gi"));
        },
    },
    Pair {
        invariant: "copy-is-exact",
        what: "a restore has what was written after the cut",
        bad: |h| {
            h.see(Seen::Cut { cut: "snap-1", digest: 1 });
            h.see(Seen::Filled { volume: "v2", cut: "snap-1", digest: 2 });
        },
        near: |h| {
            h.see(Seen::Cut { cut: "snap-1", digest: 1 });
            h.see(Seen::Filled { volume: "v2", cut: "snap-1", digest: 1 });
        },
    },
    Pair {
        invariant: "copy-is-exact",
        what: "a snapshot is used before it is ready",
        bad: |h| {
            h.cut("snapshot-1", "snap-1", false).create("pvc-x", Some("snap-1"));
        },
        near: |h| {
            h.cut("snapshot-1", "snap-1", false).cut("snapshot-1", "snap-1", true).create("pvc-x", Some("snap-1"));
        },
    },
    Pair {
        invariant: "finalizers-kept",
        what: "an object is removed with a finalizer",
        bad: |h| {
            h.put(Kind::ConfigMap, "m", json!({"metadata": {"finalizers": ["example.com/mine"]}})).gone(Kind::ConfigMap, "m");
        },
        near: |h| {
            h.put(Kind::ConfigMap, "m", json!({"metadata": {"finalizers": ["example.com/mine"]}}));
            h.put(Kind::ConfigMap, "m", json!({"metadata": {"finalizers": null}})).gone(Kind::ConfigMap, "m");
        },
    },
    Pair {
        invariant: "finalizers-kept",
        what: "pvc-protection goes under a pod",
        bad: |h| {
            h.claim("c", finalizer("kubernetes.io/pvc-protection")).pod("p1", "c", Some("n1")).claim("c", no_finalizer());
        },
        near: |h| {
            h.claim("c", finalizer("kubernetes.io/pvc-protection")).pod("p1", "c", None).claim("c", no_finalizer());
        },
    },
    Pair {
        invariant: "finalizers-kept",
        what: "pv-protection goes while Bound",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", finalizer("kubernetes.io/pv-protection")).put(Kind::PersistentVolume, "pv", no_finalizer());
        },
        near: |h| {
            h.put(Kind::PersistentVolume, "pv", finalizer("kubernetes.io/pv-protection")).phase(Kind::PersistentVolume, "pv", "Released");
            h.put(Kind::PersistentVolume, "pv", no_finalizer());
        },
    },
    Pair {
        invariant: "finalizers-kept",
        what: "the provisioner's finalizer goes before the volume",
        bad: |h| {
            let with = finalizer("external-provisioner.volume.kubernetes.io/finalizer");
            h.created("pvc-x", "vol").put(Kind::PersistentVolume, "pv", with).put(Kind::PersistentVolume, "pv", no_finalizer());
        },
        near: |h| {
            let with = finalizer("external-provisioner.volume.kubernetes.io/finalizer");
            h.created("pvc-x", "vol").put(Kind::PersistentVolume, "pv", with).deleted("vol");
            h.put(Kind::PersistentVolume, "pv", no_finalizer());
        },
    },
    Pair {
        invariant: "finalizers-kept",
        what: "incident 22, att#235: a PersistentVolume's finalizers are taken by hand while a VolumeAttachment is there",
        bad: |h| {
            h.put(Kind::PersistentVolume, "pv", finalizer("external-attacher/ebs-csi-aws-com")).attachment("va", "pv", "n1", true);
            h.by_hand(Kind::PersistentVolume, "pv", no_finalizer());
        },
        near: |h| {
            h.put(Kind::PersistentVolume, "pv", finalizer("external-attacher/ebs-csi-aws-com")).attachment("va", "pv", "n1", true);
            h.gone(Kind::VolumeAttachment, "va").put(Kind::PersistentVolume, "pv", no_finalizer());
        },
    },
    Pair {
        invariant: "finalizers-kept",
        what: "a VolumeAttachment's finalizer goes before the volume is detached",
        bad: |h| {
            h.attachment("va", "pv", "n1", false).put(Kind::VolumeAttachment, "va", finalizer("external-attacher/ebs-csi-aws-com"));
            h.published("vol", "i-1").by_hand(Kind::VolumeAttachment, "va", no_finalizer());
        },
        near: |h| {
            h.attachment("va", "pv", "n1", false).put(Kind::VolumeAttachment, "va", finalizer("external-attacher/ebs-csi-aws-com"));
            h.published("vol", "i-1").unpublished("vol", "i-1").put(Kind::VolumeAttachment, "va", no_finalizer());
        },
    },
];

fn named(name: &str) -> BTreeMap<String, String> {
    [("CSIVolumeName".to_owned(), name.to_owned())].into()
}

fn in_zone(zone: &str) -> serde_json::Value {
    let expression = json!({"key": "zone", "operator": "In", "values": [zone]});
    json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
}

fn shows(capacity: &str) -> serde_json::Value {
    json!({"status": {"capacity": {"storage": capacity}}})
}

fn finalizer(name: &str) -> serde_json::Value {
    json!({"metadata": {"finalizers": [name]}})
}

fn no_finalizer() -> serde_json::Value {
    json!({"metadata": {"finalizers": null}})
}

#[test]
fn claims() {
    hold(PAIRS);
}
