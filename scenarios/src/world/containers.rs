//! The containers of virtual nodes: programs that look at and write to small trees of files.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model_node::kubelet::Input;
use model_node::pod::StartError;
use model_node::volume_manager::PodUid;

use super::kubelet::{Mount, Process};
use super::programs::Program;
use super::{Event, World, files};
use crate::invariants::Seen;
use crate::invariants::seen::Used;

impl World {
    /// Starts a container's command.
    pub(super) fn start(&mut self, number: usize, pod: &PodUid, container: String, attempt: u32) {
        let result = self.begin(number, pod, &container, attempt);
        let runs = result.is_ok();
        if runs {
            let used = self.used(number, pod, &container);
            self.see_node(number, |node| Seen::Started { node, pod, container: &container, volumes: &used });
        }
        self.kubelet(number, &Input::Started { pod: pod.clone(), container: container.clone(), result });
        if runs {
            self.clock.after(Duration::ZERO, Event::Line { node: number, pod: pod.clone(), container, attempt });
        }
    }

    fn begin(&mut self, number: usize, uid: &PodUid, name: &str, attempt: u32) -> Result<(), StartError> {
        let now = Time(self.timestamp());
        let node = &self.nodes[number];
        let gone = || StartError::Config(format!("container {name} is not there"));
        let pod = node.pods.get(uid).cloned().ok_or_else(gone)?;
        let spec = pod.spec.as_ref().ok_or_else(gone)?;
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let container = all.into_iter().find(|container| container.name == name).ok_or_else(gone)?;
        let program = Program::of(container).map_err(StartError::Exec)?;
        let mut mounts = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let source = self.volume_at(number, uid, &pod, &wanted.name).ok_or_else(|| {
                // S8: a container never starts on a volume that is not mounted.
                StartError::Config(format!("volume {} of container {name} is not mounted", wanted.name))
            })?;
            let root = files::clean(&format!("{}/{}", source.root, wanted.sub_path.as_deref().unwrap_or_default()));
            if let Some(tree) = self.trees.get_mut(&source.tree) {
                tree.make_directory(&root);
            }
            if wanted.sub_path.is_some()
                && let Some(pv) = self.pv_of(&pod, &wanted.name)
            {
                self.nodes[number].sub_paths.entry((uid.clone(), pv)).or_default().push((source.tree.clone(), root.clone()));
            }
            let read_only = source.read_only || wanted.read_only.unwrap_or(false);
            mounts.push((files::clean(&wanted.mount_path), Mount { root, read_only, ..source }));
        }
        // The innermost mount of a path counts.
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        let mut own = files::Tree::default();
        ["/tmp", "/var", "/etc", "/root"].iter().for_each(|directory| own.make_directory(directory));
        let key = (uid.clone(), name.to_owned());
        let node = &mut self.nodes[number];
        node.containers.insert(key.clone(), Process { attempt, program, mounts, own });
        node.started.insert(key, now);
        Ok(())
    }

    /// What a container's volumes ought to be, and what they are.
    fn used(&self, number: usize, uid: &PodUid, container: &str) -> Vec<Used> {
        let node = &self.nodes[number];
        let Some(pod) = node.pods.get(uid) else { return Vec::new() };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let spec = pod.spec.as_ref();
        let all = spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let mounts = all.filter(|known| known.name == container).flat_map(|known| known.volume_mounts.iter().flatten());
        let volumes = mounts.filter_map(|mount| {
            let volume = spec?.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
            let claim = model_kube::controllers::claim_of(pod, volume)?;
            let pv = self.store.get::<core::PersistentVolumeClaim>(namespace, &claim)?.spec.as_ref()?.volume_name.clone()?;
            let handle = self.store.get::<core::PersistentVolume>("", &pv)?.spec.as_ref()?.csi.as_ref()?.volume_handle.clone();
            let there = node.mounts.get(&node.layout.pod_mount(uid, &pv));
            Some(Used {
                name: volume.name.clone(),
                claim: Some(format!("{namespace}/{claim}")),
                // Of an EFS handle, the file system.
                wanted: handle.strip_prefix("efs:").unwrap_or(&handle).split(':').next().map(str::to_owned),
                mounted: there.map(|mount| mount.tree.clone()),
                read_only: there.is_some_and(|mount| mount.read_only),
                groups: there.and_then(|mount| self.groups(pod, mount)),
            })
        });
        volumes.collect()
    }

    /// The group that a pod wants its volume's files to have, and theirs. Only of volumes: file systems of EFS keep their own.
    fn groups(&self, pod: &core::Pod, mount: &Mount) -> Option<(u32, Option<u32>)> {
        let wanted = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
        let tree = self.trees.get(&mount.tree).filter(|_| mount.tree.starts_with("vol-") && !mount.read_only)?;
        let found = tree.root_group.filter(|root| tree.files_group == Some(*root));
        Some((u32::try_from(wanted).ok()?, found))
    }

    /// What is mounted for a pod's volume.
    fn volume_at(&self, number: usize, uid: &PodUid, pod: &core::Pod, name: &str) -> Option<Mount> {
        let node = &self.nodes[number];
        let volume = pod.spec.as_ref()?.volumes.iter().flatten().find(|volume| volume.name == name)?;
        if volume.empty_dir.is_some() {
            return Some(Mount { tree: format!("emptydir/{uid}/{name}"), root: "/".into(), read_only: false });
        }
        let pv = self.pv_of(pod, name)?;
        node.mounts.get(&node.layout.pod_mount(uid, &pv)).cloned()
    }

    /// The PersistentVolume of a pod's volume.
    fn pv_of(&self, pod: &core::Pod, name: &str) -> Option<String> {
        let volume = pod.spec.as_ref()?.volumes.iter().flatten().find(|volume| volume.name == name)?;
        let claim = model_kube::controllers::claim_of(pod, volume)?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let claim = self.store.get::<core::PersistentVolumeClaim>(namespace, &claim)?;
        claim.spec.as_ref()?.volume_name.clone()
    }

    /// A container's program comes round: its line is written, or its sleep is over.
    pub(super) fn line(&mut self, number: usize, pod: &PodUid, name: &str, attempt: u32) {
        let date = self.timestamp().strftime("%a %b %-d %H:%M:%S UTC %Y\n").to_string();
        let node = &mut self.nodes[number];
        let Some(process) = node.containers.get_mut(&(pod.clone(), name.to_owned())) else { return };
        if process.attempt != attempt {
            return;
        }
        let again = |node, every| (every, Event::Line { node, pod: pod.clone(), container: name.to_owned(), attempt });
        match process.program.clone() {
            Program::Append { file, every } => {
                // A shell whose redirection fails says so and goes on.
                let mut wrote = None;
                match process.place(&file) {
                    Some((mount, path)) => {
                        // Without its device a mounted file system answers EIO, without its tunnel not at all.
                        let cut_off = (mount.tree.starts_with("vol-") && !node.devices.contains_key(&mount.tree))
                            || (mount.tree.starts_with("fs-") && node.io_hangs);
                        if !mount.read_only && !cut_off {
                            let written = self.trees.get_mut(&mount.tree).is_some_and(|tree| tree.append(&path, &date));
                            wrote = written.then(|| mount.tree.clone());
                        }
                    }
                    None => drop(process.own.append(&file, &date)),
                }
                if let Some(tree) = wrote {
                    self.see_node(number, |node| Seen::Wrote { node, pod, tree: &tree });
                }
                let (every, event) = again(number, every);
                self.clock.after(every, event);
            }
            Program::Sleep(None) => {}
            Program::Sleep(Some(span)) => {
                process.program = Program::Sleep(Some(Duration::ZERO));
                if span.is_zero() {
                    self.end_container(number, pod, name);
                    self.kubelet(number, &Input::Exited { pod: pod.clone(), container: name.to_owned(), code: 0 });
                } else {
                    let (span, event) = again(number, span);
                    self.clock.after(span, event);
                }
            }
        }
    }
}

impl Process {
    /// The mount that a path in the container leads to, and the path in its tree; none: the container's own file system.
    pub(super) fn place(&self, path: &str) -> Option<(&Mount, String)> {
        let path = files::clean(path);
        self.mounts.iter().find_map(|(at, mount)| {
            let rest = path.strip_prefix(at.as_str())?;
            let inside = rest.is_empty() || rest.starts_with('/') || at == "/";
            inside.then(|| (mount, files::clean(&format!("{}/{rest}", mount.root))))
        })
    }
}
