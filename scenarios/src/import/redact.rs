//! What should not leave the house: account ids, addresses and keys, wherever they stand in a text.

use serde_json::Value;

/// The account of documentation.
const ACCOUNT: &str = "111122223333";

/// All texts of a value without accounts, addresses and access keys.
pub(super) fn value(json: &mut Value) {
    match json {
        Value::String(string) => *string = text(string),
        Value::Array(items) => items.iter_mut().for_each(value),
        Value::Object(fields) => fields.values_mut().for_each(value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The text without them.
pub(super) fn text(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
        if word == 0 {
            let end = rest.find(inside).unwrap_or(rest.len());
            redacted.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        redacted.push_str(&one(&rest[..word]));
        rest = &rest[word..];
    }
    redacted
}

fn one(word: &str) -> String {
    let (bare, dot) = match word.strip_suffix('.') {
        Some(bare) => (bare, "."),
        None => (word, ""),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let key = bare.len() == 20 && (bare.starts_with("AKIA") || bare.starts_with("ASIA"));
    let name = match bare {
        _ if bare.len() == 12 && digits(bare) => ACCOUNT,
        _ if bare.parse::<std::net::Ipv4Addr>().is_ok() => "192.0.2.1",
        _ if key => "AKIAIOSFODNN7EXAMPLE",
        _ => bare,
    };
    format!("{name}{dot}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn accounts_addresses_and_keys_go_and_the_rest_stays() {
        for (text, wanted) in [
            ("arn:aws:ec2:eu-west-1:123456789012:volume/vol-0abc", "arn:aws:ec2:eu-west-1:111122223333:volume/vol-0abc"),
            ("from 10.1.2.3.", "from 192.0.2.1."),
            ("key ASIAIOSFODNN7REALKEY!", "key AKIAIOSFODNN7EXAMPLE!"),
            ("vol-123456789012345678", "vol-123456789012345678"),
            ("v1.2.3 ist größer", "v1.2.3 ist größer"),
            ("", ""),
        ] {
            assert_eq!(super::text(text), wanted);
        }
    }
}
