//! What is seen of objects, one look after the other, as the changes that it stands for.

use std::collections::{BTreeMap, BTreeSet};

use model_kube::object::{Change, Key, Kind, Object};

/// The objects as last seen.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    known: BTreeMap<Key, Object>,
}

impl Objects {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// An object is like this now. No change: it is known so.
    pub(crate) fn there(&mut self, object: Object) -> Vec<Change> {
        let mut changes = Vec::new();
        let old = self.known.insert(object.key(), object.clone());
        match old {
            Some(old) if old.uid() == object.uid() => {
                if old.metadata().resource_version != object.metadata().resource_version {
                    changes.push(Change::Modified(object));
                }
            }
            // A name that was deleted and taken again between two looks.
            Some(old) => changes.extend([Change::Deleted(old), Change::Added(object)]),
            None => changes.push(Change::Added(object)),
        }
        changes
    }

    /// An object is no more; `object`: as it was last. One of the same name that came later stays.
    pub(crate) fn gone(&mut self, object: Object) -> Option<Change> {
        let key = object.key();
        self.known.get(&key).filter(|known| known.uid() == object.uid())?;
        self.known.remove(&key);
        Some(Change::Deleted(object))
    }

    /// What is known of an object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Object> {
        self.known.get(key)
    }

    /// All objects of a kind are these, by their uids: the others were deleted unseen.
    pub(crate) fn all_are(&mut self, kind: &Kind, uids: &BTreeSet<String>) -> Vec<Change> {
        let gone = |object: &&Object| object.kind() == *kind && !uids.contains(object.uid());
        let gone: Vec<Object> = self.known.values().filter(gone).cloned().collect();
        gone.into_iter().filter_map(|object| self.gone(object)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(name: &str, uid: &str, version: &str) -> Object {
        let metadata = json!({"name": name, "namespace": "d", "uid": uid, "resourceVersion": version});
        Object::from_json(&Kind::PersistentVolumeClaim, json!({"metadata": metadata})).unwrap()
    }

    fn told(changes: &[Change]) -> Vec<(&'static str, String)> {
        let words = |change: &Change| match change {
            Change::Added(object) => ("added", object.uid().to_owned()),
            Change::Modified(object) => ("modified", object.uid().to_owned()),
            Change::Deleted(object) => ("deleted", object.uid().to_owned()),
        };
        changes.iter().map(words).collect()
    }

    #[test]
    fn looks_become_changes() {
        let mut objects = Objects::default();
        assert_eq!(told(&objects.there(claim("a", "1", "10"))), [("added", "1".into())]);
        assert_eq!(told(&objects.there(claim("a", "1", "10"))), []);
        assert_eq!(told(&objects.there(claim("a", "1", "11"))), [("modified", "1".into())]);
        assert_eq!(told(&objects.there(claim("a", "2", "12"))), [("deleted", "1".into()), ("added", "2".into())]);
        assert!(objects.gone(claim("a", "1", "11")).is_none(), "the end of the one before is no news");
        assert!(objects.gone(claim("a", "2", "13")).is_some());
        assert_eq!(objects.len(), 0);
    }

    #[test]
    fn what_a_new_list_lacks_was_deleted() {
        let mut objects = Objects::default();
        objects.there(claim("a", "1", "10"));
        objects.there(claim("b", "2", "11"));
        let changes = objects.all_are(&Kind::PersistentVolumeClaim, &["2".to_owned()].into());
        assert_eq!(told(&changes), [("deleted", "1".into())]);
        assert!(objects.all_are(&Kind::PersistentVolume, &BTreeSet::new()).is_empty(), "another kind's list");
    }
}
