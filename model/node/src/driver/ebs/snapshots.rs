//! CreateSnapshot and ListSnapshots. EC2 takes no client token for a snapshot, so the driver looks for its name first (ebs.md §1.3).

use std::collections::BTreeMap;

use model_common::csi::{Code, ControllerReply, Error, Snapshot};

use super::{CallId, DRIVER, Event, GIB, Next, Options, Shared, already_working, invalid, tags};
use crate::driver::cloud::{self, CloudCall, CloudReply, SnapshotQuery};

#[derive(Debug, Clone)]
enum Phase {
    ByName,
    Creating,
}

#[derive(Debug, Clone)]
pub(super) struct Create {
    phase: Phase,
    name: String,
    volume_id: String,
    parameters: BTreeMap<String, String>,
}

impl Create {
    pub(super) fn new(name: String, volume_id: String, parameters: BTreeMap<String, String>) -> Self {
        Self { phase: Phase::ByName, name, volume_id, parameters }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (&self.phase, event) {
            (_, Event::Start) => {
                if self.name.is_empty() {
                    return Next::fail(invalid("Snapshot name not provided"));
                }
                if self.volume_id.is_empty() {
                    return Next::fail(invalid("Snapshot volume source ID not provided"));
                }
                if !shared.begin(&self.name, id) {
                    return already_working(&self.name);
                }
                Next::Ask(CloudCall::DescribeSnapshots(SnapshotQuery::Name(self.name.clone())))
            }
            (Phase::ByName, Event::Answer(Ok(CloudReply::Snapshots { snapshots, .. }))) => match snapshots.as_slice() {
                [] => self.create(&shared.options).unwrap_or_else(Next::fail),
                [snapshot] if snapshot.volume_id != self.volume_id => Next::fail(Error::new(
                    Code::AlreadyExists,
                    format!("Snapshot {} already exists for different volume ({})", self.name, snapshot.volume_id),
                )),
                [snapshot] => Next::Done(Ok(ControllerReply::CreateSnapshot(shown(snapshot)))),
                _ => Next::fail(Error::new(Code::Unknown, "multiple snapshots with the same name found")),
            },
            (Phase::ByName, Event::Answer(Err(error))) => Next::fail(Error::new(Code::Unknown, error.to_string())),
            (Phase::Creating, Event::Answer(Ok(CloudReply::Snapshot(snapshot)))) => {
                Next::Done(Ok(ControllerReply::CreateSnapshot(shown(snapshot))))
            }
            (Phase::Creating, Event::Answer(Err(error))) if error.code() == "SnapshotLimitExceeded" => Next::fail(Error::new(
                Code::ResourceExhausted,
                format!("Could not create snapshot (resource exhausted) {:?}: limit exceeded: {error}", self.name),
            )),
            (Phase::Creating, Event::Answer(Err(error))) => Next::fail(Error::new(
                Code::Internal,
                format!("Could not create snapshot {:?}: error creating snapshot of volume {}: {error}", self.name, self.volume_id),
            )),
            (_, Event::Answer(Ok(_)) | Event::Go) => {
                Next::fail(Error::new(Code::Internal, format!("Could not create snapshot {:?}: nil CreateSnapshotResponse", self.name)))
            }
        }
    }

    fn create(&mut self, options: &Options) -> Result<Next, Error> {
        let mut snapshot_tags =
            BTreeMap::from([("CSIVolumeSnapshotName".to_owned(), self.name.clone()), (format!("{DRIVER}/cluster"), "true".to_owned())]);
        let mut specs = Vec::new();
        let mut properties: BTreeMap<&str, String> =
            ["VolumeSnapshotName", "VolumeSnapshotNamespace", "VolumeSnapshotContentName"].map(|name| (name, String::new())).into();
        for (key, value) in &self.parameters {
            match key.to_lowercase().as_str() {
                "csi.storage.k8s.io/volumesnapshot/name" => drop(properties.insert("VolumeSnapshotName", value.clone())),
                "csi.storage.k8s.io/volumesnapshot/namespace" => drop(properties.insert("VolumeSnapshotNamespace", value.clone())),
                "csi.storage.k8s.io/volumesnapshotcontent/name" => drop(properties.insert("VolumeSnapshotContentName", value.clone())),
                "fastsnapshotrestoreavailabilityzones"
                | "outpostarn"
                | "lockmode"
                | "lockduration"
                | "lockexpirationdate"
                | "lockcooloffperiod" => {
                    return Err(invalid(format!("Parameter {key} is not supported by this driver: no fast restores, outposts or locks")));
                }
                _ if key.starts_with("tagSpecification") => specs.push(value.clone()),
                _ => return Err(invalid(format!("Invalid parameter key {key} for CreateSnapshot"))),
            }
        }
        let extra = tags::evaluate(&specs, &properties).map_err(|error| invalid(format!("Error interpolating tag value: {error}")))?;
        tags::validate(extra.keys()).map_err(|error| invalid(format!("Invalid tag value: {error}")))?;
        if let Some(cluster) = &options.cluster_id {
            snapshot_tags.extend([
                (format!("kubernetes.io/cluster/{cluster}"), "owned".to_owned()),
                ("Name".to_owned(), format!("{cluster}-dynamic-{}", self.name)),
                (format!("{DRIVER}/cluster-name"), cluster.clone()),
            ]);
        }
        snapshot_tags.extend(options.extra_tags.clone());
        snapshot_tags.extend(extra);
        self.phase = Phase::Creating;
        Ok(Next::Ask(CloudCall::CreateSnapshot {
            volume_id: self.volume_id.clone(),
            description: format!("Created by AWS EBS CSI driver for volume {}", self.volume_id),
            tags: snapshot_tags,
        }))
    }
}

fn shown(snapshot: &cloud::Snapshot) -> Snapshot {
    Snapshot {
        snapshot_id: snapshot.snapshot_id.clone(),
        source_volume_id: snapshot.volume_id.clone(),
        size_bytes: u64::try_from(snapshot.size_gib).unwrap_or_default() * GIB,
        creation_time_ms: snapshot.start_time_ms,
        ready_to_use: snapshot.state == "completed",
    }
}

/// EC2 gives no shorter pages of snapshots than this.
const SHORTEST_PAGE: u32 = 5;
/// How a token begins that leads into the middle of a page of EC2's.
const INTO_PAGE: &str = "skip";

/// ListSnapshots. CSI lets a caller ask for a single entry, EC2 does not: then a page of EC2's is given out in parts. The real driver
/// refuses such a request (real-drivers.md §2).
#[derive(Debug, Clone)]
pub(super) struct List {
    pub(super) snapshot_id: String,
    pub(super) source_volume_id: String,
    pub(super) max_entries: u32,
    pub(super) starting_token: String,
}

impl List {
    /// EC2's token of the page that is asked for, and how many of its entries the caller has already.
    fn place(&self) -> (usize, &str) {
        let inside = self.starting_token.strip_prefix(INTO_PAGE).and_then(|rest| rest.split_once(':'));
        inside.and_then(|(skip, token)| Some((skip.parse().ok()?, token))).unwrap_or((0, &self.starting_token))
    }

    pub(super) fn on(&mut self, event: Event<'_>) -> Next {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        match event {
            Event::Start if !self.snapshot_id.is_empty() => {
                Next::Ask(CloudCall::DescribeSnapshots(SnapshotQuery::Id(self.snapshot_id.clone())))
            }
            Event::Start => {
                let entries = if self.max_entries == 0 { 0 } else { self.max_entries.max(SHORTEST_PAGE) };
                Next::Ask(CloudCall::DescribeSnapshots(SnapshotQuery::List {
                    volume_id: given(&self.source_volume_id),
                    max_results: i32::try_from(entries).unwrap_or(i32::MAX),
                    next_token: given(self.place().1),
                }))
            }
            Event::Answer(Ok(CloudReply::Snapshots { snapshots, next_token })) => {
                let (skip, token) = self.place();
                let rest = snapshots.get(skip..).unwrap_or_default();
                let most = if self.max_entries == 0 { usize::MAX } else { usize::try_from(self.max_entries).unwrap_or(usize::MAX) };
                let next_token = if rest.len() > most {
                    format!("{INTO_PAGE}{}:{token}", skip.saturating_add(most))
                } else {
                    next_token.clone().unwrap_or_default()
                };
                let entries = rest.iter().take(most).map(shown).collect();
                Next::Done(Ok(ControllerReply::ListSnapshots { entries, next_token }))
            }
            // CSI: an unknown id is no error but no entry. The real driver says Internal.
            Event::Answer(Err(error)) if !self.snapshot_id.is_empty() && error.code() == "InvalidSnapshot.NotFound" => {
                Next::Done(Ok(ControllerReply::ListSnapshots { entries: Vec::new(), next_token: String::new() }))
            }
            Event::Answer(Err(error)) if !self.snapshot_id.is_empty() => {
                Next::fail(Error::new(Code::Internal, format!("Could not get snapshot ID {:?}: {error}", self.snapshot_id)))
            }
            Event::Answer(Err(error)) => Next::fail(Error::new(Code::Internal, format!("Could not list snapshots: {error}"))),
            Event::Answer(Ok(_)) | Event::Go => Next::fail(Error::new(Code::Internal, "Could not list snapshots: unexpected answer")),
        }
    }
}
