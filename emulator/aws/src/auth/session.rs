//! Temporary credentials: who they are of and until when they live is written in the session token, under a MAC, so that nothing
//! need be kept; the access key and its secret follow from the token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Mac;
use model_aws::At;
use serde::{Deserialize, Serialize};

use super::{Auth, mac};

/// Whose credentials they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The role's name; none for the account's own (`GetSessionToken`).
    #[serde(rename = "r")]
    pub role: Option<String>,
    /// The name of the role's session.
    #[serde(rename = "n")]
    pub name: String,
    #[serde(rename = "a")]
    pub account: String,
    #[serde(rename = "e")]
    pub expires: At,
}

/// What a client signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
    pub expires: At,
}

/// The alphabet of access key ids.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const MAC_LENGTH: usize = 32;

impl Auth {
    /// Credentials of a session. The same session has the same credentials.
    pub fn issue(&self, session: &Session) -> Credentials {
        // A struct of strings and a number: this cannot fail.
        let text = serde_json::to_vec(session).unwrap_or_default();
        let mut token = self.seal(&text).finalize().into_bytes().to_vec();
        let access_key_id = access_key(&token);
        token.extend_from_slice(&text);
        Credentials {
            secret_access_key: self.session_secret(&access_key_id),
            session_token: BASE64.encode(token),
            access_key_id,
            expires: session.expires,
        }
    }

    /// The session of a token that was given with this access key; none where the two were not given out here together.
    pub fn session(&self, access_key_id: &str, token: &str) -> Option<Session> {
        let token = BASE64.decode(token).ok()?;
        let (seal, text) = token.split_at_checked(MAC_LENGTH)?;
        self.seal(text).verify_slice(seal).ok()?;
        if access_key(seal) == access_key_id { serde_json::from_slice(text).ok() } else { None }
    }

    /// The secret of a temporary access key. It is made from a configured secret, so that nobody can guess it.
    pub(super) fn session_secret(&self, access_key: &str) -> String {
        // 40 characters, as AWS's secrets have.
        BASE64.encode(&mac(format!("ebbtide session {}", self.root()).as_bytes(), access_key.as_bytes()).finalize().into_bytes()[..30])
    }

    fn seal(&self, text: &[u8]) -> hmac::Hmac<sha2::Sha256> {
        mac(format!("ebbtide token {}", self.root()).as_bytes(), text)
    }

    fn root(&self) -> &str {
        match self {
            Auth::Verify { keys } => keys.values().next().map_or("", String::as_str),
            Auth::Accept => "test",
        }
    }
}

/// `ASIA` and 16 characters, from a token's seal.
fn access_key(seal: &[u8]) -> String {
    let letters = seal.iter().take(16).map(|byte| char::from(BASE32[usize::from(byte & 31)]));
    "ASIA".chars().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn verify(secret: &str) -> Auth {
        Auth::Verify { keys: BTreeMap::from([("AKIDEXAMPLE".to_owned(), secret.to_owned())]) }
    }

    #[test]
    fn a_token_says_whose_it_is_to_who_gave_it() {
        let session = Session { role: Some("r".into()), name: "i-1".into(), account: "000000000000".into(), expires: At(5) };
        let auth = verify("a");
        let credentials = auth.issue(&session);
        assert_eq!((credentials.access_key_id.len(), credentials.secret_access_key.len()), (20, 40));
        assert_eq!(auth.issue(&session), credentials);
        assert_eq!(auth.session(&credentials.access_key_id, &credentials.session_token), Some(session.clone()));
        assert_eq!(verify("b").session(&credentials.access_key_id, &credentials.session_token), None, "another secret");
        let other = auth.issue(&Session { name: "i-2".into(), ..session });
        assert_eq!(auth.session(&credentials.access_key_id, &other.session_token), None, "another key");
        assert_ne!(other.secret_access_key, credentials.secret_access_key);
        assert_ne!(verify("b").issue(&auth.session(&other.access_key_id, &other.session_token).unwrap()), other);
        for wrong in ["", "x", "AAAA"] {
            assert_eq!(auth.session(&credentials.access_key_id, wrong), None);
        }
    }
}
