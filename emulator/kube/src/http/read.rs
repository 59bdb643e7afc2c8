//! Get and list, in the form that the client accepts.

use std::borrow::Borrow;

use axum::http::header;
use axum::response::Response;
use base64::Engine as _;
use model_kube::object::{Key, Object};
use model_kube::store::Store;
use model_kube::write::ApiError;
use serde_json::{Value, json};

use super::options::{self, Wanted};
use super::resource::{Call, Resource};
use super::selector::Selector;
use super::{respond, table};

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Table,
    /// `PartialObjectMetadata`.
    Metadata,
}

/// What the client accepts, the first that is known.
pub fn form(accept: Option<&str>) -> Result<Form, ApiError> {
    let accept = accept.unwrap_or("*/*");
    for one in accept.split(',') {
        let mut parts = one.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let target = parts.find_map(|part| part.strip_prefix("as="));
        if !matches!(media, "application/json" | "application/*" | "*/*" | "") {
            continue;
        }
        match target {
            None => return Ok(Form::Json),
            Some("Table") => return Ok(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Form::Metadata),
            Some(_) => {}
        }
    }
    // Answers are JSON; clients that ask for protobuf or YAML alone take it too, since the answer names its type.
    if accept.contains("application/vnd.kubernetes.protobuf") || accept.contains("application/yaml") || accept.contains("text/") {
        return Ok(Form::Json);
    }
    let mut error = ApiError::bad_request(
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    error.code = 406;
    error.reason = model_kube::write::Reason::NotAcceptable;
    Err(error)
}

/// An object as the path's version shows it.
pub fn show(resource: &Resource, object: &Object) -> Result<Value, ApiError> {
    let mut json = object.to_json().map_err(ApiError::internal)?;
    if resource.custom {
        json["apiVersion"] = json!(resource.api_version());
    }
    Ok(json)
}

/// Name and metadata only.
pub fn partial(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata()})
}

pub fn get(call: &Call, name: &str) -> Result<Response, ApiError> {
    let form = form(call.header(header::ACCEPT))?;
    let key = call.key(name);
    let found = call.shared.api.read(|store| store.object(&key).cloned());
    let object = found.ok_or_else(|| ApiError::not_found(&key.kind, name))?;
    let value = match form {
        Form::Json => show(&call.resource, &object)?,
        Form::Metadata => partial(&object),
        Form::Table => table::of(call, &[object], None)?,
    };
    Ok(respond::json(200, &value))
}

/// Where a list goes on.
#[derive(serde::Serialize, serde::Deserialize)]
struct Continue {
    /// The version of the first page: what a watch starts from.
    rv: u64,
    namespace: String,
    name: String,
}

/// A page of objects.
pub struct Page {
    pub version: u64,
    pub objects: Vec<Object>,
    pub next: Option<(String, usize)>,
}

/// The pages of one list show one state: that of the first page.
pub fn page(call: &Call) -> Result<Page, ApiError> {
    let selector = Selector::parse(&call.resource, &call.query)?;
    let wanted = options::list(&call.query)?;
    let limit = call.query.number("limit")?.filter(|limit| *limit > 0).map_or(usize::MAX, |limit| limit as usize);
    let token = call.query.get("continue").map(decode_token).transpose()?;
    call.shared.api.read(|store| {
        let version = match (&token, wanted) {
            (Some(token), _) => token.rv,
            (None, Wanted::Exactly(version)) => version,
            (None, Wanted::NotOlderThan(version)) => {
                not_newer(version, store.version())?;
                store.version()
            }
            (None, Wanted::Now) => store.version(),
        };
        not_newer(version, store.version())?;
        if version == store.version() {
            return take(call, &selector, token.as_ref(), version, limit, store);
        }
        let found = store.range_at(first(call, &selector, token.as_ref()), version).map_err(|_| {
            ApiError::expired(match token {
                Some(_) => CONTINUE_EXPIRED,
                None => "The resourceVersion for the provided list is too old.",
            })
        })?;
        collect(call, &selector, version, limit, found)
    })
}

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. \
    You must start a new list without the continue parameter.";

/// Where a page begins.
fn first(call: &Call, selector: &Selector, token: Option<&Continue>) -> Key {
    match token {
        Some(token) => Key::new(call.resource.kind.clone(), &token.namespace, &token.name),
        None if everywhere(call) => Key::new(call.resource.kind.clone(), "", ""),
        None => Key::new(call.resource.kind.clone(), &call.namespace, selector.name().unwrap_or("")),
    }
}

fn everywhere(call: &Call) -> bool {
    call.namespace.is_empty() && call.resource.namespaced
}

/// A page of what is there now.
fn take(call: &Call, selector: &Selector, token: Option<&Continue>, version: u64, limit: usize, store: &Store) -> Result<Page, ApiError> {
    if let (Some(name), None, false) = (selector.name(), token, everywhere(call)) {
        let key = Key::new(call.resource.kind.clone(), &call.namespace, name);
        let found = store.object(&key).filter(|object| selector.matches(object));
        return Ok(Page { version, objects: found.cloned().into_iter().collect(), next: None });
    }
    let found = store.range_from(first(call, selector, token));
    collect(call, selector, version, limit, found)
}

/// Takes a page from objects in order.
fn collect<'a, K: Borrow<Key>>(
    call: &Call,
    selector: &Selector,
    version: u64,
    limit: usize,
    found: impl Iterator<Item = (K, &'a Object)>,
) -> Result<Page, ApiError> {
    let everywhere = everywhere(call);
    let mut objects = Vec::new();
    let mut next = None;
    let mut found = found
        .take_while(|(key, _)| everywhere || *key.borrow().namespace == *call.namespace)
        .filter(|(_, object)| selector.matches(object));
    for (key, object) in found.by_ref() {
        if objects.len() == limit {
            let key = key.borrow();
            let token = Continue { rv: version, namespace: key.namespace.to_string(), name: key.name.to_string() };
            next = Some((encode_token(&token)?, 1 + found.count()));
            break;
        }
        objects.push(object.clone());
    }
    Ok(Page { version, objects, next })
}

fn encode_token(token: &Continue) -> Result<String, ApiError> {
    let json = serde_json::to_vec(token).map_err(ApiError::internal)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json))
}

fn decode_token(text: &str) -> Result<Continue, ApiError> {
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok();
    let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    token.ok_or_else(|| ApiError::bad_request("continue key is not valid: illegal base64 data or unknown format"))
}

/// A version that does not exist yet cannot be served.
pub fn not_newer(wanted: u64, current: u64) -> Result<(), ApiError> {
    if wanted > current {
        let mut error = ApiError::unavailable(format!("Too large resource version: {wanted}, current: {current}"));
        error.code = 504;
        error.reason = model_kube::write::Reason::Timeout;
        error.details = Some(Box::new(model_kube::write::Details {
            retry_after_seconds: 1,
            causes: vec![model_kube::write::Cause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            }],
            ..Default::default()
        }));
        return Err(error);
    }
    Ok(())
}

pub fn list(call: &Call) -> Result<Response, ApiError> {
    let form = form(call.header(header::ACCEPT))?;
    let page = page(call)?;
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some((token, remaining)) = &page.next {
        metadata["continue"] = json!(token);
        if call.query.get("labelSelector").is_none() && call.query.get("fieldSelector").is_none() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    let value = match form {
        Form::Table => table::of(call, &page.objects, Some(metadata))?,
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": page.objects.iter().map(partial).collect::<Vec<_>>(),
        }),
        Form::Json => {
            let mut items = Vec::with_capacity(page.objects.len());
            for object in &page.objects {
                let mut item = show(&call.resource, object)?;
                if let (false, Some(fields)) = (call.resource.custom, item.as_object_mut()) {
                    // Items of a typed list do not repeat what the list says.
                    fields.shift_remove("apiVersion");
                    fields.shift_remove("kind");
                }
                items.push(item);
            }
            json!({
                "kind": format!("{}List", call.resource.kind_name), "apiVersion": call.resource.api_version(),
                "metadata": metadata, "items": items,
            })
        }
    };
    Ok(respond::json(200, &value))
}
