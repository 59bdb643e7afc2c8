//! The writer: steps, saves, then lets replies leave and effects start. [`super::desk`] says who works with it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use emulator_common::store::{Batch, Store};
use model_aws::{At, Aws, Dirty, Effect, Input, Reject};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::desk::Desk;
use super::history::History;
use super::journal::records;
use super::sort::{Sorted, sort};
use super::timers::Timers;
use super::{Ended, Journal, Message, Outside, ResetTo, Shared};
use crate::events;

/// Most inputs of one commit: bounds how long readers wait for the lock.
const MAX_BATCH: usize = 256;
/// Between attempts to save after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long lines of the journal may wait for more.
const JOURNAL: Duration = Duration::from_millis(50);

pub struct Writer {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    journal: Option<Journal>,
    /// When the journal's lines are to be handed over.
    flush: Option<Instant>,
    runtime: Handle,
    outside: Option<Arc<dyn Outside>>,
    timers: Timers,
    /// Effects that have not ended.
    under_way: usize,
    /// A reset that waits for effects under way, and the commands that wait for it.
    reset: Option<Box<ResetTo>>,
    held: VecDeque<Message>,
    /// What could not be saved, and when it is tried again. Nothing is stepped meanwhile.
    unsaved: Option<(Commit, Instant)>,
    stopping: bool,
    turn: Turn,
}

/// How it goes on after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Next,
    /// Nothing can be saved now.
    Wait,
    End,
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

/// Changes that are to be saved, and what waits for that beside the replies and effects of the turn.
struct Commit {
    batch: Batch,
    sequence: u64,
    past: Option<Past>,
    told: Vec<Arc<str>>,
    reset: Option<Box<ResetTo>>,
}

/// What a turn leaves for describe calls that lag.
struct Past {
    faulty: bool,
    lag: Option<Duration>,
    state: Option<Arc<Aws>>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, store: Arc<dyn Store>, journal: Option<Journal>, runtime: Handle) -> Self {
        Self {
            shared,
            store,
            journal,
            flush: None,
            runtime,
            outside: None,
            timers: Timers::default(),
            under_way: 0,
            reset: None,
            held: VecDeque::new(),
            unsaved: None,
            stopping: false,
            turn: Turn::default(),
        }
    }

    /// When there is something to do without a message.
    pub fn due(&self) -> Option<Instant> {
        match &self.unsaved {
            Some((_, again)) => Some(*again),
            None => self.timers.next().into_iter().chain(self.flush).min(),
        }
    }

    /// What only the thread does, for it takes long or is not urgent; and turns, until nothing is left to do now.
    pub fn chores(&mut self, desk: &Arc<Desk>) -> Then {
        if let Some((commit, again)) = self.unsaved.take() {
            if self.stopping || desk.is_stopping() {
                return Then::End;
            }
            if again > Instant::now() {
                self.unsaved = Some((commit, again));
            } else if self.save(commit, desk) != Then::Next {
                return Then::Wait;
            }
        }
        loop {
            let then = match self.turn(desk) {
                Then::Next if self.under_way == 0 => self.finish_reset(desk),
                then => then,
            };
            if then != Then::Next {
                return then;
            }
            if desk.is_empty() && self.timers.next().is_none_or(|due| due > Instant::now()) {
                break;
            }
        }
        if let (Some(journal), Some(_)) = (&mut self.journal, self.flush.take_if(|flush| *flush <= Instant::now())) {
            journal.flush();
        }
        Then::Next
    }

    /// Steps what is queued, saves, releases.
    pub fn turn(&mut self, desk: &Arc<Desk>) -> Then {
        if self.unsaved.is_some() {
            return Then::Wait;
        }
        let shared = self.shared.clone();
        let mut applied = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        for message in desk.take(MAX_BATCH) {
            self.take(&mut applied.aws, message);
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
        match self.save(Commit { batch: batch_of(dirty), sequence, past, told, reset: None }, desk) {
            Then::Next if self.stopping => {
                self.note_end();
                Then::End
            }
            then => then,
        }
    }

    /// Says in the journal what is saved where the machine ends in order.
    fn note_end(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        match records(self.store.as_ref()) {
            Ok(records) => journal.end(&records),
            Err(error) => tracing::warn!(%error, "the journal lacks the state at its end"),
        }
    }

    fn take(&mut self, aws: &mut Aws, message: Message) {
        match message {
            // Ends with this turn; what is queued behind it is not carried out.
            _ if self.stopping => {}
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
            Message::Stop => self.stopping = true,
        }
    }

    /// Steps one input; returns the replies among its effects.
    fn step(&mut self, aws: &mut Aws, input: &Input) -> Result<Vec<Effect>, Reject> {
        let at = now();
        let mut effects = std::mem::take(&mut self.turn.effects);
        let verdict = aws.step(at, input, &mut effects);
        if let Some(journal) = &mut self.journal {
            journal.append(at, input, &verdict, &effects);
            self.flush.get_or_insert_with(|| Instant::now() + JOURNAL);
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

    /// Saves, then lets go what waited for it.
    fn save(&mut self, mut commit: Commit, desk: &Arc<Desk>) -> Then {
        if !commit.batch.is_empty() {
            if let Err(error) = self.store.commit(&mut commit.batch) {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                tracing::error!("{error}{source}; trying again");
                self.shared.fault.send_replace(Some(format!("{error}{source}").into()));
                self.unsaved = Some((commit, Instant::now() + RETRY));
                return Then::Wait;
            }
            if self.shared.fault.borrow().is_some() {
                self.shared.fault.send_replace(None);
            }
            self.shared.durable.store(commit.sequence, Ordering::Release);
            self.shared.durable_changed.send_replace(commit.sequence);
        }
        let Commit { past, told, reset, .. } = commit;
        if let Some(past) = past {
            self.keep(past);
        }
        let reset = reset.map(|reset| {
            (reset.cleanup)();
            desk.put_back(std::mem::take(&mut self.held));
            reset.done
        });
        self.release(told, desk);
        if let Some(done) = reset {
            // Who asked may have gone away.
            let _ = done.send(());
        }
        Then::Next
    }

    fn release(&mut self, told: Vec<Arc<str>>, desk: &Arc<Desk>) {
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
            self.runtime.spawn(outside.perform(effect, Ended { desk: desk.clone(), input: None }));
        }
    }

    /// Puts the reset's state in place when there is one to do.
    fn finish_reset(&mut self, desk: &Arc<Desk>) -> Then {
        let Some(mut reset) = self.reset.take() else { return Then::Next };
        let mut batch = Batch::default();
        for table in Aws::tables() {
            match self.store.load(table) {
                Ok(records) => records.into_iter().for_each(|(key, _)| batch.remove(table, key)),
                Err(error) => tracing::error!(%error, table, "cannot read the records to remove"),
            }
        }
        let shared = self.shared.clone();
        let mut applied = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut applied.aws, &mut reset.aws);
        applied.sequence += 1;
        self.timers.clear();
        if let Some(journal) = &mut self.journal {
            journal.begin_anew();
        }
        for input in &reset.inputs {
            let _ = self.step(&mut applied.aws, input);
        }
        // The new state's own records come after the removals in the same batch.
        batch.0.extend(batch_of(applied.aws.take_dirty()).0);
        let sequence = applied.sequence;
        let past = Some(self.past(&applied.aws));
        drop(applied);
        self.save(Commit { batch, sequence, past, told: vec![events::reset(now()).into()], reset: Some(reset) }, desk)
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
