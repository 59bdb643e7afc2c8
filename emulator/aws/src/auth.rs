//! Signatures (AWS Signature Version 4, in headers). By default they are read for the service and the key's name only;
//! [`Auth::Verify`] checks them.

mod session;

use std::collections::BTreeMap;

use emulator_common::sigv4::{encode, signing_key};
use hmac::{Hmac, Mac};
use http::request::Parts;
use http::{HeaderMap, header};
use model_aws::At;
use sha2::{Digest, Sha256};

pub use session::{Credentials, Session};

/// What is done about signatures.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Any signature is accepted, and none.
    #[default]
    Accept,
    /// Requests must be signed with one of these keys: access key id to secret.
    Verify { keys: BTreeMap<String, String> },
}

/// The header of a temporary key's token.
pub const SESSION_TOKEN: &str = "x-amz-security-token";

/// How far a request's time may be from ours.
const MAX_SKEW_MS: i64 = 15 * 60 * 1000;

/// The parts of `Authorization: AWS4-HMAC-SHA256 Credential=…/20261123/us-east-1/ec2/aws4_request, SignedHeaders=…, Signature=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credential<'a> {
    pub access_key: &'a str,
    pub date: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    pub signed_headers: &'a str,
    pub signature: &'a str,
}

impl<'a> Credential<'a> {
    /// Reads the header; none where it is not there or not of this form.
    pub fn of(headers: &'a HeaderMap) -> Option<Self> {
        let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("AWS4-HMAC-SHA256")?;
        let (mut scope, mut signed_headers, mut signature) = (None, "", "");
        for part in text.split(',') {
            match part.trim().split_once('=')? {
                ("Credential", value) => scope = Some(value),
                ("SignedHeaders", value) => signed_headers = value,
                ("Signature", value) => signature = value,
                _ => {}
            }
        }
        // The access key may hold slashes; the scope is the last four.
        let mut parts = scope?.rsplitn(5, '/');
        let _terminator = parts.next()?;
        let (service, region, date, access_key) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self { access_key, date, region, service, signed_headers, signature })
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("Request is missing Authentication Token")]
    Missing,
    #[error("AWS was not able to validate the provided access credentials")]
    UnknownKey,
    /// The session token is not of the key, or not of this endpoint.
    #[error("The security token included in the request is invalid.")]
    UnknownToken,
    #[error("The security token included in the request is expired")]
    Expired,
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    #[error("Signature expired or not yet valid: {0} is more than 15 minutes from the time of this endpoint")]
    Skewed(String),
}

impl Auth {
    /// Checks a request with its whole body.
    pub fn check(&self, at: At, parts: &Parts, body: &[u8]) -> Result<(), Denied> {
        let Auth::Verify { keys } = self else { return Ok(()) };
        let credential = Credential::of(&parts.headers).ok_or(Denied::Missing)?;
        let secret = match keys.get(credential.access_key) {
            Some(secret) => secret.clone(),
            None => {
                let token = parts.headers.get(SESSION_TOKEN).ok_or(Denied::UnknownKey)?.to_str().unwrap_or_default();
                let session = self.session(credential.access_key, token).ok_or(Denied::UnknownToken)?;
                if session.expires <= at {
                    return Err(Denied::Expired);
                }
                self.session_secret(credential.access_key)
            }
        };
        let time = parts.headers.get("x-amz-date").and_then(|value| value.to_str().ok()).ok_or(Denied::Missing)?;
        let signed_at = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", time)
            .and_then(|time| time.to_datetime())
            .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| Denied::Skewed(time.to_owned()))?;
        let skew = signed_at.timestamp().as_millisecond().saturating_sub(at.0);
        if skew.saturating_abs() > MAX_SKEW_MS || !time.starts_with(credential.date) {
            return Err(Denied::Skewed(time.to_owned()));
        }
        // What is not signed could be changed on the way: the names that decide must be.
        if !["host", "x-amz-date"].iter().all(|name| credential.signed_headers.split(';').any(|signed| signed == *name)) {
            return Err(Denied::Mismatch);
        }
        let request = canonical_request(parts, credential.signed_headers, body);
        let scope = format!("{}/{}/{}/aws4_request", credential.date, credential.region, credential.service);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(request.as_bytes())));
        let key = signing_key(&secret, credential.date, credential.region, credential.service);
        let given = hex::decode(credential.signature).map_err(|_| Denied::Mismatch)?;
        mac(&key, text.as_bytes()).verify_slice(&given).map_err(|_| Denied::Mismatch)
    }
}

/// The MAC of a text.
pub(crate) fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of every length: this cannot fail.
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(text);
    mac
}

fn canonical_request(parts: &Parts, signed_headers: &str, body: &[u8]) -> String {
    let mut query: Vec<(String, String)> = form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes())
        .map(|(name, value)| (encode(&name, false), encode(&value, false)))
        .collect();
    query.sort();
    let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let mut headers = String::new();
    for name in signed_headers.split(';') {
        let values = parts.headers.get_all(name).iter().map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        headers.push_str(&format!("{name}:{}\n", values.collect::<Vec<_>>().join(",")));
    }
    // Every service but S3 encodes the path, which is encoded already, once more.
    let path = encode(parts.uri.path(), true);
    format!("{}\n{path}\n{query}\n{headers}\n{signed_headers}\n{}", parts.method, hex::encode(Sha256::digest(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the AWS documentation (Signature Version 4, ListUsers), whose signature is published.
    fn example() -> (Parts, Auth) {
        let request = http::Request::get("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08")
            .header("host", "iam.amazonaws.com")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("x-amz-date", "20150830T123600Z")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, \
                 Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            )
            .body(())
            .unwrap();
        let keys = BTreeMap::from([("AKIDEXAMPLE".to_owned(), "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned())]);
        (request.into_parts().0, Auth::Verify { keys })
    }

    /// 2015-08-30T12:36:00Z
    const THEN: At = At(1_440_938_160_000);

    #[test]
    fn the_published_example_verifies() {
        let (parts, auth) = example();
        assert_eq!(auth.check(THEN, &parts, b""), Ok(()));
        assert_eq!(auth.check(THEN, &parts, b"x"), Err(Denied::Mismatch));
        assert!(matches!(auth.check(At(THEN.0 + 1_000_000), &parts, b""), Err(Denied::Skewed(_))));
    }

    #[test]
    fn what_is_missing_or_unknown_is_denied() {
        let (mut parts, auth) = example();
        let other = Auth::Verify { keys: BTreeMap::from([("other".to_owned(), "x".to_owned())]) };
        assert_eq!(other.check(THEN, &parts, b""), Err(Denied::UnknownKey));
        parts.headers.remove("authorization");
        assert_eq!(auth.check(THEN, &parts, b""), Err(Denied::Missing));
        assert_eq!(Auth::Accept.check(THEN, &parts, b""), Ok(()));
    }

    #[test]
    fn a_temporary_key_needs_its_token_in_its_time() {
        let (mut parts, auth) = example();
        let issued = auth.issue(&Session { role: None, name: "s".into(), account: "000000000000".into(), expires: At(THEN.0 + 1) });
        let header = parts.headers["authorization"].to_str().unwrap().replace("AKIDEXAMPLE", &issued.access_key_id);
        parts.headers.insert("authorization", header.parse().unwrap());
        assert_eq!(auth.check(THEN, &parts, b""), Err(Denied::UnknownKey));
        parts.headers.insert(SESSION_TOKEN, "nonsense".parse().unwrap());
        assert_eq!(auth.check(THEN, &parts, b""), Err(Denied::UnknownToken));
        parts.headers.insert(SESSION_TOKEN, issued.session_token.parse().unwrap());
        assert_eq!(auth.check(THEN, &parts, b""), Err(Denied::Mismatch), "known, but signed with another secret");
        assert_eq!(auth.check(At(THEN.0 + 1), &parts, b""), Err(Denied::Expired));
    }

    #[test]
    fn the_scope_is_read_from_the_end() {
        let (parts, _) = example();
        let credential = Credential::of(&parts.headers).unwrap();
        assert_eq!((credential.service, credential.region, credential.access_key), ("iam", "us-east-1", "AKIDEXAMPLE"));
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, "AWS4-HMAC-SHA256 nonsense".parse().unwrap())]);
        assert_eq!(Credential::of(&headers), None);
    }
}
