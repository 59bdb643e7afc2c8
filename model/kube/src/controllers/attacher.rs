//! external-attacher for one driver (§2.7): carries VolumeAttachments out.
//!
//! ```text
//!  new ─PV finalizer─▶ ─VA finalizer + node id─▶ ControllerPublish ─ok─▶ status.attached
//!                                                   └ error ▶ status.attachError, again after 1 s·2ⁿ ≤ 5 m
//!  deleted ─▶ ControllerUnpublish ─ok─▶ finalizer off ─▶ gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment, VolumeError};
use model_common::csi::{Code, ControllerCall, ControllerReply, Error};

use super::{Driver, annotate, annotation, capability, drop_finalizer, has_finalizer, name};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Queue, Reject};
use crate::object::{Key, Kind, Object};
use crate::write::Write;

const NODE_ID: &str = "csi.alpha.kubernetes.io/node-id";
/// 1 s·2ⁿ ≤ 5 m (§7 row 42).
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

/// The machine.
#[derive(Debug, Clone)]
pub struct Attacher {
    driver: Driver,
    finalizer: String,
    cache: Cache,
    work: Queue,
    /// Publish contexts not saved yet.
    published: BTreeMap<Key, BTreeMap<String, String>>,
    /// Attachments whose volume is off, by uid, and whose finalizer is not off yet.
    unpublished: BTreeMap<Key, String>,
    /// Errors not saved yet.
    errors: BTreeMap<Key, Failure>,
    /// Attachments whose deletion has been seen.
    detaching: BTreeSet<Key>,
}

impl Attacher {
    pub fn new(driver: Driver) -> Self {
        let sanitized: String = driver.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Self {
            driver,
            finalizer: format!("external-attacher/{sanitized}"),
            cache: Cache::default(),
            work: Queue::default(),
            published: BTreeMap::new(),
            unpublished: BTreeMap::new(),
            errors: BTreeMap::new(),
            detaching: BTreeSet::new(),
        }
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                self.touched(change.object());
            }
            Input::Written { call, result } => {
                let done = self.work.answer_part(&mut self.cache, *call, result, BACKOFF, out)?;
                if self.errors.remove(&done.item).is_some() && !self.work.is_backing_off(&done.item) {
                    // The error is shown; now the wait begins.
                    self.work.fail(&done.item, BACKOFF, out);
                }
            }
            Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
            Input::Csi { call, result } => {
                let done = self.work.finish(*call)?;
                self.answered(&done.item, result);
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
        }
        while let Some(item) = self.work.take() {
            match item.kind {
                Kind::VolumeAttachment => self.sync_attachment(&item, out),
                Kind::PersistentVolume => self.sync_volume(&item, out),
                _ => {}
            }
        }
        Ok(())
    }

    fn touched(&mut self, object: &Object) {
        match object {
            Object::VolumeAttachment(attachment) => {
                let key = object.key();
                if attachment.metadata.deletion_timestamp.is_some() && self.detaching.insert(key.clone()) {
                    // A detach does not wait for the backoff of an attach.
                    self.work.succeed(&key);
                    self.work.mark(key);
                } else {
                    self.work.mark_gently(key);
                }
                if let Some(volume) = &attachment.spec.source.persistent_volume_name {
                    self.work.mark_gently(Key::new(Kind::PersistentVolume, "", volume));
                }
            }
            Object::PersistentVolume(volume) => {
                self.work.mark_gently(object.key());
                self.mark_attachments(name(&volume.metadata));
            }
            Object::CSINode(node) => {
                let on_node: Vec<Key> = self.cache.find(Index::AttachmentsByNode, name(&node.metadata)).cloned().collect();
                on_node.into_iter().for_each(|key| self.work.mark_gently(key));
            }
            _ => {}
        }
    }

    fn mark_attachments(&mut self, volume: &str) {
        let keys: Vec<Key> = self.cache.find(Index::AttachmentsByVolume, volume).cloned().collect();
        keys.into_iter().for_each(|key| self.work.mark_gently(key));
    }

    fn answered(&mut self, item: &Key, result: &Result<ControllerReply, Error>) {
        match result {
            Ok(ControllerReply::ControllerPublishVolume { publish_context }) => {
                self.published.insert(item.clone(), publish_context.clone());
            }
            Ok(ControllerReply::ControllerUnpublishVolume) => {
                if let Some(attachment) = self.cache.at::<VolumeAttachment>(item) {
                    self.unpublished.insert(item.clone(), attachment.metadata.uid.clone().unwrap_or_default());
                }
            }
            Ok(other) => {
                let error = Error::new(Code::Internal, format!("unexpected answer {other:?}"));
                self.errors.insert(item.clone(), Failure::Driver(error));
            }
            Err(error) => {
                self.errors.insert(item.clone(), Failure::Driver(error.clone()));
            }
        }
    }

    fn sync_attachment(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(attachment) = self.cache.at::<VolumeAttachment>(item).cloned() else {
            self.published.remove(item);
            self.unpublished.remove(item);
            self.errors.remove(item);
            self.detaching.remove(item);
            return self.work.forget(item, out);
        };
        if attachment.spec.attacher != self.driver.name {
            return;
        }
        if attachment.metadata.deletion_timestamp.is_some() {
            self.published.remove(item);
            return self.detach(item, &attachment, out);
        }
        if attachment.status.as_ref().is_some_and(|status| status.attached) {
            self.published.remove(item);
            return self.work.succeed(item);
        }
        if let Some(context) = self.published.get(item) {
            let mut updated = (*attachment).clone();
            let status = updated.status.get_or_insert_default();
            status.attached = true;
            status.attachment_metadata = (!context.is_empty()).then(|| context.clone());
            status.attach_error = None;
            self.work.write(item, Write::update_status(updated), out);
            return;
        }
        if !self.errors.contains_key(item) {
            match self.attach(item, &attachment, out) {
                Ok(()) => return,
                Err(why) => {
                    self.errors.insert(item.clone(), why);
                }
            }
        }
        let mut updated = (*attachment).clone();
        updated.status.get_or_insert_default().attach_error = self.errors.get(item).map(shown);
        self.work.write(item, Write::update_status(updated), out);
    }

    fn attach(&mut self, item: &Key, attachment: &Arc<VolumeAttachment>, out: &mut Vec<Effect>) -> Result<(), Failure> {
        let volume = self.volume(attachment)?;
        let volume_name = name(&volume.metadata);
        if volume.metadata.deletion_timestamp.is_some() {
            return Err(plain(format!(
                "could not add PersistentVolume finalizer: PersistentVolume \"{volume_name}\" is marked for deletion"
            )));
        }
        if !has_finalizer(&volume.metadata, &self.finalizer) {
            let mut updated = (*volume).clone();
            updated.metadata.finalizers.get_or_insert_default().push(self.finalizer.clone());
            self.work.write(item, Write::update(updated), out);
            return Ok(());
        }
        let spec = volume.spec.clone().unwrap_or_default();
        let csi = spec.csi.clone().ok_or_else(|| plain("volume has no CSI volume source".to_owned()))?;
        let node = &attachment.spec.node_name;
        let node_id = self.node_id(node).ok_or_else(|| plain(format!("CSINode {node} does not contain driver {}", self.driver.name)))?;
        let capability = capability::of_volume(&spec, self.driver.single_node_multi_writer).map_err(plain)?;
        let known_id = annotation(&attachment.metadata, NODE_ID) == Some(node_id.as_str());
        if !has_finalizer(&attachment.metadata, &self.finalizer) || !known_id {
            let mut updated = (**attachment).clone();
            if !has_finalizer(&updated.metadata, &self.finalizer) {
                updated.metadata.finalizers.get_or_insert_default().push(self.finalizer.clone());
            }
            annotate(&mut updated.metadata.annotations, NODE_ID, &node_id);
            self.work.write(item, Write::update(updated), out);
            return Ok(());
        }
        let request = ControllerCall::ControllerPublishVolume {
            volume_id: csi.volume_handle,
            node_id,
            capability,
            readonly: csi.read_only.unwrap_or(false),
            volume_context: csi.volume_attributes.unwrap_or_default(),
        };
        self.work.call(item, &self.driver.name, request, out);
        Ok(())
    }

    fn detach(&mut self, item: &Key, attachment: &Arc<VolumeAttachment>, out: &mut Vec<Effect>) {
        if !has_finalizer(&attachment.metadata, &self.finalizer) {
            return;
        }
        let uid = attachment.metadata.uid.as_deref().unwrap_or("");
        if self.unpublished.get(item).is_some_and(|known| known == uid) {
            let mut updated = (**attachment).clone();
            drop_finalizer(&mut updated.metadata, &self.finalizer);
            self.work.write(item, Write::update(updated), out);
            return;
        }
        if !self.errors.contains_key(item) {
            let node = &attachment.spec.node_name;
            let node_id = self.node_id(node).or_else(|| annotation(&attachment.metadata, NODE_ID).map(str::to_owned));
            let node_id =
                node_id.ok_or_else(|| plain(format!("could not get NodeID: CSINode {node} does not contain driver {}", self.driver.name)));
            let call = self.volume(attachment).and_then(|volume| {
                let csi = volume.spec.as_ref().and_then(|spec| spec.csi.clone());
                let csi = csi.ok_or_else(|| plain("volume has no CSI volume source".to_owned()))?;
                Ok(ControllerCall::ControllerUnpublishVolume { volume_id: csi.volume_handle, node_id: node_id? })
            });
            match call {
                Ok(request) => return self.work.call(item, &self.driver.name, request, out),
                Err(why) => {
                    self.errors.insert(item.clone(), why);
                }
            }
        }
        let mut updated = (**attachment).clone();
        updated.status.get_or_insert_default().detach_error = self.errors.get(item).map(shown);
        self.work.write(item, Write::update_status(updated), out);
    }

    fn volume(&self, attachment: &VolumeAttachment) -> Result<Arc<PersistentVolume>, Failure> {
        let volume = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or("");
        let found = self.cache.get::<PersistentVolume>("", volume);
        found.cloned().ok_or_else(|| plain(format!("persistentvolume \"{volume}\" not found")))
    }

    fn node_id(&self, node: &str) -> Option<String> {
        let node = self.cache.get::<CSINode>("", node)?;
        node.spec.drivers.iter().find(|driver| driver.name == self.driver.name).map(|driver| driver.node_id.clone())
    }

    /// A volume that is being deleted loses the finalizer once no attachment refers to it.
    fn sync_volume(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(volume) = self.cache.at::<PersistentVolume>(item).cloned() else {
            return self.work.forget(item, out);
        };
        if volume.metadata.deletion_timestamp.is_none()
            || !has_finalizer(&volume.metadata, &self.finalizer)
            || self.cache.find(Index::AttachmentsByVolume, &item.name).next().is_some()
        {
            return;
        }
        let mut updated = (*volume).clone();
        drop_finalizer(&mut updated.metadata, &self.finalizer);
        self.work.write(item, Write::update(updated), out);
    }
}

/// Why an attachment failed.
#[derive(Debug, Clone)]
enum Failure {
    /// The driver said so.
    Driver(Error),
    /// The driver was not asked.
    Before(String),
}

fn plain(message: String) -> Failure {
    Failure::Before(message)
}

/// The failure as the status shows it.
fn shown(failure: &Failure) -> VolumeError {
    match failure {
        Failure::Before(message) => VolumeError { message: Some(message.clone()), error_code: None, time: None },
        Failure::Driver(error) => VolumeError { message: Some(error.to_string()), error_code: Some(error.code as i32), time: None },
    }
}

#[cfg(test)]
mod tests;
