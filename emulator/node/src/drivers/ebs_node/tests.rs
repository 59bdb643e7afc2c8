//! What the node service answers without a device.

use super::*;

#[tokio::test]
async fn growing_what_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let node = EbsNode {
        node_id: "i-1".into(),
        zone: "us-east-1a".into(),
        instance_type: "m5.large".into(),
        dev: dir.path().into(),
        in_flight: InFlight::default(),
    };
    let path = dir.path().join("nothing").display().to_string();
    let error = node.expand("vol-1", &path, None).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    // Another failure is not that: the path goes through a file.
    std::fs::write(dir.path().join("file"), "").unwrap();
    let path = dir.path().join("file/nothing").display().to_string();
    assert_eq!(node.expand("vol-1", &path, None).await.unwrap_err().code, Code::Internal);
}
