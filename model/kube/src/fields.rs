//! Decoding with an eye on fields that the kind does not have (kube-api.md §4: strict and warn).
//!
//! An object is decoded into its type and encoded again; a field that is lost on the way is unknown. So the types themselves are
//! the schema, and no second list of fields can go stale.

use serde_json::Value;

use crate::object::{Kind, Object};
use crate::write::{ApiError, FieldValidation};

/// The fields of built-in kinds that are maps, by name: an empty one is the same as none. An empty struct is not: `emptyDir: {}`.
const MAPS: [&str; 17] = [
    "allocatable",
    "allocatedResourceStatuses",
    "allocatedResources",
    "annotations",
    "attachmentMetadata",
    "binaryData",
    "capacity",
    "data",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "overhead",
    "parameters",
    "requests",
    "stringData",
    "volumeAttributes",
];

/// Drops empty lists and maps, as Go's `omitempty` does on the way through the real server, and says whether there were any.
pub(crate) fn omit_empty(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => {
            let before = fields.len();
            fields.retain(|name, value| match value {
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty() || !MAPS.contains(&name.as_str()),
                _ => true,
            });
            let inside = fields.values_mut().fold(false, |any, value| omit_empty(value) | any);
            inside || fields.len() < before
        }
        Value::Array(items) => items.iter_mut().fold(false, |any, item| omit_empty(item) | any),
        _ => false,
    }
}

/// An object from its JSON, and the paths of the fields that its kind does not have.
pub fn decode(kind: &Kind, json: Value) -> Result<(Object, Vec<String>), ApiError> {
    let kind_name = json.get("kind").and_then(Value::as_str).unwrap_or_else(|| kind.kind_name()).to_owned();
    let version = json.get("apiVersion").and_then(Value::as_str).unwrap_or("v1").to_owned();
    let version = version.rsplit('/').next().unwrap_or("v1").to_owned();
    let mut object = Object::from_json(kind, json.clone()).map_err(|error| {
        ApiError::bad_request(format!("{kind_name} in version \"{version}\" cannot be handled as a {kind_name}: json: {error}"))
    })?;
    let mut unknown = Vec::new();
    if !matches!(kind, Kind::Custom { .. }) {
        let mut back = object.to_json().map_err(ApiError::internal)?;
        lost(&json, &back, "", &mut unknown);
        // An empty list of managed fields says something: it resets them. And in them an empty map is a leaf.
        let managed = object.metadata_mut().managed_fields.take();
        if let Some(metadata) = back.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if omit_empty(&mut back) {
            // A list that the type wants is put back by the type.
            object = Object::from_json(kind, back).map_err(ApiError::internal)?;
        }
        object.metadata_mut().managed_fields = managed;
    }
    Ok((object, unknown))
}

/// What a request's validation mode makes of unknown and duplicate fields: an error, warnings, or nothing.
pub fn judge(kind_name: &str, version: &str, problems: &[String], mode: FieldValidation) -> Result<Vec<String>, ApiError> {
    match mode {
        _ if problems.is_empty() => Ok(Vec::new()),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(problems.to_vec()),
        FieldValidation::Strict => Err(ApiError::bad_request(format!(
            "{kind_name} in version \"{version}\" cannot be handled as a {kind_name}: strict decoding error: {}",
            problems.join(", ")
        ))),
    }
}

fn lost(given: &Value, kept: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &path, unknown),
                    // An explicit null is the absence of the field.
                    None if value.is_null() => {}
                    None => unknown.push(format!("unknown field \"{path}\"")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (value, kept)) in given.iter().zip(kept).enumerate() {
                lost(value, kept, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unknown_field_is_named_by_its_path() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": null},
            "spec": {"containers": [{"name": "c", "comand": ["sh"], "resources": {"requests": {"cpu": 1}}}]}});
        let (_, unknown) = decode(&Kind::Pod, pod).unwrap();
        assert_eq!(unknown, ["unknown field \"spec.containers[0].comand\""]);
        let error = judge("Pod", "v1", &unknown, FieldValidation::Strict).unwrap_err();
        assert_eq!(
            error.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].comand\""
        );
    }

    #[test]
    fn empty_lists_and_maps_are_none() {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "c", "labels": {}, "finalizers": [], "managedFields": []},
            "spec": {"resources": {"requests": {}}}, "status": {"phase": "Bound", "conditions": [], "allocatedResources": {}}});
        let (object, unknown) = decode(&Kind::PersistentVolumeClaim, claim).unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        let shown = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "managedFields": []},
            "spec": {"resources": {}}, "status": {"phase": "Bound"}});
        assert_eq!(object.to_json().unwrap(), shown);
        // An empty struct stays, and so does a list that the type wants.
        let pod = json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let (object, _) = decode(&Kind::Pod, pod).unwrap();
        assert_eq!(object.to_json().unwrap()["spec"], json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}));
        // The server does not know what is a map in a custom kind.
        let custom = Kind::Custom { group: "g".into(), plural: "ks".into() };
        let given = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "k"}, "spec": {"labels": {}, "list": []}});
        assert_eq!(decode(&custom, given.clone()).unwrap().0.to_json().unwrap(), given);
    }

    #[test]
    fn a_wrong_type_is_a_bad_request() {
        let error = decode(&Kind::ConfigMap, json!({"data": {"a": []}})).unwrap_err();
        assert_eq!(error.code, 400);
    }
}
