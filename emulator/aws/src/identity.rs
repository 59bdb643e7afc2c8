//! Web identities: JWTs of an OIDC provider that the account knows, which here is the cluster's Kubernetes API (IRSA, Pod Identity).

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use model_aws::At;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

/// The audience of tokens for STS, and of those for Pod Identity.
pub const STS: &str = "sts.amazonaws.com";
pub const PODS: &str = "pods.eks.amazonaws.com";

/// A provider that the account trusts, as `iam:CreateOpenIDConnectProvider` registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityProvider {
    /// `https://127.0.0.1:6443`
    pub issuer: String,
    /// The file with its public keys (JWKS). Read with every token: keys change.
    pub keys: PathBuf,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub issuer: String,
    pub subject: String,
    pub audience: String,
    /// Of a Kubernetes service account: namespace and name.
    pub account: Option<(String, String)>,
}

/// Why a token is not accepted. The texts are those of STS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")]
    NotJwt,
    #[error("Missing a required claim: {0}")]
    NoClaim(&'static str),
    #[error("No OpenIDConnect provider found in your account for {0}")]
    NoProvider(String),
    #[error("Incorrect token audience")]
    Audience,
    #[error(
        "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements"
    )]
    NoKey,
    #[error("Token signature invalid")]
    Signature,
    #[error("Token expired: current date/time {now} must be before the expiration date/time {expires}")]
    Expired { now: i64, expires: i64 },
    #[error("Token not valid yet: current date/time {now} must not be before {from}")]
    NotYet { now: i64, from: i64 },
}

/// How far the clocks of a provider and of ours may differ, in seconds.
const SKEW: i64 = 300;

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

/// Checks a token for an audience. `lax`: also one of an issuer that the account does not know, whose signature nobody can check.
pub fn check(providers: &[IdentityProvider], lax: bool, token: &str, audience: &str, at: At) -> Result<Identity, Invalid> {
    let (text, signature) = token.rsplit_once('.').ok_or(Invalid::NotJwt)?;
    let (header, claims) = text.split_once('.').ok_or(Invalid::NotJwt)?;
    let header: Header = decode(header)?;
    let claims: Value = decode(claims)?;
    let word = |name: &'static str| claims[name].as_str().ok_or(Invalid::NoClaim(name));
    let (issuer, subject) = (word("iss")?, word("sub")?);
    match providers.iter().find(|provider| provider.issuer == issuer) {
        Some(provider) => verify(provider, &header, text, signature)?,
        None if lax => {}
        None => return Err(Invalid::NoProvider(issuer.to_owned())),
    }
    let now = at.0.div_euclid(1000);
    let expires = claims["exp"].as_i64().ok_or(Invalid::NoClaim("exp"))?;
    if expires <= now {
        return Err(Invalid::Expired { now, expires });
    }
    if let Some(from) = claims["nbf"].as_i64().filter(|from| *from > now + SKEW) {
        return Err(Invalid::NotYet { now, from });
    }
    let found = match &claims["aud"] {
        Value::String(one) => one == audience,
        Value::Array(many) => many.iter().any(|one| one == audience),
        _ => return Err(Invalid::NoClaim("aud")),
    };
    if !found {
        return Err(Invalid::Audience);
    }
    let account = subject.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    Ok(Identity {
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        audience: audience.to_owned(),
        account: account.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
    })
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Invalid> {
    let bytes = BASE64.decode(part).map_err(|_| Invalid::NotJwt)?;
    serde_json::from_slice(&bytes).map_err(|_| Invalid::NotJwt)
}

fn verify(provider: &IdentityProvider, header: &Header, text: &str, signature: &str) -> Result<(), Invalid> {
    let keys = std::fs::read(&provider.keys).map_err(|_| Invalid::NoKey)?;
    let keys: Value = serde_json::from_slice(&keys).map_err(|_| Invalid::NoKey)?;
    let ours = |key: &&Value| header.kid.as_deref().is_none_or(|kid| key["kid"] == kid);
    let key = keys["keys"].as_array().and_then(|keys| keys.iter().find(ours)).ok_or(Invalid::NoKey)?;
    let bytes = |name: &str| key[name].as_str().and_then(|text| BASE64.decode(text).ok()).ok_or(Invalid::NoKey);
    let signature = BASE64.decode(signature).map_err(|_| Invalid::NotJwt)?;
    let checked = match (header.alg.as_str(), key["kty"].as_str()) {
        ("RS256", Some("RSA")) => RsaPublicKeyComponents { n: bytes("n")?, e: bytes("e")? }.verify(
            &signature::RSA_PKCS1_2048_8192_SHA256,
            text.as_bytes(),
            &signature,
        ),
        ("ES256", Some("EC")) => {
            let point = [vec![4], bytes("x")?, bytes("y")?].concat();
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(text.as_bytes(), &signature)
        }
        _ => return Err(Invalid::NoKey),
    };
    checked.map_err(|_| Invalid::Signature)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    struct Issuer {
        pair: EcdsaKeyPair,
        provider: IdentityProvider,
        _dir: tempfile::TempDir,
    }

    fn issuer() -> Issuer {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        let dir = tempfile::tempdir().unwrap();
        let provider = IdentityProvider { issuer: "https://issuer".into(), keys: dir.path().join("jwks.json") };
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1", "x": x, "y": y}]});
        std::fs::write(&provider.keys, keys.to_string()).unwrap();
        Issuer { pair, provider, _dir: dir }
    }

    impl Issuer {
        fn sign(&self, header: Value, claims: &Value) -> String {
            let text = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
            let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            format!("{text}.{}", BASE64.encode(signature))
        }
    }

    #[test]
    fn tokens_are_accepted_or_refused_as_by_sts() {
        let issuer = issuer();
        let providers = [issuer.provider.clone()];
        let good = json!({"iss": "https://issuer", "sub": "system:serviceaccount:ns:a", "aud": ["x", STS], "exp": 200, "nbf": 100});
        let header = json!({"alg": "ES256", "kid": "1"});
        let now = At(150_000);
        let check = |token: &str| check(&providers, false, token, STS, now);
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            check(&issuer.sign(header.clone(), &claims))
        };
        let identity = check(&issuer.sign(header.clone(), &good)).unwrap();
        assert_eq!((identity.subject.as_str(), identity.account), ("system:serviceaccount:ns:a", Some(("ns".into(), "a".into()))));
        assert!(with("aud", json!(STS)).is_ok());
        assert_eq!(with("aud", json!("y")), Err(Invalid::Audience));
        assert_eq!(with("aud", Value::Null), Err(Invalid::NoClaim("aud")));
        assert_eq!(with("sub", Value::Null), Err(Invalid::NoClaim("sub")));
        assert_eq!(with("exp", json!(150)), Err(Invalid::Expired { now: 150, expires: 150 }));
        assert_eq!(with("nbf", json!(451)), Err(Invalid::NotYet { now: 150, from: 451 }));
        assert_eq!(with("iss", json!("https://other")), Err(Invalid::NoProvider("https://other".into())));
        for wrong in ["", "a", "a.b", "a.b.c", "..", "e30.e30.e30"] {
            assert_eq!(check(wrong), Err(Invalid::NotJwt), "{wrong}");
        }
        for unknown in [json!({"alg": "ES256", "kid": "2"}), json!({"alg": "none", "kid": "1"}), json!({"alg": "RS256", "kid": "1"})] {
            assert_eq!(check(&issuer.sign(unknown, &good)), Err(Invalid::NoKey));
        }
        let token = issuer.sign(header.clone(), &good);
        let forged = format!("{}.{}", token.rsplit_once('.').unwrap().0, BASE64.encode([1; 64]));
        assert_eq!(check(&forged), Err(Invalid::Signature));
        std::fs::remove_file(&issuer.provider.keys).unwrap();
        assert_eq!(check(&token), Err(Invalid::NoKey));
    }

    #[test]
    fn where_signatures_are_not_checked_an_unknown_issuer_is_believed_but_not_for_ever() {
        let issuer = issuer();
        let claims = |expires: i64| json!({"iss": "https://kind", "sub": "s", "aud": STS, "exp": expires});
        let lax = |expires: i64| check(&[], true, &issuer.sign(json!({"alg": "RS256"}), &claims(expires)), STS, At(100_000));
        assert_eq!(lax(101).unwrap().account, None);
        assert!(matches!(lax(100), Err(Invalid::Expired { .. })));
    }
}
