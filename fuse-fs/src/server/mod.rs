//! FUSE requests to file system operations, and one kernel connection a mount.

mod fuse;
mod open;
pub mod session;

pub use fuse::{Cache, EfsServer};
pub use open::OpenState;
pub use session::{MountError, Running, View, is_type, mount};
