//! EC2's XML as the aws CLI shows it: `<volumeSet><item><volumeId>` → `{"Volumes": [{"VolumeId": …}]}`.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Map, Value};

/// An element as read.
#[derive(Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

/// The answer in an XML document, without the root element and the request id.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let root = read(text)?;
    Ok(value(&root, ""))
}

fn read(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    let mut open = vec![Element::default()];
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => open.push(Element { name: start.local_name().as_ref().to_owned(), ..Element::default() }),
            Event::Empty(start) => {
                let element = Element { name: start.local_name().as_ref().to_owned(), ..Element::default() };
                if let Some(parent) = open.last_mut() {
                    parent.children.push(element);
                }
            }
            Event::End(_) => {
                // The reader checks that ends match starts, so there is always a parent.
                if let (Some(element), Some(parent)) = (open.pop(), open.last_mut()) {
                    parent.children.push(element);
                }
            }
            Event::Text(part) => push(&mut open, &part.xml10_content()),
            Event::CData(part) => push(&mut open, &part.xml10_content()),
            Event::GeneralRef(reference) => {
                let text = reference.xml10_content();
                let resolved = match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                    Some(char) => char.to_string(),
                    None => {
                        quick_xml::escape::resolve_predefined_entity(&text).ok_or_else(|| format!("unknown entity &{text};"))?.to_owned()
                    }
                };
                push(&mut open, &resolved);
            }
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    match open.pop() {
        Some(mut top) if open.is_empty() && top.children.len() == 1 => Ok(top.children.remove(0)),
        _ => Err("not one XML document".into()),
    }
}

fn push(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// Lists whose wire name does not end in `Set`.
const LISTS: [&str; 9] = [
    "ipPermissions",
    "ipPermissionsEgress",
    "ipRanges",
    "ipv6Ranges",
    "groups",
    "prefixListIds",
    "securityGroupInfo",
    "availabilityZoneInfo",
    "blockDeviceMapping",
];

/// The name that the CLI shows for a wire name, `parent` being the element around it.
fn shown(element: &Element, parent: &str, siblings: &[Element]) -> String {
    let has = |name: &str| siblings.iter().any(|sibling| sibling.name == name);
    match element.name.as_str() {
        "status" if has("volumeId") || has("snapshotId") => "State".into(),
        "zoneState" | "instanceState" => "State".into(),
        "securityGroupInfo" => "SecurityGroups".into(),
        "availabilityZoneInfo" => "AvailabilityZones".into(),
        "regionInfo" => "Regions".into(),
        "blockDeviceMapping" => "BlockDeviceMappings".into(),
        "volumeModificationSet" => "VolumesModifications".into(),
        "volumeStatusSet" => "VolumeStatuses".into(),
        "cidrBlockAssociationSet" => "CidrBlockAssociationSet".into(),
        "ipv6CidrBlockAssociationSet" => "Ipv6CidrBlockAssociationSet".into(),
        "groupSet" if parent == "instancesSet" => "SecurityGroups".into(),
        "groups" if parent == "ipPermissions" || parent == "ipPermissionsEgress" => "UserIdGroupPairs".into(),
        "groupDescription" => "Description".into(),
        "dnsName" => "PublicDnsName".into(),
        "ipAddress" => "PublicIpAddress".into(),
        wire => {
            let plural = match wire.strip_suffix("Set") {
                Some(stem) if stem.ends_with('s') => stem.to_owned(),
                Some(stem) => format!("{stem}s"),
                None => wire.to_owned(),
            };
            let mut letters = plural.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
        }
    }
}

fn value(element: &Element, parent: &str) -> Value {
    let is_list = element.name.ends_with("Set") || LISTS.contains(&element.name.as_str());
    if element.children.is_empty() {
        return if is_list { Value::Array(Vec::new()) } else { scalar(element) };
    }
    if element.children.iter().all(|child| child.name == "item") {
        return element.children.iter().map(|item| item_value(item, &element.name)).collect();
    }
    fields(element, if element.name == "item" { parent } else { &element.name })
}

fn item_value(item: &Element, list: &str) -> Value {
    if item.children.is_empty() { Value::String(item.text.clone()) } else { fields(item, list) }
}

fn fields(element: &Element, parent: &str) -> Value {
    let mut map = Map::new();
    for child in element.children.iter().filter(|child| child.name != "requestId") {
        map.insert(shown(child, parent, &element.children), value(child, &element.name));
    }
    Value::Object(map)
}

/// A leaf. Numbers and booleans are those that the API's model has; everything else stays text, tags above all.
fn scalar(element: &Element) -> Value {
    const NUMBERS: [&str; 15] = [
        "size",
        "volumeSize",
        "iops",
        "throughput",
        "fromPort",
        "toPort",
        "availableIpAddressCount",
        "code",
        "targetSize",
        "originalSize",
        "targetIops",
        "originalIops",
        "progress",
        "amiLaunchIndex",
        "deviceIndex",
    ];
    let text = element.text.as_str();
    match (element.name.as_str(), text) {
        ("value" | "key" | "Message" | "Code", _) => Value::String(text.into()),
        (_, "true") => Value::Bool(true),
        (_, "false") => Value::Bool(false),
        (name, _) if NUMBERS.contains(&name) => text.parse::<i64>().map_or_else(|_| Value::String(text.into()), Value::from),
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_read_as_the_cli_shows_them() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>
  <volumeSet><item><volumeId>vol-1</volumeId><size>20</size><snapshotId/><status>in-use</status><iops>3000</iops>
    <multiAttachEnabled>false</multiAttachEnabled>
    <attachmentSet><item><volumeId>vol-1</volumeId><instanceId>i-1</instanceId><device>/dev/xvdaa</device><status>attached</status></item></attachmentSet>
    <tagSet><item><key>a&amp;b</key><value>7</value></item></tagSet></item>
    <item><volumeId>vol-2</volumeId><status>available</status><attachmentSet/></item></volumeSet></DescribeVolumesResponse>"#;
        assert_eq!(
            parse(text).unwrap(),
            json!({"Volumes": [
                {"VolumeId": "vol-1", "Size": 20, "SnapshotId": "", "State": "in-use", "Iops": 3000, "MultiAttachEnabled": false,
                 "Attachments": [{"VolumeId": "vol-1", "InstanceId": "i-1", "Device": "/dev/xvdaa", "State": "attached"}],
                 "Tags": [{"Key": "a&b", "Value": "7"}]},
                {"VolumeId": "vol-2", "State": "available", "Attachments": []},
            ]})
        );
    }

    #[test]
    fn the_names_of_lists_are_the_cli_s() {
        let text = "<R><subnetSet><item><subnetId>s</subnetId></item></subnetSet><availabilityZoneInfo><item><zoneName>a</zoneName><zoneState>available</zoneState></item></availabilityZoneInfo>\
            <securityGroupInfo><item><groupId>sg</groupId><ownerId>000000000000</ownerId><ipPermissions><item><fromPort>2049</fromPort><groups/></item></ipPermissions></item></securityGroupInfo>\
            <reservationSet><item><groupSet/><instancesSet><item><instanceId>i</instanceId><instanceState><code>16</code><name>running</name></instanceState><groupSet><item><groupId>sg</groupId></item></groupSet></item></instancesSet></item></reservationSet></R>";
        assert_eq!(
            parse(text).unwrap(),
            json!({
                "Subnets": [{"SubnetId": "s"}],
                "AvailabilityZones": [{"ZoneName": "a", "State": "available"}],
                "SecurityGroups": [{"GroupId": "sg", "OwnerId": "000000000000", "IpPermissions": [{"FromPort": 2049, "UserIdGroupPairs": []}]}],
                "Reservations": [{"Groups": [], "Instances": [{"InstanceId": "i", "State": {"Code": 16, "Name": "running"}, "SecurityGroups": [{"GroupId": "sg"}]}]}],
            })
        );
    }

    #[test]
    fn errors_keep_code_and_message() {
        let text = "<Response><Errors><Error><Code>InvalidVolume.NotFound</Code><Message>The volume 'vol-1' does not exist.</Message></Error></Errors><RequestID>r</RequestID></Response>";
        assert_eq!(parse(text).unwrap().pointer("/Errors/Error/Message"), Some(&json!("The volume 'vol-1' does not exist.")));
        assert!(parse("<a><b></a>").is_err());
        assert!(parse("").is_err());
    }
}
