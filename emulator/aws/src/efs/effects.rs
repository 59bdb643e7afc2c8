//! Trees of file systems on disk: made, measured, removed; never following a link out of them.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use emulator_common::places::Places;
use model_aws::efs::Work;

use crate::ctx::Ctx;

/// Carries out a work; the number is the bytes metered.
pub async fn perform(ctx: &Ctx, work: &Work) -> Result<u64, String> {
    let (root, work) = (ctx.places.efs(), work.clone());
    match tokio::task::spawn_blocking(move || carry_out(&root, &work)).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}

fn carry_out(root: &Path, work: &Work) -> Result<u64, String> {
    let (Work::Make(id) | Work::Remove(id) | Work::Meter(id)) = work;
    let tree = root.join(id);
    let told = |what: &str, error: std::io::Error| format!("cannot {what} {}: {error}", tree.display());
    match work {
        Work::Make(_) => {
            std::fs::create_dir_all(root).map_err(|error| told("make", error))?;
            match std::fs::DirBuilder::new().mode(0o755).create(&tree) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(told("make", error)),
                Ok(()) | Err(_) => Ok(0),
            }
        }
        // `remove_dir_all` does not follow links, not even ones that appear while it runs.
        Work::Remove(_) => match std::fs::remove_dir_all(&tree) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(told("remove", error)),
            Ok(()) | Err(_) => Ok(0),
        },
        Work::Meter(_) => meter(&tree).map_err(|error| told("meter", error)),
    }
}

/// The metered size (efs.md §5.3): 2 KiB of metadata an object, and its data in units of 4 KiB, where holes do not count.
fn meter(tree: &Path) -> std::io::Result<u64> {
    const METADATA: u64 = 2048;
    const UNIT: u64 = 4096;
    let mut bytes = METADATA + UNIT;
    let mut left = vec![tree.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = match std::fs::read_dir(&directory) {
            // A directory that was removed meanwhile holds nothing.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && directory != tree => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            let data = if meta.is_file() { (meta.blocks() * 512).min(meta.len().next_multiple_of(UNIT)).max(UNIT) } else { UNIT };
            bytes += METADATA + data.next_multiple_of(UNIT);
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// The trees that exist. Other names in the directory are not ours.
pub fn observe(places: &Places) -> std::io::Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(places.efs()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut trees = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && name.strip_prefix("fs-").is_some_and(|hex| hex.len() == 17 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            && entry.file_type()?.is_dir()
        {
            trees.insert(name);
        }
    }
    Ok(trees)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_made_metered_and_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("efs"), dir.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), vec![0; 100_000]).unwrap();
        let id = "fs-0123456789abcdef0".to_owned();
        carry_out(&root, &Work::Make(id.clone())).unwrap();
        carry_out(&root, &Work::Make(id.clone())).unwrap();
        assert_eq!(carry_out(&root, &Work::Meter(id.clone())), Ok(6144));
        std::os::unix::fs::symlink(&outside, root.join(&id).join("link")).unwrap();
        std::fs::write(root.join(&id).join("file"), "x").unwrap();
        assert_eq!(carry_out(&root, &Work::Meter(id.clone())), Ok(3 * 6144));
        assert_eq!(observe(&Places::new(dir.path())).unwrap(), BTreeSet::from([id.clone()]));
        carry_out(&root, &Work::Remove(id.clone())).unwrap();
        carry_out(&root, &Work::Remove(id.clone())).unwrap();
        assert!(!root.join(&id).exists() && outside.join("kept").exists());
        assert!(carry_out(&root, &Work::Meter(id)).unwrap_err().contains("cannot meter"));
    }
}
