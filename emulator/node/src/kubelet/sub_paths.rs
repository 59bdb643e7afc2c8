//! Undoes the binds of subPaths, as `doCleanSubPaths` of upstream's `subpath_linux.go` does.

use std::io;
use std::path::Path;

use model_node::volume_manager::Failure;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{AccessFlags, access};

use super::volumes::{io, remove, remove_dir};

/// Undoes the binds of `volume-subpaths/<volume>/<container>/<index>` and removes the directories.
pub fn clean_sub_paths(dir: &Path) -> Result<(), Failure> {
    for container in entries(dir)? {
        if !container.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for bind in entries(&container.path())? {
            clean_mount_point(&bind.path())?;
        }
        remove_dir(&container.path())?;
    }
    remove_dir(dir)
}

/// A directory that is not there has no entries: most volumes have no subPath.
fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>, Failure> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.and_then(Iterator::collect).map_err(io("read", dir)),
    }
}

/// `mount.CleanupMountPoint`: what is said not to be there is left, even if the table of mounts has it (kubernetes#139535), and then the
/// directory above is not empty.
fn clean_mount_point(path: &Path) -> Result<(), Failure> {
    let found = std::fs::metadata(path).map(drop);
    if !is_there(found, || access(path, AccessFlags::F_OK).is_ok()).map_err(io("look at", path))? {
        tracing::warn!(path = %path.display(), "mount cleanup skipped because path does not exist");
        return Ok(());
    }
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        // Not a mount point, or one no more.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(io("unmount", path)(errno.into())),
    }
    match std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        true => remove_dir(path),
        false => remove(path),
    }
}

/// `mount.PathExists`. A mount whose file system is gone, or no longer knows its root, is there: EFS answers ESTALE, as NFS does. One that
/// can be reached and not be looked at (seen with CIFS) is, too.
fn is_there(found: io::Result<()>, reached: impl FnOnce() -> bool) -> io::Result<bool> {
    const CORRUPTED: [Errno; 7] =
        [Errno::ENOTCONN, Errno::ESTALE, Errno::EIO, Errno::EACCES, Errno::EHOSTDOWN, Errno::EWOULDBLOCK, Errno::ENODEV];
    match found {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(reached()),
        Err(error) if error.raw_os_error().is_some_and(|raw| CORRUPTED.contains(&Errno::from_raw(raw))) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn what_a_path_that_cannot_be_looked_at_counts_as() {
        let error = |errno: Errno| Err(io::Error::from(errno));
        let seen = |found, reached: bool| is_there(found, || reached).ok();
        assert_eq!(seen(Ok(()), false), Some(true));
        assert_eq!(seen(error(Errno::ENOENT), false), Some(false));
        assert_eq!(seen(error(Errno::ENOENT), true), Some(true));
        for broken in [Errno::ESTALE, Errno::ENOTCONN, Errno::EIO, Errno::EACCES, Errno::EHOSTDOWN, Errno::EAGAIN, Errno::ENODEV] {
            assert_eq!(seen(error(broken), false), Some(true), "{broken}");
        }
        assert_eq!(seen(error(Errno::ELOOP), true), None);
    }

    #[test]
    fn binds_are_undone_and_their_places_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let (volume, source) = (tmp.path().join("volume-subpaths/v"), tmp.path().join("source"));
        let binds = [volume.join("app/0"), volume.join("app/1"), volume.join("init/0")];
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("kept"), "").unwrap();
        assert!(clean_sub_paths(&volume).is_ok());
        for place in &binds[..2] {
            std::fs::create_dir_all(place).unwrap();
            // Without root there are only the places.
            let _ = mount(Some(&source), place, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        }
        std::fs::create_dir_all(volume.join("init")).unwrap();
        std::fs::write(&binds[2], "").unwrap();
        let _ = mount(Some(&source.join("kept")), &binds[2], None::<&str>, MsFlags::MS_BIND, None::<&str>);
        clean_sub_paths(&volume).unwrap();
        assert!(!volume.exists() && source.join("kept").exists());
    }

    /// What a file system does that forgot the bind's root, as far as it can be had here: the entry's target is not there.
    #[test]
    fn what_is_not_there_is_left_and_its_directory_told() {
        let tmp = tempfile::tempdir().unwrap();
        let volume = tmp.path().join("v");
        std::fs::create_dir_all(volume.join("app")).unwrap();
        std::os::unix::fs::symlink("nowhere", volume.join("app/0")).unwrap();
        let failure = clean_sub_paths(&volume).unwrap_err().to_string();
        assert!(failure.contains("not empty") && failure.contains("v/app"), "{failure}");
    }
}
