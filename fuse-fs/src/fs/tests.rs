//! Semantics without a kernel connection: no way out of the tree, permissions, forgetting, directory offsets.

use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

fn user(uid: u32) -> Caller {
    Caller { uid, gid: uid, pid: 0 }
}

/// Runs `work` on a thread that may be given away; `None` (and a line that says so) without root.
fn with_fs<R: Send>(options: Options, work: impl FnOnce(&Fs, &Path) -> R + Send) -> Option<R> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let outside = tempfile::tempdir().expect("tempdir");
    let inside = outside.path().join("export");
    std::fs::create_dir(&inside).expect("mkdir");
    std::fs::write(outside.path().join("secret"), b"outside").expect("write");
    let root = Root::open(&inside, Path::new("/"), None, Path::new("/")).expect("root");
    let fs = Fs::new(root, options).expect("file system");
    std::thread::scope(|s| {
        let done = s.spawn(|| work(&fs, &inside)).join();
        Some(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn name(n: &str) -> &OsStr {
    OsStr::new(n)
}

#[test]
fn names_cannot_leave_a_directory() {
    with_fs(Options::default(), |fs, _| {
        let dir = fs.mkdir(&ROOT_USER, ROOT, name("d"), 0o755).expect("mkdir").node;
        for bad in ["", ".", "..", "../secret", "/etc/passwd", "d/../..", "a/b"] {
            for parent in [ROOT, dir] {
                assert_eq!(fs.lookup(&ROOT_USER, parent, name(bad)).map(|a| a.node), Err(Errno::INVAL), "{bad:?}");
                assert_eq!(fs.mkdir(&ROOT_USER, parent, name(bad), 0o755).map(|a| a.node), Err(Errno::INVAL), "{bad:?}");
                assert_eq!(fs.unlink(&ROOT_USER, parent, name(bad)), Err(Errno::INVAL), "{bad:?}");
                assert_eq!(fs.rename(&ROOT_USER, (ROOT, name("d")), (parent, name(bad)), 0), Err(Errno::INVAL), "{bad:?}");
                let created = fs.create(&ROOT_USER, parent, name(bad), 0o600, libc::O_RDWR).map(|(a, _)| a.node);
                assert_eq!(created, Err(Errno::INVAL), "{bad:?}");
            }
        }
    });
}

#[test]
fn symbolic_links_are_data() {
    with_fs(Options::default(), |fs, inside| {
        for (n, target) in [("absolute", "/etc"), ("up", ".."), ("file", "../secret")] {
            let link = fs.symlink(&ROOT_USER, ROOT, name(n), OsStr::new(target)).expect("symlink");
            assert_eq!(link.kind, FileType::Symlink);
            assert_eq!(fs.readlink(link.node), Ok(target.as_bytes().to_vec()));
            // As a directory or as a file, it is neither.
            assert_eq!(fs.lookup(&ROOT_USER, link.node, name("passwd")).map(|a| a.node), Err(Errno::NOTDIR));
            assert_eq!(fs.open(&ROOT_USER, link.node, libc::O_RDONLY).map(|o| o.handle), Err(Errno::LOOP));
            assert!(fs.opendir(&ROOT_USER, link.node).is_err());
            let created = fs.create(&ROOT_USER, ROOT, name(n), 0o600, libc::O_RDWR | libc::O_TRUNC).map(|(a, _)| a.node);
            assert_eq!(created, Err(Errno::LOOP));
        }
        let hard = fs.lookup(&ROOT_USER, ROOT, name("file")).expect("lookup").node;
        assert_eq!(fs.link(&ROOT_USER, hard, ROOT, name("hard")).expect("a link to the link").kind, FileType::Symlink);
        assert_eq!(std::fs::read(inside.join("../secret")).expect("read"), b"outside");
    });
}

/// Somebody swaps a directory and a link to the outside while we walk: each step sees the one or the other, never beyond.
#[test]
fn a_race_of_renames_never_leads_outside() {
    with_fs(Options::default(), |fs, inside| {
        std::fs::create_dir(inside.join("real")).expect("mkdir");
        std::fs::write(inside.join("real/secret"), b"inside").expect("write");
        std::os::unix::fs::symlink("..", inside.join("link")).expect("symlink");
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let at = |n: &str| inside.join(n);
                while !over.load(Ordering::Relaxed) {
                    for (a, b) in [("real", "x"), ("link", "x")] {
                        std::fs::rename(at(a), at(b)).expect("rename");
                        std::fs::rename(at(b), at(a)).expect("rename");
                    }
                }
            });
            let mut found = 0;
            let start = std::time::Instant::now();
            while found < 200 && start.elapsed().as_secs() < 20 {
                let Ok(x) = fs.lookup(&ROOT_USER, ROOT, name("x")) else { continue };
                if let Ok(secret) = fs.lookup(&ROOT_USER, x.node, name("secret")) {
                    let opened = fs.open(&ROOT_USER, secret.node, libc::O_RDONLY).expect("open");
                    let mut data = [0; 16];
                    let n = fs.read(opened.handle, 0, &mut data).expect("read");
                    assert_eq!(&data[..n], b"inside");
                    fs.release(opened.handle);
                    fs.forget(secret.node, 1);
                    found += 1;
                }
                fs.forget(x.node, 1);
            }
            over.store(true, Ordering::Relaxed);
            assert!(found > 0, "the race was never won: nothing was tested");
        });
    });
}

/// What each user may do to a file and its directory, as POSIX (and an NFS server) says.
#[test]
fn permission_table() {
    with_fs(Options::default(), |fs, _| {
        fs.setattr(&ROOT_USER, ROOT, &Settings { mode: Some(0o1777), ..Settings::default() }, None).expect("chmod");
        let (attr, opened) = fs.create(&user(100), ROOT, name("f"), 0o640, libc::O_RDWR).expect("create");
        fs.release(opened.handle);
        let f = attr.node;
        assert_eq!((attr.uid, attr.gid), (100, 100));
        let mode = |m| Settings { mode: Some(m), ..Settings::default() };
        let owner = |uid| Settings { uid: Some(uid), ..Settings::default() };
        let time = |t| Settings { atime: Some(t), mtime: Some(t), ..Settings::default() };
        let set = |who: &Caller, s: Settings| fs.setattr(who, f, &s, None).map(|_| ());
        let same_group = Caller { uid: 200, gid: 100, pid: 0 };
        let at = Timestamp { sec: 1, nsec: 0 };
        let perm = Err(Errno::PERM);
        let acces = Err(Errno::ACCESS);
        let open = |who: &Caller, flags| fs.open(who, f, flags).map(|o| drop(fs.release(o.handle)));
        let table = [
            ("root reads", open(&ROOT_USER, libc::O_RDWR), Ok(())),
            ("owner writes", open(&user(100), libc::O_RDWR), Ok(())),
            ("group reads", open(&same_group, libc::O_RDONLY), Ok(())),
            ("group writes", open(&same_group, libc::O_WRONLY), acces),
            ("other reads", open(&user(300), libc::O_RDONLY), acces),
            ("other asks to read", fs.access(&user(300), f, libc::R_OK as u32), acces),
            ("owner asks to read and write", fs.access(&user(100), f, (libc::R_OK | libc::W_OK) as u32), Ok(())),
            ("root runs what nobody may", fs.access(&ROOT_USER, f, libc::X_OK as u32), acces),
            ("other chmods", set(&user(300), mode(0o666)), perm),
            ("owner chmods", set(&user(100), mode(0o640)), Ok(())),
            ("owner gives away", set(&user(100), owner(300)), perm),
            ("root gives and takes back", set(&ROOT_USER, owner(300)).and_then(|()| set(&ROOT_USER, owner(100))), Ok(())),
            ("other sets the time", set(&user(300), time(SetTime::At(at))), perm),
            ("other touches", set(&user(300), time(SetTime::Now)), acces),
            ("owner sets the time", set(&user(100), time(SetTime::At(at))), Ok(())),
            ("other truncates", set(&user(300), Settings { size: Some(0), ..Settings::default() }), acces),
            ("other removes (sticky)", fs.unlink(&user(300), ROOT, name("f")), perm),
            ("other renames (sticky)", fs.rename(&user(300), (ROOT, name("f")), (ROOT, name("g")), 0), perm),
            ("owner removes", fs.unlink(&user(100), ROOT, name("f")), Ok(())),
        ];
        for (what, got, expected) in table {
            assert_eq!(got, expected, "{what}");
        }
    });
}

#[test]
fn the_table_forgets_what_the_kernel_forgets() {
    with_fs(Options::default(), |fs, inside| {
        std::fs::write(inside.join("f"), b"x").expect("write");
        let f = fs.lookup(&ROOT_USER, ROOT, name("f")).expect("lookup").node;
        assert_eq!(fs.lookup(&ROOT_USER, ROOT, name("f")).map(|a| a.node), Ok(f));
        fs.forget(f, 1);
        assert_eq!(fs.known(), 1);
        // Removed by somebody else: the number cannot be used again while it is known.
        std::fs::remove_file(inside.join("f")).expect("unlink");
        for n in 0..50 {
            std::fs::write(inside.join(format!("g{n}")), b"y").expect("write");
            let g = fs.lookup(&ROOT_USER, ROOT, name(&format!("g{n}"))).expect("lookup").node;
            assert_ne!(g, f);
            fs.forget(g, 1);
        }
        fs.forget(f, 5);
        assert_eq!(fs.known(), 0);
        assert_eq!(fs.getattr(f).map(|a| a.node), Err(Errno::STALE));
        fs.forget(ROOT, 100);
        assert!(fs.getattr(ROOT).is_ok());
    });
}

/// Read in small pieces from any offset, with entries that come and go: each that stays is seen once.
#[test]
fn directory_offsets_are_stable() {
    with_fs(Options::default(), |fs, inside| {
        for n in 0..500 {
            std::fs::write(inside.join(format!("stays{n}")), b"").expect("write");
        }
        let handle = fs.opendir(&ROOT_USER, ROOT).expect("opendir");
        let (mut seen, mut offset, mut round) = (Vec::new(), 0, 0);
        loop {
            let mut room = 1 + round % 7;
            let before = offset;
            fs.readdir(&ROOT_USER, ROOT, handle, offset, false, &mut |entry, _| {
                if room == 0 {
                    return true;
                }
                room -= 1;
                offset = entry.next;
                seen.push(entry.name.to_owned());
                false
            })
            .expect("readdir");
            if offset == before {
                break;
            }
            std::fs::write(inside.join(format!("comes{round}")), b"").expect("write");
            if round % 2 == 0 {
                std::fs::remove_file(inside.join(format!("comes{round}"))).expect("unlink");
            }
            round += 1;
        }
        let mut stays: Vec<_> = seen.iter().filter(|n| n.as_bytes().starts_with(b"stays")).collect();
        stays.sort();
        stays.dedup();
        assert_eq!(stays.len(), 500);
        assert_eq!(seen.iter().filter(|n| n.as_bytes().starts_with(b"stays")).count(), 500, "none twice");
    });
}

#[test]
fn directories_deeper_than_the_limit_are_refused() {
    with_fs(Options::default(), |fs, _| {
        let mut parent = ROOT;
        for level in 1..=limits::DEPTH {
            let made = fs.mkdir(&ROOT_USER, parent, name("d"), 0o755).unwrap_or_else(|e| panic!("level {level}: {e}"));
            parent = made.node;
        }
        assert_eq!(fs.mkdir(&ROOT_USER, parent, name("d"), 0o755).map(|a| a.node), Err(Errno::NAMETOOLONG));
    });
}

#[test]
fn locks_are_limited() {
    with_fs(Options::default(), |fs, inside| {
        std::fs::write(inside.join("f"), b"x").expect("write");
        let f = fs.lookup(&ROOT_USER, ROOT, name("f")).expect("lookup").node;
        let handle = fs.open(&ROOT_USER, f, libc::O_RDWR).expect("open").handle;
        let set = |owner: u64, start: u64, kind| {
            let range = ranges::Range { start, end: start };
            let request = locks::LockRequest { node: f, handle, owner, pid: 0, range, kind: Some(kind) };
            let (send, receive) = std::sync::mpsc::channel();
            fs.set_lock(request, false, move |r| send.send(r).expect("receiver"));
            receive.recv().expect("an answer")
        };
        for n in 0..limits::LOCKS_PER_FILE as u64 {
            assert_eq!(set(1, n * 2, ranges::LockKind::Exclusive), Ok(()), "{n}");
        }
        assert_eq!(set(1, 9999, ranges::LockKind::Exclusive), Err(Errno::NOLCK));
        assert_eq!(set(2, 0, ranges::LockKind::Shared), Err(Errno::NOLCK));
        fs.flush(f, 1);
        for owner in 0..limits::LOCK_PAIRS_PER_MOUNT as u64 {
            assert_eq!(set(owner, 0, ranges::LockKind::Shared), Ok(()), "{owner}");
        }
        assert_eq!(set(100_000, 0, ranges::LockKind::Shared), Err(Errno::DQUOT));
        fs.release(handle);
        let handle = fs.open(&ROOT_USER, f, libc::O_RDWR).expect("open").handle;
        let whole = ranges::Range { start: 0, end: ranges::END };
        let request = locks::LockRequest { node: f, handle, owner: 7, pid: 0, range: whole, kind: Some(ranges::LockKind::Exclusive) };
        assert_eq!(fs.test_lock(&request), Ok(None), "all went with the handle");
    });
}
