//! What attach, detach, modify and copy take over, refuse and leave as it is.

use super::*;

fn io2(multi_attach: bool) -> CreateVolume {
    CreateVolume { volume_type: Some("io2".into()), iops: Some(200), multi_attach, ..request() }
}

fn fast() -> CreateVolume {
    CreateVolume { size_gib: Some(10), iops: Some(4000), throughput: Some(200), ..request() }
}

fn spec(state: &State, volume: &str) -> (VolumeType, u32, Option<u32>, Option<u32>) {
    let spec = state.volume_by_id(volume).unwrap().spec;
    (spec.volume_type, spec.size_gib, spec.iops, spec.throughput)
}

fn two_instances(profile: Profile) -> State {
    let given = World::default();
    let other = crate::world::Instance { private_ip: std::net::Ipv4Addr::new(10, 0, 1, 77), ..given.instances[0].clone() };
    State::new(&World { devices: false, instances: vec![given.instances[0].clone(), other], ..given }, profile)
}

#[test]
fn a_volume_without_multi_attach_is_for_one_instance() {
    let mut state = two_instances(Profile::Instant);
    let volume = create(&mut state, request());
    for (instance, expected) in [(0, Ok(())), (1, Err("VolumeInUse"))] {
        let command = attach(&state, &volume, instance, "/dev/xvdb");
        assert_eq!(run(&mut state, command).map(drop).map_err(|reject| reject_to_error(&reject).0), expected);
    }
}

#[test]
fn a_detachment_names_the_device_that_is_attached_or_none() {
    let mut state = state(Profile::Instant);
    let (volume, a) = (create(&mut state, request()), in_zone(&state, "us-east-1a"));
    let command = attach(&state, &volume, a, "/dev/xvdb");
    run(&mut state, command).unwrap();
    let named = |device: &str| Command::DetachVolume {
        volume_id: volume.clone(),
        instance_id: None,
        device: Some(device.to_owned()),
        force: false,
    };
    assert_eq!(code(run(&mut state, named("/dev/xvdc"))), "InvalidAttachment.NotFound");
    run(&mut state, named("xvdb")).unwrap();
}

#[test]
fn asked_again_a_detachment_begins_no_new_time() {
    let mut state = state(Profile::Aws);
    let (volume, a) = (create(&mut state, request()), in_zone(&state, "us-east-1a"));
    let key = state.volume_by_id(&volume).unwrap().key;
    let instance = state.instances().nth(a).unwrap().id.clone();
    fire(&mut state, Timer::Settle(key));
    let command = attach(&state, &volume, a, "/dev/xvdb");
    run(&mut state, command).unwrap();
    let timers = |effects: Vec<Effect>| effects.iter().filter(|effect| matches!(effect, Effect::Arm(..))).count();
    assert_eq!(timers(run(&mut state, detach(&volume)).unwrap()), 1);
    assert_eq!(timers(run(&mut state, detach(&volume)).unwrap()), 0);
    fire(&mut state, Timer::Attachment(key, instance));
    assert_eq!(state.volume(key).unwrap().status(), VolumeStatus::Available);
}

#[test]
fn a_modification_keeps_what_it_does_not_name_while_the_type_stays() {
    let mut state = state(Profile::Instant);
    let volume = create(&mut state, fast());
    let mut modify = |change: ModifyVolume| {
        run(&mut state, Command::ModifyVolume(ModifyVolume { volume_id: volume.clone(), ..change })).unwrap();
        spec(&state, &volume)
    };
    let same_size = ModifyVolume { size_gib: Some(10), ..ModifyVolume::default() };
    assert_eq!(modify(same_size), (VolumeType::Gp3, 10, Some(4000), Some(200)));
    let io2 = ModifyVolume { volume_type: Some("io2".into()), iops: Some(300), ..ModifyVolume::default() };
    assert_eq!(modify(io2), (VolumeType::Io2, 10, Some(300), None));
    let gp2 = ModifyVolume { volume_type: Some("gp2".into()), ..ModifyVolume::default() };
    assert_eq!(modify(gp2), (VolumeType::Gp2, 10, Some(100), None));
    let larger = ModifyVolume { size_gib: Some(100), ..ModifyVolume::default() };
    assert_eq!(modify(larger), (VolumeType::Gp2, 100, Some(300), None), "gp2 derives its own from the size");
}

#[test]
fn multi_attach_cannot_be_taken_from_a_volume_in_use() {
    let mut state = two_instances(Profile::Instant);
    let volume = create(&mut state, io2(true));
    let set = |multi_attach: bool, size| {
        let (multi_attach, size_gib) = (Some(multi_attach), Some(size));
        Command::ModifyVolume(ModifyVolume { volume_id: volume.clone(), multi_attach, size_gib, ..ModifyVolume::default() })
    };
    let command = attach(&state, &volume, 0, "/dev/xvdb");
    run(&mut state, command).unwrap();
    assert_eq!(code(run(&mut state, set(false, 4))), "IncorrectState");
    run(&mut state, set(true, 5)).unwrap();
    run(&mut state, detach(&volume)).unwrap();
    run(&mut state, set(false, 5)).unwrap();
    let command = attach(&state, &volume, 0, "/dev/xvdb");
    run(&mut state, command).unwrap();
    run(&mut state, set(false, 6)).unwrap();
    run(&mut state, set(true, 6)).unwrap();
    assert!(state.volume_by_id(&volume).unwrap().spec.multi_attach);
}

#[test]
fn a_modification_says_how_far_it_is() {
    let progress = [ModificationState::Modifying, ModificationState::Optimizing, ModificationState::Completed].map(|state| {
        let mut here = super::state(Profile::Instant);
        let volume = create(&mut here, request());
        let grow = ModifyVolume { volume_id: volume.clone(), size_gib: Some(5), ..ModifyVolume::default() };
        run(&mut here, Command::ModifyVolume(grow)).unwrap();
        Modification { state, ..here.volume_by_id(&volume).unwrap().modification.clone().unwrap() }.progress()
    });
    assert_eq!(progress, [0, 50, 100]);
}

#[test]
fn a_copy_is_as_large_and_as_fast_as_its_source_unless_it_says_so() {
    let mut state = state(Profile::Instant);
    let source = create(&mut state, fast());
    let small = create(&mut state, CreateVolume { volume_type: Some("gp2".into()), ..request() });
    let mut copy = |source: &str, change: CopyVolumes| {
        let copy = Command::CopyVolumes(CopyVolumes { source_volume_id: source.to_owned(), ..change });
        run(&mut state, copy).map_err(|reject| reject_to_error(&reject).0)?;
        let newest = state.volumes().map(|volume| volume.key).max().unwrap().id(state.seed);
        Ok(spec(&state, &newest))
    };
    assert_eq!(copy(&source, CopyVolumes::default()), Ok((VolumeType::Gp3, 10, Some(4000), Some(200))));
    let sized = |size_gib| CopyVolumes { size_gib: Some(size_gib), ..CopyVolumes::default() };
    assert_eq!(copy(&source, sized(10)), Ok((VolumeType::Gp3, 10, Some(4000), Some(200))));
    assert_eq!(copy(&source, sized(11)), Ok((VolumeType::Gp3, 11, Some(4000), Some(200))));
    assert_eq!(copy(&source, sized(9)), Err("InvalidParameterValue"));
    let other = |name: &str| CopyVolumes { volume_type: Some(name.into()), ..CopyVolumes::default() };
    assert_eq!(copy(&source, other("gp2")), Ok((VolumeType::Gp2, 10, Some(100), None)));
    assert_eq!(copy(&small, other("gp3")), Ok((VolumeType::Gp3, 4, Some(3000), Some(125))));
    assert_eq!(copy(&small, CopyVolumes { size_gib: Some(100), ..other("gp2") }), Ok((VolumeType::Gp2, 100, Some(300), None)));
}

/// What takes time on AWS has a timer for it, and shows the state before until the timer has fired.
#[test]
fn what_takes_time_shows_it() {
    for (profile, slow) in [(Profile::Instant, false), (Profile::Aws, true)] {
        let mut state = state(profile);
        let a = in_zone(&state, "us-east-1a");
        let instance = state.instances().nth(a).unwrap().id.clone();
        let effects = run(&mut state, Command::CreateVolume(request())).unwrap();
        let key = state.volumes().next().unwrap().key;
        let id = key.id(state.seed);
        let follow = |state: &mut State, effects: Vec<Effect>, timer: Timer, before: VolumeStatus, after: Option<VolumeStatus>| {
            assert_eq!(effects.iter().any(|effect| matches!(effect, Effect::Arm(armed, _) if *armed == timer)), slow, "{timer:?}");
            if slow {
                assert_eq!(state.volume(key).map(Volume::status), Some(before), "{timer:?}");
                fire(state, timer.clone());
            }
            assert_eq!(state.volume(key).map(Volume::status), after, "{timer:?}");
        };
        follow(&mut state, effects, Timer::Settle(key), VolumeStatus::Creating, Some(VolumeStatus::Available));
        let grow = ModifyVolume { volume_id: id.clone(), size_gib: Some(5), ..ModifyVolume::default() };
        let effects = run(&mut state, Command::ModifyVolume(grow)).unwrap();
        follow(&mut state, effects, Timer::Modification(key), VolumeStatus::Available, Some(VolumeStatus::Available));
        assert_eq!(state.volume(key).unwrap().spec.size_gib, 5);
        let command = attach(&state, &id, a, "/dev/xvdb");
        let effects = run(&mut state, command).unwrap();
        let attachment = Timer::Attachment(key, instance);
        follow(&mut state, effects, attachment.clone(), VolumeStatus::InUse, Some(VolumeStatus::InUse));
        let effects = run(&mut state, detach(&id)).unwrap();
        follow(&mut state, effects, attachment, VolumeStatus::InUse, Some(VolumeStatus::Available));
        let effects = run(&mut state, Command::DeleteVolume { volume_id: id }).unwrap();
        follow(&mut state, effects, Timer::Settle(key), VolumeStatus::Deleting, None);
    }
}
