//! CreateVolume: an access point (`controller.go` CreateVolume).
//!
//! The gid is chosen from a list that was read before, and nothing keeps another call from choosing the same: two volumes may get one
//! uid and gid, as with the real driver (efs.md §0).

use std::collections::BTreeMap;

use model_common::csi::{Access, CapacityRange, Code, ControllerReply, Error, Volume, VolumeCapability};
use sha2::{Digest, Sha256};

use super::parameters::Parameters;
use super::{CallId, Event, Made, Next, Shared, access_denied, check_capabilities, invalid};
use crate::driver::cloud::{AccessPoint, CloudCall, CloudError, CloudReply, NewAccessPoint};
use crate::driver::go::clean_path;

type Answer = Result<CloudReply, CloudError>;

/// EFS takes no longer client token, CSI allows names of twice the length. The real driver passes EFS's refusal on.
const LONGEST_TOKEN: usize = 64;

/// Why the access points of the file system are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `reuseAccessPoint`: is there one with our token?
    Reusing,
    /// Which gids are taken?
    Listing,
    Creating,
    /// The token is taken: by which?
    Adopting,
    Zone,
}

#[derive(Debug, Clone)]
pub(super) struct Create {
    phase: Phase,
    name: String,
    capacity: CapacityRange,
    capabilities: Vec<VolumeCapability>,
    given: BTreeMap<String, String>,
    parameters: Parameters,
    client_token: String,
    /// Pages read so far.
    listed: Vec<AccessPoint>,
    access_point_id: String,
}

impl Create {
    pub(super) fn new(name: String, capacity: CapacityRange, capabilities: Vec<VolumeCapability>, given: BTreeMap<String, String>) -> Self {
        Self {
            phase: Phase::Listing,
            client_token: if name.len() > LONGEST_TOKEN { hash(name.as_bytes()) } else { name.clone() },
            name,
            capacity,
            capabilities,
            given,
            parameters: Parameters::default(),
            listed: Vec::new(),
            access_point_id: String::new(),
        }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (self.phase, event) {
            (_, Event::Start) => self.start(shared, id).unwrap_or_else(Next::fail),
            (Phase::Reusing | Phase::Listing | Phase::Adopting, Event::Answer(answer)) => {
                self.page(shared, id, answer).unwrap_or_else(Next::fail)
            }
            (Phase::Creating, Event::Answer(answer)) => self.created(shared, answer),
            (Phase::Zone, Event::Answer(answer)) => self.zone(shared, answer),
            (_, Event::Go) => Next::fail(Error::new(Code::Internal, "the driver woke up for nothing")),
        }
    }

    fn start(&mut self, shared: &mut Shared, id: CallId) -> Result<Next, Error> {
        self.parameters = Parameters::parse_flags(&self.given, !shared.options.tags.is_empty())?;
        if self.name.is_empty() {
            return Err(invalid("Volume name not provided"));
        }
        if self.capabilities.is_empty() {
            return Err(invalid("Volume capabilities not provided"));
        }
        check_capabilities(&self.capabilities).map_err(|why| invalid(format!("Volume capabilities not supported: {why}")))?;
        let wrong: Vec<&str> = self
            .capabilities
            .iter()
            .filter_map(|capability| match &capability.access {
                Access::Mount { fs_type, .. } if !["", "efs", "s3files"].contains(&fs_type.as_str()) => Some(fs_type.as_str()),
                _ => None,
            })
            .collect();
        if !wrong.is_empty() {
            return Err(invalid(format!("Volume fstype not supported: invalid fstype: {}", wrong.join(","))));
        }
        self.parameters.parse_rest(&self.given)?;
        match shared.sizes.get(&self.name) {
            Some(made) if made.bytes != self.capacity.required_bytes => {
                let (name, bytes) = (&self.name, made.bytes);
                return Err(Error::new(Code::AlreadyExists, format!("Volume {name:?} already exists with a capacity of {bytes} bytes")));
            }
            _ => {}
        }
        if self.parameters.reuse_access_point {
            self.client_token = hash(self.parameters.pvc_name.as_bytes());
            return Ok(self.list(Phase::Reusing));
        }
        self.allocate(shared, id)
    }

    fn list(&mut self, phase: Phase) -> Next {
        self.phase = phase;
        self.listed.clear();
        self.ask_page(None)
    }

    fn ask_page(&self, next_token: Option<String>) -> Next {
        Next::Ask(CloudCall::DescribeAccessPoints { file_system_id: self.parameters.file_system_id.clone(), next_token })
    }

    fn page(&mut self, shared: &mut Shared, id: CallId, answer: &Answer) -> Result<Next, Error> {
        let (access_points, next_token) = match answer {
            Ok(CloudReply::AccessPoints { access_points, next_token }) => (access_points, next_token),
            Ok(_) => return Err(Error::new(Code::Internal, "unexpected answer from EFS")),
            Err(error) => return Err(self.list_failed(error)),
        };
        if self.phase == Phase::Listing {
            self.listed.extend(access_points.iter().cloned());
        } else if let Some(existing) = access_points.iter().find(|point| point.client_token == self.client_token) {
            return self.adopt(shared, existing.clone());
        }
        if let Some(token) = next_token {
            return Ok(self.ask_page(Some(token.clone())));
        }
        match self.phase {
            Phase::Listing => {
                let gid = self.parameters.free_gid(&self.listed);
                let fs = &self.parameters.file_system_id;
                let gid = gid.ok_or_else(|| {
                    let why = format!("Failed to locate a free GID for given file system: {fs}.");
                    Error::new(Code::Internal, format!("{why} Please create a new storage class with a new file-system"))
                })?;
                self.create(shared, id, gid)
            }
            Phase::Reusing => self.allocate(shared, id),
            _ => {
                let message = format!("No access point for client token {} was returned: <nil>", self.client_token);
                Err(Error::new(Code::Unknown, message))
            }
        }
    }

    fn list_failed(&self, error: &CloudError) -> Error {
        let known = match error.code() {
            "AccessDeniedException" => Some("Access denied"),
            "FileSystemNotFound" => Some("Resource was not found"),
            _ => None,
        };
        let fs = &self.parameters.file_system_id;
        let found = known.map_or_else(|| format!("failed to list Access Points of efs = {fs} : {error}"), str::to_owned);
        match (self.phase, known) {
            (Phase::Reusing, _) => Error::new(Code::Unknown, format!("failed to find access point: {found}")),
            (Phase::Adopting, _) => {
                let token = &self.client_token;
                Error::new(Code::Unknown, format!("Error attempting to retrieve existing access point for client token {token}: {found}"))
            }
            (_, Some("Access denied")) => access_denied(),
            (_, Some(not_found)) => invalid(format!("File System does not exist: {not_found}")),
            (_, None) => Error::new(
                Code::Internal,
                format!("Failed to fetch Access Points or Describe File System: List Access Points failed: {error}"),
            ),
        }
    }

    fn adopt(&mut self, shared: &mut Shared, existing: AccessPoint) -> Result<Next, Error> {
        self.parameters
            .check_existing(&existing)
            .map_err(|why| Error::new(Code::AlreadyExists, format!("Invalid existing access point: {why}")))?;
        self.access_point_id = existing.access_point_id;
        Ok(self.made(shared))
    }

    /// Lists the access points for a free gid, unless both ids are given.
    fn allocate(&mut self, shared: &mut Shared, id: CallId) -> Result<Next, Error> {
        match (self.parameters.uid, self.parameters.gid) {
            (Some(_), Some(_)) => self.create(shared, id, 0),
            _ => Ok(self.list(Phase::Listing)),
        }
    }

    fn create(&mut self, shared: &mut Shared, id: CallId, allocated: i64) -> Result<Next, Error> {
        let parameters = &self.parameters;
        let directory = match &parameters.sub_path {
            Some(path) if parameters.unique_directory => format!("{path}-{}", unique(shared.options.seed, id)),
            Some(path) => path.clone(),
            None => self.name.clone(),
        };
        let path = clean_path(&format!("/{}/{directory}", parameters.base_path));
        if path.len() > 100 {
            return Err(invalid(format!("Proposed path '{path}' exceeds file system limit of 100 characters")));
        }
        if path.matches('/').count() > 5 {
            return Err(invalid(format!("Proposed path '{path}' file system limit of 4 subdirectories")));
        }
        let mut tags = BTreeMap::new();
        if parameters.enable_tagging {
            tags.insert("efs.csi.aws.com/cluster".to_owned(), "true".to_owned());
            tags.extend(shared.options.tags.clone());
        }
        self.phase = Phase::Creating;
        Ok(Next::Ask(CloudCall::CreateAccessPoint(NewAccessPoint {
            client_token: self.client_token.clone(),
            file_system_id: self.parameters.file_system_id.clone(),
            uid: self.parameters.uid.unwrap_or(allocated),
            gid: self.parameters.gid.unwrap_or(allocated),
            path,
            permissions: self.parameters.directory_perms.clone(),
            tags,
        })))
    }

    fn created(&mut self, shared: &mut Shared, answer: &Answer) -> Next {
        match answer {
            Ok(CloudReply::AccessPoint(point)) => {
                self.access_point_id.clone_from(&point.access_point_id);
                self.made(shared)
            }
            Ok(_) => Next::fail(Error::new(Code::Internal, "unexpected answer from EFS")),
            Err(error) => match error.code() {
                "AccessDeniedException" => Next::fail(access_denied()),
                "AccessPointAlreadyExists" => self.list(Phase::Adopting),
                _ => Next::fail(Error::new(
                    Code::Internal,
                    format!(
                        "Failed to create Access point in File System {} : Failed to create access point: {error}",
                        self.parameters.file_system_id
                    ),
                )),
            },
        }
    }

    fn made(&mut self, shared: &mut Shared) -> Next {
        if self.parameters.enforce_zone_affinity {
            self.phase = Phase::Zone;
            return Next::Ask(CloudCall::DescribeFileSystems { file_system_id: self.parameters.file_system_id.clone() });
        }
        self.done(shared, None)
    }

    fn zone(&mut self, shared: &mut Shared, answer: &Answer) -> Next {
        match answer {
            Ok(CloudReply::FileSystems(found)) => match found.as_slice() {
                [file_system] => self.done(shared, file_system.availability_zone.as_deref()),
                _ => Next::fail(Error::new(
                    Code::Internal,
                    format!(
                        "Failed to describe file system for one zone AZ discovery: DescribeFileSystem failed. Expected exactly 1 file \
                         system in DescribeFileSystem result. However, recevied {} file systems",
                        found.len()
                    ),
                )),
            },
            Ok(_) => Next::fail(Error::new(Code::Internal, "unexpected answer from EFS")),
            Err(error) => Next::fail(match error.code() {
                "AccessDeniedException" => access_denied(),
                "FileSystemNotFound" => invalid("File System does not exist: Resource was not found"),
                _ => Error::new(
                    Code::Internal,
                    format!("Failed to describe file system for one zone AZ discovery: Describe File System failed: {error}"),
                ),
            }),
        }
    }

    fn done(&self, shared: &mut Shared, zone: Option<&str>) -> Next {
        let made = Made { bytes: self.capacity.required_bytes, access_point_id: self.access_point_id.clone() };
        shared.sizes.insert(self.name.clone(), made);
        Next::Done(Ok(ControllerReply::CreateVolume(Volume {
            volume_id: format!("efs:{}::{}", self.parameters.file_system_id, self.access_point_id),
            capacity_bytes: self.capacity.required_bytes,
            volume_context: BTreeMap::new(),
            content_source: None,
            accessible_topology: zone
                .map(|zone| BTreeMap::from([("topology.kubernetes.io/zone".to_owned(), zone.to_owned())]))
                .into_iter()
                .collect(),
        })))
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A version 4 UUID, drawn from the seed and the call, so that a replay makes the same.
fn unique(seed: u64, id: CallId) -> String {
    let mut hex = hash(&[seed.to_be_bytes(), id.to_be_bytes()].concat());
    hex.replace_range(12..13, "4");
    hex.replace_range(16..17, "a");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}
