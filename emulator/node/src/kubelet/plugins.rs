//! Drivers that register themselves: the kubelet's plugin manager (pkg/kubelet/pluginmanager of Kubernetes 1.36).
//!
//! A registrar beside the driver makes a socket in `plugins_registry` and tells there the driver's name and socket. As long as that socket
//! is there the driver is registered; a socket that was made anew is another registration.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use emulator_common::registration::{self, PluginInfo, RegistrationStatus};
use tokio::task::JoinHandle;

use super::drivers::Drivers;

/// How often the directory is compared with what is registered, as upstream's reconciler does.
const LOOP: Duration = Duration::from_secs(1);
const INFO_TIMEOUT: Duration = Duration::from_secs(1);
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits after a registration that failed: they double.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(122);

/// Which file a socket is: made anew, it is another one.
type File = (u64, i64, i64);

struct Plugin {
    file: File,
    /// Tries until it is registered.
    task: JoinHandle<()>,
    /// The driver, once its name is known.
    name: Arc<OnceLock<String>>,
}

/// Registers and unregisters drivers, for ever.
pub async fn run(drivers: &Drivers, dir: PathBuf) {
    // A registrar expects it to be there.
    if let Err(error) = std::fs::create_dir_all(&dir) {
        tracing::error!(%error, dir = %dir.display(), "drivers cannot register themselves");
        return;
    }
    let mut plugins = HashMap::<PathBuf, Plugin>::new();
    let mut tick = tokio::time::interval(LOOP);
    loop {
        tick.tick().await;
        let found = sockets(&dir);
        let gone: Vec<_> =
            plugins.iter().filter(|(path, plugin)| found.get(*path) != Some(&plugin.file)).map(|(path, _)| path.clone()).collect();
        for path in gone {
            let Some(plugin) = plugins.remove(&path) else { continue };
            plugin.task.abort();
            // Not before it has ended: it may be about to register.
            let _ = plugin.task.await;
            if let Some(name) = plugin.name.get() {
                drivers.uninstall(name).await;
            }
        }
        for (path, file) in found {
            plugins.entry(path.clone()).or_insert_with(|| {
                let name = Arc::new(OnceLock::new());
                let task = tokio::spawn(register(drivers.clone(), path, name.clone()));
                Plugin { file, task, name }
            });
        }
    }
}

/// The sockets of a directory and those below it; names that begin with a dot are not looked at.
fn sockets(dir: &Path) -> HashMap<PathBuf, File> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(sockets(&entry.path())),
            Ok(meta) if meta.file_type().is_socket() => drop(found.insert(entry.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec()))),
            _ => {}
        }
    }
    found
}

async fn register(drivers: Drivers, socket: PathBuf, name: Arc<OnceLock<String>>) {
    let mut wait = FIRST_WAIT;
    while let Err(why) = try_register(&drivers, &socket, &name).await {
        tracing::warn!(why, "a plugin is not registered; it is asked again in {wait:?}");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn try_register(drivers: &Drivers, socket: &Path, name: &OnceLock<String>) -> Result<(), String> {
    let at = socket.display();
    let info = registration::info(socket, INFO_TIMEOUT)
        .await
        .map_err(|error| format!("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {at}, err: {error}"))?;
    let mut result = check(&info, socket);
    if result.is_ok() {
        let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
        // Known before it is registered: if it is aborted on the way, what it did is undone.
        let _ = name.set(info.name.clone());
        result = drivers
            .install(&info.name, endpoint)
            .await
            .map_err(|error| format!("RegisterPlugin error -- plugin registration failed with err: {error}"));
    }
    let error = result.as_ref().err().cloned().unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: result.is_ok(), error };
    let told = registration::notify(socket, status, NOTIFY_TIMEOUT).await;
    if let (Ok(()), Err(error)) = (&result, told) {
        drivers.uninstall(&info.name).await;
        return Err(format!("RegisterPlugin error -- failed to send registration status at socket {at}, err: {error}"));
    }
    result
}

/// Whether it is a CSI driver of a version that this kubelet speaks, in upstream's words.
fn check(info: &PluginInfo, socket: &Path) -> Result<(), String> {
    let at = socket.display();
    let PluginInfo { r#type: kind, name, endpoint, supported_versions: versions } = info;
    if kind != "CSIPlugin" {
        return Err(format!("RegisterPlugin error -- no handler registered for plugin type: {kind} at socket {at}"));
    }
    let supported = |version: &String| {
        let version = version.strip_prefix('v').unwrap_or(version);
        matches!(version.split('.').next(), Some("0" | "1"))
    };
    let why = if versions.is_empty() {
        "Plugin returned an empty list for supported versions".to_owned()
    } else if !versions.iter().any(supported) {
        format!("None of the versions specified {versions:?} are supported")
    } else {
        return Ok(());
    };
    let endpoint = if endpoint.is_empty() { at.to_string() } else { endpoint.clone() };
    Err(format!(
        "RegisterPlugin error -- plugin validation failed with err: validation failed for CSI Driver {name} at endpoint {endpoint}: \
         kubernetes.io/csi: ValidatePlugin for CSI driver {name:?} failed. {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_csi_drivers_of_a_known_version_are_registered() {
        let check = |kind: &str, versions: &[&str]| {
            let supported_versions = versions.iter().map(|version| (*version).to_owned()).collect();
            let info = PluginInfo { r#type: kind.into(), name: "d".into(), endpoint: "/csi.sock".into(), supported_versions };
            check(&info, Path::new("/r/d-reg.sock")).err().unwrap_or_default()
        };
        assert_eq!(check("CSIPlugin", &["1.0.0"]), "");
        assert_eq!(check("CSIPlugin", &["v2.0", "0.3.0"]), "");
        assert!(check("DevicePlugin", &["1.0.0"]).ends_with("no handler registered for plugin type: DevicePlugin at socket /r/d-reg.sock"));
        assert!(check("CSIPlugin", &[]).ends_with("Plugin returned an empty list for supported versions"));
        assert!(check("CSIPlugin", &["2.0.0"]).contains(r#"None of the versions specified ["2.0.0"] are supported"#));
    }
}
