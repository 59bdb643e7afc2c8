//! The Job controller: pods until enough of them have succeeded (`pkg/controller/job`), and the end of finished ones (`ttlafterfinished`).
//!
//! A pod is counted once, whatever is lost: it has a finalizer, its uid is noted in the status, then the finalizer goes, then the uid becomes
//! a number.
//!
//! ```text
//!  pod over ─uid in uncountedTerminatedPods─▶ finalizer off ─uid out, succeeded or failed + 1─▶ counted
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::workload::{Core, Member, controller_of, is_active, is_leaving, is_ready, is_terminating_namespace, pod_from, uid};
use super::{has_finalizer, is_finished, namespace, phase_of};
use crate::events::EventRecord;
use crate::machine::{Backoff, Done, Effect, Index, Input, Purpose, Reject, Timer};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::write::{ApiError, Propagation, Write};

const COMPONENT: &str = "job-controller";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// How long the next pod waits after a failure (`DefaultJobPodFailureBackOff`, `MaxJobPodFailureBackOff`).
const FAILURES: Backoff = Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(600) };

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    core: Core,
    /// Failures after which a job waited or waits, and whether it still does.
    waits: BTreeMap<Key, (i32, bool)>,
    /// Jobs whose `activeDeadlineSeconds` run, and whether they are over.
    deadlines: BTreeMap<Key, bool>,
    /// Finished jobs whose time to live runs, and whether it is over.
    expiring: BTreeMap<Key, bool>,
}

/// How a job ends.
struct Verdict {
    is_success: bool,
    reason: &'static str,
    message: &'static str,
}

fn timer(purpose: Purpose, item: &Key) -> Timer {
    Timer { purpose, item: item.clone() }
}

fn has(status: &JobStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|known| known.type_ == kind && known.status == "True")
}

fn add(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|known| known.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: None,
        last_transition_time: None,
    });
}

/// Notes pods that are over, and turns those without finalizer into numbers (`trackJobStatusAndRemoveFinalizers`).
fn count(pods: &[Arc<Pod>], waits_for_end: bool, status: &mut JobStatus) {
    let mut noted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let is_tracked = |uid: &String| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && has_finalizer(&pod.metadata, TRACKING));
    for (list, count) in [(&mut noted.succeeded, &mut status.succeeded), (&mut noted.failed, &mut status.failed)] {
        let (still, counted): (Vec<String>, Vec<String>) = list.take().unwrap_or_default().into_iter().partition(is_tracked);
        *list = Some(still).filter(|still| !still.is_empty());
        let total = count.unwrap_or(0).saturating_add(i32::try_from(counted.len()).unwrap_or(i32::MAX));
        *count = Some(total).filter(|total| *total != 0);
    }
    for pod in pods.iter().filter(|pod| has_finalizer(&pod.metadata, TRACKING)) {
        let uid = uid(&pod.metadata).to_owned();
        let is_known = noted.succeeded.iter().chain(&noted.failed).flatten().any(|known| *known == uid);
        // A deleted pod has failed, whatever it still does; where failed ones only are replaced, its end is waited for.
        let is_lost = is_leaving(&pod.metadata) && (!waits_for_end || phase_of(pod) == "Pending");
        match phase_of(pod) {
            _ if is_known => {}
            "Succeeded" => noted.succeeded.get_or_insert_default().push(uid),
            "Failed" => noted.failed.get_or_insert_default().push(uid),
            _ if is_lost => noted.failed.get_or_insert_default().push(uid),
            _ => {}
        }
    }
    status.uncounted_terminated_pods = Some(noted);
}

impl Jobs {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => {
                self.core.boot::<Job>();
                let pods: Vec<Object> = self.core.cache.list::<Pod>().cloned().map(Object::Pod).collect();
                pods.iter().for_each(|pod| self.work_on_orphan(pod));
            }
            Input::Changed(change) => {
                let before = self.core.apply(change);
                match change.object() {
                    Object::Job(job) => {
                        self.core.work.mark(job.key());
                        if matches!(change, Change::Deleted(_)) {
                            let pods: Vec<Object> = self
                                .core
                                .cache
                                .find(Index::Owned, uid(&job.metadata))
                                .cloned()
                                .filter_map(|pod| self.core.cache.object(&pod).cloned())
                                .collect();
                            pods.iter().for_each(|pod| self.work_on_orphan(pod));
                        }
                    }
                    object => {
                        self.work_on_orphan(object);
                        self.core.owned::<Job>(before.as_ref(), change, out);
                    }
                }
            }
            Input::Written { call, result } => {
                let done = self.core.answer(*call, result, out)?;
                self.tell(&done, result, out);
            }
            Input::Fired(fired) => {
                let over = match fired.purpose {
                    Purpose::Progress => self.waits.get_mut(&fired.item).map(|(_, waits)| *waits = false),
                    Purpose::Deadline => self.deadlines.get_mut(&fired.item).map(|over| *over = true),
                    Purpose::Expire => self.expiring.get_mut(&fired.item).map(|over| *over = true),
                    _ => Some(()),
                };
                if over.is_some() {
                    self.core.work.retry(&fired.item);
                }
            }
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.core.work.take() {
            match item.kind {
                Kind::Job => self.sync(&item, out),
                _ => self.let_go(&item, out),
            }
        }
        Ok(())
    }

    /// Whether a pod is held for a job that is no more.
    fn is_orphan(&self, pod: &Pod) -> bool {
        let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job");
        has_finalizer(&pod.metadata, TRACKING)
            && owner.is_none_or(|owner| {
                self.core.cache.get::<Job>(namespace(&pod.metadata), &owner.name).is_none_or(|job| uid(&job.metadata) != owner.uid)
            })
    }

    fn work_on_orphan(&mut self, object: &Object) {
        if let Object::Pod(pod) = object
            && self.is_orphan(pod)
        {
            self.core.work.mark(pod.key());
        }
    }

    /// Nobody will count an orphan: nothing holds it any more (`syncOrphanPod`).
    fn let_go(&mut self, item: &Key, out: &mut Vec<Effect>) {
        match self.core.cache.at::<Pod>(item).cloned().filter(|pod| self.is_orphan(pod)) {
            Some(pod) => {
                self.untrack(item, &[pod], |_| true, out);
            }
            None => self.core.work.forget(item, out),
        }
    }

    fn tell(&mut self, done: &Done, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) {
        let Some(job) = self.core.cache.at::<Job>(&done.item).cloned() else { return };
        let record = match result {
            Ok(pod) if done.creates => {
                EventRecord::normal(&*job, "SuccessfulCreate", format!("Created pod: {}", pod.key().name), COMPONENT)
            }
            Ok(_) if done.deletes && done.target.kind == Kind::Pod => {
                EventRecord::normal(&*job, "SuccessfulDelete", format!("Deleted pod: {}", done.target.name), COMPONENT)
            }
            Err(error) if done.creates && !is_terminating_namespace(error) => {
                EventRecord::warning(&*job, "FailedCreate", format!("Error creating: {error}"), COMPONENT)
            }
            _ => return,
        };
        out.push(Effect::Record(record));
    }

    fn forget(&mut self, item: &Key, out: &mut Vec<Effect>) {
        if self.waits.remove(item).is_some() {
            out.push(Effect::Disarm(timer(Purpose::Progress, item)));
        }
        if self.deadlines.remove(item).is_some() {
            out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
        }
        if self.expiring.remove(item).is_some() {
            out.push(Effect::Disarm(timer(Purpose::Expire, item)));
        }
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(job) = self.core.cache.at::<Job>(item).cloned() else {
            self.forget(item, out);
            return self.core.forget(item, out);
        };
        let (Some(spec), status) = (&job.spec, job.status.clone().unwrap_or_default()) else { return };
        // Someone else's, as the field says.
        if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return;
        }
        let Some(pods) = self.core.claim::<_, Pod>(item, &*job, |_| Member::Yes, out) else { return };
        if has(&status, "Complete") || has(&status, "Failed") {
            if !self.untrack(item, &pods, |_| true, out) {
                self.expire(item, &job, out);
            }
            return;
        }
        let mut next = status.clone();
        count(&pods, spec.pod_replacement_policy.as_deref() == Some("Failed"), &mut next);
        let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
        let leaving = pods.iter().filter(|pod| is_leaving(&pod.metadata) && !is_finished(pod)).count();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        next.active = Some(number(active.len())).filter(|count| *count != 0);
        next.ready = Some(number(active.iter().filter(|pod| is_ready(pod)).count()));
        next.terminating = Some(number(leaving));
        if let Some(seconds) = spec.active_deadline_seconds.filter(|_| !self.deadlines.contains_key(item) && spec.suspend != Some(true)) {
            self.deadlines.insert(item.clone(), false);
            out.push(Effect::Arm(timer(Purpose::Deadline, item), Duration::from_secs(seconds.unsigned_abs())));
        }
        self.suspend(&job, spec, &mut next, out);
        let verdict = self.verdict(item, spec, &next, &active);
        let target = |verdict: &Verdict| if verdict.is_success { "SuccessCriteriaMet" } else { "FailureTarget" };
        if let Some(verdict) = verdict.as_ref().filter(|verdict| !has(&status, target(verdict))) {
            add(&mut next, target(verdict), "True", verdict.reason, verdict.message);
        }
        let waiting = next.uncounted_terminated_pods.as_ref().is_some_and(|pods| *pods != UncountedTerminatedPods::default());
        if let Some(verdict) = verdict.as_ref().filter(|_| active.is_empty() && leaving == 0 && !waiting) {
            let record = if verdict.is_success {
                add(&mut next, "Complete", "True", verdict.reason, verdict.message);
                EventRecord::normal(&*job, "Completed", "Job completed", COMPONENT)
            } else {
                add(&mut next, "Failed", "True", verdict.reason, verdict.message);
                EventRecord::warning(&*job, verdict.reason, verdict.message, COMPONENT)
            };
            self.core.tell(item, record, out);
        }
        if next != status {
            let mut updated = (*job).clone();
            updated.status = Some(next);
            self.core.work.write(item, Write::update_status(updated), out);
            return;
        }
        let noted = next.uncounted_terminated_pods.unwrap_or_default();
        let is_noted = |pod: &Pod| {
            let uid = uid(&pod.metadata).to_owned();
            noted.succeeded.iter().chain(&noted.failed).flatten().any(|known| *known == uid)
        };
        if !self.untrack(item, &pods, is_noted, out) && !is_leaving(&job.metadata) {
            self.manage(item, &job, spec, &status, verdict.is_some(), &active, leaving, out);
        }
    }

    /// Takes the finalizer off one pod.
    fn untrack(&mut self, item: &Key, pods: &[Arc<Pod>], which: impl Fn(&Pod) -> bool, out: &mut Vec<Effect>) -> bool {
        let Some(pod) = pods.iter().find(|pod| has_finalizer(&pod.metadata, TRACKING) && which(pod)) else { return false };
        let left: Vec<&String> = pod.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != TRACKING).collect();
        let left = if left.is_empty() { json!(null) } else { json!(left) };
        self.core.work.write(item, Write::merge(pod.key(), json!({"metadata": {"uid": pod.metadata.uid, "finalizers": left}})), out);
        true
    }

    fn suspend(&mut self, job: &Job, spec: &JobSpec, status: &mut JobStatus, out: &mut Vec<Effect>) {
        let is_suspended = spec.suspend == Some(true);
        if is_suspended && !has(status, "Suspended") {
            add(status, "Suspended", "True", "JobSuspended", "Job suspended");
            out.push(Effect::Record(EventRecord::normal(job, "Suspended", "Job suspended", COMPONENT)));
        } else if !is_suspended && has(status, "Suspended") {
            add(status, "Suspended", "False", "JobResumed", "Job resumed");
            status.start_time = None;
            out.push(Effect::Record(EventRecord::normal(job, "Resumed", "Job resumed", COMPONENT)));
        }
    }

    /// Whether the job has its end, and which.
    fn verdict(&self, item: &Key, spec: &JobSpec, status: &JobStatus, active: &[&Arc<Pod>]) -> Option<Verdict> {
        let known = |kind: &str, reason: &str| {
            status.conditions.iter().flatten().any(|known| known.type_ == kind && known.reason.as_deref() == Some(reason))
        };
        let noted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let all = |counted: Option<i32>, list: &Option<Vec<String>>| {
            counted.unwrap_or(0).saturating_add(i32::try_from(list.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX))
        };
        let (succeeded, failed) = (all(status.succeeded, &noted.succeeded), all(status.failed, &noted.failed));
        let limit = spec.backoff_limit.unwrap_or(6);
        let restarts_only = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref()) == Some("OnFailure");
        let restarts = |pod: &Arc<Pod>| {
            let statuses =
                pod.status.iter().flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
            statuses.map(|container| container.restart_count).sum::<i32>()
        };
        let restarted: i32 = active.iter().map(|pod| restarts(pod)).sum();
        let too_many_restarts = restarts_only && if limit == 0 { restarted > 0 } else { restarted >= limit };
        if known("FailureTarget", "BackoffLimitExceeded") || failed > limit || too_many_restarts {
            return Some(Verdict {
                is_success: false,
                reason: "BackoffLimitExceeded",
                message: "Job has reached the specified backoff limit",
            });
        }
        if known("FailureTarget", "DeadlineExceeded") || self.deadlines.get(item) == Some(&true) {
            return Some(Verdict {
                is_success: false,
                reason: "DeadlineExceeded",
                message: "Job was active longer than specified deadline",
            });
        }
        let is_enough = match spec.completions {
            Some(wanted) => succeeded >= wanted,
            // A work queue: done when one has succeeded and none is left.
            None => succeeded > 0 && active.is_empty(),
        };
        (is_enough && spec.suspend != Some(true)).then_some(Verdict {
            is_success: true,
            reason: "CompletionsReached",
            message: "Reached expected number of succeeded pods",
        })
    }

    /// As many pods as may run (`manageJob`).
    #[allow(clippy::too_many_arguments, reason = "what one sync has found")]
    fn manage(
        &mut self,
        item: &Key,
        job: &Job,
        spec: &JobSpec,
        status: &JobStatus,
        is_over: bool,
        active: &[&Arc<Pod>],
        leaving: usize,
        out: &mut Vec<Effect>,
    ) {
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let parallel = spec.parallelism.unwrap_or(1);
        let succeeded = status.succeeded.unwrap_or(0);
        let wanted = match spec.completions {
            _ if is_over || spec.suspend == Some(true) => 0,
            Some(completions) => parallel.min(completions.saturating_sub(succeeded)),
            None if succeeded > 0 => number(active.len()).min(parallel),
            None => parallel,
        };
        if number(active.len()) > wanted {
            // The youngest, and those not ready, go first.
            let first =
                active.iter().max_by_key(|pod| (!is_ready(pod), pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
            let Some(pod) = first else { return };
            // What the controller itself takes away has not failed.
            let chosen = [(*pod).clone()];
            if is_over || !self.untrack(item, &chosen, |_| true, out) {
                self.core.delete(item, &***pod, out);
            }
            return;
        }
        // With this policy a pod that goes still has its place.
        let held = if spec.pod_replacement_policy.as_deref() == Some("Failed") { number(leaving) } else { 0 };
        if number(active.len()).saturating_add(held) >= wanted {
            return self.core.work.succeed(item);
        }
        let failed = status.failed.unwrap_or(0);
        let (seen, waits) = self.waits.get(item).copied().unwrap_or_default();
        if failed > seen {
            self.waits.insert(item.clone(), (failed, true));
            out.push(Effect::Arm(timer(Purpose::Progress, item), FAILURES.after(failed.unsigned_abs())));
            return;
        }
        if waits {
            return;
        }
        let mut pod = pod_from(&spec.template, job);
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
        self.core.work.write(item, Write::create(pod), out);
    }

    /// A finished job goes after its time to live.
    fn expire(&mut self, item: &Key, job: &Job, out: &mut Vec<Effect>) {
        let Some(seconds) = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished) else {
            return self.core.work.succeed(item);
        };
        match self.expiring.get(item) {
            None => {
                self.expiring.insert(item.clone(), false);
                out.push(Effect::Arm(timer(Purpose::Expire, item), Duration::from_secs(seconds.unsigned_abs().into())));
            }
            Some(true) if !is_leaving(&job.metadata) => {
                let write = Write::Delete {
                    key: item.clone(),
                    uid: job.metadata.uid.clone(),
                    resource_version: None,
                    grace_seconds: None,
                    propagation: Propagation::Foreground,
                };
                self.core.work.write(item, write, out);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
