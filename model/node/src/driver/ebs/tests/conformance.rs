//! Where CSI is stricter than the real driver: csi-sanity holds the built-in one to it.

use super::*;
use crate::driver::cloud::{CloudError, Snapshot as Ec2Snapshot, SnapshotQuery};

fn not_found(code: &'static str, operation: &'static str) -> Ec2 {
    Ec2 { fail: Some((operation, code, "does not exist")), ..Ec2::default() }
}

#[test]
fn unknown_ids_are_not_found() {
    let validate = ControllerCall::ValidateVolumeCapabilities {
        volume_id: "vol-x".into(),
        volume_context: BTreeMap::new(),
        capabilities: vec![file_system()],
    };
    let modify = ControllerCall::ControllerModifyVolume {
        volume_id: "vol-x".into(),
        mutable_parameters: [("iops".to_owned(), "4000".to_owned())].into(),
    };
    for request in [validate, modify] {
        let mut ec2 = not_found("InvalidVolume.NotFound", "DescribeVolumes");
        let error = run(&mut Ebs::default(), &mut ec2, 1, request.clone()).unwrap_err();
        assert_eq!(error.code, Code::NotFound, "{error}");
        // Another failure of the same question is not that.
        let mut ec2 = not_found("UnauthorizedOperation", "DescribeVolumes");
        let error = run(&mut Ebs::default(), &mut ec2, 1, request).unwrap_err();
        assert_eq!(error.code, Code::Internal, "{error}");
    }
}

fn list(snapshot_id: &str, max_entries: u32, starting_token: &str) -> ControllerCall {
    ControllerCall::ListSnapshots {
        snapshot_id: snapshot_id.into(),
        source_volume_id: String::new(),
        max_entries,
        starting_token: starting_token.into(),
    }
}

#[test]
fn a_snapshot_that_is_not_there_is_an_empty_list() {
    let mut ec2 = not_found("InvalidSnapshot.NotFound", "DescribeSnapshots");
    let listed = run(&mut Ebs::default(), &mut ec2, 1, list("snap-x", 0, ""));
    assert_eq!(listed, Ok(ControllerReply::ListSnapshots { entries: Vec::new(), next_token: String::new() }));
    let mut ec2 = not_found("UnauthorizedOperation", "DescribeSnapshots");
    assert_eq!(run(&mut Ebs::default(), &mut ec2, 1, list("snap-x", 0, "")).unwrap_err().code, Code::Internal);
}

/// Pages of `count` snapshots, as EC2 gives them.
fn pages(count: usize, call: &CloudCall) -> Result<CloudReply, CloudError> {
    let CloudCall::DescribeSnapshots(SnapshotQuery::List { max_results, next_token, .. }) = call else { panic!("{call:?}") };
    let most = usize::try_from(*max_results).unwrap();
    assert!(most == 0 || most >= 5, "EC2 refuses MaxResults={most}");
    let from = next_token.as_ref().map_or(0, |token| token.strip_prefix("ec2:").unwrap().parse().unwrap());
    let to = if most == 0 { count } else { (from + most).min(count) };
    let snapshots = (from..to)
        .map(|n| Ec2Snapshot {
            snapshot_id: format!("snap-{n}"),
            volume_id: "vol-x".into(),
            state: "completed".into(),
            size_gib: 1,
            start_time_ms: 0,
        })
        .collect();
    Ok(CloudReply::Snapshots { snapshots, next_token: (to < count).then(|| format!("ec2:{to}")) })
}

proptest! {
    /// Whatever the sizes of the pages that are asked for, each snapshot is listed once, in order, and no page is too long.
    #[test]
    fn pages_of_any_size_hold_each_snapshot_once(count in 0..23_usize, sizes in proptest::collection::vec(1..9_u32, 1..5)) {
        let (mut token, mut seen) = (String::new(), Vec::new());
        for (call, size) in sizes.iter().cycle().enumerate() {
            let (mut driver, mut out) = (Ebs::default(), Vec::new());
            let id = call as CallId;
            driver.step(&Input::Call { id, request: list("", *size, &token) }, &mut out).unwrap();
            let Some(Effect::Cloud { call, .. }) = out.pop() else { panic!("it asks EC2") };
            driver.step(&Input::Cloud { id, result: pages(count, &call) }, &mut out).unwrap();
            let Some(Effect::Reply { result: Ok(ControllerReply::ListSnapshots { entries, next_token }), .. }) = out.pop() else {
                panic!("it answers")
            };
            prop_assert!(entries.len() <= *size as usize && (count == 0 || !entries.is_empty()));
            seen.extend(entries.into_iter().map(|entry| entry.snapshot_id));
            token = next_token;
            if token.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, (0..count).map(|n| format!("snap-{n}")).collect::<Vec<_>>());
    }
}
