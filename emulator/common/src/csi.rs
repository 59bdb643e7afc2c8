//! The CSI protocol on the wire: the generated gRPC types of CSI v1.12.0, and both ends of it in terms of the plain data of
//! [`model_common::csi`].
//!
//! - [`client`]: `connect`, `controller_call`, `node_call`: what controllers and the kubelet use.
//! - [`faults`]: what a driver's services meet on purpose.
//! - [`server`]: [`server::ControllerService`], [`server::NodeService`] and `serve`: what a driver implements.

pub mod client;
mod convert;
pub mod faults;
pub mod server;

/// Types, clients and servers generated from `proto/csi.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

pub use client::{connect, controller_call, node_call};

#[cfg(test)]
mod tests;
