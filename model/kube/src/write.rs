//! What a client asks of the API ([`Write`]) and how the API refuses ([`ApiError`]), as data.
//!
//! The shell decodes HTTP into a [`Write`]; controllers make them directly. Source: kube-api.md §1, §4.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::object::{Key, Kind, Object};

/// A change of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Write {
    /// `metadata.generateName` is honoured where the name is empty.
    Create {
        object: Object,
    },
    /// Replaces the object. A `resourceVersion` in it must be the current one; none means "whatever is there".
    Update {
        object: Object,
        subresource: Subresource,
    },
    Patch {
        key: Key,
        patch: Patch,
        subresource: Subresource,
    },
    Delete {
        key: Key,
        /// Preconditions.
        uid: Option<String>,
        resource_version: Option<String>,
        /// None: the object's own default (30 s for a scheduled pod, else 0).
        grace_seconds: Option<i64>,
        propagation: Propagation,
    },
    /// `pods/binding`: the scheduler's decision.
    Bind {
        pod: Key,
        uid: Option<String>,
        node: String,
    },
    /// The `scale` subresource.
    Scale {
        key: Key,
        replicas: i32,
        resource_version: Option<String>,
    },
}

impl Write {
    /// A delete without preconditions, as `kubectl delete` sends it.
    pub fn delete(key: Key) -> Self {
        Self::Delete { key, uid: None, resource_version: None, grace_seconds: None, propagation: Propagation::Background }
    }

    /// A status update.
    pub fn update_status(object: impl Into<Object>) -> Self {
        Self::Update { object: object.into(), subresource: Subresource::Status }
    }

    pub fn update(object: impl Into<Object>) -> Self {
        Self::Update { object: object.into(), subresource: Subresource::None }
    }

    pub fn create(object: impl Into<Object>) -> Self {
        Self::Create { object: object.into() }
    }

    /// A JSON merge patch (RFC 7396).
    pub fn merge(key: Key, patch: Value) -> Self {
        Self::Patch { key, patch: Patch::Merge(patch), subresource: Subresource::None }
    }

    /// The object that is written; its name is empty where it comes from `generateName`.
    pub fn key(&self) -> Key {
        match self {
            Self::Create { object } | Self::Update { object, .. } => object.key(),
            Self::Patch { key, .. } | Self::Delete { key, .. } | Self::Scale { key, .. } => key.clone(),
            Self::Bind { pod, .. } => pod.clone(),
        }
    }
}

/// The part of the object that a write reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Subresource {
    /// All but the status, where the kind has a status subresource.
    #[default]
    None,
    Status,
}

/// The four patch types.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Patch {
    /// RFC 6902: an array of operations.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' own, with merge keys and directives (kube-api.md §2).
    Strategic(Value),
    /// Server-side apply; the field manager is in the [`Options`].
    Apply { object: Value, force: bool },
}

/// What becomes of the objects that this one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

/// How a write is done; the default is what a controller inside the process wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Options {
    /// All checks and defaults, nothing stored.
    pub dry_run: bool,
    /// Who owns the written fields in `managedFields`; none: the write is not tracked.
    pub field_manager: Option<String>,
    pub validation: FieldValidation,
}

/// What happens to fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FieldValidation {
    #[default]
    Ignore,
    Warn,
    Strict,
}

/// `Status.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    NotFound,
    AlreadyExists,
    Conflict,
    BadRequest,
    Invalid,
    UnsupportedMediaType,
    NotAcceptable,
    Unauthorized,
    Forbidden,
    Expired,
    MethodNotAllowed,
    InternalError,
    Timeout,
    ServiceUnavailable,
    TooManyRequests,
    RequestEntityTooLarge,
    /// No reason: how an error that is no `Status` of its own appears.
    Unknown,
}

/// One entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueForbidden`, `FieldValueNotSupported`, …
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// `Status.details`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Details {
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: i32,
}

/// A refusal, as the API words it. `Display` is the message that kubectl prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
}

impl ApiError {
    fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group().to_owned(),
            kind: kind.plural().to_owned(),
            ..Details::default()
        }));
        self
    }

    /// `pods "x" not found`
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{} \"{name}\" not found", kind.qualified())).about(kind, name)
    }

    /// `configmaps "c1" already exists`
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{} \"{name}\" already exists", kind.qualified())).about(kind, name)
    }

    /// A write on a version that is no longer the current one.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(kind, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    /// `Operation cannot be fulfilled on configmaps "c1": <why>`
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Self::new(409, Reason::Conflict, message).about(kind, name)
    }

    /// A conflict with an own text: server-side apply.
    pub fn conflict_text(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        let mut error = Self::new(409, Reason::Conflict, message);
        error.details = Some(Box::new(Details { causes, ..Details::default() }));
        error
    }

    /// 422: `PersistentVolumeClaim "bad2" is invalid: …`
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let kind_name = kind.kind_name();
        let mut texts: Vec<String> = Vec::new();
        for cause in &causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut error = Self::new(422, Reason::Invalid, format!("{kind_name} \"{name}\" is invalid: {list}"));
        error.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group().to_owned(),
            kind: kind_name.to_owned(),
            causes,
            ..Details::default()
        }));
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// `pods "x" is forbidden: <why>`
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", kind.qualified())
        } else {
            format!("{} \"{name}\" is forbidden: {why}", kind.qualified())
        };
        Self::new(403, Reason::Forbidden, message).about(kind, name)
    }

    /// 403 with an own text.
    pub fn forbidden_text(message: impl Into<String>) -> Self {
        Self::new(403, Reason::Forbidden, message)
    }

    /// A watch or a continue token from a version that is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
    }

    /// 404 for a path that is no resource.
    pub fn no_resource() -> Self {
        let mut error = Self::new(404, Reason::NotFound, "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit}"))
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    /// 500 without a reason: a failure behind the API server.
    pub fn backend(message: impl Into<String>) -> Self {
        Self::new(500, Reason::Unknown, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// The `Status` object on the wire.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if self.reason != Reason::Unknown {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            let mut out = serde_json::Map::new();
            for (name, text) in [("name", &details.name), ("group", &details.group), ("kind", &details.kind), ("uid", &details.uid)] {
                if !text.is_empty() {
                    out.insert(name.to_owned(), json!(text));
                }
            }
            if !details.causes.is_empty() {
                out.insert("causes".to_owned(), json!(details.causes));
            }
            if details.retry_after_seconds > 0 {
                out.insert("retryAfterSeconds".to_owned(), json!(details.retry_after_seconds));
            }
            status["details"] = Value::Object(out);
        }
        status["code"] = json!(self.code);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_real_server() {
        assert_eq!(ApiError::not_found(&Kind::Pod, "nosuch").message, "pods \"nosuch\" not found");
        assert_eq!(ApiError::not_found(&Kind::Deployment, "x").message, "deployments.apps \"x\" not found");
        let cause =
            Cause { reason: "FieldValueRequired".into(), message: "Required value".into(), field: "spec.resources[storage]".into() };
        let error = ApiError::invalid(&Kind::PersistentVolumeClaim, "bad2", vec![cause]);
        assert_eq!(error.message, "PersistentVolumeClaim \"bad2\" is invalid: spec.resources[storage]: Required value");
        assert_eq!(error.to_status()["details"]["causes"][0]["field"], "spec.resources[storage]");
        assert_eq!(error.to_status()["code"], 422);
    }
}
