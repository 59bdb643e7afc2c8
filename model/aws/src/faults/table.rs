//! The table itself: rules come and go, calls are judged, what begins on volumes is held.

use std::collections::{BTreeMap, BTreeSet};

use model_common::pick::{Pick, Seeded};

use super::{
    Action, Call, Command, Effect, Fault, Hit, Input, MOST, NEXT, Reject, Reply, Rule, Scope, Share, Span, TABLE, Timer, Verdict, id_of,
    number_of,
};
use crate::ec2::{self, Hold, HoldKind};
use crate::world::World;
use crate::{Dirty, LoadError};

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    seed: u64,
    pub(super) next: u64,
    /// In the order in which they are tried.
    pub(super) faults: BTreeMap<u64, Fault>,
    /// Hits by action since the process started, for who counts.
    hits: BTreeMap<Action, u64>,
    dirty: BTreeSet<u64>,
    next_dirty: bool,
}

impl State {
    pub fn new(world: &World) -> Self {
        let (faults, hits, dirty) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { seed: world.seed, next: 1, faults, hits, dirty, next_dirty: false }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// In the order in which they are tried.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.values()
    }

    pub fn fault(&self, id: &str) -> Option<&Fault> {
        self.faults.get(&number_of(id)?).filter(|fault| fault.id() == id)
    }

    /// Hits by action since the process started.
    pub fn hits(&self) -> impl Iterator<Item = (Action, u64)> {
        self.hits.iter().map(|(action, hits)| (*action, *hits))
    }

    /// Whether the agent of an instance is to be cut off.
    pub fn unreachable(&self, instance: &str) -> bool {
        let node = |fault: &&Fault| fault.rule.action_id == Action::AgentUnreachable;
        self.faults().filter(node).any(|fault| fault.instance.as_deref() == Some(instance))
    }

    /// How old the state must be kept for describe calls that lag.
    pub fn longest_lag(&self) -> Option<Span> {
        self.faults().filter(|fault| fault.rule.action_id == Action::EventualConsistency).filter_map(|fault| fault.rule.delay).max()
    }

    /// Whether a call may meet a fault: what is asked before the call costs a step.
    pub fn concerns(&self, call: &Call) -> bool {
        let live = |fault: &&Fault| fault.rule.action_id.scope() == Scope::Call && !fault.spent();
        self.faults().filter(live).any(|fault| fault.rule.matches(fault.instance.as_deref(), call))
    }

    /// The one entry. A rejected input changed nothing. The faults that are gone are returned: what they held goes on.
    pub(crate) fn step(&mut self, ec2: &ec2::State, input: &Input, out: &mut Vec<Effect>) -> Result<Vec<String>, Reject> {
        match input {
            Input::Command(command) => return self.command(ec2, command, out),
            Input::Call(call) => {
                let verdict = self.judge(call, out);
                out.push(Effect::Reply(Reply::Verdict(verdict)));
            }
            Input::Fired(Timer::Over(number)) => return Ok(self.remove(&[*number], out).iter().map(Fault::id).collect()),
            // Timers start anew: a pause of the process makes waits longer, never shorter.
            Input::Booted => {
                let over = |fault: &Fault| Some(Effect::Arm(Timer::Over(fault.number), fault.rule.duration?.duration()));
                out.extend(self.faults().filter_map(over));
            }
        }
        Ok(Vec::new())
    }

    fn command(&mut self, ec2: &ec2::State, command: &Command, out: &mut Vec<Effect>) -> Result<Vec<String>, Reject> {
        let (gone, rules): (Vec<u64>, &[Rule]) = match command {
            Command::Add { rules } => (Vec::new(), rules),
            Command::Set { rules, refusing_only } => {
                let meant = |fault: &&Fault| !refusing_only || fault.rule.action_id.refuses();
                (self.faults().filter(meant).map(|fault| fault.number).collect(), rules)
            }
            Command::Put { id, rule } => {
                let number = self.fault(id).map(|fault| fault.number).ok_or_else(|| Reject::NotFound { id: id.clone() })?;
                rule.check()?;
                let instance = instance_of(ec2, rule)?;
                self.remove(&[number], out);
                let made = self.insert(number, rule, instance, out);
                out.push(Effect::Reply(Reply::Faults(vec![made])));
                return Ok(vec![id.clone()]);
            }
            Command::Remove { ids } => {
                let found = ids.iter().map(|id| match self.fault(id) {
                    Some(fault) => Ok(fault.number),
                    None => Err(Reject::NotFound { id: id.clone() }),
                });
                (found.collect::<Result<_, _>>()?, &[])
            }
            Command::RemoveEqual { rules } => {
                let meant = |fault: &&Fault| rules.contains(&fault.rule);
                (self.faults().filter(meant).map(|fault| fault.number).collect(), &[])
            }
        };
        if self.faults.len() - gone.len().min(self.faults.len()) + rules.len() > MOST {
            return Err(Reject::TooMany);
        }
        let mut checked = Vec::new();
        for rule in rules {
            rule.check()?;
            checked.push((rule, instance_of(ec2, rule)?));
        }
        let gone = self.remove(&gone, out);
        let ids = gone.iter().map(Fault::id).collect();
        let mut made = Vec::new();
        for (rule, instance) in checked {
            let number = self.next;
            self.next += 1;
            self.next_dirty = true;
            made.push(self.insert(number, rule, instance, out));
        }
        let removing = matches!(command, Command::Remove { .. } | Command::RemoveEqual { .. });
        out.push(Effect::Reply(Reply::Faults(if removing { gone } else { made })));
        Ok(ids)
    }

    fn insert(&mut self, number: u64, rule: &Rule, instance: Option<String>, out: &mut Vec<Effect>) -> Fault {
        let fault = Fault { number, rule: rule.clone(), instance, calls: 0, hits: 0 };
        if let Some(duration) = rule.duration {
            out.push(Effect::Arm(Timer::Over(number), duration.duration()));
        }
        self.faults.insert(number, fault.clone());
        self.dirty.insert(number);
        if let (Action::AgentUnreachable, Some(instance)) = (rule.action_id, &fault.instance) {
            let call = Call { names: vec![instance.clone()], ..Call::default() };
            self.meets(number, &call, out);
            out.push(Effect::Cut { instance: instance.clone() });
        }
        self.faults.get(&number).cloned().unwrap_or(fault)
    }

    fn remove(&mut self, numbers: &[u64], out: &mut Vec<Effect>) -> Vec<Fault> {
        let gone: Vec<Fault> = numbers.iter().filter_map(|number| self.faults.remove(number)).collect();
        for fault in &gone {
            self.dirty.insert(fault.number);
            if fault.rule.duration.is_some() {
                out.push(Effect::Disarm(Timer::Over(fault.number)));
            }
        }
        gone
    }

    /// Whether a rule hits a call that it matches. Counts both.
    fn meets(&mut self, number: u64, call: &Call, out: &mut Vec<Effect>) -> bool {
        let Some(fault) = self.faults.get_mut(&number).filter(|fault| !fault.spent()) else { return false };
        fault.calls += 1;
        self.dirty.insert(number);
        if fault.calls <= fault.rule.after_calls.unwrap_or(0) {
            return false;
        }
        if let Some(share) = fault.rule.probability {
            let mut dice = Seeded::new(self.seed).child(&format!("fault/{number}/{}", fault.calls));
            if dice.pick(Share::WHOLE as usize) >= share.millionths() as usize {
                return false;
            }
        }
        fault.hits += 1;
        *self.hits.entry(fault.rule.action_id).or_insert(0) += 1;
        out.push(Effect::Hit(Hit {
            fault: fault.id(),
            action_id: fault.rule.action_id,
            service: call.service.clone(),
            operation: call.operation.clone(),
            resources: call.names.iter().filter(|name| looks_like_id(name)).cloned().collect(),
        }));
        true
    }

    fn matching(&self, call: &Call, scope: Scope) -> Vec<(u64, Action)> {
        let meant = |fault: &&Fault| fault.rule.action_id.scope() == scope && fault.rule.matches(fault.instance.as_deref(), call);
        self.faults().filter(meant).map(|fault| (fault.number, fault.rule.action_id)).collect()
    }

    /// The first rule of each kind counts; one that refuses the call is the last that is looked at.
    pub(super) fn judge(&mut self, call: &Call, out: &mut Vec<Effect>) -> Verdict {
        let mut verdict = Verdict::default();
        for (number, action) in self.matching(call, Scope::Call) {
            let decided = match action {
                Action::Latency => verdict.delay.is_some(),
                Action::EventualConsistency => verdict.lag.is_some(),
                Action::LostResponse => verdict.lost,
                _ => false,
            };
            if decided || !self.meets(number, call, out) {
                continue;
            }
            let Some(rule) = self.faults.get(&number).map(|fault| &fault.rule) else { continue };
            match action {
                Action::Latency => verdict.delay = rule.delay,
                Action::EventualConsistency => verdict.lag = rule.delay,
                Action::LostResponse => verdict.lost = true,
                _ => {
                    verdict.error = Some(rule.api_error(&call.service));
                    (verdict.lag, verdict.lost) = (None, false);
                    return verdict;
                }
            }
        }
        verdict
    }

    /// Whether any rule acts on volumes and snapshots.
    pub(crate) fn on_storage(&self) -> bool {
        self.faults().any(|fault| fault.rule.action_id.scope() == Scope::Storage && !fault.spent())
    }

    /// What meets an attachment, a detachment or a snapshot that begins. The first rule that holds it counts.
    pub(crate) fn hold(&mut self, call: &Call, out: &mut Vec<Effect>) -> ec2::Held {
        let mut held = ec2::Held::default();
        for (number, action) in self.matching(call, Scope::Storage) {
            let kind = match (action, call.operation.as_str()) {
                (Action::AttachStuck, "AttachVolume") => Some(HoldKind::Attaching),
                (Action::DeviceLate, "AttachVolume") => Some(HoldKind::DeviceLate),
                (Action::DetachStuck, "DetachVolume") => Some(HoldKind::Busy),
                (Action::SnapshotPending, "CreateSnapshot") => Some(HoldKind::Pending),
                (Action::DeviceRenamed, "AttachVolume") => None,
                _ => continue,
            };
            let decided = if kind.is_some() { held.hold.is_some() } else { held.renamed };
            if decided || !self.meets(number, call, out) {
                continue;
            }
            match kind {
                Some(kind) => {
                    let after = self.faults.get(&number).and_then(|fault| fault.rule.delay);
                    held.hold = Some(Hold { fault: id_of(number), kind, after });
                }
                None => held.renamed = true,
            }
        }
        held
    }

    /// The records that changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut dirty = Vec::new();
        if std::mem::take(&mut self.next_dirty) {
            dirty.push(Dirty { table: TABLE, key: NEXT.to_owned(), value: Some(self.next.to_string().into_bytes()) });
        }
        for number in std::mem::take(&mut self.dirty) {
            // Our records have string keys and finite numbers only, so that JSON cannot fail.
            let value = self.faults.get(&number).and_then(|fault| serde_json::to_vec(fault).ok());
            dirty.push(Dirty { table: TABLE, key: id_of(number), value });
        }
        dirty
    }

    /// Takes back a saved record; false when the table is not of this machine.
    pub fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> Result<bool, LoadError> {
        if table != TABLE {
            return Ok(false);
        }
        let failed = |error: serde_json::Error| LoadError { table: table.to_owned(), key: key.to_owned(), message: error.to_string() };
        if key == NEXT {
            self.next = serde_json::from_slice(value).map_err(failed)?;
        } else {
            let fault: Fault = serde_json::from_slice(value).map_err(failed)?;
            self.faults.insert(fault.number, fault);
        }
        Ok(true)
    }
}

/// The instance of a rule's node.
fn instance_of(ec2: &ec2::State, rule: &Rule) -> Result<Option<String>, Reject> {
    let Some(node) = &rule.node else { return Ok(None) };
    let found = ec2.instances().find(|instance| &*instance.id == node.as_str() || instance.node.as_deref() == Some(node.as_str()));
    found.map(|instance| Some(instance.id.to_string())).ok_or_else(|| Reject::NoNode { node: node.clone() })
}

/// `vol-0123…`: a prefix of letters and 8 or more hex digits.
fn looks_like_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(prefix, digits)| {
        !prefix.is_empty()
            && prefix.len() <= 6
            && prefix.bytes().all(|byte| byte.is_ascii_lowercase())
            && digits.len() >= 8
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}
