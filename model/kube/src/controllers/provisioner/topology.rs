//! Where a new volume is to be accessible from (external-provisioner `pkg/controller/topology.go`).
//!
//! `requisite` is where it may be: the allowed topologies of the class, else every topology that the driver's nodes have.
//! `preferred` is the same list turned so that the best comes first: the scheduler's node, else a place by the hash of
//! the claim's name, which spreads claims and puts a StatefulSet's replicas into successive zones.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use model_common::csi::{Segments, TopologyRequirement};

use crate::controllers::binder::SELECTED_NODE;
use crate::controllers::{Driver, annotation, name};
use crate::machine::Cache;

/// Where the driver's nodes are, kept as they come and go: a claim's requirement costs what it says, not a walk over all nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    /// What each of the driver's nodes shows; no segments while its Node lacks one of the labels.
    nodes: BTreeMap<String, (Keys, Option<Segments>)>,
    /// How many nodes are in each place, by the keys that name it.
    places: BTreeMap<Keys, BTreeMap<Segments, usize>>,
}

/// Topology keys, in whatever order a CSINode has them.
type Keys = BTreeSet<String>;

impl Places {
    /// Takes in that a CSINode or a Node of this name is another now.
    pub fn changed(&mut self, driver: &Driver, cache: &Cache, node_name: &str) {
        let keys = cache.get::<CSINode>("", node_name).and_then(|node| keys_of(driver, node));
        let new = keys.map(|keys| {
            let segments = cache.get::<Node>("", node_name).and_then(|node| segments_of(node, &keys));
            (Keys::from_iter(keys), segments)
        });
        // A node's heartbeats change neither.
        if self.nodes.get(node_name) == new.as_ref() {
            return;
        }
        if let Some((keys, Some(segments))) = self.nodes.remove(node_name) {
            self.leave(&keys, &segments);
        }
        let Some((keys, segments)) = new else { return };
        if let Some(segments) = &segments {
            *self.places.entry(keys.clone()).or_default().entry(segments.clone()).or_default() += 1;
        }
        self.nodes.insert(node_name.to_owned(), (keys, segments));
    }

    fn leave(&mut self, keys: &Keys, segments: &Segments) {
        let Some(places) = self.places.get_mut(keys) else { return };
        if let Some(count) = places.get_mut(segments) {
            *count -= 1;
            if *count == 0 {
                places.remove(segments);
            }
        }
        if places.is_empty() {
            self.places.remove(keys);
        }
    }

    /// The keys of any node of the driver.
    fn keys(&self) -> Option<&Keys> {
        self.nodes.values().next().map(|(keys, _)| keys)
    }

    /// Every place that nodes with just these keys are in.
    fn of(&self, keys: &Keys) -> Vec<Segments> {
        self.places.get(keys).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }
}

/// The requirement for a claim; none where nothing restricts it.
pub fn requirement(
    driver: &Driver,
    cache: &Cache,
    places: &Places,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
) -> Result<Option<TopologyRequirement>, String> {
    let chosen = annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty());
    let selected = match chosen {
        Some(node) => Some(selected(driver, cache, node)?),
        None => None,
    };
    if let (Some((_, segments)), true) = (&selected, driver.strict_topology) {
        return Ok(Some(TopologyRequirement { requisite: vec![segments.clone()], preferred: vec![segments.clone()] }));
    }
    let allowed = class.allowed_topologies.as_deref().unwrap_or_default();
    let requisite: Vec<Segments> = if allowed.is_empty() {
        match &selected {
            Some((keys, _)) => places.of(&keys.iter().cloned().collect()),
            // Any node of the driver tells which keys there are.
            None => places.keys().map(|keys| places.of(keys)).unwrap_or_default(),
        }
    } else {
        let all = flatten(allowed);
        if let (Some((_, segments)), Some(node)) = (&selected, chosen)
            && !all.iter().any(|term| contains(segments, term))
        {
            return Err(format!("selected node '\"{node}\"' topology '{segments:?}' is not in allowed topologies: {all:?}"));
        }
        all
    };
    if requisite.is_empty() {
        return Ok(None);
    }
    let first = match &selected {
        Some((_, segments)) => requisite.iter().position(|term| contains(segments, term)).ok_or_else(|| {
            format!("topology '{segments:?}' from selected node '{}' is not in requisite: {requisite:?}", chosen.unwrap_or(""))
        })?,
        None => {
            let (hash, offset) = hash_and_offset(name(&claim.metadata));
            (hash.wrapping_add(offset) as usize) % requisite.len()
        }
    };
    let mut preferred = requisite.clone();
    preferred.rotate_left(first);
    Ok(Some(TopologyRequirement { requisite, preferred }))
}

/// Whether a node's segments lie in a term.
fn contains(segments: &Segments, term: &Segments) -> bool {
    term.iter().all(|(key, value)| segments.get(key) == Some(value))
}

fn keys_of(driver: &Driver, node: &CSINode) -> Option<Vec<String>> {
    let found = node.spec.drivers.iter().find(|known| known.name == driver.name)?;
    found.topology_keys.clone().filter(|keys| !keys.is_empty())
}

fn segments_of(node: &Node, keys: &[String]) -> Option<Segments> {
    let labels = node.metadata.labels.as_ref()?;
    keys.iter().map(|key| labels.get(key).map(|value| (key.clone(), value.clone()))).collect()
}

fn selected(driver: &Driver, cache: &Cache, node_name: &str) -> Result<(Vec<String>, Segments), String> {
    let csi_node = cache.get::<CSINode>("", node_name).ok_or_else(|| {
        format!("error getting CSINode for selected node \"{node_name}\": csinode.storage.k8s.io \"{node_name}\" not found")
    })?;
    let keys = keys_of(driver, csi_node).ok_or_else(|| format!("no topology key found on CSINode {node_name}"))?;
    let node = cache.get::<Node>("", node_name).ok_or_else(|| format!("node \"{node_name}\" not found"))?;
    let segments = segments_of(node, &keys)
        .ok_or_else(|| format!("topology labels from selected node {node_name} does not match topology keys from CSINode {keys:?}"))?;
    Ok((keys, segments))
}

/// Each combination of values, term by term, without duplicates.
fn flatten(terms: &[TopologySelectorTerm]) -> Vec<Segments> {
    let mut all = BTreeSet::new();
    for term in terms {
        let mut combinations = vec![Segments::new()];
        for need in term.match_label_expressions.iter().flatten() {
            combinations = combinations
                .into_iter()
                .flat_map(|partial| {
                    need.values.iter().map(move |value| {
                        let mut next = partial.clone();
                        next.insert(need.key.clone(), value.clone());
                        next
                    })
                })
                .collect();
        }
        all.extend(combinations.into_iter().filter(|segments| !segments.is_empty()));
    }
    all.into_iter().collect()
}

/// FNV-1 of the claim's name, or for `<claim>-<set>-<ordinal>` of the set's name, and the ordinal.
fn hash_and_offset(claim: &str) -> (u32, u32) {
    let (mut hashed, mut offset) = (claim, 0);
    if let Some((prefix, ordinal)) = claim.rsplit_once('-')
        && let Ok(ordinal) = ordinal.parse::<u32>()
    {
        offset = ordinal;
        hashed = prefix.rsplit_once('-').map_or(prefix, |(_, set)| set);
    }
    let hash = hashed.bytes().fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte));
    (hash, offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::object::{Change, Kind, Object};

    /// What the index stands for, as upstream has it: a walk over every CSINode.
    fn aggregate(driver: &Driver, cache: &Cache, keys: &[String]) -> Vec<Segments> {
        let wanted: BTreeSet<&String> = keys.iter().collect();
        let mut found = BTreeSet::new();
        for csi_node in cache.list::<CSINode>() {
            let Some(has) = keys_of(driver, csi_node) else { continue };
            if has.iter().collect::<BTreeSet<_>>() != wanted {
                continue;
            }
            if let Some(segments) = cache.get::<Node>("", name(&csi_node.metadata)).and_then(|node| segments_of(node, keys)) {
                found.insert(segments);
            }
        }
        found.into_iter().collect()
    }

    /// What a node may show; each combination of zone and keys comes often enough to meet another.
    #[derive(Debug, Clone)]
    enum Deed {
        /// The keys of the CSINode; none: the driver is not registered on it.
        CsiNode(u8, Option<Vec<&'static str>>),
        /// The values of the labels.
        Node(u8, BTreeMap<&'static str, u8>),
        DropCsiNode(u8),
        DropNode(u8),
    }

    const KEYS: [&str; 3] = ["zone", "rack", "os"];

    fn deed() -> impl Strategy<Value = Deed> {
        let keys = Just(KEYS.to_vec()).prop_shuffle().prop_flat_map(|keys| (0..=KEYS.len()).prop_map(move |n| keys[..n].to_vec()));
        let labels = proptest::collection::btree_map(proptest::sample::select(&KEYS[..]), 0..2u8, 0..=KEYS.len());
        prop_oneof![
            3 => (0..5u8, proptest::option::weighted(0.9, keys)).prop_map(|(node, keys)| Deed::CsiNode(node, keys)),
            3 => (0..5u8, labels).prop_map(|(node, labels)| Deed::Node(node, labels)),
            1 => (0..5u8).prop_map(Deed::DropCsiNode),
            1 => (0..5u8).prop_map(Deed::DropNode),
        ]
    }

    fn csi_node(metadata: &Value, drivers: Vec<Value>) -> Object {
        Object::from_json(&Kind::CSINode, json!({"metadata": metadata, "spec": {"drivers": drivers}})).unwrap()
    }

    fn node(metadata: &Value) -> Object {
        Object::from_json(&Kind::Node, json!({"metadata": metadata})).unwrap()
    }

    proptest! {
        #[test]
        fn the_index_says_what_a_walk_says(deeds in proptest::collection::vec(deed(), 1..40)) {
            let driver = Driver::ebs();
            let (mut cache, mut places) = (Cache::default(), Places::default());
            for (version, deed) in (1..).zip(deeds) {
                let metadata = |number: u8| json!({"name": format!("n{number}"), "resourceVersion": format!("{version}")});
                let (number, change) = match deed {
                    Deed::CsiNode(number, keys) => {
                        let drivers = keys.iter().map(|keys| json!({"name": driver.name, "nodeID": "i-1", "topologyKeys": keys}));
                        (number, Change::Modified(csi_node(&metadata(number), drivers.collect())))
                    }
                    Deed::Node(number, labels) => {
                        let mut metadata = metadata(number);
                        metadata["labels"] = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value.to_string()))).collect();
                        (number, Change::Modified(node(&metadata)))
                    }
                    Deed::DropCsiNode(number) => (number, Change::Deleted(csi_node(&metadata(number), Vec::new()))),
                    Deed::DropNode(number) => (number, Change::Deleted(node(&metadata(number)))),
                };
                cache.apply(&change);
                places.changed(&driver, &cache, &format!("n{number}"));
                for n in 1..1 << KEYS.len() {
                    let keys: Vec<String> = (0..KEYS.len()).filter(|bit| n >> bit & 1 == 1).map(|bit| KEYS[bit].to_owned()).collect();
                    prop_assert_eq!(places.of(&keys.iter().cloned().collect()), aggregate(&driver, &cache, &keys), "{:?}", keys);
                }
                let first = cache.list::<CSINode>().find_map(|node| keys_of(&driver, node));
                prop_assert_eq!(places.keys().cloned(), first.map(Keys::from_iter));
            }
            // Nothing is kept of what is gone.
            for number in 0..5u8 {
                let metadata = json!({"name": format!("n{number}"), "resourceVersion": "1000"});
                cache.apply(&Change::Deleted(node(&metadata)));
                cache.apply(&Change::Deleted(csi_node(&metadata, Vec::new())));
                places.changed(&driver, &cache, &format!("n{number}"));
            }
            prop_assert_eq!(places, Places::default());
        }
    }

    #[test]
    fn replicas_go_to_successive_places() {
        let (hash, first) = hash_and_offset("data-catalog-0");
        assert_eq!((hash, first + 1), { hash_and_offset("data-catalog-1") });
        // Two claims of one replica stay together.
        assert_eq!(hash_and_offset("log-catalog-0"), (hash, 0));
        // Go: fnv.New32 of "a".
        assert_eq!(hash_and_offset("a").0, 0x050c_5d7e);
    }
}
