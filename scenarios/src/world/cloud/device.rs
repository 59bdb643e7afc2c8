//! What AWS has done to files, devices and trees.

use model_aws::ec2::{self, Failure, Work};
use model_aws::{Input, efs};

use super::super::World;
use super::super::files::Tree;
use crate::invariants::Seen;

impl World {
    pub(in crate::world) fn device_done(&mut self, work: Work) {
        let result = self.device(&work);
        // A late answer is ignored by the machine itself.
        let _ = self.aws(Input::Ec2(ec2::Input::Done(work, result)));
    }

    /// A snapshot or a clone holds what its source held when it was asked for, however long the copying takes.
    pub(super) fn cut(&mut self, work: &Work) {
        let seed = self.aws.ec2.seed();
        let (cut, source) = match work {
            Work::CopySnapshot { snapshot, volume, .. } => (snapshot.id(seed), volume.id(seed)),
            Work::MakeFile { volume, source: ec2::Source::Volume(source), .. } => (volume.id(seed), source.id(seed)),
            _ => return,
        };
        if self.cuts.contains_key(&cut) {
            return; // This is another try.
        }
        if let Some(tree) = self.trees.get(&source).cloned() {
            self.see(&Seen::Cut { cut: &cut, digest: tree.content() });
            self.cuts.insert(cut, tree);
        }
    }

    /// What the shell and the agents do, on trees and tables.
    fn device(&mut self, work: &Work) -> Result<(), Failure> {
        let seed = self.aws.ec2.seed();
        let missing = |what: &str| Failure::Failed { message: format!("{what}: No such file or directory") };
        match work {
            Work::MakeFile { volume, source, .. } => {
                let id = volume.id(seed);
                let (tree, cut) = match source {
                    ec2::Source::Empty => (Tree::default(), None),
                    ec2::Source::Snapshot(key) => {
                        let snapshot = key.id(seed);
                        (self.trees.get(&snapshot).cloned().ok_or_else(|| missing("snapshot"))?, Some(snapshot))
                    }
                    ec2::Source::Volume(_) => (self.cuts.remove(&id).ok_or_else(|| missing("volume"))?, Some(id.clone())),
                };
                if let Some(cut) = cut {
                    self.see(&Seen::Filled { volume: &id, cut: &cut, digest: tree.content() });
                }
                self.trees.insert(id, tree);
            }
            Work::CopySnapshot { snapshot, .. } => {
                let id = snapshot.id(seed);
                let tree = self.cuts.remove(&id).ok_or_else(|| missing("volume"))?;
                self.trees.insert(id, tree);
            }
            Work::RemoveFile { volume } => self.drop_tree(&volume.id(seed)),
            Work::RemoveSnapshot { snapshot } => self.drop_tree(&snapshot.id(seed)),
            Work::RemoveStray { id } => drop(self.trees.remove(id)),
            Work::GrowFile { .. } => {}
            Work::Attach { volume, instance, bytes, .. } => {
                let id = volume.id(seed);
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                self.see_node(node, |node| Seen::Device { node, volume: &id, bytes: Some(*bytes) });
                self.nodes[node].devices.insert(id, crate::world::kubelet::Device { bytes: *bytes });
            }
            Work::Resize { volume, instance, bytes } => {
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                if let Some(device) = self.nodes[node].devices.get_mut(&volume.id(seed)) {
                    device.bytes = *bytes;
                    let id = volume.id(seed);
                    self.see_node(node, |node| Seen::Device { node, volume: &id, bytes: Some(*bytes) });
                }
            }
            Work::Detach { volume, instance, force, .. } => {
                let id = volume.id(seed);
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                self.take_device(node, &id, *force)?;
            }
            Work::DetachStray { instance, volume_id, .. } => {
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                self.take_device(node, volume_id, false)?;
            }
        }
        Ok(())
    }

    fn drop_tree(&mut self, id: &str) {
        self.trees.remove(id);
        self.cuts.remove(id);
    }

    fn take_device(&mut self, node: usize, volume: &str, force: bool) -> Result<(), Failure> {
        let holder = self.nodes[node].ebs_mounts().find(|(mounted, _)| *mounted == volume).map(|(_, path)| path.to_owned());
        match holder {
            Some(path) if !force => Err(Failure::Busy { holder: format!("mounted at {path}") }),
            _ => {
                if self.nodes[node].devices.remove(volume).is_some() {
                    self.see_node(node, |node| Seen::Device { node, volume, bytes: None });
                }
                Ok(())
            }
        }
    }

    fn node_of_instance(&self, instance: &str) -> Option<usize> {
        self.numbers.get(instance).copied()
    }

    pub(in crate::world) fn tree_done(&mut self, work: efs::Work) {
        let result = match &work {
            efs::Work::Make(id) => {
                self.trees.entry(id.clone()).or_default();
                Ok(0)
            }
            efs::Work::Remove(id) => {
                self.trees.remove(id);
                Ok(0)
            }
            // As an empty file system: small text files are below the metering's grain.
            efs::Work::Meter(_) => Ok(6144),
        };
        let _ = self.aws(Input::Efs(efs::Input::Done(work, result)));
    }
}
