//! All controllers beside a reference: what the Kubernetes documentation says becomes of claims, volumes and pods, in one struct that
//! knows no controller. After each thing that users do some steps happen in any order, writes and calls fail, and controllers crash;
//! left alone, the cluster must be as the reference says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, pod, volume};
use crate::write::Write;

const CRASHING: [&str; 8] =
    ["pv-binder", "provisioner", "attachdetach", "attacher", "scheduler", "pvc-protection", "pv-protection", "resizer"];
const CLAIMS: usize = 3;
const VOLUMES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// No class: a volume that an administrator made.
    Static,
    Immediate,
    WaitForFirstConsumer,
}

#[derive(Debug, Clone)]
struct Claim {
    class: Class,
    gib: usize,
    bound: Option<Bound>,
    /// Deleted, and held by a pod.
    going: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// An administrator's volume, by number.
    Static(usize),
    /// One that was made for the claim; `going`: deleted, and held by the claim.
    Made { going: bool },
}

/// What the documentation of PersistentVolumes calls phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Available,
    Bound { going: bool },
    Released,
}

#[derive(Debug, Clone, Default)]
struct Cluster {
    /// `c<n>`.
    claims: BTreeMap<usize, Claim>,
    /// `v<n>` of 2 + 2n GiB and policy Retain.
    volumes: BTreeMap<usize, Phase>,
    /// `p<n>` uses `c<n>`, and runs or not.
    pods: BTreeMap<usize, bool>,
}

#[derive(Debug, Clone)]
enum Deed {
    Volume(usize),
    Claim(usize, Class, usize),
    Pod(usize),
    DeletePod(usize),
    DeleteClaim(usize),
    DeleteVolume(usize),
    /// The volume that was made for a claim.
    DeleteMade(usize),
    Grow(usize, usize),
}

/// A deed, and what goes wrong after it.
#[derive(Debug, Clone)]
struct Step {
    deed: Deed,
    steps: u8,
    crash: Option<usize>,
    faults: usize,
}

fn gib(volume: usize) -> usize {
    2 + 2 * volume
}

impl Cluster {
    /// The claims without a volume that one of this size would do for.
    fn waiting(&self, size: usize) -> Vec<usize> {
        let fits = |claim: &Claim| claim.class == Class::Static && claim.bound.is_none() && claim.gib <= size;
        self.claims.iter().filter(|(_, claim)| fits(claim)).map(|(n, _)| *n).collect()
    }

    fn make(&mut self, deed: &Deed) {
        match *deed {
            Deed::Volume(n) => drop(self.volumes.insert(n, Phase::Available)),
            Deed::Claim(n, class, gib) => drop(self.claims.insert(n, Claim { class, gib, bound: None, going: false })),
            Deed::Pod(n) => drop(self.pods.insert(n, false)),
            Deed::DeletePod(n) => drop(self.pods.remove(&n)),
            Deed::DeleteClaim(n) => self.claims.get_mut(&n).into_iter().for_each(|claim| claim.going = true),
            Deed::DeleteVolume(n) => match self.volumes.get_mut(&n) {
                Some(Phase::Bound { going }) => *going = true,
                _ => drop(self.volumes.remove(&n)),
            },
            Deed::DeleteMade(n) => {
                self.claims.get_mut(&n).into_iter().for_each(|claim| claim.bound = Some(Bound::Made { going: true }));
            }
            Deed::Grow(n, gib) => self.claims.get_mut(&n).into_iter().for_each(|claim| claim.gib = gib),
        }
        self.rest();
    }

    /// What becomes of it in the end.
    fn rest(&mut self) {
        // A claim that is deleted goes when no pod uses it; one that was not scheduled does not.
        for n in self.claims.iter().filter(|(_, claim)| claim.going).map(|(n, _)| *n).collect::<Vec<_>>() {
            if self.pods.get(&n) == Some(&true) {
                continue;
            }
            if let Some(Claim { bound: Some(Bound::Static(volume)), .. }) = self.claims.remove(&n) {
                // Retained, unless it was deleted meanwhile; one that was made for the claim is deleted.
                match self.volumes.get_mut(&volume) {
                    Some(Phase::Bound { going: true }) => drop(self.volumes.remove(&volume)),
                    Some(phase) => *phase = Phase::Released,
                    None => {}
                }
            }
        }
        for (n, claim) in self.claims.iter_mut().filter(|(_, claim)| claim.bound.is_none()) {
            claim.bound = match claim.class {
                Class::Static => {
                    // The smallest that is large enough.
                    let fits = |(volume, phase): &(&usize, &Phase)| **phase == Phase::Available && gib(**volume) >= claim.gib;
                    self.volumes.iter().filter(fits).map(|(volume, _)| *volume).min().map(Bound::Static)
                }
                Class::Immediate => Some(Bound::Made { going: false }),
                Class::WaitForFirstConsumer => self.pods.contains_key(n).then_some(Bound::Made { going: false }),
            };
            if let Some(Bound::Static(volume)) = claim.bound {
                self.volumes.insert(volume, Phase::Bound { going: false });
            }
        }
        for (n, runs) in &mut self.pods {
            *runs |= self.claims.get(n).is_some_and(|claim| claim.bound.is_some());
        }
    }
}

impl ReferenceStateMachine for Cluster {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let class = prop::sample::select(&[Class::Static, Class::Static, Class::Immediate, Class::WaitForFirstConsumer][..]);
        let deed = prop_oneof![
            3 => (0..VOLUMES).prop_map(Deed::Volume),
            5 => (0..CLAIMS, class, 1..8usize).prop_map(|(n, class, gib)| Deed::Claim(n, class, gib)),
            5 => (0..CLAIMS).prop_map(Deed::Pod),
            3 => (0..CLAIMS).prop_map(Deed::DeletePod),
            3 => (0..CLAIMS).prop_map(Deed::DeleteClaim),
            2 => (0..VOLUMES).prop_map(Deed::DeleteVolume),
            1 => (0..CLAIMS).prop_map(Deed::DeleteMade),
            2 => (0..CLAIMS, 8..16usize).prop_map(|(n, gib)| Deed::Grow(n, gib)),
        ];
        (deed, 0..40u8, proptest::option::of(0..CRASHING.len()), 0..3usize)
            .prop_map(|(deed, steps, crash, faults)| Step { deed, steps, crash, faults })
            .boxed()
    }

    fn apply(mut cluster: Self, step: &Step) -> Self {
        cluster.make(&step.deed);
        cluster
    }

    /// A name is given once at a time, what is deleted is there, and nothing is left to chance: no two claims compete for one volume.
    fn preconditions(cluster: &Self, step: &Step) -> bool {
        let claim = |n: usize| cluster.claims.get(&n);
        match step.deed {
            Deed::Volume(n) => !cluster.volumes.contains_key(&n) && cluster.waiting(gib(n)).len() < 2,
            Deed::Claim(n, ..) => claim(n).is_none(),
            // The attacher attaches nothing that is being deleted.
            Deed::Pod(n) => {
                let volume_goes = |claim: &Claim| match claim.bound {
                    Some(Bound::Static(volume)) => cluster.volumes.get(&volume) == Some(&Phase::Bound { going: true }),
                    Some(Bound::Made { going }) => going,
                    None => false,
                };
                !cluster.pods.contains_key(&n) && claim(n).is_none_or(|claim| !claim.going && !volume_goes(claim))
            }
            Deed::DeletePod(n) => cluster.pods.contains_key(&n),
            Deed::DeleteClaim(n) => claim(n).is_some_and(|claim| !claim.going),
            Deed::DeleteVolume(n) => cluster.volumes.get(&n).is_some_and(|phase| *phase != Phase::Bound { going: true }),
            Deed::DeleteMade(n) => claim(n).is_some_and(|claim| claim.bound == Some(Bound::Made { going: false })),
            Deed::Grow(n, gib) => {
                claim(n).is_some_and(|claim| !claim.going && claim.bound == Some(Bound::Made { going: false }) && claim.gib < gib)
            }
        }
    }
}

struct Real(World);

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Cluster;

    fn init_test(_: &Cluster) -> Self {
        let mut world = World::new(7);
        world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
        world.apply(class("late", "ebs.csi.aws.com", "WaitForFirstConsumer"));
        world.settle();
        Self(world)
    }

    fn apply(mut real: Self, _: &Cluster, step: Step) -> Self {
        let world = &mut real.0;
        match step.deed {
            Deed::Volume(n) => drop(world.apply(volume(&format!("v{n}"), &format!("vol-{n}"), &format!("{}Gi", gib(n))))),
            Deed::Claim(n, class, gib) => {
                let class = match class {
                    Class::Static => "",
                    Class::Immediate => "now",
                    Class::WaitForFirstConsumer => "late",
                };
                world.apply(claim(&format!("c{n}"), class, "ReadWriteOnce", &format!("{gib}Gi")));
            }
            Deed::Pod(n) => drop(world.apply(pod(&format!("p{n}"), &format!("c{n}")))),
            Deed::DeletePod(n) => world.delete(Kind::Pod, "default", &format!("p{n}")),
            Deed::DeleteClaim(n) => world.delete(Kind::PersistentVolumeClaim, "default", &format!("c{n}")),
            Deed::DeleteVolume(n) => world.delete(Kind::PersistentVolume, "", &format!("v{n}")),
            Deed::DeleteMade(n) => {
                let claim = world.json(Kind::PersistentVolumeClaim, "default", &format!("c{n}"));
                world.delete(Kind::PersistentVolume, "", claim["spec"]["volumeName"].as_str().unwrap());
            }
            Deed::Grow(n, gib) => {
                let key = Key::new(Kind::PersistentVolumeClaim, "default", &format!("c{n}"));
                let patch = json!({"spec": {"resources": {"requests": {"storage": format!("{gib}Gi")}}}});
                world.write(&Write::merge(key, patch)).unwrap();
            }
        }
        world.faults = step.faults;
        for _ in 0..step.steps {
            world.step();
        }
        if let Some(which) = step.crash {
            world.crash(CRASHING[which]);
        }
        world.settle();
        world.faults = 0;
        world.resync();
        real
    }

    fn check_invariants(real: &Self, cluster: &Cluster) {
        let world = &real.0;
        let phase = |json: &serde_json::Value| json["status"]["phase"].as_str().unwrap_or("none").to_owned();
        let (mut made, mut used) = (0, BTreeSet::new());
        for n in 0..CLAIMS {
            let object = world.json(Kind::PersistentVolumeClaim, "default", &format!("c{n}"));
            let pod = world.json(Kind::Pod, "default", &format!("p{n}"));
            let runs = cluster.pods.get(&n).map(|runs| if *runs { "Running" } else { "Pending" });
            assert_eq!((!pod.is_null()).then(|| phase(&pod)).as_deref(), runs, "pod {n}: {pod}");
            let Some(claim) = cluster.claims.get(&n) else {
                assert!(object.is_null(), "claim {n} is there: {object}");
                continue;
            };
            assert_eq!(phase(&object), if claim.bound.is_some() { "Bound" } else { "Pending" }, "claim {n}: {object}");
            assert_eq!(!object["metadata"]["deletionTimestamp"].is_null(), claim.going, "claim {n}: {object}");
            let Some(bound) = claim.bound else { continue };
            let name = object["spec"]["volumeName"].as_str().unwrap();
            let volume = world.json(Kind::PersistentVolume, "", name);
            assert_eq!(volume["spec"]["claimRef"]["uid"], object["metadata"]["uid"], "claim {n}");
            match bound {
                Bound::Static(volume) => assert_eq!(name, format!("v{volume}"), "claim {n}"),
                Bound::Made { going } => {
                    made += 1;
                    assert_eq!(volume["spec"]["capacity"]["storage"], format!("{}Gi", claim.gib), "claim {n}");
                    assert_eq!(!volume["metadata"]["deletionTimestamp"].is_null(), going, "{volume}");
                }
            }
            if runs == Some("Running") {
                used.insert(volume["spec"]["csi"]["volumeHandle"].as_str().unwrap().to_owned());
            }
        }
        for n in 0..VOLUMES {
            let object = world.json(Kind::PersistentVolume, "", &format!("v{n}"));
            let expected = cluster.volumes.get(&n).map(|phase| match phase {
                Phase::Available => ("Available", false),
                Phase::Bound { going } => ("Bound", *going),
                Phase::Released => ("Released", false),
            });
            let shown = (!object.is_null()).then(|| (phase(&object), !object["metadata"]["deletionTimestamp"].is_null()));
            assert_eq!(shown.as_ref().map(|(phase, going)| (phase.as_str(), *going)), expected, "volume {n}: {object}");
        }
        // What nobody has is not there, neither in Kubernetes nor at the driver.
        assert_eq!(world.store.all(&Kind::PersistentVolume).count(), made + cluster.volumes.len());
        assert_eq!(world.volumes.len(), made, "{:?}", world.volumes);
        // Attached is what a pod that runs uses, and nothing else.
        let attached: BTreeSet<String> =
            world.attached.iter().filter(|(_, nodes)| !nodes.is_empty()).map(|(volume, _)| volume.clone()).collect();
        assert_eq!(attached, used);
        assert_eq!(world.store.all(&Kind::VolumeAttachment).count(), used.len());
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, max_shrink_iters: 400, ..ProptestConfig::default() })]

    /// Claims, volumes, pods and attachments come to what the documentation says.
    #[test]
    fn the_cluster_comes_to_what_the_documentation_says(sequential 1..20 => Real);
}
