//! Virtual time: one queue of events ordered by time and sequence, timers that can be disarmed, and latencies from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::pick::{Bytes, Pick, Seeded};

use crate::language::Span;

/// The order of an event: its time, then the order in which it was scheduled.
type Place = (Duration, u64);

/// What is to happen, and when. `E` is an event, `T` names a timer.
pub(super) struct Clock<E, T> {
    now: Duration,
    sequence: u64,
    queue: BTreeMap<Place, E>,
    /// Where the event of an armed timer lies.
    armed: BTreeMap<T, Place>,
}

impl<E, T: Ord + Clone> Clock<E, T> {
    pub(super) fn new() -> Self {
        Self { now: Duration::ZERO, sequence: 0, queue: BTreeMap::new(), armed: BTreeMap::new() }
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Schedules an event at a time, or now when that is past.
    pub(super) fn at(&mut self, time: Duration, event: E) -> Place {
        self.sequence += 1;
        let place = (time.max(self.now), self.sequence);
        self.queue.insert(place, event);
        place
    }

    pub(super) fn after(&mut self, span: Duration, event: E) {
        self.at(self.now.saturating_add(span), event);
    }

    /// Starts a timer, or starts it anew.
    pub(super) fn arm(&mut self, timer: T, span: Duration, event: E) {
        self.disarm(&timer);
        let place = self.at(self.now.saturating_add(span), event);
        self.armed.insert(timer, place);
    }

    pub(super) fn disarm(&mut self, timer: &T) {
        if let Some(place) = self.armed.remove(timer) {
            self.queue.remove(&place);
        }
    }

    /// The timer has fired.
    pub(super) fn fired(&mut self, timer: &T) {
        self.armed.remove(timer);
    }

    /// Drops events, and with them the timers that they belong to.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&E) -> bool) {
        self.queue.retain(|_, event| keep(event));
        self.armed.retain(|_, place| self.queue.contains_key(place));
    }

    /// The next event up to a time; none: the clock stands at that time.
    pub(super) fn next(&mut self, until: Duration) -> Option<E> {
        match self.queue.first_entry() {
            Some(entry) if entry.key().0 <= until => {
                self.now = entry.key().0;
                Some(entry.remove())
            }
            _ => {
                self.now = self.now.max(until);
                None
            }
        }
    }
}

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// From the store to a watcher.
    Watch,
    /// From a client to the store, and back.
    Write,
    /// Between a sidecar or kubelet and a driver.
    Csi,
    /// Between a client and AWS, each way.
    Cloud,
    /// Making or removing a file or a device.
    Device,
    /// Mounting, formatting, directories, starting a process.
    Mount,
}

impl Part {
    const ALL: [(Part, &'static str, [u64; 2]); 6] = [
        (Part::Watch, "watch", [1_000, 20_000]),
        (Part::Write, "write", [500, 5_000]),
        (Part::Csi, "csi", [500, 3_000]),
        (Part::Cloud, "cloud", [10_000, 60_000]),
        (Part::Device, "device", [5_000, 80_000]),
        (Part::Mount, "mount", [1_000, 60_000]),
    ];
}

/// Latencies, each part's from its own source, so that one more draw here leaves every other part as it was. As long as there are bytes
/// on the tape they are drawn from those, in the order in which they are asked for.
pub(super) struct Latencies {
    parts: BTreeMap<Part, (Seeded, [u64; 2])>,
    spreads: Seeded,
    tape: Vec<u8>,
    /// How much of the tape is used.
    used: usize,
}

impl Latencies {
    /// `given`: what the scenario says instead of the default, by name.
    pub(super) fn new(seed: &Seeded, given: &BTreeMap<String, [Span; 2]>, tape: Vec<u8>) -> Self {
        let micros = |span: Span| u64::try_from(span.0.as_micros()).unwrap_or(u64::MAX);
        let parts = Part::ALL.map(|(part, name, default)| {
            let range = given.get(name).map_or(default, |[least, most]| [micros(*least), micros(*most)]);
            (part, (seed.child(&format!("latency.{name}")), range))
        });
        Self { parts: parts.into(), spreads: seed.child("spread"), tape, used: 0 }
    }

    /// The next latency of a part.
    pub(super) fn draw(&mut self, part: Part) -> Duration {
        let Some((seed, [least, most])) = self.parts.get_mut(&part) else { return Duration::ZERO };
        let width = usize::try_from(most.saturating_sub(*least)).unwrap_or(usize::MAX - 1);
        let mut tape = Bytes::new(self.tape.get(self.used..).unwrap_or_default());
        let drawn = if tape.is_over() { seed.pick(width + 1) } else { tape.pick(width + 1) };
        self.used = self.tape.len() - tape.rest().len();
        Duration::from_micros(*least + drawn as u64)
    }

    /// By how much something periodic is late: less than `width`, to the millisecond.
    pub(super) fn spread(&mut self, width: Duration) -> Duration {
        let width = usize::try_from(width.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(self.spreads.pick(width.max(1)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_disarmed_timers_do_not() {
        let ms = Duration::from_millis;
        let mut clock: Clock<&str, u8> = Clock::new();
        clock.after(ms(5), "b");
        clock.after(ms(5), "c");
        clock.after(ms(1), "a");
        clock.arm(1, ms(2), "never");
        clock.arm(2, ms(3), "early");
        clock.arm(2, ms(6), "late");
        clock.disarm(&1);
        let mut seen = Vec::new();
        while let Some(event) = clock.next(ms(10)) {
            seen.push((event, clock.now().as_millis()));
        }
        assert_eq!(seen, [("a", 1), ("b", 5), ("c", 5), ("late", 6)]);
        assert_eq!(clock.now(), ms(10));
    }

    #[test]
    fn latencies_stay_in_their_range() {
        let given = [("csi".to_owned(), [Span(Duration::from_micros(7)), Span(Duration::from_micros(9))])].into();
        let mut latencies = Latencies::new(&Seeded::new(1), &given, Vec::new());
        let draws: Vec<_> = (0..50).map(|_| latencies.draw(Part::Csi).as_micros()).collect();
        assert!(draws.iter().all(|draw| (7..=9).contains(draw)) && draws.contains(&7) && draws.contains(&9), "{draws:?}");
    }

    #[test]
    fn latencies_come_from_the_tape_and_then_from_the_seed() {
        let micros = |latencies: &mut Latencies| latencies.draw(Part::Csi).as_micros();
        let mut seeded = Latencies::new(&Seeded::new(1), &BTreeMap::new(), Vec::new());
        let mut taped = Latencies::new(&Seeded::new(1), &BTreeMap::new(), vec![0, 0, 1, 2]);
        assert_eq!([micros(&mut taped), micros(&mut taped)], [500, 500 + 0x102]);
        assert_eq!([micros(&mut taped), micros(&mut taped)], [micros(&mut seeded), micros(&mut seeded)]);
    }
}
