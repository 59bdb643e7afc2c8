//! Real mounts: what two pods on two nodes see of one file system.

mod common;
use common::*;
use fuse_fs::fs::CreationInfo;
use fuse_fs::mount_efs::Failure;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn user_50000() -> AccessPoint {
    AccessPoint {
        identity: Some(identity(50000, 50000, &[7])),
        root: "/pvc-1",
        creation: Some(CreationInfo { owner_uid: 50000, owner_gid: 50000, permissions: 0o700 }),
    }
}

#[test]
fn two_mounts_see_each_others_changes_at_once() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let (a, b) = (node.mount(), node.mount());
    for round in 0..50 {
        let name = format!("f{round}");
        fs::write(a.join(&name), b"one").expect("write");
        assert_eq!(fs::read(b.join(&name)).expect("read"), b"one");
        fs::OpenOptions::new()
            .append(true)
            .open(b.join(&name))
            .and_then(|mut f| std::io::Write::write_all(&mut f, b" two"))
            .expect("append");
        assert_eq!(fs::read(a.join(&name)).expect("read"), b"one two");
        fs::rename(a.join(&name), a.join("moved")).expect("rename");
        assert!(!b.join(&name).exists() && b.join("moved").exists());
        fs::set_permissions(a.join("moved"), fs::Permissions::from_mode(0o600)).expect("chmod");
        assert_eq!(fs::metadata(b.join("moved")).expect("stat").mode() & 0o777, 0o600);
        fs::remove_file(b.join("moved")).expect("unlink");
        assert_eq!(fs::read_dir(&a).expect("list").count(), 0);
    }
}

#[test]
fn open_files_share_data_and_appends_between_mounts_with_and_without_passthrough() {
    if skipped() {
        return;
    }
    for passthrough in [true, false] {
        let tuning = fuse_fs::daemon::Tuning { passthrough, ..Default::default() };
        let mut node = Node::start_tuned(vec![], tuning, false);
        let (a, b) = (node.mount(), node.mount());
        fs::write(a.join("log"), b"").expect("create");
        let open = |m: &std::path::Path| fs::OpenOptions::new().read(true).append(true).open(m.join("log")).expect("open");
        let (mut x, mut y) = (open(&a), open(&b));
        for n in 0..100u8 {
            let writer = if n % 2 == 0 { &mut x } else { &mut y };
            std::io::Write::write_all(writer, &[n; 10]).expect("append");
        }
        let expected: Vec<u8> = (0..100u8).flat_map(|n| [n; 10]).collect();
        for file in [&x, &y] {
            let mut data = vec![0; 2000];
            let n = rustix::io::pread(file, &mut data, 0).expect("read");
            assert_eq!(&data[..n], &expected, "passthrough {passthrough}");
        }
        // O_DIRECT needs no alignment on NFS.
        let direct = rustix::fs::open(a.join("log"), OFlags::RDONLY | OFlags::DIRECT, Mode::empty()).expect("open direct");
        let mut seven = [0; 7];
        assert_eq!(rustix::io::pread(&direct, &mut seven, 13), Ok(7));
        assert_eq!(seven, [1; 7]);
    }
}

#[test]
fn an_access_points_user_owns_and_decides() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![user_50000()]);
    let (point, whole) = (node.mount_point(0), node.mount());
    // The root was made at the first mount, its parent belongs to root.
    let root = fs::metadata(whole.join("pvc-1")).expect("made");
    assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (50000, 50000, 0o700));
    // We are root here; the server does not care.
    fs::write(point.join("f"), b"x").expect("write");
    fs::create_dir(point.join("d")).expect("mkdir");
    for name in ["f", "d"] {
        let stat = fs::metadata(whole.join("pvc-1").join(name)).expect("stat");
        assert_eq!((stat.uid(), stat.gid()), (50000, 50000));
    }
    let f = point.join("f");
    assert_eq!(io_code(chown(&f, Some(0), None)), libc::EPERM);
    assert_eq!(io_code(chown(&f, Some(50001), Some(50001))), libc::EPERM);
    assert_eq!(io_code(chown(&f, Some(50000), Some(50000))), 0, "to itself");
    assert_eq!(io_code(chown(&f, None, Some(7))), 0, "the owner, to a secondary group");
    assert_eq!(io_code(chown(&f, None, Some(8))), libc::EPERM, "not to a group it is not in");
    assert_eq!(io_code(fs::set_permissions(&f, fs::Permissions::from_mode(0o640))), 0);
    // What belongs to others is closed, though the caller is root.
    fs::write(whole.join("pvc-1/other"), b"secret").expect("write");
    chown(whole.join("pvc-1/other"), Some(60000), Some(60000)).expect("root over a plain mount may");
    fs::set_permissions(whole.join("pvc-1/other"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(io_code(fs::read(point.join("other"))), libc::EACCES);
    assert_eq!(io_code(fs::set_permissions(point.join("other"), fs::Permissions::from_mode(0o666))), libc::EPERM);
    fs::set_permissions(whole.join("pvc-1/other"), fs::Permissions::from_mode(0o060)).expect("chmod");
    chown(whole.join("pvc-1/other"), None, Some(7)).expect("chgrp");
    assert_eq!(fs::read(point.join("other")).expect("by its secondary group"), b"secret");
    // Any user of the client is the access point's user.
    let written = as_user(1234, 1234, &[], || fs::write(point.join("by-1234"), b"x"));
    assert_eq!(io_code(written), 0);
    assert_eq!(fs::metadata(point.join("by-1234")).expect("stat").uid(), 50000);
}

#[test]
fn without_an_identity_the_clients_ids_groups_and_umask_count() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let m = node.mount();
    fs::set_permissions(&m, fs::Permissions::from_mode(0o1777)).expect("chmod");
    as_user(1000, 1000, &[2000], || {
        fs::write(m.join("mine"), b"x").expect("write");
        fs::create_dir(m.join("dir")).expect("mkdir");
    });
    let mine = fs::metadata(m.join("mine")).expect("stat");
    assert_eq!((mine.uid(), mine.gid()), (1000, 1000));
    fs::set_permissions(m.join("mine"), fs::Permissions::from_mode(0o640)).expect("chmod");
    chown(m.join("mine"), None, Some(2000)).expect("chgrp");
    let by_group = |groups: &'static [u32]| as_user(3000, 3000, groups, || io_code(fs::read(m.join("mine"))));
    assert_eq!(by_group(&[2000]), 0, "a supplementary group of the caller");
    assert_eq!(by_group(&[]), libc::EACCES);
    // Sticky: only the owner removes.
    assert_eq!(as_user(3000, 3000, &[], || io_code(fs::remove_file(m.join("mine")))), libc::EPERM);
    // A directory that may not be searched hides what is in it, also what the kernel has just seen.
    fs::write(m.join("dir/inner"), b"x").expect("write");
    fs::set_permissions(m.join("dir"), fs::Permissions::from_mode(0o700)).expect("chmod");
    assert!(m.join("dir/inner").exists());
    assert_eq!(as_user(3000, 3000, &[], || io_code(fs::metadata(m.join("dir/inner")))), libc::EACCES);
    // setgid directories give their group.
    fs::create_dir(m.join("shared")).expect("mkdir");
    chown(m.join("shared"), None, Some(2000)).expect("chgrp");
    fs::set_permissions(m.join("shared"), fs::Permissions::from_mode(0o2777)).expect("chmod");
    as_user(1000, 1000, &[], || fs::write(m.join("shared/f"), b"x").expect("write"));
    assert_eq!(fs::metadata(m.join("shared/f")).expect("stat").gid(), 2000);
    // The client's umask applies once (0 in a shell that says so), in a process of its own.
    let script = format!("umask 0; : > {0}/open; umask 077; : > {0}/closed", m.display());
    assert!(Command::new("sh").args(["-c", &script]).status().expect("sh").success());
    let mode = |name: &str| fs::metadata(m.join(name)).expect("stat").mode() & 0o777;
    assert_eq!((mode("open"), mode("closed")), (0o666, 0o600));
    // Writing as another user drops setuid.
    fs::write(m.join("suid"), b"x").expect("write");
    fs::set_permissions(m.join("suid"), fs::Permissions::from_mode(0o4777)).expect("chmod");
    as_user(3000, 3000, &[], || {
        let file = fs::OpenOptions::new().write(true).open(m.join("suid")).expect("open");
        rustix::io::pwrite(&file, b"y", 0).expect("write");
    });
    assert_eq!(mode("suid"), 0o777, "without setuid");
    assert_eq!(fs::metadata(m.join("suid")).expect("stat").mode() & 0o4000, 0);
}

#[test]
fn locks_hold_between_mounts() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let (a, b) = (node.mount(), node.mount());
    fs::write(a.join("f"), b"0123456789").expect("write");
    let open = |m: &std::path::Path| fs::OpenOptions::new().read(true).write(true).open(m.join("f")).expect("open");
    let (x, y) = (open(&a), open(&b));
    let posix = |file: &fs::File, kind: i32, start: i64, len: i64| {
        let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: start, l_len: len, l_pid: 0 };
        code(nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETLK(&lock)).map_err(|e| rustix::io::Errno::from_raw_os_error(e as i32)))
    };
    assert_eq!(posix(&x, libc::F_WRLCK, 0, 5), 0);
    assert_eq!(posix(&y, libc::F_WRLCK, 4, 1), libc::EAGAIN);
    assert_eq!(posix(&y, libc::F_WRLCK, 5, 5), 0, "another range");
    assert_eq!(code(rustix::fs::flock(&y, FlockOperation::NonBlockingLockExclusive)), libc::EAGAIN, "flock is a lock of all bytes");
    let mut asked = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 0, l_len: 10, l_pid: 0 };
    nix::fcntl::fcntl(&y, nix::fcntl::FcntlArg::F_GETLK(&mut asked)).expect("getlk");
    assert_eq!((i32::from(asked.l_type), asked.l_start, asked.l_len), (libc::F_WRLCK, 0, 5));
    // Any close drops the process's locks on that mount; then the waiter gets it.
    let released = AtomicBool::new(false);
    let (tell, thread_id) = std::sync::mpsc::channel();
    assert_eq!(posix(&y, libc::F_UNLCK, 0, 0), 0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tell.send(rustix::thread::gettid()).expect("receiver");
            rustix::fs::flock(open(&b), FlockOperation::LockShared).map(|()| released.load(Ordering::SeqCst))
        });
        let tid = thread_id.recv().expect("thread id").as_raw_nonzero();
        wait_until("it waits in the kernel", || waits_for_fuse(&format!("/proc/self/task/{tid}")));
        released.store(true, Ordering::SeqCst);
        drop(x);
        assert_eq!(waiter.join().expect("thread"), Ok(true), "it got the lock too early");
    });
    // Read-only descriptors take no exclusive lock, as over NFS.
    let read_only = fs::File::open(a.join("f")).expect("open");
    assert_eq!(code(rustix::fs::flock(&read_only, FlockOperation::NonBlockingLockExclusive)), libc::EBADF);
    drop(y);
}

/// The thread waits for an answer of a FUSE server.
fn waits_for_fuse(task: &str) -> bool {
    fs::read_to_string(format!("{task}/wchan")).is_ok_and(|w| w.contains("fuse") || w.contains("request_wait"))
}

#[test]
fn many_waiters_do_not_stop_the_mount_and_can_be_killed() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let (a, b) = (node.mount(), node.mount());
    fs::write(a.join("f"), b"x").expect("write");
    let holder = fs::OpenOptions::new().write(true).open(a.join("f")).expect("open");
    rustix::fs::flock(&holder, FlockOperation::LockExclusive).expect("lock");
    // More than there are workers.
    let mut waiters: Vec<_> = (0..24).map(|_| Command::new("flock").arg(b.join("f")).arg("true").spawn().expect("flock(1)")).collect();
    let waiting =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|w| w.contains("fuse") || w.contains("request_wait"));
    wait_until("they wait in the kernel", || waiters.iter().all(|w| waiting(w.id())));
    fs::write(b.join("g"), b"still served").expect("write");
    let killed = waiters.split_off(12);
    for mut child in killed {
        child.kill().expect("kill");
        let start = Instant::now();
        child.wait().expect("wait");
        assert!(start.elapsed() < Duration::from_secs(2), "a waiter could not be killed");
    }
    drop(holder);
    for mut child in waiters {
        assert!(child.wait().expect("wait").success(), "each gets the lock in turn");
    }
}

#[test]
fn limits_and_what_efs_does_not_have() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let m = node.mount();
    let stat = nix::sys::statvfs::statvfs(&m).expect("statvfs");
    assert_eq!((stat.block_size(), stat.fragment_size(), stat.blocks()), (1 << 20, 1 << 20, 8_796_093_022_207));
    assert_eq!((stat.blocks_available(), stat.files(), stat.name_max()), (8_796_093_022_204, 0, 255));
    let at = |name: &str| m.join(name);
    assert_eq!(io_code(fs::write(at(&"n".repeat(255)), b"")), 0);
    assert_eq!(io_code(fs::write(at(&"n".repeat(256)), b"")), libc::ENAMETOOLONG);
    assert_eq!(io_code(symlink("t".repeat(4080), at("s1"))), 0);
    assert_eq!(fs::read_link(at("s1")).expect("readlink").as_os_str().len(), 4080);
    assert_eq!(io_code(symlink("t".repeat(4081), at("s2"))), libc::ENAMETOOLONG);
    fs::write(at("f"), b"x").expect("write");
    for n in 1..177 {
        fs::hard_link(at("f"), at(&format!("l{n}"))).expect("link");
    }
    assert_eq!(io_code(fs::hard_link(at("f"), at("one-more"))), libc::EMLINK);
    assert_eq!(fs::metadata(at("f")).expect("stat").nlink(), 177);
    let file = fs::OpenOptions::new().read(true).write(true).open(at("f")).expect("open");
    assert_eq!(io_code(file.set_len(52_673_613_135_873)), libc::EFBIG);
    assert_eq!(code(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 10)), libc::EOPNOTSUPP);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)), Ok(1), "all is data up to the end");
    let attribute = rustix::fs::setxattr(at("f"), "user.x", b"1", rustix::fs::XattrFlags::empty());
    assert_eq!(code(attribute), libc::EOPNOTSUPP);
    assert_eq!(code(rustix::fs::getxattr(at("f"), "user.x", &mut [0u8; 8][..])), libc::EOPNOTSUPP);
    let node_of = |kind, name: &str| code(rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, Mode::RUSR, 1));
    assert_eq!(node_of(rustix::fs::FileType::BlockDevice, "block"), libc::EPERM);
    assert_eq!(node_of(rustix::fs::FileType::CharacterDevice, "char"), libc::EPERM);
    assert_eq!(node_of(rustix::fs::FileType::Fifo, "fifo"), 0);
    let cwd = rustix::fs::CWD;
    let rename = |to: &str, flags| code(rustix::fs::renameat_with(cwd, at("f"), cwd, at(to), flags));
    assert_eq!(rename("new", rustix::fs::RenameFlags::NOREPLACE), libc::EINVAL, "as the NFS client");
    assert_eq!(rename("s1", rustix::fs::RenameFlags::EXCHANGE), libc::EINVAL);
    assert_eq!(code(rustix::fs::open(&m, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR)), libc::EOPNOTSUPP);
    // An empty file takes 4 KiB, a small directory shows 6 KiB, reading leaves atime alone.
    fs::write(at("empty"), b"").expect("write");
    assert_eq!(fs::metadata(at("empty")).expect("stat").blocks(), 8);
    fs::create_dir(at("dir")).expect("mkdir");
    assert_eq!(fs::metadata(at("dir")).expect("stat").size(), 6144);
    let old = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
    rustix::fs::utimensat(cwd, at("f"), &rustix::fs::Timestamps { last_access: old, last_modification: old }, rustix::fs::AtFlags::empty())
        .expect("utimens");
    fs::read(at("f")).expect("read");
    let stat = fs::metadata(at("f")).expect("stat");
    assert_eq!((stat.atime(), stat.mtime(), stat.mtime_nsec()), (1_000_000, 1_000_000, 5));
}

#[test]
fn access_point_roots_are_made_once_and_never_changed() {
    if skipped() {
        return;
    }
    let deep = AccessPoint { root: "/a/b/c", ..user_50000() };
    let missing = AccessPoint { creation: None, ..user_50000() };
    let mut node = Node::start(vec![deep, missing]);
    let denied = node.try_mount(&format!("{FS}:/"), &format!("tls,accesspoint={}", access_point(1)));
    let text = "b'mount.nfs4: access denied by server while mounting 127.0.0.1:/'";
    assert_eq!(denied, Err(Failure { message: text.into(), code: 32 }));
    let point = node.mount_point(0);
    let stat = |path: &str| fs::metadata(node.export().join(path)).map(|s| (s.uid(), s.mode() & 0o7777)).expect("stat");
    assert_eq!([stat("a"), stat("a/b"), stat("a/b/c")], [(0, 0o755), (0, 0o755), (50000, 0o700)]);
    chown(node.export().join("a/b/c"), Some(1), Some(1)).expect("chown");
    let export = node.export();
    node.mount_point(0);
    assert_eq!(fs::metadata(export.join("a/b/c")).expect("stat").uid(), 1);
    // The directory is removed under a mount: its clients see a stale handle, the next mount makes it anew.
    fs::remove_dir(export.join("a/b/c")).expect("rmdir");
    assert_eq!(io_code(fs::metadata(&point)), libc::ESTALE);
    node.mount_point(0);
    assert_eq!(fs::metadata(export.join("a/b/c")).expect("made again").uid(), 50000);
}

#[test]
fn helper_refuses_with_the_texts_and_codes_of_the_real_one() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![user_50000()]);
    let failure = |message: &str, code| Err(Failure { message: message.into(), code });
    let text = "b'mount.nfs4: mounting 127.0.0.1:/no/such failed, reason given by server: No such file or directory'";
    assert_eq!(node.try_mount(&format!("{FS}:/no/such"), "rw"), failure(text, 32));
    assert_eq!(node.try_mount("fs-0bad:/", "rw"), failure("Failed to resolve \"fs-0bad.efs.us-east-1.amazonaws.com\"", 1));
    let text = "The \"tls\" option is required when mounting via \"accesspoint\"";
    assert_eq!(node.try_mount(FS, &format!("accesspoint={}", access_point(0))), failure(text, 1));
    let nobody = mount_without_server();
    assert!(nobody.message.contains("no EFS server answers on /nonexistent/efs.sock"), "{nobody:?}");
    // A path below the root must exist; `..` stays inside.
    fs::create_dir_all(node.export().join("x/y")).expect("mkdir");
    let sub = node.try_mount(&format!("{FS}:/x/../../x"), "rw").expect("mount");
    assert_eq!(fs::read_dir(&sub).expect("list").count(), 1);
    // Mounted already: nothing happens, and that is success.
    let before = mounts_below(&sub);
    assert_eq!(node.mount_at(&format!("{FS}:/x"), &sub, "rw"), Ok(()));
    assert_eq!(mounts_below(&sub), before);
    let state: Vec<_> = fs::read_dir(node.state()).expect("list").flatten().map(|e| e.file_name().into_string().expect("UTF-8")).collect();
    assert!(state.iter().any(|n| n.starts_with(&format!("{FS}.")) && n.ends_with(".20049")), "{state:?}");
    assert!(fs::read_to_string(node.state().join("mount.log")).expect("log").contains(" - INFO - Successfully mounted"));
}

fn mount_without_server() -> Failure {
    let args = ["mount.efs", FS, "/", "-o", "rw"].map(str::to_owned);
    let environment = fuse_fs::mount_efs::Environment {
        socket: "/nonexistent/efs.sock".into(),
        attempt: Duration::ZERO,
        connect: Duration::ZERO,
        pause: Duration::ZERO,
        pace: Duration::ZERO,
        state_directory: "/nonexistent".into(),
        log_directory: "/nonexistent".into(),
    };
    fuse_fs::mount_efs::run(&args, &environment).expect_err("there is no server")
}

/// A call that ran out of time left its helper waiting, and the caller tried again.
#[test]
fn helpers_that_waited_for_one_target_mount_once() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let target = node.mount();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).expect("umount");
    node.block(true);
    let at_once = node.mount_at(FS, &target, "mounttargetip=10.0.0.1");
    assert_eq!(at_once, Err(Failure { message: "Cannot connect".into(), code: 1 }), "an address is given up soon");
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..8).map(|_| scope.spawn(|| node.mount_at(FS, &target, "rw"))).collect();
        let log = || fs::read_to_string(node.state().join("mount.log")).expect("log");
        wait_until("all are in their last attempt", || log().matches("Mount attempt 2/3 failed").count() == 8);
        assert!(helpers.iter().all(|helper| !helper.is_finished()), "the last attempt has no limit");
        node.block(false);
        for helper in helpers {
            assert_eq!(helper.join().expect("a thread"), Ok(()));
        }
    });
    assert_eq!(mounts_below(&target), 1);
}

#[test]
fn read_only_mounts_and_policies_answer_erofs() {
    if skipped() {
        return;
    }
    let mut by_option = Node::start(vec![]);
    let mut by_policy = Node::start_tuned(vec![], Default::default(), true);
    for node in [&by_option, &by_policy] {
        fs::write(node.export().join("f"), b"x").expect("write");
    }
    let mounts = [by_option.try_mount(FS, "ro").expect("mount"), by_policy.try_mount(FS, "rw").expect("mount")];
    for m in mounts {
        assert_eq!(fs::read(m.join("f")).expect("read"), b"x");
        let results = [
            io_code(fs::write(m.join("f"), b"y")),
            io_code(fs::write(m.join("new"), b"y")),
            io_code(fs::create_dir(m.join("d"))),
            io_code(fs::remove_file(m.join("f"))),
            io_code(fs::rename(m.join("f"), m.join("g"))),
            io_code(fs::set_permissions(m.join("f"), fs::Permissions::from_mode(0o777))),
            code(rustix::fs::access(m.join("f"), rustix::fs::Access::WRITE_OK)),
        ];
        assert_eq!(results, [libc::EROFS; 7]);
    }
}

#[test]
fn a_mount_ends_with_umount_or_with_its_server() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let (a, b) = (node.mount(), node.mount());
    let held = fs::File::create(a.join("held")).expect("create");
    assert_eq!(code(rustix::mount::unmount(&a, rustix::mount::UnmountFlags::empty())), libc::EBUSY);
    drop(held);
    // RELEASE is sent in the background after close.
    wait_until("nothing holds the mount", || rustix::mount::unmount(&a, rustix::mount::UnmountFlags::empty()).is_ok());
    fs::write(b.join("f"), b"x").expect("the other mount stays");
    let open = fs::File::open(b.join("f")).expect("open");
    let (socket, below) = (node.socket(), b.parent().expect("parent").to_owned());
    node.stop();
    assert_eq!(mounts_below(&below), 0);
    assert!(!socket.exists());
    assert!(io_code(open.sync_all()) != 0, "a file of a mount that is gone");
    assert_eq!(fs::read_dir(&b).expect("the bare directory").count(), 0);
}

#[test]
fn a_dead_mount_is_replaced() {
    if skipped() {
        return;
    }
    let mut node = Node::start(vec![]);
    let target = node.mount();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let device = fuse_fs::mount_efs::mountinfo::parse(&table).find(|m| m.target == target).expect("mounted").device;
    fuse_fs::server::session::cut(device.strip_prefix("0:").expect("no device of its own").parse().expect("a number"), || true)
        .expect("cut");
    assert_eq!(io_code(fs::metadata(&target)), libc::ENOTCONN);
    assert_eq!(node.mount_at(FS, &target, "rw"), Ok(()));
    assert_eq!(mounts_below(&target), 1);
    fs::write(target.join("f"), b"x").expect("it lives");
}

/// A mount's number goes to the next mount on the machine as soon as it is gone, also to one of another server.
#[test]
fn a_server_that_stops_leaves_the_mounts_of_others() {
    if skipped() {
        return;
    }
    let number = |target: &Path| fs::metadata(target).expect("metadata").dev();
    // Other tests mount too and may take the number first.
    for _ in 0..50 {
        let (mut first, mut second) = (Node::start(vec![]), Node::start(vec![]));
        let gone = first.mount();
        let reused = number(&gone);
        rustix::mount::unmount(&gone, rustix::mount::UnmountFlags::empty()).expect("umount");
        let target = second.mount();
        if number(&target) != reused {
            continue;
        }
        first.stop();
        assert_eq!(mounts_below(&target), 1, "the other server's mount is gone");
        fs::write(target.join("f"), b"x").expect("the other server's mount lives");
        return;
    }
    panic!("no mount got the number of one that was gone");
}
