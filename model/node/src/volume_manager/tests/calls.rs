//! What the calls of a mount say: paths, `vol_data.json`, capabilities, groups (kubernetes-storage-path.md §3.5, §3.7, §3.10).

use model_common::csi::Access;

use super::*;

/// `printf vol-1 | sha256sum`
const HANDLE: &str = "d2e8363faaac7ae76def3b14091d8eb5755f6b92e9531627aeec833a8731cc49";

fn mounted(capabilities: &[NodeCapability], want: PodWant) -> Bench {
    let mut bench = Bench { capabilities: capabilities.to_vec(), ..Bench::new() };
    bench.feed(Input::Want(want));
    bench
}

fn calls(bench: &Bench) -> Vec<NodeCall> {
    let of = |action: &Action| match action {
        Action::Csi { driver, call } => {
            assert_eq!(driver, "d");
            (*call != NodeCall::NodeGetCapabilities).then(|| call.clone())
        }
        _ => None,
    };
    bench.actions.iter().filter_map(of).collect()
}

fn dirs(bench: &Bench) -> Vec<(String, Option<(String, VolData)>)> {
    let of = |action: &Action| match action {
        Action::MakeDir { dir, data } => Some((dir.clone(), data.clone())),
        _ => None,
    };
    bench.actions.iter().filter_map(of).collect()
}

fn data(mode: &str) -> VolData {
    VolData {
        spec_vol_id: "pv".into(),
        volume_handle: "vol-1".into(),
        driver_name: "d".into(),
        node_name: "n1".into(),
        volume_lifecycle_mode: mode.into(),
        attachment_id: attachment_name("vol-1", "d", "n1"),
    }
}

fn file_system() -> csi::VolumeCapability {
    let access = Access::Mount { fs_type: "ext4".into(), mount_flags: vec!["noatime".into()], volume_mount_group: String::new() };
    csi::VolumeCapability { access, mode: csi::AccessMode::SingleNodeWriter }
}

fn asking() -> VolumeSpec {
    VolumeSpec { mount_options: vec!["noatime".into()], attributes: [("k".to_owned(), "v".to_owned())].into(), ..spec() }
}

#[test]
fn a_file_system_is_staged_for_the_node_and_published_for_the_pod() {
    let bench = mounted(&[NodeCapability::StageUnstageVolume], want_with("a", asking()));
    let staging = format!("/k/plugins/kubernetes.io/csi/d/{HANDLE}");
    let pod = "/k/pods/a/volumes/kubernetes.io~csi/pv".to_owned();
    let of_staging = VolData { volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    assert_eq!(
        dirs(&bench),
        [(format!("{staging}/globalmount"), Some((staging.clone(), of_staging))), (pod.clone(), Some((pod.clone(), data("Persistent")))),]
    );
    let context = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let stage = NodeCall::NodeStageVolume {
        volume_id: "vol-1".into(),
        publish_context: BTreeMap::new(),
        staging_target_path: format!("{staging}/globalmount"),
        capability: file_system(),
        volume_context: context.clone(),
    };
    let publish = NodeCall::NodePublishVolume {
        volume_id: "vol-1".into(),
        publish_context: BTreeMap::new(),
        staging_target_path: format!("{staging}/globalmount"),
        target_path: format!("{pod}/mount"),
        capability: file_system(),
        readonly: false,
        volume_context: context,
    };
    assert_eq!(calls(&bench), [stage, publish]);
}

#[test]
fn without_stage_the_directory_is_made_and_the_pod_alone_is_served() {
    let bench = mounted(&[], want_with("a", asking()));
    assert_eq!(dirs(&bench)[0], (format!("/k/plugins/kubernetes.io/csi/d/{HANDLE}/globalmount"), None));
    let [NodeCall::NodePublishVolume { staging_target_path, .. }] = &calls(&bench)[..] else { panic!("{:?}", bench.calls) };
    assert_eq!(staging_target_path, "");
}

#[test]
fn a_block_device_has_paths_of_its_own() {
    let bench = mounted(&[NodeCapability::StageUnstageVolume], want_with("a", VolumeSpec { block: true, ..asking() }));
    let devices = "/k/plugins/kubernetes.io/csi/volumeDevices";
    assert_eq!(
        dirs(&bench),
        [
            (format!("{devices}/staging/pv"), Some((format!("{devices}/pv/data"), data("")))),
            (format!("{devices}/publish/pv/"), Some((format!("{devices}/pv/data"), data("Persistent")))),
        ]
    );
    let made = calls(&bench);
    let [NodeCall::NodeStageVolume { capability, .. }, NodeCall::NodePublishVolume { staging_target_path, target_path, .. }] = &made[..]
    else {
        panic!("{made:?}")
    };
    assert_eq!(capability.access, Access::Block);
    assert_eq!((staging_target_path, target_path), (&format!("{devices}/staging/pv"), &format!("{devices}/publish/pv/a")));
    let map = Action::MapDevice {
        publish: format!("{devices}/publish/pv/a"),
        map: format!("{devices}/pv/dev/a"),
        link: "/k/pods/a/volumeDevices/kubernetes.io~csi/pv".into(),
    };
    assert_eq!(bench.actions.last(), Some(&map));
}

#[test]
fn a_driver_that_asks_for_it_hears_of_the_pod() {
    let bench = mounted(&[], want_with("a", VolumeSpec { pod_info: true, ..asking() }));
    let made = calls(&bench);
    let [NodeCall::NodePublishVolume { volume_context, .. }] = &made[..] else { panic!("{made:?}") };
    let expected = [
        ("csi.storage.k8s.io/ephemeral", "false"),
        ("csi.storage.k8s.io/pod.name", "a"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/pod.uid", "a"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("k", "v"),
    ];
    assert_eq!(volume_context.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
}

/// Who gives the files of a volume to the pod's group.
fn group(capabilities: &[NodeCapability], change: &dyn Fn(&mut VolumeSpec, &mut PodVolume)) -> &'static str {
    let mut spec = VolumeSpec { fs_group_policy: FsGroupPolicy::File, ..asking() };
    let mut want = want("a");
    (want.volumes[0].fs_group, want.volumes[0].on_root_mismatch) = (Some(7), true);
    change(&mut spec, &mut want.volumes[0]);
    want.volumes[0].spec = Arc::new(spec);
    let bench = mounted(capabilities, want);
    assert!(bench.machine.unmounted("a").is_empty(), "{:?}", bench.calls);
    let by_driver = match &calls(&bench)[..] {
        [NodeCall::NodePublishVolume { capability, .. }] => match &capability.access {
            Access::Mount { volume_mount_group, .. } => volume_mount_group.clone(),
            Access::Block => String::new(),
        },
        other => panic!("{other:?}"),
    };
    let path = "/k/pods/a/volumes/kubernetes.io~csi/pv/mount".to_owned();
    let walk = Action::ApplyFsGroup { path, gid: 7, on_root_mismatch: true };
    let by_kubelet = bench.calls.iter().any(|call| call == "fs-group");
    assert_eq!(bench.actions.contains(&walk), by_kubelet);
    match (by_driver.as_str(), by_kubelet) {
        ("7", false) => "driver",
        ("", true) => "kubelet",
        ("", false) => "nobody",
        other => panic!("{other:?}"),
    }
}

/// `csi_mounter.go supportsFSGroup`.
#[test]
fn the_group_is_applied_by_the_driver_the_kubelet_or_nobody() {
    let applies = [NodeCapability::VolumeMountGroup];
    assert_eq!(group(&[], &|_, _| {}), "kubelet");
    assert_eq!(group(&applies, &|_, _| {}), "driver");
    assert_eq!(group(&[], &|_, volume| volume.fs_group = None), "nobody");
    assert_eq!(group(&applies, &|_, volume| volume.fs_group = None), "nobody");
    assert_eq!(group(&[], &|_, volume| volume.read_only = true), "nobody");
    assert_eq!(group(&[], &|spec, _| spec.block = true), "nobody");
    assert_eq!(group(&[], &|spec, _| spec.fs_group_policy = FsGroupPolicy::None), "nobody");
    let default = |fs_type: &'static str, mode: AccessMode| {
        move |spec: &mut VolumeSpec, _: &mut PodVolume| {
            spec.fs_group_policy = FsGroupPolicy::ReadWriteOnceWithFSType;
            (spec.fs_type, spec.access_modes) = (fs_type.to_owned(), vec![mode]);
        }
    };
    for (fs_type, mode, expected) in [
        ("ext4", AccessMode::ReadWriteOnce, "kubelet"),
        ("ext4", AccessMode::ReadWriteOncePod, "kubelet"),
        ("ext4", AccessMode::ReadWriteMany, "nobody"),
        ("ext4", AccessMode::ReadOnlyMany, "nobody"),
        ("", AccessMode::ReadWriteOnce, "nobody"),
    ] {
        assert_eq!(group(&[], &default(fs_type, mode)), expected, "{fs_type} {mode:?}");
    }
}

/// The texts of a driver that is not there, which users see in `kubectl describe pod`.
#[test]
fn a_driver_that_is_not_registered_is_told_by_step() {
    let why = "driver name d not found in the list of registered CSI drivers";
    for (block, call, step, client) in [
        (false, "capabilities", "MountVolume.MountDevice", "attacher.MountDevice failed to create newCsiDriverClient"),
        (true, "capabilities", "MapVolume.SetUpDevice", "blockMapper.SetUpDevice failed to get CSI client"),
        (false, "publish", "MountVolume.SetUp", "mounter.SetUpAt failed to get CSI client"),
        (true, "publish", "MapVolume.MapPodDevice", "blockMapper.MapPodDevice failed to get CSI client"),
    ] {
        let mut bench = Bench::new();
        bench.failing = Some((call, Failure::NotRegistered("d".into())));
        bench.feed(Input::Want(want_with("a", VolumeSpec { block, ..spec() })));
        let reason = if block { "FailedMapVolume" } else { "FailedMount" };
        assert_eq!(bench.events, [format!("{reason} {step} failed for volume \"pv\" : kubernetes.io/csi: {client}: {why}")]);
        assert!(!bench.calls.iter().any(|call| call.starts_with("remove")), "it is tried again: {:?}", bench.calls);
        bench.fire_all();
        assert!(bench.machine.unmounted("a").is_empty());
    }
}

/// Only a failed stage or publish leaves a directory to take away, and the one of a block device is another.
#[test]
fn what_a_final_error_takes_away() {
    for (block, call, removed) in [
        (false, "stage", Some("remove")),
        (true, "stage", Some("remove-paths")),
        (false, "publish", Some("remove")),
        (true, "publish", None),
        (false, "capabilities", None),
        (false, "mkdir", None),
    ] {
        let mut bench = Bench::new();
        bench.failing = Some((call, rpc(Code::Internal)));
        bench.feed(Input::Want(want_with("a", VolumeSpec { block, ..spec() })));
        let removal = bench.calls.iter().find(|call| call.starts_with("remove"));
        assert_eq!(removal.map(String::as_str), removed, "{block} {call}");
        bench.fire_all();
        assert!(bench.machine.unmounted("a").is_empty(), "{block} {call}");
    }
}
