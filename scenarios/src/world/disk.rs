//! The disks of virtual nodes: what the kubelets keep in their directories, and how they take it away again.

use std::collections::BTreeSet;
use std::time::Duration;

use model_node::volume_manager::{Answer, Failure, PodUid, VolData};

use super::trouble::Actor;
use super::{Event, Timer, Which, World};
use crate::invariants::Seen;

/// How often a kubelet looks for directories of pods that are gone (`housekeepingPeriod`).
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// To whom a file of a kubelet belongs.
#[derive(Debug, Clone, Copy)]
enum Owner<'a> {
    Pod(&'a str),
    Volume(&'a str),
}

impl World {
    /// Makes a directory, and `vol_data.json` in the one given with it.
    pub(super) fn make_dir(&mut self, number: usize, dir: &str, data: Option<(String, VolData)>) {
        if let Some(pod) = self.pod_of_path(number, dir).map(PodUid::from) {
            self.make_pod_dir(number, &pod);
        }
        let Some((place, data)) = data else { return };
        let handle = data.volume_handle.clone();
        let pod = self.pod_of_path(number, &place).map(str::to_owned);
        let owner = pod.as_deref().map_or(Owner::Volume(&handle), Owner::Pod);
        self.there(number, dir, owner);
        self.there(number, &vol_data(&place), owner);
        if dir == self.nodes[number].layout.block_staging(&data.spec_vol_id) {
            self.nodes[number].block_stagings.insert(dir.to_owned());
        }
        self.nodes[number].data.insert(place, data);
    }

    /// A pod's directory, made by whatever needs it first.
    pub(super) fn make_pod_dir(&mut self, number: usize, pod: &PodUid) {
        if self.nodes[number].pod_dirs.insert(pod.clone()) {
            let path = self.pod_dir(number, pod);
            self.there(number, &path, Owner::Pod(pod));
        }
    }

    /// Every `vol_data.json` in a pod's directory is gone.
    pub(super) fn lose_vol_data(&mut self, number: usize, pod: &str) {
        let below = format!("{}/", self.pod_dir(number, pod));
        let lost: Vec<String> = self.nodes[number].data.keys().filter(|directory| directory.starts_with(&below)).cloned().collect();
        for directory in lost {
            self.nodes[number].data.remove(&directory);
            self.gone(number, &vol_data(&directory));
        }
    }

    /// Removes a mount point and what was written beside it; nothing where something is mounted.
    pub(super) fn remove_mount(&mut self, number: usize, mount: &str, data_dir: &str) -> Result<Answer, Failure> {
        if self.nodes[number].mounts.contains_key(mount) {
            return Ok(Answer::StillMounted);
        }
        self.remove_path(number, mount)?;
        self.remove_path(number, data_dir)?;
        Ok(Answer::Done)
    }

    /// Removes a file, or a directory with at most `vol_data.json` in it.
    pub(super) fn remove_path(&mut self, number: usize, path: &str) -> Result<(), Failure> {
        let node = &self.nodes[number];
        if node.mounts.contains_key(path) {
            return Err(Failure::Io(format!("remove {path}: device or resource busy")));
        }
        // Below a mount point lies the volume's own content.
        let below = |(at, _): &(&String, _)| path.strip_prefix(at.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let tree = node.mounts.iter().find(below).map(|(_, mount)| mount.tree.clone());
        self.see_node(number, |node| Seen::Removed { node, path, tree: tree.as_deref() });
        self.gone(number, path);
        self.nodes[number].block_stagings.remove(path);
        if self.nodes[number].data.remove(path).is_some() {
            self.gone(number, &vol_data(path));
        }
        Ok(())
    }

    /// Removes a pod's own volumes, and its directory unless a driver's volume has its `vol_data.json` there: a call that mounts it may
    /// be under way, and without the file the kubelet cannot undo it. The housekeeping takes the directory when that is gone.
    pub(super) fn tear_down_local(&mut self, number: usize, pod: &PodUid) -> Result<(), String> {
        let path = self.pod_dir(number, pod);
        let below = format!("{path}/");
        let node = &mut self.nodes[number];
        if let Some(left) = node.mounts.keys().find(|path| path.starts_with(&below)) {
            return Err(format!("{left} is still mounted"));
        }
        node.started.retain(|(owner, _), _| owner != pod);
        if !node.data.keys().any(|dir| dir.starts_with(&below)) && node.pod_dirs.remove(pod) {
            self.see_node(number, |node| Seen::Removed { node, path: &path, tree: None });
            self.gone(number, &path);
        }
        let own = format!("emptydir/{pod}/");
        let all = self.trees.range(own.clone()..).map(|(id, _)| id).take_while(|id| id.starts_with(&own));
        let all: Vec<String> = all.cloned().collect();
        all.iter().for_each(|id| drop(self.trees.remove(id)));
        Ok(())
    }

    /// Directories of pods that neither the API nor the kubelet knows any more are removed in a while (`cleanupOrphanedPodDirs`).
    pub(super) fn watch_orphans(&mut self, number: usize) {
        if self.orphans(number).next().is_some() {
            self.clock.arm(Timer::Housekeeping(number), HOUSEKEEPING, Event::Housekeeping(number));
        }
    }

    pub(super) fn remove_orphans(&mut self, number: usize) {
        let node = &self.nodes[number];
        let free = |pod: &&PodUid| {
            let below = format!("{}/", self.pod_dir(number, pod));
            !node.machine.volumes().possibly_mounted(pod) && !node.data.keys().any(|dir| dir.starts_with(&below))
        };
        let orphans: Vec<_> = self.orphans(number).filter(free).cloned().collect();
        for pod in orphans {
            // Where something is mounted it is tried again for ever (kubernetes#105536).
            let _ = self.tear_down_local(number, &pod);
        }
        self.watch_orphans(number);
    }

    /// The tunnels of a node's EFS mounts live in the driver's pod: without it I/O waits (aws-efs-csi-driver#178).
    pub(super) fn io(&mut self, number: usize, hangs: bool) {
        if std::mem::replace(&mut self.nodes[number].io_hangs, hangs) == hangs {
            return;
        }
        let trees = self.nodes[number].mounts.values().filter(|mount| mount.tree.starts_with("fs-"));
        let trees: BTreeSet<String> = trees.map(|mount| mount.tree.clone()).collect();
        for tree in &trees {
            self.see_node(number, |node| if hangs { Seen::IoHangs { node, tree } } else { Seen::IoGoesOn { node, tree } });
        }
    }

    /// The watchdog in a driver's new pod starts the tunnels of the mounts that are there.
    pub(super) fn tunnels_start(&mut self, number: usize) {
        if !self.trouble.is_down(Actor::Plugin(number, Which::Efs)) {
            self.io(number, false);
        }
    }

    fn orphans(&self, number: usize) -> impl Iterator<Item = &PodUid> {
        let node = &self.nodes[number];
        let known = node.machine.keeps();
        node.pod_dirs.iter().filter(move |pod| node.listed() && !known.contains(*pod))
    }

    fn pod_dir(&self, number: usize, pod: &str) -> String {
        format!("{}/pods/{pod}", self.nodes[number].layout.root)
    }

    /// The pod in whose directory a path lies.
    fn pod_of_path<'a>(&self, number: usize, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.nodes[number].layout.root.as_str())?.strip_prefix("/pods/")?;
        rest.split('/').next()
    }

    fn there(&mut self, number: usize, path: &str, owner: Owner<'_>) {
        let (pod, volume) = match owner {
            Owner::Pod(pod) => (Some(pod), None),
            Owner::Volume(volume) => (None, Some(volume)),
        };
        let path = path.to_owned();
        self.see_node(number, |node| Seen::Path { node, path: &path, pod, volume, there: true });
    }

    fn gone(&mut self, number: usize, path: &str) {
        self.see_node(number, |node| Seen::Path { node, path, pod: None, volume: None, there: false });
    }
}

fn vol_data(dir: &str) -> String {
    format!("{dir}/vol_data.json")
}
