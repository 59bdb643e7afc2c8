//! Persistence: what changed as records, and the store from its records. Cost follows the change.

use k8s_openapi::jiff::Timestamp;

use crate::object::{Key, Kind, Object};
use crate::resource::BUILT_IN;
use crate::write::ApiError;

use super::{Log, Store};

/// One record: its key, and its value or none where it is gone.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

/// The record that holds the version counter; it cannot be an object's, which has three slashes.
const VERSION: &[u8] = b"version";

/// What a store begins with: a journal's first line, from which it is made again.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Begin {
    pub seed: u64,
    pub at: Timestamp,
    /// Saved records: key and value.
    pub records: Vec<(String, String)>,
}

impl Begin {
    /// The store that begins so, with what every cluster has.
    pub fn start(&self) -> Result<Store, BeginError> {
        let records = self.records.iter().map(|(key, value)| (key.clone().into_bytes(), value.clone().into_bytes()));
        let mut store = Store::load(self.seed, records)?;
        store.bootstrap(self.at, &mut Vec::new())?;
        Ok(store)
    }
}

/// Why a store cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error(transparent)]
    Record(#[from] BadRecord),
    #[error(transparent)]
    Bootstrap(#[from] ApiError),
}

/// A record that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the stored object {key:?}")]
pub struct BadRecord {
    pub key: String,
    #[source]
    pub source: Option<serde_json::Error>,
}

fn record_key(key: &Key) -> Vec<u8> {
    format!("{}/{}/{}/{}", key.kind.group(), key.kind.plural(), key.namespace, key.name).into_bytes()
}

/// The built-in kind of a group and plural, else a custom one.
fn kind_of(group: &str, plural: &str) -> Kind {
    BUILT_IN
        .into_iter()
        .find(|kind| kind.group() == group && kind.plural() == plural)
        .unwrap_or_else(|| Kind::Custom { group: group.into(), plural: plural.into() })
}

impl Store {
    /// What changed since the last call, as records to save together with the version.
    pub fn take_dirty(&mut self) -> Vec<Record> {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.is_empty() {
            return Vec::new();
        }
        let mut records: Vec<Record> = dirty
            .iter()
            .map(|key| {
                // Serialising to JSON cannot fail: all map keys are strings.
                let value = self.objects.get(key).and_then(|object| object.to_json().ok()).map(|json| json.to_string().into_bytes());
                (record_key(key), value)
            })
            .collect();
        records.push((VERSION.to_vec(), Some(self.version.to_string().into_bytes())));
        records
    }

    /// The store from its records. Watchers of earlier versions list again.
    pub fn load(seed: u64, records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, BadRecord> {
        let mut store = Self::new(seed);
        for (key, value) in records {
            let name = String::from_utf8_lossy(&key).into_owned();
            let bad = |source| BadRecord { key: name.clone(), source };
            if key == VERSION {
                store.version = String::from_utf8_lossy(&value).parse().map_err(|_| bad(None))?;
                continue;
            }
            let mut parts = name.splitn(4, '/');
            let (Some(group), Some(plural), Some(_), Some(_)) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
                return Err(bad(None));
            };
            let json = serde_json::from_slice(&value).map_err(|error| bad(Some(error)))?;
            let object = Object::from_json(&kind_of(group, plural), json).map_err(|error| bad(Some(error)))?;
            let key = object.key();
            store.index.add(&key, &object);
            store.objects.insert(key, object);
        }
        store.log = Log::starting_at(store.version);
        Ok(store)
    }

    /// The names of a kind for tests and tools: `(group, plural)` to [`Kind`].
    pub fn kind(group: &str, plural: &str) -> Kind {
        kind_of(group, plural)
    }
}
