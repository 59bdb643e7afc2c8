//! The AWS API as boto3 and the aws CLI see it: states, errors, idempotency, paging (ebs.md §1, §12; efs.md §1, §6).

use ebbtide_tests::Ebbtide;

/// Runs a Python program with boto3 clients `ec2`, `efs` and `sts`; it fails by `assert`.
fn python(ebbtide: &Ebbtide, program: &str) {
    let prelude = "import boto3, botocore, time, json\nfrom botocore.exceptions import ClientError\n\
        config = botocore.config.Config(retries={'max_attempts': 1})\n\
        ec2, efs, sts = (boto3.client(s, config=config) for s in ('ec2', 'efs', 'sts'))\n\
        def fails(code, call, **args):\n    \
            try:\n        call(**args)\n    \
            except ClientError as e:\n        \
                assert e.response['Error']['Code'] == code, e.response['Error']\n        \
                return e.response['Error']['Message']\n    \
            raise AssertionError('no error, expected ' + code)\n";
    let output =
        ebbtide.command("python").arg("-c").arg(format!("{prelude}\n{program}")).output().expect("running python (make test installs it)");
    assert!(output.status.success(), "{}\n{}", ebbtide_tests::text(&output), ebbtide.log());
}

#[test]
fn boto3_sees_volumes_as_on_aws() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    python(
        &ebbtide,
        r#"
assert sts.get_caller_identity()['Account'] == '000000000000'
zones = [z['ZoneName'] for z in ec2.describe_availability_zones()['AvailabilityZones']]
assert zones == ['us-east-1a', 'us-east-1b', 'us-east-1c'], zones

# Idempotency: same token, same volume; other parameters, an error; after deletion, an error.
args = dict(AvailabilityZone='us-east-1a', Size=4, VolumeType='gp3', ClientToken='t1', Encrypted=False,
            TagSpecifications=[{'ResourceType': 'volume', 'Tags': [{'Key': 'CSIVolumeName', 'Value': 'pvc-1'}]}])
v = ec2.create_volume(**args)
assert v['VolumeId'].startswith('vol-') and len(v['VolumeId']) == 21, v
assert v['Iops'] == 3000 and v['Throughput'] == 125 and v['Size'] == 4, v
assert ec2.create_volume(**args)['VolumeId'] == v['VolumeId']
fails('IdempotentParameterMismatch', ec2.create_volume, **{**args, 'Size': 5})
found = ec2.describe_volumes(Filters=[{'Name': 'tag:CSIVolumeName', 'Values': ['pvc-1']}])['Volumes']
assert [f['VolumeId'] for f in found] == [v['VolumeId']] and found[0]['State'] == 'available', found

# The driver's two dry runs.
fails('DryRunOperation', ec2.describe_availability_zones, DryRun=True)
text = fails('InvalidParameterValue', ec2.create_volume, AvailabilityZone='us-east-1a', Size=4, VolumeType='gp3', Iops=2147483647, DryRun=True)
import re
assert re.search(r'(?i)volume iops.*is too high.*maximum is (\d+)', text), text

# Describe is all or nothing, and the message names the id.
missing = 'vol-0123456789abcdef0'
assert missing in fails('InvalidVolume.NotFound', ec2.describe_volumes, VolumeIds=[v['VolumeId'], missing])

# Attach, detach, zone mismatch (records only: this ebbtide has no nodes).
i = {r['Instances'][0]['Placement']['AvailabilityZone']: r['Instances'][0]['InstanceId'] for r in ec2.describe_instances()['Reservations']}
assert set(i) == {'us-east-1a', 'us-east-1b'}, i
fails('InvalidVolume.ZoneMismatch', ec2.attach_volume, VolumeId=v['VolumeId'], InstanceId=i['us-east-1b'], Device='/dev/xvdaa')
a = ec2.attach_volume(VolumeId=v['VolumeId'], InstanceId=i['us-east-1a'], Device='/dev/xvdaa')
assert a['State'] in ('attaching', 'attached') and a['Device'] == '/dev/xvdaa', a
ec2.get_waiter('volume_in_use').wait(VolumeIds=[v['VolumeId']], WaiterConfig={'Delay': 1, 'MaxAttempts': 10})
w = ec2.create_volume(AvailabilityZone='us-east-1a', Size=4)
fails('InvalidParameterValue', ec2.attach_volume, VolumeId=w['VolumeId'], InstanceId=i['us-east-1a'], Device='/dev/xvdaa')
fails('VolumeInUse', ec2.delete_volume, VolumeId=v['VolumeId'])
ec2.detach_volume(VolumeId=v['VolumeId'])
ec2.get_waiter('volume_available').wait(VolumeIds=[v['VolumeId']], WaiterConfig={'Delay': 1, 'MaxAttempts': 10})
fails('IncorrectState', ec2.detach_volume, VolumeId=v['VolumeId'])

# Modify: the new values show in `optimizing`.
m = ec2.modify_volume(VolumeId=v['VolumeId'], Size=8)['VolumeModification']
assert m['TargetSize'] == 8 and m['OriginalSize'] == 4, m
for _ in range(50):
    state = ec2.describe_volumes_modifications(VolumeIds=[v['VolumeId']])['VolumesModifications'][0]['ModificationState']
    if state in ('optimizing', 'completed'): break
    time.sleep(0.05)
assert state in ('optimizing', 'completed') and ec2.describe_volumes(VolumeIds=[v['VolumeId']])['Volumes'][0]['Size'] == 8

# Snapshot and restore.
s = ec2.create_snapshot(VolumeId=v['VolumeId'])
ec2.get_waiter('snapshot_completed').wait(SnapshotIds=[s['SnapshotId']], WaiterConfig={'Delay': 1, 'MaxAttempts': 20})
r = ec2.create_volume(AvailabilityZone='us-east-1b', SnapshotId=s['SnapshotId'])
assert r['Size'] == 8 and r['SnapshotId'] == s['SnapshotId'], r
ec2.delete_snapshot(SnapshotId=s['SnapshotId'])

# Tags, paging.
ec2.create_tags(Resources=[w['VolumeId']], Tags=[{'Key': 'a', 'Value': 'b'}])
assert ec2.describe_volumes(Filters=[{'Name': 'tag-key', 'Values': ['a']}])['Volumes'][0]['VolumeId'] == w['VolumeId']
ec2.delete_tags(Resources=[w['VolumeId']], Tags=[{'Key': 'a'}])
assert not ec2.describe_volumes(Filters=[{'Name': 'tag-key', 'Values': ['a']}])['Volumes']
for n in range(7): ec2.create_volume(AvailabilityZone='us-east-1c', Size=1)
pages = list(ec2.get_paginator('describe_volumes').paginate(PaginationConfig={'PageSize': 5}))
assert len(pages) == 2 and sum(len(p['Volumes']) for p in pages) == 10, [len(p['Volumes']) for p in pages]

# Deleting burns the token.
ec2.delete_volume(VolumeId=v['VolumeId'])
ec2.get_waiter('volume_deleted').wait(VolumeIds=[v['VolumeId']], WaiterConfig={'Delay': 1, 'MaxAttempts': 10})
fails('IdempotentParameterMismatch', ec2.create_volume, **args)
"#,
    );
}

#[test]
fn boto3_sees_file_systems_as_on_aws() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    python(
        &ebbtide,
        r#"
fs = efs.create_file_system(CreationToken='c1', Encrypted=True, Tags=[{'Key': 'Name', 'Value': 'shared'}])
assert fs['FileSystemId'].startswith('fs-') and len(fs['FileSystemId']) == 20, fs
assert fs['PerformanceMode'] == 'generalPurpose' and fs['ThroughputMode'] == 'bursting' and fs['Name'] == 'shared', fs
fails('FileSystemAlreadyExists', efs.create_file_system, CreationToken='c1')
fails('FileSystemNotFound', efs.describe_file_systems, FileSystemId='fs-0123456789abcdef0')
for _ in range(50):
    if efs.describe_file_systems(FileSystemId=fs['FileSystemId'])['FileSystems'][0]['LifeCycleState'] == 'available': break
    time.sleep(0.05)
subnets = ec2.describe_subnets()['Subnets']
assert len(subnets) == 3, subnets
group = ec2.create_security_group(GroupName='nfs', Description='nfs', VpcId=subnets[0]['VpcId'])['GroupId']
ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{'IpProtocol': 'tcp', 'FromPort': 2049, 'ToPort': 2049, 'IpRanges': [{'CidrIp': '0.0.0.0/0'}]}])
mt = efs.create_mount_target(FileSystemId=fs['FileSystemId'], SubnetId=subnets[0]['SubnetId'], SecurityGroups=[group])
assert mt['AvailabilityZoneName'] == subnets[0]['AvailabilityZone'] and mt['IpAddress'], mt
import ipaddress
assert ipaddress.ip_address(mt['IpAddress']) in ipaddress.ip_network(subnets[0]['CidrBlock']), mt
fails('MountTargetConflict', efs.create_mount_target, FileSystemId=fs['FileSystemId'], SubnetId=subnets[0]['SubnetId'])
assert efs.describe_mount_target_security_groups(MountTargetId=mt['MountTargetId'])['SecurityGroups'] == [group]
enis = ec2.describe_network_interfaces(NetworkInterfaceIds=[mt['NetworkInterfaceId']])['NetworkInterfaces']
assert enis[0]['PrivateIpAddress'] == mt['IpAddress'], enis

ap = dict(ClientToken='pvc-1', FileSystemId=fs['FileSystemId'], PosixUser={'Uid': 50000, 'Gid': 50000},
          RootDirectory={'Path': '/pvc-1', 'CreationInfo': {'OwnerUid': 50000, 'OwnerGid': 50000, 'Permissions': '700'}},
          Tags=[{'Key': 'efs.csi.aws.com/cluster', 'Value': 'true'}])
point = efs.create_access_point(**ap)
assert len(point['AccessPointId']) == 22 and point['RootDirectory']['Path'] == '/pvc-1', point
try:
    efs.create_access_point(**{**ap, 'PosixUser': {'Uid': 50001, 'Gid': 50001}})
    raise AssertionError('no error')
except efs.exceptions.AccessPointAlreadyExists as e:
    assert e.response['AccessPointId'] == point['AccessPointId'], e.response
fails('FileSystemNotFound', efs.create_access_point, ClientToken='x', FileSystemId='fs-0123456789abcdef0')
fails('AccessPointNotFound', efs.delete_access_point, AccessPointId='fsap-0123456789abcdef0')
listed = efs.describe_access_points(FileSystemId=fs['FileSystemId'])['AccessPoints']
assert listed[0]['ClientToken'] == 'pvc-1', listed
fails('FileSystemInUse', efs.delete_file_system, FileSystemId=fs['FileSystemId'])
efs.delete_access_point(AccessPointId=point['AccessPointId'])
efs.delete_mount_target(MountTargetId=mt['MountTargetId'])
for _ in range(50):
    if not efs.describe_mount_targets(FileSystemId=fs['FileSystemId'])['MountTargets']: break
    time.sleep(0.05)
efs.delete_file_system(FileSystemId=fs['FileSystemId'])
"#,
    );
}

/// A raw request to the endpoint; status and body. Bad input never gives a 500.
fn raw(ebbtide: &Ebbtide, request: &[u8]) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(ebbtide.info["aws"].as_str().expect("an address")).expect("connecting");
    stream.write_all(request).expect("sending");
    // Our side stays open: a server may take a client that closes for one that has gone.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("reading");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer)
}

#[test]
fn bad_input_gets_a_precise_error() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    let query = |body: &str| {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw(&ebbtide, request.as_bytes())
    };
    for (body, code) in [
        ("Action=NoSuchThing&Version=2016-11-15", "InvalidAction"),
        ("Action=CreateVolume&Version=2016-11-15&Size=abc&AvailabilityZone=us-east-1a", "InvalidParameterValue"),
        ("Action=CreateVolume&Version=2016-11-15&Size=4", "MissingParameter"),
        ("Action=DeleteVolume&Version=2016-11-15&VolumeId=nonsense", "InvalidParameterValue"),
    ] {
        let (status, answer) = query(body);
        assert!((400..500).contains(&status) && answer.contains(code), "{body}: {answer}");
    }
    for garbage in [&b"\x00\x01\x02\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"] {
        let (status, answer) = raw(&ebbtide, garbage);
        assert!(status < 500, "{answer}");
    }
    // A web page must not drive it.
    let (status, answer) = raw(&ebbtide, b"GET /_ebbtide/health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 403, "{answer}");
    let (status, answer) =
        raw(&ebbtide, b"GET /_ebbtide/health HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 403, "{answer}");
    let (status, answer) = raw(&ebbtide, b"GET /_ebbtide/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn boto3_sees_keys_and_what_depends_on_them_as_on_aws() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    python(
        &ebbtide,
        r#"
kms = boto3.client('kms', config=config)
key = kms.create_key(Description='mine', Tags=[{'TagKey': 'a', 'TagValue': 'b'}])['KeyMetadata']
assert key['KeyState'] == 'Enabled' and key['KeyManager'] == 'CUSTOMER' and key['CreationDate'].year >= 2020, key
assert key['Arn'] == 'arn:aws:kms:us-east-1:000000000000:key/' + key['KeyId'] and len(key['KeyId']) == 36, key
kms.create_alias(AliasName='alias/mine', TargetKeyId=key['KeyId'])
assert kms.describe_key(KeyId='alias/mine')['KeyMetadata'] == key
managed = kms.describe_key(KeyId='alias/aws/ebs')['KeyMetadata']
assert managed['KeyManager'] == 'AWS' and managed['KeyState'] == 'Enabled', managed
assert [a['AliasName'] for a in kms.list_aliases(KeyId=key['Arn'])['Aliases']] == ['alias/mine']
assert kms.list_resource_tags(KeyId=key['KeyId'])['Tags'] == [{'TagKey': 'a', 'TagValue': 'b'}]
pages = list(kms.get_paginator('list_keys').paginate(PaginationConfig={'PageSize': 2}))
found = [k['KeyId'] for p in pages for k in p['Keys']]
assert len(pages) == 2 and len(found) == 3 and found[-1] == key['KeyId'], pages
missing = '01234567-89ab-4cde-8f01-23456789abcd'
assert missing in fails('NotFoundException', kms.describe_key, KeyId=missing)

def made(**args):
    return ec2.create_volume(AvailabilityZone='us-east-1a', Size=1, **args)
def shown(v):
    return ec2.describe_volumes(VolumeIds=[v['VolumeId']])['Volumes'][0]
def available(v):
    ec2.get_waiter('volume_available').wait(VolumeIds=[v['VolumeId']], WaiterConfig={'Delay': 1, 'MaxAttempts': 10})
v = made(KmsKeyId='alias/mine', Encrypted=True)
available(v)
assert shown(v)['Encrypted'] and shown(v)['KmsKeyId'] == key['Arn'], shown(v)
assert shown(made(Encrypted=True))['KmsKeyId'] == managed['Arn']
assert 'KmsKeyId' not in shown(made())

# Disabled: what is made with it is gone again, what exists cannot be attached.
kms.disable_key(KeyId=key['KeyId'])
for name in (key['Arn'], 'alias/none'):
    ghost = made(KmsKeyId=name, Encrypted=True)
    assert ghost['State'] == 'creating', ghost
    fails('InvalidVolume.NotFound', ec2.describe_volumes, VolumeIds=[ghost['VolumeId']])
instance = [r['Instances'][0] for r in ec2.describe_instances()['Reservations'] if r['Instances'][0]['Placement']['AvailabilityZone'] == 'us-east-1a'][0]
attach = dict(VolumeId=v['VolumeId'], InstanceId=instance['InstanceId'], Device='/dev/xvdaa')
text = fails('CustomerKeyHasBeenRevoked', ec2.attach_volume, **attach)
assert text == f"Volume {v['VolumeId']} cannot be attached. The encrypted volume was unable to access the KMS key.", text
fails('BadRequest', efs.create_file_system, CreationToken='k', Encrypted=True, KmsKeyId=key['KeyId'])
kms.enable_key(KeyId=key['KeyId'])
ec2.attach_volume(**attach)
assert efs.create_file_system(CreationToken='k', Encrypted=True, KmsKeyId='alias/mine')['KmsKeyId'] == key['Arn']

gone = kms.schedule_key_deletion(KeyId=key['KeyId'], PendingWindowInDays=7)
assert gone['KeyState'] == 'PendingDeletion' and gone['KeyId'] == key['Arn'] and gone['DeletionDate'] > key['CreationDate'], gone
fails('KMSInvalidStateException', kms.enable_key, KeyId=key['KeyId'])
assert kms.cancel_key_deletion(KeyId=key['KeyId'])['KeyId'] == key['Arn']
assert kms.describe_key(KeyId=key['KeyId'])['KeyMetadata']['KeyState'] == 'Disabled'
kms.delete_alias(AliasName='alias/mine')
fails('NotFoundException', kms.describe_key, KeyId='alias/mine')
"#,
    );
}
