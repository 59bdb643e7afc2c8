//! Events go an hour after they were last written, as the real server's `--event-ttl` makes them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use model_kube::object::Typed as _;
use model_kube::write::Write;
use tokio_util::sync::CancellationToken;

use crate::Api;

const TTL: i64 = 60 * 60;
const LOOK: Duration = Duration::from_secs(60);

/// When an event was last written.
fn written(event: &Event) -> Option<i64> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let times = [
        series,
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max().map(jiff::Timestamp::as_second)
}

/// Removes what is too old at a time.
async fn expire(api: &Api, now: i64) {
    let old = |event: &&std::sync::Arc<Event>| written(event).is_some_and(|second| second + TTL <= now);
    let keys: Vec<_> = api.read(|store| store.list::<Event>().filter(old).map(|event| event.key()).collect());
    for key in keys {
        if let Err(error) = api.write(Write::delete(key)).await
            && !error.is_not_found()
        {
            tracing::warn!(%error, "cannot remove an old event");
        }
    }
}

pub async fn run(api: Api, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => expire(&api, crate::api::now().as_second()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use model_kube::object::Kind;

    #[tokio::test]
    async fn only_old_events_go() {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::open(dir.path()).unwrap();
        let now = crate::api::now();
        // What counts is the last of all times; creation is now.
        for (name, ahead) in [("once", 0), ("again", 60)] {
            let event = Event {
                metadata: ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..Default::default() },
                last_timestamp: Some(Time(jiff::Timestamp::from_second(now.as_second() + ahead).unwrap())),
                ..Default::default()
            };
            api.write(Write::create(event)).await.unwrap();
        }
        let names = || api.read(|store| store.all(&Kind::Event).map(|(key, _)| key.name.to_string()).collect::<Vec<_>>());
        expire(&api, now.as_second() + TTL - 1).await;
        assert_eq!(names(), ["again", "once"]);
        expire(&api, now.as_second() + TTL + 30).await;
        assert_eq!(names(), ["again"]);
        expire(&api, now.as_second() + TTL + 60).await;
        assert!(names().is_empty());
        api.close().await;
    }
}
