//! The volumes that need no driver, and the pod's own directory: emptyDir, hostPath, configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, KeyToPath, ObjectFieldSelector, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::api::{Api, PostParams};
use nix::mount::{MsFlags, mount};

use super::sub_paths::clean_sub_paths;
use super::volumes::{apply_fs_group, mount_table};

/// Why a volume could not be made; `Display` is the end of the FailedMount event.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{0}")]
    Api(String),
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: String, source: std::io::Error },
    #[error("references non-existent {what} key: {key}")]
    NoKey { what: &'static str, key: String },
    #[error("hostPath type check failed: {path} is not a {kind}")]
    HostPath { path: String, kind: String },
    #[error(
        "this kind of volume is not built; use a PersistentVolumeClaim, emptyDir, hostPath, configMap, secret, downwardAPI or projected"
    )]
    Unknown,
    #[error("failed to fetch token: {0}")]
    Token(String),
    #[error("fieldRef {0} is not supported here")]
    Field(String),
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LocalError {
    let path = path.display().to_string();
    move |source| LocalError::Io { operation, path, source }
}

/// The directory of a pod.
pub fn pod_dir(kubelet_dir: &Path, uid: &str) -> PathBuf {
    kubelet_dir.join("pods").join(uid)
}

/// Where a volume without a driver lies; none: it is a driver's.
pub fn source_of(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    let under = |kind: &str| Some(pod_dir.join("volumes").join(kind).join(&volume.name));
    if let Some(path) = &volume.host_path {
        return Some(PathBuf::from(&path.path));
    }
    if volume.empty_dir.is_some() {
        under("kubernetes.io~empty-dir")
    } else if volume.config_map.is_some() {
        under("kubernetes.io~configmap")
    } else if volume.secret.is_some() {
        under("kubernetes.io~secret")
    } else if volume.downward_api.is_some() {
        under("kubernetes.io~downward-api")
    } else if volume.projected.is_some() {
        under("kubernetes.io~projected")
    } else {
        None
    }
}

/// Makes the pod's directory and all its volumes without a driver. The error is an event's text.
pub async fn set_up(client: &kube::Client, kubelet_dir: &Path, pod: &Pod) -> Result<(), String> {
    let dir = pod_dir(kubelet_dir, pod.metadata.uid.as_deref().unwrap_or_default());
    std::fs::create_dir_all(dir.join("volumes")).map_err(|error| format!("error making pod data directories: {error}"))?;
    let spec = pod.spec.clone().unwrap_or_default();
    let gid = fs_group(pod);
    for volume in spec.volumes.iter().flatten() {
        if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            continue;
        }
        let made = one(client, &dir, pod, volume, gid).await;
        made.map_err(|error| format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name))?;
    }
    Ok(())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|gid| u32::try_from(gid).ok())
}

async fn one(client: &kube::Client, dir: &Path, pod: &Pod, volume: &Volume, gid: Option<u32>) -> Result<(), LocalError> {
    let Some(path) = source_of(dir, volume) else { return Err(LocalError::Unknown) };
    if let Some(host) = &volume.host_path {
        return host_path(&path, host.type_.as_deref().unwrap_or_default());
    }
    std::fs::create_dir_all(&path).map_err(io("mkdir", &path))?;
    if let Some(empty) = &volume.empty_dir {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(io("chmod", &path))?;
        let mounted = mount_table().map_err(io("read the mounts for", &path))?.iter().any(|entry| entry.target == path);
        if empty.medium.as_deref() == Some("Memory") && !mounted {
            mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("mode=0777"))
                .map_err(|errno| io("mount tmpfs on", &path)(errno.into()))?;
        }
    } else {
        let (files, mode) = files(client, pod, volume).await?;
        write_files(&path, files, mode)?;
    }
    match gid {
        Some(gid) => apply_fs_group(&path, gid, false).map_err(io("chown", &path)),
        None => Ok(()),
    }
}

fn host_path(path: &Path, kind: &str) -> Result<(), LocalError> {
    use std::os::unix::fs::FileTypeExt;
    let found = std::fs::metadata(path).ok().map(|meta| meta.file_type());
    let right = match kind {
        "" => true,
        "DirectoryOrCreate" if found.is_none() => return std::fs::create_dir_all(path).map_err(io("mkdir", path)),
        "FileOrCreate" if found.is_none() => return std::fs::write(path, "").map_err(io("create", path)),
        "Directory" | "DirectoryOrCreate" => found.is_some_and(|kind| kind.is_dir()),
        "File" | "FileOrCreate" => found.is_some_and(|kind| kind.is_file()),
        "Socket" => found.is_some_and(|kind| kind.is_socket()),
        "CharDevice" => found.is_some_and(|kind| kind.is_char_device()),
        "BlockDevice" => found.is_some_and(|kind| kind.is_block_device()),
        _ => false,
    };
    match right {
        true => Ok(()),
        false => Err(LocalError::HostPath { path: path.display().to_string(), kind: kind.to_lowercase() }),
    }
}

type Files = BTreeMap<String, Vec<u8>>;

async fn files(client: &kube::Client, pod: &Pod, volume: &Volume) -> Result<(Files, i32), LocalError> {
    if let Some(source) = &volume.config_map {
        let data = config_map(client, pod, &source.name, source.optional).await?;
        return Ok((select("configmap", data, source.items.as_deref())?, source.default_mode.unwrap_or(0o644)));
    }
    if let Some(source) = &volume.secret {
        let data = secret(client, pod, source.secret_name.as_deref().unwrap_or_default(), source.optional).await?;
        return Ok((select("secret", data, source.items.as_deref())?, source.default_mode.unwrap_or(0o644)));
    }
    if let Some(source) = &volume.downward_api {
        let mut files = Files::new();
        for item in source.items.iter().flatten() {
            let field = item.field_ref.as_ref().ok_or_else(|| LocalError::Field("resourceFieldRef".into()))?;
            files.insert(item.path.clone(), field_value(pod, field)?.into_bytes());
        }
        return Ok((files, source.default_mode.unwrap_or(0o644)));
    }
    let Some(projected) = &volume.projected else { return Err(LocalError::Unknown) };
    let mut files = Files::new();
    for source in projected.sources.iter().flatten() {
        if let Some(source) = &source.config_map {
            files.extend(select("configmap", config_map(client, pod, &source.name, source.optional).await?, source.items.as_deref())?);
        }
        if let Some(source) = &source.secret {
            files.extend(select("secret", secret(client, pod, &source.name, source.optional).await?, source.items.as_deref())?);
        }
        for item in source.downward_api.iter().flat_map(|source| source.items.iter().flatten()) {
            let field = item.field_ref.as_ref().ok_or_else(|| LocalError::Field("resourceFieldRef".into()))?;
            files.insert(item.path.clone(), field_value(pod, field)?.into_bytes());
        }
        if let Some(wanted) = &source.service_account_token {
            files.insert(wanted.path.clone(), token(client, pod, wanted).await?.into_bytes());
        }
    }
    Ok((files, projected.default_mode.unwrap_or(0o644)))
}

fn select(what: &'static str, data: Files, items: Option<&[KeyToPath]>) -> Result<Files, LocalError> {
    let Some(items) = items else { return Ok(data) };
    let file = |item: &KeyToPath| {
        let content = data.get(&item.key).cloned().ok_or_else(|| LocalError::NoKey { what, key: item.key.clone() })?;
        Ok((item.path.clone(), content))
    };
    items.iter().map(file).collect()
}

/// The life of a token whose volume asks for none, in seconds.
const TOKEN_LIFE: i64 = 3600;
/// Until a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(10);
/// The longest time until a token is renewed.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

/// A token of the pod's service account, bound to the pod.
async fn token(client: &kube::Client, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<String, LocalError> {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let audiences = wanted.audience.clone().filter(|audience| !audience.is_empty()).map(|audience| vec![audience]);
    let spec = TokenRequestSpec {
        audiences,
        bound_object_ref: Some(bound),
        expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(TOKEN_LIFE)),
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace(pod));
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    match answer.map_err(|error| LocalError::Token(super::api_message(&error)))?.status.and_then(|status| status.token) {
        Some(token) => Ok(token),
        None => Err(LocalError::Token("the answer holds no token".to_owned())),
    }
}

/// The volumes of a pod that hold a token, and the time after which the first must be renewed: four fifths of its life.
fn renewal(pod: &Pod) -> Option<(Vec<&Volume>, Duration)> {
    let tokens = |volume: &Volume| -> Vec<i64> {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
        tokens.map(|token| token.expiration_seconds.unwrap_or(TOKEN_LIFE)).collect()
    };
    let volumes: Vec<&Volume> = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|v| !tokens(v).is_empty()).collect();
    let shortest = volumes.iter().flat_map(|volume| tokens(volume)).min()?;
    let wait = Duration::from_secs(u64::try_from(shortest).unwrap_or(0)) * 4 / 5;
    Some((volumes, wait.min(LONGEST_USE)))
}

/// Renews the tokens in a pod's volumes for as long as its directory is there.
pub async fn renew_tokens(client: &kube::Client, kubelet_dir: &Path, pod: &Pod) {
    let Some((volumes, wait)) = renewal(pod) else { return };
    let dir = pod_dir(kubelet_dir, pod.metadata.uid.as_deref().unwrap_or_default());
    let gid = fs_group(pod);
    let mut next = wait;
    loop {
        tokio::time::sleep(next).await;
        next = wait;
        for volume in &volumes {
            if !dir.exists() {
                return;
            }
            if let Err(error) = one(client, &dir, pod, volume, gid).await {
                tracing::warn!(pod = pod.metadata.name, volume = volume.name, %error, "cannot renew a token; trying again");
                next = RENEW_AGAIN;
            }
        }
    }
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The data of a ConfigMap.
pub async fn config_map(client: &kube::Client, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Files, LocalError> {
    match Api::<ConfigMap>::namespaced(client.clone(), namespace(pod)).get_opt(name).await {
        Ok(Some(map)) => {
            let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            Ok(text.chain(map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect())
        }
        Ok(None) if optional == Some(true) => Ok(Files::new()),
        Ok(None) => Err(LocalError::Api(format!("configmap \"{name}\" not found"))),
        Err(error) => Err(LocalError::Api(super::api_message(&error))),
    }
}

/// The data of a Secret.
pub async fn secret(client: &kube::Client, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Files, LocalError> {
    match Api::<Secret>::namespaced(client.clone(), namespace(pod)).get_opt(name).await {
        Ok(Some(secret)) => Ok(secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()),
        Ok(None) if optional == Some(true) => Ok(Files::new()),
        Ok(None) => Err(LocalError::Api(format!("secret \"{name}\" not found"))),
        Err(error) => Err(LocalError::Api(super::api_message(&error))),
    }
}

/// A field of the pod, as the downward API shows it.
pub fn field_value(pod: &Pod, field: &ObjectFieldSelector) -> Result<String, LocalError> {
    let list = |map: &Option<BTreeMap<String, String>>| {
        let lines: Vec<_> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
        lines.join("\n")
    };
    let one = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.iter().flatten().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    };
    let (meta, spec) = (&pod.metadata, pod.spec.clone().unwrap_or_default());
    let path = field.field_path.as_str();
    let keyed = path.strip_suffix("']").and_then(|path| path.split_once("['"));
    Ok(match (path, keyed) {
        ("metadata.name", _) => meta.name.clone().unwrap_or_default(),
        ("metadata.namespace", _) => meta.namespace.clone().unwrap_or_default(),
        ("metadata.uid", _) => meta.uid.clone().unwrap_or_default(),
        ("metadata.labels", _) => list(&meta.labels),
        ("metadata.annotations", _) => list(&meta.annotations),
        ("spec.nodeName", _) => spec.node_name.unwrap_or_default(),
        ("spec.serviceAccountName", _) => spec.service_account_name.unwrap_or_default(),
        ("status.podIP" | "status.podIPs" | "status.hostIP" | "status.hostIPs", _) => {
            let status = pod.status.clone().unwrap_or_default();
            status.host_ip.or(status.pod_ip).unwrap_or_default()
        }
        (_, Some(("metadata.labels", key))) => one(&meta.labels, key).unwrap_or_default(),
        (_, Some(("metadata.annotations", key))) => one(&meta.annotations, key).unwrap_or_default(),
        _ => return Err(LocalError::Field(path.to_owned())),
    })
}

/// Files as upstream's atomic writer lays them out: a directory with a timestamp, `..data` to it, and links through it.
fn write_files(dir: &Path, files: Files, mode: i32) -> Result<(), LocalError> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let fresh = dir.join(&stamp);
    std::fs::create_dir_all(&fresh).map_err(io("mkdir", &fresh))?;
    let mode = std::fs::Permissions::from_mode(u32::try_from(mode).unwrap_or(0o644) & 0o777);
    for (name, content) in &files {
        let relative = Path::new(name);
        let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !plain {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(io("write", relative)(source));
        }
        let file = fresh.join(relative);
        file.parent().map_or(Ok(()), |parent| std::fs::create_dir_all(parent).map_err(io("mkdir", parent)))?;
        std::fs::write(&file, content).map_err(io("write", &file))?;
        std::fs::set_permissions(&file, mode.clone()).map_err(io("chmod", &file))?;
    }
    let (link, temporary) = (dir.join("..data"), dir.join("..data_tmp"));
    let old = std::fs::read_link(&link).ok();
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(&stamp, &temporary).map_err(io("symlink", &temporary))?;
    std::fs::rename(&temporary, &link).map_err(io("rename", &link))?;
    for name in files.keys().filter_map(|name| Path::new(name).components().next()) {
        let visible = dir.join(name);
        if std::fs::symlink_metadata(&visible).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), &visible).map_err(io("symlink", &visible))?;
        }
    }
    if let Some(old) = old {
        let _ = std::fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

/// Removes a pod's own volumes with their content; nothing of a driver's may be mounted any more (S22).
pub fn tear_down(kubelet_dir: &Path, uid: &str) -> Result<(), String> {
    let dir = pod_dir(kubelet_dir, uid);
    if !dir.exists() {
        return Ok(());
    }
    let show = |error: std::io::Error| format!("{}: {error}", dir.display());
    let sub_paths = dir.join("volume-subpaths");
    for volume in std::fs::read_dir(&sub_paths).into_iter().flatten().flatten() {
        clean_sub_paths(&volume.path()).map_err(|error| error.to_string())?;
    }
    let own =
        ["empty-dir", "configmap", "secret", "downward-api", "projected"].map(|kind| dir.join(format!("volumes/kubernetes.io~{kind}")));
    for entry in mount_table().map_err(show)?.iter().filter(|entry| own.iter().any(|own| entry.target.starts_with(own))) {
        nix::mount::umount2(&entry.target, nix::mount::MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| show(errno.into()))?;
    }
    if let Some(entry) = mount_table().map_err(show)?.iter().find(|entry| entry.target.starts_with(&dir)) {
        return Err(format!("orphaned pod {uid} found, but {} is still mounted", entry.target.display()));
    }
    for own in own.iter().filter(|own| own.exists()) {
        std::fs::remove_dir_all(own).map_err(show)?;
    }
    Ok(())
}

/// Removes the directory of a pod that was torn down, unless a driver's volume has a file there: a call that mounts it may be under way,
/// and without `vol_data.json` the volume manager cannot undo it.
pub fn remove_dir(kubelet_dir: &Path, uid: &str) -> Result<(), String> {
    let dir = pod_dir(kubelet_dir, uid);
    if !dir.exists() {
        return Ok(());
    }
    let show = |error: std::io::Error| format!("{}: {error}", dir.display());
    for empty in ["volumes/kubernetes.io~csi", "volumes", "volumeDevices/kubernetes.io~csi", "volumeDevices", "volume-subpaths"] {
        match std::fs::remove_dir(dir.join(empty)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(format!("{}/{empty}: {error}", dir.display())),
            _ => {}
        }
    }
    std::fs::remove_dir_all(&dir).map_err(show)
}
