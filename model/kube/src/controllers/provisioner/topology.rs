//! Where a new volume is to be accessible from (external-provisioner `pkg/controller/topology.go`).
//!
//! `requisite` is where it may be: the allowed topologies of the class, else every topology that the driver's nodes have.
//! `preferred` is the same list turned so that the best comes first: the scheduler's node, else a place by the hash of
//! the claim's name, which spreads claims and puts a StatefulSet's replicas into successive zones.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use model_common::csi::{Segments, TopologyRequirement};

use crate::controllers::binder::SELECTED_NODE;
use crate::controllers::{Driver, annotation, name};
use crate::machine::Cache;

/// The requirement for a claim; none where nothing restricts it.
pub fn requirement(
    driver: &Driver,
    cache: &Cache,
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
        let keys = match &selected {
            Some((keys, _)) => keys.clone(),
            // Any node of the driver tells which keys there are.
            None => cache.list::<CSINode>().find_map(|node| keys_of(driver, node)).unwrap_or_default(),
        };
        aggregate(driver, cache, &keys)
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
    use super::*;

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
