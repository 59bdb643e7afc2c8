//! What the kernels of the nodes have mounted, and who uses it: S2 to S9 and S22.

mod containers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi::{Code, Error};

use super::calls::{Call, Calls, Verb};
use super::known::Known;
use super::names::Sym;
use super::table::Rule;
use super::watch::Log;

/// A place that the kubelet named in a call.
#[derive(Debug, Clone, Copy)]
struct Target {
    volume: Sym,
    /// The pod whose target it is; none: a staging target.
    pod: Option<Sym>,
}

/// A mount of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mount {
    /// The handle of the volume where a call named the path, else the id of what is mounted.
    pub volume: Sym,
    pub role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Staged,
    /// For the pod of this uid.
    Published(Sym),
    /// No call named the place.
    Other,
}

/// A volume on a node.
#[derive(Debug, Default)]
struct Here {
    staged: usize,
    published: usize,
    other: usize,
    /// Calls of its node service under way that change something.
    busy: usize,
    /// The call that staged it, as far as the kubelet was told; none since a try to unstage it.
    stage_ok: Option<u64>,
    /// Stage and unstage calls that their drivers work on.
    staging: Vec<(u64, Verb)>,
}

#[derive(Debug, Default)]
pub(super) struct Mounts {
    targets: BTreeMap<(Sym, Sym), Target>,
    /// By node and path.
    pub mounts: BTreeMap<(Sym, Sym), Mount>,
    /// By volume and node.
    here: BTreeMap<(Sym, Sym), Here>,
    /// The volume and node that a call staged, to take it back when its caller is told that it failed.
    stagers: BTreeMap<u64, (Sym, Sym)>,
    /// Stage and unstage calls that ran at the same time, said when the later one shows that it was not refused.
    overlaps: BTreeMap<u64, Verb>,
    /// The running containers of a node's pods by name, with the volumes they may write.
    running: BTreeMap<(Sym, Sym), BTreeMap<Sym, Vec<Sym>>>,
    /// How many containers on a node hold a volume for writing: by volume, by node.
    writers: BTreeMap<Sym, BTreeMap<Sym, usize>>,
    /// How many mounts pods have of a ReadWriteOncePod volume: by volume, by pod.
    single: BTreeMap<Sym, BTreeMap<Sym, usize>>,
    pub devices: BTreeMap<(Sym, Sym), u64>,
}

impl Mounts {
    /// Whether a volume is mounted on a node.
    pub(super) fn is_mounted(&self, volume: Sym, node: Sym) -> bool {
        self.here.get(&(volume, node)).is_some_and(|here| here.staged + here.published + here.other > 0)
    }

    /// Whether it is mounted, or a call may be mounting or unmounting it now.
    pub(super) fn is_held(&self, volume: Sym, node: Sym) -> bool {
        self.is_mounted(volume, node) || self.here.get(&(volume, node)).is_some_and(|here| here.busy > 0)
    }

    /// Where a volume is mounted.
    pub(super) fn nodes_of(&self, volume: Sym) -> impl Iterator<Item = Sym> {
        self.here
            .range((volume, Sym::MIN)..=(volume, Sym::MAX))
            .map(|((_, node), _)| *node)
            .filter(move |node| self.is_mounted(volume, *node))
    }

    /// A path on a node at which a volume is mounted for a pod.
    pub(super) fn target_of(&self, node: Sym, pod: Sym) -> Option<Sym> {
        let here = self.mounts.range((node, Sym::MIN)..=(node, Sym::MAX));
        here.filter(|(_, mount)| mount.role == Role::Published(pod)).map(|((_, path), _)| *path).next()
    }

    /// How it is mounted, in words.
    pub(super) fn how(&self, volume: Sym, node: Sym) -> &'static str {
        match self.here.get(&(volume, node)) {
            Some(Here { published: 1.., .. }) => "published",
            Some(Here { staged: 1.., .. }) => "staged",
            Some(Here { other: 1.., .. }) => "mounted",
            Some(Here { busy: 1.., .. }) => "being mounted or unmounted",
            _ => "not mounted",
        }
    }

    /// S4.
    pub(super) fn controller_began(&self, at: Duration, call: &Call, known: &Known, log: &mut Log) {
        if call.verb == Verb::Unpublish && self.is_mounted(call.volume, call.node) && !known.may_force(call.node, at) {
            log.say(at, Rule::S4, || {
                let (volume, node) = (known.text(call.volume), known.text(call.node));
                format!("ControllerUnpublishVolume of {volume} from {node} began while it is {} there", self.how(call.volume, call.node))
            });
        }
    }

    /// S5, S6, S9, and the first half of S7.
    pub(super) fn began(&mut self, at: Duration, rpc: u64, call: &Call, known: &mut Known, log: &mut Log) {
        let Call { verb, volume, node, path, .. } = *call;
        if matches!(verb, Verb::NodeStage | Verb::NodePublish) && !self.targets.contains_key(&(node, path)) {
            let pod = (verb == Verb::NodePublish).then(|| known.pod_of_target(path));
            self.targets.insert((node, path), Target { volume, pod });
        }
        let known = &*known;
        let text = |sym: Sym| known.text(sym);
        match verb {
            Verb::NodeUnpublish => {
                if let Some((pod, container)) = self.container_on(node, path) {
                    log.say(at, Rule::S9, || {
                        let (volume, node, path, pod, container) = (text(volume), text(node), text(path), text(pod), text(container));
                        format!("NodeUnpublishVolume of {volume} at {path} on {node} while container {container} of pod {pod} runs")
                    });
                }
            }
            Verb::NodeStage | Verb::NodePublish | Verb::NodeUnstage | Verb::NodeExpand => {}
            _ => return,
        }
        let here = self.here.entry((volume, node)).or_default();
        here.busy += 1;
        if verb == Verb::NodeUnstage && here.published > 0 {
            let published = here.published;
            log.say(at, Rule::S5, || {
                format!("NodeUnstageVolume of {} on {} while it is published {published} times there", text(volume), text(node))
            });
        }
        if verb == Verb::NodePublish && call.staged && here.stage_ok.is_none() {
            log.say(at, Rule::S6, || {
                format!(
                    "NodePublishVolume of {} on {} without a NodeStageVolume that succeeded since the last unstage",
                    text(volume),
                    text(node)
                )
            });
        }
        if matches!(verb, Verb::NodeStage | Verb::NodeUnstage) {
            if here.staging.iter().any(|(_, other)| *other != verb) {
                self.overlaps.insert(rpc, verb);
            }
            here.staging.push((rpc, verb));
        }
        if verb == Verb::NodeUnstage
            && let Some(stager) = here.stage_ok.take()
        {
            self.stagers.remove(&stager);
        }
    }

    /// What a call did. S7: a driver that answers ABORTED has kept the two apart, as it must.
    pub(super) fn ended(&mut self, at: Duration, rpc: u64, call: &Call, error: Option<&Error>, known: &Known, log: &mut Log) {
        let Call { verb, volume, node, path, .. } = *call;
        if !matches!(verb, Verb::NodeStage | Verb::NodeUnstage | Verb::NodePublish | Verb::NodeUnpublish | Verb::NodeExpand) {
            return;
        }
        let here = self.here.entry((volume, node)).or_default();
        here.busy = here.busy.saturating_sub(1);
        here.staging.retain(|(other, _)| *other != rpc);
        if verb == Verb::NodeStage && error.is_none() && call.told != Some(false) && here.staging.is_empty() {
            here.stage_ok = Some(rpc);
            self.stagers.insert(rpc, (volume, node));
        }
        if matches!(verb, Verb::NodeUnstage | Verb::NodeUnpublish) && error.is_none() && !self.mounts.contains_key(&(node, path)) {
            self.targets.remove(&(node, path));
        }
        if self.overlaps.remove(&rpc).is_some() && error.is_none_or(|error| error.code != Code::Aborted) {
            log.say(at, Rule::S7, || {
                let other = if verb == Verb::NodeStage { Verb::NodeUnstage } else { Verb::NodeStage };
                let (volume, node) = (known.text(volume), known.text(node));
                format!("{} of {volume} on {node} worked at the same time as a {}", verb.name(), other.name())
            });
        }
        self.tidy(volume, node);
    }

    /// The kubelet was told after all that a call failed.
    pub(super) fn answered(&mut self, rpc: u64, well: bool) {
        if !well
            && let Some(place) = self.stagers.remove(&rpc)
            && let Some(here) = self.here.get_mut(&place)
        {
            here.stage_ok = here.stage_ok.filter(|stager| *stager != rpc);
        }
    }

    /// S3.
    pub(super) fn mounted(&mut self, at: Duration, node: &str, path: &str, tree: &str, known: &mut Known, log: &mut Log) {
        let (node, path, tree) = (known.names.sym(node), known.names.sym(path), known.names.sym(tree));
        let target = self.targets.get(&(node, path));
        let volume = target.map_or(tree, |target| target.volume);
        let role = target.map_or(Role::Other, |target| target.pod.map_or(Role::Staged, Role::Published));
        let old = self.mounts.insert((node, path), Mount { volume, role });
        if let Some(old) = old {
            // Something is mounted over it; what lies below comes back with the unmount, which is then of this one.
            self.count(node, old, false);
        }
        self.count(node, Mount { volume, role }, true);
        if let Role::Published(pod) = role
            && known.pvs_of(volume).any(|(_, pv)| pv.is_single_pod())
        {
            let pods = self.single.entry(volume).or_default();
            *pods.entry(pod).or_default() += 1;
            if let Some((other, _)) = pods.iter().find(|(other, _)| **other != pod) {
                log.say(at, Rule::S3, || {
                    let (volume, pod, other) = (known.text(volume), known.text(pod), known.text(*other));
                    format!("{volume} is ReadWriteOncePod and published for the pods {other} and {pod}")
                });
            }
        }
    }

    /// S9, for an unmount that no call asked for.
    pub(super) fn unmounted(&mut self, at: Duration, node: &str, path: &str, known: &mut Known, calls: &Calls, log: &mut Log) {
        let (node, path) = (known.names.sym(node), known.names.sym(path));
        let Some(mount) = self.mounts.remove(&(node, path)) else { return };
        self.count(node, mount, false);
        if let Role::Published(pod) = mount.role {
            let unpublishing = |call: &Call| call.verb == Verb::NodeUnpublish && call.node == node && call.path == path;
            if let Some((pod, container)) = self.container_on(node, path)
                && !calls.open().any(unpublishing)
            {
                log.say(at, Rule::S9, || {
                    let text = |sym: Sym| known.text(sym);
                    let (volume, node, path, pod, container) = (text(mount.volume), text(node), text(path), text(pod), text(container));
                    format!("{volume} was unmounted from {path} on {node} while container {container} of pod {pod} runs")
                });
            }
            if let Some(pods) = self.single.get_mut(&mount.volume) {
                pods.remove(&pod);
            }
        }
        self.tidy(mount.volume, node);
    }

    fn count(&mut self, node: Sym, mount: Mount, more: bool) {
        let here = self.here.entry((mount.volume, node)).or_default();
        let counter = match mount.role {
            Role::Staged => &mut here.staged,
            Role::Published(_) => &mut here.published,
            Role::Other => &mut here.other,
        };
        *counter = if more { *counter + 1 } else { counter.saturating_sub(1) };
    }

    /// Forgets what holds nothing.
    fn tidy(&mut self, volume: Sym, node: Sym) {
        let empty = |here: &Here| here.staged + here.published + here.other + here.busy == 0 && here.stage_ok.is_none();
        if self.here.get(&(volume, node)).is_some_and(empty) {
            self.here.remove(&(volume, node));
        }
    }

    /// A running container of the pod whose target a path is.
    fn container_on(&self, node: Sym, path: Sym) -> Option<(Sym, Sym)> {
        let pod = self.targets.get(&(node, path))?.pod?;
        let container = self.running.get(&(node, pod))?.keys().next()?;
        Some((pod, *container))
    }

    /// S4: the device goes under a mount.
    pub(super) fn device(&mut self, at: Duration, node: &str, volume: &str, bytes: Option<u64>, known: &mut Known, log: &mut Log) {
        let (node, volume) = (known.names.sym(node), known.names.sym(volume));
        let Some(bytes) = bytes else {
            self.devices.remove(&(node, volume));
            if self.is_mounted(volume, node) && !known.may_force(node, at) {
                log.say(at, Rule::S4, || {
                    let how = self.how(volume, node);
                    format!("the device of {} went from {} while it is {how} there", known.text(volume), known.text(node))
                });
            }
            return;
        };
        self.devices.insert((node, volume), bytes);
    }

    /// S22.
    pub(super) fn removed(&self, at: Duration, node: &str, path: &str, tree: Option<&str>, log: &mut Log) {
        if let Some(tree) = tree {
            log.say(at, Rule::S22, || format!("the kubelet of {node} removed {path}, which is content of {tree}"));
        }
    }

    /// Processes and mounts of the node are gone.
    pub(super) fn power_lost(&mut self, node: &str, known: &mut Known) {
        let node = known.names.sym(node);
        let all = (node, Sym::MIN)..=(node, Sym::MAX);
        let pods: Vec<_> = self.running.range(all.clone()).map(|(key, _)| *key).collect();
        for key in pods {
            for (_, held) in self.running.remove(&key).unwrap_or_default() {
                self.release(node, held);
            }
        }
        let mounts: Vec<_> = self.mounts.range(all.clone()).map(|(key, _)| *key).collect();
        for key in mounts {
            if let Some(mount) = self.mounts.remove(&key) {
                self.count(node, mount, false);
                if let Some((pods, pod)) = match mount.role {
                    Role::Published(pod) => self.single.get_mut(&mount.volume).map(|pods| (pods, pod)),
                    Role::Staged | Role::Other => None,
                } {
                    pods.remove(&pod);
                }
            }
        }
        let volumes: BTreeSet<Sym> = self.targets.range(all.clone()).map(|(_, target)| target.volume).collect();
        for volume in volumes {
            let Some(here) = self.here.get_mut(&(volume, node)) else { continue };
            here.busy = 0;
            here.staging.clear();
            if let Some(stager) = here.stage_ok.take() {
                self.stagers.remove(&stager);
            }
            self.tidy(volume, node);
        }
        let targets: Vec<_> = self.targets.range(all).map(|(key, _)| *key).collect();
        for key in targets {
            self.targets.remove(&key);
        }
    }
}
