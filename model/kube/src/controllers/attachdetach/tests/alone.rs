//! The attach/detach controller alone.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{AttachDetach, Op, attachment_name};
use crate::controllers::{Controller, node_of};
use crate::machine::{Effect, Purpose, Timer};
use crate::object::{Key, Kind};
use crate::testing::alone::{self, Alone, Move, Scene, bind, delete, gone, node, put};
use crate::testing::{claim, pod, volume};
use crate::write::Write;

const UNIQUE: &str = "kubernetes.io/csi/ebs.csi.aws.com^vol-1";
const NODES: [&str; 2] = ["node-a", "node-b"];

fn key(node: &str) -> Key {
    Key::new(Kind::VolumeAttachment, "", &attachment_name("vol-1", "ebs.csi.aws.com", node))
}

fn machine(alone: &Alone) -> &AttachDetach {
    let Controller::AttachDetach(machine) = &alone.machine else { panic!("another machine") };
    machine
}

fn reports(node: &Node) -> bool {
    node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten()).any(|volume| volume.name == UNIQUE)
}

fn uses(node: &Node) -> bool {
    node.status.iter().flat_map(|status| status.volumes_in_use.iter().flatten()).any(|volume| volume == UNIQUE)
}

fn rule(alone: &Alone, effect: &Effect) {
    let machine = machine(alone);
    match effect {
        Effect::Write { write: Write::Create { object }, .. } => {
            let attachment = object.get::<VolumeAttachment>().unwrap();
            let node = &attachment.spec.node_name;
            assert_eq!(object.key(), key(node));
            assert!(alone.told.list::<Pod>().any(|pod| node_of(pod) == node), "nobody on {node} wants it");
            let elsewhere = machine.have.iter().find(|(pair, have)| pair.node != *node && (have.confirmed || have.op != Op::Idle));
            assert!(elsewhere.is_none(), "a second attach beside {elsewhere:?}");
        }
        Effect::Write { write: Write::Delete { key: gone, .. }, .. } => {
            let node = NODES.into_iter().find(|node| key(node) == *gone).expect("one of ours");
            let seen = alone.read.get(&Key::new(Kind::Node, "", node)).expect("a look at the node before the detach");
            let Some(seen) = seen.as_ref().and_then(|seen| seen.get::<Node>()) else { return };
            assert!(!reports(seen), "the node still says it is attached");
            let waited = alone.fired.contains(&Timer { purpose: Purpose::ForceDetach, item: gone.clone() });
            assert!(!uses(seen) || waited, "in use on {node}");
        }
        Effect::Write { write: Write::Patch { key, patch, .. }, .. } => {
            assert_eq!(key.kind, Kind::Node);
            if format!("{patch:?}").contains(UNIQUE) {
                let have = machine.have.iter().find(|(pair, _)| *pair.node == *key.name).map(|(_, have)| have);
                assert!(have.is_some_and(|have| have.confirmed), "reported and not attached: {have:?}");
            }
        }
        Effect::Write { write, .. } => panic!("{write:?}"),
        _ => {}
    }
}

fn on(name: &str, node: &str) -> Value {
    let mut pod = pod(name, "c");
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn status(node: &'static str, status: Value) -> alone::Deed {
    Box::new(move |alone| {
        if alone.store.object(&key(node)).is_some() {
            alone.put(&json!({"kind": "VolumeAttachment", "metadata": {"name": key(node).name},
                "spec": {"attacher": "ebs.csi.aws.com", "nodeName": node, "source": {"persistentVolumeName": "v"}}, "status": status}));
        }
    })
}

fn in_use(node: &'static str, volumes: Value) -> alone::Deed {
    put(json!({"kind": "Node", "metadata": {"name": node}, "status": {"volumesInUse": volumes}}))
}

fn scene() -> Scene {
    let mut deeds = vec![
        put(volume("v", "vol-1", "1Gi")),
        put(claim("c", "", "ReadWriteOnce", "1Gi")),
        bind("c", "v"),
        bind("c", "v"),
        put(node("node-a", "False")),
    ];
    for (name, node_name) in [("app", "node-a"), ("other", "node-b")] {
        deeds.push(put(node(node_name, "True")));
        deeds.push(put(on(name, node_name)));
        deeds.push(put(on(name, node_name)));
        deeds.push(gone(Kind::Pod, "default", name));
        // The attacher and the driver.
        deeds.push(status(node_name, json!({"attached": true, "attachError": null})));
        deeds.push(status(node_name, json!({"attached": true, "attachError": null})));
        deeds.push(status(node_name, json!({"attachError": {"message": "no"}})));
        deeds.push(put(json!({"kind": "Node", "metadata": {"name": node_name}})));
        deeds.push(in_use(node_name, json!([UNIQUE])));
        deeds.push(in_use(node_name, json!([])));
        deeds.push(delete(Kind::VolumeAttachment, "", &key(node_name).name));
    }
    deeds.push(gone(Kind::Node, "", "node-b"));
    Scene {
        make: || Controller::AttachDetach(AttachDetach::default()),
        prepared: vec![
            put(volume("v", "vol-1", "1Gi")),
            put(claim("c", "", "ReadWriteOnce", "1Gi")),
            bind("c", "v"),
            put(node("node-a", "True")),
            put(node("node-b", "True")),
        ],
        others: Vec::new(),
        deeds,
        rule,
        rest: |alone| {
            for node in NODES {
                let Some(attachment) = alone.store.object(&key(node)) else { continue };
                let pod = alone.store.list::<Pod>().any(|pod| node_of(pod) == node);
                // A new attachment counts as in use until the node says otherwise.
                let held = machine(alone).in_use.get(node).is_some_and(|volumes| volumes.contains(UNIQUE));
                let going = attachment.metadata().deletion_timestamp.is_some();
                let known = machine(alone).have.keys().any(|pair| pair.node == node);
                assert!(pod || held || going || !known, "nobody wants it, and it stays: {attachment:?}");
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A volume for one node is not attached to a second while it is attached to, or moves on, the first; it is detached only after a
    /// look at the node that shows it neither attached nor in use, or after the wait.
    #[test]
    fn one_node_at_a_time_whatever_happens(moves in alone::moves()) {
        scene().run(&moves);
    }
}

/// A node that was made again has lost what says that its volumes are attached from here; what was attached comes off all the same.
#[test]
fn a_volume_of_a_node_that_is_no_longer_managed_comes_off() {
    let (pod, gone_pod, attached, make_node, gone_node) = (17, 19, 20, 25, 27);
    let (told, answered) = (|| Move::Tell(0), || Move::Answer(0, alone::Outcome::Fine));
    // What it writes of the old node reaches the new one.
    let mut moves = vec![Move::Deed(pod), told(), answered(), Move::Deed(attached), told(), told()];
    moves.extend([gone_node, make_node, gone_pod].map(Move::Deed));
    scene().run(&moves);
}
