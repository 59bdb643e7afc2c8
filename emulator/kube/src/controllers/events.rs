//! Writes Events, one after another, so that repeated ones are counted.

use k8s_openapi::jiff::Timestamp;
use model_kube::events::{EventRecord, Recorder};
use model_kube::write::Write;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Backend;

/// Events that wait to be written; beyond that they are dropped, as client-go's broadcaster does.
const WAITING: usize = 1000;

pub type Events = mpsc::Sender<EventRecord>;

pub fn start<B: Backend>(api: B, stop: CancellationToken, tasks: &mut JoinSet<()>) -> Events {
    let (sender, mut records) = mpsc::channel::<EventRecord>(WAITING);
    tasks.spawn(async move {
        let mut recorder = Recorder::default();
        loop {
            let record = tokio::select! {
                () = stop.cancelled() => return,
                record = records.recv() => match record {
                    Some(record) => record,
                    None => return,
                },
            };
            tracing::info!(
                component = record.component,
                reason = record.reason,
                object = record.regarding.name.as_deref().unwrap_or(""),
                "{}",
                record.message
            );
            let write = recorder.record(&record, Timestamp::now());
            let counts = matches!(write, Write::Patch { .. });
            let mut result = api.write(write).await;
            if counts && result.as_ref().is_err_and(|error| error.is_not_found()) {
                // The Event has expired or was deleted.
                recorder.lost(&record);
                result = api.write(recorder.record(&record, Timestamp::now())).await;
            }
            if let Err(error) = result {
                recorder.lost(&record);
                tracing::warn!("cannot write the event {}: {error}", record.reason);
            }
        }
    });
    sender
}
