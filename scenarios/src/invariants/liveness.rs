//! What must happen in time: L1 to L10 and L12 to L14, as duties with deadlines. A deadline counts from when the duty arose or from
//! when the world became calm, whichever is later: under faults nothing has to happen.

mod judge;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model_common::csi::{Code, Error};
use serde_json::Value;

use super::attach::Attach;
use super::calls::{Call, Verb};
use super::claims::{capacity_of, is_bound};
use super::known::{Delta, Known, Pod};
use super::mounts::Mounts;
use super::names::{Id, Sym};
use super::table::{Reach, Rule};
use super::watch::Log;
use judge::{Verdict, judge};

/// Something that must happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    Run { pod: Id, uid: Sym },
    Go { pod: Id, uid: Sym },
    Unmount { pod: Id, uid: Sym },
    Detach { volume: Sym, node: Sym },
    Free { attachment: Sym, uid: Sym },
    DropClaim { claim: Id, uid: Sym },
    DropVolume { pv: Sym },
    Reselect { claim: Id, node: Sym },
    Expand { claim: Id },
    Snapshot { id: Id, uid: Sym },
    DropSnapshot { id: Id, uid: Sym },
    Retry { volume: Sym, node: Sym },
    Report { volume: Sym, node: Sym },
    Io { tree: Sym, node: Sym },
}

impl Duty {
    fn rule(self) -> Rule {
        match self {
            Self::Run { .. } => Rule::L1,
            Self::Go { .. } => Rule::L2,
            Self::Detach { .. } => Rule::L3,
            Self::Free { .. } => Rule::L4,
            Self::DropClaim { .. } | Self::DropVolume { .. } => Rule::L5,
            Self::Reselect { .. } => Rule::L6,
            Self::Expand { .. } => Rule::L7,
            Self::Snapshot { .. } | Self::DropSnapshot { .. } => Rule::L8,
            Self::Retry { .. } => Rule::L9,
            Self::Report { .. } => Rule::L10,
            Self::Unmount { .. } => Rule::L13,
            Self::Io { .. } => Rule::L14,
        }
    }

    /// How long it may take.
    fn bound(self) -> Duration {
        Duration::from_secs(match self {
            Self::Run { .. } | Self::Unmount { .. } | Self::Detach { .. } | Self::Free { .. } => 600,
            Self::Go { .. } => 300,
            Self::DropClaim { .. } | Self::DropVolume { .. } | Self::Reselect { .. } | Self::Expand { .. } => 900,
            Self::Snapshot { .. } | Self::DropSnapshot { .. } => 1200,
            // 2 minutes 2 seconds, and a round of the loops that lead to the call.
            Self::Retry { .. } => 125,
            // 10.4 s and 5 minutes.
            Self::Report { .. } => 311,
            Self::Io { .. } => 30,
        })
    }
}

/// At most so many writes of one object in [`WINDOW`].
const WRITES: usize = 10;
/// At most so many changes of a volume in a node's lists in [`WINDOW`]: a detach that the node's volumesInUse refuses takes the volume
/// off the list and puts it back (§2.3), and its backoff (500 ms, doubled) permits seven tries in a minute; and an attach and a detach.
const LISTINGS: usize = 2 * 7 + 4;
const LISTS: u8 = 3;
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// The world is asked from time to time: what it shows may be so for long, and its objects say since when.
    pub dated: bool,
    open: BTreeMap<Duty, Duration>,
    due: BTreeSet<(Duration, Duty)>,
    /// How many faults are at work, and since when there are none.
    faults: usize,
    calm: Duration,
    /// Nodes that are not ready.
    unready: BTreeSet<Sym>,
    /// Volumes that the control plane attached, by volume and node: what a user attached is the user's.
    asked: BTreeSet<(Sym, Sym)>,
    /// What drivers refuse to make for good; and whether their calls are seen at all.
    refused: BTreeSet<Sym>,
    calls: bool,
    /// When something was written last: a claim (0), a PersistentVolume (1), a VolumeAttachment (2), a volume in a node's lists ([`LISTS`]).
    writes: BTreeMap<(u8, Sym, Sym), VecDeque<Duration>>,
}

/// All that a duty is judged by.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub known: &'a Known,
    pub mounts: &'a Mounts,
    pub attach: &'a Attach,
}

impl Liveness {
    fn owe(&mut self, since: Duration, duty: Duty) {
        if self.open.contains_key(&duty) {
            return;
        }
        let deadline = since.max(self.calm) + duty.bound();
        self.open.insert(duty, deadline);
        self.due.insert((deadline, duty));
    }

    /// The last deadline of the duties that arose after `since`, that every world can see done, and that are not done or excused by now.
    pub(super) fn due(&self, since: Duration, view: View<'_>) -> Option<Duration> {
        let is_open = |(deadline, duty): &&(Duration, Duty)| {
            duty.rule().row().reach == Reach::Api
                && deadline.saturating_sub(duty.bound()) >= since
                && matches!(judge(*duty, self, view), Verdict::Broken(_))
        };
        self.due.iter().filter(is_open).map(|(deadline, _)| *deadline).max()
    }

    /// Since when something is so: an object's own time, where the world was not watched when it came about.
    fn since(&self, at: Duration, time: Option<&Time>) -> Duration {
        let seconds = time.filter(|_| self.dated).and_then(|time| u64::try_from(time.0.as_second()).ok());
        seconds.map_or(at, |seconds| at.min(Duration::from_secs(seconds)))
    }

    fn done(&mut self, duty: Duty) {
        if let Some(deadline) = self.open.remove(&duty) {
            self.due.remove(&(deadline, duty));
        }
    }

    fn owe_if(&mut self, owed: bool, since: Duration, duty: Duty) {
        if owed { self.owe(since, duty) } else { self.done(duty) }
    }

    /// Time has come so far: judges the duties whose deadline is over.
    pub(super) fn tick(&mut self, at: Duration, view: View<'_>, log: &mut Log) {
        while let Some((deadline, duty)) = self.due.first().copied().filter(|(deadline, _)| *deadline <= at) {
            self.done(duty);
            if self.faults > 0 {
                self.owe(at, duty);
            } else if self.calm + duty.bound() > deadline {
                self.owe(self.calm, duty);
            } else {
                match judge(duty, self, view) {
                    Verdict::Broken(what) => log.say(deadline, duty.rule(), || what),
                    Verdict::Excused => self.owe(deadline, duty),
                    Verdict::Moot => {}
                }
            }
        }
    }

    pub(super) fn faults(&mut self, at: Duration, active: usize) {
        if active == 0 && self.faults > 0 {
            self.calm = at;
        }
        self.faults = active;
    }

    pub(super) fn object(&mut self, at: Duration, delta: &Delta<'_>, view: View<'_>, log: &mut Log) {
        let known = view.known;
        match delta {
            Delta::Pod { id, old, last } => self.pod(at, *id, old.as_ref(), last.as_ref(), view),
            Delta::Node { name, in_use, attached, gone } => {
                for volume in &in_use.came {
                    self.report(at, *volume, *name, view);
                }
                for volume in &in_use.went {
                    self.done(Duty::Report { volume: *volume, node: *name });
                }
                let lists = [in_use, attached];
                for volume in lists.into_iter().flat_map(|turn| turn.came.iter().chain(&turn.went)) {
                    self.wrote(at, (LISTS, *name, *volume), known, log, |known| {
                        format!("{} came into or left the lists of {}", known.text(*volume), known.text(*name))
                    });
                }
                let ready = known.is_ready(*name);
                if ready == self.unready.contains(name) {
                    if ready {
                        self.unready.remove(name)
                    } else {
                        self.unready.insert(*name)
                    };
                    let volumes: Vec<Sym> = self.asked.iter().filter(|(_, node)| node == name).map(|(volume, _)| *volume).collect();
                    volumes.into_iter().for_each(|volume| self.detach(at, volume, *name, view));
                }
                if *gone {
                    for (attachment, of) in known.attachments.iter().filter(|(_, of)| of.node == *name) {
                        self.owe(at, Duty::Free { attachment: *attachment, uid: of.uid });
                    }
                }
            }
            Delta::Attachment { name, old, new } => {
                match (old, new) {
                    (Some(old), None) => {
                        self.done(Duty::Free { attachment: *name, uid: old.uid });
                        self.writes.remove(&(2, *name, *name));
                    }
                    _ => {
                        self.wrote(at, (2, *name, *name), known, log, |known| format!("VolumeAttachment {} was written", known.text(*name)))
                    }
                }
                if let Some((volume, node)) = new.as_ref().and_then(|new| Some((new.volume?, new.node))) {
                    self.asked.insert((volume, node));
                }
            }
            Delta::Claim { id, old, new } => self.claim(at, *id, old.as_ref(), *new, known, log),
            Delta::Pv { name, new, .. } => {
                let Some(pv) = new.and_then(|_| known.pvs.get(name)) else {
                    self.writes.remove(&(1, *name, *name));
                    return self.done(Duty::DropVolume { pv: *name });
                };
                let since = self.since(at, pv.object.status.as_ref().and_then(|status| status.last_phase_transition_time.as_ref()));
                let released = pv.phase() == "Released" && pv.policy() == "Delete" && pv.handle.is_some();
                self.owe_if(released, since, Duty::DropVolume { pv: *name });
                self.wrote(at, (1, *name, *name), known, log, |known| format!("PersistentVolume {} was written", known.text(*name)));
            }
            Delta::Custom { plural: "volumesnapshots", object, gone, .. } => {
                let metadata = &object.metadata;
                let text = |text: &Option<String>| known.names.find(text.as_deref().unwrap_or("")).unwrap_or(Sym::MIN);
                let (id, uid) = ((text(&metadata.namespace), text(&metadata.name)), text(&metadata.uid));
                let status = object.fields.get("status");
                let ready = status.and_then(|status| status.get("readyToUse")).and_then(Value::as_bool) == Some(true);
                let ended = ready || status.is_some_and(|status| status.get("error").is_some_and(|error| !error.is_null()));
                let deleting = metadata.deletion_timestamp.is_some();
                let made = self.since(at, metadata.creation_timestamp.as_ref());
                let deleted = self.since(at, metadata.deletion_timestamp.as_ref());
                self.owe_if(!gone && !ended && !deleting, made, Duty::Snapshot { id, uid });
                self.owe_if(!gone && deleting, deleted, Duty::DropSnapshot { id, uid });
            }
            Delta::Custom { .. } => {}
        }
    }

    fn pod(&mut self, at: Duration, id: Id, old: Option<&(Arc<core::Pod>, Option<Sym>)>, last: Option<&Pod>, view: View<'_>) {
        let known = view.known;
        let deletes = |pod: &core::Pod| pod.metadata.deletion_timestamp.is_some();
        let begins = known.pods.get(&id).is_some_and(|pod| old.is_none_or(|(old, _)| deletes(old) != pod.is_deleting()));
        if known.user || (self.dated && (begins || last.is_some())) {
            // What follows from it is the user's doing; who it was that made or deleted a pod a cluster does not say.
            self.writes.clear();
        }
        let Some(pod) = last.or_else(|| known.pods.get(&id)).filter(|pod| !pod.claims.is_empty()) else { return };
        let uid = pod.uid;
        let here = last.is_none();
        let deleting = here && pod.is_deleting();
        let metadata = &pod.object.metadata;
        let since = self.since(at, metadata.creation_timestamp.as_ref());
        self.owe_if(here && !deleting && !runs(&pod.object), since, Duty::Run { pod: id, uid });
        let grace = metadata.deletion_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(0);
        // The time of its deletion has the grace in it (k8s.io/apiserver/pkg/registry/rest/delete.go).
        let over = self.since(at, metadata.deletion_timestamp.as_ref());
        let over = if over < at { over } else { at + Duration::from_secs(grace) };
        self.owe_if(deleting, over, Duty::Go { pod: id, uid });
        self.owe_if(deleting, over, Duty::Unmount { pod: id, uid });
        let Some(node) = pod.node else { return };
        if !here || deleting || pod.is_done() || old.is_none_or(|(_, old)| *old != pod.node) {
            for (_, volume) in known.volumes_of(&pod.claims) {
                self.detach(at, volume, node, view);
                self.report(at, volume, node, view);
            }
        }
    }

    /// L3: whether a volume has no business on a node.
    fn detach(&mut self, at: Duration, volume: Sym, node: Sym, view: View<'_>) {
        let there = view.attach.is_attached(volume, node);
        self.owe_if(
            there && self.asked.contains(&(volume, node)) && !judge::is_wanted(volume, node, view.known),
            at,
            Duty::Detach { volume, node },
        );
        if !there && !view.known.attachment_of.contains_key(&(volume, node)) {
            self.asked.remove(&(volume, node));
        }
    }

    /// L10: whether a volume is in a node's list and not on the node; looked at when a call for it ended there, or a mount of it went.
    pub(super) fn report(&mut self, at: Duration, volume: Sym, node: Sym, view: View<'_>) {
        self.owe_if(judge::is_ghost(volume, node, view), at, Duty::Report { volume, node });
    }

    /// EC2's attachments of a volume changed; `nodes`: where it is or was.
    pub(super) fn attachments(&mut self, at: Duration, volume: &str, nodes: &[Sym], view: View<'_>) {
        let Some(volume) = view.known.names.find(volume) else { return };
        nodes.iter().for_each(|node| self.detach(at, volume, *node, view));
    }

    fn claim(
        &mut self,
        at: Duration,
        id: Id,
        old: Option<&Arc<core::PersistentVolumeClaim>>,
        new: Option<&Arc<core::PersistentVolumeClaim>>,
        known: &Known,
        log: &mut Log,
    ) {
        let uid = |claim: &core::PersistentVolumeClaim| known.names.find(claim.metadata.uid.as_deref().unwrap_or("")).unwrap_or(Sym::MIN);
        let selected = |claim: &Arc<core::PersistentVolumeClaim>| judge::selected_node(claim, known);
        if let Some(node) = old.and_then(selected).filter(|old| new.and_then(selected) != Some(*old)) {
            self.done(Duty::Reselect { claim: id, node });
        }
        let Some(claim) = new else {
            if let Some(old) = old {
                self.done(Duty::DropClaim { claim: id, uid: uid(old) });
            }
            self.done(Duty::Expand { claim: id });
            self.writes.remove(&(0, id.0, id.1));
            return;
        };
        if let Some(node) = selected(claim) {
            self.owe_if(!is_bound(claim), at, Duty::Reselect { claim: id, node });
        }
        let since = self.since(at, claim.metadata.deletion_timestamp.as_ref());
        self.owe_if(claim.metadata.deletion_timestamp.is_some(), since, Duty::DropClaim { claim: id, uid: uid(claim) });
        self.owe_if(judge::grows(claim), at, Duty::Expand { claim: id });
        self.wrote(at, (0, id.0, id.1), known, log, |known| format!("claim {} was written", known.names.path(id)));
    }

    /// L12.
    fn wrote(&mut self, at: Duration, what: (u8, Sym, Sym), known: &Known, log: &mut Log, words: impl FnOnce(&Known) -> String) {
        if known.user {
            return;
        }
        let limit = if what.0 == LISTS { LISTINGS } else { WRITES };
        let times = self.writes.entry(what).or_default();
        if times.len() == limit
            && let Some(first) = times.pop_front()
            && at.saturating_sub(first) < WINDOW
        {
            log.say(at, Rule::L12, || format!("{} more than {limit} times in a minute", words(known)));
            times.clear();
        }
        times.push_back(at);
    }

    /// A call begins: it is the next attempt, or it makes the volume the control plane's.
    pub(super) fn began(&mut self, call: &Call) {
        let Call { verb, volume, node, .. } = *call;
        self.calls = true;
        match verb {
            Verb::Publish => drop(self.asked.insert((volume, node))),
            Verb::CreateVolume => drop(self.refused.remove(&volume)),
            Verb::NodeStage | Verb::NodeUnstage | Verb::NodePublish | Verb::NodeUnpublish => self.done(Duty::Retry { volume, node }),
            _ => {}
        }
    }

    /// What a caller was told, or would be had it waited.
    pub(super) fn failed(&mut self, at: Duration, call: &Call, error: &Error) {
        let Call { verb, volume, node, .. } = *call;
        match verb {
            Verb::NodeStage | Verb::NodeUnstage | Verb::NodePublish | Verb::NodeUnpublish => self.owe(at, Duty::Retry { volume, node }),
            Verb::CreateVolume if matches!(error.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound | Code::AlreadyExists) => {
                self.refused.insert(volume);
            }
            _ => {}
        }
    }

    /// L14.
    pub(super) fn io(&mut self, at: Duration, node: &str, tree: &str, hangs: bool, known: &mut Known) {
        let (node, tree) = (known.names.sym(node), known.names.sym(tree));
        self.owe_if(hangs, at, Duty::Io { tree, node });
    }

    /// Whether a claim can be provisioned, as far as is seen: a driver did not refuse it. Where no calls are seen nobody knows.
    fn is_provisionable(&self, claim: &core::PersistentVolumeClaim, known: &Known) -> bool {
        let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or(""));
        self.calls && !known.names.find(&name).is_some_and(|name| self.refused.contains(&name))
    }
}

/// Whether a pod has got beyond its volumes: it runs, it ended, or one of its containers started.
fn runs(pod: &core::Pod) -> bool {
    let Some(status) = pod.status.as_ref() else { return false };
    let started = |status: &core::ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some()) || status.restart_count > 0
    };
    status.phase.as_deref().is_some_and(|phase| phase != "Pending")
        || status.init_container_statuses.iter().chain(&status.container_statuses).flatten().any(started)
}
