//! Kubernetes' side of the storage path as pure state machines: the object store with its watch log, and the controllers
//! that move claims, volumes, attachments and pods through it (kubernetes-storage-path.md §0A, §1, §2, §4, §6).

pub mod object;
pub mod resource;
pub mod write;
