//! What lies on virtual volumes and file systems: small trees of text files.

use std::collections::{BTreeMap, BTreeSet};

/// The files of one volume or file system, by absolute path within it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tree {
    files: BTreeMap<String, String>,
    directories: BTreeSet<String>,
    /// The file system on a volume; none before it is formatted.
    pub(super) format: Option<String>,
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

impl Tree {
    pub(super) fn has_directory(&self, path: &str) -> bool {
        let path = clean(path);
        path == "/" || self.directories.contains(&path) || {
            let below = format!("{path}/");
            self.files.keys().chain(&self.directories).any(|known| known.starts_with(&below))
        }
    }

    pub(super) fn make_directory(&mut self, path: &str) {
        self.directories.insert(clean(path));
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
        assert!(!tree.append("/d/out.txt", "x"));
        tree.make_directory("/d");
        assert!(tree.append("/d/out.txt", "x"));
        assert_eq!(tree.names("/"), ["d", "out.txt"]);
        assert_eq!(tree.names("/d"), ["out.txt"]);
        assert_eq!(clean("/a/../../b/."), "/b");
    }
}
