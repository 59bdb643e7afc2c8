//! The CSI protocol on the wire: the generated gRPC types and services of CSI v1.12.0.

/// Types, clients and servers generated from `proto/csi.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}
