use super::*;

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    volume_id: String,
    encrypted: bool,
    iops: Option<u32>,
    tag_set: Vec<Tag>,
    attachment_set: Vec<Tag>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Tag {
    key: String,
    value: String,
}

#[test]
fn lists_are_items_and_none_is_absent() {
    let volume = Volume {
        volume_id: "vol-1".into(),
        encrypted: false,
        iops: None,
        tag_set: vec![Tag { key: "a<b".into(), value: String::new() }],
        attachment_set: vec![],
    };
    let mut out = String::new();
    write_fields(&mut out, &volume, "item").unwrap();
    let mut shown = String::new();
    write_fields(&mut shown, &[format_args!("c<d"), format_args!("e")].as_slice(), "item").unwrap();
    assert_eq!(shown, "<item>c&lt;d</item><item>e</item>");
    assert_eq!(
        out,
        "<volumeId>vol-1</volumeId><encrypted>false</encrypted><tagSet><item><key>a&lt;b</key><value/></item></tagSet><attachmentSet/>"
    );
}

#[test]
fn the_frame_is_the_one_of_ec2() {
    let body = XmlBody::ok("CreateTags").unwrap();
    assert_eq!(
        body.xml,
        format!(
            "{HEAD}<CreateTagsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{}</requestId><return>true</return></CreateTagsResponse>",
            body.request_id
        )
    );
    assert_eq!(uuid::Uuid::parse_str(&body.request_id).unwrap().get_version_num(), 4);
    assert_ne!(request_id(), request_id());
}

#[test]
fn the_error_document_is_the_one_of_ec2() {
    let error = Ec2Error::new("IncorrectState", "Volume 'vol-x' is in the 'available' state.");
    assert_eq!(
        ec2_error(&error, "r"),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>IncorrectState</Code><Message>Volume 'vol-x' is in the 'available' state.</Message></Error></Errors><RequestID>r</RequestID></Response>"
    );
}

#[test]
fn characters_that_xml_cannot_hold_do_not_break_the_document() {
    assert_eq!(escape("a\u{0}b\rc\"d"), "a\u{fffd}b&#xD;c&quot;d");
    assert_eq!(escape("\u{fffe}\u{ffff}\u{fffc}\u{e9}\t"), "\u{fffd}\u{fffd}\u{fffc}\u{e9}\t");
    assert!(matches!(escape("plain \u{e9}"), Cow::Borrowed(_)));
}
