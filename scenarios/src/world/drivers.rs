//! The built-in drivers' controller services: calls in, requests to AWS out.

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::csi::{Code, ControllerCall, ControllerReply, Error};
use model_node::driver::{CallId, Effect, Input, Timer as DriverTimer, ebs, efs};

use super::actors::Caller;
use super::clock::Part;
use super::trouble::Actor;
use super::{Event, Timer, Which, World};
use crate::invariants::Seen;

pub(super) struct Drivers {
    ebs: ebs::Ebs,
    efs: efs::Efs,
    next: CallId,
    /// Who waits for a call.
    waiting: BTreeMap<CallId, Waiting>,
    seed: u64,
}

/// A call that is being worked on.
struct Waiting {
    which: Which,
    from: Caller,
    call: u64,
    name: &'static str,
    /// What is answered in the place of what the driver says, once it has done its work.
    instead: Option<Error>,
}

impl Drivers {
    pub(super) fn new(seed: u64) -> Self {
        let options = efs::Options { seed, ..efs::Options::default() };
        Self { ebs: ebs::Ebs::new(ebs::Options::default()), efs: efs::Efs::new(options), next: 1, waiting: BTreeMap::new(), seed }
    }
}

impl World {
    /// A sidecar calls its driver, and waits no longer than its timeout.
    pub(super) fn call_driver(&mut self, from: Caller, call: u64, driver: &str, request: ControllerCall, timeout: Duration) {
        let refused = |message: String| Box::new(Err(Error::new(Code::Unavailable, message)));
        let which = match driver {
            ebs::DRIVER => Which::Ebs,
            efs::DRIVER => Which::Efs,
            other => {
                let result = refused(format!("connection error: there is no driver {other} in this world"));
                return self.soon(Part::Csi, Event::Returned { to: from, call, result });
            }
        };
        if self.trouble.is_down(Actor::Driver(which)) {
            let result = refused(
                "connection error: desc = \"transport: Error while dialing: dial unix csi.sock: connect: connection refused\"".into(),
            );
            return self.soon(Part::Csi, Event::Returned { to: from, call, result });
        }
        let id = self.drivers.next;
        self.drivers.next += 1;
        self.trace_call(from.number, &request);
        let met = self.trouble.meet_rpc(request.name(), None, request.subject());
        self.late(if met.hang { timeout } else { met.delay });
        self.watch.see(self.clock.now(), &Seen::ControllerRpcBegan { rpc: id, driver, call: &request });
        self.drivers.waiting.insert(id, Waiting { which, from, call, name: request.name(), instead: met.instead.clone() });
        self.arm(Timer::Deadline(id), timeout);
        if met.hang {
            return;
        }
        if let Some(error) = met.refused {
            let latency = self.latencies.draw(Part::Csi) + met.delay;
            return self.clock.after(latency, Event::Refused(id, error));
        }
        let latency = self.latencies.draw(Part::Csi) + met.delay;
        self.clock.after(latency, Event::Call { which, id, request: Box::new(request) });
    }

    /// A fault answers in the driver's place.
    pub(super) fn refuse_call(&mut self, id: CallId, error: Error) {
        self.returned(id, Err(error));
    }

    /// The sidecar gives up; the driver learns that its caller went away.
    pub(super) fn call_expired(&mut self, id: CallId) {
        if let Some(waiting) = self.drivers.waiting.remove(&id) {
            let error = Error::new(Code::DeadlineExceeded, "context deadline exceeded");
            self.watch.see(self.clock.now(), &Seen::ControllerRpcAnswered { rpc: id, result: &Err(error.clone()) });
            self.driver(waiting.which, &Input::Cancelled { id });
            if self.lives(waiting.from) {
                self.trace_answer(waiting.from.number, waiting.name, Some(&error));
                let input = model_kube::machine::Input::Csi { call: waiting.call, result: Err(error) };
                self.controller(waiting.from.number, &input);
            }
        }
    }

    /// The callers of a controller that ended are gone.
    pub(super) fn forget_caller(&mut self, number: usize) {
        let ids: Vec<_> = self.drivers.waiting.iter().filter(|(_, waiting)| waiting.from.number == number).map(|(id, _)| *id).collect();
        for id in ids {
            self.clock.disarm(&Timer::Deadline(id));
            if let Some(waiting) = self.drivers.waiting.remove(&id) {
                let error = Err(Error::new(Code::Canceled, "context canceled"));
                self.watch.see(self.clock.now(), &Seen::ControllerRpcAnswered { rpc: id, result: &error });
                self.driver(waiting.which, &Input::Cancelled { id });
            }
        }
    }

    /// A driver's process ends: whoever waits for it loses the connection, and what it knew is gone.
    pub(super) fn driver_died(&mut self, which: Which) {
        let fresh = Drivers::new(self.drivers.seed);
        match which {
            Which::Ebs => self.drivers.ebs = fresh.ebs,
            Which::Efs => self.drivers.efs = fresh.efs,
        }
        let ids: Vec<_> = self.drivers.waiting.iter().filter(|(_, waiting)| waiting.which == which).map(|(id, _)| *id).collect();
        for id in ids {
            self.returned(id, Err(Error::new(Code::Unavailable, "error reading from server: EOF")));
        }
    }

    fn returned(&mut self, id: CallId, result: Result<ControllerReply, Error>) {
        self.clock.disarm(&Timer::Deadline(id));
        self.watch.see(self.clock.now(), &Seen::ControllerRpcEnded { rpc: id, result: &result });
        if let Some(waiting) = self.drivers.waiting.remove(&id) {
            let result = Box::new(waiting.instead.map_or(result, Err));
            self.trace_answer(waiting.from.number, waiting.name, result.as_ref().as_ref().err());
            self.soon(Part::Csi, Event::Returned { to: waiting.from, call: waiting.call, result });
        }
    }

    pub(super) fn driver(&mut self, which: Which, input: &Input) {
        let mut effects = Vec::new();
        let verdict = match which {
            Which::Ebs => self.drivers.ebs.step(input, &mut effects),
            Which::Efs => self.drivers.efs.step(input, &mut effects),
        };
        self.input("driver").add(&which).value(input).verdict(&verdict);
        for effect in effects {
            match effect {
                Effect::Cloud { id, call } => self.soon(Part::Cloud, Event::Cloud { which, id, call: Box::new(call), met: None }),
                Effect::Reply { id, result } => self.returned(id, result),
                Effect::Arm(DriverTimer(id), span) => self.arm(Timer::Driver(which, DriverTimer(id)), span),
                Effect::Disarm(timer) => self.clock.disarm(&Timer::Driver(which, timer)),
            }
        }
    }
}
