//! The containers of pods, and the volumes they hold: S2 and S8.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::known::Known;
use super::super::names::Sym;
use super::super::seen::Used;
use super::super::table::Rule;
use super::super::watch::Log;
use super::Mounts;

impl Mounts {
    /// S8, S27 and S2.
    #[allow(clippy::too_many_arguments)] // the fields of one event
    pub(in super::super) fn started(
        &mut self,
        at: Duration,
        node: &str,
        pod: &str,
        container: &str,
        volumes: &[Used],
        known: &mut Known,
        log: &mut Log,
    ) {
        for used in volumes.iter().filter(|used| used.claim.is_some() || used.wanted.is_some()) {
            if used.mounted.is_none() || (used.wanted.is_some() && used.mounted != used.wanted) {
                log.say(at, Rule::S8, || {
                    let wanted = used.wanted.as_deref().or(used.claim.as_deref()).unwrap_or_default();
                    let found = used.mounted.as_deref().unwrap_or("a plain directory");
                    format!(
                        "container {container} of pod {pod} on {node} started with {found} where {wanted} ought to be (volume {})",
                        used.name
                    )
                });
            }
        }
        for used in volumes {
            if let Some((wanted, found)) = used.groups.filter(|(wanted, found)| *found != Some(*wanted)) {
                log.say(at, Rule::S27, || {
                    let found = found.map_or("not all one group".to_owned(), |found| format!("the group {found}"));
                    let volume = used.mounted.as_deref().unwrap_or_default();
                    format!(
                        "container {container} of pod {pod} on {node} started with fsGroup {wanted}, and the files of {volume} have {found}"
                    )
                });
            }
        }
        let (node, pod, container) = (known.names.sym(node), known.names.sym(pod), known.names.sym(container));
        let mut held = Vec::new();
        for used in volumes.iter().filter(|used| !used.read_only) {
            let Some(tree) = &used.mounted else { continue };
            let tree = known.names.sym(tree);
            if known.pvs_of(tree).any(|(_, pv)| pv.is_single_node() && !pv.is_block() && known.is_attachable(pv.driver)) {
                held.push(tree);
                let nodes = self.writers.entry(tree).or_default();
                *nodes.entry(node).or_default() += 1;
                two_writers(at, tree, node, nodes, known, log);
            }
        }
        // A container that starts again without an end in between ended with it.
        if let Some(before) = self.running.entry((node, pod)).or_default().insert(container, held) {
            self.release(node, before);
        }
    }

    pub(in super::super) fn container_ended(&mut self, node: &str, pod: &str, container: &str, known: &mut Known) {
        let (node, pod, container) = (known.names.sym(node), known.names.sym(pod), known.names.sym(container));
        let Some(containers) = self.running.get_mut(&(node, pod)) else { return };
        let held = containers.remove(&container).unwrap_or_default();
        if containers.is_empty() {
            self.running.remove(&(node, pod));
        }
        self.release(node, held);
    }

    pub(super) fn release(&mut self, node: Sym, held: Vec<Sym>) {
        for volume in held {
            let Some(nodes) = self.writers.get_mut(&volume) else { continue };
            let Some(count) = nodes.get_mut(&node) else { continue };
            *count -= 1;
            if *count == 0 {
                nodes.remove(&node);
            }
            if nodes.is_empty() {
                self.writers.remove(&volume);
            }
        }
    }

    /// S2: a write from a node shows a writer there, whether or not its container is known.
    pub(in super::super) fn wrote(&mut self, at: Duration, node: &str, tree: &str, known: &mut Known, log: &mut Log) {
        let (node, tree) = (known.names.sym(node), known.names.sym(tree));
        if let Some(nodes) = self.writers.get(&tree) {
            two_writers(at, tree, node, nodes, known, log);
        }
    }
}

fn two_writers(at: Duration, volume: Sym, node: Sym, nodes: &BTreeMap<Sym, usize>, known: &Known, log: &mut Log) {
    if let Some((other, _)) = nodes.iter().find(|(other, _)| **other != node) {
        log.say(at, Rule::S2, || {
            format!("{} is ReadWriteOnce and held for writing on {} and {}", known.text(volume), known.text(*other), known.text(node))
        });
    }
}
