//! The four patch types over JSON (kube-api.md §1, §2).

mod json;
pub mod keys;
pub mod managed;
mod strategic;

use serde_json::Value;

use crate::object::Kind;
use crate::write::{ApiError, Patch};

pub use self::strategic::merge as strategic_merge;

/// The patched object. Server-side apply needs the managed fields and goes through [`managed::apply`].
pub fn apply(kind: &Kind, mut target: Value, patch: &Patch) -> Result<Value, ApiError> {
    match patch {
        Patch::Json(operations) => {
            let operations: json_patch::Patch = serde_json::from_value(operations.clone())
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            json::apply(&mut target, operations.0).map_err(|_| {
                // The real server does not say what is wrong either.
                let mut refused = ApiError::invalid(kind, "", Vec::new());
                refused.message = "the server rejected our request due to an error in our request".to_owned();
                refused
            })?;
            Ok(target)
        }
        Patch::Merge(patch) => {
            if !patch.is_object() {
                return Err(ApiError::bad_request("error decoding patch: a merge patch is an object"));
            }
            json_patch::merge(&mut target, patch);
            Ok(target)
        }
        Patch::Strategic(patch) => {
            if matches!(kind, Kind::Custom { .. }) {
                return Err(ApiError::unsupported_media_type(
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ));
            }
            strategic_merge(target, patch)
        }
        Patch::Apply { .. } => Err(ApiError::internal("an apply patch reached the plain patches")),
    }
}
