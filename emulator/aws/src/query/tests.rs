use super::*;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    availability_zone: String,
    size: Option<u32>,
    encrypted: Option<bool>,
    #[serde(default)]
    volume_type: Type,
    #[serde(default, rename = "VolumeId")]
    volume_ids: Vec<String>,
    #[serde(default, rename = "Filter")]
    filters: Vec<Filter>,
    #[serde(default, rename = "TagSpecification")]
    tag_specifications: Vec<TagSpecification>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    #[default]
    Gp3,
    Io2,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    name: String,
    #[serde(default, rename = "Value")]
    values: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagSpecification {
    resource_type: String,
    #[serde(default, rename = "Tag")]
    tags: Vec<Tag>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

fn read(text: &str) -> Result<Request, (String, String)> {
    let (_, params) = Params::parse(text).map_err(|e| (e.code.to_string(), e.message))?;
    params.read().map_err(|e: Ec2Error| (e.code.to_string(), e.message))
}

#[test]
fn a_request_of_botocore_is_read() {
    let (action, params) = Params::parse(
        "Action=CreateVolume&Version=2016-11-15&AvailabilityZone=us-east-1a&Encrypted=false&Size=4&VolumeType=io2\
         &TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=CSIVolumeName&TagSpecification.1.Tag.1.Value=pvc-%26+x\
         &VolumeId.10=c&VolumeId.2=b&VolumeId.1=a&Filter.1.Name=tag%3Aa&Filter.1.Value.1=x&Filter.1.Value.2=y&DryRun=true",
    )
    .unwrap();
    assert_eq!(action.as_deref(), Some("CreateVolume"));
    assert!(params.dry_run().unwrap());
    let request: Request = params.read().unwrap();
    assert_eq!(
        request,
        Request {
            availability_zone: "us-east-1a".into(),
            size: Some(4),
            encrypted: Some(false),
            volume_type: Type::Io2,
            volume_ids: vec!["a".into(), "b".into(), "c".into()],
            filters: vec![Filter { name: "tag:a".into(), values: vec!["x".into(), "y".into()] }],
            tag_specifications: vec![TagSpecification {
                resource_type: "volume".into(),
                tags: vec![Tag { key: "CSIVolumeName".into(), value: "pvc-& x".into() }]
            }],
        }
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (text, code, message) in [
        ("", "MissingParameter", "The request must contain the parameter AvailabilityZone"),
        ("AvailabilityZone=a&Size=x", "InvalidParameterValue", "Value (x) for parameter Size is invalid. Expected an integer."),
        ("AvailabilityZone=a&Size=-1", "InvalidParameterValue", "Value (-1) for parameter Size is invalid. The number is out of range."),
        (
            "AvailabilityZone=a&Encrypted=maybe",
            "InvalidParameterValue",
            "Value (maybe) for parameter Encrypted is invalid. Expected a boolean.",
        ),
        ("AvailabilityZone=a&DryRun=1x", "InvalidParameterValue", "Value (1x) for parameter DryRun is invalid. Expected a boolean."),
        (
            "AvailabilityZone=a&VolumeType=gp9",
            "InvalidParameterValue",
            "Value (gp9) for parameter VolumeType is invalid. Valid values are: gp3, io2.",
        ),
        ("AvailabilityZone=a&Colour=red", "UnknownParameter", "The parameter Colour is not recognized"),
        ("AvailabilityZone=a&Filter.1.Name=x&Filter.1.Color.1=y", "UnknownParameter", "The parameter Filter.1.Color.1 is not recognized"),
        ("AvailabilityZone=a&Filter.1.Value.1=x", "MissingParameter", "The request must contain the parameter Filter.1.Name"),
        ("AvailabilityZone=a&VolumeId.x=1", "UnknownParameter", "The parameter VolumeId.x is not recognized"),
        ("AvailabilityZone.1=a", "UnknownParameter", "The parameter AvailabilityZone.1 is not recognized"),
        ("AvailabilityZone=a&Filter=z", "InvalidParameterValue", "Value (z) for parameter Filter is invalid. Expected a structure."),
        ("AvailabilityZone=a&AvailabilityZone=b", "InvalidQueryParameter", "The parameter AvailabilityZone is given more than once."),
        ("VolumeId.1=a&VolumeId.2=b&VolumeId.1=c", "InvalidQueryParameter", "The parameter VolumeId.1 is given more than once."),
        ("Filter.1.Name=a&Filter.2=&Filter.1.Name=b", "InvalidQueryParameter", "The parameter Filter.1.Name is given more than once."),
    ] {
        assert_eq!(read(text), Err((code.to_owned(), message.to_owned())), "{text}");
    }
}

#[test]
fn the_parts_of_a_structure_may_be_anywhere() {
    let request = read("Filter.2.Name=b&Filter.1.Value.2=y&AvailabilityZone=a&Filter.1.Name=a&Filter.2.Value.1=z&Filter.1.Value.1=x");
    let filter = |name: &str, values: &[&str]| Filter { name: name.into(), values: values.iter().map(ToString::to_string).collect() };
    assert_eq!(request.unwrap().filters, [filter("a", &["x", "y"]), filter("b", &["z"])]);
}

#[test]
fn deep_and_long_requests_are_refused() {
    assert_eq!(read(&format!("{}=1", vec!["A"; 10_000].join("."))).unwrap_err().0, "UnknownParameter");
    let many = (0..30_000).map(|i| format!("VolumeId.{i}=v")).collect::<Vec<_>>().join("&");
    assert_eq!(read(&many).unwrap_err().0, "MalformedQueryString");
}

proptest! {
    #[test]
    fn no_bytes_panic(text in "([A-Za-z]{0,3}(\\.[0-9]{1,2})?[.=&%]?|AvailabilityZone=|Filter\\.1\\.|Size=|VolumeId\\.1=){0,20}") {
        let _ = read(&text);
    }

    #[test]
    fn lists_come_back_in_the_order_of_their_numbers(values in proptest::collection::vec("[a-z&= ]{0,6}", 0..20)) {
        let mut text = form_urlencoded::Serializer::new(String::from("AvailabilityZone=a"));
        for (index, value) in values.iter().enumerate().rev() {
            text.append_pair(&format!("VolumeId.{}", index + 1), value);
        }
        prop_assert_eq!(read(&text.finish()).unwrap().volume_ids, values);
    }
}

#[test]
fn what_is_borrowed_reads_as_what_is_decoded() {
    for text in ["", "a", "a=", "=b", "&&a=1&", "a=b=c", "a=1&b=%2Fx+y&c=%zz", "a%3Db=1", "Tag.1.Value=\u{e9}&x=+"] {
        assert!(pairs(text).eq(form_urlencoded::parse(text.as_bytes())), "{text}");
    }
}
