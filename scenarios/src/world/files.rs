//! What lies on virtual volumes and file systems: small trees of text files.

use std::collections::{BTreeMap, BTreeSet};

use model_common::digest::Digest;

/// The files of one volume or file system, by absolute path within it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<String, String>,
    directories: BTreeSet<String>,
    /// The size of files that were made larger than what is written in them.
    allocated: BTreeMap<String, u64>,
    /// The file system on a volume; none before it is formatted.
    pub format: Option<String>,
    /// How much that file system spans.
    pub bytes: u64,
    /// How much it holds; none: as much as one likes.
    pub room: Option<u64>,
    /// Files beside those that are played.
    pub(super) many: u64,
    /// Its driver mounts it once more where it is mounted already.
    pub(super) mounts_each_time: bool,
    /// A directory that was deleted while it was mounted counts as absent (ENOENT), and not as stale (ESTALE).
    pub(super) deleted_is_absent: bool,
    /// The group that a kubelet gave to the root.
    pub(super) root_group: Option<u32>,
    /// The group that all files below have; none: their own, or mixed.
    pub(super) files_group: Option<u32>,
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    File,
    Directory,
}

/// `/a//b/./c/` → `/a/b/c`; `..` goes up and never out.
pub(super) fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// A path below another: `/a` and `b` or `/b` → `/a/b`.
pub(super) fn join(path: &str, below: &str) -> String {
    clean(&format!("{path}/{below}"))
}

impl Tree {
    /// A new file system of a kind, with so much room.
    pub fn formatted(kind: &str, room: u64) -> Self {
        Self { format: Some(kind.to_owned()), room: Some(room), ..Self::default() }
    }

    pub(super) fn entry(&self, path: &str) -> Option<Entry> {
        if self.has_directory(path) {
            return Some(Entry::Directory);
        }
        self.files.contains_key(&clean(path)).then_some(Entry::File)
    }

    /// Makes an empty file where there is none.
    pub(super) fn touch(&mut self, path: &str) {
        self.files.entry(clean(path)).or_default();
    }

    /// Removes an empty directory; false when it is not empty.
    pub(super) fn remove_directory(&mut self, path: &str) -> bool {
        self.names(path).is_empty() && self.directories.remove(&clean(path))
    }

    /// Makes a file at least so large; false, and nothing changes, when there is no room for it.
    pub(super) fn allocate(&mut self, path: &str, bytes: u64) -> bool {
        let path = clean(path);
        let others: u64 = self.allocated.iter().filter(|(other, _)| **other != path).map(|(_, bytes)| bytes).sum();
        if self.room.is_some_and(|room| others.saturating_add(bytes) > room) {
            return false;
        }
        let size = self.allocated.entry(path).or_default();
        *size = bytes.max(*size);
        true
    }

    /// The size of a file.
    pub(super) fn size(&self, path: &str) -> Option<u64> {
        let path = clean(path);
        let written = self.files.get(&path)?.len() as u64;
        Some(self.allocated.get(&path).copied().unwrap_or_default().max(written))
    }

    pub(super) fn has_directory(&self, path: &str) -> bool {
        let path = clean(path);
        path == "/" || self.directories.contains(&path) || {
            let below = format!("{path}/");
            self.files.keys().chain(&self.directories).any(|known| known.starts_with(&below))
        }
    }

    /// Makes a directory and those above it.
    pub(super) fn make_directory(&mut self, path: &str) {
        let path = clean(path);
        let above = path.match_indices('/').map(|(at, _)| &path[..at]).filter(|above| !above.is_empty());
        self.directories.extend(above.map(str::to_owned));
        self.directories.extend((path != "/").then_some(path.clone()));
    }

    /// What tells its content from another.
    pub(super) fn content(&self) -> u64 {
        let mut digest = Digest::default();
        digest.add(&self.files);
        digest.add(&self.directories);
        digest.add(&self.allocated);
        digest.value()
    }

    pub(super) fn read(&self, path: &str) -> Option<&str> {
        self.files.get(&clean(path)).map(String::as_str)
    }

    /// Appends to a file, which is made when its directory is there; false when it is not.
    pub(super) fn append(&mut self, path: &str, text: &str) -> bool {
        let path = clean(path);
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !self.has_directory(parent) {
            return false;
        }
        self.files.entry(path).or_default().push_str(text);
        true
    }

    /// Writes a file anew, which is made when its directory is there; false when it is not.
    pub(super) fn write(&mut self, path: &str, text: &str) -> bool {
        if let Some(content) = self.files.get_mut(&clean(path)) {
            content.clear();
        }
        self.append(path, text)
    }

    /// Removes a directory with what is in it; false when it is not there.
    pub(super) fn remove(&mut self, path: &str) -> bool {
        let path = clean(path);
        let there = path != "/" && self.has_directory(&path);
        if there {
            let below = format!("{path}/");
            self.files.retain(|known, _| !known.starts_with(&below));
            self.directories.retain(|known| *known != path && !known.starts_with(&below));
            self.allocated.retain(|known, _| !known.starts_with(&below));
        }
        there
    }

    /// How many files there are.
    pub(super) fn count(&self) -> u64 {
        self.many + self.files.len() as u64
    }

    /// The names in a directory, in order.
    pub(super) fn names(&self, path: &str) -> Vec<&str> {
        let below = match clean(path).as_str() {
            "/" => "/".to_owned(),
            path => format!("{path}/"),
        };
        let mut names: Vec<&str> = self
            .files
            .keys()
            .chain(&self.directories)
            .filter_map(|known| known.strip_prefix(&below))
            .map(|rest| rest.split('/').next().unwrap_or(rest))
            .filter(|name| !name.is_empty())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_need_their_directory() {
        let mut tree = Tree::default();
        assert!(tree.append("/out.txt", "a\n") && tree.append("//out.txt", "b\n"));
        assert_eq!(tree.read("/out.txt"), Some("a\nb\n"));
        assert!(tree.write("/out.txt", "c\n") && tree.read("/out.txt") == Some("c\n"));
        assert!(!tree.append("/d/out.txt", "x") && !tree.write("/d/out.txt", "x"));
        tree.make_directory("/d");
        assert!(tree.append("/d/out.txt", "x"));
        assert_eq!(tree.names("/"), ["d", "out.txt"]);
        assert_eq!(tree.names("/d"), ["out.txt"]);
        assert_eq!(clean("/a/../../b/."), "/b");
        assert!(tree.remove("/d") && !tree.has_directory("/d") && tree.read("/d/out.txt").is_none());
        assert!(!tree.remove("/d") && !tree.remove("/"));
        assert_eq!(tree.count(), 1);
    }
}
