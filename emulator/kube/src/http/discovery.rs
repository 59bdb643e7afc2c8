//! Discovery: aggregated and plain (kube-api.md §2).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use axum::response::Response;
use model_kube::object::Kind;
use model_kube::write::ApiError;
use serde_json::{Value, json};

use super::resource::Resource;
use super::{Shared, respond, review};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The Kubernetes release whose API this is.
pub const GIT_VERSION: &str = "v1.36.3";

pub fn version() -> Response {
    respond::json(
        200,
        &json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "35", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64"}),
    )
}

pub fn paths() -> Response {
    respond::json(200, &json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}))
}

/// A subresource: name, its kind's group, version and name, verbs.
type Sub = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

fn subresources(resource: &Resource) -> Vec<(Sub, Option<&str>)> {
    let mut out: Vec<(Sub, Option<&str>)> = Vec::new();
    if resource.kind == Kind::Pod {
        for sub in [
            ("attach", "", "", "PodAttachOptions", &["create", "get"] as &[_]),
            ("binding", "", "", "Binding", &["create"]),
            ("eviction", "policy", "v1", "Eviction", &["create"]),
            ("exec", "", "", "PodExecOptions", &["create", "get"]),
            ("log", "", "", "Pod", &["get"]),
            ("portforward", "", "", "PodPortForwardOptions", &["create", "get"]),
        ] {
            out.push((sub, None));
        }
    }
    if resource.kind == Kind::ServiceAccount {
        out.push((("token", "authentication.k8s.io", "v1", "TokenRequest", &["create"]), None));
    }
    if resource.scale() {
        out.push((("scale", "autoscaling", "v1", "Scale", &["get", "patch", "update"]), None));
    }
    if resource.status {
        out.push((("status", "", "", "", &["get", "patch", "update"]), Some(&resource.kind_name)));
    }
    out
}

fn groups_of(resources: &[Resource]) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    let names = resources.iter().map(|resource| (resource.group.as_str(), resource.version.as_str()));
    for (group, version) in names.chain(review::KINDS.iter().map(|(group, ..)| (*group, "v1"))) {
        match out.iter_mut().find(|(found, _)| found == group) {
            Some((_, versions)) if versions.iter().any(|found| found == version) => {}
            Some((_, versions)) => versions.push(version.to_owned()),
            None => out.push((group.to_owned(), vec![version.to_owned()])),
        }
    }
    out
}

fn aggregated_version(resources: &[Resource], group: &str, version: &str) -> Value {
    let mut listed = Vec::new();
    for resource in resources.iter().filter(|resource| resource.group == group && resource.version == version) {
        let mut one = json!({
            "resource": resource.plural,
            "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind_name},
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.singular,
            "verbs": VERBS,
        });
        if !resource.short.is_empty() {
            one["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            one["categories"] = json!(resource.categories);
        }
        let subs: Vec<Value> = subresources(resource)
            .into_iter()
            .map(|((name, group, version, kind, verbs), own)| {
                let (group, version) = if own.is_some() { (resource.group.as_str(), resource.version.as_str()) } else { (group, version) };
                json!({"subresource": name, "responseKind": {"group": group, "version": version, "kind": own.unwrap_or(kind)}, "verbs": verbs})
            })
            .collect();
        if !subs.is_empty() {
            one["subresources"] = json!(subs);
        }
        listed.push(one);
    }
    for (_, plural, kind, namespaced) in review::KINDS.iter().filter(|(found, ..)| *found == group && version == "v1") {
        listed.push(json!({
            "resource": plural, "responseKind": {"group": group, "version": version, "kind": kind},
            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.to_lowercase(), "verbs": ["create"],
        }));
    }
    json!({"version": version, "freshness": "Current", "resources": listed})
}

fn wants_aggregated(request: &Request<Body>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept
        .split(',')
        .map(|one| one.replace(' ', ""))
        .any(|one| one.contains("as=APIGroupDiscoveryList") && one.contains("v=v2;") || one.ends_with("v=v2"))
}

fn all(shared: &Shared) -> Vec<Resource> {
    shared.api.read(Resource::all)
}

fn aggregated(request: &Request<Body>, items: Vec<Value>) -> Response {
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    respond::cached(request, AGGREGATED, list.to_string())
}

pub fn core(shared: &Arc<Shared>, request: &Request<Body>) -> Response {
    if wants_aggregated(request) {
        let versions = vec![aggregated_version(&all(shared), "", "v1")];
        return aggregated(request, vec![json!({"metadata": {}, "versions": versions})]);
    }
    let list = json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": shared.addr.to_string()}]});
    respond::cached(request, "application/json", list.to_string())
}

fn plain_group(group: &str, versions: &[String]) -> Value {
    let named: Vec<Value> =
        versions.iter().map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version})).collect();
    json!({"name": group, "versions": named, "preferredVersion": named.first()})
}

pub fn groups(shared: &Arc<Shared>, request: &Request<Body>) -> Response {
    let resources = all(shared);
    let groups = groups_of(&resources).into_iter().filter(|(group, _)| !group.is_empty());
    if wants_aggregated(request) {
        let items = groups
            .map(|(group, versions)| {
                let versions: Vec<Value> = versions.iter().map(|version| aggregated_version(&resources, &group, version)).collect();
                json!({"metadata": {"name": group}, "versions": versions})
            })
            .collect();
        return aggregated(request, items);
    }
    let groups: Vec<Value> = groups.map(|(group, versions)| plain_group(&group, &versions)).collect();
    respond::cached(request, "application/json", json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}).to_string())
}

pub fn group(shared: &Arc<Shared>, name: &str) -> Response {
    match groups_of(&all(shared)).into_iter().find(|(group, _)| group == name && !group.is_empty()) {
        Some((group, versions)) => {
            let mut value = plain_group(&group, &versions);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            respond::json(200, &value)
        }
        None => respond::error(&ApiError::no_resource()),
    }
}

/// `APIResourceList` of a group and version.
pub fn resources(shared: &Arc<Shared>, group: &str, version: &str) -> Response {
    let mut listed = Vec::new();
    let mut seen = BTreeSet::new();
    for resource in all(shared).iter().filter(|resource| resource.group == group && resource.version == version) {
        seen.insert(resource.plural.clone());
        let mut one = json!({"name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind_name, "verbs": VERBS});
        if !resource.short.is_empty() {
            one["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            one["categories"] = json!(resource.categories);
        }
        listed.push(one);
        for ((name, group, version, kind, verbs), own) in subresources(resource) {
            let mut sub = json!({"name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": own.unwrap_or(kind), "verbs": verbs});
            if !group.is_empty() {
                sub["group"] = json!(group);
                sub["version"] = json!(version);
            }
            listed.push(sub);
        }
    }
    for (_, plural, kind, namespaced) in review::KINDS.iter().filter(|(found, ..)| *found == group && version == "v1") {
        listed.push(
            json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind, "verbs": ["create"]}),
        );
    }
    if listed.is_empty() {
        return respond::error(&ApiError::no_resource());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    respond::json(200, &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}))
}
