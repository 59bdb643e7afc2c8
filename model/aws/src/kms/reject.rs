//! Why a request was refused, and the one place where that becomes KMS's code, text and HTTP status.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reject {
    /// `field` is not what `rule` says.
    #[error("1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: {rule}")]
    Invalid { field: String, value: String, rule: String },
    #[error("Invalid identifier")]
    InvalidIdentifier,
    #[error("Invalid keyId '{0}'")]
    InvalidKeyId(String),
    #[error("Key '{0}' does not exist")]
    NoKey(String),
    #[error("Alias {0} is not found.")]
    NoAlias(String),
    #[error("An alias with the name {0} already exists")]
    AliasExists(String),
    #[error("Aliases that begin with alias/aws/ are reserved for AWS")]
    ReservedAlias,
    #[error("{0} is pending deletion.")]
    PendingDeletion(String),
    #[error("{0} is not pending deletion.")]
    NotPendingDeletion(String),
    #[error(
        "User: arn:aws:iam::{account}:root is not authorized to perform: kms:{action} on resource: {arn} because no resource-based policy allows the kms:{action} action"
    )]
    Managed { account: String, action: String, arn: String },
    #[error("Tag keys that begin with aws: are reserved for AWS")]
    ReservedTag,
    #[error("A key can have at most 50 tags.")]
    TooManyTags,
}

impl Reject {
    pub(super) fn invalid(field: &str, value: impl Into<String>, rule: &str) -> Self {
        Self::Invalid { field: field.to_owned(), value: value.into(), rule: rule.to_owned() }
    }
}

/// KMS's error code and HTTP status of a reject; its text is the reject's own.
pub fn reject_to_error(reject: &Reject) -> (&'static str, u16) {
    let code = match reject {
        Reject::Invalid { .. } | Reject::InvalidIdentifier => "ValidationException",
        Reject::InvalidKeyId(_) | Reject::NoKey(_) | Reject::NoAlias(_) => "NotFoundException",
        Reject::AliasExists(_) => "AlreadyExistsException",
        Reject::ReservedAlias => "NotAuthorizedException",
        Reject::PendingDeletion(_) | Reject::NotPendingDeletion(_) => "KMSInvalidStateException",
        Reject::Managed { .. } => "AccessDeniedException",
        Reject::ReservedTag => "TagException",
        Reject::TooManyTags => "LimitExceededException",
    };
    (code, 400)
}
