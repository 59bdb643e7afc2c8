//! The EFS file system made real, and `mount.efs`.
//!
//! ```text
//! mount.efs ──unix socket──▶ daemon ──resolver──▶ who may mount what (the EFS API)
//!     │                        │ opens /dev/fuse, makes the superblock, starts a session
//!     ◀── a detached mount ────┘ (SCM_RIGHTS)
//!     └─ move_mount(2) onto the target, state file, exit
//! ```
//!
//! - [`fs`]: the semantics: operations on a directory tree through file descriptors, not tied to FUSE.
//! - [`server`]: FUSE requests to [`fs`] operations; one connection a mount.
//! - [`daemon`]: the unix socket that `mount.efs` asks.
//! - [`mount_efs`]: the mount helper with the contract of the real one (spec/efs.md §3.5).
//! - [`shims`]: `mount.nfs4` and `efs-proxy` under the real one (§3.6).
//!
//! Invariants: no operation can leave the exported directory (single names below held descriptors; the root is a private
//! mount of just that directory); the host kernel checks permissions, under the credentials of the access point's user or
//! of the caller; two mounts share nothing but the backing files, so locks and data agree between processes.

pub mod daemon;
pub mod fs;
pub mod mount_efs;
pub mod protocol;
pub mod server;
pub mod shims;
