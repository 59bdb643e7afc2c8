//! Signature version 4, in the header.

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Request;

pub(super) struct Signer {
    pub region: String,
    pub key: String,
    pub secret: String,
}

pub(super) struct Signed {
    pub date: String,
    pub authorization: String,
}

impl Signer {
    pub(super) fn sign(&self, request: &Request, host: &str, at: Timestamp) -> Signed {
        let date = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &date[..8];
        let headers = "content-type;host;x-amz-date";
        let canonical = format!(
            "{}\n{}\n{}\ncontent-type:{}\nhost:{host}\nx-amz-date:{date}\n\n{headers}\n{}",
            request.method,
            request.path,
            request.query,
            request.content_type,
            hash(request.body.as_bytes())
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, request.service);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
        let key = [day, &self.region, request.service, "aws4_request"]
            .iter()
            .fold(format!("AWS4{}", self.secret).into_bytes(), |key, part| hmac(&key, part.as_bytes()));
        let signature = hex::encode(hmac(&key, text.as_bytes()));
        let authorization = format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={headers}, Signature={signature}", self.key);
        Signed { date, authorization }
    }
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length of key will do");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against botocore 1.43 (`SigV4Auth` with these inputs).
    #[test]
    fn as_botocore_signs() {
        let signer = Signer { region: "us-east-1".into(), key: "test".into(), secret: "test".into() };
        let request = Request {
            service: "ec2",
            method: reqwest::Method::POST,
            path: "/".into(),
            query: String::new(),
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            body: "Action=DescribeVolumes&Version=2016-11-15".into(),
        };
        let signed = signer.sign(&request, "127.0.0.1:4566", "2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(signed.date, "20260102T030405Z");
        assert!(
            signed.authorization.ends_with("Signature=da55fc6281e8d83c46dd548a4427fc2c20e8fae712abfb0c3187634c2f9c1530"),
            "{}",
            signed.authorization
        );
    }
}
