//! Plain data ⇄ protobuf. Going out is total; coming in, a field that a driver must check for itself (an empty id, a missing
//! capability) is passed on as it came, so that the driver gives its own `InvalidArgument`.

use std::collections::BTreeMap;

use model_common::csi::{
    Access, AccessMode, CapacityRange, Code, ContentSource, ControllerCapability, Error, NodeCapability, Segments, Snapshot,
    TopologyRequirement, Usage, UsageUnit, Volume, VolumeCapability,
};

use super::v1;

pub(super) type Map = std::collections::HashMap<String, String>;

pub(super) fn map_out(map: BTreeMap<String, String>) -> Map {
    map.into_iter().collect()
}

pub(super) fn map_in(map: Map) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

/// Bytes as the wire's signed number; the model's sizes stay far below the limit, anything above is capped.
pub(super) fn bytes_out(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A negative size, which no caller may send, reads as 0 = not given.
pub(super) fn bytes_in(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

pub(super) fn status_in(status: tonic::Status) -> Error {
    Error::new(Code::from_number(status.code() as i32), status.message())
}

pub(super) fn status_out(error: Error) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(error.code as i32), error.message)
}

fn mode_out(mode: AccessMode) -> v1::volume_capability::access_mode::Mode {
    use v1::volume_capability::access_mode::Mode;
    match mode {
        AccessMode::SingleNodeWriter => Mode::SingleNodeWriter,
        AccessMode::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
        AccessMode::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
        AccessMode::MultiNodeSingleWriter => Mode::MultiNodeSingleWriter,
        AccessMode::MultiNodeMultiWriter => Mode::MultiNodeMultiWriter,
        AccessMode::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
        AccessMode::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
    }
}

pub(super) fn capability_out(capability: VolumeCapability) -> v1::VolumeCapability {
    use v1::volume_capability::{AccessMode as WireMode, AccessType, BlockVolume, MountVolume};
    let access_type = match capability.access {
        Access::Block => AccessType::Block(BlockVolume {}),
        Access::Mount { fs_type, mount_flags, volume_mount_group } => {
            AccessType::Mount(MountVolume { fs_type, mount_flags, volume_mount_group })
        }
    };
    v1::VolumeCapability { access_mode: Some(WireMode { mode: mode_out(capability.mode) as i32 }), access_type: Some(access_type) }
}

/// A capability without a mode or a type is refused here, with the words drivers use.
pub(super) fn capability_in(capability: v1::VolumeCapability) -> Result<VolumeCapability, Error> {
    use v1::volume_capability::{AccessType, access_mode::Mode};
    let access = match capability.access_type {
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => {
            Access::Mount { fs_type: mount.fs_type, mount_flags: mount.mount_flags, volume_mount_group: mount.volume_mount_group }
        }
        None => return Err(Error::new(Code::InvalidArgument, "Volume capability has no access type")),
    };
    let mode = match capability.access_mode.and_then(|mode| Mode::try_from(mode.mode).ok()) {
        Some(Mode::SingleNodeWriter) => AccessMode::SingleNodeWriter,
        Some(Mode::SingleNodeReaderOnly) => AccessMode::SingleNodeReaderOnly,
        Some(Mode::MultiNodeReaderOnly) => AccessMode::MultiNodeReaderOnly,
        Some(Mode::MultiNodeSingleWriter) => AccessMode::MultiNodeSingleWriter,
        Some(Mode::MultiNodeMultiWriter) => AccessMode::MultiNodeMultiWriter,
        Some(Mode::SingleNodeSingleWriter) => AccessMode::SingleNodeSingleWriter,
        Some(Mode::SingleNodeMultiWriter) => AccessMode::SingleNodeMultiWriter,
        Some(Mode::Unknown) | None => return Err(Error::new(Code::InvalidArgument, "Volume capability has no access mode")),
    };
    Ok(VolumeCapability { access, mode })
}

/// The capability of a call that must have one.
pub(super) fn required_capability(capability: Option<v1::VolumeCapability>) -> Result<VolumeCapability, Error> {
    capability.ok_or_else(|| Error::new(Code::InvalidArgument, "Volume capability not provided")).and_then(capability_in)
}

pub(super) fn capabilities_in(capabilities: Vec<v1::VolumeCapability>) -> Result<Vec<VolumeCapability>, Error> {
    capabilities.into_iter().map(capability_in).collect()
}

pub(super) fn capacity_out(range: CapacityRange) -> v1::CapacityRange {
    v1::CapacityRange { required_bytes: bytes_out(range.required_bytes), limit_bytes: bytes_out(range.limit_bytes) }
}

pub(super) fn capacity_in(range: Option<v1::CapacityRange>) -> CapacityRange {
    range.map_or_else(CapacityRange::default, |range| CapacityRange {
        required_bytes: bytes_in(range.required_bytes),
        limit_bytes: bytes_in(range.limit_bytes),
    })
}

pub(super) fn segments_out(segments: Segments) -> v1::Topology {
    v1::Topology { segments: map_out(segments) }
}

pub(super) fn segments_in(topology: v1::Topology) -> Segments {
    map_in(topology.segments)
}

pub(super) fn topology_out(topology: TopologyRequirement) -> v1::TopologyRequirement {
    v1::TopologyRequirement {
        requisite: topology.requisite.into_iter().map(segments_out).collect(),
        preferred: topology.preferred.into_iter().map(segments_out).collect(),
    }
}

pub(super) fn topology_in(topology: v1::TopologyRequirement) -> TopologyRequirement {
    TopologyRequirement {
        requisite: topology.requisite.into_iter().map(segments_in).collect(),
        preferred: topology.preferred.into_iter().map(segments_in).collect(),
    }
}

pub(super) fn source_out(source: ContentSource) -> v1::VolumeContentSource {
    use v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let source = match source {
        ContentSource::Snapshot(snapshot_id) => Type::Snapshot(SnapshotSource { snapshot_id }),
        ContentSource::Volume(volume_id) => Type::Volume(VolumeSource { volume_id }),
    };
    v1::VolumeContentSource { r#type: Some(source) }
}

pub(super) fn source_in(source: v1::VolumeContentSource) -> Option<ContentSource> {
    use v1::volume_content_source::Type;
    Some(match source.r#type? {
        Type::Snapshot(snapshot) => ContentSource::Snapshot(snapshot.snapshot_id),
        Type::Volume(volume) => ContentSource::Volume(volume.volume_id),
    })
}

pub(super) fn volume_out(volume: Volume) -> v1::Volume {
    v1::Volume {
        volume_id: volume.volume_id,
        capacity_bytes: bytes_out(volume.capacity_bytes),
        volume_context: map_out(volume.volume_context),
        content_source: volume.content_source.map(source_out),
        accessible_topology: volume.accessible_topology.into_iter().map(segments_out).collect(),
    }
}

pub(super) fn volume_in(volume: v1::Volume) -> Volume {
    Volume {
        volume_id: volume.volume_id,
        capacity_bytes: bytes_in(volume.capacity_bytes),
        volume_context: map_in(volume.volume_context),
        content_source: volume.content_source.and_then(source_in),
        accessible_topology: volume.accessible_topology.into_iter().map(segments_in).collect(),
    }
}

pub(super) fn snapshot_out(snapshot: Snapshot) -> v1::Snapshot {
    v1::Snapshot {
        snapshot_id: snapshot.snapshot_id,
        source_volume_id: snapshot.source_volume_id,
        size_bytes: bytes_out(snapshot.size_bytes),
        creation_time: Some(prost_types::Timestamp {
            seconds: snapshot.creation_time_ms.div_euclid(1000),
            nanos: (snapshot.creation_time_ms.rem_euclid(1000) * 1_000_000) as i32,
        }),
        ready_to_use: snapshot.ready_to_use,
        group_snapshot_id: String::new(),
    }
}

pub(super) fn snapshot_in(snapshot: v1::Snapshot) -> Snapshot {
    Snapshot {
        snapshot_id: snapshot.snapshot_id,
        source_volume_id: snapshot.source_volume_id,
        size_bytes: bytes_in(snapshot.size_bytes),
        creation_time_ms: snapshot.creation_time.map_or(0, |time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000),
        ready_to_use: snapshot.ready_to_use,
    }
}

pub(super) fn usage_out(usage: Usage) -> v1::VolumeUsage {
    let unit = match usage.unit {
        UsageUnit::Bytes => v1::volume_usage::Unit::Bytes,
        UsageUnit::Inodes => v1::volume_usage::Unit::Inodes,
    };
    v1::VolumeUsage { available: bytes_out(usage.available), total: bytes_out(usage.total), used: bytes_out(usage.used), unit: unit as i32 }
}

/// A usage line of an unknown unit says nothing and is dropped.
pub(super) fn usage_in(usage: v1::VolumeUsage) -> Option<Usage> {
    let unit = match v1::volume_usage::Unit::try_from(usage.unit) {
        Ok(v1::volume_usage::Unit::Bytes) => UsageUnit::Bytes,
        Ok(v1::volume_usage::Unit::Inodes) => UsageUnit::Inodes,
        Ok(v1::volume_usage::Unit::Unknown) | Err(_) => return None,
    };
    Some(Usage { unit, total: bytes_in(usage.total), used: bytes_in(usage.used), available: bytes_in(usage.available) })
}

macro_rules! capability_table {
    ($out:ident, $in:ident, $plain:ident, $wire:path, $service:path, $types:path, [$($name:ident),* $(,)?]) => {
        pub(super) fn $out(capability: $plain) -> $wire {
            use $service as service;
            let r#type = match capability { $($plain::$name => service::rpc::Type::$name,)* };
            $wire { r#type: Some(service::Type::Rpc(service::Rpc { r#type: r#type as i32 })) }
        }

        /// A capability of a later CSI version is not one we could use: dropped.
        pub(super) fn $in(capability: $wire) -> Option<$plain> {
            use $service as service;
            let service::Type::Rpc(rpc) = capability.r#type?;
            match service::rpc::Type::try_from(rpc.r#type).ok()? {
                $(service::rpc::Type::$name => Some($plain::$name),)*
                #[allow(unreachable_patterns)]
                _ => None,
            }
        }
    };
}

capability_table!(
    controller_capability_out,
    controller_capability_in,
    ControllerCapability,
    v1::ControllerServiceCapability,
    v1::controller_service_capability,
    v1::controller_service_capability::rpc::Type,
    [
        CreateDeleteVolume,
        PublishUnpublishVolume,
        ListVolumes,
        GetCapacity,
        CreateDeleteSnapshot,
        ListSnapshots,
        CloneVolume,
        PublishReadonly,
        ExpandVolume,
        ListVolumesPublishedNodes,
        VolumeCondition,
        GetVolume,
        SingleNodeMultiWriter,
        ModifyVolume,
    ]
);

capability_table!(
    node_capability_out,
    node_capability_in,
    NodeCapability,
    v1::NodeServiceCapability,
    v1::node_service_capability,
    v1::node_service_capability::rpc::Type,
    [StageUnstageVolume, GetVolumeStats, ExpandVolume, VolumeCondition, SingleNodeMultiWriter, VolumeMountGroup]
);
