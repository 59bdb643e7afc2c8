//! EC2 beside a reference: what the EBS guide says of volumes, attachments, modifications and snapshots, in one struct without works,
//! timers or files. Both get the same calls; each answer and all that describe calls show must be the same, whatever crashes between.

mod account;
#[path = "../outside/mod.rs"]
mod outside;

use std::collections::BTreeMap;

use account::{Account, Call, Life, NODES, ZONES};
use model_aws::Profile;
use model_aws::ec2::{Command, CreateVolume, ModifyVolume, Paging, Timer, Work, reject_to_error};
use outside::{Outside, instance, nodes};
use proptest::prelude::*;
use proptest_state_machine::{StateMachineTest, prop_state_machine};

/// The machine with its outside, and the ids of what was made.
struct Ec2 {
    outside: Outside,
    volumes: Vec<String>,
    snapshots: Vec<String>,
}

impl Ec2 {
    fn request(&self, call: &Call) -> Option<Command> {
        let named = |v: usize| self.volumes[v].clone();
        Some(match *call {
            Call::Create { zone, shared, size, from } => Command::CreateVolume(CreateVolume {
                zone: Some(ZONES[zone].to_owned()),
                volume_type: Some(if shared { "io2" } else { "gp3" }.to_owned()),
                iops: shared.then_some(100),
                multi_attach: shared,
                size_gib: Some(size),
                snapshot_id: from.map(|from| self.snapshots[from].clone()),
                ..CreateVolume::default()
            }),
            Call::Delete(v) => Command::DeleteVolume { volume_id: named(v) },
            Call::Modify(v, size) => {
                Command::ModifyVolume(ModifyVolume { volume_id: named(v), size_gib: Some(size), ..ModifyVolume::default() })
            }
            Call::Attach(v, node, device) => Command::AttachVolume {
                volume_id: named(v),
                instance_id: instance(node).to_string(),
                device: format!("/dev/sd{device}"),
                card_index: None,
            },
            Call::Detach(v, node, force) => {
                Command::DetachVolume { volume_id: named(v), instance_id: Some(instance(node).to_string()), device: None, force }
            }
            Call::Snapshot(v) => Command::CreateSnapshot { volume_id: named(v), description: String::new(), tags: Vec::new() },
            Call::DeleteSnapshot(s) => Command::DeleteSnapshot { snapshot_id: self.snapshots[s].clone() },
            _ => return None,
        })
    }

    fn pass(&mut self) {
        // Where a device stays in use it is asked for again and again: no rest, and nothing else moves.
        let _ = self.outside.settle();
    }

    fn fire(&mut self, which: impl Fn(&Timer) -> bool) {
        for timer in self.outside.timers.clone().into_iter().filter(which) {
            self.outside.timers.remove(&timer);
            self.outside.step(&model_aws::ec2::Input::Fired(timer)).unwrap();
        }
    }
}

impl StateMachineTest for Ec2 {
    type SystemUnderTest = Self;
    type Reference = Account;

    fn init_test(_: &Account) -> Self {
        let outside = Outside::new(&nodes(NODES as u8), Profile::Aws);
        Self { outside, volumes: Vec::new(), snapshots: Vec::new() }
    }

    fn apply(mut ec2: Self, account: &Account, call: Call) -> Self {
        if let Some(command) = ec2.request(&call) {
            let verdict = ec2.outside.command(command).map_err(|reject| reject_to_error(&reject).0);
            match (&verdict, &call) {
                (Ok(()), Call::Create { .. }) => {
                    let key = ec2.outside.state.volumes().map(|volume| volume.key).max().unwrap();
                    ec2.volumes.push(ec2.outside.id(key));
                }
                (Ok(()), Call::Snapshot(_)) => {
                    let key = ec2.outside.state.snapshots().map(|snapshot| snapshot.key).max().unwrap();
                    ec2.snapshots.push(key.id(ec2.outside.state.seed()));
                }
                _ => {}
            }
            let broken = &account.broken;
            match verdict {
                Ok(()) => assert!(broken.is_empty(), "{call:?} was accepted, and breaks {broken:?}"),
                Err(code) => assert!(broken.contains(code), "{call:?} was refused with {code}, and breaks {broken:?}"),
            }
            return ec2;
        }
        match call {
            Call::Work(n) => {
                let works: Vec<Work> = ec2.outside.works.keys().cloned().collect();
                if let Some(work) = works.get(n % works.len().max(1)) {
                    if ec2.outside.works[work].is_none() { ec2.outside.perform(work) } else { ec2.outside.report(work) }
                }
            }
            Call::Use(v, node) => drop(ec2.outside.mounted.insert((instance(node), ec2.volumes[v].clone()))),
            Call::Release(v, node) => drop(ec2.outside.mounted.remove(&(instance(node), ec2.volumes[v].clone()))),
            Call::Wait => ec2.pass(),
            Call::Crash => {
                ec2.outside.crash(&nodes(NODES as u8), Profile::Aws);
                ec2.pass();
            }
            Call::PowerCut(node) => {
                ec2.outside.kill_node(&instance(node));
                ec2.pass();
            }
            Call::Day => {
                ec2.pass();
                ec2.fire(|timer| matches!(timer, Timer::ModificationForgotten(..)));
            }
            _ => {}
        }
        ec2
    }

    fn check_invariants(ec2: &Self, account: &Account) {
        let state = &ec2.outside.state;
        let shown: BTreeMap<String, String> = state
            .describe_volumes(&[] as &[String], &[], &Paging::default())
            .unwrap()
            .items
            .into_iter()
            .map(|volume| {
                let attached: Vec<String> = volume
                    .attachments
                    .iter()
                    // A device that is in use shows as busy once it was tried to take it away.
                    .map(|(node, there)| format!("{node} {} {}", there.device, there.status().name().replace("busy", "detaching")))
                    .collect();
                (volume.key.id(state.seed()), format!("{} {} GiB {attached:?}", volume.status().name(), volume.spec.size_gib))
            })
            .collect();
        let volumes = ec2.volumes.iter().zip(&account.volumes).filter(|(_, volume)| volume.life != Life::Gone);
        let expected = volumes.map(|(id, volume)| (id.clone(), volume.shown())).collect();
        assert_eq!(shown, expected);
        let shown: BTreeMap<String, String> = state
            .describe_snapshots(&[] as &[String], &[], &Paging::default())
            .unwrap()
            .items
            .into_iter()
            .map(|snapshot| (snapshot.key.id(state.seed()), format!("{} {} GiB", snapshot.status().name(), snapshot.size_gib)))
            .collect();
        let snapshots = ec2.snapshots.iter().zip(&account.snapshots).filter(|(_, snapshot)| snapshot.life != Life::Gone);
        let expected = snapshots.map(|(id, snapshot)| (id.clone(), snapshot.shown())).collect();
        assert_eq!(shown, expected);
        assert_eq!(ec2.outside.violation(), None);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    /// Every answer and every description is as the reference says.
    #[test]
    fn ec2_answers_as_the_guide_says(sequential 1..100 => Ec2);
}
