//! Events: what controllers and the kubelet tell the user, and how repeated ones become one with a count (client-go's
//! `EventCorrelator`: same source, object, type, reason and message → `count` + 1 on the same Event object).

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::object::{Key, Kind, Object, Typed};
use crate::write::Write;

/// How many distinct events the aggregation remembers, as client-go's cache does.
const REMEMBERED: usize = 4096;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing to tell the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    pub regarding: ObjectReference,
    pub event_type: EventType,
    /// `ProvisioningSucceeded`, `FailedAttachVolume`, …
    pub reason: String,
    pub message: String,
    /// `source.component`: `persistentvolume-controller`, …
    pub component: String,
    /// `source.host`: set by kubelets.
    pub host: String,
}

/// A reference to an object, as events carry it.
pub fn reference<T: Typed>(object: &T) -> ObjectReference {
    let metadata = object.metadata();
    let (group, version) = (T::KIND.group().to_owned(), T::KIND.info().map_or("v1", |info| info.version));
    ObjectReference {
        api_version: Some(if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }),
        kind: Some(T::KIND.kind_name().to_owned()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

impl EventRecord {
    pub fn normal<T: Typed>(object: &T, reason: &str, message: impl Into<String>, component: &str) -> Self {
        Self::new(reference(object), EventType::Normal, reason, message, component)
    }

    pub fn warning<T: Typed>(object: &T, reason: &str, message: impl Into<String>, component: &str) -> Self {
        Self::new(reference(object), EventType::Warning, reason, message, component)
    }

    pub fn new(regarding: ObjectReference, event_type: EventType, reason: &str, message: impl Into<String>, component: &str) -> Self {
        Self {
            regarding,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            component: component.to_owned(),
            host: String::new(),
        }
    }
}

/// What makes two records the same event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sameness {
    component: String,
    host: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: String,
    event_type: EventType,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    key: Key,
    count: i32,
}

/// Makes writes from records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorder {
    known: BTreeMap<Sameness, Known>,
    /// Oldest first; bounds `known`.
    order: VecDeque<Sameness>,
    /// The instant in the newest name. Two events at one instant would have one name, and the second would be lost.
    named: i128,
}

impl Recorder {
    /// The write that shows a record: a new Event, or a higher count on the one that said the same before.
    /// `at` is now. When a patch is refused with NotFound (events expire), call [`Recorder::lost`] and record again.
    pub fn record(&mut self, record: &EventRecord, at: Timestamp) -> Write {
        let same = sameness(record);
        if let Some(known) = self.known.get_mut(&same) {
            known.count = known.count.saturating_add(1);
            return Write::merge(known.key.clone(), json!({"count": known.count, "lastTimestamp": Time(at)}));
        }
        let regarding = &record.regarding;
        // Events about cluster-scoped objects live in `default`.
        let namespace = regarding.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned());
        self.named = at.as_nanosecond().max(self.named.saturating_add(1));
        let name = format!("{}.{:x}", regarding.name.as_deref().unwrap_or(""), self.named);
        let event = Event {
            metadata: ObjectMeta { namespace: Some(namespace.clone()), name: Some(name.clone()), ..ObjectMeta::default() },
            involved_object: regarding.clone(),
            reason: Some(record.reason.clone()),
            message: Some(record.message.clone()),
            type_: Some(record.event_type.text().to_owned()),
            source: Some(EventSource {
                component: Some(record.component.clone()),
                host: (!record.host.is_empty()).then(|| record.host.clone()),
            }),
            reporting_component: Some(record.component.clone()),
            reporting_instance: Some(record.host.clone()),
            count: Some(1),
            first_timestamp: Some(Time(at)),
            last_timestamp: Some(Time(at)),
            ..Event::default()
        };
        self.known.insert(same.clone(), Known { key: Key::new(Kind::Event, &namespace, &name), count: 1 });
        self.order.push_back(same);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        Write::Create { object: Object::from(event) }
    }

    /// The Event object of a record is gone: the next record makes a new one.
    pub fn lost(&mut self, record: &EventRecord) {
        let same = sameness(record);
        self.known.remove(&same);
        self.order.retain(|other| *other != same);
    }
}

/// What was last said about each item, so that a level-triggered controller does not repeat itself at every sync.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said(BTreeMap<Key, (String, String)>);

impl Said {
    /// Whether this is news about the item.
    pub fn is_news(&mut self, item: &Key, record: &EventRecord) -> bool {
        let text = (record.reason.clone(), record.message.clone());
        self.0.insert(item.clone(), text.clone()) != Some(text)
    }

    /// The next record about the item is news, whatever it says.
    pub fn forget(&mut self, item: &Key) {
        self.0.remove(item);
    }
}

fn sameness(record: &EventRecord) -> Sameness {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Sameness {
        component: record.component.clone(),
        host: record.host.clone(),
        kind: text(&record.regarding.kind),
        namespace: text(&record.regarding.namespace),
        name: text(&record.regarding.name),
        uid: text(&record.regarding.uid),
        field_path: text(&record.regarding.field_path),
        event_type: record.event_type,
        reason: record.reason.clone(),
        message: record.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    fn claim() -> PersistentVolumeClaim {
        PersistentVolumeClaim {
            metadata: ObjectMeta { name: Some("c".into()), namespace: Some("n".into()), uid: Some("u".into()), ..ObjectMeta::default() },
            ..PersistentVolumeClaim::default()
        }
    }

    #[test]
    fn the_same_event_is_counted_and_another_is_new() {
        let mut recorder = Recorder::default();
        let record = EventRecord::normal(&claim(), "WaitForFirstConsumer", "waiting", "persistentvolume-controller");
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let Write::Create { object } = recorder.record(&record, at) else { panic!("the first record makes an Event") };
        assert_eq!(object.key().name, "c.17979cfe362a0000");
        let Write::Patch { key, patch, .. } = recorder.record(&record, at) else { panic!("the second counts") };
        assert_eq!(key, object.key());
        assert_eq!(patch, crate::write::Patch::Merge(json!({"count": 2, "lastTimestamp": "2023-11-14T22:13:20Z"})));
        let other = EventRecord { message: "else".into(), ..record.clone() };
        assert!(matches!(recorder.record(&other, at), Write::Create { .. }));
        recorder.lost(&record);
        assert!(matches!(recorder.record(&record, at), Write::Create { .. }));
    }

    #[test]
    fn events_of_one_instant_have_names_of_their_own() {
        let mut recorder = Recorder::default();
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let earlier = Timestamp::from_second(1_600_000_000).unwrap();
        let names: Vec<String> = [at, at, earlier, at]
            .into_iter()
            .enumerate()
            .map(|(n, at)| recorder.record(&EventRecord::normal(&claim(), "R", n.to_string(), "c"), at).key().name.to_string())
            .collect();
        assert_eq!(names, ["c.17979cfe362a0000", "c.17979cfe362a0001", "c.17979cfe362a0002", "c.17979cfe362a0003"]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut recorder = Recorder::default();
        for n in 0..(REMEMBERED + 10) {
            recorder.record(&EventRecord::normal(&claim(), "R", n.to_string(), "c"), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(recorder.known.len(), REMEMBERED);
    }
}
