//! Sentences of the EC2 reference, as inputs and what comes out. Devices and files are off: what is tested is what clients see.

use super::*;
use crate::{Aws, Dirty};

mod devices;
mod snapshots;
mod volumes;

const NO_IDS: [&str; 0] = [];

fn state(profile: Profile) -> State {
    State::new(&World { devices: false, ..World::default() }, profile)
}

/// Only AWS's own.
fn keys() -> kms::State {
    kms::State::new(&World::default())
}

fn run(state: &mut State, command: Command) -> Result<Vec<Effect>, Reject> {
    let mut effects = Vec::new();
    state.step(At(7), &keys(), &Input::Command(command), &mut effects)?;
    Ok(effects)
}

fn code(result: Result<Vec<Effect>, Reject>) -> &'static str {
    reject_to_error(&result.expect_err("it was accepted")).0
}

fn text(result: Result<Vec<Effect>, Reject>) -> String {
    reject_to_error(&result.expect_err("it was accepted")).1
}

fn request() -> CreateVolume {
    CreateVolume { zone: Some("us-east-1a".to_owned()), size_gib: Some(4), volume_type: Some("gp3".to_owned()), ..CreateVolume::default() }
}

fn tagged(name: &str) -> CreateVolume {
    CreateVolume { tags: vec![tag("CSIVolumeName", Some(name))], ..request() }
}

fn tag(key: &str, value: Option<&str>) -> TagItem {
    TagItem { key: key.to_owned(), value: value.map(str::to_owned) }
}

fn create(state: &mut State, request: CreateVolume) -> String {
    let effects = run(state, Command::CreateVolume(request)).unwrap();
    match effects.iter().find(|effect| matches!(effect, Effect::Reply(_))) {
        Some(Effect::Reply(Reply::Volume(volume))) => volume.key.id(state.seed),
        other => panic!("{other:?}"),
    }
}

fn attach(state: &State, volume: &str, instance: usize, device: &str) -> Command {
    let instance_id = state.instances().nth(instance).unwrap().id.to_string();
    let _ = state;
    Command::AttachVolume { volume_id: volume.to_owned(), instance_id, device: device.to_owned(), card_index: None }
}

fn detach(volume: &str) -> Command {
    Command::DetachVolume { volume_id: volume.to_owned(), instance_id: None, device: None, force: false }
}

/// The place in the instances of one in the zone.
fn in_zone(state: &State, zone: &str) -> usize {
    state.instances().position(|instance| instance.zone == zone).unwrap()
}

fn filter(name: &str, values: &[&str]) -> Vec<Filter> {
    vec![Filter { name: name.to_owned(), values: values.iter().map(|value| (*value).to_owned()).collect() }]
}

fn described(state: &State, filters: &[Filter]) -> Vec<String> {
    let page = state.describe_volumes(&NO_IDS, filters, &Paging::default()).unwrap();
    page.items.iter().map(|volume| volume.key.id(state.seed)).collect()
}

fn fire(state: &mut State, timer: Timer) -> Vec<Effect> {
    let mut effects = Vec::new();
    state.step(At(9), &keys(), &Input::Fired(timer), &mut effects).unwrap();
    effects
}

#[test]
fn a_volume_is_creating_in_the_answer_and_available_soon() {
    let mut state = state(Profile::Instant);
    let effects = run(&mut state, Command::CreateVolume(request())).unwrap();
    let Some(Effect::Reply(Reply::Volume(volume))) = effects.first() else { panic!("{effects:?}") };
    assert_eq!(volume.status(), VolumeStatus::Creating);
    assert_eq!(state.volumes().next().unwrap().status(), VolumeStatus::Available);
    assert_eq!(volume.created_at, At(7));
}

#[test]
fn parameters_of_create_volume() {
    let mut state = state(Profile::Instant);
    let mut reject = |request| text(run(&mut state, Command::CreateVolume(request)));
    assert_eq!(reject(CreateVolume { size_gib: None, ..request() }), "The request must contain the parameter size/snapshot");
    assert_eq!(reject(CreateVolume { zone: None, ..request() }), "The request must contain the parameter AvailabilityZone");
    assert_eq!(reject(CreateVolume { zone: Some("x".into()), ..request() }), "The zone 'x' does not exist.");
    assert_eq!(reject(CreateVolume { volume_type: Some("gp9".into()), ..request() }), "Unknown volume type: gp9");
    assert_eq!(reject(CreateVolume { iops: Some(2_147_483_647), ..request() }), "Volume iops of 2147483647 is too high; maximum is 80000");
    assert_eq!(
        reject(CreateVolume { multi_attach: true, ..request() }),
        "The parameter MultiAttachEnabled is not supported for gp3 volumes; it is for io1 and io2 volumes."
    );
    let missing = "snap-0123456789abcdef0";
    assert_eq!(
        reject(CreateVolume { snapshot_id: Some(missing.into()), ..request() }),
        format!("The snapshot '{missing}' does not exist.")
    );
    assert_eq!(
        reject(CreateVolume { tags: vec![tag("aws:x", None)], ..request() }),
        "Tag keys starting with 'aws:' are reserved for internal use"
    );
    // A zone's name and id may come together when they agree.
    run(&mut state, Command::CreateVolume(CreateVolume { zone_id: Some("use1-az1".into()), ..request() })).unwrap();
    assert_eq!(
        code(run(&mut state, Command::CreateVolume(CreateVolume { zone_id: Some("use1-az2".into()), ..request() }))),
        "InvalidZone.NotFound"
    );
}

#[test]
fn a_token_is_remembered_beyond_the_volumes_life() {
    let mut state = state(Profile::Instant);
    let with = |token: &str| CreateVolume { client_token: Some(token.into()), ..request() };
    let first = create(&mut state, with("t"));
    assert_eq!(create(&mut state, with("t")), first);
    assert_eq!(state.volumes().count(), 1);
    let other = Command::CreateVolume(CreateVolume { size_gib: Some(5), ..with("t") });
    assert_eq!(code(run(&mut state, other)), "IdempotentParameterMismatch");
    run(&mut state, Command::DeleteVolume { volume_id: first.clone() }).unwrap();
    assert!(text(run(&mut state, Command::CreateVolume(with("t")))).contains("already deleted"));
    fire(&mut state, Timer::Token("CreateVolume/t".into()));
    assert_ne!(create(&mut state, with("t")), first);
}

/// The EBS driver builds its tags from a Go map, so that the same request comes in another order each time.
#[test]
fn the_order_of_tags_makes_no_other_request() {
    let mut state = state(Profile::Instant);
    let (a, b) = (tag("CSIVolumeName", Some("pvc-1")), tag("ebs.csi.aws.com/cluster", Some("true")));
    let with = |tags: [&TagItem; 2]| CreateVolume { client_token: Some("t".into()), tags: tags.map(Clone::clone).into(), ..request() };
    let first = create(&mut state, with([&a, &b]));
    assert_eq!(create(&mut state, with([&b, &a])), first);
    let other = Command::CreateVolume(with([&a, &tag("ebs.csi.aws.com/cluster", Some("false"))]));
    assert_eq!(code(run(&mut state, other)), "IdempotentParameterMismatch");
    // A copy's token likewise.
    let copy = |tags: [&TagItem; 2]| {
        let tags = tags.map(Clone::clone).into();
        Command::CopyVolumes(CopyVolumes {
            source_volume_id: first.clone(),
            client_token: Some("c".into()),
            tags,
            ..CopyVolumes::default()
        })
    };
    run(&mut state, copy([&a, &b])).unwrap();
    run(&mut state, copy([&b, &a])).unwrap();
    assert_eq!(state.volumes().count(), 2);
}

#[test]
fn attach_refuses_as_ec2_does() {
    let mut state = state(Profile::Instant);
    let (a, b) = (in_zone(&state, "us-east-1a"), in_zone(&state, "us-east-1b"));
    let volume = create(&mut state, request());
    let try_it = |state: &mut State, volume: &str, instance, device: &str| {
        let command = attach(state, volume, instance, device);
        run(state, command)
    };
    assert_eq!(code(try_it(&mut state, &volume, b, "/dev/xvdb")), "InvalidVolume.ZoneMismatch");
    assert!(text(try_it(&mut state, &volume, a, "/dev/sdk1")).contains("/dev/sdk1 is not a valid EBS device name"));
    assert!(text(try_it(&mut state, &volume, a, "/dev/xvda")).contains("Attachment point /dev/xvda is already in use"));
    assert_eq!(code(try_it(&mut state, "vol-0123456789abcdef0", a, "/dev/xvdb")), "InvalidVolume.NotFound");
    assert_eq!(code(try_it(&mut state, "vol-x", a, "/dev/xvdb")), "InvalidParameterValue");
    let effects = try_it(&mut state, &volume, a, "/dev/xvdb").unwrap();
    let Some(Effect::Reply(Reply::Attachment { attachment, .. })) = effects.first() else { panic!("{effects:?}") };
    assert_eq!(attachment.status(), AttachmentStatus::Attaching);
    assert_eq!(code(try_it(&mut state, &volume, a, "/dev/xvdc")), "VolumeInUse");
    let second = create(&mut state, request());
    assert!(text(try_it(&mut state, &second, a, "/dev/xvdb")).contains("already in use"));
    let delete = run(&mut state, Command::DeleteVolume { volume_id: volume.clone() });
    assert_eq!(code(delete), "VolumeInUse");
    // Detach of what is not attached.
    assert_eq!(text(run(&mut state, detach(&second))), format!("Volume '{second}' is in the 'available' state."));
    assert_eq!(code(run(&mut state, detach(&second))), "IncorrectState");
    run(&mut state, detach(&volume)).unwrap();
    run(&mut state, Command::DeleteVolume { volume_id: volume.clone() }).unwrap();
    assert_eq!(code(run(&mut state, Command::DeleteVolume { volume_id: volume })), "InvalidVolume.NotFound");
}

#[test]
fn an_instance_takes_so_many_volumes() {
    let mut state = state(Profile::Instant);
    let a = in_zone(&state, "us-east-1a");
    for index in 0..26 {
        let volume = create(&mut state, request());
        let command = attach(&state, &volume, a, &format!("/dev/xvdb{}", (b'a' + index) as char));
        run(&mut state, command).unwrap();
    }
    let volume = create(&mut state, request());
    let command = attach(&state, &volume, a, "/dev/xvdca");
    assert_eq!(text(run(&mut state, command)), "You may attach up to 27 devices for this instance type.");
}

#[test]
fn multi_attach_is_for_io_volumes_and_sixteen_instances() {
    let instance = World::default().instances[0].clone();
    let instances = (0..17).map(|n| crate::world::Instance { private_ip: std::net::Ipv4Addr::new(10, 0, 1, 10 + n), ..instance.clone() });
    let world = World { devices: false, instances: instances.collect(), ..World::default() };
    let mut state = State::new(&world, Profile::Instant);
    let io2 = CreateVolume { volume_type: Some("io2".into()), iops: Some(100), multi_attach: true, ..request() };
    let volume = create(&mut state, io2);
    for n in 0..16 {
        let command = attach(&state, &volume, n, "/dev/xvdb");
        run(&mut state, command).unwrap();
    }
    let command = attach(&state, &volume, 16, "/dev/xvdb");
    assert_eq!(code(run(&mut state, command)), "AttachmentLimitExceeded");
    assert_eq!(code(run(&mut state, detach(&volume))), "MissingParameter");
}

#[test]
fn a_node_without_devices_says_why() {
    let mut state = State::new(&World::default(), Profile::Instant);
    let a = in_zone(&state, "us-east-1a");
    let id = state.instances().nth(a).unwrap().id.clone();
    let connected = Input::Connected { instance: id, no_devices: Some("no root".into()), devices: vec![] };
    state.step(At(0), &keys(), &connected, &mut Vec::new()).unwrap();
    let volume = create(&mut state, request());
    let made = state.volumes().next().unwrap().running.clone().unwrap();
    state.step(At(0), &keys(), &Input::Done(made, Ok(())), &mut Vec::new()).unwrap();
    let command = attach(&state, &volume, a, "/dev/xvdb");
    let result = run(&mut state, command);
    assert!(text(result.clone()).contains("no root"));
    assert_eq!(code(result), "UnsupportedOperation");
}

#[test]
fn modifications_count_for_a_day() {
    let mut state = state(Profile::Instant);
    let volume = create(&mut state, request());
    let grow = |size| Command::ModifyVolume(ModifyVolume { volume_id: volume.clone(), size_gib: Some(size), ..ModifyVolume::default() });
    assert_eq!(code(run(&mut state, grow(3))), "InvalidParameterValue");
    let mut timers = Vec::new();
    for size in 5..9 {
        let effects = run(&mut state, grow(size)).unwrap();
        timers.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Arm(timer @ Timer::ModificationForgotten(..), MODIFICATION_WINDOW) => Some(timer),
            _ => None,
        }));
        assert_eq!(state.volumes().next().unwrap().spec.size_gib, size);
    }
    assert_eq!(code(run(&mut state, grow(9))), "VolumeModificationRateExceeded");
    fire(&mut state, timers.remove(0));
    run(&mut state, grow(9)).unwrap();
}

#[test]
fn new_values_show_from_optimizing_on() {
    let mut state = state(Profile::Aws);
    let volume = create(&mut state, request());
    let key = state.volume_by_id(&volume).unwrap().key;
    fire(&mut state, Timer::Settle(key));
    let modify = ModifyVolume { volume_id: volume.clone(), size_gib: Some(8), iops: Some(4000), ..ModifyVolume::default() };
    run(&mut state, Command::ModifyVolume(modify)).unwrap();
    let shown = |state: &State| {
        let volume = state.volume(key).unwrap();
        (volume.spec.size_gib, volume.modification.as_ref().unwrap().state)
    };
    assert_eq!(shown(&state), (4, ModificationState::Modifying));
    let again = || Command::ModifyVolume(ModifyVolume { volume_id: volume.clone(), size_gib: Some(9), ..ModifyVolume::default() });
    assert_eq!(code(run(&mut state, again())), "IncorrectModificationState");
    fire(&mut state, Timer::Modification(key));
    assert_eq!(shown(&state), (8, ModificationState::Optimizing));
    assert!(text(run(&mut state, again())).ends_with("in modification state OPTIMIZING"));
    fire(&mut state, Timer::Modification(key));
    assert_eq!(shown(&state), (8, ModificationState::Completed));
}

#[test]
fn a_snapshot_is_pending_then_completed_and_can_be_restored() {
    let mut state = state(Profile::Aws);
    let volume = create(&mut state, request());
    let key = state.volume_by_id(&volume).unwrap().key;
    fire(&mut state, Timer::Settle(key));
    let take = || Command::CreateSnapshot { volume_id: volume.clone(), description: "d".into(), tags: vec![tag("a", Some("b"))] };
    run(&mut state, take()).unwrap();
    let snapshot = state.snapshots().next().unwrap().key;
    let id = snapshot.id(state.seed);
    assert_eq!(state.snapshot(snapshot).unwrap().status(), SnapshotStatus::Pending);
    assert_eq!(code(run(&mut state, take())), "SnapshotCreationPerVolumeRateExceeded");
    let restore = || CreateVolume { snapshot_id: Some(id.clone()), size_gib: None, ..request() };
    assert_eq!(code(run(&mut state, Command::CreateVolume(restore()))), "IncorrectState");
    for _ in 0..4 {
        fire(&mut state, Timer::Snapshot(snapshot));
    }
    assert_eq!(state.snapshot(snapshot).unwrap().progress(), 100);
    let small = CreateVolume { size_gib: Some(3), ..restore() };
    assert!(text(run(&mut state, Command::CreateVolume(small))).contains("expect size >= 4GiB"));
    let restored = create(&mut state, restore());
    assert_eq!(state.volume_by_id(&restored).unwrap().spec.size_gib, 4);
    assert_eq!(described(&state, &filter("snapshot-id", &[&id])), [restored]);
    run(&mut state, Command::DeleteSnapshot { snapshot_id: id.clone() }).unwrap();
    assert_eq!(code(run(&mut state, Command::DeleteSnapshot { snapshot_id: id })), "InvalidSnapshot.NotFound");
    assert!(state.describe_snapshots(&[], &filter("tag:a", &["b"]), &Paging::default()).unwrap().items.is_empty());
}

#[test]
fn ids_are_all_or_nothing_and_filters_never_fail() {
    let mut state = state(Profile::Instant);
    let (a, b) = (create(&mut state, tagged("pvc-a")), create(&mut state, tagged("pvc-b")));
    let by_id = |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        state.describe_volumes(&ids, &[], &Paging::default()).map(|page| page.items.len()).map_err(|reject| reject_to_error(&reject).1)
    };
    let (x, y) = ("vol-0000000000000000a", "vol-0000000000000000b");
    assert_eq!(by_id(&[&a, &b, &a]), Ok(2));
    assert_eq!(by_id(&[&a, x]), Err(format!("The volume '{x}' does not exist.")));
    assert_eq!(by_id(&[x, &a, y]), Err(format!("The volumes '{x}, {y}' do not exist.")));
    assert_eq!(described(&state, &filter("tag:CSIVolumeName", &["pvc-b", "no"])), [b.as_str()]);
    assert_eq!(described(&state, &filter("tag:CSIVolumeName", &["pvc-*"])), [a.clone(), b.clone()]);
    assert_eq!(described(&state, &filter("tag-key", &["CSIVolumeName"])), [a.clone(), b.clone()]);
    assert_eq!(described(&state, &filter("status", &["in-use", "nonsense"])), [""; 0]);
    assert_eq!(described(&state, &filter("volume-id", &[&b, "junk"])), [b.as_str()]);
    assert_eq!(described(&state, &filter("volume-id", &["junk"])), [""; 0]);
    assert_eq!(described(&state, &filter("availability-zone-id", &["use1-az1"])), [a.clone(), b]);
    let both = [filter("status", &["available"]), filter("tag:CSIVolumeName", &["pvc-a"])].concat();
    assert_eq!(described(&state, &both), [a]);
    let unknown = state.describe_volumes(&NO_IDS, &filter("colour", &["red"]), &Paging::default()).unwrap_err();
    assert_eq!(reject_to_error(&unknown).1, "The filter 'colour' is invalid");
}

#[test]
fn pages_follow_each_other_in_the_order_of_creation() {
    let mut state = state(Profile::Instant);
    let all: Vec<String> = (0..13).map(|_| create(&mut state, request())).collect();
    for filters in [vec![], filter("availability-zone", &["us-east-1a"]), filter("status", &["available", "in-use"])] {
        let (mut seen, mut next_token) = (Vec::new(), None);
        loop {
            let page = state.describe_volumes(&NO_IDS, &filters, &Paging { max_results: Some(5), next_token }).unwrap();
            seen.extend(page.items.iter().map(|volume| volume.key.id(state.seed)));
            next_token = page.next_token;
            if next_token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }
    let paging =
        |max_results, next_token: Option<&str>| Paging { max_results: Some(max_results), next_token: next_token.map(str::to_owned) };
    assert_eq!(state.describe_volumes(&NO_IDS, &[], &paging(0, None)).unwrap().items.len(), 13);
    assert!(matches!(state.describe_volumes(&NO_IDS, &[], &paging(4, None)), Err(Reject::MaxResultsTooSmall { .. })));
    assert!(matches!(state.describe_volumes(&NO_IDS, &[], &paging(5, Some("x"))), Err(Reject::InvalidNextToken { .. })));
}

#[test]
fn tags_change_what_filters_find() {
    let mut state = state(Profile::Instant);
    let volume = create(&mut state, tagged("old"));
    let resources = vec![volume.clone()];
    let put = |key: &str, value: &str| Command::CreateTags { resources: vec![volume.clone()], tags: vec![tag(key, Some(value))] };
    run(&mut state, put("CSIVolumeName", "new")).unwrap();
    assert_eq!(described(&state, &filter("tag:CSIVolumeName", &["old"])), [""; 0]);
    assert_eq!(described(&state, &filter("tag:CSIVolumeName", &["new"])), [volume.as_str()]);
    let remove = |value| Command::DeleteTags { resources: resources.clone(), tags: vec![tag("CSIVolumeName", value)] };
    run(&mut state, remove(Some("other"))).unwrap();
    assert_eq!(described(&state, &filter("tag-key", &["CSIVolumeName"])), [volume.as_str()]);
    run(&mut state, remove(None)).unwrap();
    assert_eq!(described(&state, &filter("tag-key", &["CSIVolumeName"])), [""; 0]);
    let many = (0..51).map(|n| tag(&n.to_string(), None)).collect();
    assert_eq!(code(run(&mut state, Command::CreateTags { resources: resources.clone(), tags: many })), "TagLimitExceeded");
    let unknown = |id: &str| Command::CreateTags { resources: vec![id.to_owned()], tags: vec![tag("a", None)] };
    assert_eq!(code(run(&mut state, unknown("i-0123456789abcdef0"))), "InvalidInstanceID.NotFound");
    assert_eq!(code(run(&mut state, unknown("nonsense"))), "InvalidID");
    let instance = state.instances().next().unwrap().id.to_string();
    run(&mut state, unknown(&instance)).unwrap();
    let tags = state.describe_tags(&filter("resource-id", &[&instance]), &Paging::default()).unwrap().items;
    assert!(tags.iter().any(|(kind, _, key, _)| *kind == Kind::Instance && *key == "a"));
}

#[test]
fn security_groups_hold_rules() {
    let mut state = state(Profile::Instant);
    let make = |name: &str| Command::CreateSecurityGroup { name: name.into(), description: "d".into(), vpc_id: None, tags: vec![] };
    let effects = run(&mut state, make("efs")).unwrap();
    let Some(Effect::Reply(Reply::SecurityGroup { id })) = effects.first() else { panic!("{effects:?}") };
    assert_eq!(code(run(&mut state, make("efs"))), "InvalidGroup.Duplicate");
    let nfs = network::Rule {
        id: String::new(),
        protocol: "tcp".into(),
        ports: Some((2049, 2049)),
        peer: network::Peer::Cidr("10.0.0.0/16".into()),
        description: None,
    };
    let change = RuleChange { group_id: Some(id.clone()), rules: vec![nfs], ..RuleChange::default() };
    run(&mut state, Command::AuthorizeIngress(change.clone())).unwrap();
    assert_eq!(code(run(&mut state, Command::AuthorizeIngress(change.clone()))), "InvalidPermission.Duplicate");
    let group = state.network().security_group(id).unwrap();
    let from = |last| std::net::Ipv4Addr::new(10, 0, 1, last);
    assert!(group.admits("tcp", 2049, from(4), &[]) && !group.admits("tcp", 2050, from(4), &[]));
    run(&mut state, Command::RevokeIngress(change.clone())).unwrap();
    assert_eq!(code(run(&mut state, Command::RevokeIngress(change))), "InvalidPermission.NotFound");
    let default = state.network().default_security_group().unwrap().id.clone();
    assert_eq!(code(run(&mut state, Command::DeleteSecurityGroup { group_id: default })), "CannotDelete");
    run(&mut state, Command::DeleteSecurityGroup { group_id: id.clone() }).unwrap();
}

#[test]
fn a_dry_run_checks_the_parameters_first_and_changes_nothing() {
    let state = state(Profile::Instant);
    let before = state.clone();
    let io = CreateVolume { iops: Some(i32::MAX as u32), volume_type: Some("io2".into()), ..request() };
    let reject = state.dry_run(&keys(), &Command::CreateVolume(io)).unwrap_err();
    assert!(reject_to_error(&reject).1.contains("256K IOPS"));
    state.dry_run(&keys(), &Command::CreateVolume(request())).unwrap();
    assert_eq!(state, before);
}

#[test]
fn what_was_saved_is_what_was() {
    let mut state = state(Profile::Instant);
    let (a, b) = (create(&mut state, tagged("a")), create(&mut state, tagged("b")));
    let instance = in_zone(&state, "us-east-1a");
    let command = attach(&state, &a, instance, "/dev/xvdb");
    run(&mut state, command).unwrap();
    run(&mut state, Command::CreateSnapshot { volume_id: a, description: String::new(), tags: vec![] }).unwrap();
    run(&mut state, Command::DeleteVolume { volume_id: b }).unwrap();
    let vpc = state.network.vpc.id.clone();
    run(&mut state, Command::CreateTags { resources: vec![vpc], tags: vec![tag("k", Some("v"))] }).unwrap();
    let dirty = state.take_dirty();
    assert!(state.take_dirty().is_empty());
    let kept: Vec<&Dirty> = dirty.iter().filter(|dirty| dirty.value.is_some()).collect();
    let records = kept.iter().map(|dirty| (dirty.table, dirty.key.as_str(), dirty.value.as_deref().unwrap()));
    let world = World { devices: false, ..World::default() };
    let loaded = Aws::load(&world, Profile::Instant, records).unwrap();
    assert_eq!(loaded.ec2, state);
}
