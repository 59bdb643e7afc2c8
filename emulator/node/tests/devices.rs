//! Real loop devices in a temporary directory, as the agent makes them. Needs root; says so and passes without.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use emulator_node::devices::Devices;
use emulator_node::loops::{Loops, is_bound, remove_all_under};
use model_common::agent::{Device, DeviceError};

const GIB: u64 = 1 << 30;

/// A data directory with its own `/dev`; whatever a test leaves is taken down, also when it fails.
struct Host {
    dir: tempfile::TempDir,
    devices: Devices,
    mounted: Vec<PathBuf>,
}

impl Host {
    fn new() -> Option<Self> {
        if let Some(why) = Loops::unusable() {
            println!("skipped: {why}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for sub in ["dev", "volumes", "mnt"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        // Numbers that nobody else on this machine takes at the moment.
        let first = 2000 + std::process::id() % 100_000 * 8;
        let devices = Devices::new(dir.path().join("dev"), dir.path().join("volumes"), first);
        Some(Self { dir, devices, mounted: Vec::new() })
    }

    fn volume(&self, id: &str, size_bytes: u64) -> Device {
        let file = self.dir.path().join("volumes").join(format!("{id}.img"));
        std::fs::File::create(&file).unwrap().set_len(size_bytes).unwrap();
        Device { volume_id: id.into(), device_name: "/dev/xvdaa".into(), file: file.display().to_string(), size_bytes }
    }

    fn dev(&self, name: &str) -> PathBuf {
        self.dir.path().join("dev").join(name)
    }

    fn mount(&mut self, device: &Path) -> PathBuf {
        let point = self.dir.path().join("mnt");
        run("mount", &[device, &point]);
        self.mounted.push(point.clone());
        point
    }

    fn unmount(&mut self) {
        for point in self.mounted.drain(..) {
            let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.unmount();
        remove_all_under(&self.dir.path().join("volumes"));
    }
}

fn run(program: &str, args: &[&Path]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn size(device: &Path) -> u64 {
    run("blockdev", &[Path::new("--getsize64"), device]).trim().parse().unwrap()
}

#[test]
fn a_volume_is_attached_formatted_busy_grown_and_detached() {
    let Some(mut host) = Host::new() else { return };
    let volume = host.volume("vol-0123456789abcdef0", GIB);
    host.devices.attach(&volume).unwrap();
    host.devices.attach(&volume).unwrap();
    let by_id = host.dev("disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0");
    assert_eq!(std::fs::read_link(&by_id).unwrap(), Path::new("../../nvme1n1"));
    assert_eq!(std::fs::read_link(host.dev("xvdaa")).unwrap(), Path::new("nvme1n1"));
    assert!(!host.dev("nvme2n1").exists(), "attaching twice makes one device");
    let node = host.dev("nvme1n1");
    assert_eq!(size(&node), GIB);
    assert_eq!(host.devices.observed(), std::slice::from_ref(&volume));

    run("mkfs.xfs", &[Path::new("-q"), &node]);
    let point = host.mount(&node);
    std::fs::write(point.join("out.txt"), "first line\n").unwrap();
    let busy = host.devices.detach(&volume.volume_id, "/dev/xvdaa", true, false).unwrap_err();
    assert!(matches!(&busy, DeviceError::Busy { holder, .. } if holder.contains("mounted at")), "{busy}");
    assert!(node.exists() && by_id.exists(), "a busy device keeps its names");

    std::fs::File::options().write(true).open(&volume.file).unwrap().set_len(2 * GIB).unwrap();
    host.devices.resize(&volume.volume_id, 2 * GIB).unwrap();
    assert_eq!(size(&node), 2 * GIB);
    run("xfs_growfs", &[Path::new("-d"), &point]);
    let grown = nix::sys::statvfs::statvfs(&point).unwrap();
    assert!(grown.blocks() * grown.fragment_size() > 3 * GIB / 2);

    host.devices.freeze(&volume.volume_id).unwrap();
    host.devices.freeze(&volume.volume_id).unwrap();
    host.devices.thaw(&volume.volume_id).unwrap();
    // The other freeze holds: it cannot be frozen anew.
    let again = Command::new("fsfreeze").arg("--freeze").arg(&point).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("busy"), "{again:?}");
    host.devices.thaw(&volume.volume_id).unwrap();
    std::fs::write(point.join("after"), "thawed").unwrap();

    host.unmount();
    host.devices.detach(&volume.volume_id, "/dev/xvdaa", true, false).unwrap();
    host.devices.detach(&volume.volume_id, "/dev/xvdaa", true, false).unwrap();
    assert!(!node.exists() && std::fs::symlink_metadata(&by_id).is_err() && std::fs::symlink_metadata(host.dev("xvdaa")).is_err());
    assert!(Loops::new(host.dev(""), 2000).of_volume(&volume.volume_id, &host.dir.path().join("volumes")).is_none());

    // Attached again, as to another node: the data is there.
    host.devices.attach(&volume).unwrap();
    let point = host.mount(&node);
    assert_eq!(std::fs::read_to_string(point.join("out.txt")).unwrap(), "first line\n");
}

/// A process that has the device open until it is dropped. Not this process: the children that other tests fork inherit
/// its files until they are what they are to be.
struct Opened(Child);

impl Opened {
    fn new(device: &Path) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", r#"exec 3<"$0"; echo open; exec sleep 600"#])
            .arg(device)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Self(child)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_device_held_open_is_busy() {
    let Some(host) = Host::new() else { return };
    let volume = host.volume("vol-0000000000000000b", 1 << 24);
    host.devices.attach(&volume).unwrap();
    let held = Opened::new(&host.dev("nvme1n1"));
    let busy = host.devices.detach(&volume.volume_id, "/dev/xvdaa", true, false).unwrap_err();
    let holder = format!("open in process {} (", held.0.id());
    assert!(matches!(&busy, DeviceError::Busy { holder: by, .. } if by.contains(&holder)), "{busy}");
    drop(held);
    host.devices.detach(&volume.volume_id, "/dev/xvdaa", true, false).unwrap();
}

#[test]
fn who_only_glances_at_a_device_does_not_hold_it() {
    let Some(host) = Host::new() else { return };
    let volume = host.volume("vol-00000000000000011", 1 << 24);
    host.devices.attach(&volume).unwrap();
    let held = Opened::new(&host.dev("nvme1n1"));
    std::thread::scope(|scope| {
        let detached = scope.spawn(|| host.devices.detach(&volume.volume_id, "/dev/xvdaa", true, false));
        drop(held);
        detached.join().unwrap().unwrap();
    });
}

#[test]
fn two_nodes_share_one_loop_device() {
    let Some(host) = Host::new() else { return };
    let second = tempfile::tempdir().unwrap();
    let other = Devices::new(second.path().to_owned(), host.dir.path().join("volumes"), 2000);
    let volume = host.volume("vol-0000000000000000c", 1 << 24);
    // At the same time, as two agents would.
    std::thread::scope(|scope| {
        scope.spawn(|| host.devices.attach(&volume).unwrap());
        scope.spawn(|| other.attach(&volume).unwrap());
    });
    let rdev = |path: PathBuf| std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(path).unwrap());
    assert_eq!(rdev(host.dev("nvme1n1")), rdev(second.path().join("nvme1n1")));
    host.devices.detach(&volume.volume_id, "/dev/xvdaa", false, false).unwrap();
    assert!(!host.dev("nvme1n1").exists() && second.path().join("nvme1n1").exists());
    assert_eq!(size(&second.path().join("nvme1n1")), 1 << 24);
    other.detach(&volume.volume_id, "/dev/xvdaa", true, false).unwrap();
}

#[test]
fn names_are_given_out_in_order_and_never_for_two_volumes() {
    let Some(host) = Host::new() else { return };
    let first = host.volume("vol-0000000000000000d", 1 << 24);
    let mut second = host.volume("vol-0000000000000000e", 1 << 24);
    host.devices.attach(&first).unwrap();
    let taken = host.devices.attach(&second).unwrap_err();
    assert!(matches!(taken, DeviceError::Failed { errno: libc::EEXIST, .. }), "{taken}");
    second.device_name = "/dev/xvdab".into();
    host.devices.attach(&second).unwrap();
    assert_eq!(std::fs::read_link(host.dev("xvdab")).unwrap(), Path::new("nvme2n1"));
    assert_eq!(host.devices.observed(), [first, second]);
    for bad in ["/dev/a/b", "/etc/passwd", "", "/dev/"] {
        let device = Device { device_name: bad.into(), ..host.volume("vol-0000000000000000f", 1 << 24) };
        assert!(matches!(host.devices.attach(&device), Err(DeviceError::Failed { errno: libc::EINVAL, .. })), "{bad}");
    }
}

#[test]
fn what_a_dead_node_left_is_found_by_its_file() {
    let Some(host) = Host::new() else { return };
    let volume = host.volume("vol-00000000000000010", 1 << 24);
    host.devices.attach(&volume).unwrap();
    // The node's /dev is gone; its next life finds the device, and so does the sweep.
    std::fs::remove_dir_all(host.dev("")).unwrap();
    std::fs::create_dir(host.dev("")).unwrap();
    assert!(host.devices.observed().is_empty());
    let loops = Loops::new(host.dev(""), 2000);
    let raised = loops.of_volume(&volume.volume_id, &host.dir.path().join("volumes")).unwrap();
    // Meanwhile the volume has grown.
    std::fs::File::options().write(true).open(&volume.file).unwrap().set_len(1 << 25).unwrap();
    let volume = Device { size_bytes: 1 << 25, ..volume };
    host.devices.attach(&volume).unwrap();
    assert_eq!(size(&host.dev("nvme1n1")), 1 << 25);
    assert_eq!(loops.of_volume(&volume.volume_id, &host.dir.path().join("volumes")).unwrap(), raised);
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(remove_all_under(elsewhere.path()), (vec![], vec![]), "devices over other files are not ours");
    assert!(is_bound(raised.number));
    assert_eq!(remove_all_under(&host.dir.path().join("volumes")), (vec![volume.volume_id.clone()], vec![]));
    assert!(!is_bound(raised.number) && !Path::new(&format!("/sys/block/loop{}", raised.number)).exists());
}
