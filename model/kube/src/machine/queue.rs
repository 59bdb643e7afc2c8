//! The work of a controller: which items are to be synced, which wait for an answer or for the end of a backoff.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi;

use super::{Cache, Effect, Purpose, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::{ApiError, Write};

/// How long to wait after the n-th failure in a row: `first · 2ⁿ⁻¹`, at most `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// The default rate limiter of Kubernetes' controllers (§7 row 5; its shared bucket of 10 a second is not modelled).
    pub const CONTROLLER: Self = Self { first: Duration::from_millis(5), longest: Duration::from_secs(1000) };
    /// `goroutinemap` and `nestedpendingoperations` (§7 row 4).
    pub const OPERATION: Self = Self { first: Duration::from_millis(500), longest: Duration::from_secs(122) };

    /// The wait after `failures` failures in a row.
    pub fn after(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    item: Key,
    target: Key,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Create,
    Change,
    Delete,
    Read,
    Driver,
}

/// An answered call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The item whose sync made the call.
    pub item: Key,
    /// Whether it was a delete.
    pub deletes: bool,
    /// Whether it was a live read.
    pub reads: bool,
    /// Whether it was a create.
    pub creates: bool,
    /// Whether the item was marked while the call was out.
    pub marked: bool,
    /// What was written or read; of a create that leaves the name to the server it is the item.
    pub target: Key,
}

/// Marked items, calls in flight, backoffs. At most one call is in flight for an item, and one for a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    booted: bool,
    next_call: u64,
    calls: BTreeMap<u64, Call>,
    /// Items and targets of calls in flight.
    busy: BTreeMap<Key, u64>,
    /// Who wanted to write a target that is busy.
    waiting: BTreeMap<Key, BTreeSet<Key>>,
    marked: BTreeSet<Key>,
    /// Marked, but busy or backing off when their turn came.
    parked: BTreeSet<Key>,
    failures: BTreeMap<Key, u32>,
    backing_off: BTreeSet<Key>,
}

impl Queue {
    /// Lets items through from now on.
    pub fn boot(&mut self) {
        self.booted = true;
    }

    /// The item is to be synced, now, whatever its backoff.
    pub fn mark(&mut self, item: Key) {
        self.backing_off.remove(&item);
        self.parked.remove(&item);
        self.marked.insert(item);
    }

    /// The item is to be synced, but not before its backoff is over.
    pub fn mark_gently(&mut self, item: Key) {
        self.marked.insert(item);
    }

    /// The next item to sync.
    pub fn take(&mut self) -> Option<Key> {
        if !self.booted {
            return None;
        }
        loop {
            let item = self.marked.pop_first()?;
            if !self.busy.contains_key(&item) && !self.backing_off.contains(&item) {
                self.parked.remove(&item);
                return Some(item);
            }
            self.parked.insert(item);
        }
    }

    /// Whether a call for the item, or one that writes it, is in flight.
    pub fn is_busy(&self, key: &Key) -> bool {
        self.busy.contains_key(key)
    }

    /// Whether the item waits after a failure.
    pub fn is_backing_off(&self, item: &Key) -> bool {
        self.backing_off.contains(item)
    }

    /// Whether nothing is marked, in flight or waiting.
    pub fn is_idle(&self) -> bool {
        self.marked.is_empty() && self.parked.is_empty() && self.calls.is_empty() && self.backing_off.is_empty()
    }

    fn start(&mut self, item: &Key, target: &Key, what: What) -> Option<u64> {
        if target != item && self.busy.contains_key(target) {
            self.waiting.entry(target.clone()).or_default().insert(item.clone());
            return None;
        }
        let call = self.next_call;
        self.next_call += 1;
        self.calls.insert(call, Call { item: item.clone(), target: target.clone(), what });
        self.busy.insert(item.clone(), call);
        self.busy.insert(target.clone(), call);
        Some(call)
    }

    /// Starts a write for an item. When another write of the same object is in flight, the item is synced again after it.
    pub fn write(&mut self, item: &Key, write: Write, out: &mut Vec<Effect>) -> bool {
        let what = match write {
            Write::Create { .. } => What::Create,
            Write::Delete { .. } => What::Delete,
            _ => What::Change,
        };
        let mut target = write.key();
        if target.name.is_empty() {
            // The server chooses the name: this is no other object's write.
            target = item.clone();
        }
        let Some(call) = self.start(item, &target, what) else { return false };
        out.push(Effect::Write { call, write });
        true
    }

    /// Whether a call is a create.
    pub fn creates(&self, call: u64) -> bool {
        self.calls.get(&call).is_some_and(|call| call.what == What::Create)
    }

    /// Starts a live read.
    pub fn read(&mut self, item: &Key, key: Key, out: &mut Vec<Effect>) -> bool {
        let Some(call) = self.start(item, &key, What::Read) else { return false };
        out.push(Effect::Get { call, key });
        true
    }

    /// Starts a live list of a kind in a namespace.
    pub fn list(&mut self, item: &Key, kind: Kind, namespace: &str, out: &mut Vec<Effect>) {
        if let Some(call) = self.start(item, item, What::Read) {
            out.push(Effect::List { call, kind, namespace: namespace.to_owned() });
        }
    }

    /// Takes in the answer of a list; after a failure the item waits.
    pub fn listed(
        &mut self,
        call: u64,
        result: &Result<Vec<Object>, ApiError>,
        backoff: Backoff,
        out: &mut Vec<Effect>,
    ) -> Result<Done, Reject> {
        let done = self.finish(call)?;
        if result.is_err() {
            self.fail(&done.item, backoff, out);
        }
        Ok(done)
    }

    /// Starts a call to a driver.
    pub fn call(&mut self, item: &Key, driver: &str, request: csi::ControllerCall, out: &mut Vec<Effect>) {
        if let Some(call) = self.start(item, item, What::Driver) {
            out.push(Effect::Csi { call, driver: driver.to_owned(), request });
        }
    }

    /// Takes in an answer: the item and whoever waited are synced again.
    pub fn finish(&mut self, call: u64) -> Result<Done, Reject> {
        let Call { item, target, what } = self.calls.remove(&call).ok_or(Reject::UnknownCall { call })?;
        self.busy.remove(&item);
        self.busy.remove(&target);
        let marked = self.parked.contains(&item);
        for key in [&item, &target] {
            let waiting = self.waiting.remove(key).unwrap_or_default();
            self.marked.extend(waiting);
            if self.parked.remove(key) {
                self.marked.insert(key.clone());
            }
        }
        self.marked.insert(item.clone());
        Ok(Done { item, deletes: what == What::Delete, reads: what == What::Read, creates: what == What::Create, marked, target })
    }

    /// Takes in the answer of a write or a read as most controllers do: a success updates the cache and ends the backoff, a failure
    /// waits. "Not found" as the answer of a read is no failure.
    pub fn answer(
        &mut self,
        cache: &mut Cache,
        call: u64,
        result: &Result<Object, ApiError>,
        backoff: Backoff,
        out: &mut Vec<Effect>,
    ) -> Result<Done, Reject> {
        let done = self.answer_part(cache, call, result, backoff, out)?;
        if !self.is_backing_off(&done.item) {
            self.succeed(&done.item);
        }
        Ok(done)
    }

    /// The same for a write that is a step on the way: the item has not succeeded yet, and its next backoff stays as long as it was.
    pub fn answer_part(
        &mut self,
        cache: &mut Cache,
        call: u64,
        result: &Result<Object, ApiError>,
        backoff: Backoff,
        out: &mut Vec<Effect>,
    ) -> Result<Done, Reject> {
        let done = self.finish(call)?;
        match result {
            Ok(object) => cache.answered(object, done.deletes),
            Err(error) if error.is_not_found() && (done.reads || done.deletes) => {}
            // Someone else wrote in between; the watch brings the news any moment, so the long backoffs are not for this.
            Err(error) if error.is_conflict() => self.fail(&done.item, Backoff::CONTROLLER, out),
            Err(_) => self.fail(&done.item, backoff, out),
        }
        Ok(done)
    }

    /// The item did not succeed: it waits.
    pub fn fail(&mut self, item: &Key, backoff: Backoff, out: &mut Vec<Effect>) {
        let failures = self.failures.entry(item.clone()).or_default();
        *failures = failures.saturating_add(1);
        let wait = backoff.after(*failures);
        self.wait(item, wait, out);
    }

    /// The item waits that long.
    pub fn wait(&mut self, item: &Key, wait: Duration, out: &mut Vec<Effect>) {
        self.backing_off.insert(item.clone());
        self.marked.insert(item.clone());
        out.push(Effect::Arm(Timer { purpose: Purpose::Retry, item: item.clone() }, wait));
    }

    /// The item succeeded: the next failure is the first again.
    pub fn succeed(&mut self, item: &Key) {
        self.failures.remove(item);
        self.backing_off.remove(item);
        if self.parked.remove(item) {
            self.marked.insert(item.clone());
        }
    }

    /// Whether the item failed since it last succeeded.
    pub fn is_failing(&self, item: &Key) -> bool {
        self.failures.contains_key(item)
    }

    /// A retry timer has run out.
    pub fn retry(&mut self, item: &Key) {
        self.mark(item.clone());
    }

    /// Forgets an item that is no more. A call in flight still ends.
    pub fn forget(&mut self, item: &Key, out: &mut Vec<Effect>) {
        self.failures.remove(item);
        self.marked.remove(item);
        self.parked.remove(item);
        if self.backing_off.remove(item) {
            out.push(Effect::Disarm(Timer { purpose: Purpose::Retry, item: item.clone() }));
        }
    }
}
