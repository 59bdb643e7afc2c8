//! Strategic merge: RFC 7396 with keyed lists and directives (kube-api.md §2).

use serde_json::{Map, Value};

use super::keys::{self, ListKind};
use crate::write::ApiError;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// The target with the patch merged into it.
pub fn merge(target: Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("error decoding patch: a strategic merge patch is an object"));
    };
    let target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    Ok(Value::Object(merge_map(target, patch)?))
}

fn merge_map(mut target: Map<String, Value>, patch: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    match patch.get(PATCH).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => return clean_map(patch),
        Some("delete") => return Ok(Map::new()),
        Some(other) => return Err(ApiError::bad_request(format!("Unknown patch type found: {other}"))),
    }
    if let Some(retain) = patch.get(RETAIN).and_then(Value::as_array) {
        target.retain(|name, _| retain.iter().any(|kept| kept.as_str() == Some(name)));
    }
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(list)), Some(gone)) = (target.get_mut(field), value.as_array()) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        let order = patch.get(&format!("{ORDER}{name}")).and_then(Value::as_array);
        match (target.get_mut(name).map(Value::take), value) {
            (_, Value::Null) => {
                target.remove(name);
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                target.insert(name.clone(), Value::Object(merge_map(old, new)?));
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                target.insert(name.clone(), Value::Array(merge_list(name, old, new, order)?));
            }
            (_, Value::Array(new)) => {
                target.insert(name.clone(), Value::Array(merge_list(name, Vec::new(), new, order)?));
            }
            (_, new) => {
                target.insert(name.clone(), clean(new)?);
            }
        }
    }
    // An order without a list: only the order changes.
    for (name, order) in patch {
        let Some(field) = name.strip_prefix(ORDER) else { continue };
        if patch.contains_key(field) {
            continue;
        }
        if let (Some(Value::Array(list)), Some(order)) = (target.get_mut(field), order.as_array()) {
            let before = std::mem::take(list);
            *list = sort(field, before.clone(), &before, order);
        }
    }
    Ok(target)
}

fn merge_list(field: &str, old: Vec<Value>, patch: &[Value], order: Option<&Vec<Value>>) -> Result<Vec<Value>, ApiError> {
    let before = old.clone();
    let mut list = old;
    match keys::of(field) {
        ListKind::Atomic => return patch.iter().map(clean).collect(),
        ListKind::Set => {
            for item in patch {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        ListKind::Map { merge: key, .. } => {
            if patch.iter().any(|item| item.get(PATCH).and_then(Value::as_str) == Some("replace")) {
                return patch.iter().filter(|item| item.get(PATCH).is_none()).map(clean).collect();
            }
            for item in patch {
                let Value::Object(item) = item else {
                    return Err(ApiError::bad_request(format!("error decoding patch: items of {field} are objects")));
                };
                let Some(id) = item.get(key) else {
                    return Err(ApiError::bad_request(format!("map: {item:?} does not contain declared merge key: {key}")));
                };
                let found = list.iter().position(|old| old.get(key) == Some(id));
                match (item.get(PATCH).and_then(Value::as_str), found) {
                    (Some("delete"), _) => list.retain(|old| old.get(key) != Some(id)),
                    (_, Some(at)) => {
                        if let Value::Object(old) = list[at].take() {
                            list[at] = Value::Object(merge_map(old, item)?);
                        }
                    }
                    (_, None) => list.push(Value::Object(clean_map(item)?)),
                }
            }
        }
    }
    Ok(match order {
        Some(order) => sort(field, list, &before, order),
        None => list,
    })
}

/// Brings a list into the patch's order. Items that the patch does not name keep their place among their neighbours.
fn sort(field: &str, list: Vec<Value>, before: &[Value], order: &[Value]) -> Vec<Value> {
    let id = |item: &Value| match keys::of(field) {
        ListKind::Map { merge, .. } => item.get(merge).cloned().unwrap_or(Value::Null),
        ListKind::Set | ListKind::Atomic => item.clone(),
    };
    let order: Vec<Value> = order.iter().map(id).collect();
    let was = |item: &Value| before.iter().position(|old| id(old) == id(item));
    let place = |item: &Value| order.iter().position(|wanted| *wanted == id(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) = list.into_iter().partition(|item| place(item).is_some());
    named.sort_by_key(place);
    let mut sorted = Vec::new();
    let mut others = others.into_iter().peekable();
    for item in named {
        while let (Some(at), Some(other)) = (was(&item), others.peek()) {
            if was(other).is_some_and(|other| other < at) {
                sorted.extend(others.next());
            } else {
                break;
            }
        }
        sorted.push(item);
    }
    sorted.extend(others);
    sorted
}

/// A value of the patch without its directives, for what the target does not have yet.
fn clean(value: &Value) -> Result<Value, ApiError> {
    Ok(match value {
        Value::Object(map) => Value::Object(clean_map(map)?),
        Value::Array(items) => Value::Array(items.iter().filter(|item| item.get(PATCH).is_none()).map(clean).collect::<Result<_, _>>()?),
        other => other.clone(),
    })
}

fn clean_map(map: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    map.iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .map(|(name, value)| Ok((name.clone(), clean(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(target: Value, patch: Value, expected: Value) {
        assert_eq!(merge(target, &patch).unwrap(), expected);
    }

    #[test]
    fn lists_merge_by_key_and_fields_go_with_null() {
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "A", "value": "1"}, {"name": "B"}]}], "nodeName": "n"}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "nodeName": null, "containers": [
                {"name": "b", "image": "y"},
                {"name": "a", "env": [{"$patch": "delete", "name": "A"}]}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "y"}, {"name": "a", "image": "x", "env": [{"name": "B"}]}]}}),
        );
    }

    #[test]
    fn directives_replace_retain_and_delete() {
        check(json!({"a": {"x": 1, "y": 2}}), json!({"a": {"$patch": "replace", "z": 3}}), json!({"a": {"z": 3}}));
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        );
        check(
            json!({"finalizers": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}),
            json!({"finalizers": ["b", "c"]}),
        );
        check(json!({"args": ["a", "b"]}), json!({"args": ["c"]}), json!({"args": ["c"]}));
    }

    #[test]
    fn what_the_patch_does_not_name_keeps_its_place() {
        check(
            json!({"env": [{"name": "A"}, {"name": "S"}, {"name": "B"}]}),
            json!({"$setElementOrder/env": [{"name": "A"}, {"name": "B"}, {"name": "C"}], "env": [{"name": "C"}]}),
            json!({"env": [{"name": "A"}, {"name": "S"}, {"name": "B"}, {"name": "C"}]}),
        );
    }
}
