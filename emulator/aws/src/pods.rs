//! The credentials of pods (EKS Pod Identity): what the agent on an EKS node serves at http://169.254.170.23/v1/credentials.
//!
//! A container has the address in `AWS_CONTAINER_CREDENTIALS_FULL_URI` and a service account token for `pods.eks.amazonaws.com`
//! in the file that `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` names; the world's associations say which role it has.

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode, header};
use model_aws::At;
use serde_json::json;

use crate::auth::{Auth, Session};
use crate::ctx::Ctx;
use crate::identity::{self, Identity, Invalid};
use crate::{events, xml};

/// Where they are.
pub const PATH: &str = "/v1/credentials";

/// How long they live: six hours, as on EKS.
const LIFE_MS: i64 = 6 * 3_600_000;
/// The longest name of a session.
const LONGEST: usize = 64;

/// Answers one request for credentials.
pub fn credentials(ctx: &Ctx, auth: &Auth, parts: &Parts, at: At) -> Response {
    if parts.method != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "InvalidRequestException", "only GET is allowed");
    }
    let token = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    if token.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "InvalidParameterException", "Service account token cannot be empty");
    }
    let lax = matches!(auth, Auth::Accept);
    let identity = match identity::check(&ctx.providers, lax, token, identity::PODS, at) {
        Ok(identity) => identity,
        Err(invalid @ Invalid::Expired { .. }) => return refuse(StatusCode::BAD_REQUEST, "ExpiredTokenException", &invalid.to_string()),
        Err(invalid) => return refuse(StatusCode::BAD_REQUEST, "InvalidTokenException", &invalid.to_string()),
    };
    let associations = &ctx.world.pod_identity_associations;
    let of = |identity: &Identity| {
        let (namespace, name) = identity.account.as_ref()?;
        let association = associations.iter().find(|one| one.namespace == *namespace && one.service_account == *name)?;
        association.role().map(|(account, role)| (account.to_owned(), role.to_owned(), name.clone()))
    };
    let Some((account, role, name)) = of(&identity) else {
        let message = format!("No association found for {}; add it to podIdentityAssociations of the world", identity.subject);
        return refuse(StatusCode::NOT_FOUND, "ResourceNotFoundException", &message);
    };
    let mut name = format!("eks-ebbtide-{name}");
    name.truncate(LONGEST);
    let session = Session { role: Some(role), name, account: account.clone(), expires: At(at.0.saturating_add(LIFE_MS)) };
    let issued = auth.issue(&session);
    let body = json!({
        "AccessKeyId": issued.access_key_id,
        "SecretAccessKey": issued.secret_access_key,
        "Token": issued.session_token,
        "AccountId": account,
        "Expiration": events::seconds(issued.expires),
    });
    axum::Json(body).into_response()
}

/// A refusal in the agent's form.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, format!("[{}]: ({code}): {message}, fault: client\n", xml::request_id())).into_response()
}
