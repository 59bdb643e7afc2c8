//! The real efs-utils in a node (spec/efs.md §3.6): its `mount.efs` and its watchdog run unchanged, in a network that looks to them as an
//! instance's does; below them are the shims `mount.nfs4` and `efs-proxy`.
//!
//! ```text
//! mount -t efs ─▶ /sbin/mount.efs (this program: [`enter`]) ─ setns ─▶ /sbin/efs-utils/mount.efs (theirs)
//!                                                                        ├─ DNS, IMDS, the API, port 2049: [`network`]
//!                                                                        ├─ /sbin/efs-proxy (shim)
//!                                                                        └─ /sbin/mount.nfs4 (shim) ─▶ the node's EFS server
//! ```
//!
//! - [`install`]: what is brought into the node.
//! - [`network`], [`dns`]: the network; [`enter`]: the way in.

mod dns;
pub mod enter;
mod install;
mod network;

pub use install::{EfsUtils, Missing};
pub(crate) use install::{WATCHDOG, mount_state};
pub(crate) use network::serve;
