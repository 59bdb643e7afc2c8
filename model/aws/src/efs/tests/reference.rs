//! EFS beside a reference: what its API reference says of file systems, mount targets and access points, without works and timers.

use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;

const ZONES: usize = 3;
const TOKENS: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Creating,
    Available,
    Deleting,
    Gone,
}

/// Things are named by the order in which they were made.
#[derive(Debug, Clone, Default)]
struct Account {
    file_systems: Vec<(u8, Life)>,
    /// File system and zone.
    targets: Vec<(usize, usize, Life)>,
    /// File system and token.
    points: Vec<(usize, u8, Life)>,
    /// The rules that the last call broke.
    broken: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
enum Call {
    FileSystem(u8),
    Target(usize, usize),
    Point(usize, u8),
    DeleteFileSystem(usize),
    DeleteTarget(usize),
    DeletePoint(usize),
    /// Time passes until nothing moves any more.
    Wait,
    /// The process dies, what it had begun done or not, starts again, and time passes.
    Crash(bool),
}

impl Life {
    fn is_there(self) -> bool {
        self != Self::Gone
    }

    fn pass(&mut self) {
        *self = match *self {
            Self::Creating | Self::Available => Self::Available,
            Self::Deleting | Self::Gone => Self::Gone,
        }
    }
}

impl Account {
    /// Every rule that a call breaks, as the code of its refusal. A call that breaks none is accepted.
    fn refusals(&self, call: &Call) -> BTreeSet<&'static str> {
        let mut codes = BTreeSet::new();
        // Mount targets and access points are made of file systems that are available.
        if let Call::Target(of, _) | Call::Point(of, _) = call {
            match self.file_systems[*of].1 {
                Life::Available => {}
                Life::Gone => drop(codes.insert("FileSystemNotFound")),
                Life::Creating | Life::Deleting => drop(codes.insert("IncorrectFileSystemLifeCycleState")),
            }
        }
        let broken = match *call {
            Call::FileSystem(token) if self.file_systems.iter().any(|(other, life)| *other == token && life.is_there()) => {
                Some("FileSystemAlreadyExists")
            }
            Call::Target(of, zone) if self.targets.iter().any(|(fs, other, life)| (*fs, *other) == (of, zone) && life.is_there()) => {
                Some("MountTargetConflict")
            }
            // The token is the account's, not the file system's.
            Call::Point(_, token) if self.points.iter().any(|(_, other, life)| *other == token && life.is_there()) => {
                Some("AccessPointAlreadyExists")
            }
            Call::DeleteFileSystem(n) if !self.file_systems[n].1.is_there() => Some("FileSystemNotFound"),
            Call::DeleteFileSystem(n) if self.targets.iter().any(|(fs, _, life)| *fs == n && life.is_there()) => Some("FileSystemInUse"),
            Call::DeleteTarget(n) if !self.targets[n].2.is_there() => Some("MountTargetNotFound"),
            Call::DeletePoint(n) if !self.points[n].2.is_there() => Some("AccessPointNotFound"),
            _ => None,
        };
        codes.extend(broken);
        codes
    }

    fn accept(&mut self, call: &Call) {
        match *call {
            Call::FileSystem(token) => self.file_systems.push((token, Life::Creating)),
            Call::Target(of, zone) => self.targets.push((of, zone, Life::Creating)),
            Call::Point(of, token) => self.points.push((of, token, Life::Creating)),
            Call::DeleteFileSystem(n) => {
                self.file_systems[n].1 = Life::Deleting;
                self.points.iter_mut().filter(|point| point.0 == n).for_each(|point| point.2 = Life::Gone);
            }
            Call::DeleteTarget(n) => self.targets[n].2 = Life::Deleting,
            Call::DeletePoint(n) => self.points[n].2 = Life::Deleting,
            Call::Wait | Call::Crash(_) => {
                self.file_systems.iter_mut().for_each(|(_, life)| life.pass());
                self.targets.iter_mut().for_each(|(.., life)| life.pass());
                self.points.iter_mut().for_each(|(.., life)| life.pass());
            }
        }
    }
}

impl ReferenceStateMachine for Account {
    type State = Self;
    type Transition = Call;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(account: &Self) -> BoxedStrategy<Call> {
        let mut calls = vec![
            (3, (0..TOKENS).prop_map(Call::FileSystem).boxed()),
            (6, Just(Call::Wait).boxed()),
            (1, any::<bool>().prop_map(Call::Crash).boxed()),
        ];
        let (systems, targets, points) = (account.file_systems.len(), account.targets.len(), account.points.len());
        if systems > 0 {
            // Mostly the young ones: the old ones are soon gone.
            let some = || prop_oneof![3 => systems.saturating_sub(3)..systems, 1 => 0..systems];
            calls.push((4, (some(), 0..ZONES).prop_map(|(of, zone)| Call::Target(of, zone)).boxed()));
            calls.push((4, (some(), 0..TOKENS).prop_map(|(of, token)| Call::Point(of, token)).boxed()));
            calls.push((3, some().prop_map(Call::DeleteFileSystem).boxed()));
        }
        if targets > 0 {
            calls.push((3, (0..targets).prop_map(Call::DeleteTarget).boxed()));
        }
        if points > 0 {
            calls.push((2, (0..points).prop_map(Call::DeletePoint).boxed()));
        }
        proptest::strategy::Union::new_weighted(calls).boxed()
    }

    fn apply(mut account: Self, call: &Call) -> Self {
        account.broken = account.refusals(call);
        if account.broken.is_empty() {
            account.accept(call);
        }
        account
    }

    /// Shrinking must not leave calls that name what was never made.
    fn preconditions(account: &Self, call: &Call) -> bool {
        match *call {
            Call::Target(n, _) | Call::Point(n, _) | Call::DeleteFileSystem(n) => n < account.file_systems.len(),
            Call::DeleteTarget(n) => n < account.targets.len(),
            Call::DeletePoint(n) => n < account.points.len(),
            Call::FileSystem(_) | Call::Wait | Call::Crash(_) => true,
        }
    }
}

/// The machine with its outside, and the ids of what was made.
struct Efs {
    bench: Bench,
    /// What is on the disk, as long as nothing is under way.
    trees: BTreeSet<String>,
    file_systems: Vec<String>,
    targets: Vec<String>,
    points: Vec<String>,
}

impl Efs {
    fn request(&self, call: &Call) -> Option<Command> {
        Some(match *call {
            Call::FileSystem(token) => {
                Command::CreateFileSystem(NewFileSystem { creation_token: token.to_string(), ..NewFileSystem::default() })
            }
            Call::Target(of, zone) => Command::CreateMountTarget(NewMountTarget {
                file_system_id: self.file_systems[of].clone(),
                subnet_id: self.bench.subnet(zone),
                ..NewMountTarget::default()
            }),
            Call::Point(of, token) => Command::CreateAccessPoint(point(&self.file_systems[of], &token.to_string())),
            Call::DeleteFileSystem(n) => Command::DeleteFileSystem { id: self.file_systems[n].clone() },
            Call::DeleteTarget(n) => Command::DeleteMountTarget { id: self.targets[n].clone() },
            Call::DeletePoint(n) => Command::DeleteAccessPoint { id: self.points[n].clone() },
            Call::Wait | Call::Crash(_) => return None,
        })
    }

    fn pass(&mut self) {
        self.bench.settle();
        self.trees = self.bench.efs.file_systems.iter().map(|(_, row)| row.id.clone()).collect();
    }
}

impl StateMachineTest for Efs {
    type SystemUnderTest = Self;
    type Reference = Account;

    fn init_test(_: &Account) -> Self {
        let (file_systems, targets, points) = (Vec::new(), Vec::new(), Vec::new());
        Self { bench: Bench::new(Profile::Aws), trees: BTreeSet::new(), file_systems, targets, points }
    }

    fn apply(mut efs: Self, account: &Account, call: Call) -> Self {
        let Some(command) = efs.request(&call) else {
            if matches!(call, Call::Crash(true)) {
                for work in &efs.bench.works {
                    match work {
                        Work::Make(id) => drop(efs.trees.insert(id.clone())),
                        Work::Remove(id) => drop(efs.trees.remove(id)),
                        Work::Meter(_) => {}
                    }
                }
            }
            if let Call::Crash(_) = call {
                efs.bench.crash(efs.trees.clone());
            }
            efs.pass();
            return efs;
        };
        let verdict = efs.bench.command(command);
        match &verdict {
            Ok(Reply::FileSystem(row, _)) => efs.file_systems.push(row.id.clone()),
            Ok(Reply::MountTarget(row)) => efs.targets.push(row.id.clone()),
            Ok(Reply::AccessPoint(row)) => efs.points.push(row.id.clone()),
            _ => {}
        }
        let (verdict, broken) = (verdict.map_err(|reject| reject_to_error(&reject).code), &account.broken);
        match verdict {
            Ok(_) => assert!(broken.is_empty(), "{call:?} was accepted, and breaks {broken:?}"),
            Err(code) => assert!(broken.contains(code), "{call:?} was refused with {code}, and breaks {broken:?}"),
        }
        efs
    }

    fn check_invariants(efs: &Self, account: &Account) {
        let State { file_systems, mount_targets, access_points, .. } = &efs.bench.efs;
        let shown: BTreeMap<String, LifeCycle> = file_systems
            .iter()
            .map(|(_, row)| (row.id.clone(), row.shown()))
            .chain(mount_targets.iter().map(|(_, row)| (row.id.clone(), row.state)))
            .chain(access_points.iter().map(|(_, row)| (row.id.clone(), row.state)))
            .collect();
        let systems = efs.file_systems.iter().zip(account.file_systems.iter().map(|(_, life)| *life));
        let targets = efs.targets.iter().zip(account.targets.iter().map(|(.., life)| *life));
        let points = efs.points.iter().zip(account.points.iter().map(|(.., life)| *life));
        let expected = systems.chain(targets).chain(points).filter_map(|(id, life)| {
            let life = match life {
                Life::Creating => LifeCycle::Creating,
                Life::Available => LifeCycle::Available,
                Life::Deleting => LifeCycle::Deleting,
                Life::Gone => return None,
            };
            Some((id.clone(), life))
        });
        assert_eq!(shown, expected.collect());
        check(&efs.bench);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    /// Every answer and every life cycle state is as the reference says.
    #[test]
    fn efs_answers_as_its_reference_says(sequential 1..50 => Efs);
}
