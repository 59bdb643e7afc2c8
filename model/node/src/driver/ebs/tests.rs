//! The EBS driver against an EC2 of a few lines: what it asks, in which order, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use model_common::csi::*;
use proptest::prelude::*;

use super::*;
use crate::driver::cloud::{self, CloudCall, CloudReply, VolumeQuery};

mod conformance;

/// What the driver needs EC2 to be.
#[derive(Debug, Default, Clone)]
struct Ec2 {
    /// By client token.
    tokens: BTreeMap<String, String>,
    volumes: BTreeMap<String, cloud::Volume>,
    /// How many looks a new volume stays `creating`, and an attachment `attaching`.
    slow: u32,
    /// Asked so far.
    log: Vec<&'static str>,
    /// The next call of this name fails with this code and message.
    fail: Option<(&'static str, &'static str, &'static str)>,
    pending: BTreeMap<String, u32>,
}

impl Ec2 {
    fn answer(&mut self, call: &CloudCall) -> Result<CloudReply, cloud::CloudError> {
        let name = call.operation().1;
        self.log.push(name);
        if let Some((_, code, message)) = self.fail.take_if(|(of, _, _)| *of == name) {
            return Err(call.error(400, "r", code, message));
        }
        match call {
            CloudCall::CreateVolume(new) if new.dry_run => {
                Err(call.error(400, "r", "InvalidParameterValue", "Volume iops of 2147483647 is too high; maximum is 80000."))
            }
            CloudCall::CreateVolume(new) => {
                let token = new.client_token.clone().unwrap();
                let next = format!("vol-{:017x}", self.volumes.len() + 1);
                let id = self.tokens.entry(token).or_insert(next).clone();
                let fresh = cloud::Volume {
                    volume_id: id.clone(),
                    size_gib: new.size_gib,
                    state: "creating".into(),
                    availability_zone: new.availability_zone.clone().unwrap_or_default(),
                    volume_type: new.volume_type.clone(),
                    iops: new.iops.or(Some(3000)),
                    tags: new.tags.clone(),
                    ..cloud::Volume::default()
                };
                let volume = self.volumes.entry(id.clone()).or_insert(fresh).clone();
                if volume.size_gib != new.size_gib {
                    return Err(call.error(400, "r", "IdempotentParameterMismatch", "no"));
                }
                self.pending.entry(id).or_insert(self.slow);
                Ok(CloudReply::Volume(volume))
            }
            CloudCall::DescribeVolumes(VolumeQuery::Id(id)) => {
                let waiting = self.pending.entry(id.clone()).or_default();
                let done = *waiting == 0;
                *waiting = waiting.saturating_sub(1);
                let Some(volume) = self.volumes.get_mut(id) else {
                    return Err(call.error(400, "r", "InvalidVolume.NotFound", &format!("The volume '{id}' does not exist.")));
                };
                if done {
                    if volume.state == "creating" {
                        volume.state = "available".into();
                    }
                    volume.attachments.retain(|a| a.state != "detaching");
                    volume.attachments.iter_mut().for_each(|a| a.state = "attached".into());
                }
                Ok(CloudReply::Volumes(vec![volume.clone()]))
            }
            CloudCall::DescribeVolumes(VolumeQuery::Name(name)) => Ok(CloudReply::Volumes(
                self.volumes.values().filter(|volume| volume.tags.get("CSIVolumeName") == Some(name)).cloned().collect(),
            )),
            CloudCall::DeleteVolume { volume_id } => match self.volumes.remove(volume_id) {
                Some(_) => Ok(CloudReply::Done),
                None => Err(call.error(400, "r", "InvalidVolume.NotFound", "no")),
            },
            CloudCall::DescribeInstances { instance_id } => {
                let block_devices = self
                    .volumes
                    .values()
                    .flat_map(|volume| volume.attachments.iter().map(|a| (a, &volume.volume_id)))
                    .filter(|(a, _)| a.instance_id == *instance_id)
                    .map(|(a, id)| (a.device.clone(), id.clone()))
                    .collect();
                let root_device_name = "/dev/xvda".into();
                Ok(CloudReply::Instances(vec![cloud::Instance { instance_id: instance_id.clone(), root_device_name, block_devices }]))
            }
            CloudCall::AttachVolume { volume_id, instance_id, device } => {
                let used = self.volumes.values().flat_map(|volume| &volume.attachments);
                assert!(
                    !used.clone().any(|a| a.instance_id == *instance_id && a.device == *device),
                    "{device} was given twice in {instance_id}"
                );
                let Some(volume) = self.volumes.get_mut(volume_id) else {
                    return Err(call.error(400, "r", "InvalidVolume.NotFound", "no"));
                };
                if !volume.attachments.is_empty() {
                    return Err(call.error(400, "r", "VolumeInUse", &format!("{volume_id} is already attached to an instance")));
                }
                volume.attachments.push(cloud::Attachment {
                    instance_id: instance_id.clone(),
                    state: "attaching".into(),
                    device: device.clone(),
                    age_seconds: 0,
                });
                self.pending.insert(volume_id.clone(), self.slow);
                Ok(CloudReply::Done)
            }
            CloudCall::DetachVolume { volume_id, .. } => {
                let Some(volume) = self.volumes.get_mut(volume_id) else {
                    return Err(call.error(400, "r", "InvalidVolume.NotFound", "no"));
                };
                if volume.attachments.is_empty() {
                    return Err(call.error(400, "r", "IncorrectState", "available"));
                }
                volume.attachments[0].state = "detaching".into();
                self.pending.insert(volume_id.clone(), self.slow);
                Ok(CloudReply::Done)
            }
            CloudCall::DescribeVolumesModifications { .. } => Ok(CloudReply::Modification(None)),
            CloudCall::ModifyVolume(modify) => {
                let volume = self.volumes.get_mut(&modify.volume_id).unwrap();
                volume.size_gib = modify.size_gib.unwrap_or(volume.size_gib);
                volume.iops = modify.iops.or(volume.iops);
                Ok(CloudReply::Modification(Some("optimizing".into())))
            }
            CloudCall::DescribeAvailabilityZones => Ok(CloudReply::Zones(vec!["us-east-1a".into()])),
            CloudCall::DescribeSnapshots(_) => Ok(CloudReply::Snapshots { snapshots: Vec::new(), next_token: None }),
            other => Err(other.error(400, "r", "InvalidAction", "not in this test")),
        }
    }
}

fn capability(access: Access) -> VolumeCapability {
    VolumeCapability { access, mode: AccessMode::SingleNodeWriter }
}

fn file_system() -> VolumeCapability {
    capability(Access::Mount { fs_type: "ext4".into(), mount_flags: Vec::new(), volume_mount_group: String::new() })
}

fn create(name: &str, gib: u64, parameters: &[(&str, &str)]) -> ControllerCall {
    ControllerCall::CreateVolume {
        name: name.into(),
        capacity: CapacityRange { required_bytes: gib << 30, limit_bytes: 0 },
        capabilities: vec![file_system()],
        parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        mutable_parameters: BTreeMap::new(),
        content_source: None,
        topology: Some(TopologyRequirement {
            requisite: Vec::new(),
            preferred: vec![[("topology.ebs.csi.aws.com/zone".to_owned(), "us-east-1b".to_owned())].into()],
        }),
    }
}

fn publish(volume_id: &str, node_id: &str) -> ControllerCall {
    ControllerCall::ControllerPublishVolume {
        volume_id: volume_id.into(),
        node_id: node_id.into(),
        capability: file_system(),
        readonly: false,
        volume_context: BTreeMap::new(),
    }
}

/// Runs one call to its end; timers fire at once.
fn run(driver: &mut Ebs, ec2: &mut Ec2, id: CallId, request: ControllerCall) -> Result<ControllerReply, Error> {
    let mut todo = vec![Input::Call { id, request }];
    while let Some(input) = todo.pop() {
        let mut out = Vec::new();
        driver.step(&input, &mut out).unwrap();
        assert!(out.len() <= 1, "one effect in flight: {out:?}");
        for effect in out {
            match effect {
                Effect::Cloud { id, call } => todo.push(Input::Cloud { id, result: ec2.answer(&call) }),
                Effect::Arm(timer, _) => todo.push(Input::Fired(timer)),
                Effect::Disarm(_) => {}
                Effect::Reply { result, .. } => return result,
            }
        }
    }
    panic!("the call was never answered");
}

#[test]
fn a_volume_is_made_attached_grown_and_deleted() {
    let (mut driver, mut ec2) = (Ebs::default(), Ec2 { slow: 2, ..Ec2::default() });
    let parameters = [("type", "gp3"), ("csi.storage.k8s.io/pvc/name", "ebs-claim"), ("tagSpecification_1", "team=x-{{ .PVCName }}")];
    let made = run(&mut driver, &mut ec2, 1, create("pvc-1", 4, &parameters)).unwrap();
    let ControllerReply::CreateVolume(volume) = made else { panic!() };
    assert_eq!((volume.volume_id.as_str(), volume.capacity_bytes), ("vol-00000000000000001", 4 << 30));
    assert_eq!(volume.accessible_topology, [BTreeMap::from([("topology.kubernetes.io/zone".into(), "us-east-1b".into())])]);
    let tags = &ec2.volumes[&volume.volume_id].tags;
    assert_eq!(tags["kubernetes.io/created-for/pvc/name"], "ebs-claim");
    assert_eq!((tags["ebs.csi.aws.com/cluster"].as_str(), tags["team"].as_str()), ("true", "x-ebs-claim"));
    assert_eq!(ec2.log[..2], ["CreateVolume", "CreateVolume"], "the dry run, then the volume");
    assert_eq!(ec2.tokens.keys().next().unwrap().len(), 64);

    let published = run(&mut driver, &mut ec2, 2, publish(&volume.volume_id, "i-1")).unwrap();
    let context = BTreeMap::from([("devicePath".to_owned(), "/dev/xvdaa".to_owned())]);
    assert_eq!(published, ControllerReply::ControllerPublishVolume { publish_context: context.clone() });
    let again = run(&mut driver, &mut ec2, 3, publish(&volume.volume_id, "i-1")).unwrap();
    assert_eq!(again, ControllerReply::ControllerPublishVolume { publish_context: context });
    assert_eq!(ec2.log.iter().filter(|name| **name == "AttachVolume").count(), 1, "attached already: not attached again");

    let expand = ControllerCall::ControllerExpandVolume {
        volume_id: volume.volume_id.clone(),
        capacity: CapacityRange { required_bytes: (7 << 30) + 1, limit_bytes: 0 },
        capability: Some(file_system()),
    };
    let grown = run(&mut driver, &mut ec2, 4, expand).unwrap();
    assert_eq!(grown, ControllerReply::ControllerExpandVolume { capacity_bytes: 8 << 30, node_expansion_required: true });

    let unpublish = |id| ControllerCall::ControllerUnpublishVolume { volume_id: id, node_id: "i-1".into() };
    for call in [5, 6] {
        let off = run(&mut driver, &mut ec2, call, unpublish(volume.volume_id.clone()));
        assert_eq!(off, Ok(ControllerReply::ControllerUnpublishVolume));
    }
    for call in [7, 8] {
        let deleted = run(&mut driver, &mut ec2, call, ControllerCall::DeleteVolume { volume_id: volume.volume_id.clone() });
        assert_eq!(deleted, Ok(ControllerReply::DeleteVolume));
    }
    assert!(ec2.volumes.is_empty() && driver.active().count() == 0 && driver.shared.in_flight.is_empty());
}

/// (the failing EC2 call, its code and message, the request, what the driver answers)
#[test]
fn errors_become_the_codes_and_texts_of_the_real_driver() {
    let table: [(&'static str, &'static str, &'static str, ControllerCall, Code, &str); 9] = [
        ("CreateVolume", "InvalidParameterCombination", "no", create("p", 1, &[("type", "gp2")]), Code::Aborted, "Could not create volume"),
        ("DescribeVolumes", "InvalidVolume.NotFound", "gone", create("p", 1, &[]), Code::Aborted, "timed out waiting for volume to create"),
        ("DescribeInstances", "InvalidInstanceID.NotFound", "no", publish("vol-x", "i-1"), Code::NotFound, "Volume \"vol-x\" not found"),
        (
            "DescribeInstances",
            "Throttled",
            "no",
            publish("vol-x", "i-1"),
            Code::Internal,
            "error listing AWS instances: operation error EC2",
        ),
        ("AttachVolume", "AttachmentLimitExceeded", "27", publish("vol-x", "i-1"), Code::ResourceExhausted, "Attachment limit exceeded"),
        (
            "AttachVolume",
            "InvalidVolume.ZoneMismatch",
            "The volume 'vol-x' is not in the same availability zone as instance 'i-1'",
            publish("vol-x", "i-1"),
            Code::Internal,
            "Could not attach volume \"vol-x\" to node \"i-1\": could not attach volume \"vol-x\" to node \"i-1\": operation error EC2: \
             AttachVolume, https response error StatusCode: 400, RequestID: r, api error InvalidVolume.ZoneMismatch: The volume 'vol-x'",
        ),
        (
            "DeleteVolume",
            "VolumeInUse",
            "in use",
            ControllerCall::DeleteVolume { volume_id: "vol-x".into() },
            Code::Internal,
            "Could not delete volume ID \"vol-x\": DeleteDisk could not delete volume: operation error EC2: DeleteVolume",
        ),
        ("", "", "", create("p", 1, &[("nonsense", "1")]), Code::InvalidArgument, "Invalid parameter key nonsense for CreateVolume"),
        ("", "", "", create("p", 1, &[("iops", "x")]), Code::InvalidArgument, "Could not parse invalid iops: strconv.ParseInt"),
    ];
    for (call, code, message, request, expected, text) in table {
        let (mut driver, mut ec2) = (Ebs::default(), Ec2::default());
        // The dry run fails in any case; the second CreateVolume is the real one.
        ec2.fail = Some((call, code, message));
        let error = run(&mut driver, &mut ec2, 1, request.clone());
        if call == "CreateVolume" {
            assert!(error.is_ok(), "a failing dry run changes nothing");
            continue;
        }
        let error = error.unwrap_err();
        assert_eq!(error.code, expected, "{call} {code}: {error}");
        assert!(error.message.contains(text), "{error}");
        assert!(driver.shared.in_flight.is_empty());
    }
}

#[test]
fn a_burned_token_gets_a_suffix() {
    let (mut driver, mut ec2) = (Ebs::default(), Ec2::default());
    run(&mut driver, &mut ec2, 1, create("p", 1, &[])).unwrap();
    let mismatch = run(&mut driver, &mut ec2, 2, create("p", 2, &[])).unwrap_err();
    assert_eq!(mismatch.code, Code::AlreadyExists);
    run(&mut driver, &mut ec2, 3, create("p", 2, &[])).unwrap();
    assert_eq!(ec2.tokens.len(), 2);
}

#[test]
fn over_the_limit_the_volume_of_our_name_is_adopted() {
    let (mut driver, mut ec2) = (Ebs::default(), Ec2::default());
    run(&mut driver, &mut ec2, 1, create("p", 1, &[])).unwrap();
    // The limits are known now, so the next CreateVolume is the real one.
    ec2.fail = Some(("CreateVolume", "VolumeLimitExceeded", "30 TiB"));
    assert!(run(&mut driver, &mut ec2, 2, create("p", 1, &[])).is_ok());
    ec2.fail = Some(("CreateVolume", "VolumeLimitExceeded", "30 TiB"));
    let error = run(&mut driver, &mut ec2, 3, create("q", 1, &[])).unwrap_err();
    assert_eq!(error.code, Code::Aborted);
    assert!(error.message.contains("limit exceeded: operation error EC2: CreateVolume"), "{error}");
}

#[test]
fn a_cancelled_call_is_forgotten_and_late_answers_are_ignored() {
    let mut driver = Ebs::default();
    let mut out = Vec::new();
    driver.step(&Input::Call { id: 1, request: create("p", 1, &[]) }, &mut out).unwrap();
    assert_eq!(driver.step(&Input::Call { id: 1, request: create("p", 1, &[]) }, &mut out), Err(Reject::SameCall(1)));
    driver.step(&Input::Call { id: 2, request: create("p", 1, &[]) }, &mut out).unwrap();
    assert!(matches!(&out[1], Effect::Reply { id: 2, result: Err(error) } if error.code == Code::Aborted));
    assert_eq!(driver.step(&Input::Fired(Timer(1)), &mut out), Err(Reject::NotAwaited(1)));
    driver.step(&Input::Cancelled { id: 1 }, &mut out).unwrap();
    let late = Input::Cloud { id: 1, result: Ok(CloudReply::Done) };
    assert_eq!(driver.step(&late, &mut out), Err(Reject::NoSuchCall(1)));
    driver.step(&Input::Call { id: 3, request: create("p", 1, &[]) }, &mut out).unwrap();
    assert!(matches!(out.last(), Some(Effect::Cloud { id: 3, .. })), "the name is free again");
}

#[test]
fn expansions_of_one_volume_take_turns() {
    let (mut driver, mut ec2) = (Ebs::default(), Ec2::default());
    run(&mut driver, &mut ec2, 1, create("p", 1, &[])).unwrap();
    let expand = |gib: u64| ControllerCall::ControllerExpandVolume {
        volume_id: "vol-00000000000000001".into(),
        capacity: CapacityRange { required_bytes: gib << 30, limit_bytes: 0 },
        capability: None,
    };
    let mut out = Vec::new();
    driver.step(&Input::Call { id: 2, request: expand(2) }, &mut out).unwrap();
    let mut second = Vec::new();
    driver.step(&Input::Call { id: 3, request: expand(3) }, &mut second).unwrap();
    assert!(second.is_empty(), "waits for its turn");
    let mut replies = Vec::new();
    while let Some(effect) = out.pop() {
        match effect {
            Effect::Cloud { id, call } => driver.step(&Input::Cloud { id, result: ec2.answer(&call) }, &mut out).unwrap(),
            Effect::Arm(timer, _) => driver.step(&Input::Fired(timer), &mut out).unwrap(),
            Effect::Reply { id, result } => replies.push((id, result.is_ok())),
            Effect::Disarm(_) => {}
        }
    }
    replies.sort_unstable();
    assert_eq!(replies, [(2, true), (3, true)]);
    assert_eq!(ec2.volumes["vol-00000000000000001"].size_gib, 3);
}

/// One step of a random run.
#[derive(Debug, Clone)]
enum Act {
    Call(ControllerCall),
    /// The n-th of what is in flight goes on.
    Go(usize),
    Cancel(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let volume = |n: u8| format!("vol-{n:017x}");
    let call = prop_oneof![
        (0..3_u8).prop_map(|n| create(&format!("pvc-{n}"), 1, &[])),
        (1..4_u8, 0..2_u8).prop_map(move |(n, node)| publish(&volume(n), &format!("i-{node}"))),
        (1..4_u8, 0..2_u8)
            .prop_map(move |(n, node)| ControllerCall::ControllerUnpublishVolume { volume_id: volume(n), node_id: format!("i-{node}") }),
        (1..4_u8).prop_map(move |n| ControllerCall::DeleteVolume { volume_id: volume(n) }),
    ];
    let act = prop_oneof![
        2 => call.prop_map(Act::Call),
        6 => (0..8_usize).prop_map(Act::Go),
        1 => (0..8_usize).prop_map(Act::Cancel),
    ];
    prop::collection::vec(act, 0..120)
}

proptest! {
    /// Whatever the order of calls, answers and cancellations: one effect in flight for each call, one volume for each name, no device
    /// name twice in an instance (asserted by the EC2 above), and everything ends.
    #[test]
    fn any_interleaving_is_safe_and_ends(acts in acts(), slow in 0..3_u32) {
        let (mut driver, mut ec2) = (Ebs::default(), Ec2 { slow, ..Ec2::default() });
        let mut flying: Vec<Effect> = Vec::new();
        let mut open = BTreeSet::new();
        let mut next = 1;
        let mut drain = 0;
        let mut acts = acts.into_iter();
        loop {
            let act = match acts.next() {
                Some(act) => act,
                None if flying.is_empty() => break,
                None => Act::Go(0),
            };
            let mut out = Vec::new();
            match act {
                Act::Call(request) => {
                    open.insert(next);
                    driver.step(&Input::Call { id: next, request }, &mut out).unwrap();
                    next += 1;
                }
                Act::Go(n) if !flying.is_empty() => {
                    let effect = flying.remove(n % flying.len());
                    let input = match effect {
                        Effect::Cloud { id, call } => Input::Cloud { id, result: ec2.answer(&call) },
                        Effect::Arm(timer, _) => Input::Fired(timer),
                        other => panic!("{other:?} is not in flight"),
                    };
                    driver.step(&input, &mut out).unwrap();
                }
                Act::Cancel(n) if !open.is_empty() => {
                    let id = *open.iter().nth(n % open.len()).unwrap();
                    driver.step(&Input::Cancelled { id }, &mut out).unwrap();
                    open.remove(&id);
                    // The request is taken back; one that EC2 gets all the same would be refused there if its name were taken.
                    flying.retain(|effect| !matches!(effect, Effect::Cloud { id: of, .. } if *of == id));
                }
                Act::Go(_) | Act::Cancel(_) => {}
            }
            for effect in out {
                match effect {
                    Effect::Reply { id, .. } => prop_assert!(open.remove(&id), "call {} was answered twice", id),
                    Effect::Disarm(timer) => flying.retain(|effect| !matches!(effect, Effect::Arm(t, _) if *t == timer)),
                    effect => flying.push(effect),
                }
            }
            let mut names: Vec<_> = ec2.volumes.values().map(|volume| volume.tags["CSIVolumeName"].clone()).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), ec2.volumes.len(), "one volume a name");
            drain += 1;
            prop_assert!(drain < 20_000, "it does not end");
        }
        prop_assert!(open.is_empty(), "unanswered: {:?}", open);
        prop_assert!(driver.shared.in_flight.is_empty() && driver.shared.modifying.is_empty());
    }
}
