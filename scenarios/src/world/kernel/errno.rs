//! Why a call failed.

/// The errors of the calls in [`super::Kernel`], with Linux's names and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Errno {
    #[error("ENOENT")]
    NoEntry = 2,
    #[error("EIO")]
    Io = 5,
    #[error("EBADF")]
    BadFile = 9,
    #[error("EBUSY")]
    Busy = 16,
    #[error("EEXIST")]
    Exists = 17,
    #[error("ENOTDIR")]
    NotDirectory = 20,
    #[error("EISDIR")]
    IsDirectory = 21,
    #[error("EINVAL")]
    Invalid = 22,
    #[error("ENOTTY")]
    NotTty = 25,
    #[error("ENOSPC")]
    NoSpace = 28,
    #[error("EROFS")]
    ReadOnly = 30,
    #[error("ENOTEMPTY")]
    NotEmpty = 39,
}

impl Errno {
    pub fn number(self) -> i32 {
        self as i32
    }
}
