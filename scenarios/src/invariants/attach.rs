//! What is attached where, and who was told so: S1, S14 to S16, S19, S23 and S30.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi::Error;

use super::calls::{Call, Verb, is_uncertain};
use super::known::{Attachment, Delta, Known, Turn};
use super::mounts::Mounts;
use super::names::{Id, Sym};
use super::table::Rule;
use super::watch::Log;

/// How long a scheduler may not have seen a write that is there: a healthy watch.
const SEEN_BY_NOW: Duration = Duration::from_secs(1);
/// How long a pod may be bound before the attach/detach controller surely wants its volumes: a few rounds of its loops.
const WANTED_BY_NOW: Duration = Duration::from_secs(2);

/// A volume as EC2 has it.
#[derive(Debug, Default)]
struct Volume {
    multi_attach: bool,
    instances: BTreeSet<Sym>,
}

/// The calls for a VolumeAttachment since it was created.
#[derive(Debug, Default)]
struct Calls {
    /// `ControllerPublishVolume` succeeded.
    published: bool,
    /// It may have been carried out, and nothing took it back.
    standing: bool,
}

#[derive(Debug, Default)]
pub(super) struct Attach {
    volumes: BTreeMap<Sym, Volume>,
    /// How many volumes EC2 has attached to a node.
    counts: BTreeMap<Sym, usize>,
    /// Where the control plane has, or may have, attached a volume: by volume, by node; whether it knows.
    asked: BTreeMap<Sym, BTreeMap<Sym, bool>>,
    /// By VolumeAttachment.
    calls: BTreeMap<Sym, Calls>,
    /// Volumes that were in `volumesAttached` while in `volumesInUse`, since they came into the latter: by node and volume.
    shaken: BTreeSet<(Sym, Sym)>,
}

impl Attach {
    pub(super) fn made(&mut self, volume: &str, multi_attach: bool, known: &mut Known) {
        let volume = known.names.sym(volume);
        self.volumes.entry(volume).or_default().multi_attach = multi_attach;
    }

    pub(super) fn deleted(&mut self, volume: &str, known: &mut Known) {
        let volume = known.names.sym(volume);
        for node in self.volumes.remove(&volume).unwrap_or_default().instances {
            self.count(node, false);
        }
        self.asked.remove(&volume);
    }

    /// Whether EC2 has the volume attached, or is attaching or detaching it.
    pub(super) fn is_attached(&self, volume: Sym, node: Sym) -> bool {
        self.volumes.get(&volume).is_some_and(|volume| volume.instances.contains(&node))
    }

    /// Where EC2 has a volume, by node.
    pub(super) fn nodes_of(&self, volume: Sym) -> impl Iterator<Item = Sym> {
        self.volumes.get(&volume).into_iter().flat_map(|volume| volume.instances.iter().copied())
    }

    fn count(&mut self, node: Sym, more: bool) -> usize {
        let count = self.counts.entry(node).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        *count
    }

    /// S1 as EC2 sees it, and S23. Gives the nodes where it is or was.
    pub(super) fn attachments(
        &mut self,
        at: Duration,
        volume: &str,
        instances: &BTreeMap<String, &'static str>,
        known: &mut Known,
        log: &mut Log,
    ) -> Vec<Sym> {
        let volume = known.names.sym(volume);
        let mut now = BTreeSet::new();
        for instance in instances.keys() {
            let instance = known.names.sym(instance);
            now.insert(known.node_name(instance));
        }
        let state = self.volumes.entry(volume).or_default();
        let multi_attach = state.multi_attach;
        let old = std::mem::replace(&mut state.instances, now.clone());
        if !multi_attach && now.len() > 1 && now.len() > old.len() {
            log.say(at, Rule::S1, || format!("{} is attached to {}", known.text(volume), list(known, now.iter().copied())));
        }
        for node in old.difference(&now) {
            self.count(*node, false);
        }
        for node in now.difference(&old) {
            let count = self.count(*node, true);
            let limit = known.nodes.get(node).and_then(|node| node.limit);
            if let Some(limit) = limit.filter(|limit| count > *limit) {
                log.say(at, Rule::S23, || {
                    format!("{} has {count} volumes attached with {}, its limit is {limit}", known.text(*node), known.text(volume))
                });
            }
        }
        old.union(&now).copied().collect()
    }

    /// S1 as the control plane sees it.
    pub(super) fn began(&mut self, at: Duration, call: &Call, known: &Known, log: &mut Log) {
        let Call { verb, volume, node, .. } = *call;
        if verb != Verb::Publish {
            return;
        }
        let nodes = self.asked.entry(volume).or_default();
        if call.single
            && let Some((other, known_there)) = nodes.iter().find(|(other, _)| **other != node)
        {
            log.say(at, Rule::S1, || {
                let how = if *known_there { "is attached to" } else { "may be attached to" };
                let (volume, node, other) = (known.text(volume), known.text(node), known.text(*other));
                format!("ControllerPublishVolume of {volume} to {node} began while it {how} {other}")
            });
        }
        nodes.entry(node).or_insert(false);
        if let Some(attachment) = known.attachment_of.get(&(volume, node)) {
            self.calls.entry(*attachment).or_default().standing = true;
        }
    }

    pub(super) fn ended(&mut self, call: &Call, error: Option<&Error>, known: &Known) {
        let Call { verb, volume, node, .. } = *call;
        let attachment = known.attachment_of.get(&(volume, node)).copied();
        match (verb, error) {
            (Verb::Publish, None) => {
                self.asked.entry(volume).or_default().insert(node, true);
                if let Some(attachment) = attachment {
                    let calls = self.calls.entry(attachment).or_default();
                    (calls.published, calls.standing) = (true, true);
                }
            }
            // Refused for good: it is as it was before.
            (Verb::Publish, Some(error)) if !is_uncertain(error) => {
                if let Some(nodes) = self.asked.get_mut(&volume)
                    && nodes.get(&node) == Some(&false)
                {
                    nodes.remove(&node);
                    if let Some(calls) = attachment.and_then(|attachment| self.calls.get_mut(&attachment)) {
                        calls.standing = false;
                    }
                }
            }
            (Verb::Unpublish, None) => {
                if let Some(nodes) = self.asked.get_mut(&volume) {
                    nodes.remove(&node);
                    if nodes.is_empty() {
                        self.asked.remove(&volume);
                    }
                }
                if let Some(calls) = attachment.and_then(|attachment| self.calls.get_mut(&attachment)) {
                    calls.standing = false;
                }
            }
            _ => {}
        }
    }

    /// S14 and S15, where the kubelet begins to mount.
    pub(super) fn node_began(&self, at: Duration, call: &Call, known: &Known, log: &mut Log) {
        let Call { verb, volume, node, driver, .. } = *call;
        let first = verb == Verb::NodeStage || (verb == Verb::NodePublish && !call.staged);
        if !first || !known.is_attachable(driver) {
            return;
        }
        let Some(state) = known.nodes.get(&node) else { return };
        let words = |what: &str| format!("{} of {} on {} began {what}", verb.name(), known.text(volume), known.text(node));
        if !state.in_use.contains(&volume) {
            log.say(at, Rule::S14, || words("before the node had it in volumesInUse"));
        }
        if !self.shaken.contains(&(node, volume)) {
            log.say(at, Rule::S15, || words("before it was in volumesAttached while in volumesInUse"));
        }
    }

    pub(super) fn object(&mut self, at: Duration, delta: &Delta<'_>, known: &Known, mounts: &Mounts, log: &mut Log) {
        match delta {
            Delta::Node { name, in_use, attached, gone } => {
                self.node(at, *name, in_use, attached, *gone, known, mounts, log);
            }
            Delta::Attachment { name, old, new } => self.attachment(at, *name, old.as_ref(), new.as_ref(), known, log),
            Delta::Pod { id, old: Some((_, None)), last: None } => scheduled(at, *id, known, log),
            _ => {}
        }
    }

    /// S14 and S16, where a status of a Node changes.
    #[allow(clippy::too_many_arguments)] // the parts of one change
    fn node(&mut self, at: Duration, name: Sym, in_use: &Turn, attached: &Turn, gone: bool, known: &Known, mounts: &Mounts, log: &mut Log) {
        let Some(node) = known.nodes.get(&name) else { return };
        for volume in &in_use.went {
            self.shaken.remove(&(name, *volume));
            if !gone && node.kubelet && mounts.is_held(*volume, name) {
                log.say(at, Rule::S14, || {
                    let how = mounts.how(*volume, name);
                    format!("{} left volumesInUse of {} while it is {how} there", known.text(*volume), known.text(name))
                });
            }
        }
        for volume in in_use.came.iter().chain(&attached.came) {
            if node.in_use.contains(volume) && node.attached.contains(volume) {
                self.shaken.insert((name, *volume));
            }
        }
        for volume in &attached.came {
            let attachment = known.attachment_of.get(&(*volume, name)).and_then(|name| known.attachments.get(name));
            if !attachment.is_some_and(|attachment| attachment.attached) {
                log.say(at, Rule::S16, || {
                    format!(
                        "{} came into volumesAttached of {}, to which no VolumeAttachment says it is attached",
                        known.text(*volume),
                        known.text(name)
                    )
                });
            }
        }
    }

    /// S16, S19 and S30, where a VolumeAttachment changes.
    fn attachment(&mut self, at: Duration, name: Sym, old: Option<&Attachment>, new: Option<&Attachment>, known: &Known, log: &mut Log) {
        let same = old.zip(new).is_none_or(|(old, new)| old.uid == new.uid);
        let calls = if same { self.calls.remove(&name) } else { None }.unwrap_or_default();
        let was = |what: fn(&Attachment) -> bool| same && old.is_some_and(what);
        let Some(of) = new.or(old) else { return };
        let words = |what: &str| {
            let volume = of.volume.map_or("a volume", |volume| known.text(volume));
            format!("VolumeAttachment {} ({volume} on {}) {what}", known.text(name), known.text(of.node))
        };
        // A detach begins: the control plane's, not one that a user ordered by hand.
        if !known.user
            && !was(|old| old.deleting)
            && new.is_none_or(|new| new.deleting)
            && let Some(volume) = of.volume
        {
            if known.nodes.get(&of.node).is_some_and(|node| node.object.is_some() && node.attached.contains(&volume)) {
                log.say(at, Rule::S16, || words("is being deleted while the volume is in the node's volumesAttached"));
            }
            let wants = |pod: &super::known::Pod| {
                let seen_at = pod.bound_at.max(known.attach_behind);
                pod.node == Some(of.node) && !pod.is_terminated() && at.saturating_sub(seen_at) >= WANTED_BY_NOW
            };
            let here = known.nodes.get(&of.node).is_some_and(|node| node.object.is_some());
            if here && let Some((pod, _)) = known.pods_of(volume).find(|(_, pod)| wants(pod)) {
                log.say(at, Rule::S30, || words(&format!("is being deleted while pod {} there wants the volume", known.names.path(pod))));
            }
        }
        if new.is_some_and(|new| new.attached) && !was(|old| old.attached) && !calls.published && !known.user {
            log.say(at, Rule::S19, || words("says attached, and no ControllerPublishVolume succeeded since it was created"));
        }
        if new.is_none() && calls.standing && !known.user {
            log.say(at, Rule::S19, || words("is gone, and no ControllerUnpublishVolume succeeded"));
        }
        if was(|old| old.finalizer) && !new.is_some_and(|new| new.finalizer) && calls.standing {
            log.say(at, Rule::S29, || words("lost its attacher's finalizer, and no ControllerUnpublishVolume succeeded"));
        }
        if new.is_some() {
            self.calls.insert(name, calls);
        }
    }
}

/// S23: the scheduler bound a pod.
fn scheduled(at: Duration, id: Id, known: &Known, log: &mut Log) {
    let Some((pod, node)) = known.pods.get(&id).and_then(|pod| Some((pod, pod.node?))) else { return };
    let Some(csi_node) = known.csi_nodes.get(&node).filter(|node| at.saturating_sub(node.since) >= SEEN_BY_NOW) else { return };
    for (driver, limit) in &csi_node.limits {
        let adds = pod.claims.iter().any(|claim| known.pv_of_claim(*claim).is_some_and(|pv| pv.driver == *driver));
        let count = known.node_volumes.get(&(node, *driver)).map_or(0, BTreeMap::len);
        if adds && count > *limit && !known.user {
            log.say(at, Rule::S23, || {
                let (pod, node, driver) = (known.names.path(id), known.text(node), known.text(*driver));
                format!("pod {pod} was bound to {node}, whose pods now use {count} volumes of {driver}; its CSINode allows {limit}")
            });
        }
    }
}

fn list(known: &Known, names: impl Iterator<Item = Sym>) -> String {
    names.map(|name| known.text(name)).collect::<Vec<_>>().join(" and ")
}
