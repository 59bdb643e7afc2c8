//! The parts that each workload machine is built from: cache, queue, adoption, and since when pods are ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{Workload, adoption, is_leaving, is_ready, release, selects, uid};
use crate::controllers::namespace;
use crate::events::{EventRecord, Said};
use crate::machine::{Backoff, Cache, Done, Effect, Index, Purpose, Queue, Reject, Timer};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::write::{ApiError, Patch, Subresource, Write};

/// What a live read said of a workload before it adopts: its uid, and whether it goes.
type Fresh = (String, bool);

/// Whether an object that a selector finds is one of the workload's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Yes,
    /// Let go when it is the workload's own.
    No,
    /// Neither adopted nor let go.
    Ignored,
}

/// What all workload machines have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Core {
    pub cache: Cache,
    pub work: Queue,
    pub said: Said,
    fresh: BTreeMap<Key, Option<Fresh>>,
    /// Pods that are ready, but not for long enough; by uid and the time of readiness.
    ripening: BTreeMap<Key, String>,
    /// …and those that are ready for long enough.
    ripe: BTreeMap<Key, String>,
    /// Why the last write for a workload failed.
    failed: BTreeMap<Key, String>,
}

fn available(pod: &Key) -> Timer {
    Timer { purpose: Purpose::Available, item: pod.clone() }
}

/// What readiness a pod has: of which pod of the name, since when.
fn readiness(pod: &Pod) -> String {
    let ready = pod.status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|known| known.type_ == "Ready");
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0.to_string());
    format!("{} {}", uid(&pod.metadata), since.unwrap_or_default())
}

impl Core {
    /// Takes in a watch event; the object as it was known before.
    pub fn apply(&mut self, change: &Change) -> Option<Object> {
        let before = self.cache.object(&change.object().key()).cloned();
        self.cache.apply(change);
        before
    }

    /// The informers have listed what exists.
    pub fn boot<W: Workload>(&mut self) {
        self.work.boot();
        self.mark_all::<W>();
    }

    /// Every workload of a kind is to be looked at.
    pub fn mark_all<W: Workload>(&mut self) {
        self.cache.keys(&W::KIND).into_iter().for_each(|workload| self.work.mark(workload));
    }

    /// A watch event of what workloads of a kind may own; `before`: the object as it was known. Whom it concerns, or concerned, is looked at.
    pub fn owned<W: Workload>(&mut self, before: Option<&Object>, change: &Change, out: &mut Vec<Effect>) {
        let object = change.object();
        if matches!(change, Change::Deleted(_)) && object.kind() == Kind::Pod {
            self.forget_pod(&object.key(), out);
        }
        let workloads = super::concerned::<W>(&self.cache, before, object.metadata());
        workloads.into_iter().for_each(|workload| self.work.mark(workload));
    }

    /// A timer has run out: of a pod that is available now, which its workload is to see, or of a workload's backoff.
    pub fn fired<W: Workload>(&mut self, fired: &Timer) {
        if fired.purpose != Purpose::Available {
            return self.work.retry(&fired.item);
        }
        if let Some(since) = self.ripening.remove(&fired.item) {
            self.ripe.insert(fired.item.clone(), since);
        }
        self.owner_of::<W>(&fired.item).into_iter().for_each(|workload| self.work.mark(workload));
    }

    /// Takes in an answer. A workload has succeeded only when a sync has nothing left to do.
    pub fn answer(&mut self, call: u64, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) -> Result<Done, Reject> {
        let done = self.work.answer_part(&mut self.cache, call, result, Backoff::CONTROLLER, out)?;
        if done.reads {
            let fresh = result.as_ref().ok().map(|object| (object.uid().to_owned(), is_leaving(object.metadata())));
            self.fresh.insert(done.item.clone(), fresh);
        } else if done.deletes && result.as_ref().is_err_and(ApiError::is_not_found) {
            // The watch tells of it soon; until then there is nothing to do about it again.
            self.work.fail(&done.item, Backoff::CONTROLLER, out);
        } else if done.target != done.item || done.creates {
            match result {
                Err(error) => {
                    self.failed.insert(done.item.clone(), error.message.clone());
                }
                Ok(_) => {
                    self.failed.remove(&done.item);
                }
            }
        }
        Ok(done)
    }

    /// Why the last write for a workload's own objects failed.
    pub fn failure(&self, item: &Key) -> Option<&str> {
        self.failed.get(item).map(String::as_str)
    }

    /// A workload that is no more.
    pub fn forget(&mut self, item: &Key, out: &mut Vec<Effect>) {
        self.fresh.remove(item);
        self.failed.remove(item);
        self.said.forget(item);
        self.work.forget(item, out);
    }

    /// An event, unless it was the last that was said about the item.
    pub fn tell(&mut self, item: &Key, record: EventRecord, out: &mut Vec<Effect>) {
        if self.said.is_news(item, &record) {
            out.push(Effect::Record(record));
        }
    }

    /// The objects that a workload controls, by name. Adopts what it selects and nobody controls, lets go what it no longer selects; none
    /// while that is under way.
    pub fn claim<W: Workload, T: Typed>(
        &mut self,
        item: &Key,
        owner: &W,
        judge: impl Fn(&T) -> Member,
        out: &mut Vec<Effect>,
    ) -> Option<Vec<Arc<T>>> {
        let leaves = is_leaving(owner.metadata());
        let mut own = Vec::new();
        for object in self.cache.found::<T>(Index::Owned, uid(owner.metadata())) {
            let member = judge(object);
            if member == Member::Ignored {
                continue;
            }
            if selects(owner, object.metadata()) && member == Member::Yes {
                own.push(object.clone());
            } else if !leaves {
                let write = strategic(object.key(), release(owner, object.metadata()));
                self.work.write(item, write, out);
                return None;
            }
        }
        if leaves {
            return Some(own);
        }
        let free = self
            .cache
            .found::<T>(Index::Free, namespace(owner.metadata()))
            .find(|object| selects(owner, object.metadata()) && judge(object) == Member::Yes && !is_leaving(object.metadata()));
        let Some(free) = free.cloned() else {
            self.fresh.remove(item);
            return Some(own);
        };
        // The cache may be old: whoever adopts asks first whether the owner still is the one it knows (#42639).
        match self.fresh.remove(item) {
            None => {
                self.work.read(item, item.clone(), out);
                None
            }
            Some(Some((fresh, false))) if fresh == uid(owner.metadata()) => {
                let write = strategic(free.key(), adoption(owner, free.metadata()));
                self.work.write(item, write, out);
                None
            }
            Some(_) => {
                self.work.fail(item, Backoff::CONTROLLER, out);
                None
            }
        }
    }

    /// Whether a pod has been ready for that many seconds (`IsPodAvailable`). A machine that starts anew counts anew.
    pub fn is_available(&mut self, pod: &Pod, seconds: i32, out: &mut Vec<Effect>) -> bool {
        let key = pod.key();
        if !is_ready(pod) || seconds <= 0 {
            self.forget_pod(&key, out);
            return is_ready(pod);
        }
        let since = readiness(pod);
        if self.ripe.get(&key) == Some(&since) {
            return true;
        }
        self.ripe.remove(&key);
        if self.ripening.insert(key.clone(), since.clone()).as_ref() != Some(&since) {
            out.push(Effect::Arm(available(&key), Duration::from_secs(seconds.unsigned_abs().into())));
        }
        false
    }

    /// A pod that is no more, or not ready.
    fn forget_pod(&mut self, pod: &Key, out: &mut Vec<Effect>) {
        self.ripe.remove(pod);
        if self.ripening.remove(pod).is_some() {
            out.push(Effect::Disarm(available(pod)));
        }
    }

    /// Deletes one object of a workload.
    pub fn delete<T: Typed>(&mut self, item: &Key, object: &T, out: &mut Vec<Effect>) {
        self.work.write(item, Write::delete(object.key()), out);
    }

    /// The key of the workload of a kind that controls a pod.
    fn owner_of<W: Workload>(&self, pod: &Key) -> Option<Key> {
        let pod = self.cache.at::<Pod>(pod)?;
        let owner = super::controller_of(&pod.metadata).filter(|owner| owner.kind == W::KIND.kind_name())?;
        Some(Key::new(W::KIND, namespace(&pod.metadata), &owner.name))
    }
}

fn strategic(key: Key, patch: serde_json::Value) -> Write {
    Write::Patch { key, patch: Patch::Strategic(patch), subresource: Subresource::None }
}
