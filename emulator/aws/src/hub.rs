//! The agents' other end: who is connected, calls in flight, and what becomes of them when a connection is lost
//! (model/common/src/agent.rs).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_common::agent::{DeviceError, ToAgent};
use tokio::sync::{mpsc, oneshot, watch};

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No agent is connected, or its connection was lost before it answered: whether it happened is not known.
    #[error("the agent of the instance is not connected")]
    Lost,
}

/// The connected agents, by instance id. Clones are the same hub.
#[derive(Clone, Default)]
pub struct Hub(Arc<Inner>);

#[derive(Default)]
struct Inner {
    agents: Mutex<BTreeMap<String, Agent>>,
    next: AtomicU64,
    /// Works in flight by instance; see [`Hub::begin`].
    works: Mutex<HashMap<String, watch::Sender<usize>>>,
}

struct Agent {
    /// Which connection this is: a new one of the same instance replaces it.
    connection: u64,
    outbox: mpsc::Sender<ToAgent>,
    calls: HashMap<u64, oneshot::Sender<Result<(), DeviceError>>>,
}

/// Calls that may wait for an agent's socket.
const OUTBOX: usize = 1024;

/// A connection of an agent, as its socket's task holds it. Dropping it disconnects.
pub struct Connection {
    hub: Hub,
    instance: String,
    number: u64,
}

/// A work on an instance that has not told its end yet.
pub struct Working {
    hub: Hub,
    instance: String,
}

impl Hub {
    /// Sends a call and waits for its answer. `message` makes it from the call's number.
    pub async fn call(&self, instance: &str, message: impl FnOnce(u64) -> ToAgent) -> Result<(), HubError> {
        let call = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let outbox = {
            let mut agents = self.agents();
            let agent = agents.get_mut(instance).ok_or(HubError::Lost)?;
            agent.calls.insert(call, answer);
            agent.outbox.clone()
        };
        // A call given up (its future dropped) is forgotten, so that it does not stay here until the connection ends.
        let _forget = Forget { hub: self, instance, call };
        outbox.send(message(call)).await.map_err(|_| HubError::Lost)?;
        match answered.await {
            Ok(result) => result.map_err(HubError::Device),
            Err(_) => Err(HubError::Lost),
        }
    }

    /// Whether the instance's agent is connected.
    pub fn connected(&self, instance: &str) -> bool {
        self.agents().contains_key(instance)
    }

    /// Runs `f` if the instance's agent is not connected, and lets none connect meanwhile.
    pub fn if_away(&self, instance: &str, f: impl FnOnce()) {
        let agents = self.agents();
        if !agents.contains_key(instance) {
            f();
        }
    }

    /// The instances whose agents are connected.
    pub fn instances(&self) -> Vec<String> {
        self.agents().keys().cloned().collect()
    }

    /// Registers a connection, in the place of an earlier one of the instance, whose calls are lost. The receiver has what to
    /// send to the agent.
    pub fn register(&self, instance: &str) -> (Connection, mpsc::Receiver<ToAgent>) {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let agent = Agent { connection: number, outbox, calls: HashMap::new() };
        self.agents().insert(instance.to_owned(), agent);
        (Connection { hub: self.clone(), instance: instance.to_owned(), number }, inbox)
    }

    /// Disconnects an instance's agent, so that its calls are lost.
    pub fn disconnect(&self, instance: &str) {
        self.agents().remove(instance);
    }

    /// Notes that a work on the instance begins. Hold the guard until its end is told to the engine: a new connection waits
    /// for that ([`Hub::quiet`]), so that the machine hears of lost works before it hears what the new connection has.
    pub fn begin(&self, instance: &str) -> Working {
        self.works().entry(instance.to_owned()).or_insert_with(|| watch::Sender::new(0)).send_modify(|count| *count += 1);
        Working { hub: self.clone(), instance: instance.to_owned() }
    }

    /// Resolves when no work on the instance is in flight.
    pub async fn quiet(&self, instance: &str) {
        let receiver = self.works().get(instance).map(watch::Sender::subscribe);
        if let Some(mut count) = receiver {
            // An error means that the sender is gone: nothing is in flight.
            let _ = count.wait_for(|count| *count == 0).await;
        }
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Agent>> {
        self.0.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn works(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<usize>>> {
        self.0.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// An answer of the agent. One to an unknown call (given up, or of an earlier connection) is ignored.
    pub fn done(&self, call: u64, result: Result<(), DeviceError>) {
        let mut agents = self.hub.agents();
        let agent = agents.get_mut(&self.instance).filter(|agent| agent.connection == self.number);
        if let Some(answer) = agent.and_then(|agent| agent.calls.remove(&call)) {
            // Who asked may have given up.
            let _ = answer.send(result);
        }
    }

    /// Whether this is still the instance's connection.
    pub fn current(&self) -> bool {
        self.hub.agents().get(&self.instance).is_some_and(|agent| agent.connection == self.number)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut agents = self.hub.agents();
        if agents.get(&self.instance).is_some_and(|agent| agent.connection == self.number) {
            agents.remove(&self.instance);
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(count) = self.hub.works().get(&self.instance) {
            count.send_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

struct Forget<'a> {
    hub: &'a Hub,
    instance: &'a str,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(agent) = self.hub.agents().get_mut(self.instance) {
            agent.calls.remove(&self.call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thaw(call: u64) -> ToAgent {
        ToAgent::Thaw { call, volume_id: "vol-1".into() }
    }

    fn number(message: &ToAgent) -> u64 {
        match message {
            ToAgent::Thaw { call, .. } => *call,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_call_is_answered_by_its_number() {
        let hub = Hub::default();
        assert_eq!(hub.call("i-1", thaw).await, Err(HubError::Lost));
        let (connection, mut inbox) = hub.register("i-1");
        let (first, second) = (hub.clone(), hub.clone());
        let first = tokio::spawn(async move { first.call("i-1", thaw).await });
        let a = number(&inbox.recv().await.unwrap());
        let second = tokio::spawn(async move { second.call("i-1", thaw).await });
        let b = number(&inbox.recv().await.unwrap());
        let busy = DeviceError::Busy { volume_id: "vol-1".into(), holder: "mounted".into() };
        connection.done(b, Err(busy.clone()));
        connection.done(a, Ok(()));
        connection.done(a + b + 1, Ok(()));
        assert_eq!(second.await.unwrap(), Err(HubError::Device(busy)));
        assert_eq!(first.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_new_connection_loses_the_calls_of_the_old_one() {
        let hub = Hub::default();
        let (old, mut inbox) = hub.register("i-1");
        let caller = hub.clone();
        let call = tokio::spawn(async move { caller.call("i-1", thaw).await });
        let number = number(&inbox.recv().await.unwrap());
        let (_new, _) = hub.register("i-1");
        assert_eq!(call.await.unwrap(), Err(HubError::Lost));
        assert!(!old.current());
        old.done(number, Ok(()));
        drop(old);
        assert!(hub.connected("i-1"), "the end of the old connection must not end the new one");
    }

    #[tokio::test]
    async fn quiet_waits_for_works() {
        let hub = Hub::default();
        hub.quiet("i-1").await;
        let working = hub.begin("i-1");
        let waiter = hub.clone();
        let waiting = tokio::spawn(async move { waiter.quiet("i-1").await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(working);
        waiting.await.unwrap();
    }
}
