//! What holds after any sequence of writes.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::write::{Patch, Propagation, Subresource};

#[derive(Debug, Clone)]
enum Op {
    Create { pod: bool, name: u8, owner: Option<u8>, finalizer: bool },
    Label { pod: bool, name: u8, value: u8 },
    Release { pod: bool, name: u8 },
    Bind { name: u8, node: u8 },
    Delete { pod: bool, name: u8, grace: Option<i64>, propagation: u8 },
    Namespace,
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..4_u8;
    prop_oneof![
        4 => (any::<bool>(), name.clone(), proptest::option::of(0..4_u8), any::<bool>())
            .prop_map(|(pod, name, owner, finalizer)| Op::Create { pod, name, owner, finalizer }),
        2 => (any::<bool>(), name.clone(), 0..3_u8).prop_map(|(pod, name, value)| Op::Label { pod, name, value }),
        2 => (any::<bool>(), name.clone()).prop_map(|(pod, name)| Op::Release { pod, name }),
        2 => (name.clone(), 0..2_u8).prop_map(|(name, node)| Op::Bind { name, node }),
        3 => (any::<bool>(), name, proptest::option::of(0..2_i64), 0..3_u8)
            .prop_map(|(pod, name, grace, propagation)| Op::Delete { pod, name, grace, propagation }),
        1 => Just(Op::Namespace),
    ]
}

fn key(pod: bool, name: u8) -> Key {
    Key::new(if pod { Kind::Pod } else { Kind::ConfigMap }, "n", &format!("o{name}"))
}

fn write(store: &Store, op: &Op) -> Write {
    let merge = |key: Key, patch| Write::Patch { key, patch: Patch::Merge(patch), subresource: Subresource::None };
    match *op {
        Op::Create { pod, name, owner, finalizer } => {
            let mut json = json!({"metadata": {"name": format!("o{name}"), "namespace": "n"}});
            if pod {
                json["spec"] = json!({"containers": [{"name": "c", "image": "i"}],
                    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": format!("c{name}")}}]});
            }
            if let Some(owner) = owner.and_then(|owner| store.object(&key(!pod, owner))) {
                json["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner.uid(),
                    "blockOwnerDeletion": name % 2 == 0}]);
            }
            if finalizer {
                json["metadata"]["finalizers"] = json!(["a.b/c"]);
            }
            Write::Create { object: Object::from_json(&key(pod, name).kind, json).unwrap() }
        }
        Op::Label { pod, name, value } => merge(key(pod, name), json!({"metadata": {"labels": {"v": value.to_string()}}})),
        Op::Release { pod, name } => merge(key(pod, name), json!({"metadata": {"finalizers": null}})),
        Op::Bind { name, node } => Write::Bind { pod: key(true, name), uid: None, node: format!("node{node}") },
        Op::Delete { pod, name, grace, propagation } => Write::Delete {
            key: key(pod, name),
            uid: None,
            resource_version: None,
            grace_seconds: grace,
            propagation: [Propagation::Background, Propagation::Foreground, Propagation::Orphan][usize::from(propagation)],
        },
        Op::Namespace => {
            let namespace = Key::new(Kind::Namespace, "", "n");
            if store.object(&namespace).is_some() {
                return Write::delete(namespace);
            }
            Write::Create { object: Object::from_json(&Kind::Namespace, json!({"metadata": {"name": "n"}})).unwrap() }
        }
    }
}

proptest! {
    #[test]
    fn the_log_the_indexes_and_the_disk_agree_with_the_objects(ops in proptest::collection::vec(op(), 1..60)) {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let mut store = Store::new(7);
        let mut disk = BTreeMap::new();
        let mut watched = BTreeMap::new();
        let mut seen = 0;
        for op in std::iter::once(&Op::Namespace).chain(&ops) {
            let before = store.version();
            let write = write(&store, op);
            let mut out = Vec::new();
            let result = store.step(at, &write, &mut out);
            if result.is_err() {
                prop_assert_eq!(store.version(), before, "a refused write changes nothing: {:?}", op);
                prop_assert!(out.is_empty());
            }
            prop_assert!(store.chores.is_empty());
            // A watcher that follows the log knows the same objects.
            let entries: Vec<Entry> = store.since(seen).unwrap().cloned().collect();
            let told: Vec<&Entry> = out.iter().filter_map(|effect| match effect {
                Effect::Changed(entry) => Some(entry),
                Effect::Reply { .. } | Effect::Warning(_) => None,
            }).collect();
            prop_assert_eq!(entries.iter().collect::<Vec<_>>(), told);
            for entry in entries {
                seen += 1;
                prop_assert_eq!(entry.version, seen, "versions count every change once");
                let key = entry.change.object().key();
                let known = match entry.change {
                    Change::Added(object) | Change::Modified(object) => watched.insert(key, object),
                    Change::Deleted(_) => watched.remove(&key),
                };
                prop_assert_eq!(known, entry.previous);
            }
            prop_assert_eq!(&watched, &store.objects);
            // The indexes are those of the objects.
            let mut index = index::Index::default();
            store.objects.iter().for_each(|(key, object)| index.add(key, object));
            prop_assert_eq!(&index, &store.index);
            // Nothing lives on without its owners, nor in a namespace that is gone.
            for object in store.objects.values() {
                let metadata = object.metadata();
                if metadata.deletion_timestamp.is_none() {
                    let owners = metadata.owner_references.as_deref().unwrap_or_default();
                    prop_assert!(owners.is_empty() || owners.iter().any(|owner| store.index.key_of(&owner.uid).is_some()));
                } else {
                    let held = metadata.finalizers.iter().flatten().next().is_some();
                    let grace = metadata.deletion_grace_period_seconds.unwrap_or(0) > 0;
                    prop_assert!(held || grace || matches!(object, Object::Namespace(_)), "{:?} should be gone", object.key());
                    let blocked = store.blocking_dependents(object.uid()).next().is_some();
                    prop_assert!(blocked || !delete::waits(object), "{:?} waits for nothing", object.key());
                }
                if let Some(namespace) = metadata.namespace.as_deref() {
                    prop_assert!(store.object(&Key::new(Kind::Namespace, "", namespace)).is_some());
                }
            }
            // What was saved is what there is.
            for (key, value) in store.take_dirty() {
                match value {
                    Some(value) => disk.insert(key, value),
                    None => disk.remove(&key),
                };
            }
            let again = Store::load(1, disk.clone()).unwrap();
            prop_assert_eq!(&again.objects, &store.objects);
            prop_assert_eq!(&again.index, &store.index);
            prop_assert_eq!(again.version(), store.version());
        }
    }
}
