//! Session tokens of IMDSv2. Nothing is kept of them: a token says until when it lives, under a MAC that names its instance.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE as BASE64;
use hmac::{Hmac, Mac};
use http::HeaderMap;
use model_aws::At;
use sha2::Sha256;

/// The header of a token.
pub const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// The longest life of a token: six hours.
const LONGEST: u32 = 21_600;

/// How a token begins, and the lengths of its parts: nonce, end, MAC.
const START: [u8; 4] = [1, 0, 4, 0];
const LENGTH: usize = 40;
const SIGNED: usize = 20;

/// Makes and checks tokens.
#[derive(Clone)]
pub struct Tokens(Arc<[u8]>);

/// The life that a request asks for; none where it is missing, no number or out of range.
pub fn seconds(headers: &HeaderMap) -> Option<u32> {
    let seconds: u32 = headers.get(TTL)?.to_str().ok()?.parse().ok()?;
    (1..=LONGEST).contains(&seconds).then_some(seconds)
}

impl Tokens {
    /// With the secret in a file, which is made when it is not there.
    pub fn open(file: &Path) -> std::io::Result<Self> {
        match std::fs::read(file) {
            Ok(secret) if secret.len() == 32 => return Ok(Self(secret.into())),
            // A crash may have left part of one; tokens made with it are refused then, and clients take new ones.
            Ok(_) => std::fs::remove_file(file)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let secret = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(&secret)?;
        Ok(Self(secret.into()))
    }

    /// A token of an instance.
    pub fn issue(&self, instance: &str, seconds: u32, at: At) -> String {
        let ends = at.0.saturating_add(i64::from(seconds) * 1000);
        let nonce = uuid::Uuid::new_v4().into_bytes();
        let mut token = START.to_vec();
        token.extend_from_slice(&nonce[..8]);
        token.extend_from_slice(&ends.to_be_bytes());
        let mac = self.mac(instance, &token).finalize().into_bytes();
        token.extend_from_slice(&mac[..LENGTH - SIGNED]);
        BASE64.encode(token)
    }

    /// The seconds that a token of this instance still lives; none for any other.
    pub fn check(&self, instance: &str, token: &str, at: At) -> Option<u32> {
        let token = BASE64.decode(token).ok().filter(|token| token.len() == LENGTH)?;
        let (signed, mac) = token.split_at(SIGNED);
        self.mac(instance, signed).verify_truncated_left(mac).ok()?;
        let ends = i64::from_be_bytes(signed.get(12..)?.try_into().ok()?);
        let left = ends.saturating_sub(at.0);
        if left <= 0 { None } else { u32::try_from(left.saturating_add(999) / 1000).ok() }
    }

    fn mac(&self, instance: &str, signed: &[u8]) -> Hmac<Sha256> {
        crate::auth::mac(&self.0, &[instance.as_bytes(), signed].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_instance_and_of_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("imds/key");
        let tokens = Tokens::open(&file).unwrap();
        let token = tokens.issue("i-1", 10, At(1000));
        assert_eq!(token.len(), 56);
        assert_eq!(tokens.check("i-1", &token, At(1000)), Some(10));
        assert_eq!(tokens.check("i-1", &token, At(10_999)), Some(1));
        assert_eq!(tokens.check("i-1", &token, At(11_000)), None, "over");
        assert_eq!(tokens.check("i-2", &token, At(1000)), None, "of another instance");
        for wrong in ["", "x", &token[1..], &token.replace('=', ""), &BASE64.encode([0; LENGTH])] {
            assert_eq!(tokens.check("i-1", wrong, At(1000)), None, "{wrong}");
        }
        // Another start knows it; another secret does not.
        assert_eq!(Tokens::open(&file).unwrap().check("i-1", &token, At(1000)), Some(10));
        assert_eq!(Tokens::open(&dir.path().join("other")).unwrap().check("i-1", &token, At(1000)), None);
        assert_ne!(tokens.issue("i-1", 10, At(1000)), token);
        std::fs::write(&file, b"half").unwrap();
        assert_eq!(Tokens::open(&file).unwrap().check("i-1", &token, At(1000)), None);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_life_is_from_one_second_to_six_hours() {
        let asked = |text: &str| seconds(&HeaderMap::from_iter([(TTL.parse().unwrap(), text.parse().unwrap())]));
        for (text, seconds) in
            [("1", Some(1)), ("21600", Some(21_600)), ("0", None), ("21601", None), ("", None), ("-1", None), ("1h", None)]
        {
            assert_eq!(asked(text), seconds, "{text}");
        }
        assert_eq!(seconds(&HeaderMap::new()), None);
    }
}
