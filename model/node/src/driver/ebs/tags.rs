//! Tags from `tagSpecification_*` parameters (`pkg/util/template`, `pkg/driver/validation.go`).

use std::collections::BTreeMap;

use super::DRIVER;

/// Evaluates `key=value` texts whose values may hold `{{ .PVCName }}` and the like.
pub(super) fn evaluate(specs: &[String], properties: &BTreeMap<&str, String>) -> Result<BTreeMap<String, String>, String> {
    let mut tags = BTreeMap::new();
    for spec in specs {
        let Some((key, value)) = spec.split_once('=') else {
            return Err(format!("the key-value pair doesn't contain a value (string: {spec})"));
        };
        tags.insert(key.to_owned(), interpolate(value, properties)?);
    }
    Ok(tags)
}

/// The part of Go's `text/template` that tag values use: `{{ .Field }}`, and a pipe to `toUpper` or `toLower`.
fn interpolate(value: &str, properties: &BTreeMap<&str, String>) -> Result<String, String> {
    let mut done = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, tail)) = after.split_once("}}") else {
            return Err("template: tmpl:1: unclosed action".to_owned());
        };
        done.push_str(before);
        let mut stages = action.split('|').map(str::trim);
        let field = stages.next().unwrap_or_default();
        let Some(mut text) = field.strip_prefix('.').and_then(|name| properties.get(name)).cloned() else {
            return Err(format!("template: tmpl:1: can't evaluate {field:?}; this driver knows fields, toUpper and toLower"));
        };
        for stage in stages {
            text = match stage {
                "toUpper" => text.to_uppercase(),
                "toLower" => text.to_lowercase(),
                other => return Err(format!("template: tmpl:1: function {other:?} not defined")),
            };
        }
        done.push_str(&text);
        rest = tail;
    }
    done.push_str(rest);
    Ok(done)
}

/// Keys that users must not set.
pub(super) fn validate<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    for key in keys {
        if ["CSIVolumeName", "CSIVolumeSnapshotName", "ebs.csi.aws.com/cluster-name"].contains(&key.as_str()) {
            return Err(format!("tag key '{key}' is reserved"));
        }
        if key.starts_with("kubernetes.io") {
            return Err("tag key prefix 'kubernetes.io' is reserved".to_owned());
        }
        if key.starts_with(&format!("{DRIVER}/")) {
            return Err(format!("tag key prefix '{DRIVER}/' is reserved"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_interpolated() {
        let properties = BTreeMap::from([("PVCName", "Data".to_owned())]);
        let specs = ["a=x-{{ .PVCName | toLower }}-y".to_owned(), "b=plain=1".to_owned()];
        let tags = evaluate(&specs, &properties).unwrap();
        assert_eq!(tags, BTreeMap::from([("a".to_owned(), "x-data-y".to_owned()), ("b".to_owned(), "plain=1".to_owned())]));
        assert!(evaluate(&["novalue".to_owned()], &properties).is_err());
        assert!(evaluate(&["a={{ .Nope }}".to_owned()], &properties).is_err());
        assert!(validate(["ebs.csi.aws.com/x".to_owned()].iter()).is_err());
    }
}
