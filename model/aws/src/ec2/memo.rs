//! What a reader has made of a row.

use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

/// A text that follows from a row alone, kept by who wrote it until the row changes: an answer with many rows then copies them. It is
/// no part of the row: all are equal, none is saved, and a copy of the row begins without.
#[derive(Debug, Default)]
pub struct Memo(OnceLock<Box<str>>);

impl Memo {
    /// Appends the text to `out`; `write` is asked for it once.
    pub fn write(&self, out: &mut String, write: impl FnOnce(&mut String)) {
        if let Some(text) = self.0.get() {
            return out.push_str(text);
        }
        let start = out.len();
        write(out);
        // Another reader may have come first, with the same.
        let _ = self.0.set(out[start..].into());
    }

    /// Bytes that [`Memo::write`] will append, as far as is known. To ask many rows for it first has their texts' places read side by
    /// side, not one after the other.
    pub fn known_len(&self) -> usize {
        self.0.get().map_or(0, |text| text.len())
    }

    pub(super) fn forget(&mut self) {
        self.0 = OnceLock::new();
    }
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

impl Hash for Memo {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_until_forgotten() {
        let (mut memo, mut out) = (Memo::default(), String::from("<"));
        assert_eq!(memo.known_len(), 0);
        memo.write(&mut out, |out| out.push('a'));
        assert_eq!(memo.known_len(), 1);
        memo.write(&mut out, |_| panic!("it is known"));
        memo.clone().write(&mut out, |out| out.push('c'));
        memo.forget();
        memo.write(&mut out, |out| out.push('b'));
        assert_eq!(out, "<aacb");
    }
}
