//! The byte ranges one owner has locked, as POSIX merges and splits them: for counting and for telling who holds one.

/// Shared (read) or exclusive (write).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// First and last byte, both locked; `END` is "to the end of the file, however it grows".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

/// The kernel's OFFSET_MAX.
pub const END: u64 = i64::MAX as u64;

impl Range {
    pub(crate) fn overlaps(&self, other: &Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Disjoint, ordered ranges; neighbours of one kind are one range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(Range, LockKind)>);

impl Ranges {
    /// What is held after this range was locked (`Some`) or unlocked (`None`).
    pub(crate) fn with(&self, range: Range, kind: Option<LockKind>) -> Ranges {
        let mut held = Vec::with_capacity(self.0.len() + 2);
        for &(old, old_kind) in &self.0 {
            if !old.overlaps(&range) {
                held.push((old, old_kind));
                continue;
            }
            if old.start < range.start {
                held.push((Range { start: old.start, end: range.start - 1 }, old_kind));
            }
            if old.end > range.end {
                held.push((Range { start: range.end + 1, end: old.end }, old_kind));
            }
        }
        held.extend(kind.map(|kind| (range, kind)));
        held.sort_by_key(|(r, _)| r.start);
        let mut merged: Vec<(Range, LockKind)> = Vec::with_capacity(held.len());
        for (range, kind) in held {
            match merged.last_mut() {
                Some((last, last_kind)) if *last_kind == kind && last.end.checked_add(1) == Some(range.start) => last.end = range.end,
                _ => merged.push((range, kind)),
            }
        }
        Ranges(merged)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn overlaps(&self, range: &Range) -> bool {
        self.0.iter().any(|(held, _)| held.overlaps(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(ranges: &Ranges, upto: u64) -> Vec<Option<LockKind>> {
        (0..upto).map(|b| ranges.0.iter().find(|(r, _)| (r.start..=r.end).contains(&b)).map(|(_, k)| *k)).collect()
    }

    proptest! {
        /// Against the plainest model: one cell a byte.
        #[test]
        fn ranges_agree_with_a_byte_map(ops in prop::collection::vec((0..20u64, 0..20u64, 0..3u8), 1..20)) {
            let mut ranges = Ranges::default();
            let mut model = vec![None; 20];
            for (a, b, kind) in ops {
                let (start, end) = (a.min(b), a.max(b));
                let kind = [None, Some(LockKind::Shared), Some(LockKind::Exclusive)][usize::from(kind)];
                ranges = ranges.with(Range { start, end }, kind);
                model[start as usize..=end as usize].fill(kind);
                prop_assert_eq!(&bytes(&ranges, 20), &model);
                let changes = model.windows(2).filter(|w| w[0] != w[1] && w[1].is_some()).count();
                prop_assert_eq!(ranges.len(), changes + usize::from(model[0].is_some()));
            }
        }
    }
}
