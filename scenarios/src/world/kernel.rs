//! A node's kernel, as far as volumes need one: block devices, mounts and open files. Each call answers as Linux does, errno included;
//! the test `differential` makes the same calls here and on a real kernel.
//!
//! The nodes of the world do not use it yet: theirs is a table of paths (`kubelet::Node::mounts`), in which nothing is busy but by a
//! fault.

mod calls;
mod errno;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use calls::Mode;
pub use errno::Errno;

pub use super::files::{Entry, Tree};
use super::files::{clean, join};

/// What lies on volumes and file systems, by id. It is outside of any node.
pub type Trees = BTreeMap<String, Tree>;

/// The tree of the node's own root file system.
pub const ROOT: &str = "";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountId(u32);

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(u32);

/// A file system, or a directory of it, that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The id of the volume or file system.
    pub tree: String,
    /// Where in it the mount begins.
    pub root: String,
    pub read_only: bool,
    on: On,
}

/// What a mount lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum On {
    /// The root: on nothing.
    Nothing,
    /// A directory of a mount's file system.
    Directory(MountId, String),
    /// Unmounted lazily: no path leads to it any more, and it is gone when the last file is closed.
    Gone,
}

#[derive(Debug, Clone)]
struct Open {
    mount: MountId,
    /// Within the tree.
    path: String,
    write: bool,
}

/// Where a path leads: a mount, and a path within its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    mount: MountId,
    path: String,
}

/// A mount as `/proc/self/mountinfo` shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    pub path: String,
    pub tree: String,
    pub root: String,
    pub read_only: bool,
    /// Whether the file system is read-only, through whatever mount.
    pub read_only_file_system: bool,
}

#[derive(Debug, Clone)]
pub struct Kernel {
    /// Size by volume.
    devices: BTreeMap<String, u64>,
    root: Tree,
    mounts: BTreeMap<MountId, Mount>,
    /// Mounted file systems that are read-only by themselves.
    read_only: BTreeSet<String>,
    open: BTreeMap<Handle, Open>,
    next: u32,
}

const FIRST: MountId = MountId(0);

impl Default for Kernel {
    fn default() -> Self {
        let root = Mount { tree: ROOT.into(), root: "/".into(), read_only: false, on: On::Nothing };
        Self {
            devices: BTreeMap::new(),
            root: Tree::default(),
            mounts: BTreeMap::from([(FIRST, root)]),
            read_only: BTreeSet::new(),
            open: BTreeMap::new(),
            next: 1,
        }
    }
}

impl Kernel {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn tree<'a>(&'a self, trees: &'a Trees, mount: MountId) -> Option<&'a Tree> {
        let id = &self.mounts.get(&mount)?.tree;
        if id == ROOT { Some(&self.root) } else { trees.get(id) }
    }

    fn tree_mut<'a>(&'a mut self, trees: &'a mut Trees, mount: MountId) -> Result<&'a mut Tree, Errno> {
        let id = &self.mounts.get(&mount).ok_or(Errno::NoEntry)?.tree;
        if id == ROOT { Ok(&mut self.root) } else { trees.get_mut(id).ok_or(Errno::Io) }
    }

    fn entry(&self, trees: &Trees, place: &Place) -> Option<Entry> {
        self.tree(trees, place.mount)?.entry(&place.path)
    }

    /// The uppermost of the mounts that lie on a place; the place itself where there is none.
    fn climb(&self, mut place: Place) -> Place {
        while let Some((id, mount)) = self.on(&place) {
            place = Place { mount: id, path: mount.root.clone() };
        }
        place
    }

    fn on(&self, place: &Place) -> Option<(MountId, &Mount)> {
        let here = On::Directory(place.mount, place.path.clone());
        self.mounts.iter().find(|(_, mount)| mount.on == here).map(|(id, mount)| (*id, mount))
    }

    fn resolve(&self, trees: &Trees, path: &str) -> Result<Place, Errno> {
        let mut at = self.climb(Place { mount: FIRST, path: "/".into() });
        let path = clean(path);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.climb(self.child(trees, &at, name)?);
            if self.entry(trees, &at).is_none() {
                return Err(Errno::NoEntry);
            }
        }
        Ok(at)
    }

    /// The name in a directory, whether it is there or not, and below what is mounted on it.
    fn child(&self, trees: &Trees, directory: &Place, name: &str) -> Result<Place, Errno> {
        match self.entry(trees, directory) {
            Some(Entry::Directory) => Ok(Place { mount: directory.mount, path: join(&directory.path, name) }),
            Some(Entry::File) => Err(Errno::NotDirectory),
            None => Err(Errno::NoEntry),
        }
    }

    /// Where the last name of a path lies, whether it is there or not.
    fn last(&self, trees: &Trees, path: &str) -> Result<Place, Errno> {
        let path = clean(path);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let directory = self.resolve(trees, parent)?;
        self.child(trees, &directory, name)
    }

    /// The mount whose root a path leads to.
    fn mounted(&self, trees: &Trees, path: &str) -> Result<MountId, Errno> {
        let place = self.resolve(trees, path)?;
        let whole = place.mount != FIRST && self.mounts.get(&place.mount).is_some_and(|mount| mount.root == place.path);
        if whole { Ok(place.mount) } else { Err(Errno::Invalid) }
    }

    fn may_write(&self, mount: MountId) -> Result<(), Errno> {
        match self.mounts.get(&mount) {
            Some(mount) if !mount.read_only && !self.read_only.contains(&mount.tree) => Ok(()),
            Some(_) => Err(Errno::ReadOnly),
            None => Err(Errno::NoEntry),
        }
    }

    /// The path that leads to a mount; none when none does.
    fn path_of(&self, mount: &Mount) -> Option<String> {
        match &mount.on {
            On::Nothing => Some("/".into()),
            On::Gone => None,
            On::Directory(below, path) => {
                let below = self.mounts.get(below)?;
                let inside = path.strip_prefix(below.root.as_str()).unwrap_or(path);
                Some(join(&self.path_of(below)?, inside))
            }
        }
    }

    /// All mounts but the root.
    pub fn mounts(&self) -> Vec<Shown> {
        let shown = self.mounts.iter().filter(|(id, _)| **id != FIRST).filter_map(|(_, mount)| {
            Some(Shown {
                path: self.path_of(mount)?,
                tree: mount.tree.clone(),
                root: mount.root.clone(),
                read_only: mount.read_only,
                read_only_file_system: self.read_only.contains(&mount.tree),
            })
        });
        shown.collect()
    }

    /// What a directory shows, by name.
    pub fn list(&self, trees: &Trees, path: &str) -> Result<BTreeMap<String, Entry>, Errno> {
        let place = self.resolve(trees, path)?;
        let Some(tree) = self.tree(trees, place.mount).filter(|tree| tree.entry(&place.path) == Some(Entry::Directory)) else {
            return Err(Errno::NotDirectory);
        };
        let entry = |name: &str| Some((name.to_owned(), tree.entry(&join(&place.path, name))?));
        Ok(tree.names(&place.path).into_iter().filter_map(entry).collect())
    }

    /// The size of a file.
    pub fn size(&self, trees: &Trees, path: &str) -> Result<u64, Errno> {
        let place = self.resolve(trees, path)?;
        self.tree(trees, place.mount).and_then(|tree| tree.size(&place.path)).ok_or(Errno::IsDirectory)
    }

    /// Devices with their sizes.
    pub fn devices(&self) -> &BTreeMap<String, u64> {
        &self.devices
    }

    /// The node's own root file system.
    pub fn root(&self) -> &Tree {
        &self.root
    }

    /// Whether a directory is the beginning of a mount, or open: it may be removed, and then lives on without a name, which is not
    /// modelled.
    pub fn is_held(&self, trees: &Trees, path: &str) -> bool {
        let Ok(place) = self.last(trees, path) else { return false };
        let Some(tree) = self.mounts.get(&place.mount).map(|mount| &mount.tree) else { return false };
        let same = |mount: MountId, path: &str| path == place.path && self.mounts.get(&mount).is_some_and(|mount| mount.tree == *tree);
        self.mounts.iter().any(|(id, mount)| same(*id, &mount.root)) || self.open.values().any(|open| same(open.mount, &open.path))
    }
}
