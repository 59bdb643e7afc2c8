//! The timers of one machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_kube::machine::Timer;
use tokio::time::Instant;

/// Timers by name and by time.
#[derive(Debug, Default)]
pub struct Timers {
    at: BTreeMap<Timer, Instant>,
    order: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Starts a timer, or starts it anew.
    pub fn arm(&mut self, timer: Timer, wait: Duration) {
        self.disarm(&timer);
        let at = Instant::now() + wait;
        self.order.insert((at, timer.clone()));
        self.at.insert(timer, at);
    }

    pub fn disarm(&mut self, timer: &Timer) {
        if let Some(at) = self.at.remove(timer) {
            self.order.remove(&(at, timer.clone()));
        }
    }

    /// Waits for the next timer and takes it; for ever when there is none. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Timer {
        let Some((at, timer)) = self.order.first().cloned() else { return std::future::pending().await };
        tokio::time::sleep_until(at).await;
        self.disarm(&timer);
        timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model_kube::machine::Purpose;
    use model_kube::object::{Key, Kind};

    #[tokio::test(start_paused = true)]
    async fn timers_fire_in_order_and_once() {
        let timer = |name| Timer { purpose: Purpose::Retry, item: Key::new(Kind::Pod, "", name) };
        let mut timers = Timers::default();
        timers.arm(timer("late"), Duration::from_secs(9));
        timers.arm(timer("again"), Duration::from_secs(1));
        timers.arm(timer("off"), Duration::from_secs(2));
        timers.arm(timer("again"), Duration::from_secs(5));
        timers.disarm(&timer("off"));
        assert_eq!(timers.next().await, timer("again"));
        assert_eq!(timers.next().await, timer("late"));
        assert!(tokio::time::timeout(Duration::from_secs(100), timers.next()).await.is_err());
    }
}
