//! The actions as they come over the wire, down to the files; a fake agent stands in for a node.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use emulator_common::places::Places;
use emulator_common::store::Memory;
use model_aws::world::World;
use model_aws::{Aws, Profile};
use model_common::agent::{DeviceError, ToAgent};

use super::*;
use crate::ctx::Hands;
use crate::engine::Engine;
use crate::hub::Hub;

fn begin(directory: &std::path::Path) -> Arc<Ctx> {
    let world = World::default();
    let engine = Engine::start(Arc::new(Memory::default()), Aws::new(&world, Profile::Instant), None).unwrap();
    let ctx = Arc::new(Ctx {
        engine: engine.clone(),
        hub: Hub::default(),
        places: Places::new(directory),
        world,
        profile: Profile::Instant,
        providers: Vec::new(),
        no_devices: None,
    });
    engine.connect(Arc::new(Hands(ctx.clone())));
    ctx
}

async fn send(ctx: &Ctx, query: &str) -> Result<String, Ec2Error> {
    let (action, params) = Params::parse(query)?;
    handle(ctx, &action.unwrap(), params).await.map(|body| body.xml)
}

/// The text of the first element of a name.
fn element(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split_once('<').unwrap().0.to_owned()
}

/// Asks until the answer has `part`; five seconds at most.
async fn until(ctx: &Ctx, query: &str, part: &str) -> String {
    let ask = async {
        loop {
            let answer = send(ctx, query).await.unwrap();
            if answer.contains(part) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.unwrap_or_else(|_| panic!("{query} never shows {part}"))
}

async fn volume(ctx: &Ctx, more: &str) -> String {
    let xml = send(ctx, &format!("Action=CreateVolume&AvailabilityZone=us-east-1a&VolumeType=gp3{more}")).await.unwrap();
    assert!(xml.contains("<status>creating</status>"), "{xml}");
    let id = element(&xml, "volumeId");
    until(ctx, &format!("Action=DescribeVolumes&VolumeId.1={id}"), "<status>available</status>").await;
    id
}

#[tokio::test]
async fn requests_are_refused_as_ec2_refuses_them() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = begin(directory.path());
    let create = "Action=CreateVolume&AvailabilityZone=us-east-1a";
    for (query, code, text) in [
        ("Action=Nonsense".to_owned(), "InvalidAction", "Nonsense"),
        ("Action=CopySnapshot&SnapshotId=snap-1".to_owned(), "UnsupportedOperation", "CopySnapshot"),
        ("Action=DescribeVolumes&InstanceId.1=i-1".to_owned(), "UnknownParameter", "InstanceId.1"),
        ("Action=DescribeVolumes&MaxResults=3".to_owned(), "InvalidParameterValue", "maxResults"),
        ("Action=DescribeVolumes&MaxResults=-1".to_owned(), "InvalidParameterValue", "maxResults"),
        (
            "Action=DescribeVolumes&Filter.1.Name=colour&Filter.1.Value.1=red".to_owned(),
            "InvalidParameterValue",
            "The filter 'colour' is invalid",
        ),
        (
            "Action=DescribeSubnets&Filter.1.Name=colour&Filter.1.Value.1=red".to_owned(),
            "InvalidParameterValue",
            "The filter 'colour' is invalid",
        ),
        ("Action=DeleteVolume".to_owned(), "MissingParameter", "VolumeId"),
        (format!("{create}&Size=x"), "InvalidParameterValue", "Size"),
        (format!("{create}&Size=4&DryRun=true"), "DryRunOperation", "Request would have succeeded"),
        (format!("{create}&Size=4&VolumeType=io2&Iops=2147483647&DryRun=true"), "InvalidParameterCombination", "256K IOPS"),
        (format!("{create}&Size=4&TagSpecification.1.ResourceType=snapshot"), "InvalidParameterValue", "'snapshot'"),
        ("Action=DescribeAvailabilityZones&DryRun=true".to_owned(), "DryRunOperation", ""),
        ("Action=DescribeAvailabilityZones&ZoneName.1=mars".to_owned(), "InvalidParameterValue", "Invalid availability zone: [mars]"),
        ("Action=DescribeVpcs&VpcId.1=vpc-0123456789abcdef0".to_owned(), "InvalidVpcID.NotFound", "vpc-0123456789abcdef0"),
        ("Action=CreateTags&ResourceId.1=vol-0123456789abcdef0".to_owned(), "MissingParameter", "tagSet"),
        (
            "Action=AuthorizeSecurityGroupIngress&GroupId=sg-0123456789abcdef0&IpProtocol=tcp&FromPort=1&CidrIp=0.0.0.0/0".to_owned(),
            "InvalidParameterValue",
            "portRange",
        ),
    ] {
        let error = send(&ctx, &query).await.expect_err(&query);
        assert!(error.code == code && error.message.contains(text), "{query}: {error}");
    }
    let answer = send(&ctx, "Action=DescribeVolumes").await.unwrap();
    assert!(answer.contains("<volumeSet/>"), "a refused request made a volume: {answer}");
}

#[tokio::test]
async fn blocks_outlive_their_volume_in_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = begin(directory.path());
    let id = volume(&ctx, "&Size=1").await;
    let file = |kind: &str, id: &str| directory.path().join(kind).join(format!("{id}.img"));
    let open = std::fs::OpenOptions::new().write(true).open(file("volumes", &id)).unwrap();
    open.write_all_at(b"precious", 12_345_678).unwrap();
    send(&ctx, &format!("Action=ModifyVolume&VolumeId={id}&Size=2")).await.unwrap();
    until(&ctx, &format!("Action=DescribeVolumesModifications&VolumeId.1={id}"), "<modificationState>completed</modificationState>").await;
    assert_eq!(std::fs::metadata(file("volumes", &id)).unwrap().len(), 2 << 30);
    let xml = send(&ctx, &format!("Action=CreateSnapshot&VolumeId={id}")).await.unwrap();
    assert!(xml.contains("<status>pending</status>"), "{xml}");
    // Deleted at once: the copy is made all the same.
    send(&ctx, &format!("Action=DeleteVolume&VolumeId={id}")).await.unwrap();
    let snapshot = element(&xml, "snapshotId");
    until(&ctx, &format!("Action=DescribeSnapshots&SnapshotId.1={snapshot}"), "<status>completed</status>").await;
    until(&ctx, "Action=DescribeVolumes", "<volumeSet/>").await;
    assert!(!file("volumes", &id).exists());
    let restored = volume(&ctx, &format!("&SnapshotId={snapshot}")).await;
    let mut text = [0; 8];
    std::fs::File::open(file("volumes", &restored)).unwrap().read_exact_at(&mut text, 12_345_678).unwrap();
    assert_eq!(&text, b"precious");
    send(&ctx, &format!("Action=DeleteSnapshot&SnapshotId={snapshot}")).await.unwrap();
    assert_eq!(observe(&ctx.places).unwrap().volumes.into_keys().collect::<Vec<_>>(), [restored.as_str()]);
}

#[tokio::test]
async fn attach_and_detach_go_through_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = begin(directory.path());
    let instance = ctx.world.instance_id(0);
    let id = volume(&ctx, "&Size=1").await;
    let attach = format!("Action=AttachVolume&VolumeId={id}&InstanceId={instance}&Device=/dev/xvdaa");
    let answer = send(&ctx, &attach).await.unwrap();
    assert!(answer.contains("<status>attaching</status>") && answer.contains("<device>/dev/xvdaa</device>"), "{answer}");
    // Nobody is there yet; when the agent comes, the device is raised.
    let (connection, mut inbox) = ctx.hub.register(&instance);
    let hello = model_aws::ec2::Input::Connected { instance: instance.as_str().into(), no_devices: None, devices: vec![] };
    ctx.engine.tell(Input::Ec2(hello));
    let Some(ToAgent::Attach { call, device }) = inbox.recv().await else { panic!("no attach") };
    assert_eq!(device.device_name, "/dev/xvdaa");
    assert_eq!(std::fs::metadata(&device.file).unwrap().len(), 1 << 30);
    connection.done(call, Ok(()));
    let describe = format!("Action=DescribeVolumes&VolumeId.1={id}");
    until(&ctx, &describe, "<status>attached</status>").await;
    let mapping = send(&ctx, &format!("Action=DescribeInstances&InstanceId.1={instance}")).await.unwrap();
    assert!(mapping.contains(&format!("<ebs><volumeId>{id}</volumeId><status>attached</status>")), "{mapping}");
    // A snapshot of an attached volume freezes it for the copy.
    let query = format!("Action=CreateSnapshot&VolumeId={id}");
    let mut answer = std::pin::pin!(send(&ctx, &query));
    let freeze = tokio::select! {
        answer = &mut answer => panic!("answered before the blocks were read: {answer:?}"),
        freeze = inbox.recv() => freeze,
    };
    let Some(ToAgent::Freeze { call, .. }) = freeze else { panic!("no freeze") };
    connection.done(call, Ok(()));
    let agent = async {
        let Some(ToAgent::Thaw { call, .. }) = inbox.recv().await else { panic!("no thaw") };
        connection.done(call, Ok(()));
    };
    let (answer, ()) = tokio::join!(answer, agent);
    assert!(answer.unwrap().contains("<status>pending</status>"));
    // Mounted: busy until it is not.
    let detach = format!("Action=DetachVolume&VolumeId={id}&InstanceId={instance}");
    assert!(send(&ctx, &detach).await.unwrap().contains("<status>detaching</status>"));
    let Some(ToAgent::Detach { call, last: true, force: false, .. }) = inbox.recv().await else { panic!("no detach") };
    connection.done(call, Err(DeviceError::Busy { volume_id: id.clone(), holder: "mounted".to_owned() }));
    until(&ctx, &describe, "<status>busy</status>").await;
    // Force does not wait for the next try.
    send(&ctx, &format!("{detach}&Force=true")).await.unwrap();
    let Some(ToAgent::Detach { call, force: true, .. }) = inbox.recv().await else { panic!("no forced detach") };
    connection.done(call, Ok(()));
    until(&ctx, &describe, "<status>available</status>").await;
}
