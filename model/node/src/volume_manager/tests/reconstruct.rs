//! What a kubelet makes of what it finds at its start.

use super::*;

#[test]
fn a_reconstructed_device_stays_uncertain_after_a_final_error() {
    let mut bench = Bench::new();
    bench.machine = VolumeManager::new(config());
    let data = VolData { spec_vol_id: "pv".into(), volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    bench.feed(Input::Booted(vec![Found::of_pod("a", "pv", false, Some(data))]));
    bench.failing = Some(("stage", rpc(Code::Internal)));
    bench.feed(Input::NodeAttached(BTreeSet::from([spec().name])));
    bench.feed(Input::Want(want("a")));
    bench.feed(Input::SourcesReady);
    assert_eq!(bench.device(), Some(Device::Uncertain));
    bench.fire_all();
    assert!(bench.machine.unmounted("a").is_empty() && bench.machine.settled());
}

#[test]
fn mounts_of_pods_that_are_gone_are_undone_after_a_restart() {
    let mut bench = Bench::new();
    bench.machine = VolumeManager::new(config());
    let data = VolData { spec_vol_id: "pv".into(), volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    bench.took();
    bench.feed(Input::Booted(vec![Found::of_pod("old", "pv", false, Some(data))]));
    assert_eq!(bench.took(), "read-node", "nothing is unmounted before all pods are known");
    bench.feed(Input::SourcesReady);
    let took = bench.took().replace("report 1 ", "");
    assert!(took.starts_with("read-data sub-paths unpublish remove refs"), "{took}");
    assert!(bench.machine.settled());
}

/// kubernetes#121937 and what mends it, kubernetes#138454.
#[test]
fn what_is_staged_without_a_pod_is_found_with_the_change_that_is_proposed() {
    let data = VolData { volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    let dir = config().layout.staging_dir("d", "vol-1");
    let place = dir.strip_prefix(&config().layout.plugins()).unwrap().trim_start_matches('/');
    let elsewhere = place.replace('d', "e");
    let block = VolData { spec_vol_id: "pv".into(), ..data.clone() };
    let undone = "read-node refs read-data capabilities unstage remove report 0";
    let undone_block = undone.replace("remove", "remove-paths");
    for (fixes, found, took) in [
        (Fixes::default(), Found::staged(place, false, data.clone()), "report 0"),
        (Fixes::all(), Found::staged(place, false, data.clone()), undone),
        (Fixes::all(), Found::staged(&*elsewhere, false, data.clone()), "report 0"),
        (Fixes::all(), Found::staged(place, false, VolData::default()), "report 0"),
        (Fixes::all(), Found::staged("pv", true, block.clone()), &undone_block),
        (Fixes::all(), Found::staged("pv", true, data.clone()), "report 0"),
    ] {
        let mut bench = Bench::new();
        bench.machine = VolumeManager::new(Config { fixes, ..config() });
        bench.took();
        bench.feed(Input::Booted(vec![found.clone()]));
        bench.feed(Input::SourcesReady);
        assert_eq!(bench.took().replace("report 1 ", ""), took, "{found:?}");
        assert!(bench.machine.settled());
    }
}

#[test]
fn what_is_staged_and_wanted_again_is_staged_again_and_not_undone() {
    let mut bench = Bench::new();
    bench.machine = VolumeManager::new(Config { fixes: Fixes::all(), ..config() });
    let dir = config().layout.staging_dir("d", "vol-1");
    let data = VolData { volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    bench.took();
    bench.feed(Input::Booted(vec![Found::staged(dir.trim_start_matches("/k/plugins/kubernetes.io/csi/"), false, data)]));
    bench.feed(Input::Want(want("a")));
    bench.feed(Input::SourcesReady);
    let took = bench.took();
    assert!(took.contains("stage") && !took.contains("unstage"), "{took}");
    assert!(bench.machine.unmounted("a").is_empty() && bench.machine.settled());
}

/// kubernetes#101791: the pod's vol_data.json is lost. With kubernetes#138454 that of the staging directory counts, if it is the volume's.
#[test]
fn a_lost_vol_data_is_found_where_the_volume_is_staged() {
    let data = |pv: &str| VolData { spec_vol_id: pv.into(), volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    for (fixes, bound, undone) in [
        (Fixes::default(), Some(data("pv")), false),
        (Fixes::all(), None, false),
        (Fixes::all(), Some(data("other")), false),
        (Fixes::all(), Some(data("pv")), true),
        (Fixes::all(), Some(data("")), true),
    ] {
        let mut bench = Bench::new();
        bench.machine = VolumeManager::new(Config { fixes, ..config() });
        bench.data = Some(BTreeSet::from([config().layout.staging_dir("d", "vol-1")]));
        bench.bound.clone_from(&bound);
        bench.took();
        bench.feed(Input::Booted(vec![Found { bound, ..Found::of_pod("a", "pv", false, None) }]));
        bench.feed(Input::SourcesReady);
        let took = bench.took().replace("report 1 ", "");
        assert_eq!(took.contains("read-data find-data sub-paths unpublish remove refs read-data"), undone, "{took}");
        assert_eq!(took.contains("unstage"), undone, "{took}");
    }
}
