//! JSON patches as the API server applies them: RFC 6902 in the reading of the library that the real server uses
//! (evanphx/json-patch v4), which is laxer in two places that clients lean on.

use json_patch::{AddOperation, PatchError, PatchOperation};
use serde_json::Value;

/// Applies the operations in order. On an error the target is of no more use.
pub(super) fn apply(target: &mut Value, operations: Vec<PatchOperation>) -> Result<(), PatchError> {
    for operation in operations {
        let operation = match operation {
            // An object takes the value also where it has no such field yet: so csi-snapshotter sets its first annotation.
            PatchOperation::Replace(replace) if lacks(target, replace.path.as_str()) => {
                PatchOperation::Add(AddOperation { path: replace.path, value: replace.value })
            }
            // What is not there is null.
            PatchOperation::Test(test) if test.value.is_null() && lacks(target, test.path.as_str()) => continue,
            other => other,
        };
        json_patch::patch(target, &[operation])?;
    }
    Ok(())
}

/// Whether the path names a field that an object which is there has not got.
fn lacks(target: &Value, path: &str) -> bool {
    let Some((parent, name)) = path.rsplit_once('/') else { return false };
    let fields = target.pointer(parent).and_then(Value::as_object);
    fields.is_some_and(|fields| !fields.contains_key(&name.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
mod tests {
    use crate::object::Kind;
    use crate::patch::apply;
    use crate::write::Patch;
    use serde_json::{Value, json};

    fn patched(operations: Value) -> Result<Value, (u16, String)> {
        let target = json!({"metadata": {"name": "c"}, "list": [1]});
        apply(&Kind::ConfigMap, target, &Patch::Json(operations)).map_err(|error| (error.code, error.message))
    }

    #[test]
    fn replace_adds_a_field_that_an_object_lacks() {
        let path = "/metadata/annotations";
        let made = patched(
            json!([{"op": "replace", "path": path, "value": {}}, {"op": "replace", "path": "/metadata/annotations/a~1b", "value": "c"}]),
        );
        assert_eq!(made.unwrap()["metadata"]["annotations"], json!({"a/b": "c"}));
        for missing in ["/spec/x", "/list/1", "/metadata/name/x"] {
            let refused = patched(json!([{"op": "replace", "path": missing, "value": 1}])).unwrap_err();
            assert_eq!(refused, (422, "the server rejected our request due to an error in our request".to_owned()), "{missing}");
        }
    }

    #[test]
    fn what_is_not_there_is_null_to_a_test() {
        assert!(patched(json!([{"op": "test", "path": "/metadata/annotations", "value": null}])).is_ok());
        assert!(patched(json!([{"op": "test", "path": "/metadata/annotations", "value": {}}])).is_err());
        assert!(patched(json!([{"op": "test", "path": "/metadata/name", "value": null}])).is_err());
        assert!(patched(json!([{"op": "remove", "path": "/metadata/annotations"}])).is_err());
    }
}
