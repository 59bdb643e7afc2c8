//! AWS Signature Version 4 in headers, as clients make it (the AWS Signature Version 4 documentation). An `ebbtide up --auth verify`
//! checks it.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Who signs.
#[derive(Debug, Clone)]
pub struct Signer {
    pub region: String,
    pub key: String,
    pub secret: String,
    /// Of a temporary key.
    pub token: Option<String>,
}

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signable<'a> {
    pub service: &'a str,
    pub method: &'a str,
    /// With the port, as in the header.
    pub host: &'a str,
    /// As it is sent.
    pub path: &'a str,
    /// As it is sent; names and values percent-encoded.
    pub query: &'a str,
    pub content_type: Option<&'a str>,
    pub body: &'a [u8],
}

/// Headers to send with the request.
pub type Headers = Vec<(&'static str, String)>;

impl Signer {
    /// With the keys and the region of the environment, as SDKs read them; `test` where there are none.
    pub fn from_env() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (key, secret, token) = match (read("AWS_ACCESS_KEY_ID"), read("AWS_SECRET_ACCESS_KEY")) {
            (Some(key), Some(secret)) => (key, secret, read("AWS_SESSION_TOKEN")),
            _ => ("test".to_owned(), "test".to_owned(), None),
        };
        let region = read("AWS_REGION").or_else(|| read("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".to_owned());
        Self { region, key, secret, token }
    }

    /// Signs a request of this moment.
    pub fn sign(&self, request: &Signable<'_>, at: jiff::Timestamp) -> Headers {
        let date = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &date[..8];
        let mut query: Vec<&str> = request.query.split('&').filter(|pair| !pair.is_empty()).collect();
        query.sort_unstable();
        // In the order of their names.
        let signed = [
            ("content-type", request.content_type),
            ("host", Some(request.host)),
            ("x-amz-date", Some(&*date)),
            ("x-amz-security-token", self.token.as_deref()),
        ];
        let signed: Vec<(&str, &str)> = signed.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let headers: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!(
            "{}\n{}\n{}\n{headers}\n{names}\n{}",
            request.method,
            // Every service but S3 encodes the path, which is encoded already, once more.
            encode(request.path, true),
            query.join("&"),
            hex::encode(Sha256::digest(request.body))
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, request.service);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let signature = hex::encode(hmac(&signing_key(&self.secret, day, &self.region, request.service), text.as_bytes()));
        let authorization = format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.key);
        let mut headers = vec![("x-amz-date", date), ("authorization", authorization)];
        headers.extend(self.token.clone().map(|token| ("x-amz-security-token", token)));
        headers
    }
}

/// The key that signs the requests of a day (`20261123`) to a service.
pub fn signing_key(secret: &str, day: &str, region: &str, service: &str) -> Vec<u8> {
    [day, region, service, "aws4_request"].iter().fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()))
}

/// The host of an `http://host:port/…` address, with its port.
pub fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Percent-encodes as AWS wants it: everything but letters, digits, `-._~`, and slashes where they are kept.
pub fn encode(text: &str, keep_slash: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b'/' if keep_slash => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn hmac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length: this cannot fail.
    #[allow(clippy::expect_used)]
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(headers: &Headers) -> &str {
        headers.iter().find(|(name, _)| *name == "authorization").unwrap().1.rsplit('=').next().unwrap()
    }

    /// `get-vanilla` and `get-vanilla-query-order-key-case` of AWS's own test suite for Signature Version 4.
    #[test]
    fn signatures_are_those_of_the_test_suite() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned();
        let signer = Signer { region: "us-east-1".into(), key: "AKIDEXAMPLE".into(), secret, token: None };
        let sign = |query| {
            let host = "example.amazonaws.com";
            let request = Signable { service: "service", method: "GET", host, path: "/", query, content_type: None, body: b"" };
            signer.sign(&request, "2015-08-30T12:36:00Z".parse().unwrap())
        };
        assert_eq!(sign("")[0], ("x-amz-date", "20150830T123600Z".to_owned()));
        assert_eq!(signature(&sign("")), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        let query = "Param2=value2&Param1=value1";
        assert_eq!(signature(&sign(query)), "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
    }

    /// Against botocore 1.43 (`SigV4Auth` with these inputs).
    #[test]
    fn as_botocore_signs() {
        let signer = Signer { region: "us-east-1".into(), key: "test".into(), secret: "test".into(), token: None };
        let request = Signable {
            service: "ec2",
            method: "POST",
            host: "127.0.0.1:4566",
            path: "/",
            query: "",
            content_type: Some("application/x-www-form-urlencoded; charset=utf-8"),
            body: b"Action=DescribeVolumes&Version=2016-11-15",
        };
        let signed = signer.sign(&request, "2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(signature(&signed), "da55fc6281e8d83c46dd548a4427fc2c20e8fae712abfb0c3187634c2f9c1530");
    }

    #[test]
    fn a_host_keeps_its_port() {
        assert_eq!(host("http://10.0.0.1:4566/_ebbtide/info"), "10.0.0.1:4566");
    }
}
