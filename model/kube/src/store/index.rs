//! What makes the cost of a read follow its answer: pods by node and by claim, objects by uid and by owner.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use smol_str::SmolStr;

use crate::object::{Key, Kind, Object};

/// Secondary indexes over the objects; [`Index::add`] and [`Index::drop`] are called with every stored state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    by_uid: BTreeMap<String, Key>,
    dependents: BTreeMap<String, BTreeSet<Key>>,
    pods_by_node: BTreeMap<String, BTreeSet<Key>>,
    pods_by_claim: BTreeMap<(SmolStr, String), BTreeSet<Key>>,
    in_namespace: BTreeMap<SmolStr, usize>,
}

/// The claims that a pod uses: by name, and those made for its generic ephemeral volumes (`<pod>-<volume>`).
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let name = pod.metadata.name.as_deref().unwrap_or("");
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(move |volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        }
    })
}

fn unlink<K: Ord + Clone>(map: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(set) = map.get_mut(at) {
        set.remove(key);
        if set.is_empty() {
            map.remove(at);
        }
    }
}

impl Index {
    pub fn add(&mut self, key: &Key, object: &Object) {
        self.by_uid.insert(object.uid().to_owned(), key.clone());
        for owner in object.metadata().owner_references.iter().flatten() {
            self.dependents.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        if !key.namespace.is_empty() {
            *self.in_namespace.entry(key.namespace.clone()).or_default() += 1;
        }
        if let Object::Pod(pod) = object {
            if let Some(node) = node_of(pod) {
                self.pods_by_node.entry(node.to_owned()).or_default().insert(key.clone());
            }
            for claim in claims_of(pod) {
                self.pods_by_claim.entry((key.namespace.clone(), claim)).or_default().insert(key.clone());
            }
        }
    }

    pub fn drop(&mut self, key: &Key, object: &Object) {
        self.by_uid.remove(object.uid());
        for owner in object.metadata().owner_references.iter().flatten() {
            unlink(&mut self.dependents, &owner.uid, key);
        }
        if let Some(count) = self.in_namespace.get_mut(&key.namespace) {
            *count -= 1;
            if *count == 0 {
                self.in_namespace.remove(&key.namespace);
            }
        }
        if let Object::Pod(pod) = object {
            if let Some(node) = node_of(pod) {
                unlink(&mut self.pods_by_node, &node.to_owned(), key);
            }
            for claim in claims_of(pod) {
                unlink(&mut self.pods_by_claim, &(key.namespace.clone(), claim), key);
            }
        }
    }

    pub fn key_of(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.pods_by_node.get(node).into_iter().flatten()
    }

    pub fn pods_using(&self, namespace: &str, claim: &str) -> impl Iterator<Item = &Key> {
        self.pods_by_claim.get(&(SmolStr::new(namespace), claim.to_owned())).into_iter().flatten()
    }

    pub fn is_empty_namespace(&self, namespace: &str) -> bool {
        !self.in_namespace.contains_key(namespace)
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// The smallest key of a kind in a namespace.
pub(super) fn first(kind: Kind, namespace: &str) -> Key {
    Key::new(kind, namespace, "")
}
