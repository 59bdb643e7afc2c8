//! Create, update, patch, delete, and the subresources that write.

use axum::http::{Method, header};
use axum::response::Response;
use model_kube::fields;
use model_kube::object::{Kind, Object};
use model_kube::store::Outcome;
use model_kube::write::{ApiError, Options, Patch, Propagation, Subresource, Write};
use serde_json::{Value, json};

use super::read::{self, Form, form, partial, show};
use super::resource::Call;
use super::{body, respond, table};
use crate::Reply;

fn options(call: &Call) -> Result<Options, ApiError> {
    call.query.options(call.header(header::USER_AGENT))
}

/// The answer of a write in the client's form.
fn answer(call: &Call, status: u16, reply: &Reply) -> Result<Response, ApiError> {
    let value = match form(call.header(header::ACCEPT))? {
        Form::Json => show(&call.resource, &reply.object)?,
        Form::Metadata => partial(&reply.object),
        Form::Table => table::of(call, std::slice::from_ref(&reply.object), None)?,
    };
    let mut response = respond::json(status, &value);
    respond::warn(&mut response, &reply.warnings);
    Ok(response)
}

/// Takes the body out of the request; headers and path stay.
async fn take_body(call: &mut Call) -> Result<(axum::body::Bytes, Option<String>), ApiError> {
    let mut taken = axum::http::Request::new(std::mem::take(call.request.body_mut()));
    taken.headers_mut().clone_from(call.request.headers());
    body::read(taken).await
}

/// Decodes the body as an object of the path's kind in the path's namespace.
fn decode(call: &Call, decoded: body::Decoded, options: &Options) -> Result<(Object, Vec<String>), ApiError> {
    let body::Decoded { mut json, mut problems } = decoded;
    let resource = &call.resource;
    let Some(given) = json.as_object_mut() else {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    };
    let api_version = resource.api_version();
    let said = |name: &str| given.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let (kind, version) = (said("kind"), said("apiVersion"));
    if kind.as_ref().is_some_and(|kind| *kind != resource.kind_name) || version.as_ref().is_some_and(|version| *version != api_version) {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: the API version in the data ({}) does not match the expected API version ({api_version})",
            kind.unwrap_or_default(),
            version.as_deref().and_then(|version| version.rsplit('/').next()).unwrap_or(""),
            resource.kind_name,
            version.as_deref().unwrap_or(""),
        )));
    }
    given.insert("kind".to_owned(), json!(resource.kind_name));
    given.insert("apiVersion".to_owned(), json!(api_version));
    let (mut object, unknown) = fields::decode(&resource.kind, json)?;
    problems.extend(unknown);
    let warnings = fields::judge(&resource.kind_name, &resource.version, &problems, options.validation)?;
    if resource.namespaced {
        match object.metadata().namespace.as_deref() {
            None | Some("") => object.metadata_mut().namespace = Some(call.namespace.clone()),
            Some(given) if given == call.namespace || call.namespace.is_empty() => {}
            Some(_) => {
                return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
            }
        }
    }
    Ok((object, warnings))
}

pub async fn create(mut call: Call) -> Result<Response, ApiError> {
    let options = options(&call)?;
    let (bytes, media) = take_body(&mut call).await?;
    let (object, warnings) = decode(&call, body::decode(&bytes, media.as_deref())?, &options)?;
    if call.resource.namespaced && call.namespace.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let mut reply = call.shared.api.write_with(Write::Create { object }, options).await?;
    reply.warnings.splice(0..0, warnings);
    answer(&call, 201, &reply)
}

pub async fn update(mut call: Call, name: &str, subresource: Subresource) -> Result<Response, ApiError> {
    let options = options(&call)?;
    let (bytes, media) = take_body(&mut call).await?;
    let (object, warnings) = decode(&call, body::decode(&bytes, media.as_deref())?, &options)?;
    if object.metadata().name.as_deref().unwrap_or("") != name {
        let given = object.metadata().name.clone().unwrap_or_default();
        return Err(ApiError::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})")));
    }
    let mut reply = call.shared.api.write_with(Write::Update { object, subresource }, options).await?;
    reply.warnings.splice(0..0, warnings);
    answer(&call, 200, &reply)
}

pub async fn patch(mut call: Call, name: &str, subresource: Subresource) -> Result<Response, ApiError> {
    const TYPES: &str =
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
    let options = options(&call)?;
    let (bytes, media) = take_body(&mut call).await?;
    let patch = match media.as_deref().unwrap_or("") {
        "application/json-patch+json" => Patch::Json(body::json(&bytes)?.json),
        "application/merge-patch+json" => Patch::Merge(body::json(&bytes)?.json),
        "application/strategic-merge-patch+json" => Patch::Strategic(body::json(&bytes)?.json),
        "application/apply-patch+yaml" => {
            if call.query.get("fieldManager").is_none() {
                return Err(ApiError::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            Patch::Apply { object: body::yaml(&bytes)?.json, force: call.query.flag("force") }
        }
        _ => return Err(ApiError::unsupported_media_type(TYPES)),
    };
    let key = call.key(name);
    let reply = call.shared.api.write_with(Write::Patch { key, patch, subresource }, options).await?;
    let status = if reply.outcome == Outcome::Created { 201 } else { 200 };
    answer(&call, status, &reply)
}

/// `DeleteOptions`, from the body and the query.
struct DeleteOptions {
    grace_seconds: Option<i64>,
    propagation: Propagation,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

async fn delete_options(call: &mut Call) -> Result<DeleteOptions, ApiError> {
    let (bytes, media) = take_body(call).await?;
    let json = if bytes.is_empty() { json!({}) } else { body::decode(&bytes, media.as_deref())?.json };
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let policy = text("/propagationPolicy").or_else(|| call.query.get("propagationPolicy").map(str::to_owned));
    let orphan = json.get("orphanDependents").and_then(Value::as_bool).unwrap_or(false) || call.query.flag("orphanDependents");
    let propagation = match policy.as_deref() {
        Some("Foreground") => Propagation::Foreground,
        Some("Orphan") => Propagation::Orphan,
        Some("Background") => Propagation::Background,
        None if orphan => Propagation::Orphan,
        None => Propagation::Background,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            )));
        }
    };
    let from_query = call.query.get("gracePeriodSeconds").and_then(|text| text.parse().ok());
    let in_body = json.get("dryRun").and_then(Value::as_array).is_some_and(|list| list.iter().any(|one| one == "All"));
    Ok(DeleteOptions {
        grace_seconds: json.get("gracePeriodSeconds").and_then(Value::as_i64).or(from_query),
        propagation,
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
        dry_run: in_body || call.query.get("dryRun") == Some("All"),
    })
}

/// Kinds whose deletion answers the object; the others answer a Status.
fn returns_object(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::ConfigMap
            | Kind::Secret
            | Kind::Event
            | Kind::Lease
            | Kind::Node
            | Kind::CSIStorageCapacity
            | Kind::StatefulSet
            | Kind::Deployment
            | Kind::ReplicaSet
            | Kind::DaemonSet
            | Kind::Job
            | Kind::ControllerRevision
            | Kind::CustomResourceDefinition
            | Kind::Custom { .. }
    )
}

pub async fn delete(mut call: Call, name: &str) -> Result<Response, ApiError> {
    let given = delete_options(&mut call).await?;
    let key = call.key(name);
    let write = Write::Delete {
        key,
        uid: given.uid,
        resource_version: given.resource_version,
        grace_seconds: given.grace_seconds,
        propagation: given.propagation,
    };
    let options = Options { dry_run: given.dry_run, ..Options::default() };
    let reply = call.shared.api.write_with(write, options).await?;
    if reply.outcome == Outcome::Removed && !returns_object(&call.resource.kind) {
        let resource = &call.resource;
        let mut details = json!({"name": name, "kind": resource.plural, "uid": reply.object.uid()});
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
        return Ok(respond::json(200, &status));
    }
    answer(&call, 200, &reply)
}

pub async fn delete_collection(mut call: Call) -> Result<Response, ApiError> {
    let given = delete_options(&mut call).await?;
    let page = read::page(&call)?;
    let mut items = Vec::with_capacity(page.objects.len());
    for object in &page.objects {
        let write = Write::Delete {
            key: object.key(),
            uid: None,
            resource_version: None,
            grace_seconds: given.grace_seconds,
            propagation: given.propagation,
        };
        let options = Options { dry_run: given.dry_run, ..Options::default() };
        match call.shared.api.write_with(write, options).await {
            Ok(reply) => items.push(show(&call.resource, &reply.object)?),
            // Someone else deleted it meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(respond::json(
        200,
        &json!({"kind": format!("{}List", call.resource.kind_name), "apiVersion": call.resource.api_version(),
            "metadata": {"resourceVersion": page.version.to_string()}, "items": items}),
    ))
}

/// The `autoscaling/v1` Scale of an object.
fn scale_of(object: &Object) -> Value {
    let json = object.to_json().unwrap_or_default();
    let metadata = object.metadata();
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid,
            "resourceVersion": metadata.resource_version, "creationTimestamp": metadata.creation_timestamp},
        "spec": {"replicas": json.pointer("/spec/replicas").cloned().unwrap_or(json!(1))},
        "status": {"replicas": json.pointer("/status/replicas").cloned().unwrap_or(json!(0))},
    });
    let labels = json.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    if let Some(labels) = labels {
        let text: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
        scale["status"]["selector"] = json!(text.join(","));
    }
    scale
}

pub async fn scale(mut call: Call, name: &str, method: &Method) -> Result<Response, ApiError> {
    let key = call.key(name);
    let current = call.shared.api.read(|store| store.object(&key).cloned());
    let current = current.ok_or_else(|| ApiError::not_found(&key.kind, name))?;
    let wanted = match *method {
        Method::GET => return Ok(respond::json(200, &scale_of(&current))),
        Method::PUT => {
            let (bytes, media) = take_body(&mut call).await?;
            body::decode(&bytes, media.as_deref())?.json
        }
        Method::PATCH => {
            let (bytes, media) = take_body(&mut call).await?;
            let given = body::json(&bytes)?.json;
            let patch = if media.as_deref() == Some("application/json-patch+json") { Patch::Json(given) } else { Patch::Merge(given) };
            model_kube::patch::apply(&key.kind, scale_of(&current), &patch)?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let replicas = wanted.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    let replicas = i32::try_from(replicas).ok().filter(|replicas| *replicas >= 0).ok_or_else(|| {
        let cause = model_kube::write::Cause {
            reason: "FieldValueInvalid".to_owned(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            field: "spec.replicas".to_owned(),
        };
        ApiError::invalid(&key.kind, name, vec![cause])
    })?;
    // A precondition only where the client names a version itself.
    let resource_version = match *method {
        Method::PUT => wanted.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let options = options(&call)?;
    let reply = call.shared.api.write_with(Write::Scale { key, replicas, resource_version }, options).await?;
    Ok(respond::json(200, &scale_of(&reply.object)))
}

fn created() -> Response {
    respond::json(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

pub async fn bind(mut call: Call, name: &str) -> Result<Response, ApiError> {
    let options = options(&call)?;
    let (bytes, media) = take_body(&mut call).await?;
    let binding = body::decode(&bytes, media.as_deref())?.json;
    let node = binding.pointer("/target/name").and_then(Value::as_str).filter(|node| !node.is_empty());
    let node = node.ok_or_else(|| ApiError::bad_request("Binding \"\" is invalid: target.name: Required value"))?.to_owned();
    let uid = binding.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
    call.shared.api.write_with(Write::Bind { pod: call.key(name), uid, node }, options).await?;
    Ok(created())
}

pub async fn evict(mut call: Call, name: &str) -> Result<Response, ApiError> {
    let (bytes, media) = take_body(&mut call).await?;
    let eviction = if bytes.is_empty() { json!({}) } else { body::decode(&bytes, media.as_deref())?.json };
    let text = |pointer: &str| eviction.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let in_body = eviction.pointer("/deleteOptions/dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let write = Write::Delete {
        key: call.key(name),
        uid: text("/deleteOptions/preconditions/uid"),
        resource_version: text("/deleteOptions/preconditions/resourceVersion"),
        grace_seconds: eviction.pointer("/deleteOptions/gracePeriodSeconds").and_then(Value::as_i64),
        propagation: Propagation::Background,
    };
    let dry_run = in_body || call.query.get("dryRun") == Some("All");
    call.shared.api.write_with(write, Options { dry_run, ..Options::default() }).await?;
    Ok(created())
}
