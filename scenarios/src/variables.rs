//! Variables: `${name}` in texts, and what is taken from results.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

/// Name to value.
pub type Variables = BTreeMap<String, Value>;

/// The parts of a text: plain, or the name of a variable. `$$` stays as it is; `${` without `}` is plain.
fn parts(text: &str) -> Vec<Result<&str, &str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let name = &rest[start + 2..];
        let Some(end) = name.find('}') else { break };
        // `${.PVC.name}` is the EFS driver's own pattern, not a variable of ours.
        if name[..end].chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && end > 0 {
            parts.push(Ok(&rest[..start]));
            parts.push(Err(&name[..end]));
        } else {
            parts.push(Ok(&rest[..start + 2 + end + 1]));
        }
        rest = &name[end + 1..];
    }
    parts.push(Ok(rest));
    parts
}

/// The variables that strings inside a value use.
pub fn used(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, &mut |text| names.extend(parts(text).into_iter().filter_map(Result::err).map(str::to_owned)));
    names
}

fn walk(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            visit(name);
            walk(value, visit);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A variable that has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable `{0}` is not set; the operation that captures it did not run")]
pub struct Unset(pub String);

/// The text with its variables put in.
pub fn fill(text: &str, variables: &Variables) -> Result<String, Unset> {
    let mut filled = String::with_capacity(text.len());
    for part in parts(text) {
        match part {
            Ok(plain) => filled.push_str(plain),
            Err(name) => match variables.get(name) {
                Some(Value::String(value)) => filled.push_str(value),
                Some(value) => filled.push_str(&value.to_string()),
                None => return Err(Unset(name.into())),
            },
        }
    }
    Ok(filled)
}

/// The value with its variables put in. A string that is one variable and nothing else becomes that variable's value.
pub fn fill_value(value: &Value, variables: &Variables) -> Result<Value, Unset> {
    Ok(match value {
        Value::String(text) => match parts(text).as_slice() {
            [Ok(""), Err(name), Ok("")] => variables.get(*name).cloned().ok_or_else(|| Unset((*name).into()))?,
            _ => Value::String(fill(text, variables)?),
        },
        Value::Array(items) => items.iter().map(|item| fill_value(item, variables)).collect::<Result<_, _>>()?,
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| Ok((fill(name, variables)?, fill_value(value, variables)?)))
            .collect::<Result<serde_json::Map<_, _>, Unset>>()?
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

/// Takes variables out of a result.
pub fn capture(wanted: &BTreeMap<String, String>, result: &Value, variables: &mut Variables) -> Result<(), String> {
    for (name, pointer) in wanted {
        let absolute = if pointer.starts_with('/') || pointer.is_empty() { pointer.clone() } else { format!("/{pointer}") };
        match result.pointer(&absolute) {
            Some(value) => variables.insert(name.clone(), value.clone()),
            None => return Err(format!("cannot capture `{name}`: there is nothing at {absolute} in {result}")),
        };
    }
    Ok(())
}

/// The objects of a multi-document YAML text. Empty documents count nothing.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| error.to_string())?;
        if value.is_null() {
            continue;
        }
        for field in ["apiVersion", "kind"] {
            if value.get(field).and_then(Value::as_str).is_none() {
                return Err(format!("document {}: an object needs `{field}`", objects.len() + 1));
            }
        }
        if value.pointer("/metadata/name").and_then(Value::as_str).is_none() {
            return Err(format!("document {}: an object needs `metadata.name`", objects.len() + 1));
        }
        objects.push(value);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variables() -> Variables {
        [("id".to_owned(), json!("vol-1")), ("n".to_owned(), json!(3))].into()
    }

    #[test]
    fn texts_are_filled() {
        assert_eq!(fill("a ${id} ${n}!", &variables()), Ok("a vol-1 3!".into()));
        assert_eq!(fill("${.PVC.name} $(date) ${open", &variables()), Ok("${.PVC.name} $(date) ${open".into()));
        assert_eq!(fill("${other}", &variables()), Err(Unset("other".into())));
    }

    #[test]
    fn a_whole_variable_keeps_its_type() {
        assert_eq!(fill_value(&json!({"${id}": ["${n}", "n=${n}"]}), &variables()), Ok(json!({"vol-1": [3, "n=3"]})));
    }

    #[test]
    fn captures_take_pointers() {
        let mut got = Variables::new();
        let result = json!({"Subnets": [{"SubnetId": "subnet-1"}]});
        capture(&[("s".to_owned(), "Subnets/0/SubnetId".to_owned())].into(), &result, &mut got).unwrap();
        assert_eq!(got["s"], json!("subnet-1"));
        let error = capture(&[("s".to_owned(), "/Subnets/1".to_owned())].into(), &result, &mut got).unwrap_err();
        assert!(error.contains("nothing at /Subnets/1"), "{error}");
    }

    #[test]
    fn documents_need_names() {
        assert_eq!(documents("---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n---\n").map(|list| list.len()), Ok(1));
        assert!(documents("kind: Pod").unwrap_err().contains("`apiVersion`"));
        assert!(documents("apiVersion: v1\nkind: Pod").unwrap_err().contains("metadata.name"));
    }
}
