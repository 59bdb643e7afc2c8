//! Volumes with files and devices: each work is seen, and ends when the test says so.

use super::*;

fn with_devices(profile: Profile) -> State {
    let mut state = State::new(&World::default(), profile);
    let all: Vec<InstanceId> = state.instances().map(|instance| instance.id.clone()).collect();
    for instance in all {
        connect(&mut state, &instance, vec![]);
    }
    state
}

fn step(state: &mut State, input: &Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    state.step(At(9), &keys(), input, &mut effects).unwrap();
    effects
}

fn connect(state: &mut State, instance: &InstanceId, devices: Vec<ObservedDevice>) -> Vec<Effect> {
    step(state, &Input::Connected { instance: instance.clone(), no_devices: None, devices })
}

fn works(effects: &[Effect]) -> Vec<Work> {
    effects.iter().filter_map(|effect| if let Effect::Run(work) = effect { Some(work.clone()) } else { None }).collect()
}

/// Ends all works, and those that come of it.
fn finish(state: &mut State, effects: Vec<Effect>) {
    let mut left = works(&effects);
    while let Some(work) = left.pop() {
        left.extend(works(&step(state, &Input::Done(work, Ok(())))));
    }
}

fn volume(state: &mut State) -> String {
    let effects = run(state, Command::CreateVolume(request())).unwrap();
    finish(state, effects);
    let key = state.volumes().last().unwrap().key;
    fire(state, Timer::Settle(key));
    key.id(state.seed)
}

fn attachment(state: &State, volume: &str) -> Option<(AttachmentStatus, Have)> {
    let attachment = state.volume_by_id(volume)?.attachments.values().next()?;
    Some((attachment.status(), attachment.have))
}

/// Who writes to the volume is to stand still while its blocks are read, and nobody else.
#[test]
fn a_copy_asks_for_a_freeze_where_the_device_is_up() {
    let mut state = with_devices(Profile::Instant);
    let (source, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
    let freezes = |state: &State| {
        let mut state = state.clone();
        let request = CopyVolumes { source_volume_id: source.clone(), ..CopyVolumes::default() };
        let copy = works(&run(&mut state, Command::CopyVolumes(request)).unwrap());
        let take = Command::CreateSnapshot { volume_id: source.clone(), description: String::new(), tags: vec![] };
        let taken = works(&run(&mut state, take).unwrap());
        match (copy.as_slice(), taken.as_slice()) {
            ([Work::MakeFile { freeze: of_copy, .. }], [Work::CopySnapshot { freeze: of_snapshot, .. }]) => {
                assert_eq!(of_copy, of_snapshot);
                of_copy.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    let nobody: [InstanceId; 0] = [];
    assert_eq!(freezes(&state), nobody);
    let command = attach(&state, &source, a, "/dev/xvdb");
    let effects = run(&mut state, command).unwrap();
    assert_eq!(freezes(&state), nobody, "the device is not up yet");
    finish(&mut state, effects);
    assert_eq!(freezes(&state), [state.instances().nth(a).unwrap().id.clone()]);
}

#[test]
fn an_attachment_is_attached_when_its_time_is_over_and_the_device_is_up() {
    let mut state = with_devices(Profile::Aws);
    let (id, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
    let command = attach(&state, &id, a, "/dev/xvdb");
    let effects = run(&mut state, command).unwrap();
    finish(&mut state, effects);
    let bytes = 4 << 30;
    assert_eq!(attachment(&state, &id), Some((AttachmentStatus::Attaching, Have::Up { bytes })));
    let key = state.volume_by_id(&id).unwrap().key;
    let instance = state.instances().nth(a).unwrap().id.clone();
    fire(&mut state, Timer::Attachment(key, instance));
    assert_eq!(attachment(&state, &id), Some((AttachmentStatus::Attached, Have::Up { bytes })));
}

/// A node that was away when the volume was taken off it still has the device; a fault that holds the next attachment up holds it
/// up all the same.
#[test]
fn a_held_attachment_is_attaching_though_the_node_has_the_device() {
    let mut state = with_devices(Profile::Instant);
    let (id, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
    let instance = state.instances().nth(a).unwrap().id.clone();
    let command = attach(&state, &id, a, "/dev/xvdb");
    let effects = run(&mut state, command.clone()).unwrap();
    finish(&mut state, effects);
    step(&mut state, &Input::Disconnected { instance: instance.clone() });
    run(&mut state, Command::DetachVolume { volume_id: id.clone(), instance_id: None, device: None, force: true }).unwrap();
    let held = Held { hold: Some(Hold { fault: "f".into(), kind: HoldKind::Attaching, after: None }), renamed: false };
    state.step_held(At(9), &keys(), &Input::Command(command), held, &mut Vec::new()).unwrap();
    let bytes = 4 << 30;
    connect(&mut state, &instance, vec![ObservedDevice { volume_id: id.clone(), device: "/dev/xvdb".into(), bytes }]);
    assert_eq!(attachment(&state, &id), Some((AttachmentStatus::Attaching, Have::Up { bytes })));
}

fn failed() -> Result<(), Failure> {
    Err(Failure::Failed { message: "disk full".into() })
}

fn end(state: &mut State, work: &Work, result: Result<(), Failure>) -> Vec<Effect> {
    step(state, &Input::Done(work.clone(), result))
}

fn arms_retry(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Arm(Timer::Retry(_), RETRY)))
}

/// Three failures in a row; what was saved in between knows of those before.
#[test]
fn a_file_that_cannot_be_made_is_tried_three_times() {
    let mut state = with_devices(Profile::Instant);
    let effects = run(&mut state, Command::CreateVolume(request())).unwrap();
    let [make] = works(&effects).try_into().unwrap();
    let key = state.volumes().next().unwrap().key;
    for _ in 0..2 {
        let effects = end(&mut state, &make, failed());
        assert!(arms_retry(&effects) && works(&effects).is_empty(), "{effects:?}");
        assert_eq!(state.volume(key).unwrap().status(), VolumeStatus::Creating);
        assert_eq!(works(&fire(&mut state, Timer::Retry(key))), std::slice::from_ref(&make));
    }
    let dirty = state.take_dirty();
    let records = dirty.iter().filter_map(|dirty| Some((dirty.table, dirty.key.as_str(), dirty.value.as_deref()?)));
    let loaded = Aws::load(&World::default(), Profile::Instant, records).unwrap();
    assert_eq!(loaded.ec2.volume(key).unwrap().failures, 2);
    let effects = end(&mut state, &make, failed());
    assert!(!arms_retry(&effects) && works(&effects).is_empty(), "{effects:?}");
    assert_eq!(state.volume(key).unwrap().status(), VolumeStatus::Error);
}

/// No work goes to a node that is away, and none before the time after a failure is over.
#[test]
fn a_device_is_taken_away_when_the_node_is_there_and_the_wait_is_over() {
    let mut state = with_devices(Profile::Instant);
    let (id, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
    let (key, instance) = (state.volume_by_id(&id).unwrap().key, state.instances().nth(a).unwrap().id.clone());
    let bytes = 4 << 30;
    step(&mut state, &Input::Disconnected { instance: instance.clone() });
    let command = attach(&state, &id, a, "/dev/xvdb");
    assert_eq!(works(&run(&mut state, command).unwrap()), []);
    let effects = connect(&mut state, &instance, vec![]);
    assert!(matches!(works(&effects).as_slice(), [Work::Attach { .. }]), "{effects:?}");
    finish(&mut state, effects);
    let [take] = works(&run(&mut state, detach(&id)).unwrap()).try_into().unwrap();
    assert!(matches!(take, Work::Detach { last: true, force: false, .. }), "{take:?}");
    assert_eq!(attachment(&state, &id), Some((AttachmentStatus::Detaching, Have::Up { bytes })));
    let effects = end(&mut state, &take, Err(Failure::Busy { holder: "mounted".into() }));
    assert!(arms_retry(&effects) && works(&effects).is_empty(), "{effects:?}");
    assert_eq!(attachment(&state, &id), Some((AttachmentStatus::Busy, Have::Up { bytes })));
    step(&mut state, &Input::Disconnected { instance: instance.clone() });
    assert_eq!(works(&fire(&mut state, Timer::Retry(key))), []);
    let device = ObservedDevice { volume_id: id.clone(), device: "/dev/xvdb".into(), bytes };
    let effects = connect(&mut state, &instance, vec![device]);
    assert_eq!(works(&effects), [take]);
    finish(&mut state, effects);
    assert_eq!(attachment(&state, &id), None);
}

/// Nobody raises devices in an instance that is no node of the cluster, or anywhere in a world without devices.
#[test]
fn an_attachment_without_a_device_is_a_record() {
    for (devices, node) in [(true, false), (false, true), (false, false)] {
        let given = World::default();
        let instances = vec![crate::world::Instance { node, ..given.instances[0].clone() }];
        let mut state = State::new(&World { devices, instances, ..given }, Profile::Instant);
        let id = volume(&mut state);
        let command = attach(&state, &id, 0, "/dev/xvdb");
        assert_eq!(works(&run(&mut state, command).unwrap()), []);
        assert_eq!(attachment(&state, &id), Some((AttachmentStatus::Attached, Have::Up { bytes: 4 << 30 })));
        assert_eq!(works(&run(&mut state, detach(&id)).unwrap()), []);
        assert_eq!(attachment(&state, &id), None);
    }
}

fn forced(volume: &str, force: bool) -> Command {
    Command::DetachVolume { volume_id: volume.to_owned(), instance_id: None, device: None, force }
}

/// Force counts from then on, whatever is asked after it.
#[test]
fn a_device_in_use_is_taken_away_by_force() {
    let mut state = with_devices(Profile::Instant);
    let (id, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
    let command = attach(&state, &id, a, "/dev/xvdb");
    let effects = run(&mut state, command).unwrap();
    finish(&mut state, effects);
    let [take] = works(&run(&mut state, detach(&id)).unwrap()).try_into().unwrap();
    end(&mut state, &take, Err(Failure::Busy { holder: "mounted".into() }));
    let [take] = works(&run(&mut state, forced(&id, true)).unwrap()).try_into().unwrap();
    assert!(matches!(take, Work::Detach { force: true, .. }), "{take:?}");
    end(&mut state, &take, Err(Failure::Lost));
    run(&mut state, forced(&id, false)).unwrap();
    let key = state.volume_by_id(&id).unwrap().key;
    assert_eq!(works(&fire(&mut state, Timer::Retry(key))), [take]);
}

/// The caller's word is taken that a node which is away lets go; a device that was up there is taken away when it is back.
#[test]
fn what_a_node_that_was_away_may_still_have_is_taken_away() {
    for up in [true, false] {
        let mut state = with_devices(Profile::Instant);
        let (id, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
        let instance = state.instances().nth(a).unwrap().id.clone();
        let command = attach(&state, &id, a, "/dev/xvdb");
        if up {
            let effects = run(&mut state, command).unwrap();
            finish(&mut state, effects);
            step(&mut state, &Input::Disconnected { instance: instance.clone() });
        } else {
            step(&mut state, &Input::Disconnected { instance: instance.clone() });
            run(&mut state, command).unwrap();
        }
        run(&mut state, forced(&id, true)).unwrap();
        assert_eq!(attachment(&state, &id), None);
        let effects = connect(&mut state, &instance, vec![]);
        let taken = works(&effects);
        assert_eq!(taken.iter().filter(|work| matches!(work, Work::Detach { .. })).count(), usize::from(up), "{taken:?}");
        finish(&mut state, effects);
        assert_eq!(attachment(&state, &id), None);
    }
}

/// A node that is away shows the old size until it is back; one that lets go of the device does not hold the modification up.
#[test]
fn a_modification_waits_for_devices_that_stay() {
    for stays in [true, false] {
        let mut state = with_devices(Profile::Instant);
        let (id, a) = (volume(&mut state), in_zone(&state, "us-east-1a"));
        let (key, instance) = (state.volume_by_id(&id).unwrap().key, state.instances().nth(a).unwrap().id.clone());
        let command = attach(&state, &id, a, "/dev/xvdb");
        let effects = run(&mut state, command).unwrap();
        finish(&mut state, effects);
        step(&mut state, &Input::Disconnected { instance: instance.clone() });
        if !stays {
            run(&mut state, detach(&id)).unwrap();
        }
        let grow = ModifyVolume { volume_id: id.clone(), size_gib: Some(8), ..ModifyVolume::default() };
        let effects = run(&mut state, Command::ModifyVolume(grow)).unwrap();
        finish(&mut state, effects);
        let shown = |state: &State| state.volume(key).unwrap().modification.as_ref().map(|modification| modification.state);
        let expected = if stays { ModificationState::Modifying } else { ModificationState::Completed };
        assert_eq!(shown(&state), Some(expected), "stays: {stays}");
        let device = ObservedDevice { volume_id: id.clone(), device: "/dev/xvdb".into(), bytes: 4 << 30 };
        let effects = connect(&mut state, &instance, vec![device]);
        finish(&mut state, effects);
        assert_eq!(shown(&state), Some(ModificationState::Completed));
    }
}

#[test]
fn a_volume_that_goes_leaves_no_timer_behind() {
    let mut state = with_devices(Profile::Aws);
    let id = volume(&mut state);
    let key = state.volume_by_id(&id).unwrap().key;
    let take = Command::CreateSnapshot { volume_id: id.clone(), description: String::new(), tags: vec![] };
    let grow = ModifyVolume { volume_id: id.clone(), size_gib: Some(8), ..ModifyVolume::default() };
    let delete = Command::DeleteVolume { volume_id: id.clone() };
    let commands = [take, Command::ModifyVolume(grow), delete].map(Input::Command);
    let (mut armed, mut left) = (std::collections::BTreeSet::new(), Vec::new());
    for input in commands.into_iter().chain([Input::Fired(Timer::Settle(key))]) {
        left.extend(step(&mut state, &input));
        while let Some(effect) = left.pop() {
            match effect {
                Effect::Run(work) => left.extend(end(&mut state, &work, Ok(()))),
                Effect::Arm(timer, _) => drop(armed.insert(timer)),
                Effect::Disarm(timer) => drop(armed.remove(&timer)),
                Effect::Reply(_) => {}
            }
        }
    }
    assert!(state.volume(key).is_none());
    armed.remove(&Timer::Settle(key));
    assert_eq!(armed, [Timer::Snapshot(state.snapshots().next().unwrap().key)].into());
}
