//! `efs-proxy`: started by `mount.efs` and by its watchdog for each mount. It listens where the configuration says, so that both find it
//! alive, and keeps the pid file; the data goes another way.

use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The proxy; `args` with the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(args.skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// What it reads of its configuration.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    accept: String,
    pid: PathBuf,
}

impl Config {
    fn parse(text: &str) -> Result<Config, String> {
        let value = |key: &str| {
            let found = text.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| name.trim() == key);
            found.map(|(_, value)| value.trim().to_owned()).ok_or_else(|| format!("missing field `{key}`"))
        };
        Ok(Config { accept: value("accept")?, pid: value("pid")?.into() })
    }
}

fn run(args: impl Iterator<Item = OsString>) -> Result<(), String> {
    let path = args.into_iter().find(|arg| !arg.to_string_lossy().starts_with("--"));
    let path = path.ok_or("Usage: efs-proxy [OPTIONS] <PROXY_CONFIG_PATH>")?;
    let unreadable = |why: String| format!("Failed to read configuration. {}: {why}", Path::new(&path).display());
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    let config = Config::parse(&text).map_err(unreadable)?;
    // Before there is a thread that the signals could go to. SIGHUP means another certificate, which nobody here reads.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().map_err(|error| format!("Failed to create SIGTERM listener. {error}"))?;
    let listener = TcpListener::bind(&config.accept).map_err(|error| format!("Failed to bind {}: {error}", config.accept))?;
    // As the real one: a mount without TLS has no directory for it.
    let _ = std::fs::write(&config.pid, format!("{}\n", std::process::id()));
    std::thread::spawn(move || {
        // Whoever connects only asks whether somebody listens.
        for connection in listener.incoming() {
            drop(connection);
        }
    });
    while let Ok(Signal::SIGHUP) = signals.wait() {}
    let _ = std::fs::remove_file(&config.pid);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_that_mount_efs_writes() {
        let text = "fips = no\nforeground = yes\nsocket = l:SO_REUSEADDR=yes\nsocket = a:SO_BINDTODEVICE=lo\n\
                    pid = /var/run/efs/fs-0abc.mnt.20123+/stunnel.pid\n[efs]\nclient = yes\naccept = 127.0.0.1:20123\n\
                    connect = fs-0abc.efs.us-east-1.amazonaws.com:2049";
        let expected = Config { accept: "127.0.0.1:20123".into(), pid: "/var/run/efs/fs-0abc.mnt.20123+/stunnel.pid".into() };
        assert_eq!(Config::parse(text), Ok(expected));
        assert_eq!(Config::parse("pid = /x"), Err("missing field `accept`".into()));
    }
}
