//! Carries out the volume manager's actions: live reads, CSI calls over sockets, and the on-disk layout of §3.7.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use emulator_common::csi::{connect, node_call};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use model_common::csi;
use model_node::volume_manager::{
    Action, Answer, Attachment, ClaimRef, Failure, Found, ResizePhase, VolData, VolumeName, claim_resize_status,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::drivers::Drivers;
use super::sub_paths::clean_sub_paths;

/// No CSI call of the kubelet takes longer (§7 row 13).
pub const CSI_TIMEOUT: Duration = Duration::from_secs(120);

/// What actions need.
pub struct Executor {
    pub client: kube::Client,
    pub node: String,
    pub kubelet_dir: PathBuf,
    pub drivers: Drivers,
}

pub(super) fn io(operation: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let what = format!("{operation} {}", path.display());
    move |error| Failure::Io(format!("{what}: {error}"))
}

fn api(error: kube::Error) -> Failure {
    Failure::Api(super::api_message(&error))
}

impl Executor {
    /// Performs one action.
    pub async fn perform(self: Arc<Self>, action: Action) -> Result<Answer, Failure> {
        match action {
            Action::ReadNode => {
                let node = Api::<Node>::all(self.client.clone()).get(&self.node).await.map_err(api)?;
                Ok(Answer::Attached(volumes_attached(&node)))
            }
            Action::ReadAttachment { name } => {
                let found = Api::<VolumeAttachment>::all(self.client.clone()).get_opt(&name).await.map_err(api)?;
                Ok(Answer::Attachment(found.map(attachment)))
            }
            Action::Csi { driver, call } => self.csi(driver, call).await.map(Answer::Csi),
            Action::ClaimResize { claim, phase } => self.claim_resize(claim, phase).await.map(|()| Answer::Done),
            other => tokio::task::spawn_blocking(move || self.on_disk(other))
                .await
                .map_err(|error| Failure::Io(format!("the task failed: {error}")))?,
        }
    }

    async fn csi(&self, driver: String, call: csi::NodeCall) -> Result<csi::NodeReply, Failure> {
        let socket = self.drivers.socket(&driver).filter(|socket| socket.exists());
        let Some(socket) = socket else { return Err(Failure::NotRegistered(driver)) };
        node_call(&connect(&socket), call, CSI_TIMEOUT).await.map_err(Failure::Rpc)
    }

    async fn claim_resize(&self, claim: ClaimRef, phase: ResizePhase) -> Result<(), Failure> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &claim.namespace);
        let current = claims.get(&claim.name).await.map_err(api)?;
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let volume = match current.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) {
            Some(volume) => volumes.get_opt(volume).await.map_err(api)?,
            None => None,
        };
        let now = Time(jiff::Timestamp::now());
        let status = claim_resize_status(&current, volume.as_ref(), &phase, &now);
        let patch = json!({"metadata": {"uid": claim.uid}, "status": status});
        claims.patch_status(&claim.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(api)?;
        Ok(())
    }

    fn on_disk(&self, action: Action) -> Result<Answer, Failure> {
        match action {
            Action::MakeDir { dir, data } => {
                make_dir(Path::new(&dir))?;
                if let Some((dir, data)) = data {
                    make_dir(Path::new(&dir))?;
                    let file = Path::new(&dir).join("vol_data.json");
                    let mut json = serde_json::to_vec(&data).map_err(|error| Failure::Io(error.to_string()))?;
                    json.push(b'\n');
                    std::fs::write(&file, json).map_err(io("write", &file))?;
                }
                Ok(Answer::Done)
            }
            Action::RemoveMount { mount, data_dir } => remove_mount(Path::new(&mount), Path::new(&data_dir)),
            Action::ReadVolData { dir } => read_vol_data(Path::new(&dir)).map(Answer::VolData),
            Action::FindVolData { mount } => find_vol_data(Path::new(&mount), &self.kubelet_dir).map(Answer::VolData),
            Action::MountRefs { mount } => mount_refs(&mount, &self.kubelet_dir).map(Answer::Refs),
            Action::ApplyFsGroup { path, gid, on_root_mismatch } => {
                apply_fs_group(Path::new(&path), gid, on_root_mismatch).map_err(io("chown", Path::new(&path)))?;
                Ok(Answer::Done)
            }
            Action::CleanSubPaths { pod, volume } => {
                clean_sub_paths(&self.kubelet_dir.join("pods").join(&*pod).join("volume-subpaths").join(volume))?;
                Ok(Answer::Done)
            }
            Action::MapDevice { publish, map, link } => map_device(Path::new(&publish), Path::new(&map), Path::new(&link)),
            Action::UnmapDevice { map, link } => {
                remove(Path::new(&link))?;
                let map = Path::new(&map);
                unmount_if_mounted(map)?;
                remove(map)?;
                Ok(Answer::Done)
            }
            Action::RemovePaths { paths } => {
                for path in paths {
                    remove_path(Path::new(&path))?;
                }
                Ok(Answer::Done)
            }
            Action::ReadNode | Action::ReadAttachment { .. } | Action::Csi { .. } | Action::ClaimResize { .. } => {
                Err(Failure::Io("not an action on disk".into()))
            }
        }
    }
}

/// `node.status.volumesAttached`.
pub fn volumes_attached(node: &Node) -> BTreeSet<VolumeName> {
    let attached = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
    attached.map(|volume| volume.name.as_str().into()).collect()
}

fn attachment(found: VolumeAttachment) -> Attachment {
    let status = found.status.unwrap_or_default();
    Attachment {
        attached: status.attached,
        deleting: found.metadata.deletion_timestamp.is_some(),
        attach_error: status.attach_error.map(|error| error.message.unwrap_or_default()),
        metadata: status.attachment_metadata.unwrap_or_default(),
    }
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(io("mkdir", dir))
}

pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory, but never what is in it (S22).
pub(super) fn remove_dir(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("rmdir", path)(error)),
        _ => Ok(()),
    }
}

/// A file, or a directory of ours with at most `vol_data.json` in it.
fn remove_path(path: &Path) -> Result<(), Failure> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_dir() => {
            remove(&path.join("vol_data.json"))?;
            remove_dir(path)?;
            // The directory of the volume itself, when this was the last one in it.
            if let Some(parent) =
                path.parent().filter(|parent| parent.file_name().is_some_and(|name| name != "staging" && name != "publish"))
            {
                let _ = std::fs::remove_dir(parent);
            }
            Ok(())
        }
        Ok(_) => remove(path),
    }
}

/// Whether something is mounted on exactly this path.
pub fn is_mount_point(path: &Path) -> std::io::Result<bool> {
    Ok(mount_table()?.iter().any(|entry| entry.target == path))
}

/// A line of /proc/self/mountinfo.
pub struct MountEntry {
    /// `major:minor` and root in the file system: what is mounted.
    pub what: (String, String),
    pub target: PathBuf,
}

/// The mounts of this process's namespace.
pub fn mount_table() -> std::io::Result<Vec<MountEntry>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let entry = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        let (device, root, target) = (fields.get(2)?, fields.get(3)?, fields.get(4)?);
        Some(MountEntry { what: (device.to_string(), unescape(root)), target: PathBuf::from(unescape(target)) })
    };
    Ok(table.lines().filter_map(entry).collect())
}

/// Undoes the kernel's `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn remove_mount(mount: &Path, data_dir: &Path) -> Result<Answer, Failure> {
    if is_mount_point(mount).map_err(io("read the mounts for", mount))? {
        return Ok(Answer::StillMounted);
    }
    remove_dir(mount)?;
    remove(&data_dir.join("vol_data.json"))?;
    remove_dir(data_dir)?;
    Ok(Answer::Done)
}

fn read_vol_data(dir: &Path) -> Result<Option<VolData>, Failure> {
    let file = dir.join("vol_data.json");
    match std::fs::read(&file) {
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| Failure::Io(format!("{}: {error}", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", &file)(error)),
    }
}

/// `vol_data.json` beside the staged file system that is bound at a path.
fn find_vol_data(path: &Path, kubelet_dir: &Path) -> Result<Option<VolData>, Failure> {
    let table = mount_table().map_err(io("read the mounts for", path))?;
    let Some(own) = table.iter().find(|entry| entry.target == path) else { return Ok(None) };
    let plugins = kubelet_dir.join("plugins/kubernetes.io/csi");
    let staged = table.iter().filter(|entry| entry.what == own.what && entry.target.starts_with(&plugins));
    match staged.filter(|entry| entry.target.ends_with("globalmount")).find_map(|entry| entry.target.parent()) {
        Some(directory) => read_vol_data(directory),
        None => Ok(None),
    }
}

/// Other places where the same is mounted, without the drivers' own (`/plugins/kubernetes.io/csi/…`).
fn mount_refs(path: &str, kubelet_dir: &Path) -> Result<Vec<String>, Failure> {
    let table = mount_table().map_err(io("read the mounts for", Path::new(path)))?;
    let Some(own) = table.iter().find(|entry| entry.target == Path::new(path)) else { return Ok(Vec::new()) };
    let plugins = kubelet_dir.join("plugins/kubernetes.io/csi");
    let others = table.iter().filter(|entry| entry.what == own.what && entry.target != own.target);
    Ok(others.filter(|entry| !entry.target.starts_with(&plugins)).map(|entry| entry.target.display().to_string()).collect())
}

/// Gives a volume to a group: children first, the root last as the mark that the walk was completed (§3.10).
pub fn apply_fs_group(root: &Path, gid: u32, on_root_mismatch: bool) -> std::io::Result<()> {
    const WANTED: u32 = 0o2070;
    let meta = std::fs::metadata(root)?;
    if on_root_mismatch && meta.gid() == gid && meta.mode() & 0o2060 == 0o2060 {
        return Ok(());
    }
    fn walk(path: &Path, gid: u32, device: u64) {
        let Ok(meta) = std::fs::symlink_metadata(path) else { return };
        if meta.dev() != device {
            return;
        }
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                walk(&entry.path(), gid, device);
            }
        }
        // Failures are logged, not returned, as upstream does.
        if let Err(error) = std::os::unix::fs::lchown(path, None, Some(gid)) {
            tracing::warn!(path = %path.display(), %error, "fsGroup: chown failed");
        }
        if meta.is_symlink() {
            return;
        }
        let add = if meta.is_dir() { WANTED } else { 0o060 };
        if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(meta.mode() & 0o7777 | add)) {
            tracing::warn!(path = %path.display(), %error, "fsGroup: chmod failed");
        }
    }
    walk(root, gid, meta.dev());
    Ok(())
}

fn unmount_if_mounted(path: &Path) -> Result<(), Failure> {
    while is_mount_point(path).map_err(io("read the mounts for", path))? {
        umount2(path, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| io("unmount", path)(errno.into()))?;
    }
    Ok(())
}

fn map_device(publish: &Path, map: &Path, link: &Path) -> Result<Answer, Failure> {
    for path in [map, link] {
        path.parent().map_or(Ok(()), make_dir)?;
    }
    if !is_mount_point(map).map_err(io("read the mounts for", map))? {
        std::fs::OpenOptions::new().create(true).append(true).open(map).map_err(io("create", map))?;
        mount(Some(publish), map, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|errno| io("bind", map)(errno.into()))?;
    }
    remove(link)?;
    std::os::unix::fs::symlink(map, link).map_err(io("symlink", link))?;
    Ok(Answer::Done)
}

/// The mounts that the pods' directories show (§3.8).
pub fn find_mounts(kubelet_dir: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    let list = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for pod in list(&kubelet_dir.join("pods")) {
        for volume in list(&pod.join("volumes/kubernetes.io~csi")) {
            let data = read_vol_data(&volume).ok().flatten();
            found.push(Found::of_pod(name(&pod), name(&volume), false, data));
        }
        for device in list(&pod.join("volumeDevices/kubernetes.io~csi")) {
            let dir = kubelet_dir.join("plugins/kubernetes.io/csi/volumeDevices").join(name(&device)).join("data");
            let data = read_vol_data(&dir).ok().flatten();
            found.push(Found::of_pod(name(&pod), name(&device), true, data));
        }
    }
    found.sort_by(|a, b| (&a.pod, &a.pv).cmp(&(&b.pod, &b.pv)));
    found
}
