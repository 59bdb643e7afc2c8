//! Errors of the EC2 query protocol (ebs.md §1.2): a code that programs match, a text that people read, an HTTP status.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};

use crate::xml;

/// An error as EC2 (and STS, with another frame) reports it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Ec2Error {
    pub code: Cow<'static, str>,
    pub message: String,
    pub status: u16,
}

impl Ec2Error {
    /// An error with the HTTP status that EC2 uses for its code.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let status = match code.as_ref() {
            "DryRunOperation" => 412,
            "UnauthorizedOperation" => 403,
            "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" | "InsufficientInstanceCapacity" => 503,
            "AuthFailure" | "SignatureDoesNotMatch" | "InvalidClientTokenId" | "MissingAuthenticationToken" => 401,
            "InternalError" => 500,
            _ => 400,
        };
        Self { code, message: message.into(), status }
    }

    /// What a request with `DryRun=true` answers when everything about it is right.
    pub fn dry_run() -> Self {
        Self::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    }

    /// An action that this endpoint does not know.
    pub fn invalid_action(action: &str) -> Self {
        Self::new("InvalidAction", format!("The action {action} is not valid for this web service."))
    }
}

impl IntoResponse for Ec2Error {
    fn into_response(self) -> Response {
        xml::respond(self.status, &xml::request_id(), |request_id| xml::ec2_error(&self, request_id))
    }
}
