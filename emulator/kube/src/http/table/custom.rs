//! Custom kinds: `additionalPrinterColumns` of their definition.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use model_kube::object::Object;
use serde_json::{Value, json};

use super::super::resource::Call;
use super::format::{age, since};
use super::{Column, columns as plain};

fn declared(call: &Call) -> Option<Vec<CustomResourceColumnDefinition>> {
    if !call.resource.custom {
        return None;
    }
    call.shared.api.read(|store| {
        let versions = &store.definition(&call.resource.kind)?.spec.versions;
        versions.iter().find(|version| version.name == call.resource.version)?.additional_printer_columns.clone()
    })
}

/// The columns of the definition, after the name.
pub fn columns(call: &Call) -> Option<Vec<Column>> {
    let declared = declared(call)?;
    let mut out = plain("Name");
    out.extend(declared.into_iter().map(|column| Column {
        name: column.name,
        wide: column.priority.unwrap_or(0) > 0,
        kind: "string",
        format: "",
        description: column.description.unwrap_or_default(),
    }));
    Some(out)
}

/// The cells of an object by those columns.
pub fn cells(call: &Call, object: &Object, now: jiff::Timestamp) -> Option<Vec<Value>> {
    let declared = declared(call)?;
    let json = object.to_json().ok()?;
    let mut cells = vec![json!(object.metadata().name)];
    for column in declared {
        if column.json_path == ".metadata.creationTimestamp" {
            cells.push(age(object.metadata(), now));
            continue;
        }
        let found = lookup(&json, &column.json_path);
        cells.push(match (column.type_.as_str(), found) {
            (_, None | Some(Value::Null)) => Value::Null,
            ("date", Some(Value::String(text))) => json!(since(text.parse().ok(), now)),
            ("string", Some(Value::String(text))) => json!(text),
            ("string", Some(other)) => json!(other.to_string()),
            (_, Some(other)) => other.clone(),
        });
    }
    Some(cells)
}

/// The paths that columns use: fields joined by dots, with `\.` for a dot in a name and `[0]` for an item.
fn lookup<'a>(json: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.trim_start_matches('.').replace("\\.", "\u{0}");
    path.split('.').try_fold(json, |value, part| {
        let (name, index) = match part.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let found = value.get(name.replace('\u{0}', "."))?;
        match index {
            Some(index) => found.get(index),
            None => Some(found),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let json = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "spec": {"list": [{"n": 1}]}});
        assert_eq!(lookup(&json, ".metadata.annotations.a\\.b/c"), Some(&json!("x")));
        assert_eq!(lookup(&json, ".spec.list[0].n"), Some(&json!(1)));
        assert_eq!(lookup(&json, ".spec.none"), None);
    }
}
