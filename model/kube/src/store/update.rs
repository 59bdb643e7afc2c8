//! Update, patch, bind and scale: one path from the old state to the next.

use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::admission;
use crate::fields;
use crate::object::{Key, Kind, Object};
use crate::patch::{self, managed};
use crate::write::{ApiError, Cause, FieldValidation, Options, Patch, Subresource};

use super::{Effect, Outcome, Store};

/// Where `managedFields` come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields<'a> {
    /// The write is not tracked.
    Keep,
    /// What changed is noted for this manager.
    Track(&'a str),
    /// Server-side apply has written them.
    Given,
}

impl<'a> Fields<'a> {
    pub fn of(options: &'a Options) -> Self {
        options.field_manager.as_deref().map_or(Self::Keep, Self::Track)
    }
}

impl Store {
    pub(super) fn update(
        &mut self,
        at: Timestamp,
        object: Object,
        subresource: Subresource,
        options: &Options,
        out: &mut Vec<Effect>,
    ) -> Result<(), ApiError> {
        let old = self.require(&object.key())?;
        self.replace(at, &old, object, subresource, Fields::of(options), out)
    }

    pub(super) fn patch(
        &mut self,
        at: Timestamp,
        key: &Key,
        patch: &Patch,
        subresource: Subresource,
        options: &Options,
        out: &mut Vec<Effect>,
    ) -> Result<(), ApiError> {
        let Some(old) = self.objects.get(key).cloned() else {
            return match patch {
                Patch::Apply { object, .. } if subresource == Subresource::None => self.apply_create(at, key, object, options, out),
                _ => Err(ApiError::not_found(&key.kind, &key.name)),
            };
        };
        if let Some(new) = status_merged(&old, patch, subresource, options) {
            return self.replace(at, &old, new, subresource, Fields::of(options), out);
        }
        let json = old.to_json().map_err(ApiError::internal)?;
        let mut new = match patch {
            Patch::Apply { object, force } => {
                let manager = options.field_manager.as_deref().unwrap_or("");
                managed::apply(&old, object, manager, *force, subresource, at)?
            }
            other => patch::apply(&key.kind, json, other)?,
        };
        if let Some(fields) = new.as_object_mut() {
            // A patch cannot turn an object into another one; the store's own names hold.
            fields.entry("metadata").or_insert_with(|| json!({}));
        }
        let (object, unknown) = fields::decode(&key.kind, new)?;
        let told = fields::judge(key.kind.kind_name(), "v1", &unknown, options.validation)?;
        out.extend(told.into_iter().map(Effect::Warning));
        if object.key() != *key {
            return Err(renamed(key, &object));
        }
        let fields = if matches!(patch, Patch::Apply { .. }) { Fields::Given } else { Fields::of(options) };
        self.replace(at, &old, object, subresource, fields, out)
    }

    fn apply_create(&mut self, at: Timestamp, key: &Key, given: &Value, options: &Options, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        let (mut object, unknown) = fields::decode(&key.kind, given.clone())?;
        let told = fields::judge(key.kind.kind_name(), "v1", &unknown, options.validation)?;
        out.extend(told.into_iter().map(Effect::Warning));
        let metadata = object.metadata_mut();
        metadata.name.get_or_insert_with(|| key.name.to_string());
        if !key.namespace.is_empty() {
            metadata.namespace.get_or_insert_with(|| key.namespace.to_string());
        }
        if object.key() != *key {
            return Err(renamed(key, &object));
        }
        managed::own_applied(&mut object, given, options.field_manager.as_deref().unwrap_or(""), at);
        self.create(at, object, Fields::Given, out)
    }

    /// Brings an object to its next state: keeps what the writer may not touch, checks, stores when something changed.
    fn replace(
        &mut self,
        at: Timestamp,
        old: &Object,
        mut new: Object,
        subresource: Subresource,
        fields: Fields<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), ApiError> {
        let key = old.key();
        let kind = &key.kind;
        let name = &*key.name;
        let given = new.metadata();
        match given.resource_version.as_deref() {
            None | Some("") => {}
            Some(version) if version == old.metadata().resource_version.as_deref().unwrap_or("") => {}
            Some(_) => return Err(ApiError::stale(kind, name)),
        }
        if let Some(uid) = given.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != old.uid()) {
            return Err(ApiError::conflict(
                kind,
                name,
                &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid()),
            ));
        }
        new = self.separate(old, new, subresource)?;
        let metadata = new.metadata_mut();
        let before = old.metadata();
        metadata.uid.clone_from(&before.uid);
        metadata.creation_timestamp.clone_from(&before.creation_timestamp);
        metadata.deletion_timestamp.clone_from(&before.deletion_timestamp);
        metadata.deletion_grace_period_seconds = before.deletion_grace_period_seconds;
        metadata.generation = before.generation;
        metadata.generate_name.clone_from(&before.generate_name);
        metadata.resource_version.clone_from(&before.resource_version);
        metadata.self_link = None;
        if fields == Fields::Keep {
            metadata.managed_fields.clone_from(&before.managed_fields);
        }
        admission::default(&mut new);
        admission::admit_update(&mut new, old, subresource);
        let mut causes = finalizer_causes(old, &new);
        causes.extend(admission::validate_update(&new, old, subresource));
        if !causes.is_empty() {
            return Err(ApiError::invalid(kind, name, causes));
        }
        if self.counts_generation(kind) && subresource == Subresource::None && Self::spec_changed(old, &new)? {
            let generation = old.metadata().generation.unwrap_or(0) + 1;
            new.metadata_mut().generation = Some(generation);
        }
        if let Fields::Track(manager) = fields {
            managed::record_update(Some(old), &mut new, manager, subresource, at)?;
        }
        let gone = new.metadata().deletion_timestamp.is_some()
            && new.metadata().finalizers.iter().flatten().next().is_none()
            && new.metadata().deletion_grace_period_seconds.unwrap_or(0) == 0
            && !matches!(new, Object::Namespace(_));
        if new == *old {
            out.push(Effect::Reply { object: new, outcome: Outcome::Updated });
            return Ok(());
        }
        if gone {
            // The last finalizer went: the object goes with it, in its last state.
            self.put(new.clone(), out);
            let last = self.remove(&key, out).unwrap_or(new);
            out.push(Effect::Reply { object: last, outcome: Outcome::Removed });
            return Ok(());
        }
        let object = self.put(new, out);
        out.push(Effect::Reply { object, outcome: Outcome::Updated });
        Ok(())
    }

    /// Keeps the part of the old state that this path does not reach.
    fn separate(&self, old: &Object, mut new: Object, subresource: Subresource) -> Result<Object, ApiError> {
        let kind = old.kind();
        if !self.has_status(&kind) {
            return match subresource {
                Subresource::None => Ok(new),
                Subresource::Status => Err(ApiError::no_resource()),
            };
        }
        if matches!(kind, Kind::Custom { .. }) {
            return separate_custom(old, new, subresource);
        }
        match subresource {
            Subresource::None => {
                if new.same_status(old) == Some(false) {
                    new.take_status(old);
                }
                Ok(new)
            }
            Subresource::Status => {
                let mut metadata = old.metadata().clone();
                if kind != Kind::VolumeAttachment {
                    let given = new.metadata();
                    metadata.labels.clone_from(&given.labels);
                    metadata.annotations.clone_from(&given.annotations);
                    metadata.finalizers.clone_from(&given.finalizers);
                    metadata.managed_fields.clone_from(&given.managed_fields);
                }
                if new.same_spec(old) == Some(false) {
                    let given = std::mem::replace(&mut new, old.clone());
                    new.take_status(&given);
                }
                *new.metadata_mut() = metadata;
                Ok(new)
            }
        }
    }

    fn spec_changed(old: &Object, new: &Object) -> Result<bool, ApiError> {
        if let Some(same) = new.same_spec(old) {
            return Ok(!same);
        }
        let without = |object: &Object| -> Result<Value, ApiError> {
            let mut json = object.to_json().map_err(ApiError::internal)?;
            if let Some(fields) = json.as_object_mut() {
                fields.remove("metadata");
                fields.remove("status");
            }
            Ok(json)
        };
        Ok(without(old)? != without(new)?)
    }

    pub(super) fn bind(&mut self, at: Timestamp, key: &Key, uid: Option<&str>, node: &str, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        let Object::Pod(old) = self.require(key)? else {
            return Err(ApiError::no_resource());
        };
        let refuse = |why: String| ApiError::conflict(&Kind::Pod, &key.name, &why);
        if let Some(uid) = uid.filter(|uid| !uid.is_empty() && Some(*uid) != old.metadata.uid.as_deref()) {
            let have = old.metadata.uid.as_deref().unwrap_or("");
            return Err(refuse(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}")));
        }
        if old.metadata.deletion_timestamp.is_some() {
            return Err(refuse(format!("pod {} is being deleted, cannot be assigned to a host", key.name)));
        }
        if let Some(assigned) = old.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty()) {
            return Err(refuse(format!("pod {} is already assigned to node \"{assigned}\"", key.name)));
        }
        let mut pod = old;
        let changed = Arc::make_mut(&mut pod);
        changed.spec.get_or_insert_default().node_name = Some(node.to_owned());
        let generation = changed.metadata.generation;
        let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(at)),
            observed_generation: generation,
            ..PodCondition::default()
        });
        let object = self.put(Object::Pod(pod), out);
        out.push(Effect::Reply { object, outcome: Outcome::Created });
        Ok(())
    }

    pub(super) fn scale(
        &mut self,
        at: Timestamp,
        key: &Key,
        replicas: i32,
        resource_version: Option<&str>,
        options: &Options,
        out: &mut Vec<Effect>,
    ) -> Result<(), ApiError> {
        let old = self.require(key)?;
        let mut new = old.clone();
        match &mut new {
            Object::StatefulSet(object) => Arc::make_mut(object).spec.get_or_insert_default().replicas = Some(replicas),
            Object::Deployment(object) => Arc::make_mut(object).spec.get_or_insert_default().replicas = Some(replicas),
            Object::ReplicaSet(object) => Arc::make_mut(object).spec.get_or_insert_default().replicas = Some(replicas),
            _ => return Err(ApiError::no_resource()),
        }
        new.metadata_mut().resource_version = resource_version.map(str::to_owned);
        self.replace(at, &old, new, Subresource::None, Fields::of(options), out)
    }
}

/// The object after a patch that does nothing but merge into a typed status, as kubelets and controllers send it all the time: the rest of
/// the object need not become JSON and back. None: the patch is another, or does not fit, and goes the long way.
fn status_merged(old: &Object, patch: &Patch, subresource: Subresource, options: &Options) -> Option<Object> {
    let (Patch::Merge(Value::Object(fields)), Subresource::Status) = (patch, subresource) else { return None };
    let status = fields.get("status").filter(|_| fields.len() == 1)?;
    // What else than the status is there is not looked through for fields that the kind does not have.
    if options.validation != FieldValidation::Ignore {
        return None;
    }
    let mut new = old.clone();
    new.merge_status(status, fields::omit_empty).is_ok_and(|merged| merged).then_some(new)
}

/// The same for a kind whose status is a field of JSON as any other.
fn separate_custom(old: &Object, new: Object, subresource: Subresource) -> Result<Object, ApiError> {
    let mut new_json = new.to_json().map_err(ApiError::internal)?;
    let mut old_json = old.to_json().map_err(ApiError::internal)?;
    let json = match subresource {
        Subresource::None => {
            if new_json.get("status") == old_json.get("status") {
                return Ok(new);
            }
            put_field(&mut new_json, "status", old_json.get_mut("status").map(Value::take));
            new_json
        }
        Subresource::Status => {
            put_field(&mut old_json, "status", new_json.get_mut("status").map(Value::take));
            old_json
        }
    };
    Object::from_json(&old.kind(), json).map_err(ApiError::internal)
}

fn put_field(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) if !value.is_null() => {
            fields.insert(name.to_owned(), value);
        }
        _ => {
            fields.remove(name);
        }
    }
}

fn renamed(key: &Key, object: &Object) -> ApiError {
    let found = object.key();
    ApiError::bad_request(if found.name == key.name {
        format!("the namespace of the object ({}) does not match the namespace on the request ({})", found.namespace, key.namespace)
    } else {
        format!("the name of the object ({}) does not match the name on the URL ({})", found.name, key.name)
    })
}

/// While an object is being deleted its finalizers only become fewer.
fn finalizer_causes(old: &Object, new: &Object) -> Vec<Cause> {
    if old.metadata().deletion_timestamp.is_none() {
        return Vec::new();
    }
    let had = old.metadata().finalizers.as_deref().unwrap_or_default();
    let added: Vec<String> = new
        .metadata()
        .finalizers
        .iter()
        .flatten()
        .filter(|finalizer| !had.contains(finalizer))
        .map(|finalizer| format!("\"{finalizer}\""))
        .collect();
    if added.is_empty() {
        return Vec::new();
    }
    vec![Cause {
        reason: "FieldValueForbidden".into(),
        message: format!(
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        ),
        field: "metadata.finalizers".into(),
    }]
}
