//! What decides, as tables: who may have a volume at once, which pod still wants it, what is told of a failure.

use serde_json::{Value, json};

use super::super::{AttachDetach, Op, attachment_name};
use super::on;
use crate::machine::{Effect, Input, Purpose, Timer};
use crate::object::{Change, Key, Kind, Object};
use crate::testing::{claim, object, volume};
use crate::write::Write;

/// A controller that is told everything by hand.
struct Told {
    machine: AttachDetach,
    effects: Vec<Effect>,
    version: u64,
}

fn node(name: &str, status: Value) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "status": status})
}

/// A claim and its volume `v-<claim>`, bound to each other, in a namespace.
fn bound(namespace: &str, name: &str, modes: &[&str], handle: &str) -> [Value; 2] {
    let mut pv = volume(&format!("v-{name}"), handle, "1Gi");
    pv["spec"]["accessModes"] = json!(modes);
    pv["spec"]["claimRef"] = json!({"kind": "PersistentVolumeClaim", "namespace": namespace, "name": name, "uid": name});
    let mut pvc = claim(name, "", "ReadWriteOnce", "1Gi");
    pvc["metadata"] = json!({"name": name, "namespace": namespace, "uid": name});
    pvc["spec"]["volumeName"] = json!(format!("v-{name}"));
    pvc["status"] = json!({"phase": "Bound"});
    [pv, pvc]
}

fn item(node: &str) -> Key {
    Key::new(Kind::VolumeAttachment, "", &attachment_name("vol-1", "ebs.csi.aws.com", node))
}

fn attachment(node: &str, status: Value) -> Value {
    json!({"kind": "VolumeAttachment", "metadata": {"name": item(node).name}, "status": status,
        "spec": {"attacher": "ebs.csi.aws.com", "nodeName": node, "source": {"persistentVolumeName": "v-ebs-claim"}}})
}

impl Told {
    /// Two nodes and a volume; nobody wants it.
    fn new(modes: &[&str]) -> Self {
        let mut told = Self { machine: AttachDetach::default(), effects: Vec::new(), version: 0 };
        told.input(&Input::Booted);
        for name in ["node-a", "node-b"] {
            told.sees(node(name, json!({"conditions": [{"type": "Ready", "status": "True"}]})));
        }
        bound("default", "ebs-claim", modes, "vol-1").into_iter().for_each(|one| told.sees(one));
        told
    }

    /// `app` on node-a has it.
    fn attached(modes: &[&str]) -> Self {
        let mut told = Self::new(modes);
        told.sees(on("app", "node-a"));
        told.attacher("node-a", json!({"attached": true}));
        assert_eq!(told.op("node-a"), Some(Op::Idle));
        told
    }

    fn input(&mut self, input: &Input) {
        self.machine.step(input, &mut self.effects).unwrap();
    }

    fn sees(&mut self, known: Value) {
        let known = self.newer(known);
        self.input(&Input::Changed(Change::Modified(known)));
    }

    fn newer(&mut self, mut known: Value) -> Object {
        self.version += 1;
        known["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object(known)
    }

    /// The VolumeAttachment is made, if that is under way, and its attacher says this.
    fn attacher(&mut self, node: &str, status: Value) {
        self.done(&item(node), attachment(node, json!({"attached": false})));
        self.sees(attachment(node, status));
    }

    /// The write of an object, if one is under way, is carried out and leaves this.
    fn done(&mut self, key: &Key, left: Value) -> bool {
        let at = self.effects.iter().position(|effect| matches!(effect, Effect::Write { write, .. } if write.key() == *key));
        let Some(Effect::Write { call, .. }) = at.map(|at| self.effects.remove(at)) else { return false };
        let left = self.newer(left);
        self.input(&Input::Written { call, result: Ok(left) });
        true
    }

    fn fires(&mut self, purpose: Purpose, node: &str) {
        self.input(&Input::Fired(Timer { purpose, item: item(node) }));
    }

    fn is_created(&self, node: &str) -> bool {
        let made =
            |effect: &Effect| matches!(effect, Effect::Write { write: write @ Write::Create { .. }, .. } if write.key() == item(node));
        self.effects.iter().any(made)
    }

    fn said(&self) -> Vec<&str> {
        let said = self.effects.iter().filter_map(|effect| match effect {
            Effect::Record(record) => Some(record.message.as_str()),
            _ => None,
        });
        said.collect()
    }

    fn op(&self, node: &str) -> Option<Op> {
        self.machine.have.iter().find(|(pair, _)| pair.node == node).map(|(_, have)| have.op)
    }
}

/// `IsMultiAttachAllowed`: unknown modes are the attacher's to refuse.
#[test]
fn the_access_modes_say_whether_a_second_node_may_attach() {
    let table: [(&[&str], bool); 6] = [
        (&["ReadWriteOnce"], false),
        (&["ReadWriteOncePod"], false),
        (&["ReadWriteMany"], true),
        (&["ReadOnlyMany"], true),
        (&["ReadWriteOnce", "ReadOnlyMany"], true),
        (&[], true),
    ];
    for (modes, may) in table {
        let mut told = Told::attached(modes);
        told.sees(on("other", "node-b"));
        assert_eq!(told.is_created("node-b"), may, "{modes:?}");
    }
}

/// `reportMultiAttachError`: names of pods in other namespaces are not told.
#[test]
fn a_multi_attach_error_names_who_has_the_volume() {
    let table = [
        (vec![], "Volume is already exclusively attached to one node and can't be attached to another"),
        (vec!["default"], "Volume is already used by pod(s) p0"),
        (vec!["default", "default"], "Volume is already used by pod(s) p0, p1"),
        (vec!["far", "far"], "Volume is already used by 2 pod(s) in different namespaces"),
        (vec!["default", "far"], "Volume is already used by pod(s) p0 and 1 pod(s) in different namespaces"),
    ];
    for (others, expected) in table {
        let mut told = Told::new(&["ReadWriteOnce"]);
        // The same volume by another name, as someone made it by hand for another namespace.
        bound("far", "far-claim", &["ReadWriteOnce"], "vol-1").into_iter().for_each(|one| told.sees(one));
        told.sees(on("app", "node-a"));
        told.attacher("node-a", json!({"attached": true}));
        // It stays attached: the node says that it uses it.
        told.sees(node("node-a", json!({"volumesInUse": ["kubernetes.io/csi/ebs.csi.aws.com^vol-1"]})));
        for (n, namespace) in others.iter().enumerate() {
            let mut pod = on(&format!("p{n}"), "node-a");
            pod["metadata"]["namespace"] = json!(namespace);
            if *namespace == "far" {
                pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("far-claim");
            }
            told.sees(pod);
        }
        let gone = told.newer(on("app", "node-a"));
        told.input(&Input::Changed(Change::Deleted(gone)));
        told.effects.clear();
        told.sees(on("other", "node-b"));
        told.fires(Purpose::Retry, "node-b");
        assert_eq!(told.said(), [format!("Multi-Attach error for volume \"v-ebs-claim\" {expected}")], "once, of {others:?}");
        assert!(!told.is_created("node-b"));
    }
}

/// `IsPodTerminated`: a pod that is deleted wants its volume while one of its containers runs, or may run.
#[test]
fn a_pod_that_goes_wants_its_volume_until_no_container_runs() {
    let states = [
        (json!({"running": {}}), true),
        (json!({}), true),
        (json!({"waiting": {}}), false),
        (json!({"terminated": {"exitCode": 0}}), false),
    ];
    for which in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for (state, wants) in &states {
            for is_deleted in [false, true] {
                let mut told = Told::attached(&["ReadWriteOnce"]);
                let mut pod = on("app", "node-a");
                if is_deleted {
                    pod["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z");
                }
                let status = json!({"name": "app", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state});
                pod["status"] = json!({"phase": "Running", which: [status]});
                told.sees(pod);
                assert_eq!(!told.machine.wanted.is_empty(), *wants || !is_deleted, "{which} {state} {is_deleted}");
            }
        }
    }
    for phase in ["Succeeded", "Failed"] {
        let mut told = Told::attached(&["ReadWriteOnce"]);
        let mut pod = on("app", "node-a");
        pod["status"] = json!({"phase": phase});
        told.sees(pod);
        assert!(told.machine.wanted.is_empty(), "{phase}");
    }
}

/// What a pod needs comes in any order of the watches.
#[test]
fn whatever_comes_last_starts_the_attach() {
    let [pv, pvc] = bound("default", "ebs-claim", &["ReadWriteOnce"], "vol-1");
    let all = [pv, pvc, node("node-a", json!({})), on("app", "node-a")];
    for last in 0..all.len() {
        let mut told = Told { machine: AttachDetach::default(), effects: Vec::new(), version: 0 };
        told.input(&Input::Booted);
        all.iter().enumerate().filter(|(n, _)| *n != last).for_each(|(_, one)| told.sees(one.clone()));
        assert!(!told.is_created("node-a"), "without {}", all[last]["kind"]);
        told.sees(all[last].clone());
        assert!(told.is_created("node-a"), "{} came last", all[last]["kind"]);
    }
    // A driver that does not attach, until it says that it does.
    let driver = |attach: bool| json!({"kind": "CSIDriver", "metadata": {"name": "ebs.csi.aws.com"}, "spec": {"attachRequired": attach}});
    let mut told = Told::new(&["ReadWriteOnce"]);
    told.sees(driver(false));
    told.sees(on("app", "node-a"));
    assert!(!told.is_created("node-a"));
    told.sees(driver(true));
    assert!(told.is_created("node-a"));
}

/// A claim and a volume that are not each other's, a node that its kubelet manages: nothing is attached.
#[test]
fn what_is_not_bound_both_ways_or_not_managed_is_left_alone() {
    let change = |which: usize, pointer: &str, value: Value| {
        let [pv, pvc] = bound("default", "ebs-claim", &["ReadWriteOnce"], "vol-1");
        let mut all = [pv, pvc, node("node-a", json!({})), on("app", "node-a")];
        *all[which].pointer_mut(pointer).unwrap() = value;
        let mut told = Told { machine: AttachDetach::default(), effects: Vec::new(), version: 0 };
        told.input(&Input::Booted);
        all.into_iter().for_each(|one| told.sees(one));
        told.effects.is_empty()
    };
    assert!(change(0, "/spec/claimRef/uid", json!("an earlier one")));
    assert!(change(1, "/status/phase", json!("Pending")));
    assert!(change(1, "/status/phase", json!("Lost")));
    assert!(change(2, "/metadata/annotations", json!({"volumes.kubernetes.io/controller-managed-attach-detach": "false"})));
    assert!(change(3, "/spec/nodeName", json!("")));
    assert!(!change(1, "/status/phase", json!("Bound")), "and else it is");
}

/// An attacher's error is told once and waits; that the watch shows it again, or anew, does not cut the wait.
#[test]
fn an_error_does_not_cut_the_wait_it_starts() {
    let mut told = Told::new(&["ReadWriteOnce"]);
    told.sees(on("app", "node-a"));
    for message in ["no", "no", "still no"] {
        told.attacher("node-a", json!({"attached": false, "attachError": {"message": message}}));
    }
    assert_eq!(told.said(), ["AttachVolume.Attach failed for volume \"v-ebs-claim\" : no"]);
    told.fires(Purpose::Retry, "node-a");
    assert_eq!(told.said().len(), 2, "and it is looked at again after it");
    // The error of a detach waits too.
    told.effects.clear();
    told.sees(attachment("node-a", json!({"attached": false, "detachError": {"message": "no"}})));
    assert_eq!((told.op("node-a"), told.said().len()), (Some(Op::Idle), 0));
    // That it is attached after all does not.
    told.sees(attachment("node-a", json!({"attached": true})));
    assert_eq!(told.said(), ["AttachVolume.Attach succeeded for volume \"v-ebs-claim\" "]);
}

#[test]
fn an_attach_that_takes_too_long_is_told_and_the_other_operations_times_are_not() {
    let late = "AttachVolume.Attach failed for volume \"v-ebs-claim\" : timed out waiting for external-attacher of ebs.csi.aws.com CSI \
        driver to attach volume vol-1";
    let mut told = Told::new(&["ReadWriteOnce"]);
    told.sees(on("app", "node-a"));
    told.fires(Purpose::Deadline, "node-a");
    assert_eq!(told.said(), [late]);
    assert_eq!(told.op("node-a"), Some(Op::Idle));
    told.fires(Purpose::Deadline, "node-a");
    assert_eq!(told.said().len(), 1, "nothing is under way any more");
}

/// What a node's list says and what is attached are of one length, and not the same.
#[test]
fn a_list_that_names_another_volume_is_put_right() {
    let mut told = Told::attached(&["ReadWriteOnce"]);
    let right = node("node-a", json!({"volumesAttached": [{"name": "kubernetes.io/csi/ebs.csi.aws.com^vol-1", "devicePath": ""}]}));
    assert!(told.done(&Key::new(Kind::Node, "", "node-a"), right), "the list is written");
    told.effects.clear();
    told.sees(node("node-a", json!({"volumesAttached": [{"name": "kubernetes.io/csi/ebs.csi.aws.com^vol-2", "devicePath": ""}]})));
    let written = format!("{:?}", told.effects);
    assert!(written.contains("^vol-1") && !written.contains("^vol-2"), "{written}");
}
