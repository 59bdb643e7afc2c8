//! Records Events, in order, counting repetitions as the client library's recorder does.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// An Event to record.
#[derive(Debug, Clone)]
pub struct Note {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// The recorder's end that takes notes.
#[derive(Clone)]
pub struct Recorder(mpsc::UnboundedSender<Note>);

impl Recorder {
    /// Starts the recorder.
    pub fn start(client: kube::Client, node: String) -> Self {
        let (sender, notes) = mpsc::unbounded_channel();
        tokio::spawn(write(client, node, notes));
        Self(sender)
    }

    pub fn note(&self, note: Note) {
        let _ = self.0.send(note);
    }
}

type Identity = (String, String, &'static str, String);

async fn write(client: kube::Client, node: String, mut notes: mpsc::UnboundedReceiver<Note>) {
    let mut seen: HashMap<Identity, (String, i32)> = HashMap::new();
    while let Some(note) = notes.recv().await {
        let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let events = Api::<Event>::namespaced(client.clone(), &namespace);
        let identity = (
            note.about.uid.clone().unwrap_or_default(),
            note.about.field_path.clone().unwrap_or_default(),
            note.reason,
            note.message.clone(),
        );
        let now = super::now();
        if seen.len() > 4096 {
            seen.clear();
        }
        if let Some((name, count)) = seen.get_mut(&identity) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": now});
            match events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => continue,
                // Expired meanwhile, or not reachable: a new one.
                Err(_) => _ = seen.remove(&identity),
            }
        }
        let unique = jiff::Timestamp::now().as_nanosecond() as u64;
        let name = format!("{}.{unique:x}", note.about.name.clone().unwrap_or_default());
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": note.about, "reason": note.reason, "message": note.message,
            "type": if note.warning { "Warning" } else { "Normal" },
            "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node,
            "firstTimestamp": now, "lastTimestamp": now, "count": 1, "eventTime": null,
        });
        let event = match serde_json::from_value::<Event>(event) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "an event could not be built");
                continue;
            }
        };
        for _ in 0..12 {
            match events.create(&PostParams::default(), &event).await {
                Ok(_) => {
                    seen.insert(identity, (name, 1));
                    break;
                }
                Err(kube::Error::Api(status)) => {
                    tracing::debug!(reason = note.reason, message = status.message, "an event was refused");
                    break;
                }
                // The API is away: upstream tries for two minutes too.
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(10)).await,
            }
        }
    }
}
