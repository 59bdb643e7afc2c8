//! How the drivers wait for the cloud: the real schedules, but the time that the real driver sleeps before it looks for the first or the
//! second time is used for a few early looks, as this cloud may be done in a millisecond (ebs.md §1.9).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Schedule {
    /// `waitForVolume`: real: 1.25 s, then 11 looks from 0.5 s growing by 1.5.
    Creation,
    /// `WaitForAttachmentState`: real: 13 looks from 1 s growing by 1.8.
    Attachment,
    /// `waitForVolumeModification`: real: 10 looks from 1 s growing by 1.7.
    Modification,
}

/// A wait under way: how many looks were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Looks {
    schedule: Schedule,
    taken: u32,
}

impl Looks {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self { schedule, taken: 0 }
    }

    /// The time to the next look; none when the real driver would give up. The first look is at once and not counted here.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        let n = self.taken;
        self.taken += 1;
        // (early looks, the real first delay that is left, numerator and denominator of growth, the real number of looks)
        let (early, first, up, down, steps): (&[u64], u64, u64, u64, u32) = match self.schedule {
            Schedule::Creation => (&[25, 50, 100, 200, 375, 500], 500, 15, 10, 11),
            Schedule::Attachment => (&[25, 50, 100, 200, 625], 1800, 18, 10, 12),
            Schedule::Modification => (&[25, 50, 100, 200, 625], 1700, 17, 10, 9),
        };
        if let Some(delay) = early.get(n as usize) {
            return Some(Duration::from_millis(*delay));
        }
        let step = n - early.len() as u32;
        if step + 1 >= steps {
            return None;
        }
        Some(Duration::from_millis((0..step).fold(first, |delay, _| delay * up / down)))
    }
}

/// What Go's `wait` package says when it gives up.
pub(crate) const TIMED_OUT: &str = "timed out waiting for the condition";

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole wait is as long as the real one, and it ends.
    #[test]
    fn waits_are_as_long_as_the_real_ones() {
        for (schedule, seconds) in [(Schedule::Creation, 58), (Schedule::Attachment, 1445), (Schedule::Modification, 168)] {
            let mut looks = Looks::new(schedule);
            let total: Duration = std::iter::from_fn(|| looks.next()).sum();
            assert!(total.as_secs().abs_diff(seconds) <= 2, "{schedule:?}: {total:?}");
        }
    }
}
