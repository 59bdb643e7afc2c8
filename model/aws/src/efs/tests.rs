use std::collections::{BTreeMap, BTreeSet};

use model_common::agent::{EfsMount, EfsRefusalKind, PosixUser};
use proptest::prelude::*;

use super::*;

mod lifecycle;
mod reference;

/// EFS with a world that carries its effects out when told to.
struct Bench {
    ec2: ec2::State,
    efs: State,
    works: Vec<Work>,
    timers: BTreeMap<Timer, Duration>,
    records: BTreeMap<(String, String), Vec<u8>>,
    now: i64,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        let world = World::default();
        Self {
            ec2: ec2::State::new(&world, profile),
            efs: State::new(&world, profile),
            works: Vec::new(),
            timers: BTreeMap::new(),
            records: BTreeMap::new(),
            now: 0,
        }
    }

    fn step(&mut self, input: &Input) -> Result<Option<Reply>, Reject> {
        let before = format!("{:?}", self.efs);
        let mut out = Vec::new();
        self.now += 1;
        let verdict = self.efs.step(At(self.now), &self.ec2, &kms::State::new(&World::default()), input, &mut out);
        if verdict.is_err() {
            assert_eq!(before, format!("{:?}", self.efs), "a rejected input changed something: {input:?}");
            assert_eq!(out, vec![], "a rejected input has effects: {input:?}");
        }
        let mut reply = None;
        for effect in out {
            match effect {
                Effect::Reply(value) => assert_eq!(reply.replace(value), None, "two replies"),
                Effect::Arm(timer, after) => drop(self.timers.insert(timer, after)),
                Effect::Disarm(timer) => drop(self.timers.remove(&timer)),
                Effect::Work(work) => {
                    assert!(self.works.iter().all(|other| tree(other) != tree(&work)), "{work:?} while {:?}", self.works);
                    self.works.push(work);
                }
            }
        }
        for Dirty { table, key, value } in self.efs.take_dirty() {
            match value {
                Some(value) => drop(self.records.insert((table.to_owned(), key), value)),
                None => drop(self.records.remove(&(table.to_owned(), key))),
            }
        }
        verdict.map(|()| reply)
    }

    fn command(&mut self, command: Command) -> Result<Reply, Reject> {
        self.step(&Input::Command(command)).map(|reply| reply.expect("a command replies"))
    }

    /// The state as a crash leaves it.
    fn crash(&mut self, trees: BTreeSet<String>) {
        let mut loaded = State::new(&World::default(), Profile::Instant);
        loaded.delays = self.efs.delays;
        loaded.limits = self.efs.limits;
        for ((table, key), value) in &self.records {
            assert!(loaded.restore(table, key, value).unwrap());
        }
        assert_eq!(format!("{:?}", self.efs), format!("{loaded:?}"), "what is saved is not what is there");
        self.efs = loaded;
        self.works.clear();
        self.timers.clear();
        self.step(&Input::Booted { trees }).unwrap();
    }

    /// Carries everything out, metering aside, until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            if let Some(work) = self.works.pop() {
                self.step(&Input::Done(work, Ok(0))).unwrap();
            } else if let Some(timer) = self.timers.keys().find(|timer| !matches!(timer, Timer::Meter(_))).cloned() {
                self.timers.remove(&timer);
                self.step(&Input::Fired(timer)).unwrap();
            } else {
                return;
            }
        }
        panic!("it does not come to rest: {:?} {:?}", self.works, self.timers);
    }

    fn file_system(&mut self, token: &str) -> String {
        let reply = self.command(Command::CreateFileSystem(NewFileSystem { creation_token: token.into(), ..Default::default() }));
        let Reply::FileSystem(row, 0) = reply.unwrap() else { panic!("not a file system") };
        self.settle();
        row.id
    }

    fn subnet(&self, index: usize) -> String {
        let mut subnets: Vec<_> = self.ec2.network().subnets.values().collect();
        subnets.sort_by(|a, b| a.zone.name.cmp(&b.zone.name));
        subnets[index].id.clone()
    }

    fn mount_target(&mut self, file_system: &str, subnet: usize) -> Result<MountTarget, Reject> {
        let new = NewMountTarget { file_system_id: file_system.into(), subnet_id: self.subnet(subnet), ..Default::default() };
        match self.command(Command::CreateMountTarget(new))? {
            Reply::MountTarget(row) => Ok(*row),
            other => panic!("{other:?}"),
        }
    }
}

fn tree(work: &Work) -> &str {
    let (Work::Make(id) | Work::Remove(id) | Work::Meter(id)) = work;
    id
}

fn point(file_system: &str, token: &str) -> NewAccessPoint {
    NewAccessPoint { client_token: token.into(), file_system_id: file_system.into(), ..Default::default() }
}

#[test]
fn a_file_system_is_available_when_its_tree_is_made_and_its_time_has_passed() {
    let mut bench = Bench::new(Profile::Aws);
    let new = NewFileSystem { creation_token: "a".into(), ..Default::default() };
    let Ok(Reply::FileSystem(row, 0)) = bench.command(Command::CreateFileSystem(new.clone())) else { panic!() };
    assert_eq!(row.shown(), LifeCycle::Creating);
    assert_eq!(bench.command(Command::CreateFileSystem(new)), Err(Reject::FileSystemExists { id: row.id.clone(), token: "a".into() }));
    assert_eq!(
        bench.command(Command::CreateAccessPoint(point(&row.id, "t"))),
        Err(Reject::FileSystemState { id: row.id.clone(), state: "creating".into() })
    );
    bench.step(&Input::Done(Work::Make(row.id.clone()), Ok(0))).unwrap();
    assert_eq!(bench.efs.file_system(&row.id).unwrap().shown(), LifeCycle::Creating);
    bench.step(&Input::Fired(Timer::FileSystem(1))).unwrap();
    assert_eq!(bench.efs.file_system(&row.id).unwrap().shown(), LifeCycle::Available);
    let arn = format!("arn:aws:elasticfilesystem:us-east-1:000000000000:file-system/{}", row.id);
    assert_eq!(bench.efs.file_system(&arn).unwrap().id, row.id);
}

#[test]
fn a_tree_that_cannot_be_made_or_removed_shows_and_does_not_stick() {
    let mut bench = Bench::new(Profile::Instant);
    let Ok(Reply::FileSystem(row, _)) =
        bench.command(Command::CreateFileSystem(NewFileSystem { creation_token: "a".into(), ..Default::default() }))
    else {
        panic!()
    };
    let make = bench.works.pop().unwrap();
    bench.step(&Input::Done(make, Err("disk full".into()))).unwrap();
    let shown = bench.efs.file_system(&row.id).unwrap();
    assert_eq!((shown.shown(), shown.trouble()), (LifeCycle::Error, Some("disk full")));
    bench.command(Command::DeleteFileSystem { id: row.id.clone() }).unwrap();
    let remove = bench.works.pop().unwrap();
    bench.step(&Input::Done(remove, Err("busy".into()))).unwrap();
    assert_eq!(bench.efs.file_system(&row.id).unwrap().shown(), LifeCycle::Deleting);
    bench.settle();
    assert_eq!(bench.efs.file_system(&row.id), Err(Reject::NoFileSystem(row.id)));
}

#[test]
fn a_delete_waits_for_metering() {
    let mut bench = Bench::new(Profile::Instant);
    let id = bench.file_system("a");
    bench.step(&Input::Fired(Timer::Meter(1))).unwrap();
    bench.command(Command::DeleteFileSystem { id: id.clone() }).unwrap();
    assert_eq!(bench.works, vec![Work::Meter(id.clone())]);
    bench.works.clear();
    bench.step(&Input::Done(Work::Meter(id.clone()), Ok(9))).unwrap();
    assert_eq!(bench.works, vec![Work::Remove(id)]);
}

#[test]
fn mount_targets_follow_the_rules_of_zone_address_and_group() {
    let mut bench = Bench::new(Profile::Instant);
    let (a, b) = (bench.file_system("a"), bench.file_system("b"));
    let first = bench.mount_target(&a, 0).unwrap();
    assert_eq!((first.ip.to_string().as_str(), first.zone.0.as_str()), ("10.0.1.4", "us-east-1a"));
    assert_eq!(bench.mount_target(&a, 0), Err(Reject::ZoneTaken));
    assert_eq!(bench.mount_target(&b, 0).unwrap().ip.to_string(), "10.0.1.5");
    let with = |bench: &Bench, ip: Option<&str>, groups: &[&str]| NewMountTarget {
        file_system_id: a.clone(),
        subnet_id: bench.subnet(1),
        ip_address: ip.map(str::to_owned),
        security_groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
    };
    for (ip, groups, code) in [
        (Some("10.0.2.10"), &[][..], "IpAddressInUse"),
        (Some("10.0.1.9"), &[], "BadRequest"),
        (Some("10.0.2.0"), &[], "BadRequest"),
        (Some("nonsense"), &[], "BadRequest"),
        (None, &["sg-0"], "SecurityGroupNotFound"),
        (None, &["sg-0"; 6], "SecurityGroupLimitExceeded"),
    ] {
        let reject = bench.command(Command::CreateMountTarget(with(&bench, ip, groups))).unwrap_err();
        assert_eq!(reject_to_error(&reject).code, code, "{reject}");
    }
    let in_use = bench.command(Command::DeleteFileSystem { id: a.clone() }).unwrap_err();
    assert_eq!(reject_to_error(&in_use).code, "FileSystemInUse");
    bench.settle();
    bench.command(Command::DeleteMountTarget { id: first.id.clone() }).unwrap();
    bench.settle();
    assert_eq!(bench.efs.mount_target(&first.id), Err(Reject::NoMountTarget(first.id)));
    bench.command(Command::DeleteFileSystem { id: a }).unwrap();
    bench.settle();
    assert_eq!(bench.efs.counts(), (1, 1, 0));
}

#[test]
fn a_client_token_is_the_accounts() {
    let mut bench = Bench::new(Profile::Instant);
    let (a, b) = (bench.file_system("a"), bench.file_system("b"));
    let Ok(Reply::AccessPoint(row)) = bench.command(Command::CreateAccessPoint(point(&a, "pvc-1"))) else { panic!() };
    let error = reject_to_error(&bench.command(Command::CreateAccessPoint(point(&b, "pvc-1"))).unwrap_err());
    assert_eq!((error.code, error.status), ("AccessPointAlreadyExists", 409));
    assert_eq!(error.existing, Some(("AccessPointId", row.id.clone())));
    bench.settle();
    bench.command(Command::DeleteAccessPoint { id: row.id.clone() }).unwrap();
    bench.settle();
    assert!(bench.command(Command::CreateAccessPoint(point(&b, "pvc-1"))).is_ok());
    assert_eq!(bench.command(Command::DeleteAccessPoint { id: row.id.clone() }), Err(Reject::NoAccessPoint(row.id)));
}

#[test]
fn access_points_are_checked_as_the_service_model_says() {
    let mut bench = Bench::new(Profile::Instant);
    let id = bench.file_system("a");
    let gids = |count| Some(PosixUser { uid: 1, gid: 1, secondary_gids: vec![7; count] });
    let creation = |digits: &str| Some(Creation { owner_uid: 1, owner_gid: 1, permissions: digits.into() });
    let with = |path: &str, permissions: Option<&str>, secondary| NewAccessPoint {
        path: Some(path.into()),
        creation: permissions.and_then(creation),
        posix_user: gids(secondary),
        ..point(&id, "t")
    };
    let long = format!("/{}", "x".repeat(100));
    for bad in [
        with("", None, 0),
        with("a", None, 0),
        with("/a/b/c/d/e", None, 0),
        with("/a//b", None, 0),
        with("/a/", None, 0),
        with("/../a", None, 0),
        with("/a/.b", None, 0),
        with("/a*b", None, 0),
        with(&long, None, 0),
        with("/a", Some(""), 0),
        with("/a", Some("77"), 0),
        with("/a", Some("789"), 0),
        with("/a", Some("07777"), 0),
        with("/a", None, 17),
        NewAccessPoint { client_token: String::new(), ..point(&id, "") },
        NewAccessPoint { tags: BTreeMap::from([("aws:x".into(), String::new())]), ..point(&id, "t") },
        NewAccessPoint { tags: (0..51).map(|n| (n.to_string(), String::new())).collect(), ..point(&id, "t") },
    ] {
        let reject = bench.command(Command::CreateAccessPoint(bad.clone())).expect_err(&format!("{bad:?}"));
        assert_eq!(reject_to_error(&reject).code, "BadRequest", "{bad:?}");
    }
    for (place, good) in [with("/", None, 0), with("/a/b/c/d", Some("0755"), 16), with("/a.b/c-d", Some("700"), 0)].into_iter().enumerate()
    {
        let good = NewAccessPoint { client_token: place.to_string(), ..good };
        assert!(bench.command(Command::CreateAccessPoint(good.clone())).is_ok(), "{good:?}");
    }
}

#[test]
fn access_points_have_a_limit_and_pages() {
    let mut bench = Bench::new(Profile::Instant);
    bench.efs.limits.access_points = 5;
    let (id, other) = (bench.file_system("a"), bench.file_system("b"));
    bench.command(Command::CreateAccessPoint(point(&other, "x"))).unwrap();
    for n in 0..5 {
        bench.command(Command::CreateAccessPoint(point(&id, &format!("t{n}")))).unwrap();
    }
    let reject = bench.command(Command::CreateAccessPoint(point(&id, "more"))).unwrap_err();
    assert_eq!(reject_to_error(&reject).code, "AccessPointLimitExceeded");
    assert!(reject.to_string().starts_with("You have reached the maximum number of access points (5) for your file system fs-"));
    let (mut after, mut sizes, mut tokens) = (0, Vec::new(), Vec::new());
    loop {
        let page = bench.efs.describe_access_points(None, Some(&id), after, 2).unwrap();
        sizes.push(page.items.len());
        tokens.extend(page.items.iter().map(|row| row.client_token.clone()));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!((sizes, tokens), (vec![2, 2, 1], vec!["t0".into(), "t1".into(), "t2".into(), "t3".into(), "t4".into()]));
    assert_eq!(bench.efs.describe_access_points(None, None, 0, 100).unwrap().items.len(), 6);
}

#[test]
fn who_may_mount() {
    let mut bench = Bench::new(Profile::Instant);
    let id = bench.file_system("a");
    let instance = bench.ec2.instances().find(|instance| instance.zone == "us-east-1a").unwrap().clone();
    let request = |point: Option<&str>| EfsMount {
        file_system_id: id.clone(),
        access_point_id: point.map(str::to_owned),
        instance_id: instance.id.to_string(),
        availability_zone: None,
        mount_target_ip: None,
        tls: true,
        iam: false,
        read_only: false,
    };
    let mount = |bench: &Bench, request: &EfsMount, groups: &[String]| {
        let client = Client { zone: "us-east-1a", ip: instance.private_ip, groups };
        bench.efs.mount(&bench.ec2, request, client).map_err(|refusal| (refusal.kind, refusal.message))
    };
    let groups = instance.interface.security_groups.clone();
    let (kind, text) = mount(&bench, &request(None), &groups).unwrap_err();
    assert_eq!(kind, EfsRefusalKind::Unresolved);
    assert!(
        text.starts_with(&format!("Failed to resolve \"{id}.efs.us-east-1.amazonaws.com\" - check that your file system ID is correct"))
    );
    assert!(text.ends_with(&format!("Cannot find mount target for the file system {id}, please create a mount target in us-east-1a.")));
    let target = bench.mount_target(&id, 0).unwrap();
    let (_, text) = mount(&bench, &request(None), &groups).unwrap_err();
    assert!(text.ends_with("is in available state yet, please retry in 5 minutes."), "{text}");
    bench.settle();
    assert_eq!(mount(&bench, &request(None), &groups).unwrap().mount_target_ip, target.ip.to_string());
    assert_eq!(mount(&bench, &request(None), &[]).unwrap_err().0, EfsRefusalKind::Unreachable);
    // What the network shows is what a mount meets.
    let network = |bench: &Bench, groups: &[String]| {
        bench.efs.network(&bench.ec2, Client { zone: "us-east-1a", ip: instance.private_ip, groups }).mount_targets
    };
    let seen: Vec<_> = network(&bench, &groups).into_iter().map(|seen| (seen.ip, seen.reachable)).collect();
    assert_eq!(seen, [(target.ip, true)]);
    assert!(!network(&bench, &[])[0].reachable);
    let by_zone_id = EfsMount { availability_zone: Some(target.zone.1.clone()), ..request(None) };
    assert_eq!(mount(&bench, &by_zone_id, &groups).unwrap().mount_target_ip, target.ip.to_string());
    let by_ip = EfsMount { mount_target_ip: Some("10.0.3.3".into()), ..request(None) };
    assert_eq!(mount(&bench, &by_ip, &groups).unwrap_err().0, EfsRefusalKind::Unreachable);
    let elsewhere = EfsMount { availability_zone: Some("us-east-1c".into()), ..request(None) };
    let (_, text) = mount(&bench, &elsewhere, &groups).unwrap_err();
    assert!(text.contains(&format!("\"us-east-1c.{id}.efs")) && text.contains("No matching mount target in the az us-east-1c."), "{text}");
    // Another mount target comes, and the first goes: each says how far it is.
    let second = bench.mount_target(&id, 1).unwrap();
    assert_eq!(network(&bench, &groups).len(), 1, "one that is being made has no name yet");
    let zone = second.zone.0.clone();
    let (_, text) = mount(&bench, &EfsMount { availability_zone: Some(zone.clone()), ..request(None) }, &groups).unwrap_err();
    let wanted = format!(
        "Mount target in the az {zone} is creating, please retry in 5 minutes, or use the mount target in the other az by passing the \
         availability zone name option. Available mount target(s) are in az ['us-east-1a']"
    );
    assert!(text.ends_with(&wanted), "{text}");
    let denied = (EfsRefusalKind::Denied, "mount.nfs4: access denied by server while mounting 127.0.0.1:/".to_owned());
    assert_eq!(mount(&bench, &request(Some("fsap-0")), &groups), Err(denied.clone()));
    let Ok(Reply::AccessPoint(row)) = bench.command(Command::CreateAccessPoint(NewAccessPoint {
        path: Some("/p".into()),
        creation: Some(Creation { owner_uid: 5, owner_gid: 6, permissions: "0750".into() }),
        ..point(&id, "t")
    })) else {
        panic!()
    };
    assert_eq!(mount(&bench, &request(Some(&row.id)), &groups), Err(denied), "not available yet");
    bench.settle();
    let grant = mount(&bench, &request(Some(&row.id)), &groups).unwrap();
    assert_eq!((grant.root_directory.as_str(), grant.creation.unwrap().permissions), ("/p", 0o750));
}

#[test]
fn a_start_repairs_what_a_crash_left() {
    let mut bench = Bench::new(Profile::Aws);
    let kept = bench.file_system("kept");
    let lost = bench.file_system("lost");
    bench.command(Command::CreateFileSystem(NewFileSystem { creation_token: "half".into(), ..Default::default() })).unwrap();
    let half = tree(&bench.works[0]).to_owned();
    let gone = bench.file_system("gone");
    bench.command(Command::DeleteFileSystem { id: gone.clone() }).unwrap();
    bench.crash(BTreeSet::from([kept, "fs-0000000000000dead".to_owned(), gone.clone()]));
    let works: BTreeSet<Work> = bench.works.iter().cloned().collect();
    assert_eq!(
        works,
        BTreeSet::from([Work::Make(lost), Work::Make(half), Work::Remove(gone), Work::Remove("fs-0000000000000dead".into())])
    );
}

#[derive(Debug, Clone)]
enum Act {
    CreateFileSystem(u8),
    DeleteFileSystem(u8),
    CreateMountTarget(u8, u8),
    DeleteMountTarget(u8),
    CreateAccessPoint(u8, u8),
    DeleteAccessPoint(u8),
    Tag(u8, u8),
    Work(u8, bool),
    Fire(u8),
    Crash,
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..4u8).prop_map(Act::CreateFileSystem),
        2 => any::<u8>().prop_map(Act::DeleteFileSystem),
        2 => (any::<u8>(), 0..4u8).prop_map(|(a, b)| Act::CreateMountTarget(a, b)),
        2 => any::<u8>().prop_map(Act::DeleteMountTarget),
        3 => (any::<u8>(), 0..4u8).prop_map(|(a, b)| Act::CreateAccessPoint(a, b)),
        2 => any::<u8>().prop_map(Act::DeleteAccessPoint),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Act::Tag(a, b)),
        6 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(a, b)| Act::Work(a, b)),
        6 => any::<u8>().prop_map(Act::Fire),
        1 => Just(Act::Crash),
    ]
}

fn nth<'a>(mut ids: impl Iterator<Item = &'a str> + Clone, n: u8) -> String {
    let count = ids.clone().count();
    if count == 0 { "none".to_owned() } else { ids.nth(usize::from(n) % count).unwrap_or_default().to_owned() }
}

fn act(bench: &mut Bench, act: &Act, trees: &mut BTreeSet<String>) {
    let efs = &bench.efs;
    let file_system = |n| nth(efs.file_systems.iter().map(|(_, row)| row.id.as_str()).collect::<Vec<_>>().into_iter(), n);
    let mount_target = |n| nth(efs.mount_targets.iter().map(|(_, row)| row.id.as_str()).collect::<Vec<_>>().into_iter(), n);
    let access_point = |n| nth(efs.access_points.iter().map(|(_, row)| row.id.as_str()).collect::<Vec<_>>().into_iter(), n);
    let command = match *act {
        Act::CreateFileSystem(token) => {
            Command::CreateFileSystem(NewFileSystem { creation_token: format!("t{token}"), ..Default::default() })
        }
        Act::DeleteFileSystem(n) => Command::DeleteFileSystem { id: file_system(n) },
        Act::CreateMountTarget(n, subnet) => Command::CreateMountTarget(NewMountTarget {
            file_system_id: file_system(n),
            subnet_id: if subnet == 3 { "subnet-0".into() } else { bench.subnet(usize::from(subnet)) },
            ..Default::default()
        }),
        Act::DeleteMountTarget(n) => Command::DeleteMountTarget { id: mount_target(n) },
        Act::CreateAccessPoint(n, token) => Command::CreateAccessPoint(point(&file_system(n), &format!("p{token}"))),
        Act::DeleteAccessPoint(n) => Command::DeleteAccessPoint { id: access_point(n) },
        Act::Tag(n, value) => {
            let id = if value % 2 == 0 { file_system(n) } else { access_point(n) };
            Command::TagResource { id, tags: BTreeMap::from([("k".to_owned(), value.to_string())]) }
        }
        Act::Work(n, succeeds) => {
            if !bench.works.is_empty() {
                let work = bench.works.remove(usize::from(n) % bench.works.len());
                match (&work, succeeds) {
                    (Work::Make(id), true) => drop(trees.insert(id.clone())),
                    (Work::Remove(id), true) => drop(trees.remove(id)),
                    (Work::Meter(_), _) | (_, false) => {}
                }
                let result = if succeeds { Ok(4096) } else { Err("no".to_owned()) };
                bench.step(&Input::Done(work, result)).unwrap();
            }
            return;
        }
        Act::Fire(n) => {
            let timers: Vec<Timer> = bench.timers.keys().cloned().collect();
            if !timers.is_empty() {
                let timer = timers[usize::from(n) % timers.len()].clone();
                bench.timers.remove(&timer);
                bench.step(&Input::Fired(timer)).unwrap();
            }
            return;
        }
        Act::Crash => return bench.crash(trees.clone()),
    };
    // Rejects are checked to change nothing where steps are made.
    let _ = bench.step(&Input::Command(command));
}

fn check(bench: &Bench) {
    let mut places = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for target in bench.efs.mount_targets() {
        assert!(places.insert((target.file_system, target.zone.clone())), "two mount targets in a zone");
        assert!(addresses.insert(target.ip) && !bench.ec2.addresses().contains(&target.ip), "an address is taken twice");
        assert!(bench.efs.file_system(&target.file_system_id).is_ok(), "a mount target of nothing");
    }
    for (_, point) in bench.efs.access_points.iter() {
        assert!(bench.efs.file_system(&point.file_system_id).is_ok(), "an access point of nothing");
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_is_consistent_and_comes_to_rest(history in prop::collection::vec(acts(), 1..60)) {
        let mut bench = Bench::new(Profile::Aws);
        let mut trees = BTreeSet::new();
        for step in &history {
            act(&mut bench, step, &mut trees);
            check(&bench);
        }
        // Left alone, everything is there or gone.
        bench.settle();
        for (_, row) in bench.efs.file_systems.iter() {
            prop_assert!(matches!(row.shown(), LifeCycle::Available | LifeCycle::Error), "{:?}", row);
        }
        for (_, row) in bench.efs.mount_targets.iter() {
            prop_assert_eq!(row.state, LifeCycle::Available);
        }
        for (_, row) in bench.efs.access_points.iter() {
            prop_assert_eq!(row.state, LifeCycle::Available);
        }
    }
}
