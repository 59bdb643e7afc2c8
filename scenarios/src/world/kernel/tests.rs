//! Sentences of the manual pages; `differential` has the rest.

use super::*;

fn disk() -> (Kernel, Trees) {
    let mut kernel = Kernel::default();
    kernel.attach("vol-1", 16 << 20);
    kernel.make_directories("/a/b");
    kernel.make_directories("/c");
    (kernel, Trees::from([("vol-1".into(), Tree::formatted("ext4", 16 << 20))]))
}

#[test]
fn a_file_system_is_busy_while_a_file_is_open_and_lives_on_after_a_lazy_umount() {
    let (mut kernel, mut trees) = disk();
    kernel.mount(&trees, "vol-1", "/a/b", false).unwrap();
    let file = kernel.open(&mut trees, "/a/b/f", Mode::Write).unwrap();
    assert_eq!(kernel.umount(&trees, "/a/b", false), Err(Errno::Busy));
    assert_eq!(kernel.remount(&trees, "/a/b", true), Err(Errno::Busy));
    assert_eq!(kernel.umount(&trees, "/a/b", true), Ok(()));
    assert_eq!((kernel.mounts(), kernel.detach("vol-1")), (vec![], Err(Errno::Busy)));
    assert_eq!(kernel.allocate(&mut trees, file, 17 << 20), Err(Errno::NoSpace));
    kernel.close(file).unwrap();
    assert_eq!((kernel.detach("vol-1"), kernel.mount(&trees, "vol-1", "/a/b", false)), (Ok(()), Err(Errno::NoEntry)));
}

#[test]
fn a_bind_mount_is_writable_by_itself() {
    let (mut kernel, mut trees) = disk();
    kernel.mount(&trees, "vol-1", "/a/b", false).unwrap();
    kernel.bind(&trees, "/a/b", "/c").unwrap();
    kernel.remount_bind(&trees, "/c", true).unwrap();
    assert_eq!(kernel.mkdir(&mut trees, "/c/d"), Err(Errno::ReadOnly));
    assert_eq!(kernel.mkdir(&mut trees, "/a/b/d"), Ok(()));
    assert_eq!(kernel.mkdir(&mut trees, "/c/d"), Err(Errno::Exists));
    let shown: Vec<_> = kernel.mounts().into_iter().map(|mount| (mount.path, mount.read_only)).collect();
    assert_eq!(shown, [("/a/b".to_owned(), false), ("/c".to_owned(), true)]);
}

#[test]
fn mounts_are_stacked_and_hold_those_below() {
    let (mut kernel, mut trees) = disk();
    kernel.bind(&trees, "/c", "/a").unwrap();
    assert_eq!(kernel.mkdir(&mut trees, "/a/b"), Ok(()), "what was there is covered");
    kernel.mount(&trees, "vol-1", "/a/b", true).unwrap();
    assert_eq!(kernel.umount(&trees, "/a", false), Err(Errno::Busy));
    assert_eq!(kernel.rmdir(&mut trees, "/c/b"), Err(Errno::Busy), "the same directory by its other name");
    assert_eq!(kernel.mount(&trees, "vol-1", "/c", false), Err(Errno::Busy), "the file system is read-only");
    assert_eq!(kernel.mount(&trees, "vol-1", "/a/b", true), Err(Errno::Busy), "the same on the same spot");
    assert_eq!(kernel.umount(&trees, "/a", true), Ok(()));
    assert_eq!((kernel.mounts(), kernel.umount(&trees, "/a", false)), (vec![], Err(Errno::Invalid)));
}

#[test]
fn without_its_device_a_file_system_answers_eio() {
    let (mut kernel, mut trees) = disk();
    kernel.mount(&trees, "vol-1", "/c", false).unwrap();
    let file = kernel.open(&mut trees, "/c/f", Mode::Write).unwrap();
    assert!(kernel.pull("vol-1"));
    assert_eq!(kernel.allocate(&mut trees, file, 1), Err(Errno::Io));
    kernel.power_off();
    assert_eq!((kernel.mounts(), kernel.close(file)), (vec![], Err(Errno::BadFile)));
}
