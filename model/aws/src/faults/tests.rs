//! The table with volumes that meet it, in a world in which works end at once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ec2::{self, AttachmentStatus, CreateVolume, Have, SnapshotStatus, TagItem, Work};
use crate::world::World;
use crate::{At, Aws, Profile};

/// An AWS whose works are done as they come, and what else came of it.
struct Shell {
    aws: Aws,
    saved: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<Timer, Duration>,
    volumes: BTreeSet<ec2::Timer>,
    works: Vec<Work>,
    hits: Vec<Hit>,
    cuts: Vec<String>,
}

impl Shell {
    fn new() -> Self {
        let aws = Aws::new(&World::default(), Profile::Instant);
        let (saved, faults, volumes) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut shell = Self { aws, saved, faults, volumes, works: Vec::new(), hits: Vec::new(), cuts: Vec::new() };
        let instances: Vec<_> = shell.aws.ec2.instances().map(|instance| instance.id.clone()).collect();
        for instance in instances {
            shell.ec2(ec2::Input::Connected { instance, no_devices: None, devices: Vec::new() }).unwrap();
        }
        shell
    }

    fn step(&mut self, input: crate::Input) -> Result<Vec<crate::Effect>, crate::Reject> {
        let mut effects = Vec::new();
        let before = self.aws.faults.clone();
        let verdict = self.aws.step(At(1), &input, &mut effects);
        if let Err(reject) = verdict {
            assert_eq!(self.aws.faults, before, "a reject changed the table");
            return Err(reject);
        }
        for dirty in self.aws.take_dirty().into_iter().filter(|dirty| dirty.table == TABLE) {
            match dirty.value {
                Some(value) => self.saved.insert(dirty.key, value),
                None => self.saved.remove(&dirty.key),
            };
        }
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                crate::Effect::Faults(Effect::Arm(timer, after)) => drop(self.faults.insert(timer, after)),
                crate::Effect::Faults(Effect::Disarm(timer)) => drop(self.faults.remove(&timer)),
                crate::Effect::Faults(Effect::Hit(hit)) => self.hits.push(hit),
                crate::Effect::Faults(Effect::Cut { instance }) => self.cuts.push(instance),
                crate::Effect::Ec2(ec2::Effect::Arm(timer, _)) => drop(self.volumes.insert(timer)),
                crate::Effect::Ec2(ec2::Effect::Disarm(timer)) => drop(self.volumes.remove(&timer)),
                crate::Effect::Ec2(ec2::Effect::Run(work)) => {
                    self.works.push(work.clone());
                    self.ec2(ec2::Input::Done(work, Ok(())))?;
                }
                reply => replies.push(reply),
            }
        }
        Ok(replies)
    }

    fn ec2(&mut self, input: ec2::Input) -> Result<Vec<crate::Effect>, crate::Reject> {
        self.step(crate::Input::Ec2(input))
    }

    fn command(&mut self, command: Command) -> Result<Vec<Fault>, String> {
        match self.step(crate::Input::Faults(Input::Command(command))).map_err(|reject| reject.to_string())?.as_slice() {
            [crate::Effect::Faults(Effect::Reply(Reply::Faults(faults)))] => Ok(faults.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, rule: Rule) -> String {
        self.command(Command::Add { rules: vec![rule] }).unwrap()[0].id()
    }

    fn remove(&mut self, id: &str) {
        self.command(Command::Remove { ids: vec![id.to_owned()] }).unwrap();
    }

    fn call(&mut self, service: &str, operation: &str, names: &[&str]) -> Verdict {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let call = Call { service: service.into(), operation: operation.into(), region: Some("us-east-1".into()), names, dry_run: false };
        assert!(self.aws.faults.concerns(&call) || !self.would_hit(&call));
        match self.step(crate::Input::Faults(Input::Call(call))).unwrap().as_slice() {
            [crate::Effect::Faults(Effect::Reply(Reply::Verdict(verdict)))] => verdict.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// A call that nothing concerns must not be met.
    fn would_hit(&self, call: &Call) -> bool {
        self.aws.faults.clone().judge(call, &mut Vec::new()) != Verdict::default()
    }

    fn code(&mut self, service: &str, operation: &str, names: &[&str]) -> Option<String> {
        self.call(service, operation, names).error.map(|error| error.code)
    }

    fn volume(&mut self, name: &str) -> String {
        let tags = vec![TagItem { key: "CSIVolumeName".into(), value: Some(name.into()) }];
        let request = CreateVolume { zone: Some("us-east-1a".into()), size_gib: Some(1), tags, ..CreateVolume::default() };
        self.ec2(ec2::Input::Command(ec2::Command::CreateVolume(request))).unwrap();
        self.aws.ec2.volumes().last().unwrap().key.id(self.aws.ec2.seed())
    }

    fn instance(&self) -> String {
        self.aws.ec2.instances().find(|instance| instance.zone == "us-east-1a").unwrap().id.to_string()
    }

    fn attach(&mut self, volume: &str, device: &str) -> Result<(), crate::Reject> {
        let (volume_id, instance_id, device) = (volume.to_owned(), self.instance(), device.to_owned());
        self.ec2(ec2::Input::Command(ec2::Command::AttachVolume { volume_id, instance_id, device, card_index: None })).map(drop)
    }

    fn detach(&mut self, volume: &str, force: bool) -> Result<(), crate::Reject> {
        let command = ec2::Command::DetachVolume { volume_id: volume.to_owned(), instance_id: None, device: None, force };
        self.ec2(ec2::Input::Command(command)).map(drop)
    }

    /// What DescribeVolumes shows of the attachment, and whether the device is there.
    fn attachment(&self, volume: &str) -> Option<(&'static str, bool)> {
        let attachment = self.aws.ec2.volume_by_id(volume)?.attachments.values().next()?;
        Some((attachment.status().name(), matches!(attachment.have, Have::Up { .. })))
    }

    fn fire(&mut self, timer: &ec2::Timer) {
        assert!(self.volumes.remove(timer), "{timer:?} is not armed");
        self.ec2(ec2::Input::Fired(timer.clone())).unwrap();
    }

    fn restart(&mut self) {
        let records = self.saved.iter().map(|(key, value)| (TABLE, key.as_str(), value.as_slice()));
        let again = Aws::load(&World::default(), Profile::Instant, records).unwrap();
        let same = |state: &State| (state.next, state.faults.clone());
        assert_eq!(same(&again.faults), same(&self.aws.faults));
    }
}

fn rule(action: Action) -> Rule {
    Rule::new(action)
}

fn span(text: &str) -> Option<Span> {
    Some(text.parse().unwrap())
}

#[test]
fn only_a_rule_that_names_it_means_the_metadata_service() {
    let mut shell = Shell::new();
    shell.add(rule(Action::Unavailable));
    assert!(shell.call("imds", "meta-data/instance-id", &[]).error.is_none());
    shell.add(Rule { service: Some("imds".into()), operation: Some("meta-data/*".into()), ..rule(Action::Unavailable) });
    assert_eq!(shell.call("imds", "meta-data/instance-id", &[]).error.unwrap().status, 503);
    assert!(shell.call("imds", "api/token", &[]).error.is_none());
    // The same goes for mounts of EFS.
    assert!(shell.call("nfs", "Mount", &["fs-1"]).error.is_none());
    shell.add(Rule { service: Some("nfs".into()), resource: Some("fs-1".into()), ..rule(Action::Error) });
    assert_eq!(shell.call("nfs", "Mount", &["fs-1"]).error.unwrap().code, "AccessDenied");
    assert!(shell.call("nfs", "Mount", &["fs-2"]).error.is_none());
}

#[test]
fn each_service_has_its_own_words_for_a_refusal() {
    for (action, service, code, status) in [
        (Action::Throttle, "ec2", "RequestLimitExceeded", 503),
        (Action::Throttle, "elasticfilesystem", "ThrottlingException", 429),
        (Action::InternalError, "ec2", "InternalError", 500),
        (Action::InternalError, "elasticfilesystem", "InternalServerError", 500),
        (Action::Unavailable, "ec2", "Unavailable", 503),
        (Action::Error, "sts", "ServiceUnavailable", 503),
    ] {
        let mut shell = Shell::new();
        shell.add(rule(action));
        let error = shell.call(service, "Anything", &[]).error.unwrap();
        assert_eq!((error.code.as_str(), error.status), (code, status), "{action} {service}");
    }
    let mut shell = Shell::new();
    let error = GivenError { status_code: Some(418), code: Some("Teapot".into()), message: Some("short and stout".into()) };
    shell.add(Rule { error: Some(error), ..rule(Action::Error) });
    let error = shell.call("kms", "ListKeys", &[]).error.unwrap();
    assert_eq!((error.status, error.code.as_str(), error.message.as_str()), (418, "Teapot", "short and stout"));
}

#[test]
fn a_rule_meets_what_it_says() {
    let meets = |change: fn(&mut Rule), service: &str, operation: &str, names: &[&str]| {
        let mut shell = Shell::new();
        let mut rule = rule(Action::Throttle);
        change(&mut rule);
        shell.add(rule);
        shell.code(service, operation, names).is_some()
    };
    let attach: fn(&mut Rule) = |rule| rule.operation = Some("AttachVolume, Create*".into());
    assert!(meets(attach, "ec2", "AttachVolume", &[]) && meets(attach, "ec2", "CreateTags", &[]));
    assert!(!meets(attach, "ec2", "DetachVolume", &[]));
    let efs: fn(&mut Rule) = |rule| rule.service = Some("efs".into());
    assert!(meets(efs, "elasticfilesystem", "CreateAccessPoint", &[]) && !meets(efs, "ec2", "CreateVolume", &[]));
    let volume: fn(&mut Rule) = |rule| rule.resource = Some("vol-1".into());
    assert!(meets(volume, "ec2", "DeleteVolume", &["vol-1"]) && !meets(volume, "ec2", "DeleteVolume", &["vol-2"]));
    let region: fn(&mut Rule) = |rule| rule.region = Some("us-east-1".into());
    let elsewhere: fn(&mut Rule) = |rule| rule.region = Some("eu-west-1".into());
    assert!(meets(region, "ec2", "DeleteVolume", &[]) && !meets(elsewhere, "ec2", "DeleteVolume", &[]));
}

#[test]
fn a_node_is_meant_by_its_name_or_its_instance() {
    let mut shell = Shell::new();
    let instance = shell.instance();
    let name = shell.aws.ec2.instance(&instance).unwrap().node.clone().unwrap();
    shell.add(Rule { node: Some(name), ..rule(Action::Throttle) });
    assert!(shell.code("ec2", "AttachVolume", &["vol-1", &instance]).is_some());
    assert!(shell.code("ec2", "AttachVolume", &["vol-1", "i-0123"]).is_none());
    let unknown = shell.command(Command::Add { rules: vec![Rule { node: Some("nowhere".into()), ..rule(Action::Throttle) }] });
    assert!(unknown.unwrap_err().contains("nowhere"));
}

#[test]
fn calls_pass_before_and_after_the_counted_ones() {
    let mut shell = Shell::new();
    let id = shell.add(Rule { after_calls: Some(2), count: Some(3), ..rule(Action::Throttle) });
    let met: Vec<bool> = (0..8).map(|_| shell.code("ec2", "CreateVolume", &[]).is_some()).collect();
    assert_eq!(met, [false, false, true, true, true, false, false, false]);
    let fault = shell.aws.faults.fault(&id).unwrap();
    assert!(fault.spent() && (fault.hits, fault.calls) == (3, 5));
    assert_eq!(shell.hits.len(), 3);
    assert_eq!(shell.aws.faults.hits().collect::<Vec<_>>(), [(Action::Throttle, 3)]);
    shell.restart();
}

#[test]
fn a_probability_is_a_share_and_the_same_again() {
    let run = || {
        let mut shell = Shell::new();
        shell.add(Rule { probability: Some(0.3.try_into().unwrap()), ..rule(Action::Throttle) });
        (0..1000).map(|_| shell.code("ec2", "CreateVolume", &[]).is_some()).collect::<Vec<_>>()
    };
    let met = run();
    assert_eq!(met, run());
    let hits = met.iter().filter(|met| **met).count();
    assert!((250..350).contains(&hits), "{hits}");
}

#[test]
fn the_first_refusal_counts_and_delays_add_to_it() {
    let mut shell = Shell::new();
    shell.add(Rule { delay: span("1s"), ..rule(Action::Latency) });
    shell.add(Rule { delay: span("2s"), ..rule(Action::Latency) });
    let first = shell.add(rule(Action::Unavailable));
    let second = shell.add(rule(Action::Throttle));
    let verdict = shell.call("ec2", "CreateVolume", &[]);
    assert_eq!((verdict.delay, verdict.error.map(|error| error.code)), (span("1s"), Some("Unavailable".to_owned())));
    assert_eq!(shell.aws.faults.fault(&second).unwrap().calls, 0);
    shell.remove(&first);
    assert_eq!(shell.code("ec2", "CreateVolume", &[]).as_deref(), Some("RequestLimitExceeded"));
}

#[test]
fn only_what_shows_lags_and_only_what_is_carried_out_is_lost() {
    let mut shell = Shell::new();
    shell.add(Rule { delay: span("5s"), ..rule(Action::EventualConsistency) });
    shell.add(Rule { operation: Some("CreateVolume".into()), ..rule(Action::LostResponse) });
    assert_eq!(shell.aws.faults.longest_lag(), span("5s"));
    assert_eq!(shell.call("ec2", "DescribeVolumes", &[]), Verdict { lag: span("5s"), ..Verdict::default() });
    assert_eq!(shell.call("ec2", "CreateVolume", &[]), Verdict { lost: true, ..Verdict::default() });
    assert_eq!(shell.call("ec2", "AttachVolume", &[]), Verdict::default());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bad = [
        (rule(Action::Latency), "needs a delay"),
        (Rule { delay: span("1s"), ..rule(Action::Throttle) }, "takes no delay"),
        (Rule { count: Some(0), ..rule(Action::Throttle) }, "never act"),
        (Rule { service: Some("dynamodb".into()), ..rule(Action::Throttle) }, "dynamodb"),
        (Rule { operation: Some("AttachVolume".into()), ..rule(Action::AttachStuck) }, "does not act on calls"),
        (rule(Action::AgentUnreachable), "needs a node"),
        (Rule { node: Some("n".into()), count: Some(1), ..rule(Action::AgentUnreachable) }, "a node and a duration only"),
        (Rule { error: Some(GivenError::default()), ..rule(Action::LostResponse) }, "no error of its own"),
        (
            Rule { error: Some(GivenError { status_code: Some(200), ..GivenError::default() }), ..rule(Action::Error) },
            "no status of an error",
        ),
        (Rule { error: Some(GivenError { code: Some("a b".into()), ..GivenError::default() }), ..rule(Action::Error) }, "no error code"),
        (Rule { resource: Some(String::new()), ..rule(Action::Throttle) }, "1 to 1024 characters"),
    ];
    for (rule, part) in bad {
        let mut shell = Shell::new();
        let refused = shell.command(Command::Add { rules: vec![Rule::new(Action::Throttle), rule] }).unwrap_err();
        assert!(refused.contains(part), "{refused}");
        assert_eq!(shell.aws.faults.faults().count(), 0, "all or nothing");
    }
    let mut shell = Shell::new();
    assert!(shell.command(Command::Remove { ids: vec!["fault-9".into()] }).unwrap_err().contains("fault-9"));
    assert!(shell.command(Command::Add { rules: vec![rule(Action::Throttle); MOST + 1] }).unwrap_err().contains("1000"));
}

#[test]
fn tables_are_set_and_rules_exchanged() {
    let mut shell = Shell::new();
    let kept = shell.add(Rule { delay: span("1s"), ..rule(Action::Latency) });
    shell.add(rule(Action::Throttle));
    shell.command(Command::Set { rules: vec![rule(Action::Unavailable)], refusing_only: true }).unwrap();
    let left: Vec<Action> = shell.aws.faults.faults().map(|fault| fault.rule.action_id).collect();
    assert_eq!(left, [Action::Latency, Action::Unavailable]);
    shell.command(Command::Put { id: kept.clone(), rule: Box::new(rule(Action::LostResponse)) }).unwrap();
    assert_eq!(shell.aws.faults.fault(&kept).unwrap().rule.action_id, Action::LostResponse);
    assert_eq!(shell.command(Command::RemoveEqual { rules: vec![rule(Action::Unavailable)] }).unwrap().len(), 1);
    shell.command(Command::Set { rules: Vec::new(), refusing_only: false }).unwrap();
    assert_eq!(shell.aws.faults.faults().count(), 0);
    // Numbers are never used twice, not even after a restart.
    shell.restart();
    assert_eq!(shell.add(rule(Action::Throttle)), "fault-4");
}

#[test]
fn a_duration_ends_a_rule() {
    let mut shell = Shell::new();
    shell.add(Rule { duration: span("PT30S"), ..rule(Action::Throttle) });
    assert_eq!(shell.faults, BTreeMap::from([(Timer::Over(1), Duration::from_secs(30))]));
    shell.faults.clear();
    shell.step(crate::Input::Faults(Input::Booted)).unwrap();
    assert_eq!(shell.faults.len(), 1, "armed again after a restart");
    shell.step(crate::Input::Faults(Input::Fired(Timer::Over(1)))).unwrap();
    assert!(shell.code("ec2", "CreateVolume", &[]).is_none() && shell.saved.len() == 1);
    let id = shell.add(Rule { duration: span("1m"), ..rule(Action::Throttle) });
    shell.remove(&id);
    assert!(shell.faults.is_empty(), "the timer of the removed one is disarmed");
}

#[test]
fn an_attachment_stays_attaching_until_the_fault_is_gone() {
    let mut shell = Shell::new();
    let (one, two) = (shell.volume("pvc-1"), shell.volume("pvc-2"));
    let id = shell.add(Rule { resource: Some("pvc-1".into()), ..rule(Action::AttachStuck) });
    shell.attach(&one, "/dev/xvdaa").unwrap();
    shell.attach(&two, "/dev/xvdab").unwrap();
    assert_eq!(shell.attachment(&one), Some(("attaching", false)));
    assert_eq!(shell.attachment(&two), Some(("attached", true)));
    shell.remove(&id);
    assert_eq!(shell.attachment(&one), Some(("attached", true)));
    assert_eq!(shell.hits.len(), 1);
}

#[test]
fn a_stuck_attachment_can_be_taken_off() {
    let mut shell = Shell::new();
    let one = shell.volume("pvc-1");
    shell.add(Rule { count: Some(1), delay: span("1h"), ..rule(Action::AttachStuck) });
    shell.attach(&one, "/dev/xvdaa").unwrap();
    assert!(shell.attach(&one, "/dev/xvdab").is_err(), "it is attached already, and the reject costs no count");
    assert_eq!(shell.volumes.len(), 1);
    shell.detach(&one, false).unwrap();
    assert_eq!(shell.attachment(&one), None);
    assert!(shell.volumes.is_empty(), "the hold's timer is disarmed");
    shell.attach(&one, "/dev/xvdaa").unwrap();
    assert_eq!(shell.attachment(&one), Some(("attached", true)));
}

#[test]
fn a_device_comes_later_than_attached() {
    let mut shell = Shell::new();
    let one = shell.volume("pvc-1");
    shell.add(Rule { delay: span("5s"), ..rule(Action::DeviceLate) });
    shell.attach(&one, "/dev/xvdaa").unwrap();
    assert_eq!(shell.attachment(&one), Some(("attached", false)));
    let timer = shell.volumes.first().unwrap().clone();
    shell.fire(&timer);
    assert_eq!(shell.attachment(&one), Some(("attached", true)));
}

#[test]
fn a_device_comes_and_goes_under_its_other_name() {
    let mut shell = Shell::new();
    let one = shell.volume("pvc-1");
    shell.add(rule(Action::DeviceRenamed));
    shell.attach(&one, "/dev/xvdaa").unwrap();
    shell.detach(&one, false).unwrap();
    let devices = |work: &Work| match work {
        Work::Attach { device, .. } | Work::Detach { device, .. } => Some(device.clone()),
        _ => None,
    };
    assert_eq!(shell.works.iter().filter_map(devices).collect::<Vec<_>>(), ["/dev/sdaa", "/dev/sdaa"]);
    assert_eq!(shell.attachment(&one), None);
}

#[test]
fn a_detachment_is_busy_until_the_time_is_over_or_force() {
    let mut shell = Shell::new();
    let one = shell.volume("pvc-1");
    shell.add(Rule { delay: span("5s"), ..rule(Action::DetachStuck) });
    for force in [false, true] {
        shell.attach(&one, "/dev/xvdaa").unwrap();
        shell.detach(&one, false).unwrap();
        assert_eq!(shell.attachment(&one), Some(("busy", true)));
        shell.detach(&one, false).unwrap();
        assert_eq!(shell.attachment(&one), Some(("busy", true)), "asked again");
        if force {
            shell.detach(&one, true).unwrap();
        } else {
            let timer = shell.volumes.first().unwrap().clone();
            shell.fire(&timer);
        }
        assert_eq!(shell.attachment(&one), None);
        assert!(shell.volumes.is_empty());
    }
    assert_eq!(shell.hits.len(), 2);
}

#[test]
fn a_snapshot_stays_pending() {
    let mut shell = Shell::new();
    let one = shell.volume("pvc-1");
    let id = shell.add(rule(Action::SnapshotPending));
    let command = ec2::Command::CreateSnapshot { volume_id: one, description: String::new(), tags: Vec::new() };
    shell.ec2(ec2::Input::Command(command)).unwrap();
    let status = |shell: &Shell| shell.aws.ec2.snapshots().map(|snapshot| (snapshot.status(), snapshot.completed_at)).next();
    assert_eq!(status(&shell), Some((SnapshotStatus::Pending, None)));
    shell.remove(&id);
    assert_eq!(status(&shell), Some((SnapshotStatus::Completed, Some(At(1)))));
}

#[test]
fn an_agent_is_cut_off_while_the_rule_is_there() {
    let mut shell = Shell::new();
    let instance = shell.instance();
    let id = shell.add(Rule { node: Some(instance.clone()), ..rule(Action::AgentUnreachable) });
    assert_eq!((shell.cuts.as_slice(), shell.aws.faults.unreachable(&instance)), ([instance.clone()].as_slice(), true));
    shell.remove(&id);
    assert!(!shell.aws.faults.unreachable(&instance));
}

#[derive(Debug, Clone)]
enum Act {
    Add(usize, Option<u32>, Option<u64>, bool),
    Remove(usize),
    Call(bool),
    Create,
    Attach(usize),
    Detach(usize, bool),
    Snapshot(usize),
    Fire(usize),
    Over(usize),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..Action::ALL.len(), proptest::option::of(0..=1_000_000u32), proptest::option::of(1..4u64), any::<bool>())
            .prop_map(|(action, share, count, named)| Act::Add(action, share, count, named)),
        1 => (0..4usize).prop_map(Act::Remove),
        3 => any::<bool>().prop_map(Act::Call),
        2 => Just(Act::Create),
        4 => (0..4usize).prop_map(Act::Attach),
        4 => (0..4usize, proptest::bool::weighted(0.2)).prop_map(|(volume, force)| Act::Detach(volume, force)),
        1 => (0..4usize).prop_map(Act::Snapshot),
        2 => (0..4usize).prop_map(Act::Fire),
        1 => (0..4usize).prop_map(Act::Over),
        1 => Just(Act::Restart),
    ]
}

fn play(shell: &mut Shell, act: &Act) {
    let volumes: Vec<String> = shell.aws.ec2.volumes().map(|volume| volume.key.id(shell.aws.ec2.seed())).collect();
    let volume = |n: &usize| volumes.get(n % volumes.len().max(1)).cloned().unwrap_or_default();
    let fault = |shell: &Shell, n: &usize| shell.aws.faults.faults().nth(*n).map(Fault::id);
    match act {
        Act::Add(action, share, count, named) => {
            let mut new = rule(Action::ALL[*action].0);
            (new.count, new.probability) = (*count, share.map(|share| (f64::from(share) / 1e6).try_into().unwrap()));
            (new.delay, new.duration) = (named.then(|| Span::millis(5)), share.map(|_| Span::millis(9)));
            new.node = (new.action_id.scope() == Scope::Node).then(|| shell.instance());
            // Some of these rules make no sense: then the table must not change, which the step checks.
            let _ = shell.command(Command::Add { rules: vec![new] });
        }
        Act::Remove(n) => drop(fault(shell, n).map(|id| shell.remove(&id))),
        Act::Call(describe) => drop(shell.call("ec2", if *describe { "DescribeVolumes" } else { "CreateVolume" }, &[])),
        Act::Create => drop((volumes.len() < 4).then(|| shell.volume("pvc"))),
        Act::Attach(n) => drop(shell.attach(&volume(n), &format!("/dev/xvda{}", char::from(b'a' + (*n % 26) as u8)))),
        Act::Detach(n, force) => drop(shell.detach(&volume(n), *force)),
        Act::Snapshot(n) => {
            let command = ec2::Command::CreateSnapshot { volume_id: volume(n), description: String::new(), tags: Vec::new() };
            let _ = shell.ec2(ec2::Input::Command(command));
        }
        Act::Fire(n) => {
            let holds = |timer: &&ec2::Timer| matches!(timer, ec2::Timer::Hold(..) | ec2::Timer::SnapshotHold(_));
            let timer = shell.volumes.iter().filter(holds).nth(*n).cloned();
            timer.iter().for_each(|timer| shell.fire(timer));
        }
        Act::Over(n) => {
            if let Some((Timer::Over(number), _)) = shell.faults.iter().nth(*n).map(|(timer, after)| (timer.clone(), *after)) {
                shell.faults.remove(&Timer::Over(number));
                shell.step(crate::Input::Faults(Input::Fired(Timer::Over(number)))).unwrap();
            }
        }
        Act::Restart => shell.restart(),
    }
}

proptest! {
    /// Whatever the faults: counts are kept, what holds belongs to a rule, a hold with a time has its timer, and with the rules
    /// gone nothing is held, every wish is fulfilled, and no device is left without an attachment.
    #[test]
    fn with_the_faults_gone_all_goes_on(acts in proptest::collection::vec(act(), 1..80)) {
        let mut shell = Shell::new();
        for act in &acts {
            play(&mut shell, act);
            for fault in shell.aws.faults.faults() {
                prop_assert!(fault.hits <= fault.calls && fault.rule.count.is_none_or(|count| fault.hits <= count));
                prop_assert_eq!(fault.rule.duration.is_some(), shell.faults.contains_key(&Timer::Over(fault.number)));
            }
            for hold in shell.aws.ec2.held() {
                prop_assert!(shell.aws.faults.fault(&hold.fault).is_some(), "{hold:?} of no rule");
            }
            let timed = shell.aws.ec2.held().filter(|hold| hold.after.is_some()).count();
            let holds = |timer: &&ec2::Timer| matches!(timer, ec2::Timer::Hold(..) | ec2::Timer::SnapshotHold(_));
            prop_assert_eq!(shell.volumes.iter().filter(holds).count(), timed);
        }
        shell.command(Command::Set { rules: Vec::new(), refusing_only: false }).unwrap();
        prop_assert_eq!(shell.aws.ec2.held().count(), 0);
        for volume in shell.aws.ec2.volumes() {
            for attachment in volume.attachments.values() {
                prop_assert!(attachment.wanted && attachment.status() == AttachmentStatus::Attached, "{attachment:?}");
            }
        }
        prop_assert!(shell.aws.ec2.snapshots().all(|snapshot| snapshot.status() == SnapshotStatus::Completed));
        let count = |up: bool| shell.works.iter().filter(|work| match work {
            Work::Attach { .. } => up,
            Work::Detach { .. } => !up,
            _ => false,
        }).count();
        let attached: usize = shell.aws.ec2.volumes().map(|volume| volume.attachments.len()).sum();
        prop_assert_eq!(count(true) - count(false), attached);
    }
}
