//! `mount.nfs4`: what the real `mount.efs` runs at last, against its proxy on a port of this machine. What to mount is in the state file
//! and the proxy's configuration that belong to that port.

use crate::mount_efs::Failure;
use crate::mount_efs::options::{Device, Options};
use crate::mount_efs::server::{self, NotAttached};
use crate::protocol::{self, MountAsk, RefusalKind, Request};
use crate::server::View;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a port on which nobody listens is tried again, as mount.nfs(8) does by `retry=2`.
const REFUSED_LIMIT: Duration = Duration::from_secs(120);

/// Where the helper finds its surroundings.
#[derive(Debug, Clone)]
pub struct Environment {
    pub socket: PathBuf,
    pub state_directory: PathBuf,
    /// How soon a server that does not answer is asked again.
    pub pace: Duration,
}

impl Environment {
    /// `EBBTIDE_EFS_SOCKET`, `EBBTIDE_EFS_STATE_DIR` or the usual places.
    pub fn from_process() -> Environment {
        let place = |key: &str, default: &str| std::env::var_os(key).map_or_else(|| default.into(), PathBuf::from);
        Environment {
            socket: place("EBBTIDE_EFS_SOCKET", protocol::DEFAULT_SOCKET),
            state_directory: place("EBBTIDE_EFS_STATE_DIR", "/var/run/efs"),
            pace: Duration::from_millis(500),
        }
    }
}

/// The helper; `args` with the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    match run(&args, &Environment::from_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            eprintln!("{message}");
            ExitCode::from(code)
        }
    }
}

fn failed(message: impl std::fmt::Display) -> Failure {
    Failure { message: format!("mount.nfs4: {message}"), code: 32 }
}

/// Mounts as the arguments say.
pub fn run(args: &[String], environment: &Environment) -> Result<(), Failure> {
    let (Some(source), Some(target)) = (args.get(1), args.get(2)) else {
        return Err(Failure { message: "usage: mount.nfs4 remotetarget dir [-rvVwfnsh] [-o nfsoptions]".into(), code: 1 });
    };
    let rest = args.get(3..).unwrap_or_default();
    let options = match rest.iter().position(|a| a == "-o").and_then(|at| rest.get(at + 1)) {
        Some(text) => Options::parse(text).map_err(failed)?,
        None => Options::default(),
    };
    let target = std::path::absolute(target).unwrap_or_else(|_| target.into());
    // Nothing was mounted by efs-utils' own check, which knows NFS only. What is there stays.
    if server::is_mounted(&target) {
        return Ok(());
    }
    let ask = match source.split_once(':') {
        Some(("127.0.0.1", path)) => through_proxy(path, &options, environment)?,
        _ => by_name(source, &options)?,
    };
    let ask = MountAsk { target: target.display().to_string(), ..ask };
    let view = View { nfs: true, ..options.view() };
    loop {
        match server::ask(&environment.socket, Request { ask: ask.clone(), view }).map_err(failed)? {
            Ok((mount, _)) => {
                return match server::attach(&mount, &target) {
                    Ok(()) | Err(NotAttached::Mounted) => Ok(()),
                    Err(NotAttached::MountPoint(problem)) => {
                        Err(Failure { message: format!("mount.nfs4: mount point {} {problem}", target.display()), code: 1 })
                    }
                    Err(NotAttached::Failed(message)) => Err(failed(message)),
                };
            }
            Err(refusal) => match refusal.kind {
                RefusalKind::Denied | RefusalKind::NoSuchPath => {
                    return Err(Failure { message: server::refusal_text(refusal.kind, source), code: 32 });
                }
                RefusalKind::Failed => return Err(failed(refusal.message)),
                // No answer. A hard mount waits, and efs-utils decides how long.
                RefusalKind::Unresolved | RefusalKind::Unreachable => std::thread::sleep(environment.pace),
            },
        }
    }
}

/// What the proxy on this port is for.
fn through_proxy(path: &str, options: &Options, environment: &Environment) -> Result<MountAsk, Failure> {
    let port = options.get("port").and_then(|port| port.parse::<u16>().ok()).unwrap_or(2049);
    let since = Instant::now();
    while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        if error.kind() != std::io::ErrorKind::ConnectionRefused || since.elapsed() > REFUSED_LIMIT {
            return Err(failed(if error.kind() == std::io::ErrorKind::ConnectionRefused {
                "Connection refused".into()
            } else {
                error.to_string()
            }));
        }
        std::thread::sleep(environment.pace);
    }
    let unknown = |why: &dyn std::fmt::Display| {
        let directory = environment.state_directory.display();
        failed(format!("what listens on port {port} is no efs-proxy of a mount that {directory} has a state file for: {why}"))
    };
    let (name, state) = state_file(&environment.state_directory, port).map_err(|error| unknown(&error))?;
    let text = |key: &str| state.get(key).and_then(|value| value.as_str());
    let words = |key: &str| {
        let list = state.get(key).and_then(|value| value.as_array());
        list.into_iter().flatten().filter_map(|word| word.as_str()).collect::<Vec<_>>()
    };
    let config = words("files").into_iter().find(|file| file.contains("stunnel-config."));
    let config = config.map(std::fs::read_to_string).ok_or_else(|| unknown(&"it names no configuration"))?;
    let config = config.map_err(|error| unknown(&error))?;
    let connect = config.lines().find_map(|line| line.strip_prefix("connect = ")).and_then(|to| to.rsplit_once(':'));
    let (host, _) = connect.ok_or_else(|| unknown(&"its configuration does not say where to connect to"))?;
    // A mount without TLS has no id in its state; its name begins with it.
    let id = text("fsId").map(str::to_owned).or_else(|| name.split('.').next().map(str::to_owned)).unwrap_or_default();
    let ip = host.parse::<Ipv4Addr>().is_ok().then(|| host.to_owned());
    let zone = if ip.is_none() { Device::parse(host, &Options::default()).map_err(failed)?.zone } else { None };
    Ok(MountAsk {
        file_system_id: id,
        access_point_id: text("accessPoint").map(str::to_owned),
        availability_zone: zone,
        mount_target_ip: ip,
        tls: words("cmd").contains(&"--tls"),
        iam: text("awsCredentialsMethod").is_some(),
        read_only: options.has("ro"),
        path: path.to_owned(),
        target: String::new(),
    })
}

/// The state file of a mount that is being made, without the `~` of its name, and what is in it.
fn state_file(directory: &Path, port: u16) -> std::io::Result<(String, serde_json::Value)> {
    let end = format!(".{port}");
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_prefix('~').filter(|name| name.starts_with("fs-") && name.ends_with(&end)) {
            return Ok((name.to_owned(), serde_json::from_slice(&std::fs::read(entry.path())?)?));
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("there is no ~fs-*{end}")))
}

/// A mount past the proxy, by the name of a mount target (the option `stunnel` without `tls`).
fn by_name(source: &str, options: &Options) -> Result<MountAsk, Failure> {
    let device = Device::parse(source, options)
        .map_err(|_| failed(format!("Failed to resolve server {}: Name or service not known", host(source))))?;
    Ok(MountAsk {
        file_system_id: device.file_system_id,
        access_point_id: None,
        availability_zone: device.zone,
        mount_target_ip: None,
        tls: false,
        iam: false,
        read_only: options.has("ro"),
        path: device.path,
        target: String::new(),
    })
}

fn host(source: &str) -> &str {
    source.split_once(':').map_or(source, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A state directory as mount.efs leaves it when it runs mount.nfs4, and a proxy's listener.
    fn state(name: &str, connect: &str, more: &str) -> (tempfile::TempDir, TcpListener, Environment) {
        let directory = tempfile::tempdir().expect("tempdir");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let config = directory.path().join(format!("stunnel-config.{name}.{port}"));
        std::fs::write(&config, format!("[efs]\nclient = yes\nconnect = {connect}:2049\nfs_id = fs-0abc")).expect("written");
        let text = format!(r#"{{"pid": 7, "cmd": ["/sbin/efs-proxy", "{0}"{more}, "files": ["{0}"]}}"#, config.display());
        std::fs::write(directory.path().join(format!("~{name}.{port}")), text).expect("written");
        let state_directory = directory.path().to_owned();
        let environment = Environment { socket: state_directory.join("none.sock"), state_directory, pace: Duration::ZERO };
        (directory, listener, environment)
    }

    fn ask(listener: &TcpListener, environment: &Environment, options: &str) -> Result<MountAsk, Failure> {
        let port = listener.local_addr().expect("an address").port();
        through_proxy("/dir", &Options::parse(&format!("{options},port={port}")).expect("options"), environment)
    }

    #[test]
    fn what_to_mount_is_in_the_state_of_the_port() {
        let more = r#", "--tls"], "accessPoint": "fsap-0123456789abcdef0", "fsId": "fs-0abc", "awsCredentialsMethod": "metadata:""#;
        let (_directory, listener, environment) = state("fs-0abc.mnt.efs", "us-east-1b.fs-0abc.efs.us-east-1.amazonaws.com", more);
        let expected = MountAsk {
            file_system_id: "fs-0abc".into(),
            access_point_id: Some("fsap-0123456789abcdef0".into()),
            availability_zone: Some("us-east-1b".into()),
            mount_target_ip: None,
            tls: true,
            iam: true,
            read_only: true,
            path: "/dir".into(),
            target: String::new(),
        };
        assert_eq!(ask(&listener, &environment, "ro,nfsvers=4.1"), Ok(expected));
    }

    #[test]
    fn without_tls_the_name_of_the_state_file_tells_the_file_system() {
        let (_directory, listener, environment) = state("fs-0abc.mnt.efs", "10.0.1.5", "]");
        let ask = ask(&listener, &environment, "rw").expect("known");
        assert_eq!((ask.file_system_id.as_str(), ask.mount_target_ip.as_deref(), ask.tls), ("fs-0abc", Some("10.0.1.5"), false));
    }

    #[test]
    fn a_port_of_somebody_else_is_no_efs() {
        let (_directory, _, environment) = state("fs-0abc.mnt.efs", "10.0.1.5", "]");
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let failure = ask(&other, &environment, "rw").expect_err("nobody mounts there");
        assert!(failure.code == 32 && failure.message.contains("there is no ~fs-*."), "{failure:?}");
    }
}
