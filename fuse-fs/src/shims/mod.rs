//! What stands in for the two parts of efs-utils that need an NFS client in the kernel and a mount target (spec/efs.md §3.6): the real
//! `mount.efs` runs above them unchanged, with its options, texts, certificates and state files.

pub mod efs_proxy;
pub mod mount_nfs4;
