//! EFS over the wire (REST and JSON), and what its machine does outside.

mod effects;
mod rest;
mod route;
mod shapes;

pub use effects::{observe, perform};
pub use rest::{EfsError, handle, refused};
pub use route::{operation, segments};
