//! Files that hold blocks: sparse, made beside their place and renamed, so that a file under its name is whole.
//!
//! These calls block; run them off the runtime's threads.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The name of a resource's file.
const SUFFIX: &str = "img";
/// The name of a file that is not whole yet.
const PART: &str = "part";

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}")]
pub struct BlockError {
    pub operation: &'static str,
    pub path: String,
    #[source]
    pub source: io::Error,
}

impl BlockError {
    fn new(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self { operation, path, source }
    }
}

/// The file of a volume or snapshot in its directory.
pub fn file(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}.{SUFFIX}"))
}

/// Makes a file of zeros that takes no space.
pub fn make_empty(path: &Path, bytes: u64) -> Result<(), BlockError> {
    make(path, bytes, |_| Ok(()))
}

/// Makes a file of `bytes` that begins with the blocks of `source`, as far as they go. Shares the blocks where the file system
/// can, else copies those that were written.
pub fn make_copy(source: &Path, path: &Path, bytes: u64) -> Result<(), BlockError> {
    let from = File::open(source).map_err(BlockError::new("open", source))?;
    make(path, bytes, |to| copy_blocks(&from, to, bytes))
}

fn make(path: &Path, bytes: u64, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<(), BlockError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(BlockError::new("make the directory", directory))?;
    }
    let part = path.with_extension(PART);
    let made = (|| {
        let to = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        fill(&to)?;
        to.set_len(bytes)?;
        std::fs::rename(&part, path)
    })();
    made.map_err(|source| {
        // Best effort: what stays is removed at the next start.
        let _ = std::fs::remove_file(&part);
        BlockError::new("make", path)(source)
    })
}

/// Lengthens a file; never shortens it.
pub fn grow(path: &Path, bytes: u64) -> Result<(), BlockError> {
    let grow = || {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() < bytes { file.set_len(bytes) } else { Ok(()) }
    };
    grow().map_err(BlockError::new("grow", path))
}

/// Removes a file; one that is not there is fine.
pub fn remove(path: &Path) -> Result<(), BlockError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlockError::new("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The whole files of a directory: id to length. Half-made ones are removed.
pub fn observe(directory: &Path) -> Result<BTreeMap<String, u64>, BlockError> {
    let mut found = BTreeMap::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(BlockError::new("read", directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(BlockError::new("read", directory))?;
        let path = entry.path();
        let (Some(id), Some(extension)) = (path.file_stem().and_then(|stem| stem.to_str()), path.extension()) else { continue };
        if extension == PART {
            remove(&path)?;
        } else if extension == SUFFIX {
            let length = entry.metadata().map_err(BlockError::new("read", &path))?.len();
            found.insert(id.to_owned(), length);
        }
    }
    Ok(found)
}

fn copy_blocks(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => copy_written(from, to, bytes),
        Err(error) => Err(error.into()),
    }
}

/// Copies the extents that hold data and leaves the holes.
fn copy_written(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    let end = bytes.min(from.metadata()?.len());
    let mut at = 0;
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            // Only a hole follows.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        copy_range(from, to, data, hole)?;
        at = hole;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let want = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        let copied = rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), want)?;
        if copied == 0 {
            // The file was cut under us.
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn copies_keep_data_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (file(dir.path(), "a"), file(dir.path(), "b"));
        make_empty(&a, 64 << 20).unwrap();
        let write = OpenOptions::new().write(true).open(&a).unwrap();
        write.write_all_at(b"begin", 0).unwrap();
        write.write_all_at(b"far away", 40 << 20).unwrap();
        make_copy(&a, &b, 128 << 20).unwrap();
        let copy = File::open(&b).unwrap();
        let mut text = [0; 8];
        copy.read_exact_at(&mut text, 40 << 20).unwrap();
        assert_eq!(&text, b"far away");
        copy.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"begin\0\0\0");
        let meta = copy.metadata().unwrap();
        assert_eq!(meta.len(), 128 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "the holes were copied: {} blocks", meta.blocks());
    }

    #[test]
    fn a_copy_takes_no_more_than_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (file(dir.path(), "a"), file(dir.path(), "b"));
        std::fs::write(&a, [7; 8192]).unwrap();
        make_copy(&a, &b, 4096).unwrap();
        assert_eq!(std::fs::read(&b).unwrap(), [7; 4096]);
    }

    #[test]
    fn only_whole_files_are_observed() {
        let dir = tempfile::tempdir().unwrap();
        make_empty(&file(dir.path(), "vol-1"), 4096).unwrap();
        std::fs::write(dir.path().join("vol-2.part"), "x").unwrap();
        assert_eq!(observe(dir.path()).unwrap(), BTreeMap::from([("vol-1".to_owned(), 4096)]));
        assert!(!dir.path().join("vol-2.part").exists());
        assert!(observe(&dir.path().join("nowhere")).unwrap().is_empty());
    }

    #[test]
    fn a_copy_of_nothing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let error = make_copy(&file(dir.path(), "no"), &file(dir.path(), "b"), 1).unwrap_err();
        assert!(error.to_string().contains("no.img"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_grow_and_never_shrink() {
        let dir = tempfile::tempdir().unwrap();
        let a = file(dir.path(), "a");
        make_empty(&a, 4096).unwrap();
        grow(&a, 8192).unwrap();
        grow(&a, 100).unwrap();
        assert_eq!(std::fs::metadata(&a).unwrap().len(), 8192);
        remove(&a).unwrap();
        remove(&a).unwrap();
    }
}
