//! Signature Version 4: what the AWS clients put into `Authorization`. ebbtide reads the service from it, and checks
//! it when started with `--auth verify`.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

pub(super) struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Already escaped.
    pub query: &'a str,
    pub host: &'a str,
    pub body: &'a [u8],
    pub service: &'a str,
    pub region: &'a str,
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub time: jiff::Timestamp,
}

pub(super) struct Signed {
    pub date: String,
    pub authorization: String,
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length, so this cannot fail.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub(super) fn sign(request: &Request<'_>) -> Signed {
    let date = request.time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &date[..8];
    let mut query: Vec<&str> = request.query.split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let canonical = format!(
        "{}\n{}\n{}\nhost:{}\nx-amz-date:{date}\n\nhost;x-amz-date\n{}",
        request.method,
        request.path,
        query.join("&"),
        request.host,
        hex::encode(Sha256::digest(request.body)),
    );
    let scope = format!("{day}/{}/{}/aws4_request", request.region, request.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let key = [request.region, request.service, "aws4_request"]
        .iter()
        .fold(hmac(format!("AWS4{}", request.secret_key).as_bytes(), day), |key, part| hmac(&key, part));
    let signature = hex::encode(hmac(&key, &to_sign));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}", request.access_key);
    Signed { date, authorization }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get-vanilla` and `get-vanilla-query-order-key-case` of AWS's own test suite for Signature Version 4.
    #[test]
    fn signatures_are_those_of_the_test_suite() {
        let request = |query| Request {
            method: "GET",
            path: "/",
            query,
            host: "example.amazonaws.com",
            body: b"",
            service: "service",
            region: "us-east-1",
            access_key: "AKIDEXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            time: "2015-08-30T12:36:00Z".parse().unwrap(),
        };
        let plain = sign(&request(""));
        assert_eq!(plain.date, "20150830T123600Z");
        assert!(
            plain.authorization.ends_with("Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            "{}",
            plain.authorization
        );
        let ordered = sign(&request("Param2=value2&Param1=value1"));
        assert!(
            ordered.authorization.ends_with("Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
            "{}",
            ordered.authorization
        );
    }
}
