//! Random lives of a few volumes and snapshots, with crashes, dead nodes, failing works: nothing panics, what must hold holds, the
//! indexes say what a scan says, and left alone all comes to rest.

mod outside;

use model_aws::Profile;
use model_aws::ec2::{Command, CopyVolumes, CreateVolume, Failure, Filter, Input, ModifyVolume, Paging, TagItem, Timer, Work};
use outside::{Outside, instance, nodes};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Action {
    Create {
        volume_type: usize,
        size: u32,
        snapshot: Option<usize>,
        token: Option<u8>,
        tag: u8,
    },
    Copy {
        volume: usize,
    },
    Delete {
        volume: usize,
    },
    Modify {
        volume: usize,
        size: u32,
    },
    Attach {
        volume: usize,
        node: usize,
        device: u8,
    },
    Detach {
        volume: usize,
        node: usize,
        force: bool,
    },
    Snapshot {
        volume: usize,
    },
    DeleteSnapshot {
        snapshot: usize,
    },
    Tag {
        volume: usize,
        tag: u8,
    },
    Untag {
        volume: usize,
    },
    /// Performs or reports one of the works in flight.
    Work {
        which: usize,
    },
    Fail {
        which: usize,
    },
    Fire {
        which: usize,
    },
    Mount {
        which: usize,
    },
    Unmount,
    Crash,
    Kill {
        node: usize,
    },
    Connect {
        node: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let volume = 0..6usize;
    let node = 0..2usize;
    prop_oneof![
        6 => (0..3usize, 1..6u32, proptest::option::weighted(0.3, 0..4usize), proptest::option::weighted(0.3, 0..3u8), 0..3u8)
            .prop_map(|(volume_type, size, snapshot, token, tag)| Action::Create { volume_type, size, snapshot, token, tag }),
        1 => volume.clone().prop_map(|volume| Action::Copy { volume }),
        3 => volume.clone().prop_map(|volume| Action::Delete { volume }),
        2 => (volume.clone(), 1..9u32).prop_map(|(volume, size)| Action::Modify { volume, size }),
        6 => (volume.clone(), node.clone(), b'b'..b'f').prop_map(|(volume, node, device)| Action::Attach { volume, node, device }),
        4 => (volume.clone(), node.clone(), any::<bool>()).prop_map(|(volume, node, force)| Action::Detach { volume, node, force }),
        2 => volume.clone().prop_map(|volume| Action::Snapshot { volume }),
        1 => (0..4usize).prop_map(|snapshot| Action::DeleteSnapshot { snapshot }),
        1 => (volume.clone(), 0..3u8).prop_map(|(volume, tag)| Action::Tag { volume, tag }),
        1 => volume.prop_map(|volume| Action::Untag { volume }),
        24 => (0..8usize).prop_map(|which| Action::Work { which }),
        2 => (0..8usize).prop_map(|which| Action::Fail { which }),
        6 => (0..8usize).prop_map(|which| Action::Fire { which }),
        2 => (0..4usize).prop_map(|which| Action::Mount { which }),
        2 => Just(Action::Unmount),
        1 => Just(Action::Crash),
        1 => node.clone().prop_map(|node| Action::Kill { node }),
        3 => node.prop_map(|node| Action::Connect { node }),
    ]
}

fn pick<T: Clone>(items: impl Iterator<Item = T>, which: usize) -> Option<T> {
    let items: Vec<T> = items.collect();
    items.get(which % items.len().max(1)).cloned()
}

fn apply(outside: &mut Outside, action: &Action, profile: Profile) {
    let seed = outside.state.seed();
    let volume = |outside: &Outside, which| pick(outside.state.volumes().map(|volume| volume.key.id(seed)), which);
    let snapshot = |outside: &Outside, which| pick(outside.state.snapshots().map(|snapshot| snapshot.key.id(seed)), which);
    let tag = |n: u8| TagItem { key: "t".to_owned(), value: Some(n.to_string()) };
    let command = match action {
        Action::Create { volume_type, size, snapshot: from, token, tag: n } => {
            let (name, iops) = [("gp3", None), ("gp2", None), ("io2", Some(100))][*volume_type];
            Some(Command::CreateVolume(CreateVolume {
                zone: Some("us-east-1a".to_owned()),
                volume_type: Some(name.to_owned()),
                iops,
                multi_attach: iops.is_some(),
                size_gib: Some(*size),
                snapshot_id: from.and_then(|from| snapshot(outside, from)),
                client_token: token.map(|token| token.to_string()),
                tags: vec![tag(*n)],
                ..CreateVolume::default()
            }))
        }
        Action::Copy { volume: v } => {
            volume(outside, *v).map(|source_volume_id| Command::CopyVolumes(CopyVolumes { source_volume_id, ..CopyVolumes::default() }))
        }
        Action::Delete { volume: v } => volume(outside, *v).map(|volume_id| Command::DeleteVolume { volume_id }),
        Action::Modify { volume: v, size } => volume(outside, *v)
            .map(|volume_id| Command::ModifyVolume(ModifyVolume { volume_id, size_gib: Some(*size), ..ModifyVolume::default() })),
        Action::Attach { volume: v, node, device } => volume(outside, *v).map(|volume_id| Command::AttachVolume {
            volume_id,
            instance_id: instance(*node).to_string(),
            device: format!("/dev/xvd{}", char::from(*device)),
            card_index: None,
        }),
        Action::Detach { volume: v, node, force } => volume(outside, *v).map(|volume_id| Command::DetachVolume {
            volume_id,
            instance_id: Some(instance(*node).to_string()),
            device: None,
            // Against a node that is away force may leave a device behind until it is back.
            force: *force && outside.connected.contains(&instance(*node)),
        }),
        Action::Snapshot { volume: v } => {
            volume(outside, *v).map(|volume_id| Command::CreateSnapshot { volume_id, description: String::new(), tags: vec![tag(0)] })
        }
        Action::DeleteSnapshot { snapshot: s } => snapshot(outside, *s).map(|snapshot_id| Command::DeleteSnapshot { snapshot_id }),
        Action::Tag { volume: v, tag: n } => volume(outside, *v).map(|id| Command::CreateTags { resources: vec![id], tags: vec![tag(*n)] }),
        Action::Untag { volume: v } => volume(outside, *v).map(|id| Command::DeleteTags { resources: vec![id], tags: vec![] }),
        Action::Work { which } => {
            let works: Vec<(Work, bool)> = outside.works.iter().map(|(work, done)| (work.clone(), done.is_some())).collect();
            match pick(works.into_iter(), *which) {
                Some((work, true)) => outside.report(&work),
                Some((work, false)) => outside.perform(&work),
                None => {}
            }
            None
        }
        Action::Fail { which } => {
            let idle: Vec<Work> = outside.works.iter().filter(|(_, done)| done.is_none()).map(|(work, _)| work.clone()).collect();
            if let Some(work) = pick(idle.into_iter(), *which) {
                outside.works.insert(work.clone(), Some(Err(Failure::Failed { message: "disk full".to_owned() })));
                outside.report(&work);
            }
            None
        }
        Action::Fire { which } => {
            if let Some(timer) = pick(outside.timers.clone().into_iter(), *which) {
                // The day-long ones come rarely enough through their number.
                outside.timers.remove(&timer);
                outside.step(&Input::Fired(timer)).unwrap();
            }
            None
        }
        Action::Mount { which } => {
            let device = pick(outside.names.keys().cloned(), *which);
            outside.mounted.extend(device);
            None
        }
        Action::Unmount => {
            outside.mounted.clear();
            None
        }
        Action::Crash => {
            outside.crash(&nodes(2), profile);
            None
        }
        Action::Kill { node } => {
            if outside.connected.contains(&instance(*node)) {
                outside.kill_node(&instance(*node));
            }
            None
        }
        Action::Connect { node } => {
            if !outside.connected.contains(&instance(*node)) {
                outside.connect(&instance(*node));
            }
            None
        }
    };
    if let Some(command) = command {
        // Either verdict is right here; a reject must not change anything, which the step checks.
        let _ = outside.command(command);
    }
}

/// What an index answers is what looking at every volume answers.
fn indexes_agree(outside: &Outside) -> Result<(), TestCaseError> {
    let filter = |name: &str, value: &str| vec![Filter { name: name.to_owned(), values: vec![value.to_owned()] }];
    // A wildcard keeps the index out of it.
    let scan = |value: &str| format!("{value}*");
    let mut asked = vec![];
    for status in ["creating", "available", "in-use", "deleting", "error"] {
        asked.push(("status", status.to_owned()));
    }
    asked.extend((0..3).map(|n| ("tag:t", n.to_string())));
    asked.extend((0..2).map(|n| ("attachment.instance-id", instance(n).to_string())));
    asked.extend(outside.state.snapshots().map(|snapshot| ("snapshot-id", snapshot.key.id(outside.state.seed()))));
    for (name, value) in asked {
        let keys = |value: &str| {
            let page = outside.state.describe_volumes(&[""; 0], &filter(name, value), &Paging::default()).unwrap();
            page.items.iter().map(|volume| volume.key).collect::<Vec<_>>()
        };
        prop_assert_eq!(keys(&value), keys(&scan(&value)), "{} {}", name, value);
    }
    Ok(())
}

/// Volumes or snapshots that were given up after failures stay in `error`; deleting them is the way out.
fn remove_errors(outside: &mut Outside) {
    let seed = outside.state.seed();
    let broken: Vec<String> =
        outside.state.volumes().filter(|volume| volume.status().name() == "error").map(|volume| volume.key.id(seed)).collect();
    for volume_id in broken {
        outside.command(Command::DeleteVolume { volume_id }).unwrap();
    }
    outside.timers.retain(|timer| !matches!(timer, Timer::Token(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    #[test]
    fn lives_of_volumes(actions in proptest::collection::vec(action(), 1..120), slow in any::<bool>()) {
        let profile = if slow { Profile::Aws } else { Profile::Instant };
        let mut outside = Outside::new(&nodes(2), profile);
        for action in &actions {
            apply(&mut outside, action, profile);
            if let Some(problem) = outside.violation() {
                return Err(TestCaseError::fail(format!("{problem} after {action:?}")));
            }
        }
        indexes_agree(&outside)?;
        outside.mounted.clear();
        prop_assert!(outside.settle(), "no rest: {:?} {:?}", outside.works, outside.timers);
        remove_errors(&mut outside);
        prop_assert!(outside.settle());
        prop_assert_eq!(outside.unrest(), None);
        indexes_agree(&outside)?;
    }
}
