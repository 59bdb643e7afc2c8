//! Watches (kube-api.md §3): JSON lines over a chunked answer.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use model_kube::object::{Change, Key, Object};
use model_kube::store::Entry;
use model_kube::write::ApiError;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::options;
use super::read::{Form, form, not_newer, partial, show};
use super::resource::Call;
use super::selector::Selector;
use super::table;

/// Between bookmarks, as in the real server.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// What a watch without `timeoutSeconds` gets; the real server draws it between 30 and 60 minutes.
const TIMEOUT: Duration = Duration::from_secs(45 * 60);

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

/// How a change looks through a selector: an object that stops matching is deleted for this watcher.
fn seen(entry: &Entry, selector: &Selector) -> Option<(&'static str, Object)> {
    let before = entry.previous.as_ref().is_some_and(|object| selector.matches(object));
    match &entry.change {
        Change::Deleted(object) => before.then(|| ("DELETED", object.clone())),
        Change::Added(object) | Change::Modified(object) => match (before, selector.matches(object)) {
            (false, true) => Some(("ADDED", object.clone())),
            (true, true) => Some(("MODIFIED", object.clone())),
            (true, false) => {
                // The last state that matched, at the version of the change.
                let mut last = entry.previous.clone()?;
                last.metadata_mut().resource_version = Some(entry.version.to_string());
                Some(("DELETED", last))
            }
            (false, false) => None,
        },
    }
}

struct Shown {
    call: Call,
    form: Form,
    /// Columns are told once.
    columns: bool,
}

impl Shown {
    fn event(&mut self, kind: &str, object: &Object) -> Bytes {
        let value = match self.form {
            Form::Json => show(&self.call.resource, object),
            Form::Metadata => Ok(partial(object)),
            Form::Table => table::of(&self.call, std::slice::from_ref(object), None).map(|mut table| {
                if self.columns {
                    table["columnDefinitions"] = Value::Null;
                }
                self.columns = true;
                table
            }),
        };
        match value {
            Ok(value) => line(kind, &value),
            Err(error) => line("ERROR", &error.to_status()),
        }
    }

    fn bookmark(&self, version: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Json => {
                let mut object =
                    json!({"kind": self.call.resource.kind_name, "apiVersion": self.call.resource.api_version(), "metadata": metadata});
                // As the real server encodes an empty pod.
                if self.call.resource.kind == model_kube::object::Kind::Pod {
                    object["spec"] = json!({"containers": null});
                    object["status"] = json!({});
                }
                object
            }
            Form::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": null, "rows": [{"cells": [], "object":
                    {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]}),
        };
        line("BOOKMARK", &object)
    }
}

pub fn watch(call: Call, name: Option<&str>) -> Result<Response, ApiError> {
    let form = form(call.header(header::ACCEPT))?;
    let mut selector = Selector::parse(&call.resource, &call.query)?;
    if let Some(name) = name {
        selector = selector.with_name(name);
    }
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let send_initial = call.query.flag("sendInitialEvents");
    options::watch(&call.query)?;
    let wanted = options::number(&call.query)?;
    let timeout = call.query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs);
    let kind = call.resource.kind.clone();
    let namespace = call.namespace.clone();
    let everywhere = namespace.is_empty() && call.resource.namespaced;
    let in_scope = move |object: &Object| everywhere || object.metadata().namespace.as_deref().unwrap_or("") == namespace;

    // What exists and the version from which changes follow, in one look.
    let api = call.shared.api.clone();
    let (since, initial) = api.read(|store| {
        not_newer(wanted, store.version())?;
        // A version no longer kept is an ERROR in the stream, as the real server tells it: the watcher of kube-rs would ask for the
        // same version for ever after an answer 410, and only lists again after the event.
        if wanted != 0 && !send_initial {
            return Ok((wanted, Vec::new()));
        }
        let from = Key::new(kind.clone(), "", "");
        let found = store.range_from(from).map(|(_, object)| object).filter(|object| in_scope(object) && selector.matches(object));
        Ok::<_, ApiError>((store.version(), found.cloned().collect()))
    })?;

    let mut shown = Shown { call, form, columns: false };
    let mut first: VecDeque<Bytes> = initial.iter().map(|object| shown.event("ADDED", object)).collect();
    if send_initial && bookmarks {
        first.push_back(shown.bookmark(since, true));
    }
    let changes = Box::pin(api.changes(vec![kind], since));
    let until = Instant::now() + timeout;
    let state = (shown, changes, first, Instant::now() + BOOKMARKS, since, selector, in_scope, false);
    let stream = futures::stream::unfold(state, move |state| async move {
        let (mut shown, mut changes, mut first, mut next, mut at, selector, in_scope, failed) = state;
        if failed {
            return None;
        }
        loop {
            if let Some(bytes) = first.pop_front() {
                return Some((Ok::<_, std::convert::Infallible>(bytes), (shown, changes, first, next, at, selector, in_scope, false)));
            }
            tokio::select! {
                entry = changes.next() => match entry {
                    None => return None,
                    Some(Err(error)) => {
                        let bytes = line("ERROR", &error.to_status());
                        return Some((Ok(bytes), (shown, changes, first, next, at, selector, in_scope, true)));
                    }
                    Some(Ok(entry)) => {
                        at = entry.version;
                        if in_scope(entry.change.object()) && let Some((kind, object)) = seen(&entry, &selector) {
                            let bytes = shown.event(kind, &object);
                            return Some((Ok(bytes), (shown, changes, first, next, at, selector, in_scope, false)));
                        }
                    }
                },
                () = tokio::time::sleep_until(next), if bookmarks => {
                    next = Instant::now() + BOOKMARKS;
                    let bytes = shown.bookmark(at, false);
                    return Some((Ok(bytes), (shown, changes, first, next, at, selector, in_scope, false)));
                }
                () = tokio::time::sleep_until(until) => return None,
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response())
}
