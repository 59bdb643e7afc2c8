//! Label and field selectors (kube-api.md §3).

use std::collections::BTreeMap;

use model_kube::object::{Kind, Object};
use model_kube::write::ApiError;

use super::query::Query;
use super::resource::Resource;

/// What an object must match.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq)]
struct Label {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    path: String,
    equal: bool,
    value: String,
}

impl Selector {
    pub fn parse(resource: &Resource, query: &Query) -> Result<Self, ApiError> {
        let labels = query.get("labelSelector").map(labels).transpose()?.unwrap_or_default();
        let fields = query.get("fieldSelector").map(|text| fields(resource, text)).transpose()?.unwrap_or_default();
        Ok(Self { labels, fields })
    }

    /// Also demands this name.
    pub fn with_name(mut self, name: &str) -> Self {
        self.fields.push(Field { path: "metadata.name".to_owned(), equal: true, value: name.to_owned() });
        self
    }

    /// The one name that can match.
    pub fn name(&self) -> Option<&str> {
        self.fields.iter().find(|field| field.equal && field.path == "metadata.name").map(|field| field.value.as_str())
    }

    pub fn matches(&self, object: &Object) -> bool {
        self.labels.iter().all(|label| label.matches(object.metadata().labels.as_ref()))
            && self.fields.iter().all(|field| (value(object, &field.path) == field.value) == field.equal)
    }
}

impl Label {
    fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let found = labels.and_then(|labels| labels.get(&self.key));
        let number = || found.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => found.is_some_and(|found| values.contains(found)),
            Test::NotIn(values) => found.is_none_or(|found| !values.contains(found)),
            Test::Exists => found.is_some(),
            Test::Missing => found.is_none(),
            Test::Greater(than) => number().is_some_and(|number| number > *than),
            Test::Less(than) => number().is_some_and(|number| number < *than),
        }
    }
}

fn labels(text: &str) -> Result<Vec<Label>, ApiError> {
    let bad = |what: &str| ApiError::bad_request(format!("unable to parse requirement: {what}"));
    let mut out = Vec::new();
    for part in split(text) {
        let part = part.trim();
        if part.is_empty() {
            continue;
        }
        let label = |key: &str, test: Test| -> Result<Label, ApiError> {
            let key = key.trim();
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(bad(&format!("found '{part}', expected: a label key and an operator")));
            }
            Ok(Label { key: key.to_owned(), test })
        };
        let set = |rest: &str| -> Result<Vec<String>, ApiError> {
            let inner = rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            let inner = inner.ok_or_else(|| bad(&format!("found '{rest}', expected: '('")))?;
            Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
        };
        let words: Vec<&str> = part.splitn(2, char::is_whitespace).collect();
        let operator = words.get(1).map_or("", |rest| rest.trim_start());
        let found = if let Some(rest) = operator.strip_prefix("notin") {
            label(words[0], Test::NotIn(set(rest)?))?
        } else if let Some(rest) = operator.strip_prefix("in").filter(|rest| rest.trim_start().starts_with('(')) {
            label(words[0], Test::In(set(rest)?))?
        } else if let Some((key, value)) = part.split_once("!=") {
            label(key, Test::NotIn(vec![value.trim().to_owned()]))?
        } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            label(key, Test::In(vec![value.trim().to_owned()]))?
        } else if let Some((key, value)) = part.split_once('>') {
            label(key, Test::Greater(value.trim().parse().map_err(|_| bad("for 'Gt' the value must be an integer"))?))?
        } else if let Some((key, value)) = part.split_once('<') {
            label(key, Test::Less(value.trim().parse().map_err(|_| bad("for 'Lt' the value must be an integer"))?))?
        } else if let Some(key) = part.strip_prefix('!') {
            label(key, Test::Missing)?
        } else {
            label(part, Test::Exists)?
        };
        out.push(found);
    }
    Ok(out)
}

/// At commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn fields(resource: &Resource, text: &str) -> Result<Vec<Field>, ApiError> {
    let mut out = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
            (path, false, value)
        } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (path, true, value)
        } else {
            return Err(ApiError::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")));
        };
        let path = path.trim();
        let common = matches!(path, "metadata.name" | "metadata.namespace");
        if !common && !supported(&resource.kind).contains(&path) {
            return Err(ApiError::bad_request(format!("field label not supported: {path}")));
        }
        out.push(Field { path: path.to_owned(), equal, value: value.replace('\\', "") });
    }
    Ok(out)
}

fn supported(kind: &Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Kind::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Kind::Node => &["spec.unschedulable"],
        Kind::Secret => &["type"],
        Kind::Namespace => &["status.phase"],
        Kind::Job => &["status.successful"],
        _ => &[],
    }
}

/// The value of a field; empty where it is not set.
fn value(object: &Object, path: &str) -> String {
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let metadata = object.metadata();
    match (object, path) {
        (_, "metadata.name") => text(metadata.name.as_ref()),
        (_, "metadata.namespace") => text(metadata.namespace.as_ref()),
        (Object::Pod(pod), path) => {
            let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
            match path {
                "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
                "spec.restartPolicy" => text(spec.and_then(|spec| spec.restart_policy.as_ref())),
                "spec.schedulerName" => text(spec.and_then(|spec| spec.scheduler_name.as_ref())),
                "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
                "spec.hostNetwork" => spec.and_then(|spec| spec.host_network).unwrap_or(false).to_string(),
                "status.phase" => text(status.and_then(|status| status.phase.as_ref())),
                "status.podIP" => text(status.and_then(|status| status.pod_ip.as_ref())),
                "status.nominatedNodeName" => text(status.and_then(|status| status.nominated_node_name.as_ref())),
                _ => String::new(),
            }
        }
        (Object::Event(event), path) => {
            let about = &event.involved_object;
            match path {
                "involvedObject.kind" => text(about.kind.as_ref()),
                "involvedObject.namespace" => text(about.namespace.as_ref()),
                "involvedObject.name" => text(about.name.as_ref()),
                "involvedObject.uid" => text(about.uid.as_ref()),
                "involvedObject.apiVersion" => text(about.api_version.as_ref()),
                "involvedObject.resourceVersion" => text(about.resource_version.as_ref()),
                "involvedObject.fieldPath" => text(about.field_path.as_ref()),
                "reason" => text(event.reason.as_ref()),
                "reportingComponent" => text(event.reporting_component.as_ref()),
                "source" => {
                    let source = event.source.as_ref().and_then(|source| source.component.as_ref());
                    text(source.or(event.reporting_component.as_ref()))
                }
                "type" => text(event.type_.as_ref()),
                _ => String::new(),
            }
        }
        (Object::Node(node), "spec.unschedulable") => node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false).to_string(),
        (Object::Secret(secret), "type") => text(secret.type_.as_ref()),
        (Object::Namespace(namespace), "status.phase") => text(namespace.status.as_ref().and_then(|status| status.phase.as_ref())),
        (Object::Job(job), "status.successful") => job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0).to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors() {
        let all: BTreeMap<String, String> = [("app", "web"), ("tier", "1")].map(|(key, value)| (key.into(), value.into())).into();
        for (text, expected) in [
            ("app=web", true),
            ("app==web,tier!=2", true),
            ("app in (web, db),!gone", true),
            ("app notin (web)", false),
            ("gone", false),
            ("tier>0", true),
            ("tier<1", false),
            ("in in (in)", false),
        ] {
            assert_eq!(labels(text).unwrap().iter().all(|label| label.matches(Some(&all))), expected, "{text}");
        }
        assert!(labels("app in web").is_err());
    }
}
