//! The watches of all kinds as one sequence of writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use model_kube::object::{Kind, Object};
use tokio::sync::mpsc;

use super::now;
use crate::engine::EngineError;

/// An event of a watch: the number of its kind, and when it came.
type Heard = (usize, Duration, Result<Event<DynamicObject>, watcher::Error>);

pub(in super::super) type Tell = mpsc::UnboundedSender<Heard>;

/// Sends what a watch says until nobody listens. A watch that breaks begins anew by itself.
pub(in super::super) async fn forward(number: usize, api: kube::Api<DynamicObject>, tell: Tell) {
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = stream.next().await {
        if tell.send((number, now(), event)).is_err() {
            return;
        }
    }
}

/// What a watch told, when it came, and the version from which it is so.
#[derive(Debug)]
pub(super) enum Told {
    There {
        kind: usize,
        at: Duration,
        version: u64,
        object: DynamicObject,
    },
    Gone {
        kind: usize,
        at: Duration,
        version: u64,
        object: DynamicObject,
    },
    /// A kind was listed anew: there are these, by their uids, and no others.
    All {
        kind: usize,
        at: Duration,
        version: u64,
        uids: BTreeSet<String>,
    },
}

impl Told {
    pub(super) fn at(&self) -> Duration {
        match self {
            Self::There { at, .. } | Self::Gone { at, .. } | Self::All { at, .. } => *at,
        }
    }

    fn version(&self) -> u64 {
        match self {
            Self::There { version, .. } | Self::Gone { version, .. } | Self::All { version, .. } => *version,
        }
    }
}

/// Holds back what came, until it can be put in order.
pub(super) struct Follow {
    events: mpsc::UnboundedReceiver<Heard>,
    waiting: Vec<Told>,
    /// The uids of a list that is being read anew, by kind.
    fresh: BTreeMap<usize, BTreeSet<String>>,
    /// The highest version that was told.
    highest: u64,
}

impl Follow {
    /// Waits until all kinds were listed. Each list shows its own moment; what the watches told since makes of them all one moment, that
    /// of the last list: its objects, kind after kind.
    pub(super) async fn begin(
        events: mpsc::UnboundedReceiver<Heard>,
        kinds: usize,
        in_order: Duration,
    ) -> Result<(Self, Vec<Told>), EngineError> {
        let mut this = Self { events, waiting: Vec::new(), fresh: BTreeMap::new(), highest: 0 };
        let mut open: BTreeSet<usize> = (0..kinds).collect();
        while !open.is_empty() {
            let heard = this.events.recv().await.ok_or_else(ended)?;
            let kind = heard.0;
            let listed = matches!(heard.2, Ok(Event::InitDone));
            this.hear(heard)?;
            if listed {
                open.remove(&kind);
            }
        }
        let moment = this.highest;
        tokio::time::sleep(in_order).await;
        this.drain()?;
        let mut objects: BTreeMap<(usize, String), Told> = BTreeMap::new();
        let (mut first, later): (Vec<Told>, Vec<Told>) = this.waiting.drain(..).partition(|told| told.version() <= moment);
        this.waiting = later;
        first.sort_by_key(Told::version);
        for told in first {
            match told {
                Told::There { kind, ref object, .. } => drop(objects.insert((kind, name(object)), told)),
                Told::Gone { kind, object, .. } => drop(objects.remove(&(kind, name(&object)))),
                // All are there that the list has: this is the list.
                Told::All { .. } => {}
            }
        }
        Ok((this, objects.into_values().collect()))
    }

    /// What came until a time, in the order of the versions.
    pub(super) fn ready(&mut self, until: Duration) -> Result<Vec<Told>, EngineError> {
        self.drain()?;
        let old = self.waiting.iter().filter(|told| told.at() <= until);
        let Some(horizon) = old.map(Told::version).max() else { return Ok(Vec::new()) };
        let (mut ready, later): (Vec<Told>, Vec<Told>) = self.waiting.drain(..).partition(|told| told.version() <= horizon);
        self.waiting = later;
        ready.sort_by_key(Told::version);
        Ok(ready)
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        loop {
            match self.events.try_recv() {
                Ok((kind, _, Err(error))) => tracing::warn!(kind, %error, "a watch broke; it begins anew"),
                Ok(heard) => self.hear(heard)?,
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(ended()),
            }
        }
    }

    fn hear(&mut self, (kind, at, event): Heard) -> Result<(), EngineError> {
        let event = event.map_err(|error| lost(super::super::kubernetes::chain(&error)))?;
        match event {
            Event::Init => drop(self.fresh.insert(kind, BTreeSet::new())),
            Event::InitApply(object) => {
                self.fresh.entry(kind).or_default().insert(object.metadata.uid.clone().unwrap_or_default());
                let version = self.version(&object);
                self.waiting.push(Told::There { kind, at, version, object });
            }
            Event::InitDone => {
                let uids = self.fresh.remove(&kind).unwrap_or_default();
                self.waiting.push(Told::All { kind, at, version: self.highest, uids });
            }
            Event::Apply(object) => {
                let version = self.version(&object);
                self.waiting.push(Told::There { kind, at, version, object });
            }
            Event::Delete(object) => {
                let version = self.version(&object);
                self.waiting.push(Told::Gone { kind, at, version, object });
            }
        }
        Ok(())
    }

    /// An object's version. One that is no number, which no API server has made so far, comes after all before it.
    fn version(&mut self, object: &DynamicObject) -> u64 {
        let version = object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(self.highest);
        self.highest = self.highest.max(version);
        version
    }
}

/// Namespace and name.
fn name(object: &DynamicObject) -> String {
    format!("{}/{}", object.metadata.namespace.as_deref().unwrap_or(""), object.metadata.name.as_deref().unwrap_or(""))
}

/// An object as the monitors take it.
pub(super) fn object(kind: &Kind, object: &DynamicObject) -> Result<Object, EngineError> {
    let read = |error: serde_json::Error| EngineError::Transport {
        operation: format!("read {} {}", kind.kind_name(), object.metadata.name.as_deref().unwrap_or("")),
        message: error.to_string(),
    };
    serde_json::to_value(object).and_then(|json| Object::from_json(kind, json)).map_err(read)
}

fn lost(message: String) -> EngineError {
    EngineError::Transport { operation: "watch the Kubernetes API".into(), message }
}

fn ended() -> EngineError {
    lost("the watches ended".into())
}
