//! What the shells of the emulator share: where state is kept ([`store`]), the CSI protocol on the wire ([`csi`])
//! and where things lie on disk ([`places`]).

#![allow(clippy::disallowed_methods)] // the shells perform I/O

pub mod csi;
pub mod places;
pub mod store;
