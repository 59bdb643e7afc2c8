//! What the shells of the emulator share: where state is kept ([`store`]), the CSI protocol on the wire ([`csi`])
//! and where things lie on disk ([`places`]).

pub mod csi;
pub mod places;
pub mod store;
