//! The engine: one at a time works with the state. He drains the queue, steps each input, saves what changed in *one* commit, and
//! only then lets replies leave and effects start, so that concurrent writers share one flush (group commit). It is the first
//! caller that finds nobody at work, or a thread that stands by ([`desk`]).
//!
//! ```text
//! command ─┐                 ┌─ step ─ step ─ step ─┐            ┌─ replies leave
//! timer   ─┼─▶ queue ─ drain ┤   (write lock held)  ├─ commit ───┼─ effects start ─▶ end as inputs in the queue
//! Done    ─┘                 └──────────────────────┘            └─ events are told
//! ```
//!
//! Readers do not queue: they read under a shared lock in their own task, then wait until what they could have seen is
//! durable. When a commit fails nothing is acknowledged: the engine keeps the changes and tries again every second, and
//! [`Engine::fault`] says why.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use emulator_common::store::Store;
use model_aws::{Aws, Effect, Input, Reject};
use tokio::sync::{broadcast, oneshot, watch};

mod desk;
mod history;
mod journal;
mod sort;
mod timers;
mod writer;

use desk::Desk;
pub use journal::Journal;
pub use writer::now;

/// Carries out effects on the outside: files, devices.
pub trait Outside: Send + Sync + 'static {
    /// Acts, and says how it ended.
    fn perform(&self, effect: Effect, ended: Ended) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The end of an effect. The engine counts effects under way, so it is told also when this is dropped unsaid (a panic).
pub struct Ended {
    desk: Arc<Desk>,
    input: Option<Input>,
}

impl Ended {
    /// Feeds the machine what came of the effect.
    pub fn say(mut self, input: Input) {
        self.input = Some(input);
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // The engine may have stopped: then a start observes what was done.
        self.desk.put_and_ring(Message::Ended(self.input.take()));
    }
}

/// A handle on the engine; clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    /// What is read in the place of the state.
    past: Option<Arc<Aws>>,
}

/// What readers and the writer share.
struct Shared {
    state: RwLock<Applied>,
    /// The sequence up to which the state is saved.
    durable: AtomicU64,
    durable_changed: watch::Sender<u64>,
    /// Why nothing can be acknowledged now.
    fault: watch::Sender<Option<Arc<str>>>,
    events: broadcast::Sender<Arc<str>>,
    /// Whether there are faults: asked by every request.
    faulty: AtomicBool,
    history: Mutex<history::History>,
}

struct Applied {
    aws: Aws,
    /// Rises with every batch that changed something.
    sequence: u64,
}

enum Message {
    Command {
        input: Input,
        reply: oneshot::Sender<Result<Vec<Effect>, Reject>>,
    },
    /// Something the outside tells by itself.
    Tell(Input),
    /// An effect ended.
    Ended(Option<Input>),
    Connect(Arc<dyn Outside>),
    Reset(Box<ResetTo>),
    Stop,
}

/// What a reset puts in the place of everything.
struct ResetTo {
    aws: Aws,
    /// Runs when no effect is under way and the saved state is empty: removes files.
    cleanup: Box<dyn FnOnce() + Send>,
    /// Fed to the new state first.
    inputs: Vec<Input>,
    done: oneshot::Sender<()>,
}

impl Engine {
    /// Starts the thread. Effects begin when [`Engine::connect`] has said who carries them out.
    pub fn start(store: Arc<dyn Store>, aws: Aws, journal: Option<Journal>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            durable: AtomicU64::new(0),
            durable_changed: watch::Sender::new(0),
            fault: watch::Sender::new(None),
            events: broadcast::Sender::new(4096),
            faulty: AtomicBool::new(!aws.faults.is_empty()),
            history: Mutex::default(),
            state: RwLock::new(Applied { aws, sequence: 0 }),
        });
        let writer = writer::Writer::new(shared.clone(), store, journal, tokio::runtime::Handle::current());
        let desk = Arc::new(Desk::new(shared.clone(), writer));
        let standing_by = desk.clone();
        std::thread::Builder::new().name("aws-writer".to_owned()).spawn(move || standing_by.stand_by())?;
        Ok(Self { shared, desk, past: None })
    }

    /// Says who carries out effects.
    pub fn connect(&self, outside: Arc<dyn Outside>) {
        self.desk.put_and_ring(Message::Connect(outside));
    }

    /// Steps a command. Resolves when the state that it left is durable, with the replies among its effects. It does not
    /// resolve while the state cannot be saved ([`Engine::fault`]) or after the engine stopped.
    pub async fn command(&self, input: Input) -> Result<Vec<Effect>, Reject> {
        let (reply, answer) = oneshot::channel();
        self.desk.put(Message::Command { input, reply });
        let work = Work(&self.desk);
        // Those who are about to queue a command do so first, and share the commit.
        tokio::task::yield_now().await;
        drop(work);
        match answer.await {
            Ok(answer) => answer,
            // It has stopped.
            Err(_) => std::future::pending().await,
        }
    }

    /// Feeds an input that nobody waits for.
    pub fn tell(&self, input: Input) {
        self.desk.put_and_ring(Message::Tell(input));
    }

    /// Reads the state in the caller's task. Resolves when everything that `f` could have seen is durable. `f` must be quick:
    /// the writer waits for it.
    pub async fn read<R>(&self, f: impl FnOnce(&Aws) -> R) -> R {
        if let Some(past) = &self.past {
            return f(past);
        }
        let (result, seen) = {
            let applied = self.shared.state.read().unwrap_or_else(PoisonError::into_inner);
            (f(&applied.aws), applied.sequence)
        };
        if self.shared.durable.load(Ordering::Acquire) < seen {
            // The sender lives in `shared`, which we hold: waiting cannot fail.
            let _ = self.shared.durable_changed.subscribe().wait_for(|durable| *durable >= seen).await;
        }
        result
    }

    /// Whether there are faults.
    pub fn faulty(&self) -> bool {
        self.shared.faulty.load(Ordering::Acquire)
    }

    /// The same engine, but reads see the state as it was so long ago, as far back as it is known; commands act on the present.
    pub fn as_of(&self, lag: Duration) -> Self {
        let past = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner).as_of(Instant::now(), lag);
        Self { past, ..self.clone() }
    }

    /// Why nothing can be acknowledged now: the last commit failed, or the engine stopped.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.shared.fault.borrow().clone()
    }

    /// Resolves when there is a fault.
    pub async fn faulted(&self) -> Arc<str> {
        let mut fault = self.shared.fault.subscribe();
        // The sender lives in `shared`, which we hold: waiting cannot fail.
        match fault.wait_for(Option::is_some).await.ok().and_then(|fault| (*fault).clone()) {
            Some(fault) => fault,
            None => std::future::pending().await,
        }
    }

    /// Every change of a resource after it became durable, as JSON lines.
    pub fn events(&self) -> broadcast::Receiver<Arc<str>> {
        self.shared.events.subscribe()
    }

    /// Empties the state: waits for effects under way (commands wait meanwhile), removes all records, runs `cleanup`, then
    /// continues with `aws` and `inputs`.
    pub async fn reset(&self, aws: Aws, cleanup: impl FnOnce() + Send + 'static, inputs: Vec<Input>) {
        let (done, finished) = oneshot::channel();
        let reset = ResetTo { aws, cleanup: Box::new(cleanup), inputs, done };
        self.desk.put_and_ring(Message::Reset(Box::new(reset)));
        if finished.await.is_err() {
            // It has stopped.
            std::future::pending().await
        }
    }

    /// Ends the engine after what is queued; resolves when it ended. Effects under way are not waited for: a start
    /// observes what they did.
    pub async fn stop(&self) {
        let mut fault = self.shared.fault.subscribe();
        self.desk.put_and_ring(Message::Stop);
        // The sender lives in `shared`, which we hold: waiting cannot fail.
        let _ = fault.wait_for(|fault| fault.as_deref() == Some(STOPPED)).await;
    }
}

/// Carries out what is queued when it is dropped: also by a caller who goes away meanwhile, for a queued command is a given one.
struct Work<'a>(&'a Arc<Desk>);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.work();
    }
}

/// The fault of an engine that ended.
const STOPPED: &str = "the engine has stopped";

#[cfg(test)]
mod tests;
