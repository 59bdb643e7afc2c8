//! Sentences of the KMS reference, and what EC2 and EFS make of a key's state, as inputs and what comes out.

use super::*;
use crate::ec2::{self, VolumeStatus};
use crate::{Aws, Profile, efs};

/// AWS in which attachments are records only.
fn aws(profile: Profile) -> Aws {
    Aws::new(&world(), profile)
}

fn world() -> World {
    World { devices: false, ..World::default() }
}

fn kms(aws: &mut Aws, command: Command) -> Result<Vec<Effect>, Reject> {
    let before = format!("{:?}", aws.kms);
    let mut out = Vec::new();
    match aws.step(At(1000), &crate::Input::Kms(Input::Command(command)), &mut out) {
        Ok(()) => Ok(out.into_iter().map(|effect| if let crate::Effect::Kms(effect) = effect { effect } else { panic!() }).collect()),
        Err(crate::Reject::Kms(reject)) => {
            assert_eq!(before, format!("{:?}", aws.kms), "a rejected input changed something");
            Err(reject)
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn create(aws: &mut Aws) -> String {
    match kms(aws, Command::CreateKey { description: "mine".into(), tags: BTreeMap::new() }).unwrap().as_slice() {
        [Effect::Reply(Reply::Key(key))] => key.id.clone(),
        other => panic!("{other:?}"),
    }
}

fn code(result: Result<Vec<Effect>, Reject>) -> &'static str {
    reject_to_error(&result.expect_err("it was accepted")).0
}

fn state(aws: &Aws, key: &str) -> &'static str {
    aws.kms.find(key).unwrap().1.state.name()
}

fn arn(key: &str) -> String {
    format!("arn:aws:kms:us-east-1:000000000000:key/{key}")
}

fn enable(key: &str) -> Command {
    Command::EnableKey { key_id: key.into() }
}

fn disable(key: &str) -> Command {
    Command::DisableKey { key_id: key.into() }
}

fn schedule(key: &str, days: i64) -> Command {
    Command::ScheduleKeyDeletion { key_id: key.into(), days: Some(days) }
}

fn cancel(key: &str) -> Command {
    Command::CancelKeyDeletion { key_id: key.into() }
}

fn alias(name: &str, key: &str) -> Command {
    Command::CreateAlias { name: name.into(), key_id: key.into() }
}

fn fire(aws: &mut Aws, timer: Timer) {
    aws.step(At(2000), &crate::Input::Kms(Input::Fired(timer)), &mut Vec::new()).unwrap();
}

#[test]
fn each_state_allows_what_the_reference_says() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    let invalid = "KMSInvalidStateException";
    for (command, expected) in [
        (disable(&key), Ok("Disabled")),
        (disable(&arn(&key)), Ok("Disabled")),
        (cancel(&key), Err(invalid)),
        (enable(&key), Ok("Enabled")),
        (enable(&key), Ok("Enabled")),
        (schedule(&key, 6), Err("ValidationException")),
        (schedule(&key, 31), Err("ValidationException")),
        (schedule(&key, i64::MIN), Err("ValidationException")),
        (schedule(&key, 7), Ok("PendingDeletion")),
        (schedule(&key, 7), Err(invalid)),
        (enable(&key), Err(invalid)),
        (disable(&key), Err(invalid)),
        (alias("alias/late", &key), Err(invalid)),
        (Command::TagResource { key_id: key.clone(), tags: BTreeMap::new() }, Err(invalid)),
        (cancel(&key), Ok("Disabled")),
        (schedule(&key, 30), Ok("PendingDeletion")),
    ] {
        let before = state(&aws, &key);
        let result = kms(&mut aws, command.clone()).map_err(|reject| reject_to_error(&reject).0);
        match expected {
            Ok(after) => assert!(result.is_ok() && state(&aws, &key) == after, "{command:?} in {before}: {result:?}"),
            Err(code) => assert_eq!((result, state(&aws, &key)), (Err(code), before), "{command:?} in {before}"),
        }
    }
}

#[test]
fn a_key_is_named_by_id_arn_and_alias_and_changed_by_the_first_two() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    kms(&mut aws, alias("alias/mine", &arn(&key))).unwrap();
    for name in [key.clone(), arn(&key), "alias/mine".to_owned(), "arn:aws:kms:us-east-1:000000000000:alias/mine".to_owned()] {
        assert_eq!(aws.kms.find(&name).unwrap().1.id, key, "{name}");
    }
    let missing = "01234567-89ab-4cde-8f01-23456789abcd";
    let texts = [
        (missing, format!("Key '{}' does not exist", arn(missing))),
        ("alias/none", "Alias arn:aws:kms:us-east-1:000000000000:alias/none is not found.".to_owned()),
        ("nonsense", "Invalid keyId 'nonsense'".to_owned()),
        ("", "Invalid keyId ''".to_owned()),
        ("arn:aws:kms:us-east-1:111111111111:key/x", "Key 'arn:aws:kms:us-east-1:111111111111:key/x' does not exist".to_owned()),
    ];
    for (name, text) in texts {
        let reject = aws.kms.find(name).unwrap_err();
        assert_eq!((reject_to_error(&reject).0, reject.to_string()), ("NotFoundException", text));
    }
    assert_eq!(code(kms(&mut aws, disable("alias/mine"))), "NotFoundException");
    let managed = aws.kms.find(EBS).unwrap().1.id.clone();
    for command in [disable(&managed), schedule(&managed, 7), alias("alias/mine2", &managed)] {
        assert_eq!(code(kms(&mut aws, command)), "AccessDeniedException");
    }
}

#[test]
fn aliases_are_unique_and_their_names_are_checked() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    let long = format!("alias/{}", "a".repeat(251));
    for (name, expected) in [
        ("alias/a", None),
        ("alias/a", Some("AlreadyExistsException")),
        ("alias/aws/ebs", Some("NotAuthorizedException")),
        ("alias/", Some("ValidationException")),
        ("a", Some("ValidationException")),
        ("alias/é", Some("ValidationException")),
        (long.as_str(), Some("ValidationException")),
    ] {
        let got = kms(&mut aws, alias(name, &key)).err().map(|reject| reject_to_error(&reject).0);
        assert_eq!(got, expected, "{name}");
    }
    let delete = |name: &str| Command::DeleteAlias { name: name.into() };
    assert_eq!(code(kms(&mut aws, delete("alias/aws/ebs"))), "NotAuthorizedException");
    kms(&mut aws, delete("alias/a")).unwrap();
    assert_eq!(code(kms(&mut aws, delete("alias/a"))), "NotFoundException");
    kms(&mut aws, alias("alias/a", &key)).unwrap();
}

#[test]
fn tags_are_checked() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    let tag = |key: &str, name: &str, value: &str| Command::TagResource {
        key_id: key.into(),
        tags: [(name.to_owned(), value.to_owned())].into(),
    };
    kms(&mut aws, tag(&key, "a", "1")).unwrap();
    assert_eq!(code(kms(&mut aws, tag(&key, "aws:a", "1"))), "TagException");
    assert_eq!(code(kms(&mut aws, tag(&key, "", "1"))), "ValidationException");
    assert_eq!(code(kms(&mut aws, tag(&key, "a", &"x".repeat(257)))), "ValidationException");
    for n in 1..MOST {
        kms(&mut aws, tag(&key, &n.to_string(), "")).unwrap();
    }
    assert_eq!(code(kms(&mut aws, tag(&key, "more", ""))), "LimitExceededException");
    kms(&mut aws, Command::UntagResource { key_id: key.clone(), keys: vec!["1".into()] }).unwrap();
    assert_eq!(aws.kms.find(&key).unwrap().1.tags.len(), MOST - 1);
}

/// Tags that a key can have.
const MOST: usize = 50;

#[test]
fn a_key_goes_with_its_aliases_when_the_days_are_over_unless_cancelled() {
    let mut aws = aws(Profile::Instant);
    let (key, other) = (create(&mut aws), create(&mut aws));
    kms(&mut aws, alias("alias/a", &key)).unwrap();
    let effects = kms(&mut aws, schedule(&key, 7)).unwrap();
    let number = aws.kms.find(&key).unwrap().0;
    assert!(effects.contains(&Effect::Arm(Timer::Deletion(number), Duration::from_secs(7 * 24 * 3600))), "{effects:?}");
    assert_eq!(aws.kms.find(&key).unwrap().1.state.deletion_date(), Some(At(1000 + 7 * 24 * 3600 * 1000)));
    let effects = kms(&mut aws, cancel(&key)).unwrap();
    assert!(effects.contains(&Effect::Disarm(Timer::Deletion(number))), "{effects:?}");
    // Too late: it was fired before it was disarmed.
    fire(&mut aws, Timer::Deletion(number));
    assert_eq!(state(&aws, &key), "Disabled");
    kms(&mut aws, schedule(&key, 7)).unwrap();
    let mut armed = Vec::new();
    aws.step(At(3000), &crate::Input::Kms(Input::Booted), &mut armed).unwrap();
    assert_eq!(armed, [crate::Effect::Kms(Effect::Arm(Timer::Deletion(number), Duration::from_secs(7 * 24 * 3600)))]);
    fire(&mut aws, Timer::Deletion(number));
    assert!(aws.kms.find(&key).is_err() && aws.kms.find("alias/a").is_err() && aws.kms.find(&other).is_ok());
}

#[test]
fn what_was_saved_is_loaded_and_ids_differ() {
    let mut aws = aws(Profile::Instant);
    let (kept, gone) = (create(&mut aws), create(&mut aws));
    kms(&mut aws, alias("alias/a", &kept)).unwrap();
    kms(&mut aws, disable(&kept)).unwrap();
    let mut records = BTreeMap::new();
    let mut save = |aws: &mut Aws| {
        for Dirty { table, key, value } in aws.take_dirty() {
            match value {
                Some(value) => drop(records.insert((table, key), value)),
                None => drop(records.remove(&(table, key))),
            }
        }
        records.clone()
    };
    save(&mut aws);
    kms(&mut aws, schedule(&gone, 7)).unwrap();
    let number = aws.kms.find(&gone).unwrap().0;
    fire(&mut aws, Timer::Deletion(number));
    let records = save(&mut aws);
    let rows = records.iter().map(|((table, key), value)| (*table, key.as_str(), value.as_slice()));
    let mut again = Aws::load(&world(), Profile::Instant, rows).unwrap();
    assert_eq!(format!("{:?}", again.kms), format!("{:?}", aws.kms));
    let third = create(&mut again);
    assert!(third != kept && third != gone);
    let ids: std::collections::BTreeSet<String> = (0..10_000).map(|number| aws.kms.uuid(number)).collect();
    assert!(ids.len() == 10_000 && ids.iter().all(|id| id.len() == 36));
}

fn ec2(aws: &mut Aws, command: ec2::Command) -> Result<ec2::Reply, ec2::Reject> {
    let mut out = Vec::new();
    match aws.step(At(0), &crate::Input::Ec2(ec2::Input::Command(command)), &mut out) {
        Ok(()) => Ok(out.into_iter().find_map(|e| if let crate::Effect::Ec2(ec2::Effect::Reply(r)) = e { Some(r) } else { None }).unwrap()),
        Err(crate::Reject::Ec2(reject)) => Err(reject),
        Err(other) => panic!("{other:?}"),
    }
}

/// A volume as the answer of CreateVolume shows it, and its id.
fn volume(aws: &mut Aws, change: impl FnOnce(&mut ec2::CreateVolume)) -> (ec2::Volume, String) {
    let mut request = ec2::CreateVolume { zone: Some("us-east-1a".into()), size_gib: Some(1), ..Default::default() };
    change(&mut request);
    let ec2::Reply::Volume(volume) = ec2(aws, ec2::Command::CreateVolume(request)).unwrap() else { panic!() };
    let id = volume.key.id(aws.ec2.seed());
    (*volume, id)
}

#[test]
fn a_volume_has_the_key_that_was_named_or_the_default_one() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    kms(&mut aws, alias("alias/a", &key)).unwrap();
    let default = aws.kms.grant(None, EBS).arn;
    for (encrypted, name, expected) in [
        (false, None, None),
        (true, None, Some(default.clone())),
        (true, Some(EBS.to_owned()), Some(default)),
        (true, Some(key.clone()), Some(arn(&key))),
        (false, Some(arn(&key)), Some(arn(&key))),
        (true, Some("alias/a".to_owned()), Some(arn(&key))),
    ] {
        let (made, id) = volume(&mut aws, |request| (request.encrypted, request.kms_key_id) = (encrypted, name.clone()));
        assert_eq!((made.encrypted, made.kms_key_id), (expected.is_some(), expected), "{encrypted} {name:?}");
        assert_eq!(aws.ec2.volume_by_id(&id).unwrap().status(), VolumeStatus::Available);
    }
}

#[test]
fn a_volume_whose_key_cannot_be_used_is_accepted_and_goes() {
    let mut aws = aws(Profile::Aws);
    let (disabled, pending) = (create(&mut aws), create(&mut aws));
    kms(&mut aws, disable(&disabled)).unwrap();
    kms(&mut aws, schedule(&pending, 7)).unwrap();
    for name in ["alias/none", "nonsense", &disabled, &pending, &arn("01234567-89ab-4cde-8f01-23456789abcd")] {
        let (made, id) = volume(&mut aws, |request| {
            (request.kms_key_id, request.client_token) = (Some(name.to_owned()), Some(name.to_owned()));
        });
        assert_eq!(made.status(), VolumeStatus::Creating);
        assert_eq!(aws.ec2.volume_by_id(&id).map(ec2::Volume::status), Some(VolumeStatus::Creating), "{name}: as long as on AWS");
        let settle = crate::Input::Ec2(ec2::Input::Fired(ec2::Timer::Settle(made.key)));
        aws.step(At(0), &settle, &mut Vec::new()).unwrap();
        assert_eq!(aws.ec2.volume_by_id(&id), None, "{name}");
        let again = ec2::CreateVolume {
            zone: Some("us-east-1a".into()),
            size_gib: Some(1),
            kms_key_id: Some(name.to_owned()),
            client_token: Some(name.to_owned()),
            ..Default::default()
        };
        assert_eq!(ec2(&mut aws, ec2::Command::CreateVolume(again)), Err(ec2::Reject::TokenDeleted));
    }
}

#[test]
fn a_volume_whose_key_is_disabled_cannot_be_attached_and_its_snapshot_not_restored() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    let (_, id) = volume(&mut aws, |request| request.kms_key_id = Some(key.clone()));
    let ec2::Reply::Snapshot(snapshot) =
        ec2(&mut aws, ec2::Command::CreateSnapshot { volume_id: id.clone(), description: String::new(), tags: vec![] }).unwrap()
    else {
        panic!()
    };
    let snapshot = snapshot.key.id(aws.ec2.seed());
    let instance_id = aws.ec2.instances().find(|instance| instance.zone == "us-east-1a").unwrap().id.to_string();
    let attach = ec2::Command::AttachVolume { volume_id: id.clone(), instance_id, device: "/dev/xvdaa".into(), card_index: None };
    let restore = |aws: &mut Aws| {
        let (made, id) = volume(aws, |request| (request.encrypted, request.snapshot_id) = (false, Some(snapshot.clone())));
        assert_eq!(made.kms_key_id, Some(arn(&key)), "a restored volume has the snapshot's key");
        aws.ec2.volume_by_id(&id).is_some()
    };
    let copy = |aws: &mut Aws| {
        let command = ec2::Command::CopyVolumes(ec2::CopyVolumes { source_volume_id: id.clone(), ..Default::default() });
        let Ok(ec2::Reply::Volumes(copies)) = ec2(aws, command) else { panic!() };
        aws.ec2.volume_by_id(&copies[0].key.id(aws.ec2.seed())).is_some()
    };
    kms(&mut aws, disable(&key)).unwrap();
    let reject = ec2(&mut aws, attach.clone()).unwrap_err();
    let text = format!("Volume {id} cannot be attached. The encrypted volume was unable to access the KMS key.");
    assert_eq!(ec2::reject_to_error(&reject), ("CustomerKeyHasBeenRevoked", text, 400));
    assert_eq!(aws.dry_run(&attach), Err(reject));
    assert!(!restore(&mut aws) && !copy(&mut aws));
    kms(&mut aws, enable(&key)).unwrap();
    assert!(restore(&mut aws) && copy(&mut aws));
    ec2(&mut aws, attach).unwrap();
    // What refused copies read from is free again.
    assert!(aws.ec2.volume_by_id(&id).unwrap().readers.is_empty());
}

#[test]
fn a_file_system_has_the_key_that_was_named_or_the_default_one() {
    let mut aws = aws(Profile::Instant);
    let key = create(&mut aws);
    let make = |aws: &mut Aws, token: &str, name: Option<&str>| {
        let new = efs::NewFileSystem {
            creation_token: token.into(),
            encrypted: Some(true),
            kms_key_id: name.map(str::to_owned),
            ..Default::default()
        };
        let mut out = Vec::new();
        aws.step(At(0), &crate::Input::Efs(efs::Input::Command(efs::Command::CreateFileSystem(new))), &mut out)?;
        Ok(out.into_iter().find_map(|effect| match effect {
            crate::Effect::Efs(efs::Effect::Reply(efs::Reply::FileSystem(row, _))) => row.kms_key_id,
            _ => None,
        }))
    };
    assert_eq!(make(&mut aws, "a", None), Ok(Some(aws.kms.grant(None, EFS).arn)));
    assert_eq!(make(&mut aws, "b", Some(&key)), Ok(Some(arn(&key))));
    kms(&mut aws, disable(&key)).unwrap();
    for name in [key.as_str(), "alias/none"] {
        let Err(crate::Reject::Efs(reject)) = make(&mut aws, "c", Some(name)) else { panic!() };
        let error = efs::reject_to_error(&reject);
        assert_eq!((error.code, error.status), ("BadRequest", 400), "{}", error.message);
    }
}
