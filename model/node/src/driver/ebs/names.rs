//! Device names for attachments (`pkg/cloud/devicemanager`, ebs.md §3.5).

use std::collections::{BTreeMap, BTreeSet};

use super::CallId;
use crate::driver::cloud::Instance;

/// How many names there are.
const COUNT: usize = 127;

/// The names a volume may get, in the order in which they are given: `/dev/xvdaa`…`az`, `ba`…`bz`, `da`…`dx`, `/dev/xvdb`…`z`,
/// `/dev/sdb`…`z`, `/dev/sda2`. `/dev/xvdca`…`cz` are left out by the real driver too.
pub const DEVICE_NAMES: [[u8; 10]; COUNT] = names();

const fn names() -> [[u8; 10]; COUNT] {
    let mut names = [*b"/dev/xvd\0\0"; COUNT];
    let mut n = 0;
    let blocks: [(u8, u8); 3] = [(b'a', 26), (b'b', 26), (b'd', 24)];
    let mut block = 0;
    while block < 3 {
        let mut i = 0;
        while i < blocks[block].1 {
            names[n][8] = blocks[block].0;
            names[n][9] = b'a' + i;
            n += 1;
            i += 1;
        }
        block += 1;
    }
    let mut i = 1;
    while i < 26 {
        names[n][8] = b'a' + i;
        n += 1;
        i += 1;
    }
    let mut i = 1;
    while i < 26 {
        names[n] = *b"/dev/sd\0\0\0";
        names[n][7] = b'a' + i;
        n += 1;
        i += 1;
    }
    names[n] = *b"/dev/sda2\0";
    names
}

fn text(name: &[u8; 10]) -> &str {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    // The table holds ASCII only.
    std::str::from_utf8(&name[..end]).unwrap_or_default()
}

/// A name that was given out and may not be in the instance's block device mapping yet.
#[derive(Debug, Clone)]
struct Held {
    volume_id: String,
    /// None: tainted. The attach failed half-way; only a detach of the volume frees the name.
    owner: Option<CallId>,
}

/// The names in use beyond what DescribeInstances shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    held: BTreeMap<(String, String), Held>,
    /// Names that EC2 said are in use although it does not show them; taken last.
    bad: BTreeMap<String, BTreeSet<String>>,
}

/// A name for a volume in an instance.
pub(super) enum Given {
    /// The volume has this name already.
    Already(String),
    New(String),
    /// All names are taken.
    None,
}

impl Names {
    /// `NewDevice`: the volume's name in the instance, or the first free one.
    pub(super) fn give(&mut self, instance: &Instance, volume_id: &str, id: CallId) -> Given {
        let held = || self.held.iter().filter(|((node, _), _)| *node == instance.instance_id);
        let shown = instance.block_devices.iter().find(|(_, volume)| volume == volume_id).map(|(device, _)| device);
        if let Some(device) = shown.or_else(|| held().find(|(_, held)| held.volume_id == volume_id).map(|((_, device), _)| device)) {
            return Given::Already(device.clone());
        }
        let used: BTreeSet<&str> = std::iter::once(instance.root_device_name.as_str())
            .chain(instance.block_devices.iter().map(|(device, _)| device.as_str()))
            .chain(held().map(|((_, device), _)| device.as_str()))
            .collect();
        let bad = self.bad.get(&instance.instance_id);
        let is_bad = |name: &str| bad.is_some_and(|bad| bad.contains(name));
        let free = || DEVICE_NAMES.iter().map(text).filter(|name| !used.contains(name));
        let Some(name) = free().find(|name| !is_bad(name)).or_else(|| free().next()).map(str::to_owned) else {
            return Given::None;
        };
        self.held.insert((instance.instance_id.clone(), name.clone()), Held { volume_id: volume_id.to_owned(), owner: Some(id) });
        Given::New(name)
    }

    /// EC2 refused the name as being in use (true), or accepted it.
    pub(super) fn note_bad(&mut self, instance_id: &str, name: &str, bad: bool) {
        if bad {
            self.bad.entry(instance_id.to_owned()).or_default().insert(name.to_owned());
        } else if let Some(names) = self.bad.get_mut(instance_id) {
            names.remove(name);
        }
    }

    /// The names a call holds stay taken after it (`Taint`).
    pub(super) fn taint(&mut self, id: CallId) {
        self.held.values_mut().filter(|held| held.owner == Some(id)).for_each(|held| held.owner = None);
    }

    /// A call is over: its names are free, unless tainted.
    pub(super) fn release(&mut self, id: CallId) {
        self.held.retain(|_, held| held.owner != Some(id));
    }

    /// A detach frees the volume's name in any case.
    pub(super) fn forget(&mut self, instance_id: &str, volume_id: &str) {
        self.held.retain(|(node, _), held| node != instance_id || held.volume_id != volume_id || held.owner.is_some());
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Vec<(String, String)> {
        self.held.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_real_one() {
        let names: Vec<&str> = DEVICE_NAMES.iter().map(text).collect();
        assert_eq!((names[0], names[25], names[26], names[52]), ("/dev/xvdaa", "/dev/xvdaz", "/dev/xvdba", "/dev/xvdda"));
        assert_eq!((names[75], names[76], names[100], names[101]), ("/dev/xvddx", "/dev/xvdb", "/dev/xvdz", "/dev/sdb"));
        assert_eq!((names[125], names[126]), ("/dev/sdz", "/dev/sda2"));
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), COUNT);
    }

    #[test]
    fn names_are_never_given_twice_and_bad_ones_last() {
        let mut names = Names::default();
        let mut instance = Instance {
            instance_id: "i-1".into(),
            root_device_name: "/dev/xvda".into(),
            block_devices: vec![("/dev/xvdaa".into(), "vol-root".into())],
        };
        names.note_bad("i-1", "/dev/xvdab", true);
        let Given::New(first) = names.give(&instance, "vol-1", 1) else { panic!() };
        assert_eq!(first, "/dev/xvdac");
        let Given::New(second) = names.give(&instance, "vol-2", 2) else { panic!() };
        assert_eq!(second, "/dev/xvdad");
        assert!(matches!(names.give(&instance, "vol-1", 3), Given::Already(name) if name == first));
        names.taint(1);
        names.release(1);
        names.release(2);
        assert_eq!(names.held(), [("i-1".to_owned(), first)]);
        names.forget("i-1", "vol-1");
        assert!(names.held().is_empty());
        instance.block_devices = DEVICE_NAMES.iter().map(|name| (text(name).to_owned(), "vol-x".to_owned())).collect();
        assert!(matches!(names.give(&instance, "vol-9", 9), Given::None));
    }
}
