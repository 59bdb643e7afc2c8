//! Partial tree match: what an expectation says of a value.
//!
//! A map matches when each of its fields does (`null`: absent or null); a list when it is as long and matches item by item; the rest by
//! equality. A map with one of these keys asks for something else:
//! `$contains` (a part of a string, or items that are somewhere in a list), `$like` (a text with `*`), `$count` (items of a list,
//! or lines of a text), `$exists` (`true`/`false`), `$not` (anything but this).

use serde_json::Value;

/// Where and why a value does not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct Mismatch {
    /// `status.phase`, `Tags[0].Key`; `.` is the value itself.
    pub path: String,
    pub problem: String,
}

/// Whether `actual` is as `expected` says.
pub fn matches(expected: &Value, actual: Option<&Value>) -> Result<(), Mismatch> {
    walk(expected, actual, "")
}

fn mismatch(path: &str, problem: String) -> Result<(), Mismatch> {
    Err(Mismatch { path: if path.is_empty() { ".".into() } else { path.into() }, problem })
}

fn shown(value: Option<&Value>) -> String {
    const MOST: usize = 300;
    let Some(value) = value else { return "nothing".into() };
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn walk(expected: &Value, actual: Option<&Value>, path: &str) -> Result<(), Mismatch> {
    match expected {
        Value::Null => match actual {
            None | Some(Value::Null) => Ok(()),
            Some(_) => mismatch(path, format!("expected nothing, got {}", shown(actual))),
        },
        Value::Object(fields) => {
            if let Some((operator, operand)) = fields.iter().next()
                && fields.len() == 1
                && operator.starts_with('$')
            {
                return operate(operator, operand, actual, path);
            }
            let Some(Value::Object(found)) = actual else {
                return mismatch(path, format!("expected a map, got {}", shown(actual)));
            };
            for (name, value) in fields {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(value, found.get(name), &inner)?;
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(Value::Array(found)) = actual else {
                return mismatch(path, format!("expected a list, got {}", shown(actual)));
            };
            if items.len() != found.len() {
                return mismatch(path, format!("expected {} items, got {}: {}", items.len(), found.len(), shown(actual)));
            }
            items.iter().zip(found).enumerate().try_for_each(|(index, (item, found))| walk(item, Some(found), &format!("{path}[{index}]")))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) if actual == Some(expected) => Ok(()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => mismatch(path, format!("expected {expected}, got {}", shown(actual))),
    }
}

fn operate(operator: &str, operand: &Value, actual: Option<&Value>, path: &str) -> Result<(), Mismatch> {
    let holds = match (operator, operand, actual) {
        ("$exists", Value::Bool(wanted), _) => actual.is_some_and(|value| !value.is_null()) == *wanted,
        ("$not", unwanted, _) => walk(unwanted, actual, path).is_err(),
        ("$contains", Value::String(part), Some(Value::String(text))) => text.contains(part.as_str()),
        ("$contains", Value::Array(wanted), Some(Value::Array(found))) => {
            wanted.iter().all(|item| found.iter().any(|candidate| walk(item, Some(candidate), path).is_ok()))
        }
        ("$like", Value::String(pattern), Some(Value::String(text))) => like(pattern, text),
        ("$count", Value::Number(wanted), Some(Value::Array(found))) => wanted.as_u64() == Some(found.len() as u64),
        ("$count", Value::Number(wanted), Some(Value::String(text))) => wanted.as_u64() == Some(text.lines().count() as u64),
        ("$exists" | "$contains" | "$like" | "$count", _, _) => false,
        _ => return mismatch(path, format!("`{operator}` is not known; there are $contains, $like, $count, $exists, $not")),
    };
    if holds { Ok(()) } else { mismatch(path, format!("expected {operator} {operand}, got {}", shown(actual))) }
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    // `split` gives at least one piece.
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_match_is_partial() {
        let actual = json!({"kind": "Pod", "status": {"phase": "Running", "n": 1}, "tags": [{"Key": "a", "Value": "1"}, {"Key": "b"}]});
        for (expected, holds) in [
            (json!({"status": {"phase": "Running"}}), true),
            (json!({"status": {"phase": "Pending"}}), false),
            (json!({"status": {"gone": null}}), true),
            (json!({"status": {"phase": null}}), false),
            (json!({"tags": [{"Key": "a"}]}), false),
            (json!({"tags": [{"Key": "a"}, {}]}), true),
            (json!({"tags": {"$contains": [{"Key": "b"}]}}), true),
            (json!({"tags": {"$contains": [{"Key": "c"}]}}), false),
            (json!({"tags": {"$count": 2}}), true),
            (json!({"status": {"phase": {"$like": "R*n*g"}}}), true),
            (json!({"status": {"phase": {"$like": "R*x*g"}}}), false),
            (json!({"status": {"phase": {"$not": "Pending"}}}), true),
            (json!({"status": {"phase": {"$exists": false}}}), false),
            (json!({"status": {"n": "1"}}), false),
        ] {
            assert_eq!(matches(&expected, Some(&actual)).is_ok(), holds, "{expected}");
        }
    }

    #[test]
    fn a_mismatch_says_where() {
        let error = matches(&json!({"a": [{"b": 1}]}), Some(&json!({"a": [{"b": 2}]}))).unwrap_err();
        assert_eq!(error.to_string(), "a[0].b: expected 1, got 2");
        let error = matches(&json!({"a": {"$foo": 1}}), Some(&json!({"a": 1}))).unwrap_err();
        assert!(error.to_string().contains("`$foo` is not known"), "{error}");
    }

    #[test]
    fn patterns_need_the_whole_text() {
        assert!(like("abc", "abc") && !like("abc", "abcd") && like("a*", "a") && like("*", "") && like("*c", "abc") && !like("a*b", "a"));
    }
}
