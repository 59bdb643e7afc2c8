//! The calls of the EBS and EFS drivers in their order (ebs.md §1.1, §1.9, §1.10; efs.md §1.5), with the SDK's retries, answers that are
//! lost after the call was carried out, and the same call racing with itself. At the end each token gave one volume and nothing is left.

use ebbtide_tests::{Ebbtide, root, text};

const PROGRAM: &str = r#"
import boto3, botocore, hashlib, os, re, threading, time
from botocore.exceptions import ClientError
from concurrent.futures import ThreadPoolExecutor
config = botocore.config.Config(retries={'mode': 'standard', 'max_attempts': 10}, max_pool_connections=40)
ec2, efs = boto3.client('ec2', config=config), boto3.client('efs', config=config)
A = next(r['Instances'][0] for r in ec2.describe_instances()['Reservations'] if r['Instances'][0]['Placement']['AvailabilityZone'] == 'us-east-1a')['InstanceId']
N = 8
def wait(what, f, limit=60):
    end = time.monotonic() + limit
    while True:
        found = f()
        if found: return found
        assert time.monotonic() < end, 'waited in vain for ' + what
        time.sleep(0.02)
def code(call, **args):
    try: call(**args)
    except ClientError as e: return e.response['Error']['Code']
    return None
def carried_out(call, *codes, **args):
    answer = code(call, **args)
    assert answer in (None, *codes), (call, args, answer)
def describe(v): return ec2.describe_volumes(VolumeIds=[v])['Volumes'][0]
def state(v): return [a['State'] for a in describe(v)['Attachments']]

def probe():
    assert code(ec2.describe_availability_zones, DryRun=True) == 'DryRunOperation'
def create(name, **more):
    try: ec2.create_volume(AvailabilityZone='us-east-1a', Size=4, VolumeType='gp3', Iops=2147483647, DryRun=True,
                           TagSpecifications=[{'ResourceType': 'volume', 'Tags': [{'Key': 'CSIVolumeName', 'Value': 'IopsLimitDryRun'}]}])
    except ClientError as e: assert re.search(r'(?i)volume iops.*is too high.*maximum is 80000', str(e)), e
    tags = [{'Key': 'CSIVolumeName', 'Value': name}, {'Key': 'ebs.csi.aws.com/cluster', 'Value': 'true'}]
    # A Go map: another order with every try.
    if threading.get_ident() % 2: tags.reverse()
    token = hashlib.sha256(name.encode()).hexdigest()
    v = ec2.create_volume(ClientToken=token, AvailabilityZone='us-east-1a', Size=1, VolumeType='gp3', Encrypted=False,
                          MultiAttachEnabled=False, TagSpecifications=[{'ResourceType': 'volume', 'Tags': tags}], **more)
    assert v['Size'] == 1, v
    wait('available', lambda: describe(v['VolumeId'])['State'] == 'available')
    return v['VolumeId']
def used():
    i = ec2.describe_instances(InstanceIds=[A])['Reservations'][0]['Instances'][0]
    assert all(m['Ebs']['VolumeId'] for m in i['BlockDeviceMappings'])
    return {m['Ebs']['VolumeId']: m['DeviceName'] for m in i['BlockDeviceMappings']}
names, lock = ['/dev/xvda' + chr(c) for c in range(ord('a'), ord('z') + 1)], threading.Lock()
flying = set()
def attach(v):
    with lock:
        taken = used()
        name = taken.get(v) or next(n for n in names if n not in taken.values() and n not in flying)
        flying.add(name)
    try:
        if v not in taken:
            # The SDK asks again when an answer is lost; then the volume has its attachment already.
            carried_out(ec2.attach_volume, 'VolumeInUse', Device=name, InstanceId=A, VolumeId=v)
        wait('attached', lambda: state(v) == ['attached'])
        a = describe(v)['Attachments'][0]
        assert (a['Device'], a['InstanceId']) == (name, A) and used()[v] == name, a
    finally: flying.discard(name)
def modify(v, size):
    assert code(ec2.describe_volumes_modifications, VolumeIds=[v]) == 'InvalidVolumeModification.NotFound'
    carried_out(ec2.modify_volume, 'IncorrectModificationState', VolumeId=v, Size=size, Iops=3014, Throughput=153)
    done = lambda: ec2.describe_volumes_modifications(VolumeIds=[v])['VolumesModifications'][-1]['ModificationState'] in ('optimizing', 'completed')
    wait('modification', done)
    now = describe(v)
    assert (now['Size'], now['Iops'], now['Throughput']) == (size, 3014, 153), now
def snapshot(v, name):
    of = [{'Name': 'tag:CSIVolumeSnapshotName', 'Values': [name]}]
    found = ec2.describe_snapshots(Filters=of)['Snapshots']
    if not found:
        ec2.create_snapshot(VolumeId=v, Description='Created by AWS EBS CSI driver for volume ' + v,
                            TagSpecifications=[{'ResourceType': 'snapshot', 'Tags': [{'Key': 'CSIVolumeSnapshotName', 'Value': name}]}])
    s = wait('completed', lambda: [s for s in ec2.describe_snapshots(Filters=of)['Snapshots'] if s['State'] == 'completed'])[0]
    assert ec2.describe_snapshots(MaxResults=0, Filters=[{'Name': 'volume-id', 'Values': [v]}])['Snapshots'], s
    return s['SnapshotId']
def detach(v):
    # Asked again after a lost answer the volume may be free already: the driver takes both for success.
    carried_out(ec2.detach_volume, 'IncorrectState', 'InvalidAttachment.NotFound', InstanceId=A, VolumeId=v)
    wait('detached', lambda: state(v) == [])
def delete(v):
    carried_out(ec2.delete_volume, 'InvalidVolume.NotFound', VolumeId=v)
    wait('deleted', lambda: code(ec2.describe_volumes, VolumeIds=[v]) == 'InvalidVolume.NotFound')

def life(n):
    name = f'pvc-{n}'
    with ThreadPoolExecutor(3) as racers:
        made = set(racers.map(lambda _: create(name), range(3)))
    assert len(made) == 1, made
    v = made.pop()
    attach(v)
    if n % 2: modify(v, 8)
    s = snapshot(v, f'snapshot-{n}')
    restored = create(f'restored-{n}', SnapshotId=s) if n % 2 == 0 else None
    copy = None
    if n == 1:
        copies = [ec2.copy_volumes(SourceVolumeId=v, ClientToken='c' * 64, Size=9)['Volumes'] for _ in range(2)]
        assert copies[0][0]['VolumeId'] == copies[1][0]['VolumeId'] and len(copies[0]) == 1, copies
        copy = copies[0][0]['VolumeId']
        wait('the copy', lambda: describe(copy)['State'] == 'available')
    detach(v)
    carried_out(ec2.delete_snapshot, 'InvalidSnapshot.NotFound', SnapshotId=s, DryRun=False)
    for gone in filter(None, (v, restored, copy)): delete(gone)
    # The token is burned: the driver takes the next one.
    try: create(name); raise AssertionError('a deleted volume came back')
    except ClientError as e: assert e.response['Error']['Code'] == 'IdempotentParameterMismatch', e
    return v

probe()
with ThreadPoolExecutor(N) as pods: volumes = list(pods.map(life, range(N)))
assert len(set(volumes)) == N
# A batch: one unknown id fails all and is named; names that are not there are only absent.
fresh = create('pvc-last')
missing = volumes[0]
try: ec2.describe_volumes(VolumeIds=[fresh, missing]); raise AssertionError('no error')
except ClientError as e: assert e.response['Error']['Code'] == 'InvalidVolume.NotFound' and re.findall(r'vol-[a-z0-9]+', str(e)) == [missing], e
found = ec2.describe_volumes(Filters=[{'Name': 'tag:CSIVolumeName', 'Values': ['pvc-last', 'pvc-0']}])['Volumes']
assert [f['VolumeId'] for f in found] == [fresh], found
delete(fresh)

# EFS: list, create, and adopt what the same token made.
fs = efs.create_file_system(CreationToken='one')['FileSystemId']
wait('the file system', lambda: efs.describe_file_systems(FileSystemId=fs)['FileSystems'][0]['LifeCycleState'] == 'available')
def point(n):
    uids = [p['PosixUser']['Uid'] for p in efs.describe_access_points(FileSystemId=fs, MaxResults=1000)['AccessPoints']]
    uid = max([49999, *uids]) + 1
    owner = {'CreationInfo': {'OwnerUid': uid, 'OwnerGid': uid, 'Permissions': '700'}, 'Path': f'/pvc-{n}'}
    try: return efs.create_access_point(ClientToken=f'pvc-{n}', FileSystemId=fs, PosixUser={'Uid': uid, 'Gid': uid}, RootDirectory=owner,
                                        Tags=[{'Key': 'efs.csi.aws.com/cluster', 'Value': 'true'}])['AccessPointId']
    except efs.exceptions.AccessPointAlreadyExists:
        listed = efs.describe_access_points(FileSystemId=fs, MaxResults=1000)['AccessPoints']
        return next(p['AccessPointId'] for p in listed if p['ClientToken'] == f'pvc-{n}')
with ThreadPoolExecutor(9) as racers: points = list(racers.map(lambda n: (n % 3, point(n % 3)), range(9)))
assert len(set(points)) == 3, points
for _, p in set(points): carried_out(efs.delete_access_point, 'AccessPointNotFound', AccessPointId=p)
assert efs.describe_access_points(FileSystemId=fs)['AccessPoints'] == []
efs.delete_file_system(FileSystemId=fs)

# Nothing is left.
assert ec2.describe_volumes()['Volumes'] == [] and ec2.describe_snapshots()['Snapshots'] == [], 'records'
assert list(used().values()) == [d for d in used().values() if d == '/dev/xvda'], used()
"#;

#[test]
fn calls_of_the_drivers_race_and_lose_answers() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let calls = "CreateVolume,AttachVolume,ModifyVolume,DetachVolume,DeleteVolume,DeleteSnapshot,CreateAccessPoint,DeleteAccessPoint";
    for args in [
        &["lost-response", "--operation", calls, "--probability", "0.2"][..],
        &["throttle", "--service", "ec2", "--operation", "CreateVolume,AttachVolume,DetachVolume", "--count", "4"],
    ] {
        let output = ebbtide.ebbtide(&[&["fault", "add"][..], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }
    let output = ebbtide.command("python").args(["-c", PROGRAM]).output().expect("running python (make test installs it)");
    assert!(output.status.success(), "{}\n{}", text(&output), ebbtide.log());
    for kind in ["volumes", "snapshots"] {
        let left: Vec<_> =
            std::fs::read_dir(ebbtide.dir().join(kind)).into_iter().flatten().flatten().map(|file| file.file_name()).collect();
        assert!(left.is_empty(), "files in {kind}: {left:?}");
    }
    let faults = text(&ebbtide.ebbtide(&["fault", "ls", "-o", "json"]));
    assert!(!faults.contains("\"hits\": 0") && !faults.contains("\"hits\":0"), "a fault was never met: {faults}");
}
