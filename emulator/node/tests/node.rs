//! A node in namespaces of its own, without a Kubernetes API or an AWS side. Needs root; says so and passes without.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emulator_common::csi::{connect, node_call};
use emulator_common::places::Places;
use emulator_node::config::inside;
use emulator_node::{NodeConfig, NodeError, exec, find, spawn, stop};
use model_common::csi::{Access, AccessMode, Code, NodeCall, NodeReply, VolumeCapability};

/// The example that `spawn` executes; `cargo test` builds it beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().and_then(Path::parent).unwrap().join("examples/node")
}

/// A data directory with one node, which is gone when the test ends.
struct Data {
    dir: tempfile::TempDir,
    config: NodeConfig,
}

impl Data {
    fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            name: name.into(),
            instance_id: "i-0123456789abcdef0".into(),
            region: "us-east-1".into(),
            zone: "us-east-1a".into(),
            instance_type: "m5.large".into(),
            internal_ip: "10.0.1.10".into(),
            labels: Default::default(),
            // Nobody listens there: the agent tries for ever.
            aws_endpoint: "http://127.0.0.1:1".into(),
            kubeconfig: None,
            metadata: None,
            data: dir.path().into(),
            drivers_off: Default::default(),
            first_loop: 3000,
            efs_socket: emulator_node::config::inside::EFS_SOCKET.into(),
            efs_utils: None,
            journal: false,
        };
        Some(Self { dir, config })
    }

    fn places(&self) -> Places {
        Places::new(self.dir.path())
    }

    fn exec(&self, script: &str) -> i32 {
        let argv: Vec<OsString> = ["sh", "-c", script].iter().map(OsString::from).collect();
        exec(&self.places(), &self.config.name, &argv).unwrap().code().unwrap()
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        stop(&self.places(), &self.config.name, Duration::ZERO);
        let _ = std::fs::remove_dir_all(self.places().run());
    }
}

fn host_mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn a_node_has_its_own_world_and_leaves_the_host_alone() {
    let Some(data) = Data::new("ebbtide-test-a") else { return };
    let mounts = host_mounts();
    let node = spawn(&data.config, &program()).unwrap();
    assert!(!node.adopted && find(&data.places(), "ebbtide-test-a") == Some(node.process));
    assert_eq!(host_mounts(), mounts, "nothing is mounted on the host");

    for (what, script) in [
        ("its processes", "[ $(ls -d /proc/[0-9]* | wc -l) -lt 10 ] && grep -q node /proc/1/cmdline"),
        ("its name", "[ $(hostname) = ebbtide-test-a ]"),
        ("its devices", "[ -c /dev/fuse ] && [ -c /dev/null ] && echo x > /dev/null && [ ! -e /dev/vda ] && [ -d /dev/disk/by-id ]"),
        ("a terminal", "[ -e /dev/ptmx ] && mount | grep -q 'devpts on /dev/pts'"),
        ("mount.efs", "[ -x /sbin/mount.efs ] && [ -x /sbin/mkfs.ext4 ]"),
        ("its kubelet directory", "echo here > /var/lib/kubelet/mark"),
        ("shared mounts", "grep ' /var/lib/kubelet ' /proc/self/mountinfo | grep -q shared:"),
    ] {
        assert_eq!(data.exec(script), 0, "{what}");
    }
    let kubelet = data.places().node("ebbtide-test-a").join("kubelet");
    assert_eq!(std::fs::read_to_string(kubelet.join("mark")).unwrap(), "here\n");
    assert_eq!(data.exec("exit 7"), 7);

    // Orphans are reaped by the node's first process.
    assert_eq!(data.exec("(sleep 0.01 &) ; sleep 0.2; ! grep -l '^State:.Z' /proc/[0-9]*/status"), 0);

    let again = spawn(&data.config, &program()).unwrap();
    assert!(again.adopted && again.process == node.process, "a node that runs is adopted");
    let changed = NodeConfig { instance_type: "m5.xlarge".into(), ..data.config.clone() };
    let restarted = spawn(&changed, &program()).unwrap();
    assert!(!restarted.adopted && !node.is_alive(), "another configuration is another node");
    assert!(stop(&data.places(), "ebbtide-test-a", Duration::from_secs(10)));
    assert!(!restarted.is_alive() && find(&data.places(), "ebbtide-test-a").is_none());
    let gone = exec(&data.places(), "ebbtide-test-a", &["true".into()]).unwrap_err();
    assert!(matches!(gone, NodeError::NotRunning(_)));
}

#[test]
fn a_crash_takes_everything_in_the_node_with_it() {
    let Some(data) = Data::new("ebbtide-test-b") else { return };
    let node = spawn(&data.config, &program()).unwrap();
    let target = inside::KUBELET;
    assert_eq!(data.exec(&format!("mkdir {target}/m && mount -t tmpfs t {target}/m && (sleep 1000 &) ; true")), 0);
    node.kill();
    while node.is_alive() {
        std::thread::yield_now();
    }
    assert!(!host_mounts().contains(&data.dir.path().display().to_string()));
    let reborn = spawn(&data.config, &program()).unwrap();
    assert_ne!(reborn.process, node.process);
    assert_eq!(data.exec(&format!("[ -d {target}/m ] && ! mount | grep -q {target}/m")), 0, "files stay, mounts do not");
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let Some(data) = Data::new("ebbtide-test-c") else { return };
    let error = spawn(&data.config, Path::new("/nonexistent/ebbtide")).unwrap_err();
    assert!(error.to_string().contains("cannot execute ebbtide"), "{error}");
    let _first = spawn(&data.config, &program()).unwrap();
    // The record is lost: the lock still keeps a second one from running.
    std::fs::remove_file(data.places().node("ebbtide-test-c").join("process.json")).unwrap();
    let error = spawn(&data.config, &program()).unwrap_err();
    assert!(error.to_string().contains("runs already"), "{error}");
    // The first must go all the same.
    drop(error);
    _first.kill();
    while _first.is_alive() {
        std::thread::yield_now();
    }
}

/// The node plugin, over gRPC, with a file system on a file instead of an EBS volume: everything but the device.
#[tokio::test]
async fn the_ebs_plugin_answers_as_the_real_one() {
    let Some(data) = Data::new("ebbtide-test-d") else { return };
    spawn(&data.config, &program()).unwrap();
    let socket = data.places().node("ebbtide-test-d").join("kubelet/plugins/ebs.csi.aws.com/csi.sock");
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let channel = connect(&socket);
    let ask = |call| {
        let channel = channel.clone();
        async move { node_call(&channel, call, Duration::from_secs(10)).await }
    };
    let Ok(NodeReply::NodeGetInfo { node_id, max_volumes_per_node, accessible_topology }) = ask(NodeCall::NodeGetInfo).await else {
        panic!()
    };
    assert_eq!((node_id.as_str(), max_volumes_per_node), ("i-0123456789abcdef0", 26));
    assert_eq!(accessible_topology.unwrap()["topology.ebs.csi.aws.com/zone"], "us-east-1a");
    let access = Access::Mount { fs_type: "ext4".into(), mount_flags: Vec::new(), volume_mount_group: String::new() };
    let missing = ask(NodeCall::NodeStageVolume {
        volume_id: "vol-ac31db34b1d3ab713".into(),
        publish_context: [("devicePath".to_owned(), "/dev/xvdaa".to_owned())].into(),
        staging_target_path: "/var/lib/kubelet/staging".into(),
        capability: VolumeCapability { access, mode: AccessMode::SingleNodeWriter },
        volume_context: Default::default(),
    });
    // The text measured with the real driver (real-drivers.md §2).
    let error = missing.await.unwrap_err();
    let text = "Failed to find device path /dev/xvdaa. no device path for device \"/dev/xvdaa\" volume \"vol-ac31db34b1d3ab713\" found";
    assert_eq!((error.code, error.message.as_str()), (Code::NotFound, text));
}
