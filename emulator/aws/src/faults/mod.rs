//! The table of faults (model/aws/src/faults): what a request meets before it is answered, and `/_ebbtide/faults`.

mod http;
mod meet;

pub use http::{handle, serves};
pub use meet::{Asked, Hangup, judge, meet};
