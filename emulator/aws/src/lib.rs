//! emulator-aws
#![allow(clippy::disallowed_methods)] // the shell reads the clock and performs I/O

pub mod engine;
pub mod error;
pub mod events;
pub mod query;
pub mod xml;
