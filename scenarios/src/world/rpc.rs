//! Calls of the kubelets to the drivers' node services. A driver works as long as it works; its caller waits no longer than two
//! minutes, and may be gone before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi::{Code, Error, NodeCall, NodeReply};
use model_node::driver::{ebs, efs};
use model_node::kubelet::Input;
use model_node::pending;
use model_node::volume_manager::{self as volumes, Answer, Failure};

use super::clock::Part;
use super::trouble::Actor;
use super::{Event, Timer, Told, Which, World};
use crate::invariants::Seen;

/// `csiTimeout` of the kubelet (kubernetes-storage-path.md §7).
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A call in flight.
pub(super) struct Rpc {
    pub node: usize,
    pub which: Which,
    op: pending::Key,
    call: NodeCall,
    /// Whether its caller still waits.
    waits: bool,
    /// What is answered in the place of what the driver says.
    instead: Option<Error>,
}

pub(super) struct Rpcs {
    next: u64,
    open: BTreeMap<u64, Rpc>,
    /// Those of each node.
    of_node: BTreeMap<usize, BTreeSet<u64>>,
}

impl Rpcs {
    fn insert(&mut self, id: u64, rpc: Rpc) {
        self.of_node.entry(rpc.node).or_default().insert(id);
        self.open.insert(id, rpc);
    }

    fn remove(&mut self, id: u64) -> Option<Rpc> {
        let rpc = self.open.remove(&id)?;
        if let Some(ids) = self.of_node.get_mut(&rpc.node) {
            ids.remove(&id);
        }
        Some(rpc)
    }

    fn on(&self, node: usize) -> impl Iterator<Item = (u64, &Rpc)> {
        self.of_node.get(&node).into_iter().flatten().filter_map(|id| Some((*id, self.open.get(id)?)))
    }
}

impl Default for Rpcs {
    /// Numbers that no call of a sidecar has.
    fn default() -> Self {
        Self { next: 1 << 32, open: BTreeMap::new(), of_node: BTreeMap::new() }
    }
}

impl World {
    /// A kubelet calls a driver.
    pub(super) fn call_plugin(&mut self, node: usize, op: pending::Key, driver: String, call: NodeCall) {
        let which = match driver.as_str() {
            ebs::DRIVER => Which::Ebs,
            efs::DRIVER => Which::Efs,
            _ => return self.answer_later(node, op, Err(Failure::NotRegistered(driver))),
        };
        if !self.nodes[node].drivers.contains(&which) {
            return self.answer_later(node, op, Err(Failure::NotRegistered(driver)));
        }
        let refused = |code: Code, message: String| Err(Failure::Rpc(Error::new(code, message)));
        if self.trouble.is_down(Actor::Plugin(node, which)) {
            let message = "connection error: desc = \"transport: Error while dialing: dial unix csi.sock: connect: connection refused\"";
            return self.answer_later(node, op, refused(Code::Unavailable, message.into()));
        }
        let volume = call.volume_id();
        // The EBS driver lets one call a volume in (pkg/driver/internal/inflight.go).
        let busy = |(_, rpc): (u64, &Rpc)| rpc.which == Which::Ebs && rpc.call.volume_id() == volume;
        if which == Which::Ebs && !volume.is_empty() && self.rpcs.on(node).any(busy) {
            let error = Error::new(Code::Aborted, format!("An operation with the given volume {volume} is already in progress"));
            self.refused_as_busy(node, &driver, &call, &error);
            return self.answer_later(node, op, Err(Failure::Rpc(error)));
        }
        self.rpcs.next += 1;
        let id = self.rpcs.next;
        let met = self.trouble.meet_rpc(call.name(), Some(&self.nodes[node].info.name), volume);
        self.late(if met.hang { PATIENCE } else { met.delay });
        self.trace(|world| {
            let what = format!("{} {} asked", call.name(), call.volume_id());
            Told::new(format!("node {}", world.nodes[node].info.name), what)
        });
        let name = &self.nodes[node].info.name;
        self.watch.see(self.clock.now(), &Seen::NodeRpcBegan { rpc: id, node: name, driver: &driver, call: &call });
        self.arm(Timer::Rpc(id), PATIENCE);
        self.rpcs.insert(id, Rpc { node, which, op, call, waits: true, instead: met.instead });
        if met.hang {
            return;
        }
        let latency = self.latencies.draw(Part::Mount) + met.delay;
        self.clock.after(latency, Event::Worked { rpc: id, refused: met.refused.map(Box::new) });
    }

    /// A driver let a call not in: for its caller that was a try like any other.
    fn refused_as_busy(&mut self, node: usize, driver: &str, call: &NodeCall, error: &Error) {
        self.rpcs.next += 1;
        let rpc = self.rpcs.next;
        self.trace(|world| {
            let what = format!("{} {}: {error}", call.name(), call.volume_id());
            Told::new(format!("node {}", world.nodes[node].info.name), what).failed(true)
        });
        self.see_node(node, |node| Seen::NodeRpcBegan { rpc, node, driver, call });
        let result = Err(error.clone());
        self.see(&Seen::NodeRpcEnded { rpc, result: &result });
        self.see(&Seen::NodeRpcAnswered { rpc, result: &result });
    }

    fn answer_later(&mut self, node: usize, op: pending::Key, result: Result<Answer, Failure>) {
        let input = Input::Volume(volumes::Input::Done { op, result });
        self.soon(Part::Csi, Event::Kubelet(node, Box::new(input)));
    }

    /// A driver ends its work; `refused`: a fault answered in its place.
    pub(super) fn worked(&mut self, id: u64, refused: Option<Error>) {
        let Some(rpc) = self.rpcs.remove(id) else { return };
        self.clock.disarm(&Timer::Rpc(id));
        let result = match refused {
            Some(error) => Err(error),
            None => match rpc.which {
                Which::Ebs => self.ebs_node(rpc.node, &rpc.call),
                Which::Efs => self.efs_node(rpc.node, &rpc.call),
            },
        };
        self.ended(id, rpc, result);
    }

    fn ended(&mut self, id: u64, rpc: Rpc, result: Result<NodeReply, Error>) {
        self.note("node-plugin").add(&rpc.node).add(&rpc.call).add(&result);
        self.trace(|world| {
            let outcome = result.as_ref().map_or_else(ToString::to_string, |_| "done".into());
            let late = if rpc.waits { "" } else { ", and nobody waits for it any more" };
            let what = format!("{} {}: {outcome}{late}", rpc.call.name(), rpc.call.volume_id());
            Told::new(format!("node {}", world.nodes[rpc.node].info.name), what).failed(result.is_err())
        });
        self.see(&Seen::NodeRpcEnded { rpc: id, result: &result });
        if !rpc.waits {
            return;
        }
        let told = rpc.instead.map_or(result, Err);
        self.see(&Seen::NodeRpcAnswered { rpc: id, result: &told });
        let input = Input::Volume(volumes::Input::Done { op: rpc.op, result: told.map(Answer::Csi).map_err(Failure::Rpc) });
        self.kubelet(rpc.node, &input);
    }

    /// The kubelet gives up; the driver goes on.
    pub(super) fn rpc_expired(&mut self, id: u64) {
        let Some(rpc) = self.rpcs.open.get_mut(&id).filter(|rpc| rpc.waits) else { return };
        rpc.waits = false;
        let (node, op) = (rpc.node, rpc.op.clone());
        let error = Error::new(Code::DeadlineExceeded, "context deadline exceeded");
        let what = format!("{} {}: the kubelet gives up: {error}", rpc.call.name(), rpc.call.volume_id());
        self.trace(|world| Told::new(format!("node {}", world.nodes[node].info.name), what).failed(true));
        let told = Err(error.clone());
        self.see(&Seen::NodeRpcAnswered { rpc: id, result: &told });
        self.kubelet(node, &Input::Volume(volumes::Input::Done { op, result: Err(Failure::Rpc(error)) }));
    }

    /// The kubelet of a node ended: nobody waits for its calls.
    pub(super) fn forget_calls(&mut self, node: usize) {
        let ids: Vec<u64> = self.rpcs.on(node).map(|(id, _)| id).collect();
        for id in ids {
            self.clock.disarm(&Timer::Rpc(id));
            if let Some(rpc) = self.rpcs.open.get_mut(&id) {
                rpc.waits = false;
            }
        }
    }

    /// A node service ended: its work is lost, and whoever waits loses the connection.
    pub(super) fn plugin_died(&mut self, node: usize, which: Which) {
        if which == Which::Efs {
            self.io(node, true);
        }
        let ids: Vec<u64> = self.rpcs.on(node).filter(|(_, rpc)| rpc.which == which).map(|(id, _)| id).collect();
        for id in ids {
            self.clock.disarm(&Timer::Rpc(id));
            self.clock.retain(|event| !matches!(event, Event::Worked { rpc, .. } if *rpc == id));
            if let Some(rpc) = self.rpcs.remove(id) {
                self.ended(id, rpc, Err(Error::new(Code::Unavailable, "error reading from server: EOF")));
            }
        }
    }
}
