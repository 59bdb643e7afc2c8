//! A node's side of the storage path as pure state machines: the kubelet's volume manager and pod life cycle, and the
//! decisions of the built-in CSI drivers.

pub mod driver;
pub mod kubelet;
pub mod node_status;
pub mod pending;
pub mod pod;
pub mod quantity;
pub mod volume_manager;
