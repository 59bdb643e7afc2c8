//! From a pod's container to what the helper process is told: command, environment, volumes, identity.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use model_node::pod::StartError;
use model_node::volume_manager::{Layout, PodVolume};
use nix::mount::{MsFlags, mount};

use super::local::{config_map, field_value, pod_dir, secret, source_of};
use crate::config::{METADATA_VARIABLE, MetadataEndpoints};
use crate::pods::config::{Bind, ContainerConfig, DEFAULT_CAPABILITIES, Device, Process};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the builder needs beside the pod.
pub struct Context<'a> {
    pub client: &'a kube::Client,
    pub kubelet_dir: &'a Path,
    pub volumes: &'a [PodVolume],
    pub attempt: u32,
    /// Where containers find the instance's metadata service.
    pub metadata: Option<&'a MetadataEndpoints>,
}

fn config(why: impl std::fmt::Display) -> StartError {
    StartError::Config(why.to_string())
}

/// The container of a pod by name, among the init containers too.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
}

/// The container's configuration; makes its scratch directory and its subPath binds.
pub async fn build(context: &Context<'_>, pod: &Pod, name: &str) -> Result<ContainerConfig, StartError> {
    let container = find(pod, name).ok_or_else(|| config(format!("no container {name}")))?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dir = pod_dir(context.kubelet_dir, uid);
    let own = dir.join("containers").join(name);
    let scratch = own.join(context.attempt.to_string());
    std::fs::create_dir_all(&scratch).map_err(|error| config(format!("mkdir {}: {error}", scratch.display())))?;
    let env = environment(context, pod, container).await?;
    let argv = command(container, &env)?;
    let mut binds = etc(&dir, &own, pod, container, context.attempt)?;
    for (index, volume_mount) in container.volume_mounts.iter().flatten().enumerate() {
        binds.push(volume(context, &dir, pod, container, volume_mount, index, &env)?);
    }
    let devices = container.volume_devices.iter().flatten().map(|device| {
        let found = context.volumes.iter().find(|volume| volume.name == device.name);
        let volume = found.ok_or_else(|| config(format!("volume \"{}\" is not mapped", device.name)))?;
        let layout = Layout { root: context.kubelet_dir.display().to_string() };
        Ok(Device { source: layout.block_map(&volume.spec.pv, uid), target: device.device_path.clone(), read_only: volume.read_only })
    });
    let devices = devices.collect::<Result<_, StartError>>()?;
    let security = container.security_context.clone().unwrap_or_default();
    Ok(ContainerConfig {
        hostname: hostname(pod),
        scratch: scratch.display().to_string(),
        binds,
        devices,
        read_only_root: security.read_only_root_filesystem == Some(true),
        process: process(pod, container, argv, env)?,
    })
}

fn hostname(pod: &Pod) -> String {
    let spec_name = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let mut name = spec_name.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(63);
    name
}

fn process(pod: &Pod, container: &Container, argv: Vec<String>, env: Vec<(String, String)>) -> Result<Process, StartError> {
    let outer = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let inner = container.security_context.clone().unwrap_or_default();
    let id = |number: Option<i64>| number.map(u32::try_from).transpose().map_err(|_| config("a user or group id is out of range"));
    let uid = id(inner.run_as_user.or(outer.run_as_user))?.unwrap_or(0);
    let gid = id(inner.run_as_group.or(outer.run_as_group))?.unwrap_or(0);
    if inner.run_as_non_root.or(outer.run_as_non_root) == Some(true) && uid == 0 {
        let name = &container.name;
        let who = format!("pod: \"{}\", container: {name}", pod.metadata.name.as_deref().unwrap_or_default());
        return Err(config(format!("container has runAsNonRoot and image will run as root ({who})")));
    }
    let mut groups = Vec::new();
    for group in outer.supplemental_groups.iter().flatten().copied().chain(outer.fs_group) {
        groups.extend(id(Some(group))?);
    }
    let privileged = inner.privileged == Some(true);
    let mut kept = DEFAULT_CAPABILITIES.map(String::from).to_vec();
    if let Some(change) = &inner.capabilities {
        let plain = |name: &String| name.trim_start_matches("CAP_").to_uppercase();
        let dropped: Vec<_> = change.drop.iter().flatten().map(plain).collect();
        kept.retain(|name| !dropped.contains(name) && !dropped.iter().any(|dropped| dropped == "ALL"));
        kept.extend(change.add.iter().flatten().map(plain));
        if kept.iter().any(|name| name == "ALL") {
            kept = crate::pods::config::CAPABILITIES.map(String::from).to_vec();
        }
    }
    Ok(Process {
        argv,
        env,
        working_dir: container.working_dir.clone(),
        uid,
        gid,
        groups,
        capabilities: (!privileged).then_some(kept),
        no_new_privileges: inner.allow_privilege_escalation == Some(false),
    })
}

fn command(container: &Container, env: &[(String, String)]) -> Result<Vec<String>, StartError> {
    let Some(command) = container.command.as_ref().filter(|command| !command.is_empty()) else {
        let image = container.image.as_deref().unwrap_or_default();
        return Err(config(format!(
            "image \"{image}\" is recorded, not pulled, so its entrypoint is not known: set `command` in container \"{}\"",
            container.name
        )));
    };
    Ok(command.iter().chain(container.args.iter().flatten()).map(|word| expand(word, env)).collect())
}

/// `$(NAME)` of known variables; `$$(NAME)` stays `$(NAME)`; others stay as they are.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

async fn environment(context: &Context<'_>, pod: &Pod, container: &Container) -> Result<Vec<(String, String)>, StartError> {
    let mut env =
        vec![("PATH".to_owned(), PATH.to_owned()), ("HOSTNAME".to_owned(), hostname(pod)), ("HOME".to_owned(), "/root".to_owned())];
    if let Some(metadata) = context.metadata {
        let of_node = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let endpoint = if of_node { &metadata.node } else { &metadata.pods };
        env.push((METADATA_VARIABLE.to_owned(), endpoint.clone()));
    }
    for source in container.env_from.iter().flatten() {
        let data = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => config_map(context.client, pod, &map.name, map.optional).await.map_err(config)?,
            (None, Some(found)) => secret(context.client, pod, &found.name, found.optional).await.map_err(config)?,
            (None, None) => BTreeMap::new(),
        };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        env.extend(data.into_iter().map(|(key, value)| (format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned())));
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = variable_value(context, pod, variable, &env).await? {
            env.push((variable.name.clone(), value));
        }
    }
    Ok(env)
}

async fn variable_value(
    context: &Context<'_>,
    pod: &Pod,
    variable: &EnvVar,
    env: &[(String, String)],
) -> Result<Option<String>, StartError> {
    let Some(source) = &variable.value_from else { return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), env))) };
    if let Some(field) = &source.field_ref {
        return field_value(pod, field).map(Some).map_err(config);
    }
    let (data, key, optional, what, name) = if let Some(key) = &source.config_map_key_ref {
        (config_map(context.client, pod, &key.name, key.optional).await.map_err(config)?, &key.key, key.optional, "ConfigMap", &key.name)
    } else if let Some(key) = &source.secret_key_ref {
        (secret(context.client, pod, &key.name, key.optional).await.map_err(config)?, &key.key, key.optional, "Secret", &key.name)
    } else {
        return Err(config(format!("the source of the environment variable {} is not built", variable.name)));
    };
    match data.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(config(format!("couldn't find key {key} in {what} {namespace}/{name}")))
        }
    }
}

/// The files that every container gets: hostname, hosts, and the one for its last words.
fn etc(dir: &Path, own: &Path, pod: &Pod, container: &Container, attempt: u32) -> Result<Vec<Bind>, StartError> {
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|error| config(format!("write {}: {error}", path.display())))?;
        Ok::<_, StartError>(path.display().to_string())
    };
    let name = hostname(pod);
    let hosts = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let bind = |source: String, target: &str| Bind { source, target: target.to_owned(), read_only: false, host_to_container: false };
    let mounted = |target: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == target);
    let mut binds = Vec::new();
    if !mounted("/etc/hosts") {
        binds.push(bind(write(&dir.join("etc-hosts"), &format!("{hosts}127.0.0.1\t{name}\n"))?, "/etc/hosts"));
    }
    binds.push(bind(write(&own.join("hostname"), &format!("{name}\n"))?, "/etc/hostname"));
    let words = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    binds.push(bind(write(&termination_log(own, attempt), "")?, words));
    Ok(binds)
}

/// Where a container's last words are found on the node.
pub fn termination_log(own: &Path, attempt: u32) -> PathBuf {
    own.join(format!("{attempt}.termination-log"))
}

fn volume(
    context: &Context<'_>,
    dir: &Path,
    pod: &Pod,
    container: &Container,
    asked: &k8s_openapi::api::core::v1::VolumeMount,
    index: usize,
    env: &[(String, String)],
) -> Result<Bind, StartError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let csi = context.volumes.iter().find(|volume| volume.name == asked.name);
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let layout = Layout { root: context.kubelet_dir.display().to_string() };
    let (root, id, read_only) = match csi {
        Some(volume) => (PathBuf::from(layout.pod_mount(uid, &volume.spec.pv)), volume.spec.pv.clone(), volume.read_only),
        None => {
            let found = volumes.find(|volume| volume.name == asked.name).and_then(|volume| source_of(dir, volume));
            (found.ok_or_else(|| config(format!("volume \"{}\" is not mounted", asked.name)))?, asked.name.clone(), false)
        }
    };
    if asked.mount_propagation.as_deref() == Some("Bidirectional") {
        return Err(config("mountPropagation Bidirectional is not built; use None or HostToContainer"));
    }
    let sub_path = match (&asked.sub_path, &asked.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) => expand(expression, env),
        _ => String::new(),
    };
    let source = match sub_path.is_empty() {
        true => root,
        false => {
            let place = dir.join("volume-subpaths").join(id).join(&container.name).join(index.to_string());
            bind_sub_path(&root, &sub_path, &place).map_err(|error| {
                config(format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}", asked.name, container.name))
            })?;
            place
        }
    };
    let target = match asked.mount_path.starts_with('/') {
        true => asked.mount_path.clone(),
        false => format!("/{}", asked.mount_path),
    };
    Ok(Bind {
        source: source.display().to_string(),
        target,
        read_only: read_only || asked.read_only == Some(true),
        host_to_container: asked.mount_propagation.as_deref() == Some("HostToContainer"),
    })
}

/// Binds `root/path` on `place`. The path is walked without leaving the volume, whatever links the volume holds; missing
/// directories are made with the mode of the volume's root, its setgid bit included, so that an fsGroup can write there.
fn bind_sub_path(root: &Path, path: &str, place: &Path) -> std::io::Result<()> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let base = std::fs::File::open(root)?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&base)?.st_mode & 0o7777);
    let open = |dir: &str| rustix::fs::openat2(&base, dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath);
    let path = path.trim_matches('/');
    let target = match open(path) {
        Err(rustix::io::Errno::NOENT) => {
            let mut done = String::from(".");
            for part in path.split('/').filter(|part| !part.is_empty()) {
                let parent = open(&done)?;
                let made = rustix::fs::mkdirat(&parent, part, mode);
                done = format!("{done}/{part}");
                match made {
                    // The umask took bits away.
                    Ok(()) => set_mode(&open(&done)?, mode)?,
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            open(path)?
        }
        other => other?,
    };
    if super::volumes::is_mount_point(place)? {
        return Ok(());
    }
    let directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) == rustix::fs::FileType::Directory;
    if directory {
        std::fs::create_dir_all(place)?;
    } else {
        place.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::OpenOptions::new().create(true).append(true).open(place)?;
    }
    let source = format!("/proc/self/fd/{}", target.as_raw_fd());
    mount(Some(source.as_str()), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(Into::into)
}

/// Changes the mode of what an `O_PATH` descriptor names.
fn set_mode(fd: &OwnedFd, mode: rustix::fs::Mode) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(format!("/proc/self/fd/{}", fd.as_raw_fd()), std::fs::Permissions::from_mode(mode.as_raw_mode()))
}

#[cfg(test)]
mod tests {
    use super::{bind_sub_path, expand};

    #[test]
    fn a_sub_path_gets_the_mode_of_the_volume() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o2775)).unwrap();
        // Without root the bind fails, after the directories were made.
        let bound = bind_sub_path(&root, "a/b", &dir.path().join("place"));
        for made in ["a", "a/b"] {
            assert_eq!(std::fs::metadata(root.join(made)).unwrap().mode() & 0o7777, 0o2775, "{made}");
        }
        if bound.is_ok() {
            nix::mount::umount(&dir.path().join("place")).unwrap();
        }
        assert!(bind_sub_path(&root, "a/../../out", &dir.path().join("place")).is_err() && !dir.path().join("out").exists());
    }

    #[test]
    fn variables_are_expanded_as_the_kubelet_does() {
        let env = [("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        for (text, expected) in [("$(A)", "2"), ("x$(A)y$(B)", "x2y$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }
}
