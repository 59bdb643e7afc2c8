//! S1, S14 to S16, S19, S23 and S30.

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::csi::{Code, ControllerReply};
use model_kube::object::Kind;
use serde_json::json;

use super::history::EBS;
use super::{Pair, hold};
use crate::invariants::seen::Seen;

pub const PAIRS: &[Pair] = &[
    Pair {
        invariant: "single-attach",
        what: "EC2 has a volume on two instances",
        bad: |h| {
            h.cloud("vol", &["i-1"]).cloud("vol", &["i-1", "i-2"]);
        },
        near: |h| {
            h.see(Seen::VolumeMade { volume: "shared", multi_attach: true, tags: &BTreeMap::new() });
            h.cloud("shared", &["i-1"]).cloud("shared", &["i-1", "i-2"]).cloud("vol", &["i-1"]).cloud("vol", &["i-2"]);
        },
    },
    Pair {
        invariant: "single-attach",
        what: "incident 17, #71276: an attach that timed out may yet be done, and the pod goes elsewhere",
        bad: |h| {
            let rpc = h.publish("vol", "i-1");
            h.answer(rpc, Err(Code::DeadlineExceeded)).publish("vol", "i-2");
        },
        near: |h| {
            let rpc = h.publish("vol", "i-1");
            h.answer(rpc, Err(Code::DeadlineExceeded)).unpublished("vol", "i-1").publish("vol", "i-2");
        },
    },
    Pair {
        invariant: "single-attach",
        what: "an attach that was refused for good",
        bad: |h| {
            h.published("vol", "i-1").publish("vol", "i-2");
        },
        near: |h| {
            let rpc = h.publish("vol", "i-1");
            h.answer(rpc, Err(Code::NotFound)).publish("vol", "i-2");
        },
    },
    Pair {
        invariant: "in-use-reported",
        what: "incident 1, #121937: a volume leaves volumesInUse while it is staged",
        bad: |h| {
            h.up("p1", "n1", "i-1").stops("n1", "p1").unbound("n1", "vol", "p1").lists("n1", &[], &["vol"]);
        },
        near: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1").lists("n1", &[], &["vol"]);
        },
    },
    Pair {
        invariant: "in-use-reported",
        what: "incident 13, #37586: the Node is made anew without its lists, by whom matters not",
        bad: |h| {
            h.up("p1", "n1", "i-1").lists("n1", &[], &[]);
        },
        near: |h| {
            h.up("p1", "n1", "i-1");
            h.see(Seen::KubeletStopped { node: "n1" });
            h.lists("n1", &[], &[]);
        },
    },
    Pair {
        invariant: "in-use-reported",
        what: "a stage that begins before the report",
        bad: |h| {
            h.stage("n1", "vol");
        },
        near: |h| {
            h.lists("n1", &["vol"], &[]).stage("n1", "vol");
        },
    },
    Pair {
        invariant: "mount-after-handshake",
        what: "finding F4: the two lists are never true at one time",
        bad: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &[], &["vol"]).lists("n1", &["vol"], &[]).stage("n1", "vol");
        },
        near: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &["vol"], &[]).lists("n1", &["vol"], &["vol"]);
            h.lists("n1", &["vol"], &[]).stage("n1", "vol");
        },
    },
    Pair {
        invariant: "mount-after-handshake",
        what: "a handshake of an earlier life does not count",
        bad: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &["vol"], &["vol"]).lists("n1", &[], &[]).lists("n1", &["vol"], &[]);
            h.stage("n1", "vol");
        },
        near: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &["vol"], &["vol"]).stage("n1", "vol");
        },
    },
    Pair {
        invariant: "detach-after-report",
        what: "incident 14, #53692: a volume comes into volumesAttached while its detach is under way",
        bad: |h| {
            h.attachment("va", "pv", "n1", false).lists("n1", &[], &["vol"]);
        },
        near: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &[], &["vol"]);
        },
    },
    Pair {
        invariant: "detach-after-report",
        what: "incident 9, #27836: the detach begins before the report",
        bad: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &[], &["vol"]).deleting(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &[], &["vol"]).lists("n1", &[], &[]);
            h.deleting(Kind::VolumeAttachment, "va").gone(Kind::VolumeAttachment, "va");
        },
    },
    Pair {
        invariant: "detach-after-report",
        what: "a Node that is gone has no list to leave",
        bad: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &[], &["vol"]).gone(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            h.attachment("va", "pv", "n1", true).lists("n1", &[], &["vol"]).gone(Kind::Node, "n1").gone(Kind::VolumeAttachment, "va");
        },
    },
    Pair {
        invariant: "attachment-is-true",
        what: "attached without a call that succeeded",
        bad: |h| {
            let rpc = h.attachment("va", "pv", "n1", false).publish("vol", "i-1");
            h.answer(rpc, Err(Code::DeadlineExceeded)).attachment("va", "pv", "n1", true);
        },
        near: |h| {
            h.attachment("va", "pv", "n1", false).published("vol", "i-1").attachment("va", "pv", "n1", true);
        },
    },
    Pair {
        invariant: "attachment-is-true",
        what: "a success of an earlier VolumeAttachment of this name",
        bad: |h| {
            h.attachment("va", "pv", "n1", false).published("vol", "i-1").unpublished("vol", "i-1").gone(Kind::VolumeAttachment, "va");
            h.attachment("va", "pv", "n1", false).attachment("va", "pv", "n1", true);
        },
        near: |h| {
            h.attachment("va", "pv", "n1", false).published("vol", "i-1").unpublished("vol", "i-1").gone(Kind::VolumeAttachment, "va");
            h.attachment("va", "pv", "n1", false).published("vol", "i-1").attachment("va", "pv", "n1", true);
        },
    },
    Pair {
        invariant: "attachment-is-true",
        what: "att#215: gone while the volume may still be there",
        bad: |h| {
            let rpc = h.attachment("va", "pv", "n1", false).publish("vol", "i-1");
            h.answer(rpc, Err(Code::DeadlineExceeded)).gone(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            let rpc = h.attachment("va", "pv", "n1", false).publish("vol", "i-1");
            h.answer(rpc, Err(Code::NotFound)).gone(Kind::VolumeAttachment, "va");
        },
    },
    Pair {
        invariant: "volume-limit",
        what: "a third volume on a node that takes two",
        bad: |h| {
            h.cloud("a", &["i-1"]).cloud("b", &["i-1"]).cloud("c", &["i-1"]);
        },
        near: |h| {
            h.cloud("a", &["i-1"]).cloud("b", &["i-1"]).cloud("a", &[]).cloud("c", &["i-1"]);
        },
    },
    Pair {
        invariant: "volume-limit",
        what: "incident 52, #95911: bound beyond what the CSINode allows",
        bad: |h| {
            let drivers = json!([{"name": EBS, "nodeID": "i-1", "allocatable": {"count": 1}}]);
            h.put(Kind::CSINode, "n1", json!({"spec": {"drivers": drivers}})).volume("pv2", "vol2", "c2", json!({}));
            h.pod("p1", "c", None).pod("p2", "c2", None).after(5).pod("p1", "c", Some("n1")).pod("p2", "c2", Some("n1"));
        },
        near: |h| {
            let drivers = json!([{"name": EBS, "nodeID": "i-1", "allocatable": {"count": 1}}]);
            h.put(Kind::CSINode, "n1", json!({"spec": {"drivers": drivers}})).volume("pv2", "vol2", "c2", json!({}));
            h.pod("p1", "c", None).pod("p2", "c", None).pod("p3", "c2", None).after(5);
            h.pod("p1", "c", Some("n1")).pod("p2", "c", Some("n1")).phase(Kind::Pod, "p1", "Succeeded").gone(Kind::Pod, "p2");
            h.pod("p3", "c2", Some("n1"));
        },
    },
    Pair {
        invariant: "volume-limit",
        what: "a CSINode that the scheduler cannot have seen yet",
        bad: |h| {
            let drivers = json!([{"name": EBS, "nodeID": "i-1", "allocatable": {"count": 0}}]);
            h.put(Kind::CSINode, "n1", json!({"spec": {"drivers": drivers}})).after(2).pod("p1", "c", None).pod("p1", "c", Some("n1"));
        },
        near: |h| {
            let drivers = json!([{"name": EBS, "nodeID": "i-1", "allocatable": {"count": 0}}]);
            h.pod("p1", "c", None).put(Kind::CSINode, "n1", json!({"spec": {"drivers": drivers}})).pod("p1", "c", Some("n1"));
        },
    },
    Pair {
        invariant: "no-stale-detach",
        what: "incident 11, #93902: the second detach hits a new attach",
        bad: |h| {
            h.pod("p1", "c", Some("n1")).after(5).attachment("va", "pv", "n1", true).deleting(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            h.pod("p1", "c", Some("n1")).after(1).attachment("va", "pv", "n1", true).deleting(Kind::VolumeAttachment, "va");
            h.pod("p2", "c", Some("n2")).after(5).phase(Kind::Pod, "p2", "Failed");
            h.attachment("vb", "pv", "n2", true).deleting(Kind::VolumeAttachment, "vb");
        },
    },
    Pair {
        invariant: "no-stale-detach",
        what: "a claim that came later under the same name has another volume",
        bad: |h| {
            h.pod("p1", "c", Some("n1")).after(5).attachment("va", "pv", "n1", true).deleting(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            h.put(Kind::PersistentVolume, "pv", json!({"spec": {"claimRef": {"uid": "an-earlier-claim"}}}));
            h.pod("p1", "c", Some("n1")).after(5).attachment("va", "pv", "n1", true).deleting(Kind::VolumeAttachment, "va");
        },
    },
    Pair {
        invariant: "no-stale-detach",
        what: "a controller whose watch is late wants what it saw, once it saw it",
        bad: |h| {
            h.see(Seen::WatchBehind { until: Duration::from_secs(10) });
            h.pod("p1", "c", Some("n1")).after(13).attachment("va", "pv", "n1", true).deleting(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            h.see(Seen::WatchBehind { until: Duration::from_secs(10) });
            h.pod("p1", "c", Some("n1")).after(5).attachment("va", "pv", "n1", true).deleting(Kind::VolumeAttachment, "va");
        },
    },
    Pair {
        invariant: "no-stale-detach",
        what: "a user's own deletion is no controller's",
        bad: |h| {
            h.pod("p1", "c", Some("n1")).after(5).attachment("va", "pv", "n1", true).gone(Kind::VolumeAttachment, "va");
        },
        near: |h| {
            let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
            h.pod("p1", "c", Some("n1")).after(5).attachment("va", "pv", "n1", true).by_hand(Kind::VolumeAttachment, "va", deleted);
            h.gone(Kind::VolumeAttachment, "va");
        },
    },
];

#[test]
fn attachments() {
    hold(PAIRS);
}

#[test]
fn an_answer_comes_with_what_it_says() {
    let mut h = super::History::new(None);
    let rpc = h.publish("vol", "i-1");
    h.answer(rpc, Ok(ControllerReply::ControllerPublishVolume { publish_context: BTreeMap::new() })).publish("vol", "i-2");
    assert_eq!(h.end(), ["single-attach: ControllerPublishVolume of vol to n2 began while it is attached to n1"]);
}
