//! What the controller takes for true when it starts (§2.2), and when it learns of an attachment or of a node.

use super::*;

impl AttachDetach {
    /// §2.2: what the nodes report is attached; a VolumeAttachment beyond that may be.
    pub(super) fn boot(&mut self) {
        self.booted = true;
        self.work.boot();
        let nodes: Vec<_> = self.cache.list::<Node>().cloned().collect();
        for node in &nodes {
            let node_name = name(&node.metadata).to_owned();
            for volume in attached_of(node) {
                self.had(Pair { volume, node: node_name.clone() }, true);
            }
            self.set_in_use(node);
            self.work.mark(Key::new(Kind::Node, "", &node_name));
        }
        let attachments: Vec<_> = self.cache.list::<VolumeAttachment>().cloned().collect();
        for attachment in attachments {
            let volume = attachment.spec.source.persistent_volume_name.as_deref();
            let Some(volume) = volume.and_then(|volume| self.cache.get::<PersistentVolume>("", volume)) else { continue };
            let Some(unique) = desired::unique_name(volume) else { continue };
            let pair = Pair { volume: unique, node: attachment.spec.node_name.clone() };
            if !self.have.contains_key(&pair) {
                self.had(pair, false);
            }
        }
        for pod in self.cache.keys(&Kind::Pod) {
            self.update_pod(&pod);
        }
        let all: Vec<Key> = self.pairs.items().cloned().collect();
        all.into_iter().for_each(|item| self.work.mark(item));
    }

    pub(super) fn had(&mut self, pair: Pair, confirmed: bool) {
        self.pairs.add(&pair);
        self.in_use.entry(pair.node.clone()).or_default().insert(pair.volume.clone());
        let have = Have { op: Op::Idle, confirmed, reported: true, detach_requested: false, expired: false, told: false };
        self.have.insert(pair, have);
    }

    pub(super) fn set_in_use(&mut self, node: &Node) {
        let volumes = node.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
        self.in_use.insert(name(&node.metadata).to_owned(), volumes.into_iter().collect());
    }
}
