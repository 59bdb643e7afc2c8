//! Who works with the writer. A command's caller that finds it idle takes it and carries out all that is queued, in its own task:
//! to wake a thread and to be woken by it takes longer than most commands do. Who finds it busy leaves its command to the one who
//! is at work, and who looks into the queue again after letting go. A thread sees to the rest: what nobody waits for, timers, what
//! could not be saved, and callers that would serve others for too long.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use super::writer::{Then, Writer};
use super::{Message, STOPPED, Shared};

/// Most turns that a caller takes before the thread goes on.
const TURNS: usize = 4;

/// The queue, the writer, and the thread's bell.
pub struct Desk {
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
    bell: Condvar,
    /// None while someone panics with it, and after its end.
    writer: Mutex<Option<Writer>>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// The thread is to look.
    rung: bool,
    /// When the thread is to look without being rung for.
    due: Option<Instant>,
    ended: bool,
}

impl Desk {
    pub fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self { shared, queue: Mutex::default(), bell: Condvar::new(), writer: Mutex::new(Some(writer)) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what the caller will see to by [`Desk::work`]. After the end it is dropped.
    pub fn put(&self, message: Message) {
        let mut queue = self.queue();
        if !queue.ended {
            queue.messages.push_back(message);
        }
    }

    /// Queues what the thread sees to.
    pub fn put_and_ring(&self, message: Message) {
        self.put(message);
        self.ring();
    }

    /// Queues what arrived before all that is queued.
    pub fn put_back(&self, messages: VecDeque<Message>) {
        let mut queue = self.queue();
        messages.into_iter().rev().for_each(|message| queue.messages.push_front(message));
    }

    /// Takes the first of what is queued.
    pub fn take(&self, most: usize) -> Vec<Message> {
        let mut queue = self.queue();
        let count = queue.messages.len().min(most);
        queue.messages.drain(..count).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.queue().messages.is_empty()
    }

    /// Whether somebody wants it to end.
    pub fn is_stopping(&self) -> bool {
        self.queue().messages.iter().any(|message| matches!(message, Message::Stop))
    }

    fn ring(&self) {
        let mut queue = self.queue();
        if !queue.rung {
            queue.rung = true;
            self.bell.notify_one();
        }
    }

    /// Carries out what is queued, unless someone is at it.
    pub fn work(self: &Arc<Self>) {
        for _ in 0..TURNS {
            if self.is_empty() {
                return;
            }
            let seat = match self.writer.try_lock() {
                Ok(seat) => seat,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // The queue's lock orders this: who has the writer looks into the queue after what we put there.
                Err(TryLockError::WouldBlock) => return,
            };
            match self.sit(seat, |writer| writer.turn(self)) {
                Then::Next => {}
                Then::Wait | Then::End => return,
            }
        }
        if !self.is_empty() {
            self.ring();
        }
    }

    /// The thread: until the end.
    pub fn stand_by(self: Arc<Self>) {
        loop {
            let seat = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let then = self.sit(seat, |writer| writer.chores(&self));
            if let Then::End = then {
                return;
            }
            let mut queue = self.queue();
            // A caller that found the thread at work left its command to it, perhaps after it had looked.
            while !queue.rung && (queue.messages.is_empty() || then == Then::Wait) {
                let left = queue.due.map(|due| due.saturating_duration_since(Instant::now()));
                queue = match left {
                    None => self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
                    Some(left) if left.is_zero() => break,
                    Some(left) => self.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                };
            }
            queue.rung = false;
        }
    }

    /// Works with the writer; after the end there is none. However that comes, also by a panic, those who wait are told.
    fn sit(&self, mut seat: MutexGuard<'_, Option<Writer>>, work: impl FnOnce(&mut Writer) -> Then) -> Then {
        let mut ending = Ending { desk: self, writer: seat.take() };
        let Some(writer) = &mut ending.writer else { return Then::End };
        let then = work(writer);
        if !matches!(then, Then::End) {
            self.note(writer.due());
            *seat = ending.writer.take();
        }
        then
    }

    /// Notes when the thread has something to do by itself.
    fn note(&self, due: Option<Instant>) {
        let mut queue = self.queue();
        // It wakes up in time for what it knows of.
        if due.is_some_and(|due| queue.due.is_none_or(|before| due < before)) {
            self.bell.notify_one();
        }
        queue.due = due;
    }
}

/// Closes the store, then tells.
struct Ending<'a> {
    desk: &'a Desk,
    writer: Option<Writer>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        drop(writer);
        let mut queue = self.desk.queue();
        queue.ended = true;
        // Whoever waits for an answer waits for good.
        let left = std::mem::take(&mut queue.messages);
        drop(queue);
        drop(left);
        self.desk.ring();
        self.desk.shared.fault.send_replace(Some(STOPPED.into()));
    }
}
