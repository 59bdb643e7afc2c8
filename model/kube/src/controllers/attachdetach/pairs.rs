//! The pairs that something is known of, found by VolumeAttachment, by node and by volume.

use std::collections::{BTreeMap, BTreeSet};

use super::Pair;
use crate::object::Key;

#[derive(Debug, Clone, Default)]
pub(super) struct Pairs {
    /// The pair of each item, the key of its VolumeAttachment.
    pairs: BTreeMap<Key, Pair>,
    /// The other way round: an item is a hash that is better not computed twice. A volume's pairs are neighbours.
    items: BTreeMap<Pair, Key>,
    of_node: BTreeMap<String, BTreeSet<Key>>,
}

impl Pairs {
    /// Adds a pair that may be there already; its item.
    pub fn add(&mut self, pair: &Pair) -> Key {
        if let Some(item) = self.items.get(pair) {
            return item.clone();
        }
        let item = pair.item();
        self.pairs.insert(item.clone(), pair.clone());
        self.items.insert(pair.clone(), item.clone());
        self.of_node.entry(pair.node.clone()).or_default().insert(item.clone());
        item
    }

    pub fn remove(&mut self, item: &Key) {
        let Some(pair) = self.pairs.remove(item) else { return };
        self.items.remove(&pair);
        if let Some(items) = self.of_node.get_mut(&pair.node) {
            items.remove(item);
            if items.is_empty() {
                self.of_node.remove(&pair.node);
            }
        }
    }

    pub fn get(&self, item: &Key) -> Option<&Pair> {
        self.pairs.get(item)
    }

    /// The item of a pair, which may not be known.
    pub fn item(&self, pair: &Pair) -> Key {
        self.items.get(pair).cloned().unwrap_or_else(|| pair.item())
    }

    pub fn items(&self) -> impl Iterator<Item = &Key> {
        self.pairs.keys()
    }

    pub fn of_node(&self, node: &str) -> impl Iterator<Item = (&Key, &Pair)> {
        self.of_node.get(node).into_iter().flatten().filter_map(|item| Some((item, self.pairs.get(item)?)))
    }

    pub fn of_volume<'a>(&'a self, volume: &'a str) -> impl Iterator<Item = &'a Key> {
        let first = Pair { volume: volume.to_owned(), node: String::new() };
        self.items.range(first..).take_while(move |(pair, _)| pair.volume == volume).map(|(_, item)| item)
    }
}
