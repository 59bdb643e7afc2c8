//! When the SDK for Go asks again (its standard retryer; ebs.md §1.7, efs.md §1.6): a delay drawn from a span that doubles, and a
//! quota of retries, so that a client whose calls all fail gives up instead of asking for ever. The drivers' adaptive mode beside it
//! (fewer attempts a second after a throttle) is not built.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Tokens of a retryer; what a retry costs; what an attempt that succeeds gives back.
const TOKENS: u32 = 500;
const COST: u32 = 5;
const TIMEOUT_COST: u32 = 10;
const REFUND: u32 = 1;
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// Doubled as often, a second is still shorter than the longest delay.
const DOUBLINGS: u32 = 4;

/// The quotas of one client: retryers of the same name share one.
#[derive(Debug, Default)]
pub(super) struct Retries(Mutex<BTreeMap<String, u32>>);

/// No retry: the quota is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to get rate limit token, retry quota exceeded, {available} available, {requested} requested")]
pub(super) struct Exceeded {
    available: u32,
    requested: u32,
}

impl Retries {
    fn with<R>(&self, retryer: &str, change: impl FnOnce(&mut u32) -> R) -> R {
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(quotas.entry(retryer.to_owned()).or_insert(TOKENS))
    }

    /// Takes the tokens of a retry; how many, to give them back when it succeeds.
    pub(super) fn take(&self, retryer: &str, timeout: bool) -> Result<u32, Exceeded> {
        let requested = if timeout { TIMEOUT_COST } else { COST };
        self.with(retryer, |tokens| match tokens.checked_sub(requested) {
            Some(left) => {
                *tokens = left;
                Ok(requested)
            }
            None => Err(Exceeded { available: *tokens, requested }),
        })
    }

    /// An attempt has succeeded, for which `taken` tokens were taken.
    pub(super) fn succeeded(&self, retryer: &str, taken: u32) {
        self.with(retryer, |tokens| *tokens = (*tokens + taken + REFUND).min(TOKENS));
    }
}

/// The time until the next attempt after so many.
pub(super) fn delay(attempts: u32) -> Duration {
    // Each `RandomState` has keys of its own.
    let drawn = RandomState::new().hash_one(attempts);
    delay_of(attempts, drawn as f64 / 2f64.powi(64))
}

/// `drawn` is at least 0 and at most 1.
fn delay_of(attempts: u32, drawn: f64) -> Duration {
    if attempts > DOUBLINGS { LONGEST_DELAY } else { Duration::from_secs(1 << attempts).mul_f64(drawn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_drawn_from_a_span_that_doubles() {
        let longest: Vec<u64> = (1..8).map(|attempts| delay_of(attempts, 1.0).as_secs()).collect();
        assert_eq!(longest, [2, 4, 8, 16, 20, 20, 20]);
        assert_eq!(delay_of(1, 0.25), Duration::from_millis(500));
        let drawn: Vec<Duration> = (0..64).map(|_| delay(4)).collect();
        assert!(drawn.iter().all(|delay| *delay <= Duration::from_secs(16)));
        assert!(drawn.iter().any(|delay| *delay < Duration::from_secs(8)) && drawn.iter().any(|delay| *delay > Duration::from_secs(8)));
    }

    #[test]
    fn a_retryer_gives_up_after_a_hundred_failures_and_others_do_not() {
        let retries = Retries::default();
        assert_eq!((0..200).filter(|_| retries.take("AttachVolume", false).is_ok()).count(), 100);
        let exceeded = retries.take("AttachVolume", false).unwrap_err().to_string();
        assert_eq!(exceeded, "failed to get rate limit token, retry quota exceeded, 0 available, 5 requested");
        assert_eq!(retries.take("DetachVolume", true), Ok(10));
        (0..4).for_each(|_| retries.succeeded("AttachVolume", 0));
        assert!(retries.take("AttachVolume", false).is_err());
        retries.succeeded("AttachVolume", 0);
        assert_eq!(retries.take("AttachVolume", false), Ok(5));
        retries.succeeded("AttachVolume", 5);
        assert_eq!(retries.take("AttachVolume", false), Ok(5), "a retry that succeeds gives back what it took");
        (0..600).for_each(|_| retries.succeeded("AttachVolume", 0));
        assert_eq!((0..200).filter(|_| retries.take("AttachVolume", false).is_ok()).count(), 100, "a quota does not outgrow its size");
    }
}
