//! Names, labels and keys.

use crate::object::{Kind, Object};

use super::Causes;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const DATA_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

/// `[A-Za-z0-9]` at both ends, `-_.` between.
fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Complains where a name is no DNS-1123 subdomain.
pub fn subdomain(field: &str, name: &str, causes: &mut Causes) {
    if name.len() > 253 {
        causes.invalid(field, &name, "must be no more than 253 bytes");
    }
    if !name.split('.').all(is_label) {
        causes.invalid(field, &name, SUBDOMAIN);
    }
}

/// Complains where a name is no DNS-1123 label.
pub fn label(field: &str, name: &str, causes: &mut Causes) {
    if name.len() > 63 {
        causes.invalid(field, &name, "must be no more than 63 bytes");
    }
    if !is_label(name) {
        causes.invalid(field, &name, LABEL);
    }
}

pub fn validate(object: &Object, namespaced: bool, causes: &mut Causes) {
    let metadata = object.metadata();
    let name = metadata.name.as_deref().unwrap_or("");
    match object {
        Object::Namespace(_) => label("metadata.name", name, causes),
        // An event's name is its object's name and a number; the object may be a custom one.
        Object::Custom { .. } | Object::Event(_) if name.contains('/') || name == "." || name == ".." || name.contains('%') => {
            causes.invalid("metadata.name", &name, "may not contain '/'");
        }
        Object::Event(_) => {}
        _ => subdomain("metadata.name", name, causes),
    }
    if namespaced && let Some(namespace) = &metadata.namespace {
        label("metadata.namespace", namespace, causes);
    }
    validate_labels(object, causes);
}

pub fn validate_labels(object: &Object, causes: &mut Causes) {
    let metadata = object.metadata();
    for (key, value) in metadata.labels.iter().flatten() {
        qualified_name("metadata.labels", key, causes);
        if value.len() > 63 {
            causes.invalid("metadata.labels", value, "must be no more than 63 bytes");
        }
        if !value.is_empty() && !is_name_part(value) {
            causes.invalid("metadata.labels", value, LABEL_VALUE);
        }
    }
    let mut total = 0;
    for (key, value) in metadata.annotations.iter().flatten() {
        qualified_name("metadata.annotations", &key.to_lowercase(), causes);
        total += key.len() + value.len();
    }
    if total > 256 << 10 {
        causes.invalid("metadata.annotations", &"", "may not be more than 262144 bytes");
    }
    // The API server's own kinds want a domain in front as well; what apiextensions serves, and its own definitions, do not.
    let is_core = !matches!(object.kind(), Kind::CustomResourceDefinition | Kind::Custom { .. });
    for finalizer in metadata.finalizers.iter().flatten() {
        qualified_name("metadata.finalizers", finalizer, causes);
        if is_core && !finalizer.contains('/') && !matches!(finalizer.as_str(), "foregroundDeletion" | "orphan" | "kubernetes") {
            causes.invalid("metadata.finalizers", finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    let controllers: Vec<String> = metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| owner.controller == Some(true))
        .map(|owner| format!("{}/{}", owner.kind, owner.name))
        .collect();
    if let [first, second, ..] = controllers.as_slice() {
        let detail = format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}");
        causes.invalid("metadata.ownerReferences", &metadata.owner_references, &detail);
    }
    for (index, owner) in metadata.owner_references.iter().flatten().enumerate() {
        for (field, value) in [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                causes.invalid(format!("metadata.ownerReferences[{index}].{field}"), value, &format!("{field} must not be empty"));
            }
        }
    }
}

fn qualified_name(field: &str, key: &str, causes: &mut Causes) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            causes.invalid(field, &key, "prefix part must be non-empty");
        } else if !prefix.split('.').all(is_label) {
            causes.invalid(field, &key, &format!("prefix part {SUBDOMAIN}"));
        }
    }
    if name.is_empty() {
        causes.invalid(field, &key, "name part must be non-empty");
    } else if name.len() > 63 {
        causes.invalid(field, &key, "name part must be no more than 63 bytes");
    }
    if !is_name_part(name) {
        causes.invalid(field, &key, NAME_PART);
    }
}

pub fn data_keys<'a>(field: &str, keys: impl Iterator<Item = &'a String>, causes: &mut Causes) {
    for key in keys {
        let valid = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !valid || key == "." || key == ".." {
            causes.invalid(format!("{field}[{key}]"), key, DATA_KEY);
        }
    }
}

/// ConfigMaps and Secrets with `immutable: true`.
pub fn immutable_data(old: Option<bool>, new: Option<bool>, same: bool, causes: &mut Causes) {
    if old != Some(true) {
        return;
    }
    if new != Some(true) {
        causes.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    if !same {
        causes.forbidden("data", "field is immutable when `immutable` is set");
    }
}
