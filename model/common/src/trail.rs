//! The rolling hash of a run in virtual time: all that happens is added in order, and two runs are the same when their hashes are.
//!
//! It is fed with values, not with their text, since it sees everything that every machine is told: [`Trail::add`] takes what has `Hash`,
//! [`Trail::value`] what has `Serialize`. Neither depends on addresses, on the machine or on its word size. It is no fingerprint to
//! keep: another version of a type gives another hash, as it may give another run.

mod feed;

use std::fmt::Display;
use std::hash::{Hash, Hasher};

use serde::Serialize;

/// The odd constant of the multiplication: 2⁶⁴ divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trail(u64);

impl Default for Trail {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trail {
    /// Adds a value by its `Hash`.
    pub fn add(&mut self, value: &(impl Hash + ?Sized)) -> &mut Self {
        value.hash(self);
        self
    }

    /// Adds a value by the fields that it would serialize.
    pub fn value(&mut self, value: &(impl Serialize + ?Sized)) -> &mut Self {
        feed::feed(self, value);
        self
    }

    /// Adds what became of a step: nothing but that it was done, or why not.
    pub fn verdict<T, E: Display>(&mut self, verdict: &Result<T, E>) -> &mut Self {
        match verdict {
            Ok(_) => self.add(&0u8),
            Err(error) => self.add(&error.to_string()),
        }
    }

    fn word(&mut self, word: u64) {
        // All bits of a product of 128 bits depend on all bits before: folded, they are the next state.
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        // A state that meets its own word would forget what was before, hence the addition.
        self.0 = ((product >> 64) as u64 ^ product as u64).wrapping_add(word.rotate_left(32) ^ FACTOR);
    }
}

impl Hasher for Trail {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            // The length tells "a" from "a\0".
            self.word(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.word(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.word(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.word(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.word(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.word(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.word(number as i64 as u64);
    }
}

impl Display for Trail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    fn of(value: &impl Serialize) -> String {
        Trail::default().value(value).to_string()
    }

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Row {
        name: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<&'static str>,
        numbers: Vec<i64>,
        what: What,
    }

    #[derive(Serialize)]
    enum What {
        Unit,
        One(u8),
        Two(u8, u8),
        Named { a: f64, b: bool },
    }

    fn row() -> Row {
        Row { name: Some("a"), note: None, numbers: vec![1, -1], what: What::Unit }
    }

    #[test]
    fn whatever_differs_gives_another_hash() {
        let rows = [
            row(),
            Row { name: None, ..row() },
            Row { name: None, note: Some("a"), ..row() },
            Row { name: Some("a\0"), ..row() },
            Row { name: Some(""), note: Some("a"), ..row() },
            Row { numbers: vec![-1, 1], ..row() },
            Row { numbers: vec![], ..row() },
            Row { what: What::One(1), ..row() },
            Row { what: What::Two(1, 1), ..row() },
            Row { what: What::Named { a: 1.0, b: false }, ..row() },
            Row { what: What::Named { a: 1.0, b: true }, ..row() },
            Row { what: What::Named { a: -1.0, b: true }, ..row() },
        ];
        let hashes: BTreeSet<String> = rows.iter().map(of).collect();
        assert_eq!(hashes.len(), rows.len());
        assert_eq!(of(&row()), of(&row()));
        assert_ne!(Trail::default().add(&1).add(&2), Trail::default().add(&2).add(&1));
        assert_ne!(of(&[vec![1], vec![]]), of(&[vec![], vec![1]]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(Trail::default().add("ab").add("c"), Trail::default().add("a").add("bc"));
        assert_ne!(Trail::default().verdict(&Ok::<_, String>(())), Trail::default().verdict(&Err::<(), _>("no".to_owned())));
    }

    #[test]
    fn the_hash_of_a_value_does_not_change_by_itself() {
        // Should these change, all digests in documents change with them.
        assert_eq!(Trail::default().add(&7u8).add("seven").to_string(), "a7558b4b59e8c7b4");
        assert_eq!(of(&row()), "a587c5287b4a3551");
    }

    proptest! {
        #[test]
        fn equal_json_is_equal_and_other_json_is_not(a in json(), b in json()) {
            prop_assert_eq!(a == b, of(&a) == of(&b));
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (0..3i64).prop_map(Into::into),
            "[ab]{0,2}".prop_map(Into::into)
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[ab]{1}", inner, 0..3)
                    .prop_map(|map: BTreeMap<_, _>| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
