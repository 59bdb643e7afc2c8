//! The state of the last seconds, kept while a fault makes describe calls lag.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model_aws::Aws;

/// States kept at most: they are this share of the lag apart, or more.
const STATES: u32 = 64;

/// States with the time from which each was there.
#[derive(Default)]
pub struct History {
    states: VecDeque<(Instant, Arc<Aws>)>,
    /// When the state last changed, kept or not.
    changed: Option<Instant>,
}

impl History {
    /// Whether the state is to be kept now.
    pub fn due(&self, now: Instant, lag: Duration) -> bool {
        self.states.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= lag / STATES)
    }

    /// The state has changed. Without a lag nothing is kept.
    pub fn note(&mut self, now: Instant, lag: Option<Duration>, state: Option<Arc<Aws>>) {
        let Some(lag) = lag else {
            *self = Self::default();
            return;
        };
        self.changed = Some(now);
        self.states.extend(state.map(|state| (now, state)));
        // The first must be as old as the lag, the ones behind it younger.
        while self.states.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= lag) {
            self.states.pop_front();
        }
    }

    /// The state of so long ago, or the oldest that is known; none: it is the present one.
    pub fn as_of(&self, now: Instant, lag: Duration) -> Option<Arc<Aws>> {
        let old = |at: Instant| now.saturating_duration_since(at) >= lag;
        if self.changed.is_none_or(old) {
            return None;
        }
        let then = self.states.iter().rev().find(|(at, _)| old(*at));
        then.or_else(|| self.states.front()).map(|(_, state)| state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model_aws::Profile;
    use model_aws::world::World;

    #[test]
    fn a_read_sees_what_was_there_then() {
        let lag = Duration::from_secs(64);
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut history = History::default();
        assert!(history.as_of(at(0), lag).is_none());
        let states: Vec<_> = (0..3).map(|_| Arc::new(Aws::new(&World::default(), Profile::Instant))).collect();
        for (second, state) in [10, 20, 30].into_iter().zip(&states) {
            assert!(history.due(at(second), lag));
            history.note(at(second), Some(lag), Some(state.clone()));
        }
        assert!(!history.due(at(30), lag), "a moment later it is not kept again");
        let seen = |second: u64| history.as_of(at(second), lag).map(|seen| states.iter().position(|state| Arc::ptr_eq(state, &seen)));
        assert_eq!(seen(31), Some(Some(0)), "the oldest that is known");
        assert_eq!(seen(74), Some(Some(0)));
        assert_eq!(seen(84), Some(Some(1)));
        assert_eq!(seen(94), None, "nothing has changed since");
        history.note(at(90), Some(lag), None);
        assert_eq!(history.states.len(), 2, "what nobody can ask for any more is dropped");
        history.note(at(91), None, None);
        assert!(history.states.is_empty() && history.as_of(at(91), lag).is_none());
    }
}
