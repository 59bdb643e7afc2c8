//! The kubelet of one node: its pods ([`crate::pod`]) and its volume manager ([`crate::volume_manager`]) as one machine.
//!
//! The shell watches the node's pods and says so with [`Input::Pod`]; it carries out the effects; what a pod's status shows
//! is read from [`Kubelet::pod`]. Nothing is saved: after a crash the API, the disk and the kernel are the truth.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model_common::bugs::{self, Bug};
use serde::{Deserialize, Serialize};

use crate::pod::{Phase, Pod, PodEffect, PodSpec, PodTimer, ProbeKind, SYNC_BACKOFF, Stage, StartError};
use crate::volume_manager::{self as volumes, Config, Found, PodUid, PodVolume, PodWant, VolumeManager};

/// `WaitForAttachAndMount`: one tick more than a CSI call may take.
pub const VOLUMES_DUE: Duration = Duration::from_secs(123);
/// How often a running pod is looked at again (`syncFrequency`).
pub const RESYNC: Duration = Duration::from_secs(60);

/// What the kubelet is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Input {
    /// The first input: the mounts that the disk shows.
    Booted(Vec<Found>),
    /// A pod of this node, new or changed.
    Pod {
        spec: Arc<PodSpec>,
        /// It is marked for deletion, with this grace period.
        deleting: Option<Duration>,
        /// The phase in the API when that is Succeeded or Failed.
        ended: Option<Phase>,
        /// The restart counts of containers that have run, from its status.
        restarts: BTreeMap<String, u32>,
        /// Its containers that the runtime still runs from an earlier life of this kubelet, by their restart count.
        running: BTreeMap<String, u32>,
    },
    /// A pod's object is gone.
    PodGone(PodUid),
    /// Every pod of this node was given once.
    Synced,
    /// The answer to [`PodEffect::Resolve`]: the volumes with a driver, or why not.
    Resolved {
        pod: PodUid,
        result: Result<Vec<PodVolume>, String>,
    },
    /// The answer to [`PodEffect::AttachLimit`]: whether that is so ([`volumes::is_exhausted`] of a volume of
    /// [`VolumeManager::waiting`]).
    AttachLimit {
        pod: PodUid,
        exhausted: bool,
    },
    /// The answer to [`PodEffect::SetUpLocal`]; the error is the text of a FailedMount event.
    LocalReady {
        pod: PodUid,
        result: Result<(), String>,
    },
    /// The answer to [`PodEffect::Start`].
    Started {
        pod: PodUid,
        container: String,
        result: Result<(), StartError>,
    },
    /// A container's process ended: its exit code, or 128 and the signal's number.
    Exited {
        pod: PodUid,
        container: String,
        code: i32,
    },
    /// The answer to [`PodEffect::Probe`]; the error is the end of the Unhealthy event.
    Probed {
        pod: PodUid,
        container: String,
        kind: ProbeKind,
        attempt: u32,
        result: Result<(), String>,
    },
    /// The answer to [`PodEffect::TearDownLocal`].
    Cleaned {
        pod: PodUid,
        result: Result<(), String>,
    },
    /// The answer to [`PodEffect::Delete`].
    Deleted(PodUid),
    /// For the volume manager. `Want`, `Unwant`, `Booted` and `SourcesReady` are given by this machine itself.
    Volume(volumes::Input),
    PodTimer {
        pod: PodUid,
        timer: PodTimer,
    },
}

/// What the kubelet wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Effect {
    Pod(PodUid, PodEffect),
    Volume(volumes::Effect),
}

/// An input that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reject {
    #[error("no pod {0} on this node")]
    NoSuchPod(PodUid),
    #[error(transparent)]
    Volume(#[from] volumes::Reject),
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kubelet {
    volumes: VolumeManager,
    pods: BTreeMap<PodUid, Pod>,
    synced: bool,
    sources_ready: bool,
}

impl Kubelet {
    pub fn new(config: Config) -> Self {
        Self { volumes: VolumeManager::new(config), pods: BTreeMap::new(), synced: false, sources_ready: false }
    }

    /// The volume manager, to look at.
    pub fn volumes(&self) -> &VolumeManager {
        &self.volumes
    }

    /// A pod, to show its status.
    pub fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The machine's one entry.
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted(found) => self.volume(&volumes::Input::Booted(found.clone()), out)?,
            Input::Volume(input) => self.volume(input, out)?,
            Input::Synced => self.synced = true,
            Input::Pod { spec, deleting, ended, restarts, running } => self.see(spec, *deleting, *ended, restarts, running, out),
            Input::PodGone(uid) => self.gone(uid, out),
            Input::Deleted(uid) => {
                self.pods.remove(uid);
            }
            Input::Resolved { pod, result } => self.resolved(pod, result, out)?,
            Input::AttachLimit { pod, exhausted: true } => {
                let (mut unmounted, mut unattached) = (self.volumes.unmounted(pod), self.volumes.unattached(pod));
                unmounted.sort_unstable();
                unattached.sort_unstable();
                let message = format!(
                    "Node has insufficient volume attachment capacity for pod: unmounted volumes=[{}], unattached volumes=[{}]",
                    unmounted.join(" "),
                    unattached.join(" ")
                );
                self.with(pod, out, |pod, out| pod.reject("VolumeAttachmentLimitExceeded", message, out))?;
            }
            Input::AttachLimit { .. } => {}
            Input::LocalReady { pod, result } => self.with(pod, out, |pod, out| match (pod.stage, result) {
                (Stage::Local, Ok(())) => {
                    pod.run(out);
                    out.push(PodEffect::Arm(PodTimer::Sync, RESYNC));
                    out.push(PodEffect::Status);
                }
                (Stage::Local, Err(why)) => {
                    out.push(PodEffect::Record { container: None, warning: true, reason: "FailedMount", message: why.clone() });
                    out.push(PodEffect::Arm(PodTimer::Sync, Duration::from_secs(1)));
                    pod.stage = Stage::Volumes;
                    pod.resolved = false;
                }
                _ => {}
            })?,
            Input::Started { pod, container, result } => self.with(pod, out, |pod, out| pod.started(container, result, out))?,
            Input::Exited { pod, container, code } => self.with(pod, out, |pod, out| pod.exited(container, *code, out))?,
            Input::Probed { pod, container, kind, attempt, result } => {
                self.with(pod, out, |pod, out| pod.probed(container, *kind, *attempt, result, out))?;
            }
            Input::Cleaned { pod, result } => self.cleaned(pod, result, out)?,
            Input::PodTimer { pod, timer } => self.fired(pod, timer, out)?,
        }
        self.advance(out);
        Ok(())
    }

    fn volume(&mut self, input: &volumes::Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let mut effects = Vec::new();
        let result = self.volumes.step(input, &mut effects);
        out.extend(effects.into_iter().map(Effect::Volume));
        Ok(result?)
    }

    fn with<T>(&mut self, uid: &PodUid, out: &mut Vec<Effect>, act: impl FnOnce(&mut Pod, &mut Vec<PodEffect>) -> T) -> Result<T, Reject> {
        let pod = self.pods.get_mut(uid).ok_or_else(|| Reject::NoSuchPod(uid.clone()))?;
        let mut effects = Vec::new();
        let result = act(pod, &mut effects);
        out.extend(effects.into_iter().map(|effect| Effect::Pod(uid.clone(), effect)));
        Ok(result)
    }

    fn see(
        &mut self,
        spec: &Arc<PodSpec>,
        deleting: Option<Duration>,
        ended: Option<Phase>,
        restarts: &BTreeMap<String, u32>,
        running: &BTreeMap<String, u32>,
        out: &mut Vec<Effect>,
    ) {
        let known = self.pods.contains_key(&spec.uid);
        let pod = self.pods.entry(spec.uid.clone()).or_insert_with(|| Pod::new(spec.clone(), restarts));
        let mut effects = Vec::new();
        if !known {
            pod.ended = ended;
            pod.adopt(running, &mut effects);
            match ended {
                // Whatever it left is removed; it does not run again.
                Some(_) => {
                    pod.resolved = true;
                    pod.stage = Stage::Unmounting;
                }
                // What no container uses needs no volume; what one still writes to is wanted until it has ended (kubernetes#113979).
                None if deleting.is_some() && (!pod.adopted || bugs::on(Bug::AdoptedNotWanted)) => pod.resolved = true,
                None => pod.resolve(&mut effects),
            }
            effects.push(PodEffect::Status);
        }
        if let Some(grace) = deleting
            && !std::mem::replace(&mut pod.deleting, true)
        {
            match pod.stage {
                Stage::Finished => pod.stage = Stage::Unmounting,
                Stage::Resolving | Stage::Volumes | Stage::Local | Stage::Running | Stage::Terminating => {
                    pod.terminate(Some(grace), &mut effects);
                }
                Stage::Unmounting | Stage::Cleaning | Stage::Deleting => {}
            }
        }
        out.extend(effects.into_iter().map(|effect| Effect::Pod(spec.uid.clone(), effect)));
    }

    fn gone(&mut self, uid: &PodUid, out: &mut Vec<Effect>) {
        let stage = self.pods.get(uid).map(|pod| pod.stage);
        match stage {
            None => {}
            Some(Stage::Deleting | Stage::Finished) => {
                self.pods.remove(uid);
            }
            Some(_) => {
                // Deleted by force: the node still takes it down in order.
                let _ = self.with(uid, out, |pod, out| {
                    pod.orphan = true;
                    pod.deleting = true;
                    pod.terminate(Some(Duration::ZERO), out);
                });
            }
        }
    }

    fn resolved(&mut self, uid: &PodUid, result: &Result<Vec<PodVolume>, String>, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let want = self.with(uid, out, |pod, out| {
            pod.was_resolved(result.is_ok());
            let ends = pod.adopted && pod.stage == Stage::Terminating;
            if pod.stage > Stage::Running && !ends {
                return None;
            }
            match result {
                Ok(volumes) => {
                    if pod.stage == Stage::Resolving {
                        pod.stage = Stage::Volumes;
                        out.push(PodEffect::Arm(PodTimer::VolumesDue, VOLUMES_DUE));
                    }
                    Some(PodWant {
                        uid: pod.spec.uid.clone(),
                        namespace: pod.spec.namespace.clone(),
                        name: pod.spec.name.clone(),
                        service_account: pod.spec.service_account.clone(),
                        volumes: volumes.clone(),
                    })
                }
                Err(why) => {
                    if pod.stage == Stage::Resolving {
                        let names = pod.spec.volumes.join(" ");
                        out.push(PodEffect::Record {
                            container: None,
                            warning: true,
                            reason: "FailedMount",
                            message: format!(
                                "Unable to attach or mount volumes: unmounted volumes=[{names}], unattached volumes=[], failed to process volumes=[{names}]: {why}"
                            ),
                        });
                    }
                    out.push(PodEffect::Arm(PodTimer::Sync, SYNC_BACKOFF));
                    None
                }
            }
        })?;
        match want {
            Some(want) => self.volume(&volumes::Input::Want(want), out),
            None => Ok(()),
        }
    }

    fn cleaned(&mut self, uid: &PodUid, result: &Result<(), String>, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let finished = self.with(uid, out, |pod, out| {
            if pod.stage != Stage::Cleaning {
                return false;
            }
            if result.is_err() {
                // Something still lies in its volumes: look again at the next housekeeping.
                pod.stage = Stage::Unmounting;
                out.push(PodEffect::Arm(PodTimer::Sync, Duration::from_secs(2)));
                pod.hold = true;
                return false;
            }
            pod.stage = Stage::Finished;
            pod.sandbox = false;
            match (pod.deleting, pod.orphan) {
                (_, true) => return true,
                (true, false) => {
                    pod.stage = Stage::Deleting;
                    out.push(PodEffect::Delete);
                }
                (false, false) => out.push(PodEffect::Status),
            }
            false
        })?;
        if finished {
            self.pods.remove(uid);
        }
        Ok(())
    }

    fn fired(&mut self, uid: &PodUid, timer: &PodTimer, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let unattached = *timer == PodTimer::VolumesDue && self.volumes.waiting(uid).next().is_some();
        self.with(uid, out, |pod, out| match timer {
            PodTimer::Sync => match pod.stage {
                Stage::Resolving | Stage::Volumes | Stage::Local => pod.resolve(out),
                Stage::Running => {
                    pod.resolve(out);
                    out.push(PodEffect::Arm(PodTimer::Sync, RESYNC));
                }
                Stage::Unmounting => pod.hold = false,
                Stage::Terminating if pod.adopted && !pod.resolved => pod.resolve(out),
                Stage::Terminating | Stage::Cleaning | Stage::Finished | Stage::Deleting => {}
            },
            PodTimer::VolumesDue if pod.stage == Stage::Volumes => {
                // Upstream's sync ends with a deadline error, of which no event is made; the next one reads the claims anew.
                pod.resolve(out);
                out.push(PodEffect::Arm(PodTimer::VolumesDue, VOLUMES_DUE));
                if unattached {
                    out.push(PodEffect::AttachLimit);
                }
            }
            PodTimer::VolumesDue => {}
            PodTimer::Restart(container) => pod.restart_due(container, out),
            PodTimer::Forget(container) => pod.forget_crashes(container),
            PodTimer::Kill => pod.kill(out),
            PodTimer::Deadline => pod.deadline(out),
            PodTimer::Probe(container, kind) => pod.probe_due(container, *kind, out),
            PodTimer::Stop(container) => pod.stop_due(container, out),
        })
    }

    /// What one part's progress lets another do.
    fn advance(&mut self, out: &mut Vec<Effect>) {
        let uids: Vec<_> = self.pods.keys().cloned().collect();
        for uid in &uids {
            let Some(pod) = self.pods.get(uid) else { continue };
            match pod.stage {
                Stage::Volumes if pod.resolved && self.volumes.unmounted(uid).is_empty() => {
                    let _ = self.with(uid, out, |pod, out| {
                        pod.stage = Stage::Local;
                        out.push(PodEffect::Disarm(PodTimer::VolumesDue));
                        out.push(PodEffect::SetUpLocal);
                    });
                }
                Stage::Unmounting if !pod.hold => self.unmount(uid, out),
                _ => {}
            }
        }
        if self.synced && !self.sources_ready && self.pods.values().all(|pod| pod.resolved) {
            self.sources_ready = true;
            // Given once, after every pod of the list: what is mounted for no pod goes.
            let _ = self.volume(&volumes::Input::SourcesReady, out);
            self.advance(out);
        }
    }

    fn unmount(&mut self, uid: &PodUid, out: &mut Vec<Effect>) {
        if self.volumes.desires(uid) {
            // `Unwant` is never rejected.
            let _ = self.volume(&volumes::Input::Unwant(uid.clone()), out);
        }
        if !self.volumes.possibly_mounted(uid) {
            let _ = self.with(uid, out, |pod, out| {
                pod.stage = Stage::Cleaning;
                out.push(PodEffect::TearDownLocal);
            });
        }
    }

    /// The uids of pods whose directories must stay.
    pub fn keeps(&self) -> BTreeSet<PodUid> {
        self.pods.keys().cloned().collect()
    }
}
