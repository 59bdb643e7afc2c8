//! The calls: mkdir, rmdir, mount, umount, open, fallocate, and what happens to devices. Where a call breaks several rules, the one that
//! Linux looks at first counts.

use super::super::files::Entry;
use super::{Errno, Handle, Kernel, Mount, MountId, On, Open, ROOT, Tree, Trees};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `O_RDONLY`, also of a directory.
    Read,
    /// `O_WRONLY | O_CREAT`.
    Write,
}

impl Kernel {
    pub fn mkdir(&mut self, trees: &mut Trees, path: &str) -> Result<(), Errno> {
        let place = self.last(trees, path)?;
        if self.entry(trees, &place).is_some() {
            return Err(Errno::Exists);
        }
        self.may_write(place.mount)?;
        self.tree_mut(trees, place.mount)?.make_directory(&place.path);
        Ok(())
    }

    /// `mkdir -p` on the node's own root file system, as its programs do on their way.
    pub fn make_directories(&mut self, path: &str) {
        self.root.make_directory(path);
    }

    pub fn rmdir(&mut self, trees: &mut Trees, path: &str) -> Result<(), Errno> {
        let place = self.last(trees, path)?;
        self.may_write(place.mount)?;
        match self.entry(trees, &place) {
            None => return Err(Errno::NoEntry),
            Some(Entry::File) => return Err(Errno::NotDirectory),
            Some(Entry::Directory) => {}
        }
        // Through whatever mount of the file system something is mounted on it.
        let tree = self.mounts.get(&place.mount).map(|mount| mount.tree.clone()).unwrap_or_default();
        let covered = self.mounts.values().any(|mount| match &mount.on {
            On::Directory(below, path) => *path == place.path && self.mounts.get(below).is_some_and(|below| below.tree == tree),
            On::Nothing | On::Gone => false,
        });
        if covered {
            return Err(Errno::Busy);
        }
        if self.tree_mut(trees, place.mount)?.remove_directory(&place.path) { Ok(()) } else { Err(Errno::NotEmpty) }
    }

    /// Mounts the file system on a device.
    pub fn mount(&mut self, trees: &Trees, device: &str, path: &str, read_only: bool) -> Result<(), Errno> {
        let place = self.resolve(trees, path)?;
        if !self.devices.contains_key(device) {
            return Err(Errno::NoEntry);
        }
        if trees.get(device).is_none_or(|tree| tree.format.is_none()) {
            return Err(Errno::Invalid);
        }
        let known = self.mounts.values().any(|mount| mount.tree == device);
        if known && self.read_only.contains(device) != read_only {
            return Err(Errno::Busy);
        }
        // The same file system twice on one spot.
        if self.mounts.get(&place.mount).is_some_and(|mount| mount.tree == device && mount.root == place.path) {
            return Err(Errno::Busy);
        }
        if self.entry(trees, &place) != Some(Entry::Directory) {
            return Err(Errno::NotDirectory);
        }
        self.add(Mount { tree: device.into(), root: "/".into(), read_only, on: On::Directory(place.mount, place.path) });
        if read_only {
            self.read_only.insert(device.into());
        }
        Ok(())
    }

    /// Mounts a network file system from a directory of it.
    pub fn mount_network(&mut self, trees: &Trees, tree: &str, root: &str, path: &str, read_only: bool) -> Result<(), Errno> {
        let place = self.resolve(trees, path)?;
        if trees.get(tree).is_none_or(|tree| tree.entry(root) != Some(Entry::Directory)) {
            return Err(Errno::NoEntry);
        }
        self.add(Mount { tree: tree.into(), root: root.into(), read_only, on: On::Directory(place.mount, place.path) });
        Ok(())
    }

    /// `mount --bind`: without what is mounted below, and as writable as where it comes from.
    pub fn bind(&mut self, trees: &Trees, from: &str, path: &str) -> Result<(), Errno> {
        // Where it goes is looked up before where it comes from.
        let place = self.resolve(trees, path)?;
        let source = self.resolve(trees, from)?;
        if self.entry(trees, &source) != self.entry(trees, &place) {
            return Err(Errno::NotDirectory);
        }
        let Some(Mount { tree, read_only, .. }) = self.mounts.get(&source.mount).cloned() else { return Err(Errno::NoEntry) };
        self.add(Mount { tree, root: source.path, read_only, on: On::Directory(place.mount, place.path) });
        Ok(())
    }

    fn add(&mut self, mount: Mount) {
        let id = MountId(self.number());
        self.mounts.insert(id, mount);
    }

    /// `mount -o remount,bind,ro` or `rw`: the mount alone.
    pub fn remount_bind(&mut self, trees: &Trees, path: &str, read_only: bool) -> Result<(), Errno> {
        let id = self.mounted(trees, path)?;
        if read_only && self.may_write(id).is_ok() && self.open.values().any(|open| open.mount == id && open.write) {
            return Err(Errno::Busy);
        }
        self.mounts.get_mut(&id).into_iter().for_each(|mount| mount.read_only = read_only);
        Ok(())
    }

    /// `mount -o remount,ro` or `rw`: the file system, for all its mounts, and this mount.
    pub fn remount(&mut self, trees: &Trees, path: &str, read_only: bool) -> Result<(), Errno> {
        let id = self.mounted(trees, path)?;
        let Some(tree) = self.mounts.get(&id).map(|mount| mount.tree.clone()) else { return Err(Errno::Invalid) };
        let mounts: Vec<MountId> = self.mounts.iter().filter(|(_, mount)| mount.tree == tree).map(|(id, _)| *id).collect();
        if read_only && !self.read_only.contains(&tree) && self.open.values().any(|open| open.write && mounts.contains(&open.mount)) {
            return Err(Errno::Busy);
        }
        if read_only {
            self.read_only.insert(tree)
        } else {
            self.read_only.remove(&tree)
        };
        self.mounts.get_mut(&id).into_iter().for_each(|mount| mount.read_only = read_only);
        Ok(())
    }

    /// `umount`; `lazy`: with all below it and whoever uses it, which keeps it alive until it is let go.
    pub fn umount(&mut self, trees: &Trees, path: &str, lazy: bool) -> Result<(), Errno> {
        let id = self.mounted(trees, path)?;
        let below = self.below(id);
        if !lazy && (below.len() > 1 || self.open.values().any(|open| open.mount == id)) {
            return Err(Errno::Busy);
        }
        below.iter().filter_map(|id| self.mounts.remove(id).map(|mount| (*id, mount))).collect::<Vec<_>>().into_iter().for_each(
            |(id, mount)| {
                self.mounts.insert(id, Mount { on: On::Gone, ..mount });
            },
        );
        self.forget();
        Ok(())
    }

    /// A mount and all that lie on it.
    fn below(&self, id: MountId) -> Vec<MountId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(here) = found.get(next).copied() {
            found.extend(
                self.mounts.iter().filter(|(_, mount)| matches!(&mount.on, On::Directory(on, _) if *on == here)).map(|(id, _)| *id),
            );
            next += 1;
        }
        found
    }

    /// Drops what nobody uses any more.
    fn forget(&mut self) {
        let open = &self.open;
        self.mounts.retain(|id, mount| mount.on != On::Gone || open.values().any(|open| open.mount == *id));
        let mounts = &self.mounts;
        self.read_only.retain(|tree| mounts.values().any(|mount| mount.tree == *tree));
    }

    pub fn open(&mut self, trees: &mut Trees, path: &str, mode: Mode) -> Result<Handle, Errno> {
        let place = match mode {
            Mode::Read => self.resolve(trees, path)?,
            Mode::Write => {
                let place = self.last(trees, path)?;
                let place = self.climb(place);
                if self.entry(trees, &place) == Some(Entry::Directory) {
                    return Err(Errno::IsDirectory);
                }
                self.may_write(place.mount)?;
                self.tree_mut(trees, place.mount)?.touch(&place.path);
                place
            }
        };
        let handle = Handle(self.number());
        self.open.insert(handle, Open { mount: place.mount, path: place.path, write: mode == Mode::Write });
        Ok(handle)
    }

    pub fn close(&mut self, handle: Handle) -> Result<(), Errno> {
        self.open.remove(&handle).ok_or(Errno::BadFile)?;
        self.forget();
        Ok(())
    }

    /// Makes a file at least so large, with room for all of it; as it was when there is not.
    pub fn allocate(&mut self, trees: &mut Trees, handle: Handle, bytes: u64) -> Result<(), Errno> {
        let Open { mount, path, write } = self.open.get(&handle).cloned().ok_or(Errno::BadFile)?;
        if !write {
            return Err(Errno::BadFile);
        }
        if let Some(mount) = self.mounts.get(&mount)
            && trees.get(&mount.tree).is_some_and(|tree| tree.format.is_some())
            && !self.devices.contains_key(&mount.tree)
        {
            return Err(Errno::Io);
        }
        if self.tree_mut(trees, mount)?.allocate(&path, bytes) { Ok(()) } else { Err(Errno::NoSpace) }
    }

    /// The device of a volume appears, or shows a new size.
    pub fn attach(&mut self, volume: &str, bytes: u64) {
        self.devices.insert(volume.into(), bytes);
    }

    /// The device of a volume goes, unless a file system on it is mounted or used.
    pub fn detach(&mut self, volume: &str) -> Result<(), Errno> {
        if self.devices.contains_key(volume) && self.mounts.values().any(|mount| mount.tree == volume) {
            return Err(Errno::Busy);
        }
        self.devices.remove(volume);
        Ok(())
    }

    /// The device of a volume goes, whoever uses it: they get EIO from now on.
    pub fn pull(&mut self, volume: &str) -> bool {
        self.devices.remove(volume).is_some()
    }

    /// A write to the device itself.
    pub fn write_device(&self, volume: &str, offset: u64) -> Result<(), Errno> {
        let bytes = self.devices.get(volume).ok_or(Errno::NoEntry)?;
        if offset < *bytes { Ok(()) } else { Err(Errno::NoSpace) }
    }

    /// Makes the file system at a path as large as its device.
    pub fn grow(&mut self, trees: &mut Trees, path: &str) -> Result<(), Errno> {
        let place = self.resolve(trees, path)?;
        let Some(tree) = self.mounts.get(&place.mount).map(|mount| mount.tree.clone()).filter(|tree| tree != ROOT) else {
            return Err(Errno::NotTty);
        };
        self.may_write(place.mount)?;
        let bytes = *self.devices.get(&tree).ok_or(Errno::Io)?;
        trees.get_mut(&tree).into_iter().for_each(|tree: &mut Tree| tree.room = Some(bytes));
        Ok(())
    }

    /// The power goes: nothing of the memory is left.
    pub fn power_off(&mut self) {
        self.open.clear();
        self.mounts.retain(|_, mount| mount.on == On::Nothing);
        self.read_only.clear();
    }
}
