//! OpenAPI v3 (kube-api.md §2): an index, and a document per group and version with schemas from the types themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core, storage::v1 as storage};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::schemars::{SchemaGenerator, generate::SchemaSettings};
use model_kube::patch::keys::{self, ListKind};
use serde_json::{Map, Value, json};

use super::resource::Resource;
use super::{Shared, respond};

/// The documents of the built-in groups, made when first asked for.
#[derive(Default)]
pub struct Documents {
    schemas: OnceLock<Map<String, Value>>,
}

fn generate() -> Map<String, Value> {
    let mut generator: SchemaGenerator = SchemaSettings::openapi3().into_generator();
    macro_rules! add {
        ($($type:ty),* $(,)?) => { $(generator.subschema_for::<$type>();)* };
    }
    add!(
        core::Namespace,
        core::Node,
        core::Pod,
        core::PersistentVolumeClaim,
        core::PersistentVolume,
        core::Event,
        core::ConfigMap,
        core::Secret,
        core::ServiceAccount,
        coordination::Lease,
        storage::StorageClass,
        storage::VolumeAttachment,
        storage::CSIDriver,
        storage::CSINode,
        storage::CSIStorageCapacity,
        storage::VolumeAttributesClass,
        apps::StatefulSet,
        apps::Deployment,
        apps::ReplicaSet,
        apps::ControllerRevision,
        apps::DaemonSet,
        batch::Job,
        apiextensions::CustomResourceDefinition,
    );
    let mut schemas = generator.take_definitions(true);
    schemas.values_mut().for_each(kubernetes_style);
    schemas
}

/// A reference with a description is an `allOf`; lists say how they merge.
fn kubernetes_style(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.len() > 1
                && let Some(reference) = fields.shift_remove("$ref")
            {
                fields.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                for (name, property) in properties {
                    if property.as_bool() == Some(true) {
                        // "Anything" is an empty schema in OpenAPI 3.0.
                        *property = json!({});
                    }
                    merge_keys(name, property);
                }
            }
            if let Some(items) = fields.get_mut("items").filter(|items| items.as_bool() == Some(true)) {
                *items = json!({});
            }
            if let Some(Value::Array(required)) = fields.get_mut("required") {
                // The types always have metadata; a client may leave it out.
                required.retain(|name| name != "metadata");
            }
            if fields.get("required").is_some_and(|required| required == &json!([])) {
                fields.shift_remove("required");
            }
            fields.values_mut().for_each(kubernetes_style);
        }
        Value::Array(items) => items.iter_mut().for_each(kubernetes_style),
        _ => {}
    }
}

fn merge_keys(name: &str, property: &mut Value) {
    if name == "strategy" {
        property["x-kubernetes-patch-strategy"] = json!("retainKeys");
        return;
    }
    if property.get("type").and_then(Value::as_str) != Some("array") {
        return;
    }
    match keys::of(name) {
        ListKind::Map { merge, apply } => {
            // Only lists of objects have keys.
            if property.pointer("/items/$ref").is_some() {
                property["x-kubernetes-list-map-keys"] = json!(apply);
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-patch-merge-key"] = json!(merge);
                property["x-kubernetes-patch-strategy"] = json!(if name == "volumes" { "merge,retainKeys" } else { "merge" });
            }
        }
        ListKind::Set => {
            property["x-kubernetes-list-type"] = json!("set");
            property["x-kubernetes-patch-strategy"] = json!("merge");
        }
        ListKind::Atomic => property["x-kubernetes-list-type"] = json!("atomic"),
    }
}

/// `io.k8s.api.core.v1.Pod`
fn schema_name(resource: &Resource) -> String {
    let (package, version, kind) = (&resource.group, &resource.version, &resource.kind_name);
    match package.as_str() {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        group if resource.custom => {
            let reversed: Vec<&str> = group.split('.').rev().collect();
            format!("{}.{version}.{kind}", reversed.join("."))
        }
        group => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}

/// Adds a schema and all that it refers to.
fn collect(all: &Map<String, Value>, name: &str, out: &mut Map<String, Value>) {
    if out.contains_key(name) {
        return;
    }
    let Some(schema) = all.get(name) else { return };
    out.insert(name.to_owned(), schema.clone());
    let mut wanted = Vec::new();
    references(schema, &mut wanted);
    for name in wanted {
        collect(all, &name, out);
    }
}

fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
                out.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

fn operation(resource: &Resource, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> =
        parameters.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})).collect();
    json!({
        "tags": [], "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json":
            {"schema": {"$ref": format!("#/components/schemas/{}", schema_name(resource))}}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": resource.group, "kind": resource.kind_name, "version": resource.version},
    })
}

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];

fn paths(resources: &[Resource]) -> Map<String, Value> {
    let mut out = Map::new();
    for resource in resources {
        let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
        let namespace = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let list = format!("{root}/{}{namespace}/{}", resource.version, resource.plural);
        out.insert(
            list.clone(),
            json!({"get": operation(resource, "list", &["limit", "continue", "labelSelector", "fieldSelector", "watch"]),
                "post": operation(resource, "post", &WRITE)}),
        );
        out.insert(
            format!("{list}/{{name}}"),
            json!({"get": operation(resource, "get", &[]), "put": operation(resource, "put", &WRITE),
                "patch": operation(resource, "patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
                "delete": operation(resource, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"])}),
        );
    }
    out
}

/// The schemas that a definition brings.
fn custom_schemas(shared: &Shared, resources: &[Resource]) -> Map<String, Value> {
    let mut out = Map::new();
    for resource in resources.iter().filter(|resource| resource.custom) {
        let schema = shared.api.read(|store| {
            let versions = &store.definition(&resource.kind)?.spec.versions;
            let schema = versions.iter().find(|version| version.name == resource.version)?.schema.as_ref()?;
            serde_json::to_value(schema.open_api_v3_schema.as_ref()?).ok()
        });
        let mut schema = schema.unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for name in ["apiVersion", "kind"] {
                properties.entry(name).or_insert_with(|| json!({"type": "string"}));
            }
            let metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
            properties.insert("metadata".to_owned(), json!({"allOf": [{"$ref": metadata}]}));
        }
        out.insert(schema_name(resource), schema);
    }
    out
}

fn document(shared: &Shared, resources: &[Resource]) -> Value {
    let all = shared.openapi.schemas.get_or_init(generate);
    let mut schemas = custom_schemas(shared, resources);
    if !schemas.is_empty() {
        collect(all, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &mut schemas);
    }
    for resource in resources {
        let name = schema_name(resource);
        collect(all, &name, &mut schemas);
        if let Some(schema) = schemas.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": resource.group, "kind": resource.kind_name, "version": resource.version}]);
        }
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": super::discovery::GIT_VERSION},
        "paths": paths(resources), "components": {"schemas": schemas},
    })
}

/// The documents by their names: `api/v1`, `apis/apps/v1`.
fn by_name(shared: &Shared) -> BTreeMap<String, Vec<Resource>> {
    let mut out: BTreeMap<String, Vec<Resource>> = BTreeMap::new();
    for resource in shared.api.read(Resource::all) {
        let name = match resource.group.as_str() {
            "" => format!("api/{}", resource.version),
            group => format!("apis/{group}/{}", resource.version),
        };
        out.entry(name).or_default().push(resource);
    }
    out
}

/// OpenAPI v2, which kubectl asks for where v3 does not know a kind: a document without definitions, in the encoding of gnostic
/// (field 1 of its `Document` is the version). kubectl then leaves the validation to the server.
pub fn serve_v2(request: &Request<Body>) -> Response {
    let accept = request.headers().get(axum::http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("protobuf") {
        const TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return ([(axum::http::header::CONTENT_TYPE, TYPE)], b"\x0a\x032.0".to_vec()).into_response();
    }
    respond::cached(request, "application/json", json!({"swagger": "2.0", "info": {"title": "Kubernetes"}, "paths": {}}).to_string())
}

pub fn serve(shared: &Arc<Shared>, rest: &[&str], request: &Request<Body>) -> Response {
    let mut documents = by_name(shared);
    if rest.is_empty() {
        let paths: Map<String, Value> = documents
            .iter()
            .map(|(name, resources)| {
                // A document changes only with its definitions.
                let mut digest = model_common::digest::Digest::default();
                digest.bytes(env!("CARGO_PKG_VERSION").as_bytes());
                for resource in resources.iter().filter(|resource| resource.custom) {
                    digest.bytes(resource.kind_name.as_bytes());
                    let version = shared.api.read(|store| store.definition(&resource.kind).and_then(|found| found.metadata.generation));
                    digest.bytes(&version.unwrap_or(0).to_le_bytes());
                }
                let hash = digest.to_string().to_uppercase();
                (name.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")}))
            })
            .collect();
        return respond::cached(request, "application/json", json!({"paths": paths}).to_string());
    }
    match documents.remove(&rest.join("/")) {
        Some(resources) => respond::cached(request, "application/json", document(shared, &resources).to_string()),
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model_kube::object::Kind;

    #[test]
    fn every_built_in_kind_has_a_schema_under_its_name() {
        let schemas = generate();
        for kind in model_kube::resource::BUILT_IN {
            let info = kind.info().unwrap();
            let group = match info.group {
                "" => "core".to_owned(),
                group => group.split('.').next().unwrap().to_owned(),
            };
            let name = if kind == Kind::CustomResourceDefinition {
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition".to_owned()
            } else {
                format!("io.k8s.api.{group}.v1.{}", info.kind)
            };
            assert!(schemas.contains_key(&name), "{name}");
        }
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    }
}
