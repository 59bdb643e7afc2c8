//! What is left when all came to rest: S21.

use std::collections::BTreeMap;
use std::time::Duration;

use super::attach::Attach;
use super::known::Known;
use super::mounts::{Mounts, Role};
use super::names::Sym;
use super::table::Rule;
use super::watch::Log;

/// Files and directories of the kubelets, by node and path, with the pod or volume to which each belongs.
#[derive(Debug, Default)]
pub(super) struct Rest {
    paths: BTreeMap<(Sym, Sym), Owner>,
}

#[derive(Debug, Clone, Copy)]
enum Owner {
    /// By its uid.
    Pod(Sym),
    Volume(Sym),
}

impl Rest {
    pub(super) fn path(&mut self, node: &str, path: &str, pod: Option<&str>, volume: Option<&str>, there: bool, known: &mut Known) {
        let names = &mut known.names;
        let key = (names.sym(node), names.sym(path));
        let owner = pod.map(|pod| Owner::Pod(names.sym(pod))).or_else(|| volume.map(|volume| Owner::Volume(names.sym(volume))));
        match owner.filter(|_| there) {
            Some(owner) => self.paths.insert(key, owner),
            None => self.paths.remove(&key),
        };
    }

    pub(super) fn end(&self, at: Duration, known: &Known, mounts: &Mounts, attach: &Attach, log: &mut Log) {
        let text = |sym: Sym| known.text(sym);
        let is_here = |pod: Sym| known.pods_by_uid.contains_key(&pod);
        let is_used = |volume: Sym, node: Sym| known.pods_of(volume).any(|(_, pod)| pod.node == Some(node));
        for ((node, path), mount) in &mounts.mounts {
            let (volume, path, name) = (text(mount.volume), text(*path), text(*node));
            match mount.role {
                Role::Published(pod) if !is_here(pod) => {
                    log.say(at, Rule::S21, || {
                        format!("{volume} is still mounted at {path} on {name} for pod {}, which is gone", text(pod))
                    });
                }
                Role::Staged if !is_used(mount.volume, *node) => {
                    log.say(at, Rule::S21, || format!("{volume} is still staged at {path} on {name}, where no pod uses it"));
                }
                Role::Other if !known.pvs_of_volume.contains_key(&mount.volume) => {}
                Role::Other if !is_used(mount.volume, *node) => {
                    log.say(at, Rule::S21, || format!("{volume} is still mounted at {path} on {name}, where no pod uses it"));
                }
                _ => {}
            }
        }
        for (node, volume) in mounts.devices.keys().filter(|(node, volume)| !attach.is_attached(*volume, *node)) {
            log.say(at, Rule::S21, || format!("{} still has the device of {}, which is not attached to it", text(*node), text(*volume)));
        }
        // A kubelet that does not run takes nothing away.
        let works = |node: &Sym| known.nodes.get(node).is_none_or(|node| node.kubelet);
        for ((node, path), owner) in self.paths.iter().filter(|((node, _), _)| works(node)) {
            let (left, of) = match owner {
                Owner::Pod(pod) => (!is_here(*pod), *pod),
                Owner::Volume(volume) => (!is_used(*volume, *node), *volume),
            };
            if left {
                log.say(at, Rule::S21, || format!("{} is still on {}, and nothing there uses {}", text(*path), text(*node), text(of)));
            }
        }
    }
}
