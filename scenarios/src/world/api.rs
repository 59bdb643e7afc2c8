//! The Kubernetes API of the virtual world: the model's store, and what a user does to it.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use model_kube::fields;
use model_kube::object::{Key, Kind, Object};
use model_kube::resource::BUILT_IN;
use model_kube::snapshots;
use model_kube::store::{Effect, KEPT, Outcome};
use model_kube::write::{ApiError, FieldValidation, Options, Write};
use serde_json::{Value, json};

use super::World;
use crate::engine::{Applied, EngineError};
use crate::invariants::{Facts, Seen};
use crate::language::Target;

/// The field manager of the user's writes.
const USER: &str = "ebbtide-run";

fn refused(error: &ApiError) -> EngineError {
    EngineError::Kubernetes { reason: format!("{:?}", error.reason), message: error.message.clone() }
}

fn kind_of(name: &str) -> Result<Kind, EngineError> {
    let custom = [
        ("VolumeSnapshot", snapshots::snapshots as fn() -> Kind),
        ("VolumeSnapshotContent", snapshots::contents),
        ("VolumeSnapshotClass", snapshots::classes),
    ];
    let custom = custom.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind());
    let known = BUILT_IN.into_iter().find(|kind| kind.kind_name() == name).or(custom);
    known.ok_or_else(|| EngineError::Unsupported(format!("the kind {name} is not known in virtual time; run with --live")))
}

impl World {
    /// A write by one of the machines.
    pub(super) fn commit(&mut self, write: &Write) -> Result<Object, ApiError> {
        self.commit_as(write, &Options::default()).map(|(object, _)| object)
    }

    /// A write; its changes go to the watchers.
    fn commit_as(&mut self, write: &Write, options: &Options) -> Result<(Object, Outcome), ApiError> {
        let at = self.timestamp();
        let mut effects = Vec::new();
        let verdict = self.store.step_with(at, write, options, &mut effects);
        let key = write.key();
        self.input("write").add(&key).verdict(&verdict);
        verdict?;
        let mut reply = None;
        for effect in effects {
            match effect {
                Effect::Reply { object, outcome } => reply = Some((object, outcome)),
                Effect::Changed(entry) => {
                    if self.changed.len() == KEPT {
                        self.changed.pop_front();
                    }
                    self.changed.push_back((self.clock.now(), entry.version));
                    self.trail.value(entry.change.object());
                    self.watch.see(self.clock.now(), &Seen::Object(&entry.change));
                    self.trace_change(&entry.change);
                    self.spread(&entry.change);
                }
                Effect::Warning(_) => {}
            }
        }
        reply.ok_or_else(|| ApiError::internal("the store did not answer"))
    }

    fn key_of(&self, target: &Target) -> Result<Key, EngineError> {
        let kind = kind_of(&target.kind)?;
        let namespace = if self.store.is_namespaced(&kind) { target.namespace.as_deref().unwrap_or("default") } else { "" };
        Ok(Key::new(kind, namespace, &target.name))
    }

    pub(super) fn read(&self, target: &Target) -> Result<Option<Value>, EngineError> {
        let key = self.key_of(target)?;
        self.store.object(&key).map(to_json).transpose()
    }

    pub(super) fn read_all(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError> {
        let kind = kind_of(kind)?;
        let namespaced = self.store.is_namespaced(&kind);
        let wanted = namespace.unwrap_or("default");
        self.store.all(&kind).filter(|(key, _)| !namespaced || &*key.namespace == wanted).map(|(_, object)| to_json(object)).collect()
    }

    pub(super) fn apply_object(&mut self, object: &Value) -> Result<Applied, EngineError> {
        let target = crate::runner::target_of(object);
        let key = self.key_of(&target)?;
        let options = Options { field_manager: Some(USER.into()), validation: FieldValidation::Strict, ..Options::default() };
        if let Some(old) = self.store.object(&key).map(Object::resource_version) {
            self.watch.see(self.clock.now(), &Seen::ByUser { key: &key });
            let (new, _) = self.commit_as(&Write::merge(key, object.clone()), &options).map_err(|error| refused(&error))?;
            return Ok(if new.resource_version() == old { Applied::Unchanged } else { Applied::Configured });
        }
        let (new, unknown) = fields::decode(&key.kind, object.clone()).map_err(|error| refused(&error))?;
        fields::judge(key.kind.kind_name(), "v1", &unknown, options.validation).map_err(|error| refused(&error))?;
        self.watch.see(self.clock.now(), &Seen::ByUser { key: &key });
        self.commit_as(&Write::Create { object: new }, &options).map_err(|error| refused(&error))?;
        Ok(Applied::Created)
    }

    pub(super) fn delete_object(&mut self, target: &Target, grace: Option<u32>) -> Result<(), EngineError> {
        let key = self.key_of(target)?;
        self.watch.see(self.clock.now(), &Seen::ByUser { key: &key });
        let mut write = Write::delete(key);
        if let Write::Delete { grace_seconds, .. } = &mut write {
            *grace_seconds = grace.map(i64::from);
        }
        self.commit(&write).map_err(|error| refused(&error))?;
        Ok(())
    }

    /// Everything that the invariants look at; nothing is hidden here.
    pub(super) fn tell_facts(&self) -> Facts {
        let seed = self.aws.ec2.seed();
        let mut facts = Facts::default();
        for volume in self.aws.ec2.volumes() {
            let id = volume.key.id(seed);
            facts.attachments.extend(volume.attachments.keys().map(|instance| format!("{id} on {instance}")));
            facts.volumes.insert(id);
        }
        let all = usize::MAX;
        let file_systems = self.aws.efs.describe_file_systems(None, None, 0, all).map(|page| page.items).unwrap_or_default();
        facts.file_systems = file_systems.into_iter().map(|(row, _)| row.id.clone()).collect();
        facts.mount_targets = self.aws.efs.mount_targets().map(|row| row.id.clone()).collect();
        let points = self.aws.efs.describe_access_points(None, None, 0, all).map(|page| page.items).unwrap_or_default();
        facts.access_points = points.into_iter().map(|row| row.id.clone()).collect();
        facts.persistent_volumes = self.store.list::<PersistentVolume>().filter_map(|pv| pv.metadata.name.clone()).collect();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let claims = self.store.list::<PersistentVolumeClaim>().map(|claim| &claim.metadata);
        facts.claims = claims.map(|metadata| format!("{}/{}", text(&metadata.namespace), text(&metadata.name))).collect();
        facts.volume_attachments =
            self.store.list::<VolumeAttachment>().filter_map(|attachment| attachment.metadata.name.clone()).collect();
        for node in &self.nodes {
            let instance = &node.info.instance_id;
            facts.devices.extend(node.devices.keys().map(|volume| format!("{volume} on {instance}")));
            facts.mounts.extend(node.ebs_mounts().map(|(volume, path)| format!("{volume} at {path} on {instance}")));
        }
        facts
    }
}

fn to_json(object: &Object) -> Result<Value, EngineError> {
    let mut json = object.to_json().map_err(|error| EngineError::Transport { operation: "read".into(), message: error.to_string() })?;
    // The types leave these out; the API shows them.
    if let Some(fields) = json.as_object_mut()
        && let Some(info) = object.kind().info()
    {
        let version = if info.group.is_empty() { info.version.to_owned() } else { format!("{}/{}", info.group, info.version) };
        fields.entry("apiVersion").or_insert_with(|| json!(version));
        fields.entry("kind").or_insert_with(|| json!(info.kind));
    }
    Ok(json)
}
