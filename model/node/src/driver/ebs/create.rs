//! CreateVolume: new, from a snapshot, or a clone (`controller.go` CreateVolume, `cloud.go` CreateDisk).
//!
//! ```text
//! Start ─▶ [Source] ─▶ [Zone] ─▶ [Limits: dry run] ─▶ Creating ─▶ Looking ⟲ ─▶ done
//!                                                      └▶ Adopting (VolumeLimitExceeded)
//! ```

use model_common::csi::{
    Access, AccessMode, CapacityRange, Code, ContentSource, ControllerCall, ControllerReply, Error, Segments, TopologyRequirement, Volume,
};
use sha2::{Digest, Sha256};

use super::parameters::Parameters;
use super::{CallId, Event, GIB, Next, Shared, invalid, supported};
use crate::driver::cloud::{self, CloudCall, CloudError, CloudReply, NewCopy, NewVolume, VolumeQuery};
use crate::driver::wait::{Looks, Schedule, TIMED_OUT};

/// The size of a volume when none is asked for.
const DEFAULT_GIB: u64 = 100;
const ZONE: &str = "topology.kubernetes.io/zone";
const ZONE_OWN: &str = "topology.ebs.csi.aws.com/zone";
const ZONE_ID: &str = "topology.k8s.aws/zone-id";

#[derive(Debug, Clone)]
enum Phase {
    Start,
    Source,
    Zone,
    Limits,
    Creating,
    /// Over the account's limit, says EC2, also when the volume exists already: is there one of our name?
    Adopting(CloudError),
    Looking(Looks),
}

#[derive(Debug, Clone)]
pub(super) struct Create {
    phase: Phase,
    name: String,
    request: ControllerCall,
    size_gib: i32,
    multi_attach: bool,
    parameters: Parameters,
    zone: String,
    zone_id: String,
    iops: i32,
    volume_id: String,
}

impl Create {
    /// `request` is a [`ControllerCall::CreateVolume`].
    pub(super) fn new(request: ControllerCall) -> Self {
        let name = match &request {
            ControllerCall::CreateVolume { name, .. } => name.clone(),
            _ => String::new(),
        };
        Self {
            phase: Phase::Start,
            name,
            request,
            size_gib: 0,
            multi_attach: false,
            parameters: Parameters::default(),
            zone: String::new(),
            zone_id: String::new(),
            iops: 0,
            volume_id: String::new(),
        }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (self.phase.clone(), event) {
            (Phase::Start, _) => self.start(shared, id).unwrap_or_else(Next::fail),
            (Phase::Source, Event::Answer(answer)) => self.source(shared, answer),
            (Phase::Zone, Event::Answer(Ok(CloudReply::Zones(zones)))) if !zones.is_empty() => {
                self.zone.clone_from(&zones[0]);
                self.limits(shared)
            }
            (Phase::Zone, Event::Answer(Err(error))) => self.fail(Code::Aborted, format!("failed to get availability zone {error}")),
            (Phase::Limits, Event::Answer(answer)) => {
                let limit = learn_limit(&self.volume_type(), answer);
                if let Some(limit) = limit {
                    shared.iops_limits.insert(self.limits_key(), limit);
                }
                self.create(shared, limit.unwrap_or_else(|| fallback_limit(&self.volume_type())))
            }
            (Phase::Creating, Event::Answer(answer)) => self.created(shared, answer),
            (Phase::Adopting(limit), Event::Answer(answer)) => self.adopt(&limit, answer),
            (Phase::Looking(_), Event::Go) => self.look(),
            (Phase::Looking(looks), Event::Answer(answer)) => self.looked(looks, answer),
            (Phase::Zone | Phase::Limits | Phase::Source | Phase::Creating | Phase::Adopting(_), _) | (Phase::Looking(_), Event::Start) => {
                self.fail(Code::Aborted, "unexpected answer from EC2")
            }
        }
    }

    fn fail(&self, code: Code, why: impl std::fmt::Display) -> Next {
        Next::fail(Error::new(code, format!("Could not create volume {:?}: {why}", self.name)))
    }

    fn source_of(&self) -> Option<&ContentSource> {
        match &self.request {
            ControllerCall::CreateVolume { content_source, .. } => content_source.as_ref(),
            _ => None,
        }
    }

    fn volume_type(&self) -> String {
        if self.parameters.volume_type.is_empty() { "gp3".to_owned() } else { self.parameters.volume_type.clone() }
    }

    fn limits_key(&self) -> (String, String) {
        (self.volume_type(), format!("{}|{}", self.zone, self.zone_id))
    }

    fn start(&mut self, shared: &mut Shared, id: CallId) -> Result<Next, Error> {
        let ControllerCall::CreateVolume { name, capacity, capabilities, parameters, mutable_parameters, content_source, topology } =
            &self.request
        else {
            return Err(Error::new(Code::Internal, "not a CreateVolume"));
        };
        if name.is_empty() {
            return Err(invalid("Volume name not provided"));
        }
        if capabilities.is_empty() {
            return Err(invalid("Volume capabilities not provided"));
        }
        if !capabilities.iter().all(supported) {
            return Err(invalid("Volume capabilities not supported"));
        }
        self.size_gib = size(*capacity)?;
        self.multi_attach =
            capabilities.iter().any(|capability| capability.mode == AccessMode::MultiNodeMultiWriter && capability.access == Access::Block);
        if !shared.begin(name, id) {
            return Err(Error::new(Code::Aborted, format!("Create volume request for {name} is already in progress")));
        }
        self.parameters = Parameters::parse(name, parameters, mutable_parameters, capabilities, &shared.options)?;
        if let Some(ContentSource::Volume(volume_id)) = content_source {
            if self.parameters.encrypted_given && !self.parameters.encrypted {
                return Err(invalid("Cannot make an unencrypted clone"));
            }
            self.phase = Phase::Source;
            return Ok(Next::Ask(CloudCall::DescribeVolumes(VolumeQuery::Id(volume_id.clone()))));
        }
        self.zone = pick(topology.as_ref(), &[ZONE, ZONE_OWN]);
        self.zone_id = pick(topology.as_ref(), &[ZONE_ID]);
        Ok(self.begin_disk(shared))
    }

    fn source(&mut self, shared: &mut Shared, answer: &Result<CloudReply, CloudError>) -> Next {
        let Some(ContentSource::Volume(source_id)) = self.source_of().cloned() else {
            return self.fail(Code::Aborted, "no source volume");
        };
        let not_found =
            |why: String| Next::fail(Error::new(Code::NotFound, format!("Error source volume with volumeID {source_id} not found: {why}")));
        let source = match answer {
            Ok(CloudReply::Volumes(volumes)) => match volumes.as_slice() {
                [volume] => volume,
                _ => return not_found("resource was not found".to_owned()),
            },
            Ok(_) => return not_found("unexpected answer from EC2".to_owned()),
            Err(error) => return not_found(error.to_string()),
        };
        if !self.parameters.kms_key_id.is_empty() && source.kms_key_id != self.parameters.kms_key_id {
            return Next::fail(invalid("Cannot provision clone with different KMS key than source volume"));
        }
        if let ControllerCall::CreateVolume { topology: Some(topology), .. } = &self.request
            && !topology.requisite.is_empty()
            && !topology.requisite.iter().any(|segments| within(segments, source))
        {
            return Next::fail(Error::new(Code::ResourceExhausted, "Cannot provision clone with the specified topology constraints"));
        }
        (self.zone, self.zone_id) = (source.availability_zone.clone(), source.availability_zone_id.clone());
        self.begin_disk(shared)
    }

    /// `CreateDisk`.
    fn begin_disk(&mut self, shared: &mut Shared) -> Next {
        if self.parameters.iops > 0 && self.parameters.iops_per_gb > 0 {
            return self.fail(Code::Aborted, "invalid StorageClass parameters; specify either IOPS or IOPSPerGb, not both");
        }
        if self.multi_attach && self.volume_type() != "io2" {
            return self.fail(Code::Aborted, "CreateDisk: multi-attach is only supported for io2 volumes");
        }
        if self.zone.is_empty() && self.zone_id.is_empty() {
            self.phase = Phase::Zone;
            return Next::Ask(CloudCall::DescribeAvailabilityZones);
        }
        self.limits(shared)
    }

    fn limits(&mut self, shared: &mut Shared) -> Next {
        if let Some(limit) = shared.iops_limits.get(&self.limits_key()) {
            return self.create(shared, *limit);
        }
        self.phase = Phase::Limits;
        Next::Ask(CloudCall::CreateVolume(limits_question(&self.volume_type(), &self.zone, &self.zone_id)))
    }

    fn create(&mut self, shared: &mut Shared, max_iops: i32) -> Next {
        let wanted = match (self.parameters.iops, self.parameters.iops_per_gb) {
            (iops, _) if iops > 0 => iops,
            (_, per_gb) => per_gb.saturating_mul(self.size_gib),
        };
        self.iops = cap_iops(&self.volume_type(), self.size_gib, wanted, max_iops, self.parameters.allow_iops_increase);
        let positive = |number: i32| (number > 0).then_some(number);
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let client_token = token(&self.name, shared.token_numbers.get(&self.name).copied());
        let parameters = &self.parameters;
        let call = match self.source_of() {
            Some(ContentSource::Volume(source)) => CloudCall::CopyVolumes(NewCopy {
                source_volume_id: source.clone(),
                client_token,
                size_gib: self.size_gib,
                volume_type: self.volume_type(),
                multi_attach: self.multi_attach,
                iops: positive(self.iops),
                throughput: positive(parameters.throughput),
                tags: parameters.tags.clone(),
            }),
            source => CloudCall::CreateVolume(NewVolume {
                client_token: Some(client_token),
                size_gib: self.size_gib,
                volume_type: self.volume_type(),
                availability_zone: given(&self.zone),
                availability_zone_id: given(&self.zone_id),
                // A key means encryption, whatever `encrypted` says.
                encrypted: Some(parameters.encrypted || !parameters.kms_key_id.is_empty()),
                kms_key_id: given(&parameters.kms_key_id),
                iops: positive(self.iops),
                throughput: positive(parameters.throughput),
                snapshot_id: match source {
                    Some(ContentSource::Snapshot(snapshot)) => given(snapshot),
                    _ => None,
                },
                initialization_rate: positive(parameters.initialization_rate),
                multi_attach: Some(self.multi_attach),
                tags: parameters.tags.clone(),
                dry_run: false,
            }),
        };
        self.phase = Phase::Creating;
        Next::Ask(call)
    }

    fn created(&mut self, shared: &mut Shared, answer: &Result<CloudReply, CloudError>) -> Next {
        let error = match answer {
            Ok(CloudReply::Volume(volume)) => return self.found(volume),
            Ok(_) => return self.fail(Code::Aborted, "volume ID was not returned by CreateVolume"),
            Err(error) => error,
        };
        match error.code() {
            "InvalidSnapshot.NotFound" | "InvalidVolume.NotFound" => self.fail(Code::NotFound, "source was not found"),
            "IdempotentParameterMismatch" => {
                let number = shared.token_numbers.entry(self.name.clone()).or_insert(1);
                *number = number.saturating_add(1);
                let why = "parameters on this idempotent request are inconsistent with parameters used in previous request(s)";
                self.fail(Code::AlreadyExists, why)
            }
            "InvalidParameterCombination" => self.fail(Code::InvalidArgument, format!("invalid argument: {error}")),
            "VolumeLimitExceeded" => {
                self.phase = Phase::Adopting(error.clone());
                Next::Ask(CloudCall::DescribeVolumes(VolumeQuery::Name(self.name.clone())))
            }
            "MaxIOPSLimitExceeded" => self.fail(Code::Aborted, format!("limit exceeded: {error}")),
            _ => self.fail(Code::Aborted, format!("could not create volume in EC2: {error}")),
        }
    }

    fn adopt(&mut self, limit: &CloudError, answer: &Result<CloudReply, CloudError>) -> Next {
        match answer {
            Ok(CloudReply::Volumes(volumes)) => match volumes.as_slice() {
                [volume] => self.found(&volume.clone()),
                [] => self.fail(Code::Aborted, format!("limit exceeded: {limit}")),
                _ => self.fail(Code::Aborted, "multiple disks with same name"),
            },
            Err(error) if error.code() != "InvalidVolume.NotFound" => self.fail(Code::Aborted, error),
            _ => self.fail(Code::Aborted, format!("limit exceeded: {limit}")),
        }
    }

    fn found(&mut self, volume: &cloud::Volume) -> Next {
        if volume.volume_id.is_empty() {
            return self.fail(Code::Aborted, "volume ID was not returned by CreateVolume");
        }
        if volume.size_gib == 0 {
            return self.fail(Code::Aborted, "disk size was not returned by CreateVolume");
        }
        self.volume_id.clone_from(&volume.volume_id);
        self.size_gib = volume.size_gib;
        self.phase = Phase::Looking(Looks::new(Schedule::Creation));
        self.look()
    }

    fn look(&self) -> Next {
        Next::Ask(CloudCall::DescribeVolumes(VolumeQuery::Id(self.volume_id.clone())))
    }

    /// `waitForVolume`: any error ends it.
    fn looked(&mut self, mut looks: Looks, answer: &Result<CloudReply, CloudError>) -> Next {
        let gave_up =
            |op: &Self, why: &dyn std::fmt::Display| op.fail(Code::Aborted, format!("timed out waiting for volume to create: {why}"));
        let volume = match answer {
            Ok(CloudReply::Volumes(volumes)) => match volumes.as_slice() {
                [volume] => volume,
                _ => return gave_up(self, &"resource was not found"),
            },
            Ok(_) => return gave_up(self, &"unexpected answer from EC2"),
            Err(error) => return gave_up(self, error),
        };
        if volume.state == "available" || volume.state == "in-use" {
            if self.zone.is_empty() {
                self.zone.clone_from(&volume.availability_zone);
            }
            return Next::Done(Ok(ControllerReply::CreateVolume(self.reply())));
        }
        match looks.next() {
            Some(delay) => {
                self.phase = Phase::Looking(looks);
                Next::Wait(delay)
            }
            None => gave_up(self, &TIMED_OUT),
        }
    }

    fn reply(&self) -> Volume {
        Volume {
            volume_id: self.volume_id.clone(),
            // What EC2 said, so never negative.
            capacity_bytes: u64::try_from(self.size_gib).unwrap_or_default() * GIB,
            volume_context: self.parameters.context.clone(),
            content_source: self.source_of().cloned(),
            accessible_topology: vec![Segments::from([(ZONE.to_owned(), self.zone.clone())])],
        }
    }
}

/// `getVolSizeBytes`, in GiB.
fn size(capacity: CapacityRange) -> Result<i32, Error> {
    let asked = if capacity == CapacityRange::default() { DEFAULT_GIB * GIB } else { capacity.required_bytes };
    let gib = asked.div_ceil(GIB).max(u64::from(asked == 0));
    if capacity.limit_bytes > 0 && capacity.limit_bytes < gib.saturating_mul(GIB) {
        return Err(invalid("After round-up, volume size exceeds the limit specified"));
    }
    i32::try_from(gib).map_err(|_| Error::new(Code::OutOfRange, format!("{gib} GiB are more than any volume can have")))
}

/// `pickAvailabilityZone`: the first preferred, else the first requisite segment that names one.
fn pick(topology: Option<&TopologyRequirement>, keys: &[&str]) -> String {
    topology
        .into_iter()
        .flat_map(|topology| topology.preferred.iter().chain(&topology.requisite))
        .find_map(|segments| keys.iter().find_map(|key| segments.get(*key)))
        .cloned()
        .unwrap_or_default()
}

/// Whether a volume lies within one requisite segment (`checkSourceTopology`).
fn within(segments: &Segments, volume: &cloud::Volume) -> bool {
    let is = |key: &str, value: &String| segments.get(key) == Some(value);
    is(ZONE, &volume.availability_zone) || is(ZONE_OWN, &volume.availability_zone) || is(ZONE_ID, &volume.availability_zone_id)
}

/// `hex(sha256(name [-N]))` (ebs.md §1.3).
fn token(name: &str, number: Option<u32>) -> String {
    let base = match number {
        Some(number) => format!("{name}-{number}"),
        None => name.to_owned(),
    };
    Sha256::digest(base).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The dry run by which the highest IOPS are learnt (ebs.md §1.5). Zone and zone id together would be refused.
pub(super) fn limits_question(volume_type: &str, zone: &str, zone_id: &str) -> NewVolume {
    NewVolume {
        volume_type: volume_type.to_owned(),
        size_gib: 4,
        iops: Some(i32::MAX),
        availability_zone: (!zone.is_empty()).then(|| zone.to_owned()),
        availability_zone_id: (zone.is_empty() && !zone_id.is_empty()).then(|| zone_id.to_owned()),
        tags: [("CSIVolumeName".to_owned(), "IopsLimitDryRun".to_owned())].into(),
        dry_run: true,
        ..NewVolume::default()
    }
}

/// Reads the highest IOPS from the text of the dry run's error; none when it does not say. 0 is "no cap".
pub(super) fn learn_limit(_volume_type: &str, answer: &Result<CloudReply, CloudError>) -> Option<i32> {
    let text = answer.as_ref().err()?.to_string().to_lowercase();
    if text.contains("parameter iops is not supported") {
        return Some(0);
    }
    if let Some((_, after)) = text.split_once("volume iops")
        && let Some((_, after)) = after.split_once("is too high")
        && let Some((_, after)) = after.split_once("maximum is ")
    {
        return leading_number(after);
    }
    let (before, _) = text.split_once("k iops")?;
    let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
    before[digits..].parse::<i32>().ok()?.checked_mul(1000)
}

fn leading_number(text: &str) -> Option<i32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().ok()
}

/// What the real driver assumes when the dry run does not tell; 0 is "no cap".
pub(super) fn fallback_limit(volume_type: &str) -> i32 {
    match volume_type {
        "io1" => 64_000,
        "io2" => 256_000,
        "gp3" => 16_000,
        _ => 0,
    }
}

/// `capIOPS`.
pub(super) fn cap_iops(volume_type: &str, size_gib: i32, wanted: i32, max: i32, allow_increase: bool) -> i32 {
    if wanted == 0 {
        return 0;
    }
    let (min, per_gib) = match volume_type {
        "io1" => (100, 50),
        "io2" => (100, 1000),
        "gp3" => (3000, 500),
        _ => (0, 0),
    };
    let mut iops = wanted;
    if min > 0 && iops < min && allow_increase {
        iops = min;
    }
    if max > 0 {
        iops = iops.min(max);
    }
    let by_size = size_gib.saturating_mul(per_gib);
    if by_size > 0 && iops > by_size && by_size >= min {
        iops = by_size;
    }
    iops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_texts_of_ec2() {
        let learn = |message: &str| {
            let call = CloudCall::CreateVolume(NewVolume::default());
            learn_limit("gp3", &Err(call.error(400, "r-1", "InvalidParameterValue", message)))
        };
        assert_eq!(learn("Volume iops of 2147483647 is too high; maximum is 80000."), Some(80_000));
        assert_eq!(
            learn("io2 volumes configured with greater than 64 TiB or 256K IOPS or 1000:1 IOPS:GB ratio are not supported"),
            Some(256_000)
        );
        assert_eq!(learn("The parameter iops is not supported for gp2 volumes."), Some(0));
        assert_eq!(learn("Request would have succeeded, but DryRun flag is set."), None);
    }

    #[test]
    fn iops_are_capped() {
        assert_eq!(cap_iops("gp3", 10, 100, 80_000, true), 3000);
        assert_eq!(cap_iops("io1", 4, 200, 64_000, false), 200);
        assert_eq!(cap_iops("io1", 4, 500, 64_000, false), 200);
        assert_eq!(cap_iops("io2", 4, 0, 1, true), 0);
        assert_eq!(cap_iops("gp3", 4, 5000, 80_000, false), 5000, "by size would be below the minimum");
    }

    #[test]
    fn sizes_are_rounded_up() {
        let range = |required_bytes, limit_bytes| CapacityRange { required_bytes, limit_bytes };
        assert_eq!(size(range(0, 0)), Ok(100));
        assert_eq!(size(range(1, 0)), Ok(1));
        assert_eq!(size(range(GIB + 1, 0)), Ok(2));
        assert!(size(range(GIB + 1, GIB + 1)).is_err());
    }
}
