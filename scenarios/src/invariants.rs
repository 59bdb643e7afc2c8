//! What must hold in every world (kubernetes-storage-path.md §8), by name and in this one place.
//!
//! [`watch`] is told each thing that happens and keeps what it needs to know, so that its cost follows what a step touched. The virtual
//! world, which hides nothing, tells it all; of a live world or a foreign cluster it gets what the two APIs show.
//! [`facts`] compares what there is before a scenario with what it leaves.

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

pub use facts::{Facts, Violation, no_leak};
pub use seen::Seen;
pub use table::{Invariant, NAMES, Reach, all};
pub use watch::{Found, Watch};
