//! Carries out what a driver's machine decides: asks the cloud, arms timers, answers the callers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emulator_common::csi::server::ControllerService;
use model_common::csi::{Code, ControllerCall, ControllerCapability, ControllerReply, Error};
use model_node::driver::{CallId, Effect, Input, Reject, Timer, ebs::Ebs, efs::Efs};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::cloud::Cloud;

type Answer = Result<ControllerReply, Error>;

/// A driver's machine.
trait Machine: Send + 'static {
    fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject>;
}

impl Machine for Ebs {
    fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        Ebs::step(self, input, out)
    }
}

impl Machine for Efs {
    fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        Efs::step(self, input, out)
    }
}

struct State<M> {
    machine: M,
    next: CallId,
    waiting: HashMap<CallId, oneshot::Sender<Answer>>,
    /// The question or the timer of a call: at most one.
    running: HashMap<CallId, AbortHandle>,
}

/// A driver's controller service.
struct Controller<M> {
    state: Mutex<State<M>>,
    cloud: Arc<Cloud>,
    capabilities: Vec<ControllerCapability>,
    /// EBS asks AWS whether it may (ebs.md §1.4); EFS does not.
    probes: bool,
}

pub(super) fn ebs(machine: Ebs, cloud: Arc<Cloud>) -> Arc<dyn ControllerService> {
    use ControllerCapability::*;
    let capabilities =
        vec![CreateDeleteVolume, CloneVolume, PublishUnpublishVolume, CreateDeleteSnapshot, ListSnapshots, ExpandVolume, ModifyVolume];
    Arc::new(Service(Arc::new(Controller::new(machine, cloud, capabilities, true))))
}

pub(super) fn efs(machine: Efs, cloud: Arc<Cloud>) -> Arc<dyn ControllerService> {
    let capabilities = vec![ControllerCapability::CreateDeleteVolume];
    Arc::new(Service(Arc::new(Controller::new(machine, cloud, capabilities, false))))
}

impl<M: Machine> Controller<M> {
    fn new(machine: M, cloud: Arc<Cloud>, capabilities: Vec<ControllerCapability>, probes: bool) -> Self {
        let state = State { machine, next: 1, waiting: HashMap::new(), running: HashMap::new() };
        Self { state: Mutex::new(state), cloud, capabilities, probes }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(self: &Arc<Self>, input: &Input) {
        let mut state = self.lock();
        self.feed_locked(&mut state, input);
    }

    fn feed_locked(self: &Arc<Self>, state: &mut State<M>, input: &Input) {
        let mut effects = Vec::new();
        if let Err(reject) = state.machine.step(input, &mut effects) {
            // A late answer to a call that was cancelled.
            tracing::debug!(%reject, "the driver ignored an input");
            return;
        }
        for effect in effects {
            match effect {
                Effect::Cloud { id, call } => {
                    let this = self.clone();
                    let asking = tokio::spawn(async move {
                        let result = this.cloud.call(&call).await;
                        this.feed(&Input::Cloud { id, result });
                    });
                    state.running.insert(id, asking.abort_handle());
                }
                Effect::Arm(timer, time) => {
                    let this = self.clone();
                    let sleeping = tokio::spawn(async move {
                        tokio::time::sleep(time).await;
                        this.feed(&Input::Fired(timer));
                    });
                    state.running.insert(timer.0, sleeping.abort_handle());
                }
                Effect::Disarm(Timer(id)) => {
                    if let Some(sleeping) = state.running.remove(&id) {
                        sleeping.abort();
                    }
                }
                Effect::Reply { id, result } => {
                    state.running.remove(&id);
                    if let Some(caller) = state.waiting.remove(&id) {
                        // It went away a moment ago.
                        let _ = caller.send(result);
                    }
                }
            }
        }
    }
}

/// A call whose caller may go away: then the machine drops it, as the real drivers' contexts are cancelled.
struct Caller<M: Machine> {
    id: CallId,
    controller: Arc<Controller<M>>,
}

impl<M: Machine> Drop for Caller<M> {
    fn drop(&mut self) {
        let mut state = self.controller.lock();
        if state.waiting.remove(&self.id).is_none() {
            return;
        }
        if let Some(running) = state.running.remove(&self.id) {
            running.abort();
        }
        self.controller.feed_locked(&mut state, &Input::Cancelled { id: self.id });
    }
}

struct Service<M>(Arc<Controller<M>>);

#[tonic::async_trait]
impl<M: Machine> ControllerService for Service<M> {
    fn capabilities(&self) -> Vec<ControllerCapability> {
        self.0.capabilities.clone()
    }

    async fn call(&self, request: ControllerCall) -> Answer {
        let (answer, answered) = oneshot::channel();
        let caller = {
            let mut state = self.0.lock();
            let id = state.next;
            state.next += 1;
            state.waiting.insert(id, answer);
            tracing::debug!(id, ?request, "called");
            self.0.feed_locked(&mut state, &Input::Call { id, request });
            Caller { id, controller: self.0.clone() }
        };
        let result = answered.await.unwrap_or_else(|_| Err(Error::new(Code::Internal, "the driver lost the call")));
        if let Err(error) = &result {
            tracing::warn!(id = caller.id, %error, "a CSI call failed");
        }
        result
    }

    async fn probe(&self) -> Result<bool, Error> {
        if !self.0.probes {
            return Ok(true);
        }
        self.0.cloud.probe().await.map(|()| true).map_err(|error| {
            let why = "Failed health check (verify network connection and IAM credentials)";
            Error::new(Code::FailedPrecondition, format!("{why}: dry-run EC2 API call failed: {error}"))
        })
    }
}
