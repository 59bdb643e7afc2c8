//! Campaigns: many seeds, on several machines if need be. Each machine plays a shard of them and gives a tally; the tallies merge to
//! the one that a single machine would have given.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::str::FromStr;

use model_common::pick::mix;
use serde::{Deserialize, Serialize};

use crate::report::Report;

/// One of several parts of the seeds, by number from 0: as a pod of an indexed Kubernetes Job knows it (`JOB_COMPLETION_INDEX`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: u64,
    of: u64,
}

impl Shard {
    /// All seeds.
    pub const ALL: Self = Self { index: 0, of: 1 };
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => Err(format!("a shard is INDEX/COUNT with INDEX from 0 to COUNT-1, such as 0/8, not {text:?}")),
        }
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Which seeds are played, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds {
    pub range: RangeInclusive<u64>,
    pub shard: Shard,
    /// All are played, whatever fails; else none after the first that fails.
    pub keep_going: bool,
}

impl From<RangeInclusive<u64>> for Seeds {
    fn from(range: RangeInclusive<u64>) -> Self {
        Self { range, shard: Shard::ALL, keep_going: false }
    }
}

impl Seeds {
    /// The seed at a place in this shard. Neighbours go to different shards, so that all have the same work.
    pub(super) fn at(&self, place: u64) -> Option<u64> {
        let offset = place.checked_mul(self.shard.of)?.checked_add(self.shard.index)?;
        self.range.start().checked_add(offset).filter(|seed| self.range.contains(seed))
    }

    /// How many there are in this shard.
    pub fn count(&self) -> u64 {
        let all = self.range.end().saturating_sub(*self.range.start()).saturating_add(u64::from(!self.range.is_empty()));
        all.saturating_sub(self.shard.index).div_ceil(self.shard.of)
    }
}

/// What came of the runs of some seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// What was played, as on the command line: tallies of other things do not merge.
    pub campaign: String,
    /// The seeds of the whole campaign.
    pub seeds: String,
    /// The shards that this is of.
    pub shards: BTreeSet<Shard>,
    pub played: u64,
    pub inputs: u64,
    pub virtual_seconds: f64,
    /// Time on the clock, summed over all shards.
    pub seconds: f64,
    /// Of the digests of all runs, whatever their order.
    pub digest: String,
    /// The runs that failed, by seed.
    pub failed: Vec<Failed>,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    pub seed: u64,
    /// The invariant that did not hold, or `step`.
    pub what: String,
    pub message: String,
    pub digest: String,
}

impl Failed {
    pub(super) fn of(seed: u64, report: &Report) -> Self {
        let (what, message) = match report.violations.first() {
            Some(violation) => (violation.invariant.clone(), violation.message.clone()),
            None => ("step".to_owned(), report.failure().unwrap_or_default()),
        };
        Self { seed, what, message, digest: report.digest.clone().unwrap_or_default() }
    }
}

/// Adds a run to the digest of many.
pub(super) fn add_digest(all: u64, seed: u64, report: &Report) -> u64 {
    let digest = report.digest.as_deref().and_then(|digest| u64::from_str_radix(digest, 16).ok()).unwrap_or(0);
    all.wrapping_add(mix(digest ^ mix(seed)))
}

/// Why tallies are not one campaign's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMerge {
    #[error("there is nothing to merge")]
    Nothing,
    #[error("these are of two campaigns: `{0}` and `{1}`")]
    Campaigns(String, String),
    #[error("the shard {0} is there twice")]
    Twice(Shard),
    #[error("the shard {0} is of another division than {1}")]
    Division(Shard, Shard),
    #[error("the shard {0} is missing")]
    Missing(Shard),
    #[error("{0:?} is no digest")]
    Digest(String),
}

impl Tally {
    /// The tally of the whole campaign, from those of all its shards.
    pub fn merge(parts: impl IntoIterator<Item = Self>) -> Result<Self, NoMerge> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().ok_or(NoMerge::Nothing)?;
        let mut digest = all.digest_number()?;
        for part in parts {
            let name = |tally: &Self| format!("{} --seeds {}", tally.campaign, tally.seeds);
            if name(&part) != name(&all) {
                return Err(NoMerge::Campaigns(name(&all), name(&part)));
            }
            digest = digest.wrapping_add(part.digest_number()?);
            for shard in part.shards {
                if !all.shards.insert(shard) {
                    return Err(NoMerge::Twice(shard));
                }
            }
            all.played += part.played;
            all.inputs += part.inputs;
            all.virtual_seconds += part.virtual_seconds;
            all.seconds += part.seconds;
            all.failed.extend(part.failed);
        }
        let first = all.shards.first().copied().ok_or(NoMerge::Nothing)?;
        if let Some(other) = all.shards.iter().find(|shard| shard.of != first.of) {
            return Err(NoMerge::Division(*other, first));
        }
        if let Some(missing) = (0..first.of).map(|index| Shard { index, ..first }).find(|shard| !all.shards.contains(shard)) {
            return Err(NoMerge::Missing(missing));
        }
        all.shards = [Shard::ALL].into();
        all.digest = format!("{digest:016x}");
        all.failed.sort();
        Ok(all)
    }

    fn digest_number(&self) -> Result<u64, NoMerge> {
        u64::from_str_radix(&self.digest, 16).map_err(|_| NoMerge::Digest(self.digest.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_in_one_shard() {
        for (range, of) in [(1..=100, 7), (5..=5, 3), (1..=2, 4), (u64::MAX - 9..=u64::MAX, 4)] {
            let mut all = Vec::new();
            for index in 0..of {
                let seeds = Seeds { shard: Shard { index, of }, ..range.clone().into() };
                let mine: Vec<u64> = (0..).map_while(|place| seeds.at(place)).collect();
                assert_eq!(mine.len() as u64, seeds.count(), "{seeds:?}");
                all.extend(mine);
            }
            all.sort_unstable();
            assert!(all.into_iter().eq(range));
        }
    }

    #[test]
    fn a_shard_is_read_and_shown() {
        assert_eq!("3/8".parse::<Shard>().map(|shard| shard.to_string()).as_deref(), Ok("3/8"));
        for bad in ["", "8/8", "1", "-1/3", "a/b", "0/0"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    fn tally(index: u64, of: u64, failed: &[u64]) -> Tally {
        let failed = failed.iter().map(|seed| Failed { seed: *seed, what: "no-leak".into(), message: "m".into(), digest: "1".into() });
        Tally {
            campaign: "search".into(),
            seeds: "1..9".into(),
            shards: [Shard { index, of }].into(),
            played: 3,
            inputs: 10,
            virtual_seconds: 1.5,
            seconds: 0.5,
            digest: format!("{:016x}", u64::MAX - index),
            failed: failed.collect(),
        }
    }

    #[test]
    fn tallies_merge_when_they_are_all_of_one_campaign() {
        let parts = [tally(1, 3, &[2, 8]), tally(0, 3, &[4]), tally(2, 3, &[])];
        let all = Tally::merge(parts.clone()).unwrap();
        assert_eq!((all.played, all.inputs, all.virtual_seconds), (9, 30, 4.5));
        assert_eq!(all.failed.iter().map(|failed| failed.seed).collect::<Vec<_>>(), [2, 4, 8]);
        assert_eq!(all.shards, [Shard::ALL].into());
        let other_way = Tally::merge(parts.iter().rev().cloned()).unwrap();
        assert_eq!(other_way, all);

        let refused = |parts: &[Tally]| Tally::merge(parts.to_vec()).unwrap_err();
        assert_eq!(refused(&[]), NoMerge::Nothing);
        assert_eq!(refused(&parts[..2]), NoMerge::Missing(Shard { index: 2, of: 3 }));
        assert_eq!(refused(&[tally(0, 2, &[]), tally(0, 2, &[])]), NoMerge::Twice(Shard { index: 0, of: 2 }));
        assert!(matches!(refused(&[tally(0, 2, &[]), tally(1, 3, &[])]), NoMerge::Division(..)));
        assert!(matches!(refused(&[tally(0, 2, &[]), Tally { seeds: "1..8".into(), ..tally(1, 2, &[]) }]), NoMerge::Campaigns(..)));
    }
}
