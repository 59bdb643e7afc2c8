//! The aws CLI's spelling of a request turned into the wire's: `create-volume` → `CreateVolume`,
//! `{"Filters": [{"Name": "a", "Values": ["b"]}]}` → `Filter.1.Name=a&Filter.1.Value.1=b`.

use serde_json::{Map, Value};

/// The version of the EC2 API (ebs.md §1.2).
const EC2_VERSION: &str = "2016-11-15";

/// `describe-volumes` → `DescribeVolumes`.
pub(super) fn action(command: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    command.split('-').map(capital).collect()
}

/// The parameters of an EC2 call, in order.
pub(super) fn ec2(action: &str, parameters: &Map<String, Value>) -> Vec<(String, String)> {
    let mut pairs = vec![("Action".to_owned(), action.to_owned()), ("Version".to_owned(), EC2_VERSION.to_owned())];
    for (name, value) in parameters {
        let name = match (action, name.as_str()) {
            // The one scalar whose name on the wire is another.
            ("CreateSecurityGroup", "Description") => "GroupDescription",
            (_, name) => name,
        };
        flatten(name, value, &mut pairs);
    }
    pairs
}

/// A list's name on the wire: the singular, but for a few that the API never renamed.
fn list_name(name: &str) -> String {
    match name {
        "IpPermissions" | "IpRanges" | "Ipv6Ranges" => name.into(),
        "UserIdGroupPairs" => "Groups".into(),
        _ => name.strip_suffix('s').unwrap_or(name).into(),
    }
}

fn flatten(name: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Bool(value) => pairs.push((name.into(), value.to_string())),
        Value::Number(value) => pairs.push((name.into(), value.to_string())),
        Value::String(value) => pairs.push((name.into(), value.clone())),
        Value::Array(items) => {
            let (parent, own) = name.rsplit_once('.').map_or((String::new(), name), |(parent, own)| (format!("{parent}."), own));
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{parent}{}.{}", list_name(own), index + 1), item, pairs);
            }
        }
        Value::Object(fields) => fields.iter().for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, pairs)),
    }
}

/// The parameters of a REST call that go into its query.
pub(super) fn flat(parameters: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut pairs = Vec::new();
    for (name, value) in parameters {
        match value {
            Value::Null => {}
            Value::Array(items) => pairs.extend(items.iter().map(|item| (name.clone(), text(item)))),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => pairs.push((name.clone(), text(value))),
        }
    }
    pairs
}

/// Percent-encodes all but the unreserved characters, as signatures need it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

pub(super) fn encode(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_parameters_get_numbers() {
        let parameters = json!({
            "VolumeIds": ["vol-1", "vol-2"],
            "Filters": [{"Name": "tag:a", "Values": ["x", "y"]}],
            "TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "v"}]}],
            "IpPermissions": [{"FromPort": 2049, "IpRanges": [{"CidrIp": "10.0.0.0/16"}], "UserIdGroupPairs": [{"GroupId": "sg-1"}]}],
            "DryRun": false,
        });
        let pairs = ec2(&action("describe-volumes"), parameters.as_object().unwrap());
        let lines: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            lines,
            [
                "Action=DescribeVolumes",
                "Version=2016-11-15",
                "VolumeId.1=vol-1",
                "VolumeId.2=vol-2",
                "Filter.1.Name=tag:a",
                "Filter.1.Value.1=x",
                "Filter.1.Value.2=y",
                "TagSpecification.1.ResourceType=volume",
                "TagSpecification.1.Tag.1.Key=k",
                "TagSpecification.1.Tag.1.Value=v",
                "IpPermissions.1.FromPort=2049",
                "IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/16",
                "IpPermissions.1.Groups.1.GroupId=sg-1",
                "DryRun=false",
            ]
        );
    }

    #[test]
    fn what_is_reserved_is_escaped() {
        assert_eq!(encode(&[("a:b".into(), "ü /~".into())]), "a%3Ab=%C3%BC%20%2F~");
    }
}
