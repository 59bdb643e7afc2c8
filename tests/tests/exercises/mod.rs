//! The exercises E01–E14 of users.md §2.1: one body each, for every stack that storage can have here.

pub mod all;
mod bodies;
mod copies;
pub mod stack;
