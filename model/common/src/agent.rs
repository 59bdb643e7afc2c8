//! The agent's protocol: how the emulator's AWS side reaches into a node.
//!
//! A node's agent opens a WebSocket to `GET /_ebbtide/agent` of the AWS endpoint and says [`FromAgent::Hello`] (before
//! it, in a node of another Kubernetes, [`FromAgent::Register`], so that the instance is one); from then on the emulator sends [`ToAgent`] and the agent answers each call with [`FromAgent::Done`]. One JSON text
//! frame a message. When the connection is lost the emulator treats calls in flight as *unknown*; the next
//! `Hello` says what the kernel has, and that is the truth.
//!
//! Separately, a node asks `POST /_ebbtide/efs/mount` ([`EfsMount`] → [`EfsExport`]) what to serve for an EFS mount, and `POST
//! /_ebbtide/efs/network` ([`EfsNeighbour`] → [`EfsNetwork`]) which mount targets its network has.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The version of this protocol; a `Hello` with another one is refused with [`ToAgent::Refused`].
pub const PROTOCOL: u32 = 1;

/// From the emulator to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ToAgent {
    /// The instance of a `Register` is there.
    Registered,
    /// The `Hello` was accepted.
    Welcome,
    /// The `Register` or `Hello` was not accepted: unknown instance, wrong zone, or another protocol. The agent reports it and ends.
    Refused { message: String },
    /// Raise the block device (or find it raised) and make its names in the node. Idempotent.
    Attach { call: u64, device: Device },
    /// Remove the names; when `last`, take the loop device down too. A device in use answers [`DeviceError::Busy`] unless `force`.
    Detach { call: u64, volume_id: String, device_name: String, last: bool, force: bool },
    /// The backing file has grown to `size_bytes`: make the device show it.
    Resize { call: u64, volume_id: String, size_bytes: u64 },
    /// Flush and freeze the file system on the device, so that a copy of the file is a point in time.
    Freeze { call: u64, volume_id: String },
    /// End of a freeze.
    Thaw { call: u64, volume_id: String },
}

/// From the agent to the emulator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromAgent {
    Register(Register),
    Hello(Hello),
    Done { call: u64, result: Result<(), DeviceError> },
}

/// What a node of another Kubernetes says of itself: who it is by its providerID and its labels. An instance that is not known is
/// made of it; one that is known stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// `i-` and 8 or 17 hex digits.
    pub instance_id: String,
    /// The Kubernetes node's name.
    pub node_name: String,
    pub availability_zone: String,
    pub instance_type: String,
    /// The node's InternalIP, for an instance that has it too where a subnet of its zone lets it.
    pub internal_ip: Option<Ipv4Addr>,
}

/// What an agent says of its node when it connects: who it is, and what the kernel shows now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    pub protocol: u32,
    /// `i-` and 17 hex digits.
    pub instance_id: String,
    /// The Kubernetes node's name, `ip-10-0-1-10.ec2.internal`.
    pub node_name: String,
    pub availability_zone: String,
    pub instance_type: String,
    /// Another one with every boot of the node. An agent that does not say it leaves open when its node was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Why this node can have no block devices (not root, no loop driver); none where it can.
    pub no_devices: Option<String>,
    /// The devices whose names exist in this node now.
    pub devices: Vec<Device>,
}

/// One volume's block device in one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// `vol-` and 17 hex digits.
    pub volume_id: String,
    /// The name given to AttachVolume, `/dev/xvdaa`.
    pub device_name: String,
    /// Absolute path of the sparse file that holds the blocks.
    pub file: String,
    pub size_bytes: u64,
}

/// Why a device could not be made, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DeviceError {
    /// The device is mounted or open; the attachment shows `busy` until it is not.
    #[error("{volume_id} is in use on the node: {holder}")]
    Busy { volume_id: String, holder: String },
    /// This node cannot have devices at all.
    #[error("this node has no block devices: {reason}")]
    Unsupported { reason: String },
    /// A system call failed.
    #[error("{operation}: {message} (errno {errno})")]
    Failed { operation: String, errno: i32, message: String },
}

/// `POST /_ebbtide/efs/mount`: may this client mount, and what does it get?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsMount {
    pub file_system_id: String,
    pub access_point_id: Option<String>,
    /// The instance that mounts; decides the zone, and so the mount target.
    pub instance_id: String,
    /// The zone asked for with the `az` option.
    pub availability_zone: Option<String>,
    /// The address asked for with `mounttargetip`.
    pub mount_target_ip: Option<String>,
    pub tls: bool,
    pub iam: bool,
    pub read_only: bool,
}

/// What a mount gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsExport {
    /// Absolute path of the file system's directory on this machine.
    pub directory: String,
    /// Where in the file system the mount's root lies: the access point's root directory, or `/`.
    pub root_directory: String,
    /// The access point's identity; none when the client's own ids count.
    pub identity: Option<PosixUser>,
    /// How to make the root directory when it is missing; none: a missing root refuses the mount.
    pub creation: Option<CreationInfo>,
    pub mount_target_ip: String,
    /// Bytes the file system holds as last metered, for `statfs`-like views; not a limit.
    pub metered_bytes: u64,
}

/// Why a mount was refused. `message` is what `mount.efs` prints (efs.md §1.4, §3.3, §8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsRefusal {
    pub kind: EfsRefusalKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EfsRefusalKind {
    /// The name does not resolve: no such file system, or no mount target there. `mount.efs` exits 1.
    Unresolved,
    /// The network does not let the client through (security group). `mount.efs` times out.
    Unreachable,
    /// The server refuses: no such access point, access denied. Exit 32 with the text of `mount.nfs4`.
    Denied,
}

/// `POST /_ebbtide/efs/network`: which mount targets does the network show to this instance?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsNeighbour {
    pub instance_id: String,
}

/// The mount targets that an instance's network has: what a name server and a router know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsNetwork {
    pub region: String,
    /// The zone of the instance.
    pub zone: String,
    pub mount_targets: Vec<EfsMountTarget>,
}

/// A mount target that is available.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EfsMountTarget {
    pub file_system_id: String,
    /// `us-east-1a`
    pub zone: String,
    /// `use1-az1`
    pub zone_id: String,
    pub ip: std::net::Ipv4Addr,
    /// Its security groups let the instance through.
    pub reachable: bool,
}

/// The identity an access point gives to every operation (efs.md §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PosixUser {
    pub uid: u32,
    pub gid: u32,
    pub secondary_gids: Vec<u32>,
}

/// Owner and mode of a root directory that is made at the first mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreationInfo {
    pub owner_uid: u32,
    pub owner_gid: u32,
    /// The permission bits, `0o755`.
    pub permissions: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_json() {
        let attach = ToAgent::Attach {
            call: 7,
            device: Device {
                volume_id: "vol-1".into(),
                device_name: "/dev/xvdaa".into(),
                file: "/d/vol-1.img".into(),
                size_bytes: 1 << 30,
            },
        };
        let json = serde_json::to_string(&attach).unwrap();
        assert!(json.contains(r#""type":"attach""#) && json.contains(r#""deviceName":"/dev/xvdaa""#), "{json}");
        assert_eq!(serde_json::from_str::<ToAgent>(&json).unwrap(), attach);
        let busy = FromAgent::Done { call: 7, result: Err(DeviceError::Busy { volume_id: "vol-1".into(), holder: "mounted".into() }) };
        assert_eq!(serde_json::from_str::<FromAgent>(&serde_json::to_string(&busy).unwrap()).unwrap(), busy);
    }
}
