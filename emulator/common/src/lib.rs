//! What the shells of the emulator share: where state is kept ([`store`]), the CSI protocol on the wire ([`csi`]), how
//! a driver makes itself known to a kubelet ([`registration`]), how requests to AWS are signed ([`sigv4`]), where things lie on disk
//! ([`places`]), which processes were started ([`process`]) and what machines were told ([`journal`]).

pub mod csi;
pub mod journal;
pub mod places;
pub mod process;
pub mod registration;
pub mod sigv4;
pub mod store;
