//! The same random system calls against two mounts of one EFS file system (in turns, so that each mount is the other's
//! second client) and against a directory of the host. Results and trees must agree.
//!
//! Allowed to differ, and not compared: inode and device numbers, sizes of directories, blocks, times, order of listings.
//! Not generated, because EFS differs on purpose: extended attributes, fallocate, device nodes, renameat2 flags.

mod common;
use common::*;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Paths come from a tiny alphabet, so that operations meet.
fn path() -> impl Strategy<Value = String> {
    prop_oneof!["[abc]", "[abc]/[abc]", "[ab]/[ab]/[ab]"]
}

#[derive(Debug, Clone)]
enum Op {
    Open { slot: usize, path: String, flags: u32, mode: u32 },
    Close { slot: usize },
    Write { slot: usize, at: u64, len: usize, byte: u8 },
    Read { slot: usize, at: u64, len: usize },
    Resize { slot: usize, size: u64 },
    Append { path: String, byte: u8 },
    Truncate { path: String, size: u64 },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Rename { from: String, to: String },
    Symlink { target: String, path: String },
    Link { from: String, to: String },
    Chmod { path: String, mode: u32 },
    Readlink { path: String },
    Access { path: String, mask: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let flags = prop::sample::select(vec![
        OFlags::RDONLY,
        OFlags::RDWR,
        OFlags::WRONLY | OFlags::TRUNC,
        OFlags::RDWR | OFlags::CREATE,
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
        OFlags::RDWR | OFlags::CREATE | OFlags::APPEND,
        OFlags::RDONLY | OFlags::DIRECTORY,
        OFlags::RDONLY | OFlags::NOFOLLOW,
    ])
    .prop_map(|f| f.bits());
    let size = prop_oneof![3 => 0..64u64, 1 => 0..300_000u64];
    let length = prop_oneof![3 => 0..64usize, 1 => 0..200_000usize];
    let target = prop_oneof!["[abc]", "\\.\\./[abc]", "[ab]/[ab]"];
    prop_oneof![
        4 => (0..3usize, path(), flags, 0..0o1000u32).prop_map(|(slot, path, flags, mode)| Op::Open { slot, path, flags, mode }),
        1 => (0..3usize).prop_map(|slot| Op::Close { slot }),
        4 => (0..3usize, size.clone(), length.clone(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::Write { slot, at, len, byte }),
        3 => (0..3usize, size.clone(), length).prop_map(|(slot, at, len)| Op::Read { slot, at, len }),
        1 => (0..3usize, size.clone()).prop_map(|(slot, size)| Op::Resize { slot, size }),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Append { path, byte }),
        1 => (path(), size).prop_map(|(path, size)| Op::Truncate { path, size }),
        3 => (path(), 0..0o1000u32).prop_map(|(path, mode)| Op::Mkdir { path, mode }),
        1 => path().prop_map(|path| Op::Rmdir { path }),
        2 => path().prop_map(|path| Op::Unlink { path }),
        3 => (path(), path()).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => (target, path()).prop_map(|(target, path)| Op::Symlink { target, path }),
        1 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (path(), 0..0o10000u32).prop_map(|(path, mode)| Op::Chmod { path, mode: mode & 0o3777 }),
        1 => path().prop_map(|path| Op::Readlink { path }),
        1 => (path(), 0..8u32).prop_map(|(path, mask)| Op::Access { path, mask }),
    ]
}

/// What a call answered, comparable between file systems.
type Outcome = Result<Vec<u8>, Errno>;

#[derive(Default)]
struct Slots([Option<OwnedFd>; 3]);

impl Slots {
    fn apply(&mut self, root: &Path, op: &Op) -> Outcome {
        let none = |r: Result<(), Errno>| r.map(|()| Vec::new());
        let at = |p: &str| root.join(p);
        let fd = |slot: usize| self.0[slot].as_ref().ok_or(Errno::BADF);
        match op {
            Op::Open { slot, path, flags, mode } => {
                self.0[*slot] = None;
                let flags = OFlags::from_bits_retain(*flags) | OFlags::CLOEXEC;
                self.0[*slot] = Some(rustix::fs::open(at(path), flags, Mode::from_raw_mode(*mode))?);
                Ok(Vec::new())
            }
            Op::Close { slot } => {
                self.0[*slot] = None;
                Ok(Vec::new())
            }
            Op::Write { slot, at, len, byte } => Ok(rustix::io::pwrite(fd(*slot)?, &vec![*byte; *len], *at)?.to_le_bytes().to_vec()),
            Op::Read { slot, at, len } => {
                let mut data = vec![0; *len];
                let n = rustix::io::pread(fd(*slot)?, &mut data, *at)?;
                data.truncate(n);
                Ok(data)
            }
            Op::Resize { slot, size } => none(rustix::fs::ftruncate(fd(*slot)?, *size)),
            Op::Append { path, byte } => {
                let file = rustix::fs::open(at(path), OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::empty())?;
                none(rustix::io::write(&file, &[*byte; 9]).map(|_| ()))
            }
            Op::Truncate { path, size } => {
                let file = rustix::fs::open(at(path), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                none(rustix::fs::ftruncate(&file, *size))
            }
            Op::Mkdir { path, mode } => none(rustix::fs::mkdir(at(path), Mode::from_raw_mode(*mode))),
            Op::Rmdir { path } => none(rustix::fs::rmdir(at(path))),
            Op::Unlink { path } => none(rustix::fs::unlink(at(path))),
            Op::Rename { from, to } => none(rustix::fs::rename(at(from), at(to))),
            Op::Symlink { target, path } => none(rustix::fs::symlink(target, at(path))),
            Op::Link { from, to } => none(rustix::fs::link(at(from), at(to))),
            Op::Chmod { path, mode } => none(rustix::fs::chmod(at(path), Mode::from_raw_mode(*mode))),
            Op::Readlink { path } => Ok(rustix::fs::readlink(at(path), Vec::new())?.into_bytes()),
            Op::Access { path, mask } => {
                none(rustix::fs::accessat(CWD, at(path), rustix::fs::Access::from_bits_retain(*mask), AtFlags::empty()))
            }
        }
    }
}

/// Kind and mode, owner, links, size (not of directories), content or target.
type Shown = (u32, u32, u32, u64, u64, Vec<u8>);

fn tree(root: &Path) -> BTreeMap<PathBuf, Shown> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let mut names: Vec<_> = std::fs::read_dir(root.join(&relative)).expect("list").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        for name in names {
            let path = relative.join(&name);
            let full = root.join(&path);
            let stat = std::fs::symlink_metadata(&full).expect("stat");
            let kind = stat.file_type();
            let content = match () {
                () if kind.is_symlink() => std::fs::read_link(&full).expect("readlink").into_os_string().into_encoded_bytes(),
                () if kind.is_file() => std::fs::read(&full).expect("read"),
                () => Vec::new(),
            };
            let size = if kind.is_dir() { 0 } else { stat.size() };
            found.insert(path.clone(), (stat.permissions().mode(), stat.uid(), stat.gid(), stat.nlink(), size, content));
            if kind.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

fn agree(passthrough: bool, cases: u32) {
    if skipped() {
        return;
    }
    let tuning = fuse_fs::daemon::Tuning { passthrough, ..Default::default() };
    let mut node = Node::start_tuned(vec![], tuning, false);
    let mounts = [node.mount(), node.mount()];
    let host = tempfile::tempdir().expect("tempdir");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..Default::default() });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&prop::collection::vec((op(), 0..2usize), 1..60), |ops| {
        // A fresh directory a case on both sides; shrinking needs it too.
        number.set(number.get() + 1);
        let case = number.get().to_string();
        std::fs::create_dir(host.path().join(&case)).expect("mkdir");
        std::fs::create_dir(mounts[0].join(&case)).expect("mkdir");
        let roots = [mounts[0].join(&case), mounts[1].join(&case)];
        let expected_root = host.path().join(&case);
        // Each mount has its own open files; so has its shadow on the host.
        let mut efs = [Slots::default(), Slots::default()];
        let mut shadow = [Slots::default(), Slots::default()];
        for (step, (op, client)) in ops.iter().enumerate() {
            let expected = shadow[*client].apply(&expected_root, op);
            let got = efs[*client].apply(&roots[*client], op);
            prop_assert!(got == expected, "step {step} {op:?} by {client}: {got:?}, on the host {expected:?}");
        }
        let expected = tree(&expected_root);
        for root in &roots {
            prop_assert_eq!(&tree(root), &expected);
        }
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn efs_agrees_with_the_host_with_passthrough() {
    agree(true, 128);
}

#[test]
fn efs_agrees_with_the_host_with_data_through_the_server() {
    agree(false, 128);
}
