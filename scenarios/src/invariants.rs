//! What must hold in every world (kubernetes-storage-path.md §8), by name and in this one place.
//!
//! [`facts`] looks at a whole state from time to time; it is for worlds that can only be asked, a live one or a foreign cluster.
//! [`watch`] is told each thing that happens and keeps what it needs to know, so that its cost follows what a step touched; it is
//! for the virtual world, which hides nothing.

mod attach;
mod calls;
mod claims;
pub mod facts;
mod known;
mod liveness;
mod mounts;
mod names;
mod order;
mod rest;
pub mod seen;
pub mod table;
#[cfg(test)]
mod tests;
pub mod watch;

pub use facts::{ClaimFact, Facts, PvFact, Violation, VolumeFact, no_leak, safety};
pub use seen::Seen;
pub use table::{Invariant, NAMES, Reach, all};
pub use watch::{Found, Watch};
