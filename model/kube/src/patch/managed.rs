//! `metadata.managedFields`: who set which field, and server-side apply on top of it (kube-api.md §6).
//!
//! A field is a path of `fieldsV1` elements: `f:spec`, `k:{"name":"c"}` for an item of a keyed list, `v:"x"` for an item of a set.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::keys::{self, ListKind};
use crate::object::Object;
use crate::write::{ApiError, Cause, Subresource};

type Path = Vec<String>;
type Paths = BTreeSet<Path>;

/// Metadata that belongs to the server.
const SYSTEM: [&str; 11] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
];

/// The fields that an object sets.
fn paths(object: &Value) -> Paths {
    let mut out = Paths::new();
    let Value::Object(fields) = object else { return out };
    for (name, value) in fields {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !SYSTEM.contains(&name.as_str()) {
                        walk(name, value, &mut vec!["f:metadata".to_owned(), format!("f:{name}")], &mut out);
                    }
                }
            }
            _ => walk(name, value, &mut vec![format!("f:{name}")], &mut out),
        }
    }
    out
}

fn walk(field: &str, value: &Value, at: &mut Path, out: &mut Paths) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                at.push(format!("f:{name}"));
                walk(name, value, at, out);
                at.pop();
            }
        }
        Value::Array(items) => match keys::of(field) {
            ListKind::Map { apply, .. } => {
                for item in items {
                    at.push(key_element(item, apply));
                    out.insert(at.clone());
                    for (name, value) in item.as_object().into_iter().flatten() {
                        at.push(format!("f:{name}"));
                        walk(name, value, at, out);
                        at.pop();
                    }
                    at.pop();
                }
            }
            ListKind::Set => {
                for item in items {
                    at.push(format!("v:{item}"));
                    out.insert(at.clone());
                    at.pop();
                }
            }
            ListKind::Atomic => {
                out.insert(at.clone());
            }
        },
        _ => {
            out.insert(at.clone());
        }
    }
}

fn key_element(item: &Value, keys: &[&str]) -> String {
    let mut key = Map::new();
    // Key order as in the schema of the keys' names: sorted.
    for name in keys {
        let value = item.get(*name).cloned().or_else(|| keys::default_of(name).map(Value::from));
        if let Some(value) = value {
            key.insert((*name).to_owned(), value);
        }
    }
    format!("k:{}", Value::Object(key))
}

/// The position of the item that a `k:` or `v:` element names.
fn find(list: &[Value], element: &str) -> Option<usize> {
    if let Some(key) = element.strip_prefix("k:") {
        let key: Map<String, Value> = serde_json::from_str(key).ok()?;
        return list.iter().position(|item| {
            key.iter().all(|(name, value)| match item.get(name) {
                Some(found) => found == value,
                None => keys::default_of(name).is_some_and(|default| value == default),
            })
        });
    }
    let value: Value = serde_json::from_str(element.strip_prefix("v:")?).ok()?;
    list.iter().position(|item| *item == value)
}

fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, element| match element.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => {
            let list = value.as_array()?;
            list.get(find(list, element)?)
        }
    })
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut value = object;
    for element in parents {
        let next = match element.strip_prefix("f:") {
            Some(name) => value.get_mut(name),
            None => {
                let at = value.as_array().and_then(|list| find(list, element));
                at.and_then(|at| value.get_mut(at))
            }
        };
        let Some(next) = next else { return };
        value = next;
    }
    match (last.strip_prefix("f:"), value) {
        (Some(name), Value::Object(fields)) => {
            fields.remove(name);
        }
        (None, Value::Array(list)) => {
            if let Some(at) = find(list, last) {
                list.remove(at);
            }
        }
        _ => {}
    }
}

fn to_json(paths: &Paths) -> Value {
    let mut root = Map::new();
    for path in paths {
        let mut node = &mut root;
        for element in path {
            let child = node.entry(element.clone()).or_insert_with(|| json!({}));
            let Some(child) = child.as_object_mut() else { return Value::Object(Map::new()) };
            node = child;
        }
        // An item of a list is set itself, beside its fields.
        if path.last().is_some_and(|element| element.starts_with("k:")) {
            node.insert(".".to_owned(), json!({}));
        }
    }
    Value::Object(root)
}

fn from_json(value: &Value, at: &mut Path, out: &mut Paths) {
    let Value::Object(fields) = value else { return };
    if fields.is_empty() && !at.is_empty() {
        out.insert(at.clone());
        return;
    }
    for (name, value) in fields {
        if name == "." {
            out.insert(at.clone());
            continue;
        }
        at.push(name.clone());
        from_json(value, at, out);
        at.pop();
    }
}

/// One manager's fields.
#[derive(Debug, Clone)]
struct Owner {
    manager: String,
    operation: String,
    subresource: Option<String>,
    api_version: String,
    time: Option<Time>,
    paths: Paths,
}

impl Owner {
    fn read(entry: &ManagedFieldsEntry) -> Self {
        let mut paths = Paths::new();
        if let Some(FieldsV1(fields)) = &entry.fields_v1 {
            from_json(fields, &mut Vec::new(), &mut paths);
        }
        Self {
            manager: entry.manager.clone().unwrap_or_default(),
            operation: entry.operation.clone().unwrap_or_default(),
            subresource: entry.subresource.clone().filter(|name| !name.is_empty()),
            api_version: entry.api_version.clone().unwrap_or_default(),
            time: entry.time.clone(),
            paths,
        }
    }

    fn write(self) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            api_version: Some(self.api_version),
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(FieldsV1(to_json(&self.paths))),
            manager: Some(self.manager),
            operation: Some(self.operation),
            subresource: self.subresource,
            time: self.time,
        }
    }

    fn is(&self, manager: &str, operation: &str, subresource: Option<&str>) -> bool {
        self.manager == manager && self.operation == operation && self.subresource.as_deref() == subresource
    }
}

fn owners(object: &Object) -> Vec<Owner> {
    object.metadata().managed_fields.iter().flatten().map(Owner::read).collect()
}

fn store(object: &mut Object, owners: Vec<Owner>) {
    let entries: Vec<ManagedFieldsEntry> = owners.into_iter().filter(|owner| !owner.paths.is_empty()).map(Owner::write).collect();
    object.metadata_mut().managed_fields = (!entries.is_empty()).then_some(entries);
}

fn subresource_name(subresource: Subresource) -> Option<&'static str> {
    match subresource {
        Subresource::None => None,
        Subresource::Status => Some("status"),
    }
}

fn api_version(json: &Value) -> String {
    json.get("apiVersion").and_then(Value::as_str).unwrap_or("v1").to_owned()
}

/// Notes who set the fields of an object that is created. A status that is written apart is not among them.
pub fn record_create(new: &mut Object, manager: &str, has_status: bool, at: Timestamp) -> Result<(), ApiError> {
    record_update(None, new, manager, Subresource::None, at)?;
    if has_status {
        let mut all = owners(new);
        all.iter_mut().for_each(|owner| owner.paths.retain(|path| path.first().is_none_or(|first| first != "f:status")));
        store(new, all);
    }
    Ok(())
}

/// Notes what an update by a manager changed.
pub fn record_update(
    old: Option<&Object>,
    new: &mut Object,
    manager: &str,
    subresource: Subresource,
    at: Timestamp,
) -> Result<(), ApiError> {
    let after = new.to_json().map_err(ApiError::internal)?;
    let before = old.map(Object::to_json).transpose().map_err(ApiError::internal)?.unwrap_or(Value::Null);
    if old.is_some() && new.metadata().managed_fields.is_none() {
        // Left out means unchanged; an empty list resets.
        new.metadata_mut().managed_fields = old.and_then(|old| old.metadata().managed_fields.clone());
    }
    let (had, has) = (paths(&before), paths(&after));
    let changed: Paths = has.iter().filter(|path| !same(&before, &after, path)).cloned().collect();
    let gone: Paths = had.difference(&has).cloned().collect();
    let mut all = owners(new);
    if changed.is_empty() && gone.is_empty() {
        return Ok(());
    }
    for owner in &mut all {
        owner.paths.retain(|path| !gone.contains(path) && !changed.contains(path));
    }
    if !changed.is_empty() {
        let name = subresource_name(subresource);
        match all.iter_mut().find(|owner| owner.is(manager, "Update", name)) {
            Some(owner) => {
                owner.paths.extend(changed);
                owner.time = Some(Time(at));
            }
            None => all.push(Owner {
                manager: manager.to_owned(),
                operation: "Update".to_owned(),
                subresource: name.map(str::to_owned),
                api_version: api_version(&after),
                time: Some(Time(at)),
                paths: changed,
            }),
        }
    }
    store(new, all);
    Ok(())
}

/// Whether a path says the same in both objects. An item of a keyed list is the same when both have it.
fn same(before: &Value, after: &Value, path: &Path) -> bool {
    match (get(before, path), get(after, path)) {
        (Some(_), Some(_)) if path.last().is_some_and(|element| element.starts_with("k:")) => true,
        (before, after) => before == after,
    }
}

/// The owner entry of an object that server-side apply creates.
pub fn own_applied(object: &mut Object, given: &Value, manager: &str, at: Timestamp) {
    let owner = Owner {
        manager: manager.to_owned(),
        operation: "Apply".to_owned(),
        subresource: None,
        api_version: api_version(given),
        time: Some(Time(at)),
        paths: paths(given),
    };
    store(object, vec![owner]);
}

/// Server-side apply onto a live object: the next object, with its managed fields.
pub fn apply(old: &Object, given: &Value, manager: &str, force: bool, subresource: Subresource, at: Timestamp) -> Result<Value, ApiError> {
    if manager.is_empty() {
        return Err(ApiError::bad_request("fieldManager is required for apply patch"));
    }
    let live = old.to_json().map_err(ApiError::internal)?;
    let applied = paths(given);
    let mut all = owners(old);
    let name = subresource_name(subresource);
    let conflicting = |owner: &Owner| -> Vec<Path> {
        let shared = owner.paths.intersection(&applied);
        shared.filter(|path| !same(&live, given, path)).cloned().collect()
    };
    let conflicts: Vec<(String, Path)> = all
        .iter()
        .filter(|owner| !owner.is(manager, "Apply", name))
        .flat_map(|owner| conflicting(owner).into_iter().map(|path| (format!("\"{}\" using {}", owner.manager, owner.api_version), path)))
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflict_error(&conflicts));
    }
    for owner in &mut all {
        if !owner.is(manager, "Apply", name) {
            owner.paths.retain(|path| !conflicts.iter().any(|(_, lost)| lost == path));
        }
    }
    let mut next = merge(Some(live), given, "");
    let mine = all.iter().position(|owner| owner.is(manager, "Apply", name));
    let before = mine.map(|at| all[at].paths.clone()).unwrap_or_default();
    for path in before.difference(&applied) {
        let kept =
            all.iter().enumerate().any(|(index, owner)| Some(index) != mine && owner.paths.iter().any(|other| other.starts_with(path)));
        let parent_applied = applied.iter().any(|other| other.starts_with(path));
        if !kept && !parent_applied {
            remove(&mut next, path);
        }
    }
    match mine {
        Some(index) if all[index].paths == applied => {}
        Some(index) => {
            all[index].paths = applied;
            all[index].time = Some(Time(at));
        }
        None => all.push(Owner {
            manager: manager.to_owned(),
            operation: "Apply".to_owned(),
            subresource: name.map(str::to_owned),
            api_version: api_version(given),
            time: Some(Time(at)),
            paths: applied,
        }),
    }
    let entries: Vec<ManagedFieldsEntry> = all.into_iter().filter(|owner| !owner.paths.is_empty()).map(Owner::write).collect();
    next["metadata"]["managedFields"] = serde_json::to_value(entries).map_err(ApiError::internal)?;
    Ok(next)
}

/// The applied configuration merged into what is there.
fn merge(live: Option<Value>, given: &Value, field: &str) -> Value {
    match (live, given) {
        (Some(Value::Object(mut live)), Value::Object(given)) => {
            for (name, value) in given {
                if value.is_null() {
                    continue;
                }
                let merged = merge(live.get_mut(name).map(Value::take), value, name);
                live.insert(name.clone(), merged);
            }
            Value::Object(live)
        }
        (Some(Value::Array(mut live)), Value::Array(given)) => match keys::of(field) {
            ListKind::Map { apply, .. } => {
                for item in given {
                    match find(&live, &key_element(item, apply)) {
                        Some(at) => live[at] = merge(Some(live[at].take()), item, ""),
                        None => live.push(item.clone()),
                    }
                }
                Value::Array(live)
            }
            ListKind::Set => {
                for item in given {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
                Value::Array(live)
            }
            ListKind::Atomic => Value::Array(given.clone()),
        },
        (_, given) => given.clone(),
    }
}

/// `.spec.containers[name="c"].image`
fn display(path: &Path) -> String {
    let mut out = String::new();
    for element in path {
        if let Some(name) = element.strip_prefix("f:") {
            out.push('.');
            out.push_str(name);
        } else if let Some(key) = element.strip_prefix("k:") {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
            out.push_str(&format!("[{}]", parts.join(",")));
        } else if let Some(value) = element.strip_prefix("v:") {
            out.push_str(&format!("[={value}]"));
        }
    }
    out
}

fn conflict_error(conflicts: &[(String, Path)]) -> ApiError {
    let mut owners: Vec<&String> = conflicts.iter().map(|(owner, _)| owner).collect();
    owners.sort();
    owners.dedup();
    let mut texts = Vec::new();
    for owner in owners {
        let fields: Vec<String> = conflicts.iter().filter(|(other, _)| other == owner).map(|(_, path)| display(path)).collect();
        texts.push(match fields.as_slice() {
            [one] => format!("conflict with {owner}: {one}"),
            many => format!("conflicts with {owner}:\n- {}", many.join("\n- ")),
        });
    }
    let number = if conflicts.len() == 1 { "1 conflict".to_owned() } else { format!("{} conflicts", conflicts.len()) };
    let separator = if texts.len() > 1 { "\n" } else { "" };
    let causes = conflicts
        .iter()
        .map(|(owner, path)| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {owner}"),
            field: display(path),
        })
        .collect();
    ApiError::conflict_text(format!("Apply failed with {number}: {}", texts.join(separator)), causes)
}
