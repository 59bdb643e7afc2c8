//! The built-in drivers' controller services: calls in, requests to AWS out.

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::csi::{Code, ControllerCall, Error};
use model_node::driver::{CallId, Effect, Input, Timer as DriverTimer, ebs, efs};

use super::clock::Part;
use super::{Event, Timer, Which, World};

pub(super) struct Drivers {
    ebs: ebs::Ebs,
    efs: efs::Efs,
    next: CallId,
    /// Who waits for a call: the controller's number and its own name for the call.
    waiting: BTreeMap<CallId, (Which, usize, u64)>,
}

impl Drivers {
    pub(super) fn new(seed: u64) -> Self {
        let options = efs::Options { seed, ..efs::Options::default() };
        Self { ebs: ebs::Ebs::new(ebs::Options::default()), efs: efs::Efs::new(options), next: 1, waiting: BTreeMap::new() }
    }
}

impl World {
    /// A sidecar calls its driver, and waits no longer than its timeout.
    pub(super) fn call_driver(&mut self, from: usize, call: u64, driver: &str, request: ControllerCall, timeout: Duration) {
        let which = match driver {
            ebs::DRIVER => Which::Ebs,
            efs::DRIVER => Which::Efs,
            other => {
                let error = Error::new(Code::Unavailable, format!("connection error: there is no driver {other} in this world"));
                return self.soon(Part::Csi, Event::Returned { to: from, call, result: Box::new(Err(error)) });
            }
        };
        let id = self.drivers.next;
        self.drivers.next += 1;
        self.drivers.waiting.insert(id, (which, from, call));
        self.arm(Timer::Deadline(id), timeout);
        self.soon(Part::Csi, Event::Call { which, id, request: Box::new(request) });
    }

    /// The sidecar gives up; the driver learns that its caller went away.
    pub(super) fn call_expired(&mut self, id: CallId) {
        if let Some((which, to, call)) = self.drivers.waiting.remove(&id) {
            self.driver(which, &Input::Cancelled { id });
            let error = Error::new(Code::DeadlineExceeded, "context deadline exceeded");
            self.controller(to, &model_kube::machine::Input::Csi { call, result: Err(error) });
        }
    }

    pub(super) fn driver(&mut self, which: Which, input: &Input) {
        let mut effects = Vec::new();
        let verdict = match which {
            Which::Ebs => self.drivers.ebs.step(input, &mut effects),
            Which::Efs => self.drivers.efs.step(input, &mut effects),
        };
        self.note("driver", &(which, input, verdict));
        for effect in effects {
            match effect {
                Effect::Cloud { id, call } => self.soon(Part::Cloud, Event::Cloud { which, id, call: Box::new(call) }),
                Effect::Reply { id, result } => {
                    self.clock.disarm(&Timer::Deadline(id));
                    if let Some((_, to, call)) = self.drivers.waiting.remove(&id) {
                        self.soon(Part::Csi, Event::Returned { to, call, result: Box::new(result) });
                    }
                }
                Effect::Arm(DriverTimer(id), span) => self.arm(Timer::Driver(which, DriverTimer(id)), span),
                Effect::Disarm(timer) => self.clock.disarm(&Timer::Driver(which, timer)),
            }
        }
    }
}
