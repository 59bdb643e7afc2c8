//! Tokens of service accounts: signed JWTs, with the issuer's documents by which others check them (OIDC discovery).
//!
//! They are signed with ES256, one of the algorithms of kube-apiserver and of STS, and not with the RS256 of EKS: an RSA key takes
//! seconds to find, which nobody who starts this would wait for, and no client looks. The key is kept in the data directory. Beside
//! it lie the public keys, for who cannot ask the API: the AWS side, which takes these tokens for roles (IRSA).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use emulator_common::places::Places;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tls::{self, CredentialsError};

/// A token cannot be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct SignError(String);

/// What a token says (the claims of kube-apiserver).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// What a token is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    pub serviceaccount: Named,
}

/// An object by name and uid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub uid: String,
}

/// Signs and checks.
pub struct Signer {
    /// `https://127.0.0.1:6443`
    pub issuer: String,
    pair: EcdsaKeyPair,
    id: String,
}

impl Signer {
    /// With the key of a data directory, which is made when it is not there.
    pub fn open(places: &Places, issuer: String) -> Result<Self, CredentialsError> {
        let path = places.kube().join("sa.key");
        let pem = match tls::read(&path)? {
            Some(pem) => pem,
            None => {
                let pem = rcgen::KeyPair::generate()?.serialize_pem();
                tls::write_private(&path, &pem)?;
                pem
            }
        };
        let unusable = |why: String| CredentialsError::SigningKey { path: path.clone(), why };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let random = ring::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random);
        let pair = pair.map_err(|error| unusable(error.to_string()))?;
        let id = BASE64.encode(ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref()));
        let signer = Self { issuer, pair, id };
        tls::write_private(&places.key_set(), &signer.keys().to_string())?;
        Ok(signer)
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let claims = serde_json::to_value(claims).map_err(|error| SignError(error.to_string()))?;
        let text = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.id, "typ": "JWT"})), part(&claims));
        let random = ring::rand::SystemRandom::new();
        let signature = self.pair.sign(&random, text.as_bytes()).map_err(|_| SignError("no random numbers".to_owned()))?;
        Ok(format!("{text}.{}", BASE64.encode(signature)))
    }

    /// The claims of a token of ours that has not expired; none of any other.
    pub fn check(&self, token: &str, now: i64) -> Option<Claims> {
        let (text, signature) = token.rsplit_once('.')?;
        let (_, claims) = text.split_once('.')?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        public.verify(text.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        (claims.iss == self.issuer && claims.exp > now).then_some(claims)
    }

    /// `/openid/v1/jwks`
    pub fn keys(&self) -> Value {
        // An uncompressed point: a byte 4, then x and y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }

    /// `/.well-known/openid-configuration`
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_checked_with_the_key_that_signed_it() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path());
        std::fs::create_dir_all(places.kube()).unwrap();
        let signer = Signer::open(&places, "https://127.0.0.1:1".into()).unwrap();
        let claims = Claims {
            aud: vec!["sts.amazonaws.com".into()],
            exp: 100,
            iat: 1,
            iss: signer.issuer.clone(),
            jti: "j".into(),
            kubernetes: Bound { namespace: "default".into(), ..Bound::default() },
            nbf: 1,
            sub: "system:serviceaccount:default:a".into(),
        };
        let token = signer.sign(&claims).unwrap();
        assert_eq!(signer.check(&token, 99), Some(claims.clone()));
        assert_eq!(signer.check(&token, 100), None, "expired");
        // Another start has the same key; another issuer does not take it; nor does anybody when it was changed.
        assert_eq!(Signer::open(&places, signer.issuer.clone()).unwrap().check(&token, 99), Some(claims.clone()));
        assert_eq!(Signer::open(&places, "https://other".into()).unwrap().check(&token, 99), None);
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = BASE64.encode(serde_json::to_string(&Claims { sub: "system:serviceaccount:default:b".into(), ..claims }).unwrap());
        assert_eq!(signer.check(&parts.join("."), 99), None);
        for wrong in ["", ".", "a.b.c", token.rsplit_once('.').unwrap().0] {
            assert_eq!(signer.check(wrong, 99), None);
        }
        let kept: Value = serde_json::from_slice(&std::fs::read(places.key_set()).unwrap()).unwrap();
        assert_eq!(kept, signer.keys());
        std::fs::write(places.kube().join("sa.key"), "nonsense").unwrap();
        assert!(matches!(Signer::open(&places, "https://x".into()), Err(CredentialsError::SigningKey { .. })));
    }
}
