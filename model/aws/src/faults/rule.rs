//! What a fault is: which calls or resources it meets, and what then happens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Reject, Span};

/// What happens. Named as in AWS FIS where it has such an action, `local:*` elsewhere (users.md §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Action {
    /// The call is refused as one too many.
    Throttle,
    InternalError,
    Unavailable,
    /// The call is refused with a code of one's own.
    Error,
    /// The call is carried out later.
    Latency,
    /// The call is carried out, and the connection is closed without an answer.
    LostResponse,
    /// A describe call answers from a state of some time ago.
    EventualConsistency,
    /// The attachment stays `attaching`, and there is no device.
    AttachStuck,
    /// The attachment shows `busy`, and the device stays.
    DetachStuck,
    /// The attachment shows `attached`, and the device comes later.
    DeviceLate,
    /// The device comes under another name than the one that AttachVolume gave.
    DeviceRenamed,
    /// The snapshot stays `pending`.
    SnapshotPending,
    /// The node's agent is cut off: devices neither come nor go.
    AgentUnreachable,
}

/// Where an action acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// On calls of the API.
    Call,
    /// On volumes and snapshots.
    Storage,
    /// On a node, as long as the fault is there.
    Node,
}

/// Whether an action takes a delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    Must,
    May,
    Not,
}

impl Action {
    /// All of them: the action, its id, its short name, what it does.
    pub const ALL: [(Self, &'static str, &'static str, &'static str); 13] = [
        (Self::Throttle, "aws:fis:inject-api-throttle-error", "throttle", "calls are refused as too many (RequestLimitExceeded)"),
        (Self::InternalError, "aws:fis:inject-api-internal-error", "internal-error", "calls fail with a 500 (InternalError)"),
        (Self::Unavailable, "aws:fis:inject-api-unavailable-error", "unavailable", "calls fail with a 503 (Unavailable)"),
        (Self::Error, "local:api:error", "error", "calls fail with --code, --status and --message"),
        (Self::Latency, "local:api:latency", "latency", "calls are carried out --delay later"),
        (Self::LostResponse, "local:api:lost-response", "lost-response", "calls are carried out, and the connection closes unanswered"),
        (
            Self::EventualConsistency,
            "local:api:eventual-consistency",
            "eventual-consistency",
            "describe calls answer from the state --delay ago",
        ),
        (Self::AttachStuck, "local:ebs:attach-stuck", "attach-stuck", "attachments stay attaching, without a device"),
        (Self::DetachStuck, "local:ebs:detach-stuck", "detach-stuck", "attachments stay busy, and the device stays"),
        (Self::DeviceLate, "local:ebs:device-late", "device-late", "attachments show attached --delay before the device comes"),
        (Self::DeviceRenamed, "local:ebs:device-renamed", "device-renamed", "devices come as /dev/sd… for /dev/xvd… and the other way"),
        (Self::SnapshotPending, "local:ebs:snapshot-pending", "snapshot-pending", "snapshots stay pending"),
        (
            Self::AgentUnreachable,
            "local:node:agent-unreachable",
            "agent-unreachable",
            "the agent of --node is cut off: devices neither come nor go",
        ),
    ];

    fn entry(self) -> (&'static str, &'static str, &'static str) {
        let found = Self::ALL.iter().find(|(action, ..)| *action == self);
        found.map_or(("", "", ""), |(_, id, short, about)| (*id, *short, *about))
    }

    /// `aws:fis:inject-api-throttle-error`.
    pub fn id(self) -> &'static str {
        self.entry().0
    }

    /// `throttle`.
    pub fn short(self) -> &'static str {
        self.entry().1
    }

    pub fn scope(self) -> Scope {
        match self {
            Self::Throttle
            | Self::InternalError
            | Self::Unavailable
            | Self::Error
            | Self::Latency
            | Self::LostResponse
            | Self::EventualConsistency => Scope::Call,
            Self::AttachStuck | Self::DetachStuck | Self::DeviceLate | Self::DeviceRenamed | Self::SnapshotPending => Scope::Storage,
            Self::AgentUnreachable => Scope::Node,
        }
    }

    /// Whether it refuses calls.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Throttle | Self::InternalError | Self::Unavailable | Self::Error)
    }

    fn delay(self) -> Delay {
        match self {
            Self::Latency | Self::EventualConsistency | Self::DeviceLate => Delay::Must,
            Self::AttachStuck | Self::DetachStuck | Self::SnapshotPending => Delay::May,
            Self::Throttle
            | Self::InternalError
            | Self::Unavailable
            | Self::Error
            | Self::LostResponse
            | Self::DeviceRenamed
            | Self::AgentUnreachable => Delay::Not,
        }
    }

    /// Code, status and text of the error, as the service itself has them.
    fn error(self, service: &str) -> (&'static str, u16, &'static str) {
        match (self, service) {
            (Self::Throttle, "ec2") => ("RequestLimitExceeded", 503, "Request limit exceeded."),
            (Self::Throttle, "elasticfilesystem") => ("ThrottlingException", 429, "Rate exceeded"),
            (Self::Throttle, "kms") => ("ThrottlingException", 400, "Rate exceeded"),
            (Self::Throttle, _) => ("Throttling", 400, "Rate exceeded"),
            (Self::InternalError, "ec2") => ("InternalError", 500, "An internal error has occurred"),
            (Self::InternalError, "elasticfilesystem") => ("InternalServerError", 500, "An internal error has occurred"),
            (Self::InternalError, "kms") => ("KMSInternalException", 500, "An internal error has occurred"),
            (Self::InternalError, _) => ("InternalFailure", 500, "An internal error has occurred"),
            (Self::Error, NFS) => ("AccessDenied", 403, "access denied by server"),
            (Self::Unavailable, "ec2") => ("Unavailable", 503, "The service is unavailable. Please try again shortly."),
            (_, _) => ("ServiceUnavailable", 503, "The service is unavailable. Please try again shortly."),
        }
    }
}

/// The name is not one of [`Action::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {0:?}; there are {names}", names = Action::ALL.map(|(_, _, short, _)| short).join(", "))]
pub struct NoAction(String);

impl FromStr for Action {
    type Err = NoAction;

    fn from_str(name: &str) -> Result<Self, NoAction> {
        let found = Self::ALL.iter().find(|(_, id, short, _)| *id == name || *short == name);
        found.map(|(action, ..)| *action).ok_or_else(|| NoAction(name.to_owned()))
    }
}

impl TryFrom<String> for Action {
    type Error = NoAction;

    fn try_from(name: String) -> Result<Self, NoAction> {
        name.parse()
    }
}

impl From<Action> for String {
    fn from(action: Action) -> Self {
        action.id().to_owned()
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A probability from 0 to 1, kept in millionths so that equal ones are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(u32);

impl Share {
    pub(super) const WHOLE: u32 = 1_000_000;

    pub(super) fn millionths(self) -> u32 {
        self.0
    }
}

/// A number that is no probability.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0} is no probability; it must be between 0 and 1")]
pub struct NoShare(f64);

impl TryFrom<f64> for Share {
    type Error = NoShare;

    fn try_from(number: f64) -> Result<Self, NoShare> {
        if !(0.0..=1.0).contains(&number) {
            return Err(NoShare(number));
        }
        // Within 0..=1,000,000, so the conversion is exact.
        Ok(Self((number * f64::from(Self::WHOLE)).round() as u32))
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        f64::from(share.0) / f64::from(Share::WHOLE)
    }
}

/// What a refused call is answered with; what is not given is as the action and the service have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenError {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An error as it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    pub status: u16,
    pub code: String,
    pub message: String,
}

/// A rule of the table, as it is given. All that is not said matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub action_id: Action,
    /// `ec2`, `elasticfilesystem` (or `efs`), `kms`, `sts`; `imds` and `nfs`, which are no APIs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Names divided by commas; `Describe*` is all that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// An id that the call names, or another value in it: a client token, the value of a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// A node's name or instance id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<Share>,
    /// So many matching calls pass first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_calls: Option<u64>,
    /// After so many hits it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How long the rule is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// How long each hit lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<GivenError>,
}

/// The services, by every name they are called by.
const SERVICES: [(&str, &str); 7] = [
    ("ec2", "ec2"),
    ("efs", "elasticfilesystem"),
    ("elasticfilesystem", "elasticfilesystem"),
    ("imds", IMDS),
    ("kms", "kms"),
    ("nfs", NFS),
    ("sts", "sts"),
];
/// The instances' metadata services: no API of the account, so only a rule that names it means it.
const IMDS: &str = "imds";
/// The mount targets of EFS, likewise; a client's `Mount` is their only operation.
pub const NFS: &str = "nfs";

impl Rule {
    pub fn new(action_id: Action) -> Self {
        Self {
            action_id,
            service: None,
            operation: None,
            region: None,
            resource: None,
            node: None,
            probability: None,
            after_calls: None,
            count: None,
            duration: None,
            delay: None,
            error: None,
        }
    }

    /// Whether it says what its action needs, and nothing that would be ignored.
    pub(super) fn check(&self) -> Result<(), Reject> {
        let action = self.action_id.short();
        let refuse = |why: String| Err(Reject::Invalid { why });
        match (self.action_id.delay(), self.delay) {
            (Delay::Must, None) => return refuse(format!("{action} needs a delay: how long")),
            (Delay::Not, Some(_)) => return refuse(format!("{action} takes no delay; how long the fault lasts is its duration")),
            (Delay::Must | Delay::May, Some(_)) | (Delay::May | Delay::Not, None) => {}
        }
        if self.error.is_some() && !self.action_id.refuses() {
            return refuse(format!("{action} answers no error of its own"));
        }
        let of_calls = self.service.is_some() || self.operation.is_some() || self.region.is_some();
        if of_calls && self.action_id.scope() != Scope::Call {
            return refuse(format!("{action} does not act on calls; match a resource or a node, not service, operation or region"));
        }
        if self.action_id.scope() == Scope::Node {
            if self.node.is_none() {
                return refuse(format!("{action} needs a node"));
            }
            let partly = self.resource.is_some() || self.probability.is_some() || self.after_calls.is_some() || self.count.is_some();
            if partly {
                return refuse(format!("{action} lasts as long as the rule; it takes a node and a duration only"));
            }
        }
        if self.count == Some(0) {
            return refuse("a count of 0 would never act".to_owned());
        }
        if let Some(service) = &self.service
            && !SERVICES.iter().any(|(name, _)| name == service)
        {
            return refuse(format!("there is no service {service:?} here; there are ec2, elasticfilesystem (efs), imds, kms and sts"));
        }
        self.check_texts()
    }

    fn check_texts(&self) -> Result<(), Reject> {
        let refuse = |why: String| Err(Reject::Invalid { why });
        let texts = [&self.operation, &self.region, &self.resource, &self.node];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > 1024) {
            return refuse("what a rule matches must have 1 to 1024 characters".to_owned());
        }
        let Some(error) = &self.error else { return Ok(()) };
        if let Some(status) = error.status_code.filter(|status| !(400..=599).contains(status)) {
            return refuse(format!("{status} is no status of an error; it must be between 400 and 599"));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if let Some(code) = error.code.as_ref().filter(|code| !(1..=128).contains(&code.len()) || !code.chars().all(fits)) {
            return refuse(format!("{code:?} is no error code; it has 1 to 128 letters, digits and ._-"));
        }
        if error.message.as_ref().is_some_and(|text| text.len() > 4096 || text.chars().any(char::is_control)) {
            return refuse("the message of an error has at most 4096 bytes and no control characters".to_owned());
        }
        Ok(())
    }

    /// Whether a call is meant. `instance` is the instance of the rule's node.
    pub(super) fn matches(&self, instance: Option<&str>, call: &super::Call) -> bool {
        let service = |name: &String| SERVICES.iter().any(|(called, service)| called == name && *service == call.service);
        let operation = |names: &String| {
            names.split(',').map(str::trim).any(|name| match name.strip_suffix('*') {
                Some(prefix) => call.operation.starts_with(prefix),
                None => name == call.operation,
            })
        };
        let named = |wanted: &str| call.names.iter().any(|name| name == wanted);
        self.service.as_ref().map_or(![IMDS, NFS].contains(&&*call.service), service)
            && self.operation.as_ref().is_none_or(operation)
            && self.region.as_ref().is_none_or(|region| call.region.as_ref() == Some(region))
            && self.resource.as_deref().is_none_or(named)
            && instance.is_none_or(named)
            // Only an answer that shows something can show something old.
            && (self.action_id != Action::EventualConsistency || call.shows())
            // Only what is carried out can be lost.
            && (self.action_id != Action::LostResponse || !call.dry_run)
    }

    pub(super) fn api_error(&self, service: &str) -> ApiError {
        let (code, status, message) = self.action_id.error(service);
        let given = self.error.clone().unwrap_or_default();
        ApiError {
            status: given.status_code.unwrap_or(status),
            code: given.code.unwrap_or_else(|| code.to_owned()),
            message: given.message.unwrap_or_else(|| message.to_owned()),
        }
    }
}
