//! S21.

use model_kube::object::Kind;

use super::{Pair, hold};
use crate::invariants::seen::Seen;

pub const PAIRS: &[Pair] = &[
    Pair {
        invariant: "clean-at-rest",
        what: "#87977: the mount of a pod that is gone",
        bad: |h| {
            h.up("p1", "n1", "i-1").stops("n1", "p1").gone(Kind::Pod, "p1");
        },
        near: |h| {
            h.up("p1", "n1", "i-1");
        },
    },
    Pair {
        invariant: "clean-at-rest",
        what: "incident 24, #82190: staged for ever",
        bad: |h| {
            h.up("p1", "n1", "i-1").stops("n1", "p1").unbound("n1", "vol", "p1").gone(Kind::Pod, "p1");
        },
        near: |h| {
            h.up("p1", "n1", "i-1").down("p1", "n1");
        },
    },
    Pair {
        invariant: "clean-at-rest",
        what: "incident 40, #102408: a device that EC2 has detached",
        bad: |h| {
            h.cloud("vol", &["i-1"]).device("n1", "vol", Some(1)).cloud("vol", &[]);
        },
        near: |h| {
            h.cloud("vol", &["i-1"]).device("n1", "vol", Some(1)).device("n1", "vol", None).cloud("vol", &[]);
        },
    },
    Pair {
        invariant: "clean-at-rest",
        what: "incident 37, #105536: the directory of a pod that is gone",
        bad: |h| path(h, "uid-x", true),
        near: |h| {
            path(h, "uid-x", true);
            path(h, "uid-x", false);
            h.pod("p1", "c", Some("n1"));
            path(h, "uid-p1", true);
        },
    },
];

fn path(history: &mut super::History, pod: &str, there: bool) {
    history.see(Seen::Path { node: "n1", path: &format!("/var/lib/kubelet/pods/{pod}"), pod: Some(pod), volume: None, there });
}

#[test]
fn rest() {
    hold(PAIRS);
}
