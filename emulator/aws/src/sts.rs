//! STS: who calls, and temporary credentials, which every service here accepts.

use serde::{Deserialize, Serialize};

use crate::auth::{self, Auth, Session};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::events::seconds;
use crate::identity::{self, Invalid};
use crate::query::Params;
use crate::xml;
use model_aws::At;

pub const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// The actions that this service answers.
pub const ACTIONS: [&str; 4] = ["GetCallerIdentity", "AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken"];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Identity {
    arn: String,
    user_id: String,
    account: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SessionToken {
    credentials: Credentials,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_from_web_identity_token: Option<String>,
    credentials: Credentials,
    assumed_role_user: AssumedRoleUser,
    packed_policy_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedRoleUser {
    arn: String,
    assumed_role_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRole {
    role_arn: String,
    role_session_name: String,
    duration_seconds: Option<u32>,
    web_identity_token: Option<String>,
}

/// What `AssumeRole*` may hold beside; it changes nothing here.
const IGNORED: [&str; 9] =
    ["ExternalId", "Policy", "PolicyArns", "Tags", "TransitiveTagKeys", "SerialNumber", "TokenCode", "SourceIdentity", "ProviderId"];

/// Answers one action; `caller` is whose temporary credentials signed it.
pub fn handle(
    ctx: &Ctx,
    auth: &Auth,
    action: &str,
    mut params: Params,
    caller: Option<&Session>,
    at: At,
    request_id: &str,
) -> Result<String, Ec2Error> {
    let account = &ctx.world.account;
    params.forget(&IGNORED);
    match action {
        "GetCallerIdentity" => {
            let identity = match caller {
                Some(Session { role: Some(role), name, account, .. }) => Identity {
                    arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{name}"),
                    user_id: format!("{}:{name}", role_id(role)),
                    account: account.clone(),
                },
                Some(Session { role: None, .. }) | None => {
                    Identity { arn: format!("arn:aws:iam::{account}:root"), user_id: account.clone(), account: account.clone() }
                }
            };
            xml::query_response(NAMESPACE, action, &identity, request_id)
        }
        "GetSessionToken" => {
            #[derive(Deserialize)]
            #[serde(rename_all = "PascalCase")]
            struct GetSessionToken {
                duration_seconds: Option<u32>,
            }
            let request: GetSessionToken = params.read()?;
            let expires = after(at, duration(request.duration_seconds, 900..=129_600, 43_200)?);
            let session = Session { role: None, name: String::new(), account: account.clone(), expires };
            let credentials = credentials(auth, &session);
            xml::query_response(NAMESPACE, action, &SessionToken { credentials }, request_id)
        }
        "AssumeRole" | "AssumeRoleWithWebIdentity" => {
            let request: AssumeRole = params.read()?;
            let role = check_role(&request)?;
            let identity = match action {
                "AssumeRoleWithWebIdentity" => Some(web_identity(ctx, auth, &request, at)?),
                _ => None,
            };
            let seconds = duration(request.duration_seconds, 900..=43_200, 3600)?;
            let name = &request.role_session_name;
            let account = role_account(&request.role_arn).unwrap_or(account);
            let session =
                Session { role: Some(role.to_owned()), name: name.clone(), account: account.to_owned(), expires: after(at, seconds) };
            let provider = identity.as_ref().map(|identity| provider_arn(&ctx.world.account, &identity.issuer));
            let (subject, audience) = identity.map(|identity| (identity.subject, identity.audience)).unzip();
            let assumed = Assumed {
                subject_from_web_identity_token: subject,
                credentials: credentials(auth, &session),
                assumed_role_user: AssumedRoleUser {
                    arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{name}"),
                    assumed_role_id: format!("{}:{name}", role_id(role)),
                },
                packed_policy_size: None,
                provider,
                audience,
            };
            xml::query_response(NAMESPACE, action, &assumed, request_id)
        }
        _ => Err(Ec2Error::new("InvalidAction", format!("Could not find operation {action} for version 2011-06-15"))),
    }
}

/// Whose web identity a request holds. No policy says which roles it may have, so it may have each of this account.
fn web_identity(ctx: &Ctx, auth: &Auth, request: &AssumeRole, at: At) -> Result<identity::Identity, Ec2Error> {
    let Some(token) = &request.web_identity_token else {
        return Err(Ec2Error::new("MissingParameter", "The request must contain the parameter WebIdentityToken"));
    };
    let lax = matches!(auth, Auth::Accept);
    let found = identity::check(&ctx.providers, lax, token, identity::STS, at).and_then(|found| {
        let elsewhere = role_account(&request.role_arn).is_some_and(|account| account != ctx.world.account);
        if elsewhere && !lax { Err(Invalid::NoProvider(found.issuer)) } else { Ok(found) }
    });
    found.map_err(|invalid| match invalid {
        Invalid::Expired { .. } => Ec2Error::new("ExpiredTokenException", invalid.to_string()),
        Invalid::NotJwt
        | Invalid::NoClaim(_)
        | Invalid::NoProvider(_)
        | Invalid::Audience
        | Invalid::NoKey
        | Invalid::Signature
        | Invalid::NotYet { .. } => Ec2Error::new("InvalidIdentityToken", invalid.to_string()),
    })
}

fn provider_arn(account: &str, issuer: &str) -> String {
    format!("arn:aws:iam::{account}:oidc-provider/{}", issuer.strip_prefix("https://").unwrap_or(issuer))
}

fn after(at: At, seconds: u32) -> At {
    At(at.0.saturating_add(i64::from(seconds) * 1000))
}

/// The account in a role's ARN.
pub fn role_account(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').nth(3)
}

/// The name in a role's ARN, after checking the request's forms.
fn check_role(request: &AssumeRole) -> Result<&str, Ec2Error> {
    let invalid = |value: &str, name: &str, rule: &str| {
        Err(Ec2Error::new(
            "ValidationError",
            format!("1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {rule}"),
        ))
    };
    let session = &request.role_session_name;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if !(2..=64).contains(&session.len()) || !session.chars().all(fits) {
        return invalid(session, "roleSessionName", "Member must satisfy regular expression pattern: [\\w+=,.@-]{2,64}");
    }
    let arn = &request.role_arn;
    let name = arn.split_once(":role/").and_then(|(_, path)| path.rsplit('/').next()).filter(|name| !name.is_empty());
    let account = role_account(arn).is_some_and(|account| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()));
    match name {
        Some(name) if account && arn.len() <= 2048 => Ok(name),
        _ => invalid(arn, "roleArn", "Member must be the ARN of a role"),
    }
}

fn duration(asked: Option<u32>, range: std::ops::RangeInclusive<u32>, default: u32) -> Result<u32, Ec2Error> {
    let seconds = asked.unwrap_or(default);
    if range.contains(&seconds) {
        return Ok(seconds);
    }
    let (rule, bound) = if seconds < *range.start() { ("greater", range.start()) } else { ("less", range.end()) };
    Err(Ec2Error::new(
        "ValidationError",
        format!(
            "1 validation error detected: Value '{seconds}' at 'durationSeconds' failed to satisfy constraint: Member must have value {rule} than or equal to {bound}"
        ),
    ))
}

fn credentials(auth: &Auth, session: &Session) -> Credentials {
    let auth::Credentials { access_key_id, secret_access_key, session_token, expires } = auth.issue(session);
    Credentials { access_key_id, secret_access_key, session_token, expiration: seconds(expires) }
}

/// The id of a role, from its name.
pub fn role_id(role: &str) -> String {
    unique_id("AROA", role)
}

/// An id as IAM gives its things: four letters for the kind and 17 more characters.
pub fn unique_id(kind: &str, name: &str) -> String {
    let mut digest = model_common::digest::Digest::default();
    digest.bytes(name.as_bytes());
    format!("{kind}0{digest}").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_bounds() {
        assert_eq!(duration(None, 900..=43_200, 3600).unwrap(), 3600);
        assert!(duration(Some(1), 900..=43_200, 3600).unwrap_err().message.contains("greater than or equal to 900"));
    }

    #[test]
    fn roles_are_checked() {
        let check = |arn: &str, session: &str| {
            let request =
                AssumeRole { role_arn: arn.into(), role_session_name: session.into(), duration_seconds: None, web_identity_token: None };
            check_role(&request).map(str::to_owned).map_err(|error| error.code.into_owned())
        };
        assert_eq!(check("arn:aws:iam::123456789012:role/path/name", "ab"), Ok("name".into()));
        assert_eq!(check("arn:aws:iam::123456789012:user/name", "ab"), Err("ValidationError".into()));
        assert_eq!(check("arn:aws:iam::123456789012:role/name", "a b"), Err("ValidationError".into()));
    }
}
