//! Why a request was refused, and the one place where that becomes EC2's code, text and HTTP status.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reject {}

/// EC2's error code, message and HTTP status of a reject.
pub fn reject_to_error(reject: &Reject) -> (&'static str, String, u16) {
    match *reject {}
}
