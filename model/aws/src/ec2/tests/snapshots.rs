//! Fast restores and locks of snapshots.

use super::*;

const DAY: i64 = 86_400_000;

/// A volume and its snapshot, which is still pending.
fn pending(state: &mut State) -> (SnapshotKey, String) {
    let volume = create(state, request());
    let key = state.volume_by_id(&volume).unwrap().key;
    fire(state, Timer::Settle(key));
    run(state, Command::CreateSnapshot { volume_id: volume, description: String::new(), tags: vec![] }).unwrap();
    let key = state.snapshots().next().unwrap().key;
    (key, key.id(state.seed))
}

fn complete(state: &mut State, key: SnapshotKey) {
    (0..4).for_each(|_| drop(fire(state, Timer::Snapshot(key))));
}

fn fast(snapshot: &str, enable: bool) -> Command {
    let zones = vec!["us-east-1a".to_owned()];
    Command::FastRestores(FastRestores { enable, zones, zone_ids: vec![], snapshots: vec![snapshot.to_owned()] })
}

fn shown(state: &State) -> Vec<&'static str> {
    let page = state.describe_fast_restores(&[], &Paging::default()).unwrap();
    page.items.into_iter().map(|(_, _, restore)| restore.state.name()).collect()
}

fn failed(result: Result<Vec<Effect>, Reject>) -> &'static str {
    match result.unwrap().as_slice() {
        [Effect::Reply(Reply::FastRestores { successful, unsuccessful })] if successful.is_empty() => reject_to_error(&unsuccessful[0].2).0,
        other => panic!("{other:?}"),
    }
}

fn governance(snapshot: &str, days: u32) -> LockSnapshot {
    LockSnapshot {
        snapshot_id: snapshot.to_owned(),
        mode: "governance".into(),
        days: Some(days),
        asked_at: At(7),
        ..LockSnapshot::default()
    }
}

fn compliance(snapshot: &str, days: u32, hours: Option<u32>) -> LockSnapshot {
    LockSnapshot { mode: "compliance".into(), cool_off_hours: hours, ..governance(snapshot, days) }
}

fn lock(state: &mut State, request: LockSnapshot) -> Result<Vec<Effect>, Reject> {
    run(state, Command::LockSnapshot(request))
}

fn lock_of(state: &State) -> SnapshotLock {
    state.snapshots().next().unwrap().lock.clone().unwrap()
}

#[test]
fn fast_restores_wait_for_the_snapshot_and_take_their_time() {
    let mut state = state(Profile::Aws);
    let (key, id) = pending(&mut state);
    run(&mut state, fast(&id, true)).unwrap();
    let timer = || Timer::FastRestore(key, "us-east-1a".to_owned());
    fire(&mut state, timer());
    assert_eq!(shown(&state), ["enabling"], "the snapshot is not completed");
    complete(&mut state, key);
    assert_eq!(shown(&state), ["optimizing"]);
    let restore = || CreateVolume { snapshot_id: Some(id.clone()), ..request() };
    let slow = create(&mut state, restore());
    fire(&mut state, timer());
    assert_eq!(shown(&state), ["enabled"]);
    run(&mut state, fast(&id, true)).unwrap();
    assert_eq!(shown(&state), ["enabled"], "to enable what is enabled changes nothing");
    let quick = create(&mut state, restore());
    assert_eq!(described(&state, &filter("fast-restored", &["true"])), [quick]);
    assert_eq!(described(&state, &filter("fast-restored", &["false"])).len(), 2, "{slow} and the source");
    run(&mut state, fast(&id, false)).unwrap();
    assert_eq!(shown(&state), ["disabling"]);
    fire(&mut state, timer());
    assert_eq!(shown(&state), ["disabled"]);
    assert_eq!(failed(run(&mut state, fast(&id, false))), "IncorrectState");
    run(&mut state, Command::DeleteSnapshot { snapshot_id: id }).unwrap();
    assert!(shown(&state).is_empty());
}

#[test]
fn fast_restores_say_for_each_snapshot_what_is_wrong() {
    let mut state = state(Profile::Instant);
    let (_, id) = pending(&mut state);
    assert_eq!(failed(run(&mut state, fast("snap-0123456789abcdef0", true))), "InvalidSnapshot.NotFound");
    assert_eq!(failed(run(&mut state, fast(&id, false))), "IncorrectState");
    let zone =
        |zone: &str| FastRestores { enable: true, zones: vec![zone.to_owned()], snapshots: vec![id.clone()], ..FastRestores::default() };
    assert_eq!(code(run(&mut state, Command::FastRestores(zone("us-east-1q")))), "InvalidZone.NotFound");
    run(&mut state, Command::FastRestores(zone("us-east-1b"))).unwrap();
    assert_eq!(shown(&state), ["enabled"], "at once where AWS's times are not kept");
    let by_state = |name: &str| state.describe_fast_restores(&filter("state", &[name]), &Paging::default()).unwrap().items.len();
    assert_eq!((by_state("enabled"), by_state("optimizing")), (1, 0));
}

#[test]
fn a_locked_snapshot_is_not_deleted_until_its_lock_ends() {
    let mut state = state(Profile::Aws);
    let (key, id) = pending(&mut state);
    let delete = || Command::DeleteSnapshot { snapshot_id: id.clone() };
    lock(&mut state, governance(&id, 3)).unwrap();
    assert_eq!((lock_of(&state).starts_on, lock_of(&state).expires_on), (None, None), "the duration begins with completion");
    complete(&mut state, key);
    assert_eq!(lock_of(&state).expires_on, Some(At(9 + 3 * DAY)));
    assert_eq!(code(run(&mut state, delete())), "SnapshotLocked");
    assert_eq!(code(state.dry_run(&keys(), &delete()).map(|()| vec![])), "SnapshotLocked");
    run(&mut state, Command::UnlockSnapshot { snapshot_id: id.clone() }).unwrap();
    assert_eq!(code(run(&mut state, Command::UnlockSnapshot { snapshot_id: id.clone() })), "IncorrectState");
    let effects = lock(&mut state, governance(&id, 1)).unwrap();
    let day = Duration::from_millis(u64::try_from(DAY).unwrap());
    assert!(effects.contains(&Effect::Arm(Timer::LockEnd(key), day)), "{effects:?}");
    fire(&mut state, Timer::LockEnd(key));
    assert_eq!(lock_of(&state).state(), "expired");
    run(&mut state, delete()).unwrap();
}

#[test]
fn a_lock_in_compliance_mode_can_only_become_longer() {
    let mut state = state(Profile::Aws);
    let (key, id) = pending(&mut state);
    complete(&mut state, key);
    lock(&mut state, compliance(&id, 5, Some(2))).unwrap();
    assert_eq!(lock_of(&state).state(), "compliance-cooloff");
    lock(&mut state, compliance(&id, 4, Some(1))).unwrap();
    fire(&mut state, Timer::LockCoolOff(key));
    assert_eq!(lock_of(&state).state(), "compliance");
    assert_eq!(code(run(&mut state, Command::UnlockSnapshot { snapshot_id: id.clone() })), "SnapshotLocked");
    assert_eq!(code(lock(&mut state, governance(&id, 9))), "InvalidParameterValue");
    assert_eq!(code(lock(&mut state, compliance(&id, 3, None))), "InvalidParameterValue");
    assert_eq!(code(lock(&mut state, compliance(&id, 9, Some(1)))), "InvalidParameterCombination");
    lock(&mut state, compliance(&id, 9, None)).unwrap();
    assert_eq!(lock_of(&state).days, 9);
    assert_eq!(state.describe_locks(&[], &filter("lock-state", &["compliance"]), &Paging::default()).unwrap().items.len(), 1);
    assert_eq!(state.describe_locks(&[], &filter("lock-state", &["governance"]), &Paging::default()).unwrap().items.len(), 0);
}

#[test]
fn what_a_lock_may_not_be() {
    let mut state = state(Profile::Instant);
    let (_, id) = pending(&mut state);
    for (request, wanted) in [
        (LockSnapshot { mode: "none".into(), ..governance(&id, 1) }, "InvalidParameterValue"),
        (governance(&id, 0), "InvalidParameterValue"),
        (governance(&id, 36_501), "InvalidParameterValue"),
        (LockSnapshot { cool_off_hours: Some(1), ..governance(&id, 1) }, "InvalidParameterCombination"),
        (compliance(&id, 1, Some(73)), "InvalidParameterValue"),
        (LockSnapshot { expires_on: Some(At(9 * DAY)), ..governance(&id, 1) }, "InvalidParameterCombination"),
        (LockSnapshot { days: None, ..governance(&id, 1) }, "MissingParameter"),
        (LockSnapshot { days: None, expires_on: Some(At(DAY)), ..governance(&id, 1) }, "InvalidParameterValue"),
        (governance("snap-0123456789abcdef0", 1), "InvalidSnapshot.NotFound"),
    ] {
        assert_eq!(code(lock(&mut state, request.clone())), wanted, "{request:?}");
    }
    lock(&mut state, LockSnapshot { days: None, expires_on: Some(At(8 + 2 * DAY)), ..governance(&id, 1) }).unwrap();
    assert_eq!((lock_of(&state).days, lock_of(&state).expires_on), (2, Some(At(8 + 2 * DAY))));
}

#[test]
fn locks_and_fast_restores_survive_a_restart() {
    let mut old = state(Profile::Aws);
    let (key, id) = pending(&mut old);
    complete(&mut old, key);
    lock(&mut old, compliance(&id, 2, Some(3))).unwrap();
    run(&mut old, fast(&id, true)).unwrap();
    let mut new = state(Profile::Aws);
    for Dirty { table, key, value } in old.take_dirty() {
        if let Some(value) = value {
            new.restore(table, &key, &value).unwrap();
        }
    }
    let mut effects = Vec::new();
    new.step(At(7 + DAY), &keys(), &Input::Booted(Observed::default()), &mut effects).unwrap();
    assert_eq!(new.snapshot(key), old.snapshot(key));
    let left = Duration::from_millis(u64::try_from(DAY).unwrap());
    assert!(effects.contains(&Effect::Arm(Timer::LockEnd(key), left)), "a day of the two is over: {effects:?}");
    assert!(effects.contains(&Effect::Arm(Timer::FastRestore(key, "us-east-1a".into()), Duration::from_secs(20))), "{effects:?}");
}

/// Completed ones do not count.
#[test]
fn five_snapshots_of_a_volume_can_be_pending() {
    let mut state = state(Profile::Aws);
    let (first, _) = pending(&mut state);
    let key = state.snapshot(first).unwrap().volume;
    let volume_id = key.id(state.seed);
    let take = |state: &mut State| {
        fire(state, Timer::SnapshotRate(key));
        run(state, Command::CreateSnapshot { volume_id: volume_id.clone(), description: String::new(), tags: vec![] })
    };
    for _ in 1..5 {
        take(&mut state).unwrap();
    }
    assert_eq!(code(take(&mut state)), "ConcurrentSnapshotLimitExceeded");
    complete(&mut state, first);
    take(&mut state).unwrap();
}
