//! One operation at a time for a thing (`pkg/driver/internal/inflight.go`).

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The things being worked on.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<BTreeSet<String>>);

/// Holds a thing until it is dropped.
pub(super) struct Held<'a> {
    all: &'a InFlight,
    what: String,
}

impl InFlight {
    /// None: somebody works on it.
    pub(super) fn begin(&self, what: &str) -> Option<Held<'_>> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
        fresh.then(|| Held { all: self, what: what.to_owned() })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.what);
    }
}
