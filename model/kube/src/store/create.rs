//! Create: names, defaults, checks, the system's metadata; and what every cluster has from the start.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use crate::admission;
use crate::object::{Kind, Object};
use crate::patch::managed;
use crate::write::{ApiError, Cause, Details};

use super::delete::{CLEANUP, Chore};
use super::update::Fields;
use super::{Effect, Outcome, Store};

/// The namespaces that exist from the start and cannot be deleted, but for the last, which can.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Store {
    /// What every cluster has: namespaces, their service accounts, the CSIDriver objects of the drivers. Idempotent.
    pub fn bootstrap(&mut self, at: Timestamp, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        let namespaces = NAMESPACES.iter().map(|name| {
            Object::from(Namespace {
                metadata: ObjectMeta { name: Some((*name).to_owned()), ..ObjectMeta::default() },
                ..Namespace::default()
            })
        });
        for object in namespaces.chain(admission::csi_drivers()) {
            if self.object(&object.key()).is_none() {
                let mut own = Vec::new();
                self.step(at, &crate::write::Write::Create { object }, &mut own)?;
                out.extend(own.into_iter().filter(|effect| matches!(effect, Effect::Changed(_))));
            }
        }
        Ok(())
    }

    pub(super) fn create(&mut self, at: Timestamp, mut object: Object, fields: Fields<'_>, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        let kind = object.kind();
        let namespaced = self.is_namespaced(&kind);
        let suffix = self.ids.suffix();
        let metadata = object.metadata_mut();
        if metadata.resource_version.as_deref().is_some_and(|version| !version.is_empty()) {
            return Err(ApiError::internal("resourceVersion should not be set on objects to be created"));
        }
        if metadata.name.as_deref().unwrap_or("").is_empty() {
            match metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
                // The real server cuts the prefix so that the name stays within 63 characters.
                Some(prefix) => metadata.name = Some(format!("{}{suffix}", prefix.chars().take(58).collect::<String>())),
                None => {
                    let cause = Cause {
                        reason: "FieldValueRequired".into(),
                        message: "Required value: name or generateName is required".into(),
                        field: "metadata.name".into(),
                    };
                    return Err(ApiError::invalid(&kind, "", vec![cause]));
                }
            }
        }
        let name = metadata.name.clone().unwrap_or_default();
        if namespaced {
            let namespace = metadata.namespace.get_or_insert_with(|| "default".to_owned()).clone();
            self.check_namespace(&kind, &name, &namespace)?;
        } else {
            metadata.namespace = None;
        }
        if self.objects.contains_key(&object.key()) {
            return Err(ApiError::already_exists(&kind, &name));
        }
        // A Job selects its pods by its uid, so that it is known from here on.
        let uid = self.ids.uid();
        object.metadata_mut().uid = Some(uid.clone());
        admission::default(&mut object);
        // Before admission: what the plugins add is nobody's, so no applier takes it away again.
        match fields {
            Fields::Keep => object.metadata_mut().managed_fields = None,
            Fields::Track(manager) => {
                object.metadata_mut().managed_fields = None;
                managed::record_create(&mut object, manager, self.has_status(&kind), at)?;
            }
            Fields::Given => {}
        }
        admission::prepare_create(&mut object);
        admission::admit_create(&mut object, self)?;
        let causes = admission::validate_create(&object, namespaced);
        if !causes.is_empty() {
            return Err(ApiError::invalid(&kind, &name, causes));
        }
        let generation = self.counts_generation(&kind).then_some(1);
        let metadata = object.metadata_mut();
        metadata.uid = Some(uid);
        metadata.creation_timestamp = Some(Time(at));
        metadata.deletion_timestamp = None;
        metadata.deletion_grace_period_seconds = None;
        metadata.generation = generation;
        metadata.self_link = None;
        let object = self.put(object, out);
        out.push(Effect::Reply { object: object.clone(), outcome: Outcome::Created });
        self.after_create(at, &object, out);
        Ok(())
    }

    /// What controllers of every cluster do at once after a creation.
    fn after_create(&mut self, at: Timestamp, object: &Object, out: &mut Vec<Effect>) {
        if let Object::Namespace(namespace) = object {
            let mut account = Object::from(ServiceAccount {
                metadata: ObjectMeta {
                    name: Some("default".to_owned()),
                    namespace: namespace.metadata.name.clone(),
                    creation_timestamp: Some(Time(at)),
                    ..ObjectMeta::default()
                },
                ..ServiceAccount::default()
            });
            if self.object(&account.key()).is_none() {
                account.metadata_mut().uid = Some(self.ids.uid());
                self.put(account, out);
            }
        }
        if let Object::CustomResourceDefinition(definition) = object {
            let mut next = definition.clone();
            establish(std::sync::Arc::make_mut(&mut next), at);
            self.put(Object::CustomResourceDefinition(next), out);
        }
        // The garbage collector finds an object whose owners are all gone.
        let owners: Vec<&str> = object.metadata().owner_references.iter().flatten().map(|owner| owner.uid.as_str()).collect();
        if !owners.is_empty() && owners.iter().all(|uid| self.index.key_of(uid).is_none()) {
            self.chores.push_back(Chore::Collect(object.key()));
        }
    }

    fn check_namespace(&self, kind: &Kind, name: &str, namespace: &str) -> Result<(), ApiError> {
        let Some(found) = self.get::<Namespace>("", namespace) else {
            return Err(ApiError::not_found(&Kind::Namespace, namespace));
        };
        if found.metadata.deletion_timestamp.is_some() {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::forbidden(kind, name, &why);
            let cause = Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            };
            let details = error.details.get_or_insert_with(|| Box::new(Details::default()));
            details.causes.push(cause);
            return Err(error);
        }
        Ok(())
    }

    /// Whether objects of a kind live in namespaces.
    pub fn is_namespaced(&self, kind: &Kind) -> bool {
        match kind.info() {
            Some(info) => info.namespaced,
            None => self.definition(kind).is_some_and(|definition| definition.spec.scope == "Namespaced"),
        }
    }

    /// Whether a kind has a `status` subresource.
    pub fn has_status(&self, kind: &Kind) -> bool {
        match kind.info() {
            Some(info) => info.status,
            None => self.definition(kind).is_some_and(|definition| {
                definition
                    .spec
                    .versions
                    .iter()
                    .any(|version| version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()))
            }),
        }
    }

    pub(super) fn counts_generation(&self, kind: &Kind) -> bool {
        kind.info().is_none_or(|info| info.generation)
    }

    /// The CustomResourceDefinition of a custom kind.
    pub fn definition(&self, kind: &Kind) -> Option<&std::sync::Arc<CustomResourceDefinition>> {
        match kind {
            Kind::Custom { group, plural } => self.get("", &format!("{plural}.{group}")),
            _ => None,
        }
    }
}

/// What the naming and establishing controllers write.
fn establish(definition: &mut CustomResourceDefinition, at: Timestamp) {
    let condition = |kind: &str, reason: &str, message: &str| CustomResourceDefinitionCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(at)),
        ..CustomResourceDefinitionCondition::default()
    };
    let stored = definition.spec.versions.iter().filter(|version| version.storage).map(|version| version.name.clone()).collect();
    definition.status = Some(CustomResourceDefinitionStatus {
        accepted_names: Some(definition.spec.names.clone()),
        conditions: Some(vec![
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]),
        stored_versions: Some(stored),
        ..CustomResourceDefinitionStatus::default()
    });
    let finalizers = definition.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
}
