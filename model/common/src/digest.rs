//! A stable hash of small things: of names, tokens and records. A run's own is [`crate::trail`].

use serde::Serialize;

/// FNV-1a over 64 bits, fed with JSON. Stable across machines, builds and versions of the standard library,
/// which `std::hash::DefaultHasher` does not promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Adds a value by its JSON form. A value that has none (a map with keys that are not strings) counts as its error text.
    pub fn add(&mut self, value: &impl Serialize) {
        match serde_json::to_vec(value) {
            Ok(json) => self.bytes(&json),
            Err(error) => self.bytes(error.to_string().as_bytes()),
        }
        self.bytes(b"\n");
    }

    /// The digest so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of the FNV's authors.
    #[test]
    fn it_is_fnv_1a() {
        for (text, expected) in [("", "cbf29ce484222325"), ("a", "af63dc4c8601ec8c"), ("foobar", "85944171f73967e8")] {
            let mut digest = Digest::default();
            digest.bytes(text.as_bytes());
            assert_eq!(digest.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn order_counts() {
        let of = |values: &[u32]| {
            let mut digest = Digest::default();
            values.iter().for_each(|value| digest.add(value));
            digest.value()
        };
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
    }
}
