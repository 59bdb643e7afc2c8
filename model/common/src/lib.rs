//! What the models of AWS, of Kubernetes and of a node share: plain data and pure functions.
//!
//! - [`pick`]: the one source of choices (a seed, fuzz bytes, or exhaustive enumeration).
//! - [`digest`]: a stable hash of small things, to keep.
//! - [`trail`]: the rolling hash by which two runs are compared.
//! - [`bugs`]: bugs put in on purpose, for tests of the search.
//! - [`fixes`]: changes that are proposed upstream, for scenarios as of a later day.
//! - [`csi`]: the calls of the Container Storage Interface as plain data.
//! - [`agent`]: the messages between the emulator and the agent in a node, and what an EFS mount asks.
//!
//! Nothing here performs I/O, reads a clock or draws random numbers by itself.

pub mod agent;
pub mod bugs;
pub mod csi;
pub mod digest;
pub mod fixes;
pub mod pick;
pub mod trail;
