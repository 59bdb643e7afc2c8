//! What the shells of the emulator share: where state is kept ([`store`]), the CSI protocol on the wire ([`csi`]), where things lie
//! on disk ([`places`]) and which processes were started ([`process`]).

pub mod csi;
pub mod places;
pub mod process;
pub mod store;
