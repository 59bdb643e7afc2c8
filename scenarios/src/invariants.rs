//! What must hold in every world (kubernetes-storage-path.md §8), by name and in this one place.
//!
//! [`facts`] looks at a whole state from time to time; it is for worlds that can only be asked, a live one or a foreign cluster.
//! [`watch`] is told each thing that happens and keeps what it needs to know, so that its cost follows what a step touched; it is
//! for the virtual world, which hides nothing.

pub mod facts;
pub mod seen;
pub mod watch;

pub use facts::{ClaimFact, Facts, NAMES, PvFact, Violation, VolumeFact, no_leak, safety};
pub use seen::Seen;
pub use watch::{Found, Watch};
