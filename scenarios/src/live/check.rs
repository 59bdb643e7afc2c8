//! `ebbtide check`: the invariants on any cluster, by what its two APIs tell. The Kubernetes API is watched, EC2 is asked again and again.
//!
//! Each kind has a watch of its own, and they are not equally fast. What they tell is held back for [`IN_ORDER`] and then taken in the
//! order of the resource versions, which all kinds share, so that the monitors see the writes in the order in which they were made.

mod ec2;
mod follow;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model_kube::object::{Change, Kind};
use tokio::sync::mpsc;

use super::changes::Objects;
use super::{Target, kubernetes};
use crate::engine::EngineError;
use crate::invariants::{Found, Invariant, Reach, Seen, Watch, all};
use ec2::Ec2;
use follow::{Follow, Told};
pub(super) use follow::{Tell, forward};

/// The kinds that are looked at, in the order in which a first look goes through them: what others refer to comes first.
pub(crate) const KINDS: [(&str, Kind); 7] = [
    ("CSIDriver", Kind::CSIDriver),
    ("CSINode", Kind::CSINode),
    ("PersistentVolume", Kind::PersistentVolume),
    ("PersistentVolumeClaim", Kind::PersistentVolumeClaim),
    ("VolumeAttachment", Kind::VolumeAttachment),
    ("Node", Kind::Node),
    ("Pod", Kind::Pod),
];
/// Kinds that a cluster may have.
const SNAPSHOT_KINDS: [(&str, &str); 2] = [("VolumeSnapshotContent", "volumesnapshotcontents"), ("VolumeSnapshot", "volumesnapshots")];

/// Watches of several kinds come on several connections; after this time each has told what the others have.
const IN_ORDER: Duration = Duration::from_secs(1);
/// How often is looked for what the watches told.
pub(super) const ROUND: Duration = Duration::from_millis(200);

/// Invariants whose two halves are seen from EC2 and from Kubernetes, or that are seen from EC2 alone.
const NEED_EC2: [&str; 2] = ["single-attach", "volume-detaches"];

/// Where to look.
#[derive(Clone)]
pub struct Place {
    pub kubeconfig: PathBuf,
    /// None: EC2 is not looked at.
    pub ec2: Option<Target>,
    /// The invariants to watch; all that can be seen when none.
    pub names: Option<Vec<String>>,
}

/// What was looked at, for a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    pub objects: usize,
    pub volumes: Option<usize>,
}

/// The invariants that a look from outside cannot judge.
pub fn unseen(ec2: bool) -> impl Iterator<Item = &'static Invariant> {
    all().iter().filter(move |row| row.reach != Reach::Api || (!ec2 && NEED_EC2.contains(&row.name)))
}

/// A look at a cluster that goes on.
pub struct Check {
    watch: Watch,
    follow: Follow,
    kinds: Vec<Kind>,
    objects: Objects,
    ec2: Option<Ec2>,
    /// What was seen last, since the Unix epoch: time does not go back in what the monitors are told.
    at: Duration,
    /// Why EC2 says nothing.
    silent: Option<String>,
}

impl Check {
    /// Connects and takes the first whole look.
    pub async fn begin(place: &Place) -> Result<Self, EngineError> {
        let mut cluster = kubernetes::Cluster::connect(&place.kubeconfig).await?;
        let (tell, events) = mpsc::unbounded_channel();
        let mut kinds = Vec::new();
        let custom = |plural: &str| Kind::Custom { group: "snapshot.storage.k8s.io".into(), plural: plural.into() };
        let optional = SNAPSHOT_KINDS.map(|(name, plural)| (name, custom(plural), false));
        for (name, kind, needed) in KINDS.into_iter().map(|(name, kind)| (name, kind, true)).chain(optional) {
            match cluster.follow(name, kinds.len(), tell.clone()).await {
                Ok(()) => kinds.push(kind),
                Err(error) if needed => return Err(error),
                Err(error) => tracing::debug!(kind = name, %error, "not looked at"),
            }
        }
        let names = names(place.names.as_deref(), place.ec2.is_some());
        let ec2 = place.ec2.as_ref().map(Ec2::new);
        let watch = Watch::of_a_cluster(Some(&names));
        let (follow, first) = Follow::begin(events, kinds.len(), IN_ORDER).await?;
        let mut this = Self { watch, follow, kinds, objects: Objects::default(), ec2, at: Duration::ZERO, silent: None };
        this.learn(first)?;
        if let Some(ec2) = &mut this.ec2 {
            ec2.ask(now(), &mut this.watch).await?;
        }
        this.watch.pass(now());
        Ok(this)
    }

    /// So many faults are at work from now on: what must happen in time counts from when there are none.
    pub fn faults(&mut self, active: usize) {
        self.watch.see(now(), &Seen::Faults { active });
    }

    /// What did not hold since the last call.
    pub fn take(&mut self) -> Vec<Found> {
        self.watch.take()
    }

    pub fn looked(&self) -> Looked {
        Looked { objects: self.objects.len(), volumes: self.ec2.as_ref().map(Ec2::len) }
    }

    /// Until when something that began after `since` may still be due.
    pub fn due(&self, since: Duration) -> Option<Duration> {
        self.watch.due(since)
    }

    /// Looks on for a moment: what the watches told, EC2 when it is time, then what has taken too long.
    pub async fn round(&mut self) -> Result<(), EngineError> {
        tokio::time::sleep(ROUND).await;
        self.advance().await
    }

    /// Takes in what the watches told [`IN_ORDER`] ago or before, without a wait for more.
    pub async fn advance(&mut self) -> Result<(), EngineError> {
        let told = self.follow.ready(now().saturating_sub(IN_ORDER))?;
        self.learn(told)?;
        if let Some(ec2) = &mut self.ec2 {
            // A call that fails is no violation: the next one tells. It may fail on purpose, and for long: why is told once.
            match ec2.ask_when_due(now(), &mut self.watch).await.map_err(|error| error.to_string()) {
                Ok(false) => {}
                Ok(true) => self.silent = None,
                Err(error) if self.silent.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::warn!(error, "EC2 does not say what is attached");
                    self.silent = Some(error);
                }
            }
        }
        self.watch.pass(now());
        Ok(())
    }

    /// Takes in all that has happened until now.
    pub async fn catch_up(&mut self) -> Result<(), EngineError> {
        tokio::time::sleep(IN_ORDER).await;
        self.advance().await
    }

    fn learn(&mut self, told: Vec<Told>) -> Result<(), EngineError> {
        for told in told {
            self.at = self.at.max(told.at());
            let changes = match told {
                Told::There { kind, object, .. } => self.objects.there(follow::object(&self.kinds[kind], &object)?),
                Told::Gone { kind, object, .. } => {
                    self.objects.gone(follow::object(&self.kinds[kind], &object)?).into_iter().collect::<Vec<Change>>()
                }
                Told::All { kind, uids, .. } => self.objects.all_are(&self.kinds[kind], &uids),
            };
            changes.iter().for_each(|change| self.watch.see(self.at, &Seen::Object(change)));
        }
        Ok(())
    }
}

/// The invariants to watch: of the wanted ones those that can be seen.
pub(crate) fn names(wanted: Option<&[String]>, ec2: bool) -> Vec<String> {
    let hidden: Vec<&str> = unseen(ec2).map(|row| row.name).collect();
    let seen = all().iter().map(|row| row.name).filter(|name| !hidden.contains(name));
    seen.filter(|name| wanted.is_none_or(|wanted| wanted.iter().any(|other| other == name))).map(str::to_owned).collect()
}

/// Since the Unix epoch, as the objects' own times.
pub(super) fn now() -> Duration {
    // A clock before 1970 shows every object as new.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
