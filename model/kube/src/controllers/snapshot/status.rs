//! The status of a VolumeSnapshot.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::controllers::amount;
use crate::snapshots::Item;

/// With an error. The shell puts the time in ([`crate::machine::stamp`]).
pub fn failed(snapshot: &Item, message: &str, not_ready: bool) -> Map<String, Value> {
    let mut status = snapshot.status();
    status.insert("error".to_owned(), json!({"message": message}));
    if not_ready {
        status.insert("readyToUse".to_owned(), json!(false));
    }
    status
}

/// As the content's status says (`updateSnapshotStatus`): what is known once stays, readiness and error follow.
pub fn of_content(snapshot: &Item, content: &Item) -> Map<String, Value> {
    let mut status = snapshot.status();
    let known = content.status();
    let missing = |status: &Map<String, Value>, name: &str| status.get(name).is_none_or(Value::is_null);
    if missing(&status, "boundVolumeSnapshotContentName") {
        status.insert("boundVolumeSnapshotContentName".to_owned(), json!(content.name()));
    }
    let cut = content.number(&["status", "creationTime"]).and_then(|nanos| Timestamp::from_nanosecond(nanos.into()).ok());
    if let Some(cut) = cut.filter(|_| missing(&status, "creationTime")) {
        // As Go's metav1.Time writes it: whole seconds.
        let seconds = Timestamp::from_second(cut.as_second()).unwrap_or(cut);
        status.insert("creationTime".to_owned(), json!(seconds.to_string()));
    }
    status.insert("readyToUse".to_owned(), json!(content.is_ready()));
    let size = content.number(&["status", "restoreSize"]).and_then(|size| u64::try_from(size).ok());
    let zero = status.get("restoreSize").is_some_and(|size| size == "0");
    if let Some(size) = size.filter(|size| missing(&status, "restoreSize") || (zero && *size > 0)) {
        status.insert("restoreSize".to_owned(), json!(amount::binary(size).0));
    }
    match known.get("error").filter(|error| !error.is_null() && !content.is_ready()) {
        None => drop(status.remove("error")),
        // One without a time is taken once only: the shell puts a time to it here.
        Some(error) if error.get("time").is_some() || missing(&status, "error") => drop(status.insert("error".to_owned(), error.clone())),
        Some(_) => {}
    }
    status
}
