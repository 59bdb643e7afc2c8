//! The unified diff that the API shows where a change is forbidden: of both values as indented JSON with Go's field names
//! (apimachinery `util/diff`).

use serde_json::Value;

const CONTEXT: usize = 3;

/// The diff of two values; empty where they are equal.
pub fn diff(old: &Value, new: &Value) -> String {
    let (old, new) = (lines(old), lines(new));
    unified(&old, &new)
}

fn lines(value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    print(value, 0, "", false, &mut out);
    out
}

fn go_name(name: &str) -> String {
    for initial in ["csi", "nfs", "fc"] {
        if name == initial {
            return name.to_uppercase();
        }
    }
    let mut chars = name.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn print(value: &Value, depth: usize, label: &str, comma: bool, out: &mut Vec<String>) {
    let pad = " ".repeat(depth);
    let end = if comma { "," } else { "" };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push(format!("{pad}{label}{{"));
            let last = fields.len() - 1;
            for (index, (name, value)) in fields.iter().enumerate() {
                print(value, depth + 1, &format!("\"{}\": ", go_name(name)), index < last, out);
            }
            out.push(format!("{pad}}}{end}"));
        }
        Value::Array(items) if !items.is_empty() => {
            out.push(format!("{pad}{label}["));
            let last = items.len() - 1;
            for (index, item) in items.iter().enumerate() {
                print(item, depth + 1, "", index < last, out);
            }
            out.push(format!("{pad}]{end}"));
        }
        other => out.push(format!("{pad}{label}{other}{end}")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Edit {
    Keep(usize, usize),
    Drop(usize),
    Add(usize),
}

fn unified(old: &[String], new: &[String]) -> String {
    let edits = edits(old, new);
    let mut out = String::new();
    let changed: Vec<usize> = (0..edits.len()).filter(|at| !matches!(edits[*at], Edit::Keep(..))).collect();
    let mut at = 0;
    while at < changed.len() {
        let start = changed[at].saturating_sub(CONTEXT);
        let mut end = changed[at];
        while at < changed.len() && changed[at] <= end + 2 * CONTEXT + 1 {
            end = changed[at];
            at += 1;
        }
        let hunk = &edits[start..(end + CONTEXT + 1).min(edits.len())];
        let first = |pick: fn(&Edit) -> Option<usize>| hunk.iter().find_map(pick).map_or(0, |line| line + 1);
        let in_old = |edit: &Edit| match edit {
            Edit::Keep(line, _) | Edit::Drop(line) => Some(*line),
            Edit::Add(_) => None,
        };
        let in_new = |edit: &Edit| match edit {
            Edit::Keep(_, line) | Edit::Add(line) => Some(*line),
            Edit::Drop(_) => None,
        };
        let count = |pick: fn(&Edit) -> Option<usize>| hunk.iter().filter_map(pick).count();
        out.push_str(&format!("@@ -{},{} +{},{} @@\n", first(in_old), count(in_old), first(in_new), count(in_new)));
        for edit in hunk {
            match edit {
                Edit::Keep(line, _) => out.push_str(&format!(" {}\n", old[*line])),
                Edit::Drop(line) => out.push_str(&format!("-{}\n", old[*line])),
                Edit::Add(line) => out.push_str(&format!("+{}\n", new[*line])),
            }
        }
    }
    out
}

/// Longest common subsequence. Specs have a few hundred lines at most; beyond that the whole is shown as replaced.
fn edits(old: &[String], new: &[String]) -> Vec<Edit> {
    let mut out = Vec::new();
    if old.len() * new.len() > 4_000_000 {
        out.extend((0..old.len()).map(Edit::Drop));
        out.extend((0..new.len()).map(Edit::Add));
        return out;
    }
    let mut length = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i][j] = if old[i] == new[j] { length[i + 1][j + 1] + 1 } else { length[i + 1][j].max(length[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push(Edit::Keep(i, j));
            i += 1;
            j += 1;
        } else if i < old.len() && (j == new.len() || length[i + 1][j] >= length[i][j + 1]) {
            out.push(Edit::Drop(i));
            i += 1;
        } else {
            out.push(Edit::Add(j));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_changed_field_is_one_hunk() {
        let old = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "a"});
        let new = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "b"});
        let expected = "@@ -2,5 +2,5 @@\n  \"AccessModes\": [\n   \"ReadWriteOnce\"\n  ],\n- \"StorageClassName\": \"a\"\n+ \"StorageClassName\": \"b\"\n }\n";
        assert_eq!(diff(&old, &new), expected);
        assert_eq!(diff(&old, &old), "");
    }
}
