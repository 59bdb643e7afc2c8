//! FUSE requests to file system operations, and one kernel connection a mount.

mod fuse;
pub mod session;

pub use fuse::{Cache, EfsServer, OpenState};
pub use session::{MountError, Running, View, mount};
