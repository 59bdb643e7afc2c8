//! The writer's thread.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use emulator_common::store::{Batch, Store};
use model_aws::{At, Aws, Dirty, Effect, Input, Reject};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::history::History;
use super::sort::{Sorted, sort};
use super::timers::Timers;
use super::{Ended, Journal, Message, Outside, ResetTo, STOPPED, Shared};
use crate::events;

/// Most inputs of one commit: bounds how long readers wait for the lock.
const MAX_BATCH: usize = 256;
/// Between attempts to save after a failure.
const RETRY: Duration = Duration::from_secs(1);

pub struct Writer {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    journal: Option<Journal>,
    inbox: Receiver<Message>,
    queue: Sender<Message>,
    runtime: Handle,
    outside: Option<Arc<dyn Outside>>,
    timers: Timers,
    /// Effects that have not ended.
    under_way: usize,
    /// A reset that waits for effects under way, and the commands that wait for it.
    reset: Option<Box<ResetTo>>,
    held: VecDeque<Message>,
    /// What arrived while the state could not be saved.
    arrived: VecDeque<Message>,
    turn: Turn,
}

/// What a command's caller gets.
type Answer = Result<Vec<Effect>, Reject>;

/// What one turn collects until the commit.
#[derive(Default)]
struct Turn {
    replies: Vec<(oneshot::Sender<Answer>, Answer)>,
    actions: Vec<Effect>,
    /// Faults that were met.
    hits: Vec<model_aws::faults::Hit>,
    /// Kept from step to step only for its memory.
    effects: Vec<Effect>,
}

/// What a turn leaves for describe calls that lag.
struct Past {
    faulty: bool,
    lag: Option<Duration>,
    state: Option<Arc<Aws>>,
}

#[allow(clippy::large_enum_variant)] // it is on the stack for a moment; a box would cost every message
enum Next {
    Message(Message),
    TimerDue,
    Closed,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        journal: Option<Journal>,
        inbox: Receiver<Message>,
        queue: Sender<Message>,
        runtime: Handle,
    ) -> Self {
        Self {
            shared,
            store,
            journal,
            inbox,
            queue,
            runtime,
            outside: None,
            timers: Timers::default(),
            under_way: 0,
            reset: None,
            held: VecDeque::new(),
            arrived: VecDeque::new(),
            turn: Turn::default(),
        }
    }

    /// Serves until told to stop. However this thread ends, those who wait are told, after the store is closed.
    pub fn run(mut self) {
        let told = Told(self.shared.clone());
        self.serve();
        drop(self);
        drop(told);
    }

    fn serve(&mut self) {
        loop {
            let mut going = match self.next() {
                Next::Closed => return,
                Next::TimerDue => self.turn(None),
                Next::Message(message) => self.turn(Some(message)),
            };
            if going && self.under_way == 0 {
                going = self.finish_reset();
            }
            if !going {
                return;
            }
        }
    }

    fn next(&mut self) -> Next {
        if let Some(message) = self.arrived.pop_front() {
            return Next::Message(message);
        }
        if self.reset.is_none()
            && let Some(message) = self.held.pop_front()
        {
            return Next::Message(message);
        }
        if let Ok(message) = self.inbox.try_recv() {
            return Next::Message(message);
        }
        // Nothing to do: a good time to hand the journal's lines over.
        if let Some(journal) = &mut self.journal {
            journal.flush();
        }
        let Some(due) = self.timers.next() else {
            return self.inbox.recv().map_or(Next::Closed, Next::Message);
        };
        match self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(message) => Next::Message(message),
            Err(RecvTimeoutError::Timeout) => Next::TimerDue,
            Err(RecvTimeoutError::Disconnected) => Next::Closed,
        }
    }

    /// Steps what is queued, saves, releases. False: the engine is to end.
    fn turn(&mut self, first: Option<Message>) -> bool {
        let mut going = true;
        let shared = self.shared.clone();
        let mut applied = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut message = first;
        for _ in 0..MAX_BATCH {
            let Some(next) = message.take().or_else(|| self.inbox.try_recv().ok()) else { break };
            if !self.take(&mut applied.aws, next) {
                going = false;
                break;
            }
        }
        // Timers of no duration (profile `instant`) fire in the turn that armed them, and share its commit.
        let now = Instant::now();
        for _ in 0..MAX_BATCH {
            let Some(timer) = self.timers.pop(now) else { break };
            // Nobody waits for the verdict of a timer; the journal has it.
            let _ = self.step(&mut applied.aws, &timer.fired());
        }
        let dirty = applied.aws.take_dirty();
        let told = self.describe(&applied.aws, &dirty);
        if !dirty.is_empty() {
            applied.sequence += 1;
        }
        let sequence = applied.sequence;
        let past = if dirty.is_empty() { None } else { Some(self.past(&applied.aws)) };
        drop(applied);
        if !dirty.is_empty() && !self.save(batch_of(dirty), sequence) {
            return false;
        }
        if let Some(past) = past {
            self.keep(past);
        }
        // Saved: now replies may leave and effects may start.
        self.release(told);
        going
    }

    /// False: the engine is to end.
    fn take(&mut self, aws: &mut Aws, message: Message) -> bool {
        match message {
            Message::Command { .. } | Message::Tell(_) if self.reset.is_some() => self.held.push_back(message),
            Message::Command { input, reply } => {
                let answer = self.step(aws, &input);
                self.turn.replies.push((reply, answer));
            }
            Message::Tell(input) => {
                let _ = self.step(aws, &input);
            }
            Message::Ended(input) => {
                self.under_way = self.under_way.saturating_sub(1);
                if let Some(input) = input {
                    let _ = self.step(aws, &input);
                }
            }
            Message::Connect(outside) => self.outside = Some(outside),
            Message::Reset(reset) => self.reset = Some(reset),
            Message::Stop => return false,
        }
        true
    }

    /// Steps one input; returns the replies among its effects.
    fn step(&mut self, aws: &mut Aws, input: &Input) -> Result<Vec<Effect>, Reject> {
        let at = now();
        let mut effects = std::mem::take(&mut self.turn.effects);
        let verdict = aws.step(at, input, &mut effects);
        if let Some(journal) = &mut self.journal {
            journal.append(at, input, &verdict);
        }
        if let Err(reject) = &verdict {
            tracing::debug!(%reject, "rejected");
        }
        let mut replies = Vec::new();
        for effect in effects.drain(..) {
            match sort(effect) {
                Sorted::Reply(effect) => replies.push(effect),
                Sorted::Arm(timer, after) => {
                    let now = Instant::now();
                    // A duration beyond what the clock can hold never fires.
                    if let Some(at) = now.checked_add(after) {
                        self.timers.arm(timer, at);
                    }
                }
                Sorted::Disarm(timer) => self.timers.disarm(&timer),
                Sorted::Tell(hit) => self.turn.hits.push(hit),
                Sorted::Act(effect) => self.turn.actions.push(effect),
            }
        }
        self.turn.effects = effects;
        verdict.map(|()| replies)
    }

    fn describe(&self, aws: &Aws, dirty: &[Dirty]) -> Vec<Arc<str>> {
        if self.shared.events.receiver_count() == 0 {
            return Vec::new();
        }
        dirty.iter().filter_map(|dirty| events::describe(now(), aws, dirty)).map(Arc::from).collect()
    }

    /// What is kept of the state for describe calls that lag.
    fn past(&self, aws: &Aws) -> Past {
        let lag = aws.faults.longest_lag().map(|lag| lag.duration());
        let due = lag.is_some_and(|lag| self.history().due(Instant::now(), lag));
        Past { faulty: !aws.faults.is_empty(), lag, state: due.then(|| Arc::new(aws.clone())) }
    }

    fn keep(&self, Past { faulty, lag, state }: Past) {
        self.history().note(Instant::now(), lag, state);
        self.shared.faulty.store(faulty, Ordering::Release);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves, trying until it is possible. False: the engine was told to stop meanwhile.
    fn save(&mut self, mut batch: Batch, sequence: u64) -> bool {
        while let Err(error) = self.store.commit(&mut batch) {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            tracing::error!("{error}{source}; trying again");
            self.shared.fault.send_replace(Some(format!("{error}{source}").into()));
            let until = Instant::now() + RETRY;
            while let Ok(message) = self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                match message {
                    Message::Stop => return false,
                    other => self.arrived.push_back(other),
                }
            }
        }
        if self.shared.fault.borrow().is_some() {
            self.shared.fault.send_replace(None);
        }
        self.shared.durable.store(sequence, Ordering::Release);
        self.shared.durable_changed.send_replace(sequence);
        true
    }

    fn release(&mut self, told: Vec<Arc<str>>) {
        for (reply, answer) in self.turn.replies.drain(..) {
            // A caller that went away does not need its answer.
            let _ = reply.send(answer);
        }
        let hits = self.turn.hits.drain(..).filter_map(|hit| events::hit(now(), &hit)).map(Arc::from);
        for event in told.into_iter().chain(hits) {
            // Nobody listens: nothing is lost.
            let _ = self.shared.events.send(event);
        }
        for effect in self.turn.actions.drain(..) {
            let Some(outside) = &self.outside else {
                tracing::error!(?effect, "nobody carries out effects");
                continue;
            };
            self.under_way += 1;
            self.runtime.spawn(outside.perform(effect, Ended { queue: self.queue.clone(), input: None }));
        }
    }

    /// Puts the reset's state in place when there is one to do. False: the engine was told to stop meanwhile.
    fn finish_reset(&mut self) -> bool {
        let Some(reset) = self.reset.take() else { return true };
        let mut batch = Batch::default();
        for table in Aws::tables() {
            match self.store.load(table) {
                Ok(records) => records.into_iter().for_each(|(key, _)| batch.remove(table, key)),
                Err(error) => tracing::error!(%error, table, "cannot read the records to remove"),
            }
        }
        let shared = self.shared.clone();
        let mut applied = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        applied.aws = reset.aws;
        applied.sequence += 1;
        self.timers.clear();
        for input in &reset.inputs {
            let _ = self.step(&mut applied.aws, input);
        }
        // The new state's own records come after the removals in the same batch.
        batch.0.extend(batch_of(applied.aws.take_dirty()).0);
        let sequence = applied.sequence;
        let past = self.past(&applied.aws);
        drop(applied);
        if !self.save(batch, sequence) {
            return false;
        }
        self.keep(past);
        (reset.cleanup)();
        self.release(vec![events::reset(now()).into()]);
        // Who asked may have gone away.
        let _ = reset.done.send(());
        true
    }
}

/// Sets the fault of an ended engine.
struct Told(Arc<Shared>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.fault.send_replace(Some(STOPPED.into()));
    }
}

fn batch_of(dirty: Vec<Dirty>) -> Batch {
    let mut batch = Batch::default();
    for Dirty { table, key, value } in dirty {
        match value {
            Some(value) => batch.put(table, key, value),
            None => batch.remove(table, key),
        }
    }
    batch
}

/// The wall clock, for timestamps that users see.
pub fn now() -> At {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    At(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
