//! S17 and S18.

use model_common::csi::{self, Code, NodeReply};
use model_kube::object::Kind;

use super::{Pair, hold};
use crate::invariants::seen::Seen;

pub const PAIRS: &[Pair] = &[
    Pair {
        invariant: "csi-order",
        what: "a stage without an attach",
        bad: |h| {
            h.stage("n1", "vol");
        },
        near: |h| {
            h.published("vol", "i-1").stage("n1", "vol");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "a stage after a try to detach",
        bad: |h| {
            h.published("vol", "i-1").unpublish("vol", "i-1");
            h.stage("n1", "vol");
        },
        near: |h| {
            let rpc = h.published("vol", "i-1").unpublish("vol", "i-1");
            h.answer(rpc, Err(Code::Internal)).published("vol", "i-1").stage("n1", "vol");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "a publish without a stage",
        bad: |h| {
            h.published("vol", "i-1").bind("n1", "vol", "p1");
        },
        near: |h| {
            h.published("vol", "i-1").staged("n1", "vol").bind("n1", "vol", "p1");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "an unstage before the unpublish",
        bad: |h| {
            h.published("vol", "i-1").staged("n1", "vol").bound("n1", "vol", "p1").unstage("n1", "vol");
        },
        near: |h| {
            h.published("vol", "i-1").staged("n1", "vol").bound("n1", "vol", "p1").unbound("n1", "vol", "p1").unstage("n1", "vol");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "a publish that was refused for good needs no unpublish",
        bad: |h| {
            let rpc = h.published("vol", "i-1").staged("n1", "vol").bind("n1", "vol", "p1");
            h.node_answer(rpc, Err(Code::DeadlineExceeded)).unstage("n1", "vol");
        },
        near: |h| {
            let rpc = h.published("vol", "i-1").staged("n1", "vol").bind("n1", "vol", "p1");
            h.node_answer(rpc, Err(Code::InvalidArgument)).unstage("n1", "vol");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "incident 28, #106902: a detach before the unstage",
        bad: |h| {
            h.published("vol", "i-1").staged("n1", "vol").unpublish("vol", "i-1");
        },
        near: |h| {
            h.published("vol", "i-1").staged("n1", "vol").gone(Kind::Node, "n1").unpublish("vol", "i-1");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "incident 29, prov#176: DeleteVolume before the detach",
        bad: |h| {
            h.published("vol", "i-1").delete("vol");
        },
        near: |h| {
            h.published("vol", "i-1").unpublished("vol", "i-1").delete("vol");
        },
    },
    Pair {
        invariant: "csi-order",
        what: "an attach of what was deleted",
        bad: |h| {
            h.deleted("vol").publish("vol", "i-1");
        },
        near: |h| {
            h.deleted("vol").unpublish("vol", "i-1");
        },
    },
    Pair {
        invariant: "csi-idempotent",
        what: "incident 48, prov#1469: a second volume under one name",
        bad: |h| {
            h.created("pvc-x", "v1").created("pvc-x", "v2");
        },
        near: |h| {
            h.created("pvc-x", "v1").created("pvc-x", "v1").deleted("v1").created("pvc-x", "v2");
        },
    },
    Pair {
        invariant: "csi-idempotent",
        what: "DeleteVolume of what is deleted fails",
        bad: |h| {
            let rpc = h.deleted("vol").delete("vol");
            h.answer(rpc, Err(Code::NotFound));
        },
        near: |h| {
            let rpc = h.deleted("vol").delete("vol");
            h.answer(rpc, Err(Code::Unavailable));
        },
    },
    Pair {
        invariant: "csi-idempotent",
        what: "two calls of the kubelet for one volume at once",
        bad: |h| {
            h.stage("n1", "vol");
            h.stage("n1", "vol");
        },
        near: |h| {
            let rpc = h.stage("n1", "vol");
            h.told(rpc, Code::DeadlineExceeded).stage("n1", "vol");
            h.stage("n2", "vol");
            h.staged("n1", "v2").bound("n1", "v2", "p1").bound("n1", "v2", "p2").unbind("n1", "v2", "p1");
            h.unbind("n1", "v2", "p2");
        },
    },
    Pair {
        invariant: "csi-idempotent",
        what: "the kubelet that sent the first call is no more",
        bad: |h| {
            let rpc = h.stage("n1", "vol");
            h.unstage("n1", "vol");
            h.node_answer(rpc, Ok(NodeReply::NodeStageVolume));
        },
        near: |h| {
            h.stage("n1", "vol");
            h.see(Seen::KubeletStopped { node: "n1" });
            h.see(Seen::KubeletStarted { node: "n1" });
            h.unstage("n1", "vol");
        },
    },
    Pair {
        invariant: "csi-idempotent",
        what: "two calls of the attacher for one volume and node at once",
        bad: |h| {
            h.publish("vol", "i-1");
            h.unpublish("vol", "i-1");
        },
        near: |h| {
            let rpc = h.publish("vol", "i-1");
            h.see(Seen::ControllerRpcAnswered { rpc, result: &Err(csi::Error::new(Code::DeadlineExceeded, "told")) });
            h.unpublish("vol", "i-1");
            h.publish("vol", "i-2");
        },
    },
];

#[test]
fn order() {
    hold(PAIRS);
}
