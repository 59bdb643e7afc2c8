//! The EFS driver against an EFS of a few lines.

use model_common::csi::*;

use super::*;
use crate::driver::cloud::{AccessPoint, CloudCall, CloudReply, FileSystem};

mod any;

const FS: &str = "fs-0123456789abcdef0";

#[derive(Debug, Default)]
struct Cloud {
    points: Vec<AccessPoint>,
    /// Tags and permissions of the last one made.
    last: Option<(usize, String)>,
    page: usize,
    /// How many were made: an id is never used again.
    made: usize,
}

impl Cloud {
    fn answer(&mut self, call: &CloudCall) -> Result<CloudReply, cloud::CloudError> {
        match call {
            CloudCall::DescribeAccessPoints { file_system_id, .. } if file_system_id != FS => {
                Err(call.error(404, "r", "FileSystemNotFound", "no"))
            }
            CloudCall::DescribeAccessPoints { next_token, .. } => {
                let from = next_token.as_ref().map_or(0, |token| token.parse().unwrap()).min(self.points.len());
                let to = if self.page == 0 { self.points.len() } else { (from + self.page).min(self.points.len()) };
                let access_points = self.points[from..to].to_vec();
                Ok(CloudReply::AccessPoints { access_points, next_token: (to < self.points.len()).then(|| to.to_string()) })
            }
            CloudCall::CreateAccessPoint(new) => {
                if self.points.iter().any(|point| point.client_token == new.client_token) {
                    return Err(call.error(409, "r", "AccessPointAlreadyExists", "no"));
                }
                self.made += 1;
                let point = AccessPoint {
                    access_point_id: format!("fsap-{:017x}", self.made),
                    file_system_id: FS.into(),
                    client_token: new.client_token.clone(),
                    path: new.path.clone(),
                    posix_user: Some((new.uid, new.gid)),
                };
                self.last = Some((new.tags.len(), new.permissions.clone()));
                self.points.push(point.clone());
                Ok(CloudReply::AccessPoint(point))
            }
            CloudCall::DeleteAccessPoint { access_point_id } => {
                let before = self.points.len();
                self.points.retain(|point| point.access_point_id != *access_point_id);
                if self.points.len() == before { Err(call.error(404, "r", "AccessPointNotFound", "no")) } else { Ok(CloudReply::Done) }
            }
            CloudCall::DescribeFileSystems { .. } => {
                Ok(CloudReply::FileSystems(vec![FileSystem { file_system_id: FS.into(), availability_zone: Some("us-east-1a".into()) }]))
            }
            other => panic!("{other:?}"),
        }
    }
}

use crate::driver::cloud;

fn create(name: &str, parameters: &[(&str, &str)]) -> ControllerCall {
    let access = Access::Mount { fs_type: String::new(), mount_flags: Vec::new(), volume_mount_group: String::new() };
    let base = [("provisioningMode", "efs-ap"), ("fileSystemId", FS), ("directoryPerms", "700")];
    ControllerCall::CreateVolume {
        name: name.into(),
        capacity: CapacityRange { required_bytes: 5 << 30, limit_bytes: 0 },
        capabilities: vec![VolumeCapability { access, mode: AccessMode::MultiNodeMultiWriter }],
        parameters: base.iter().chain(parameters).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        mutable_parameters: BTreeMap::new(),
        content_source: None,
        topology: None,
    }
}

fn run(driver: &mut Efs, cloud: &mut Cloud, id: CallId, request: ControllerCall) -> Result<ControllerReply, Error> {
    let mut input = Input::Call { id, request };
    loop {
        let mut out = Vec::new();
        driver.step(&input, &mut out).unwrap();
        input = match out.pop() {
            Some(Effect::Cloud { id, call }) => Input::Cloud { id, result: cloud.answer(&call) },
            Some(Effect::Arm(timer, _)) => Input::Fired(timer),
            Some(Effect::Reply { result, .. }) => return result,
            other => panic!("{other:?}"),
        };
    }
}

fn volume(reply: Result<ControllerReply, Error>) -> Volume {
    match reply {
        Ok(ControllerReply::CreateVolume(volume)) => volume,
        other => panic!("{other:?}"),
    }
}

/// What real-drivers.md and efs.md §1.5 saw.
#[test]
fn a_volume_is_an_access_point_with_the_lowest_free_gid() {
    let (mut driver, mut cloud) = (Efs::default(), Cloud { page: 1, ..Cloud::default() });
    let first = volume(run(&mut driver, &mut cloud, 1, create("pvc-1", &[])));
    assert_eq!(first.volume_id, format!("efs:{FS}::fsap-00000000000000001"));
    assert_eq!((first.capacity_bytes, &first.accessible_topology), (5 << 30, &Vec::new()));
    assert_eq!((cloud.points[0].path.as_str(), cloud.points[0].posix_user), ("/pvc-1", Some((50_000, 50_000))));
    assert_eq!(cloud.last, Some((1, "700".to_owned())));
    volume(run(&mut driver, &mut cloud, 2, create("pvc-2", &[])));
    assert_eq!(cloud.points[1].posix_user, Some((50_001, 50_001)));
    // Again: the token is taken, and its access point is ours.
    let again = volume(run(&mut driver, &mut cloud, 3, create("pvc-1", &[])));
    assert_eq!((again.volume_id, cloud.points.len()), (first.volume_id.clone(), 2));
    for call in [4, 5] {
        let deleted = run(&mut driver, &mut cloud, call, ControllerCall::DeleteVolume { volume_id: first.volume_id.clone() });
        assert_eq!(deleted, Ok(ControllerReply::DeleteVolume));
    }
    assert_eq!(cloud.points.len(), 1);
}

#[test]
fn parameters_shape_the_access_point() {
    for (parameters, path, user) in [
        (&[("basePath", "/dyn")][..], "/dyn/p", (50_000, 50_000)),
        (&[("basePath", "dyn/"), ("uid", "7"), ("gid", "8")], "/dyn/p", (7, 8)),
        (&[("gidRangeStart", "1000"), ("gidRangeEnd", "2000")], "/p", (1000, 1000)),
        (
            &[
                ("subPathPattern", "${.PVC.namespace}/${.PVC.name}"),
                ("ensureUniqueDirectory", "false"),
                ("csi.storage.k8s.io/pvc/name", "c"),
                ("csi.storage.k8s.io/pvc/namespace", "n"),
            ],
            "/n/c",
            (50_000, 50_000),
        ),
    ] {
        let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
        volume(run(&mut driver, &mut cloud, 1, create("p", parameters)));
        assert_eq!((cloud.points[0].path.as_str(), cloud.points[0].posix_user), (path, Some(user)), "{parameters:?}");
    }
    let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
    volume(run(&mut driver, &mut cloud, 1, create("p", &[("subPathPattern", "x")])));
    let unique = cloud.points[0].path.strip_prefix("/x-").unwrap();
    assert_eq!((unique.len(), unique.matches('-').count(), &unique[14..15]), (36, 4, "4"), "{unique}");
    let zoned = volume(run(&mut driver, &mut cloud, 2, create("q", &[("enforceZoneAffinity", "true")])));
    assert_eq!(zoned.accessible_topology, [BTreeMap::from([("topology.kubernetes.io/zone".into(), "us-east-1a".into())])]);
}

#[test]
fn wrong_parameters_are_told_in_the_real_drivers_words() {
    for (parameters, text) in [
        (&[("provisioningMode", "efs-dir")][..], "Provisioning mode efs-dir is not supported. Only Access point provisioning"),
        (&[("uid", "-1")], "uid must be greater or equal than 0"),
        (&[("gid", "x")], "Failed to parse invalid gid: strconv.ParseInt: parsing \"x\": invalid syntax"),
        (&[("gidRangeStart", "5")], "Missing gidRangeEnd parameter"),
        (&[("gidRangeStart", "5"), ("gidRangeEnd", "5")], "gidRangeEnd must be greater than gidRangeStart"),
        (&[("reuseAccessPoint", "maybe")], "Invalid value for reuseAccessPoint parameter"),
        (&[("subPathPattern", "${.PVC.uid}")], "contains invalid elements. Can only contain [.PV.name .PVC.name .PVC.namespace]"),
        (&[("basePath", "/a/b/c/d/e")], "file system limit of 4 subdirectories"),
        (&[("fileSystemId", "fs-00000000")], "File System does not exist: Resource was not found"),
    ] {
        let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
        let error = run(&mut driver, &mut cloud, 1, create("p", parameters)).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.message.contains(text), "{error}");
    }
}

#[test]
fn a_reused_access_point_must_fit() {
    let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
    let reuse = |extra: &[(&'static str, &'static str)]| {
        let mut parameters = vec![("reuseAccessPoint", "true"), ("csi.storage.k8s.io/pvc/name", "claim")];
        parameters.extend(extra);
        parameters
    };
    let first = volume(run(&mut driver, &mut cloud, 1, create("pvc-1", &reuse(&[]))));
    let second = volume(run(&mut driver, &mut cloud, 2, create("pvc-2", &reuse(&[]))));
    assert_eq!(first.volume_id, second.volume_id);
    let error = run(&mut driver, &mut cloud, 3, create("pvc-3", &reuse(&[("gid", "9")]))).unwrap_err();
    assert_eq!(error.code, Code::AlreadyExists);
    assert_eq!(error.message, "Invalid existing access point: Access point found but its GID is incorrect");
}

/// The real driver's race (efs.md §0, 6a): both read the list before either has made its access point.
#[test]
fn two_volumes_made_at_once_may_share_a_gid() {
    let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
    let mut out = Vec::new();
    for id in [1, 2] {
        driver.step(&Input::Call { id, request: create(&format!("pvc-{id}"), &[]) }, &mut out).unwrap();
    }
    while !out.is_empty() {
        if let Effect::Cloud { id, call } = out.remove(0) {
            let result = cloud.answer(&call);
            driver.step(&Input::Cloud { id, result }, &mut out).unwrap();
        }
    }
    assert_eq!(cloud.points[0].posix_user, cloud.points[1].posix_user);
    assert_eq!(driver.active().count(), 0);
}

#[test]
fn what_the_driver_cannot_is_unimplemented() {
    let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
    let unpublish = ControllerCall::ControllerUnpublishVolume { volume_id: "x".into(), node_id: "i".into() };
    assert_eq!(run(&mut driver, &mut cloud, 1, unpublish).unwrap_err().code, Code::Unimplemented);
    let gone = ControllerCall::DeleteVolume { volume_id: "nonsense".into() };
    assert_eq!(run(&mut driver, &mut cloud, 2, gone), Ok(ControllerReply::DeleteVolume));
}

/// What csi-sanity asks beyond the real driver, which forgets the capacity and passes EFS's refusal of long tokens on.
#[test]
fn a_name_keeps_its_capacity_and_may_be_long() {
    let (mut driver, mut cloud) = (Efs::default(), Cloud::default());
    let name = "n".repeat(128);
    let sized = |bytes: u64| {
        let mut call = create(&name, &[("subPathPattern", "/foo")]);
        if let ControllerCall::CreateVolume { capacity, .. } = &mut call {
            capacity.required_bytes = bytes;
        }
        call
    };
    let first = volume(run(&mut driver, &mut cloud, 1, sized(1 << 30)));
    assert_eq!(cloud.points[0].client_token.len(), 64);
    assert_eq!(volume(run(&mut driver, &mut cloud, 2, sized(1 << 30))).volume_id, first.volume_id);
    assert_eq!(run(&mut driver, &mut cloud, 3, sized(2 << 30)).unwrap_err().code, Code::AlreadyExists);
    // A deleted volume's name is free again, and nothing of it is kept.
    run(&mut driver, &mut cloud, 4, ControllerCall::DeleteVolume { volume_id: first.volume_id }).unwrap();
    assert!(driver.shared.sizes.is_empty());
    volume(run(&mut driver, &mut cloud, 5, sized(2 << 30)));
}
