//! A node made real: a process tree in namespaces of its own, with its own `/dev` and `/var/lib/kubelet` (design.md §4, §6).
//!
//! - [`host`]: start, find, stop and enter a node; what its first process does.
//! - [`agent`], [`devices`], [`loops`]: the hypervisor's hand in the node: block devices come and go as the AWS side says.
//! - [`off`]: the same for a node without power.
//! - [`alone`]: the agent in a node of another Kubernetes.
//! - [`drivers`]: the built-in CSI drivers, controller and node services.
//! - [`efs_utils`]: the real `mount.efs` in a node, and the network it sees.
//! - [`kubelet`]: the node's pods and their volumes; [`pods`]: containers as processes.

mod address;
pub mod agent;
pub mod alone;
pub mod config;
pub mod devices;
pub mod drivers;
pub mod efs_utils;
pub mod host;
pub mod kubelet;
pub mod loops;
pub mod mounts;
pub mod off;
pub mod pods;

pub use config::NodeConfig;
pub use drivers::{ControllersConfig, serve_controllers};
pub use host::{NodeError, NodeHooks, NodeProcess, exec, find, run, spawn, stop};
