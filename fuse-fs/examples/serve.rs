//! Serves directories as EFS file systems by hand, without the rest of ebbtide:
//!
//! ```text
//! cargo run -p fuse-fs --example serve -- /tmp/efs.sock /tmp/export [uid:gid] [--no-passthrough]
//! EBBTIDE_EFS_SOCKET=/tmp/efs.sock cargo run -p fuse-fs --example serve -- mount.efs fs-0:/ /mnt/x -o tls
//! ```
//!
//! Every file system id means the one directory; an access point gets the given identity. Ends on end of input.

use fuse_fs::daemon::{Export, Stop, Tuning, serve_tuned};
use fuse_fs::fs::Identity;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "mount.efs") {
        return fuse_fs::mount_efs::main(args.into_iter().skip(1));
    }
    let passthrough = !args.iter().any(|a| a == "--no-passthrough");
    args.retain(|a| a != "--no-passthrough");
    let [_, socket, directory, rest @ ..] = args.as_slice() else {
        eprintln!("usage: serve SOCKET DIRECTORY [UID:GID] [--no-passthrough]  |  serve mount.efs FS TARGET [-o OPTIONS]");
        return ExitCode::from(2);
    };
    let user = rest.first().and_then(|r| r.to_str()).and_then(|r| r.split_once(':'));
    let identity = user.and_then(|(uid, gid)| Some(Identity { uid: uid.parse().ok()?, gid: gid.parse().ok()?, secondary_gids: vec![] }));
    let directory = PathBuf::from(directory);
    let stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let on_end = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        on_end.stop();
    });
    let resolver = Box::new(move |ask: fuse_fs::protocol::MountAsk| {
        Ok(Export {
            directory: directory.clone(),
            root_directory: "/".into(),
            identity: identity.clone().filter(|_| ask.access_point_id.is_some()),
            creation: None,
            read_only: false,
            used: 6144,
        })
    });
    let tuning = Tuning { passthrough, ..Tuning::default() };
    match serve_tuned(socket.as_ref(), resolver, stop, tuning) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}
