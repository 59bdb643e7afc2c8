//! The attacher alone.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use model_common::csi::ControllerCall;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Attacher;
use crate::controllers::{Controller, Driver, has_finalizer};
use crate::machine::Effect;
use crate::object::Kind;
use crate::testing::alone::{self, Alone, Scene, delete, gone, put};
use crate::testing::volume;
use crate::write::{Subresource, Write};

const FINALIZER: &str = "external-attacher/ebs-csi-aws-com";

fn csi_node(name: &str) -> Value {
    json!({"kind": "CSINode", "metadata": {"name": name},
        "spec": {"drivers": [{"name": "ebs.csi.aws.com", "nodeID": format!("i-{name}"), "topologyKeys": []}]}})
}

fn handle(alone: &Alone, attachment: &VolumeAttachment) -> Option<(String, bool)> {
    let volume = alone.told.get::<PersistentVolume>("", attachment.spec.source.persistent_volume_name.as_deref()?)?;
    Some((volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone(), has_finalizer(&volume.metadata, FINALIZER)))
}

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Csi { request: ControllerCall::ControllerPublishVolume { volume_id, node_id, .. }, .. } => {
            let held = alone.told.list::<VolumeAttachment>().any(|attachment| {
                format!("i-{}", attachment.spec.node_name) == *node_id
                    && attachment.metadata.deletion_timestamp.is_none()
                    && has_finalizer(&attachment.metadata, FINALIZER)
                    && handle(alone, attachment) == Some((volume_id.clone(), true))
            });
            assert!(held, "published without finalizers: {volume_id} on {node_id}");
        }
        Effect::Csi { request: ControllerCall::ControllerUnpublishVolume { volume_id, node_id }, .. } => {
            let going = alone.told.list::<VolumeAttachment>().any(|attachment| {
                format!("i-{}", attachment.spec.node_name) == *node_id
                    && attachment.metadata.deletion_timestamp.is_some()
                    && handle(alone, attachment).is_some_and(|(handle, _)| handle == *volume_id)
            });
            assert!(going, "unpublished and nobody asked: {volume_id} on {node_id}");
        }
        Effect::Write { write: Write::Update { object, subresource }, .. } => {
            if let Some(attachment) = object.get::<VolumeAttachment>() {
                let node = format!("i-{}", attachment.spec.node_name);
                let attached = attachment
                    .spec
                    .source
                    .persistent_volume_name
                    .as_deref()
                    .is_some_and(|volume| alone.attached.contains(&(format!("vol-{volume}"), node.clone())));
                let held = has_finalizer(&attachment.metadata, FINALIZER);
                if *subresource == Subresource::None && !held {
                    assert!(!attached, "the finalizer goes and the volume is still there: {attachment:?}");
                }
                let says = attachment.status.as_ref().is_some_and(|status| status.attached);
                let said = alone::told::<VolumeAttachment>(alone, &object.key()).and_then(|told| told.status.clone());
                if *subresource == Subresource::Status && says && !said.is_some_and(|said| said.attached) {
                    assert!(attached, "said to be attached and is not: {attachment:?}");
                    // Whoever took the finalizer off while the driver was at it has seen to that himself: upstream says `attached` too.
                    let told = alone::told::<VolumeAttachment>(alone, &object.key()).expect("an attachment");
                    let is_taken = !has_finalizer(&told.metadata, FINALIZER);
                    assert!(held || is_taken, "attached, and nothing would take it off: {attachment:?}");
                }
            } else if !has_finalizer(object.metadata(), FINALIZER) {
                let users = alone.told.list::<VolumeAttachment>();
                let name = object.metadata().name.as_deref();
                let mut users = users.filter(|attachment| attachment.spec.source.persistent_volume_name.as_deref() == name);
                assert!(users.next().is_none(), "a volume with attachments loses its finalizer: {object:?}");
            }
        }
        Effect::Write { write, .. } => panic!("{write:?}"),
        _ => {}
    }
}

fn scene() -> Scene {
    let mut deeds = vec![put(csi_node("node-a")), put(csi_node("node-b")), delete(Kind::CSINode, "", "node-b")];
    for v in ["v", "w"] {
        deeds.push(put(volume(v, &format!("vol-{v}"), "1Gi")));
        deeds.push(delete(Kind::PersistentVolume, "", v));
        for node in ["node-a", "node-b"] {
            let name = format!("{v}-{node}");
            let attachment = || {
                put(json!({"kind": "VolumeAttachment", "metadata": {"name": name}, "spec": {
                    "attacher": "ebs.csi.aws.com", "nodeName": node, "source": {"persistentVolumeName": v}}}))
            };
            deeds.push(attachment());
            deeds.push(attachment());
            deeds.push(delete(Kind::VolumeAttachment, "", &name));
        }
    }
    // Someone has no patience and takes the finalizers off.
    deeds.push(gone(Kind::VolumeAttachment, "", "v-node-a"));
    Scene {
        make: || Controller::Attacher(Attacher::new(Driver::ebs())),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds,
        rule,
        rest: |alone| {
            for attachment in alone.store.list::<VolumeAttachment>() {
                let volume = attachment.spec.source.persistent_volume_name.as_deref().unwrap();
                let volume = alone.store.get::<PersistentVolume>("", volume);
                let ready = volume.is_some_and(|volume| volume.metadata.deletion_timestamp.is_none());
                let node = alone.store.object(&crate::object::Key::new(Kind::CSINode, "", &attachment.spec.node_name));
                let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
                assert!(
                    attached || attachment.metadata.deletion_timestamp.is_some() || !ready || node.is_none(),
                    "not attached in the end: {attachment:?}"
                );
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// Finalizers are on before a volume is published, and the attachment's goes only after it is off.
    #[test]
    fn no_attachment_is_forgotten_whatever_happens(moves in alone::moves()) {
        scene().run(&moves);
    }
}
