//! ControllerExpandVolume and ControllerModifyVolume (`cloud.go` ResizeOrModifyDisk, ebs.md §1.10).
//!
//! The real driver holds requests for 2 s to merge them with others for the same volume. Here a second request for a volume waits for
//! its turn instead: it sees what the first one did, and an expansion does not take 2 s.

use std::collections::BTreeMap;

use model_common::csi::{Access, CapacityRange, Code, ControllerReply, Error, VolumeCapability};

use super::create::{cap_iops, fallback_limit, learn_limit, limits_question};
use super::{CallId, DRIVER, Event, GIB, Next, Shared, invalid, tags};
use crate::driver::cloud::{CloudCall, CloudError, CloudReply, Modify, Volume, VolumeQuery};
use crate::driver::go::{parse_bool, parse_i32};
use crate::driver::wait::{Looks, Schedule, TIMED_OUT};

type Answer = Result<CloudReply, CloudError>;

#[derive(Debug, Clone)]
enum What {
    Expand { capacity: CapacityRange, capability: Option<VolumeCapability> },
    Modify { parameters: BTreeMap<String, String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Another request for this volume is under way.
    Queued,
    DeletingTags,
    AddingTags,
    Volume,
    /// Is a modification under way?
    Before,
    Limits,
    /// Is the last one still optimizing?
    Optimizing,
    Modifying,
    /// Waiting for `optimizing` or `completed`.
    Looking(Looks),
    /// Does the volume show what was wanted?
    Checking,
}

/// What is wanted of the volume; zero and empty: nothing.
#[derive(Debug, Clone, Default)]
struct Wanted {
    size_gib: i32,
    volume_type: String,
    iops: i32,
    iops_per_gb: i32,
    allow_increase: bool,
    throughput: i32,
    tags: BTreeMap<String, String>,
    delete_tags: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct ModifyOp {
    phase: Phase,
    volume_id: String,
    what: What,
    wanted: Wanted,
    volume: Volume,
}

/// Why it failed; the two callers make other codes of it.
enum Failure {
    Invalid(String),
    NotFound(String),
    Exhausted(String),
    Other(String),
}

impl ModifyOp {
    pub(super) fn expand(volume_id: String, capacity: CapacityRange, capability: Option<VolumeCapability>) -> Self {
        Self::new(volume_id, What::Expand { capacity, capability })
    }

    pub(super) fn modify(volume_id: String, parameters: BTreeMap<String, String>) -> Self {
        Self::new(volume_id, What::Modify { parameters })
    }

    fn new(volume_id: String, what: What) -> Self {
        Self { phase: Phase::Queued, volume_id, what, wanted: Wanted::default(), volume: Volume::default() }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (self.phase, event) {
            (_, Event::Start) => self.start(shared, id).unwrap_or_else(Next::fail),
            (Phase::Queued, Event::Go) => self.delete_tags(),
            (Phase::DeletingTags, Event::Answer(Ok(_))) => self.add_tags(),
            (Phase::AddingTags, Event::Answer(Ok(_))) => self.tags_done(),
            (Phase::DeletingTags | Phase::AddingTags, Event::Answer(Err(error))) => {
                let message = format!("Could not modify volume tags {:?}: {error}", self.volume_id);
                Next::fail(Error::new(Code::Internal, message))
            }
            (Phase::Volume | Phase::Checking, Event::Answer(answer)) => match self.volume_in(answer) {
                Ok(volume) if self.phase == Phase::Volume => {
                    self.volume = volume;
                    self.ask_modifications(Phase::Before)
                }
                Ok(volume) => self.check(&volume),
                Err(failure) => self.fail(failure),
            },
            (Phase::Before | Phase::Optimizing | Phase::Looking(_), Event::Answer(answer)) => match modification_in(answer) {
                Ok(state) => self.modification(shared, state.as_deref()),
                Err(why) => self.fail(Failure::Other(why)),
            },
            (Phase::Limits, Event::Answer(answer)) => {
                let limit = learn_limit(&self.volume_type(), answer);
                if let Some(limit) = limit {
                    shared.iops_limits.insert(self.limits_key(), limit);
                }
                self.cap(limit.unwrap_or_else(|| fallback_limit(&self.volume_type())));
                self.compare()
            }
            (Phase::Modifying, Event::Answer(answer)) => self.modified(answer),
            (Phase::Looking(_), Event::Go) => self.ask(),
            (Phase::Queued, Event::Answer(_)) | (_, Event::Go) => self.fail(Failure::Other("the driver woke up for nothing".to_owned())),
        }
    }

    fn start(&mut self, shared: &mut Shared, id: CallId) -> Result<Next, Error> {
        if self.volume_id.is_empty() {
            return Err(invalid("Volume ID not provided"));
        }
        match &self.what {
            What::Expand { capacity, .. } => {
                if *capacity == CapacityRange::default() {
                    return Err(invalid("Capacity range not provided"));
                }
                let gib = capacity.required_bytes.div_ceil(GIB);
                if capacity.limit_bytes > 0 && capacity.limit_bytes < gib.saturating_mul(GIB) {
                    return Err(invalid("After round-up, volume size exceeds the limit specified"));
                }
                self.wanted.size_gib = i32::try_from(gib).map_err(|_| {
                    let why = format!("rounded up size exceeds maximum value of int32: {gib}");
                    Error::new(Code::Internal, format!("Could not resize volume {:?}: {why}", self.volume_id))
                })?;
            }
            What::Modify { parameters } => self.wanted = wanted(parameters)?,
        }
        let queue = shared.modifying.entry(self.volume_id.clone()).or_default();
        queue.push_back(id);
        Ok(if queue.len() > 1 { Next::Queue } else { self.delete_tags() })
    }

    fn delete_tags(&mut self) -> Next {
        if self.wanted.delete_tags.is_empty() {
            return self.add_tags();
        }
        self.phase = Phase::DeletingTags;
        Next::Ask(CloudCall::DeleteTags { resource: self.volume_id.clone(), keys: self.wanted.delete_tags.clone() })
    }

    fn add_tags(&mut self) -> Next {
        if self.wanted.tags.is_empty() {
            return self.tags_done();
        }
        self.phase = Phase::AddingTags;
        Next::Ask(CloudCall::CreateTags { resource: self.volume_id.clone(), tags: self.wanted.tags.clone() })
    }

    fn tags_done(&mut self) -> Next {
        let wanted = &self.wanted;
        if wanted.size_gib == 0 && wanted.iops == 0 && wanted.throughput == 0 && wanted.volume_type.is_empty() && wanted.iops_per_gb == 0 {
            return self.done(0);
        }
        self.phase = Phase::Volume;
        self.ask_volume()
    }

    fn ask_volume(&self) -> Next {
        Next::Ask(CloudCall::DescribeVolumes(VolumeQuery::Id(self.volume_id.clone())))
    }

    fn ask(&self) -> Next {
        Next::Ask(CloudCall::DescribeVolumesModifications { volume_id: self.volume_id.clone() })
    }

    fn ask_modifications(&mut self, phase: Phase) -> Next {
        self.phase = phase;
        self.ask()
    }

    fn volume_in(&self, answer: &Answer) -> Result<Volume, Failure> {
        match answer {
            Ok(CloudReply::Volumes(volumes)) => match volumes.as_slice() {
                [volume] => Ok(volume.clone()),
                _ => Err(Failure::NotFound("resource was not found".to_owned())),
            },
            Ok(_) => Err(Failure::Other("unexpected answer from EC2".to_owned())),
            // CSI's code for it; the real driver says Internal (real-drivers.md §2).
            Err(error) if error.code() == "InvalidVolume.NotFound" => Err(Failure::NotFound(error.to_string())),
            Err(error) => Err(Failure::Other(error.to_string())),
        }
    }

    /// What DescribeVolumesModifications says, in the three places where it is asked.
    fn modification(&mut self, shared: &mut Shared, state: Option<&str>) -> Next {
        match (self.phase, state) {
            // One is under way already: wait for it, and see whether it was ours.
            (Phase::Before, Some("modifying")) => self.look(Looks::new(Schedule::Modification)),
            (Phase::Before, _) => self.decide(shared),
            (Phase::Optimizing, Some("optimizing")) => {
                self.fail(Failure::Other(format!("volume {:?} in OPTIMIZING state, cannot currently modify", self.volume_id)))
            }
            (Phase::Optimizing, _) => self.submit(),
            (Phase::Looking(_), None | Some("completed" | "optimizing")) => {
                self.phase = Phase::Checking;
                self.ask_volume()
            }
            (Phase::Looking(looks), Some(_)) => self.look(looks),
            _ => self.fail(Failure::Other("unexpected answer from EC2".to_owned())),
        }
    }

    fn look(&mut self, mut looks: Looks) -> Next {
        match looks.next() {
            Some(delay) => {
                self.phase = Phase::Looking(looks);
                Next::Wait(delay)
            }
            None => self.fail(Failure::Other(TIMED_OUT.to_owned())),
        }
    }

    fn volume_type(&self) -> String {
        if self.wanted.volume_type.is_empty() { self.volume.volume_type.clone() } else { self.wanted.volume_type.clone() }
    }

    fn limits_key(&self) -> (String, String) {
        (self.volume_type(), format!("{}|{}", self.volume.availability_zone, self.volume.availability_zone_id))
    }

    /// What IOPS are wanted, given the tags that the StorageClass left on the volume.
    fn decide(&mut self, shared: &mut Shared) -> Next {
        if self.wanted.iops > 0 && self.wanted.iops_per_gb > 0 {
            return self.fail(Failure::Other("invalid VAC parameter; specify either IOPS or IOPSPerGb, not both".to_owned()));
        }
        let tag = |name: &str| self.volume.tags.get(&format!("{DRIVER}/{name}"));
        let per_gib = match tag("IOPSPerGb").map(|text| parse_i32(text)) {
            None => 0,
            Some(Ok(number)) => number,
            Some(Err(why)) => return self.fail(Failure::Invalid(why)),
        };
        let allowed = self.wanted.allow_increase
            || match tag("AllowAutoIOPSIncreaseOnModify").map(|text| parse_bool(text).ok_or(text)) {
                None => false,
                Some(Ok(allowed)) => allowed,
                Some(Err(text)) => {
                    return self.fail(Failure::Invalid(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")));
                }
            };
        let size = if self.wanted.size_gib > 0 { self.wanted.size_gib } else { self.volume.size_gib };
        if self.wanted.iops == 0 && allowed {
            let ratio = if self.wanted.iops_per_gb != 0 { self.wanted.iops_per_gb } else { per_gib };
            self.wanted.iops = size.saturating_mul(ratio.max(0));
        }
        if self.wanted.iops == 0 {
            return self.compare();
        }
        if let Some(limit) = shared.iops_limits.get(&self.limits_key()).copied() {
            self.cap(limit);
            return self.compare();
        }
        self.phase = Phase::Limits;
        let volume = &self.volume;
        let question = limits_question(&self.volume_type(), &volume.availability_zone, &volume.availability_zone_id);
        Next::Ask(CloudCall::CreateVolume(question))
    }

    fn cap(&mut self, limit: i32) {
        let size = if self.wanted.size_gib > 0 { self.wanted.size_gib } else { self.volume.size_gib };
        self.wanted.iops = cap_iops(&self.volume_type(), size, self.wanted.iops, limit, true);
    }

    /// EC2 starts a modification even when nothing changes, so such a request is not sent.
    fn compare(&mut self) -> Next {
        if self.difference(&self.volume).is_none() {
            return self.ask_modifications(Phase::Looking(Looks::new(Schedule::Modification)));
        }
        self.ask_modifications(Phase::Optimizing)
    }

    /// What the volume does not show yet.
    fn difference(&self, volume: &Volume) -> Option<String> {
        let wanted = &self.wanted;
        if volume.size_gib < wanted.size_gib {
            return Some(format!("volume {:?} is still being expanded to {} size", self.volume_id, wanted.size_gib));
        }
        let modified = |to: String| Some(format!("volume {:?} is still being modified to {to}", self.volume_id));
        if wanted.iops != 0 && volume.iops != Some(wanted.iops) {
            return modified(format!("iops {}", wanted.iops));
        }
        if !wanted.volume_type.is_empty() && !volume.volume_type.eq_ignore_ascii_case(&wanted.volume_type) {
            return modified(format!("type {:?}", wanted.volume_type));
        }
        if wanted.throughput != 0 && volume.throughput != Some(wanted.throughput) {
            return modified(format!("throughput {}", wanted.throughput));
        }
        None
    }

    fn submit(&mut self) -> Next {
        let wanted = &self.wanted;
        let some = |number: i32| (number != 0).then_some(number);
        self.phase = Phase::Modifying;
        Next::Ask(CloudCall::ModifyVolume(Modify {
            volume_id: self.volume_id.clone(),
            size_gib: some(wanted.size_gib),
            volume_type: (!wanted.volume_type.is_empty()).then(|| wanted.volume_type.clone()),
            iops: some(wanted.iops),
            throughput: some(wanted.throughput),
        }))
    }

    fn modified(&mut self, answer: &Answer) -> Next {
        let error = match answer {
            Ok(CloudReply::Modification(Some(state))) if state == "completed" || state == "optimizing" => {
                self.phase = Phase::Checking;
                return self.ask_volume();
            }
            Ok(_) => return self.ask_modifications(Phase::Looking(Looks::new(Schedule::Modification))),
            Err(error) => error,
        };
        match error.code() {
            "InvalidParameter"
            | "InvalidParameterCombination"
            | "InvalidParameterDependency"
            | "InvalidParameterValue"
            | "UnknownParameter"
            | "UnknownVolumeType"
            | "UnsupportedOperation"
            | "ValidationError" => self.fail(Failure::Invalid(error.to_string())),
            "VolumeModificationSizeLimitExceeded" | "MaxIOPSLimitExceeded" => self.fail(Failure::Exhausted(error.to_string())),
            _ => self.fail(Failure::Other(error.to_string())),
        }
    }

    fn check(&self, volume: &Volume) -> Next {
        match self.difference(volume) {
            Some(why) => self.fail(Failure::Other(why)),
            None => self.done(volume.size_gib),
        }
    }

    fn done(&self, size_gib: i32) -> Next {
        Next::Done(Ok(match &self.what {
            What::Modify { .. } => ControllerReply::ControllerModifyVolume,
            What::Expand { capability, .. } => ControllerReply::ControllerExpandVolume {
                capacity_bytes: u64::try_from(size_gib).unwrap_or_default() * GIB,
                node_expansion_required: capability.as_ref().is_none_or(|capability| capability.access != Access::Block),
            },
        }))
    }

    fn fail(&self, failure: Failure) -> Next {
        let id = &self.volume_id;
        let tagged = !self.wanted.tags.is_empty() || !self.wanted.delete_tags.is_empty();
        let error = match failure {
            // What was changed already must not look infeasible to the resizer.
            Failure::Invalid(why) => Error::new(
                if tagged { Code::Internal } else { Code::InvalidArgument },
                format!("Could not modify volume (invalid argument) {id:?}: invalid argument: {why}"),
            ),
            Failure::NotFound(why) => Error::new(Code::NotFound, format!("Could not modify volume (not found) {id:?}: {why}")),
            Failure::Exhausted(why) => {
                Error::new(Code::ResourceExhausted, format!("Could not modify volume (resource exhausted) {id:?}: limit exceeded: {why}"))
            }
            Failure::Other(why) => Error::new(Code::Internal, format!("Could not modify volume {id:?}: {why}")),
        };
        Next::fail(match self.what {
            What::Modify { .. } => error,
            // The real driver wraps everything, so an expansion is never "infeasible".
            What::Expand { .. } => Error::new(Code::Internal, format!("Could not resize volume {id:?}: {error}")),
        })
    }
}

/// The state of the latest modification; none: never modified.
fn modification_in(answer: &Answer) -> Result<Option<String>, String> {
    match answer {
        Ok(CloudReply::Modification(state)) => Ok(state.clone()),
        Ok(_) => Err("unexpected answer from EC2".to_owned()),
        Err(error) if error.code() == "InvalidVolumeModification.NotFound" => Ok(None),
        Err(error) => Err(format!("error describing volume modifications: {error}")),
    }
}

/// `parseModifyVolumeParameters`. Keys are case-sensitive.
fn wanted(parameters: &BTreeMap<String, String>) -> Result<Wanted, Error> {
    let mut wanted = Wanted::default();
    let mut specs = Vec::new();
    let mut own = BTreeMap::new();
    let mut properties: BTreeMap<&str, String> = ["PVCName", "PVCNamespace", "PVName"].map(|name| (name, String::new())).into();
    for (key, value) in parameters {
        let number = |what: &str| parse_i32(value).map_err(|_| invalid(format!("Could not parse {what}: {value:?}")));
        match key.as_str() {
            "iops" => wanted.iops = number("IOPS")?,
            "throughput" => wanted.throughput = number("throughput")?,
            "volumeType" if parameters.contains_key("type") => {}
            "volumeType" | "type" => wanted.volume_type.clone_from(value),
            "iopspergb" => {
                wanted.iops_per_gb = number("IopsPerGb")?;
                own.insert(format!("{DRIVER}/IOPSPerGb"), value.clone());
            }
            "allowautoiopsincreaseonmodify" => {
                wanted.allow_increase = value == "true";
                own.insert(format!("{DRIVER}/AllowAutoIOPSIncreaseOnModify"), value.clone());
            }
            "csi.storage.k8s.io/pvc/name" => drop(properties.insert("PVCName", value.clone())),
            "csi.storage.k8s.io/pvc/namespace" => drop(properties.insert("PVCNamespace", value.clone())),
            "csi.storage.k8s.io/pv/name" => drop(properties.insert("PVName", value.clone())),
            _ if key.starts_with("tagSpecification") => specs.push(value.clone()),
            _ if key.starts_with("tagDeletion") => {
                tags::validate([value]).map_err(|error| invalid(format!("Cannot delete reserved tag: {error}")))?;
                wanted.delete_tags.push(value.clone());
            }
            _ => return Err(invalid(format!("Invalid mutable parameter key: {key}"))),
        }
    }
    wanted.tags = tags::evaluate(&specs, &properties).map_err(|error| invalid(format!("Error interpolating tag value: {error}")))?;
    tags::validate(wanted.tags.keys()).map_err(|error| invalid(format!("Invalid tag value: {error}")))?;
    wanted.tags.extend(own);
    Ok(wanted)
}
