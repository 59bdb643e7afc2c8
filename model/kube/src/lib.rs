//! Kubernetes' side of the storage path as pure state machines: the object store with its watch log, and the controllers
//! that move claims, volumes, attachments and pods through it (kubernetes-storage-path.md §0A, §1, §2, §4, §6).

pub mod admission;
pub mod controllers;
pub mod diff;
pub mod events;
pub mod fields;
pub mod machine;
pub mod object;
pub mod patch;
pub mod quantity;
pub mod resource;
pub mod scheduler;
pub mod selector;
pub mod snapshots;
pub mod store;
#[cfg(test)]
mod testing;
pub mod write;
