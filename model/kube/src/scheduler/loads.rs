//! How many pods each node has, those on their way to it included: the scheduler takes the first that fits, from the fewest on, and so
//! looks at a few nodes and not at all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::object::Key;

#[derive(Debug, Clone, Default)]
pub(super) struct Loads {
    /// The pods of each node; of nodes that are not there, too.
    counts: BTreeMap<String, usize>,
    /// The nodes that are there, by count and name.
    order: BTreeSet<(usize, String)>,
    /// The nodes on which a pod counts.
    of_pod: BTreeMap<Key, Vec<String>>,
}

impl Loads {
    /// A node came, or is there still, or went.
    pub fn node(&mut self, name: &str, there: bool) {
        let place = (self.count(name), name.to_owned());
        if there {
            self.order.insert(place);
        } else {
            self.order.remove(&place);
        }
    }

    /// A pod counts on these nodes from now on.
    pub fn pod(&mut self, pod: &Key, nodes: Vec<String>) {
        let before = match nodes.is_empty() {
            true => self.of_pod.remove(pod),
            false if self.of_pod.get(pod) == Some(&nodes) => return,
            false => self.of_pod.insert(pod.clone(), nodes.clone()),
        };
        for node in before.into_iter().flatten() {
            let count = self.count(&node).saturating_sub(1);
            self.set(node, count);
        }
        for node in nodes {
            let count = self.count(&node) + 1;
            self.set(node, count);
        }
    }

    fn count(&self, node: &str) -> usize {
        self.counts.get(node).copied().unwrap_or(0)
    }

    fn set(&mut self, node: String, count: usize) {
        if self.order.remove(&(self.count(&node), node.clone())) {
            self.order.insert((count, node.clone()));
        }
        if count == 0 {
            self.counts.remove(&node);
        } else {
            self.counts.insert(node, count);
        }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.order.len()
    }

    /// The nodes, from the fewest pods on; ties by name.
    pub fn lightest_first(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|(_, name)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn the_emptiest_node_comes_first() {
        let mut loads = Loads::default();
        let pod = |name: &str| Key::new(Kind::Pod, "default", name);
        let on = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>();
        loads.pod(&pod("early"), on(&["b"]));
        ["a", "b", "c"].iter().for_each(|node| loads.node(node, true));
        assert_eq!(loads.lightest_first().collect::<Vec<_>>(), ["a", "c", "b"]);
        loads.pod(&pod("x"), on(&["a"]));
        loads.pod(&pod("x"), on(&["a"]));
        loads.pod(&pod("y"), on(&["a", "c"]));
        assert_eq!(loads.lightest_first().collect::<Vec<_>>(), ["b", "c", "a"]);
        loads.pod(&pod("y"), on(&["c"]));
        loads.pod(&pod("x"), on(&[]));
        assert_eq!(loads.lightest_first().collect::<Vec<_>>(), ["a", "b", "c"]);
        loads.node("b", false);
        loads.pod(&pod("early"), on(&[]));
        loads.node("b", true);
        assert_eq!((loads.nodes(), loads.lightest_first().collect::<Vec<_>>()), (3, vec!["a", "b", "c"]));
    }
}
