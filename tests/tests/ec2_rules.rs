//! Each rule of ebs.md §12 and of the end of real-drivers.md §4 that is about devices and blocks, as a driver meets it: boto3 outside, the
//! node's own programs inside. Those that a machine decides have their tests beside it; tests/README.md has the whole list.

use ebbtide_tests::{Ebbtide, program, root, text};

/// `ec2`, the two nodes' instances, and programs in a node.
const PRELUDE: &str = r#"
import boto3, botocore, json, os, re, subprocess, sys, threading, time
from botocore.exceptions import ClientError
ec2 = boto3.client('ec2', config=botocore.config.Config(retries={'max_attempts': 1}))
def until(what, f, limit=30):
    end = time.monotonic() + limit
    while not f():
        assert time.monotonic() < end, 'waited in vain for ' + what
        time.sleep(0.02)
def fails(code, call, **args):
    try: call(**args)
    except ClientError as e:
        assert e.response['Error']['Code'] == code, e.response['Error']
        return e.response['Error']['Message']
    raise AssertionError('no error, expected ' + code)
instances = [r['Instances'][0] for r in ec2.describe_instances()['Reservations']]
A = next(i for i in instances if i['Placement']['AvailabilityZone'] == 'us-east-1a')
NODE = A['PrivateDnsName']
def node(*argv, check=True, **more):
    argv = [os.environ['EBBTIDE'], 'node', 'exec', '--data-dir', os.environ['DATA'], NODE, '--', *argv]
    out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    assert not check or out.returncode == 0, (argv, out)
    return out
def sh(script, **more): return node('sh', '-c', script, **more).stdout.decode().strip()
def volume(**args):
    v = ec2.create_volume(**{**dict(AvailabilityZone='us-east-1a', Size=1, VolumeType='gp3'), **args})['VolumeId']
    until('available', lambda: shown(v)['State'] == 'available')
    return v
def shown(v): return ec2.describe_volumes(VolumeIds=[v])['Volumes'][0]
def attachment(v): return (shown(v)['Attachments'] or [{'State': 'detached'}])[0]['State']
def attach(v, device, wait=True):
    ec2.attach_volume(VolumeId=v, InstanceId=A['InstanceId'], Device=device)
    if wait: until('attached', lambda: attachment(v) == 'attached')
def detach(v):
    ec2.detach_volume(VolumeId=v, InstanceId=A['InstanceId'])
    until('detached', lambda: attachment(v) == 'detached')
def snapshot(v):
    s = ec2.create_snapshot(VolumeId=v)['SnapshotId']
    until('completed', lambda: ec2.describe_snapshots(SnapshotIds=[s])['Snapshots'][0]['State'] == 'completed')
    return s
def by_id(v): return '/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_' + v.replace('-', '')
"#;

fn run(ebbtide: &Ebbtide, script: &str) {
    let mut command = ebbtide.command("python");
    command.env("EBBTIDE", program()).env("DATA", ebbtide.dir());
    let output = command.arg("-c").arg(format!("{PRELUDE}\n{script}")).output().expect("running python (make test installs it)");
    assert!(output.status.success(), "{}\n{}", text(&output), ebbtide.log());
}

/// (a), (b), (c), (e) of real-drivers.md §4: a driver looks once and does not wait.
#[test]
fn a_device_exists_before_attached_is_said_and_its_name_goes_at_detach() {
    if !root() {
        return;
    }
    run(
        &Ebbtide::up(&[]),
        r#"
for round in range(2):
    v = volume()
    attach(v, '/dev/xvdaa', wait=False)
    # One process in the node, so that it looks the moment after the answer.
    until('attached', lambda: attachment(v) == 'attached')
    device = sh('test -b /dev/xvdaa && readlink -f /dev/xvdaa')
    # (b) FindDevicePath takes only this form.
    assert re.fullmatch(r'/dev/[A-Za-z0-9]+', device), device
    assert sh(f'readlink -f {by_id(v)}') == device
    # (c) blkid's 2 is "nothing on it"; then it is formatted.
    assert node('blkid', '-p', '-s', 'TYPE', '-s', 'PTTYPE', '-o', 'export', device, check=False).returncode == 2
    assert sh(f'lsblk --noheadings --ascii --nodeps --output SERIAL -- {device} || true') in ('', v.replace('-', ''))
    assert sh(f'cmp -n 1048576 {device} /dev/zero && echo same') == 'same'
    # (e) not before the unmount, then at once: `busy`, and nothing of it stays.
    sh(f'mkfs.xfs -q {device} && mkdir -p /run/ebbtide/node/m && mount {device} /run/ebbtide/node/m')
    ec2.detach_volume(VolumeId=v, InstanceId=A['InstanceId'])
    until('busy', lambda: attachment(v) == 'busy')
    assert sh(f'test -b /dev/xvdaa && test -b {by_id(v)} && echo there') == 'there'
    sh('umount /run/ebbtide/node/m')
    until('detached', lambda: attachment(v) == 'detached')
    left = sh(f'ls {device} /dev/xvdaa {by_id(v)} 2>/dev/null || true')
    assert left == '', left
    ec2.delete_volume(VolumeId=v)
# A stale name is never left: the next volume under the same name is the next volume.
a, b = volume(), volume()
attach(a, '/dev/xvdaa'); sh('echo first > /dev/xvdaa'); detach(a)
attach(b, '/dev/xvdaa')
assert sh('head -c 5 /dev/xvdaa | tr -d "\\0"') == ''
assert sh(f'test -e {by_id(a)} || echo gone') == 'gone'
assert sh(f'readlink -f {by_id(b)}') == sh('readlink -f /dev/xvdaa')
detach(b)
"#,
    );
}

/// (d): before the modification says `optimizing`, NodeExpand would answer OK with the old size.
#[test]
fn growth_reaches_the_device_before_the_modification_says_optimizing() {
    if !root() {
        return;
    }
    run(
        &Ebbtide::up(&[]),
        r#"
v = volume()
attach(v, '/dev/xvdaa')
device = sh('readlink -f /dev/xvdaa')
sh(f'mkfs.xfs -q {device} && mkdir -p /run/ebbtide/node/m && mount {device} /run/ebbtide/node/m && echo kept > /run/ebbtide/node/m/file')
def modification(): return ec2.describe_volumes_modifications(VolumeIds=[v])['VolumesModifications'][0]['ModificationState']
for size, more in ((2, {}), (3, {'VolumeType': 'io2', 'Iops': 200})):
    if more: size = 4
    answer = ec2.modify_volume(VolumeId=v, Size=size, **more)['VolumeModification']
    assert answer['TargetSize'] == size and answer['ModificationState'] in ('modifying', 'optimizing', 'completed'), answer
    until('optimizing', lambda: modification() in ('optimizing', 'completed'))
    assert sh(f'blockdev --getsize64 {device}') == str(size << 30)
    now = shown(v)
    assert now['Size'] == size and now['VolumeType'] == more.get('VolumeType', 'gp3'), now
    sh('xfs_growfs -d /run/ebbtide/node/m')
    assert int(sh('stat -f -c %b /run/ebbtide/node/m')) * int(sh('stat -f -c %S /run/ebbtide/node/m')) > (size << 30) * 3 // 4
    assert sh('cat /run/ebbtide/node/m/file') == 'kept'
sh('umount /run/ebbtide/node/m')
detach(v)
"#,
    );
}

/// Snapshots and copies are of one moment: that of the call. A writer counts up in two distant blocks of a mounted file, first
/// in the one, then in the other; at any moment they are equal or the first is one ahead. What lies between them makes a copy take a while.
#[test]
fn snapshots_and_copies_show_one_moment_of_a_volume_that_is_written() {
    if !root() {
        return;
    }
    run(
        &Ebbtide::up(&[]),
        r#"
v = volume()
attach(v, '/dev/xvdaa')
device = sh('readlink -f /dev/xvdaa')
sh(f'mkfs.xfs -q {device} && mkdir -p /run/ebbtide/node/m && mount {device} /run/ebbtide/node/m')
FAR = 96 << 20
sh(f'head -c {FAR + 4096} /dev/urandom > /run/ebbtide/node/m/counts; sync /run/ebbtide/node/m/counts')
writer = r'''
import mmap, os, sys
f = os.open('/run/ebbtide/node/m/counts', os.O_RDWR | os.O_DIRECT | os.O_SYNC)
page = mmap.mmap(-1, 4096)
n = 0
while not os.path.exists('/run/ebbtide/node/stop'):
    n += 1
    page[:8] = n.to_bytes(8, 'little')
    os.pwrite(f, page, 0); os.pwrite(f, page, int(sys.argv[1]))
    open('/run/ebbtide/node/count.new', 'w').write(str(n)); os.rename('/run/ebbtide/node/count.new', '/run/ebbtide/node/count')
'''
def counted(path):
    return [int(n) for n in sh(f'for at in 0 {FAR}; do od -A n -t u8 -j $at -N 8 {path}; done').split()]
process = threading.Thread(target=lambda: node(sys.executable, '-c', writer, str(FAR)))
process.start()
count = lambda: int(sh('cat /run/ebbtide/node/count 2>/dev/null || echo 0'))
until('the writer', lambda: count() > 10)
made = []
for round in range(2):
    for kind in ('snapshot', 'copy'):
        before = count()
        if kind == 'snapshot': made.append((kind, ec2.create_snapshot(VolumeId=v)['SnapshotId'], before, count()))
        else: made.append((kind, ec2.copy_volumes(SourceVolumeId=v)['Volumes'][0]['VolumeId'], before, count()))
until('the writer to go on', lambda: count() > made[-1][3] + 10, 120)
sh('touch /run/ebbtide/node/stop')
process.join()
sh('umount /run/ebbtide/node/m')
for kind, name, before, after in made:
    if kind == 'snapshot':
        until('completed', lambda: ec2.describe_snapshots(SnapshotIds=[name])['Snapshots'][0]['State'] == 'completed')
        copy = volume(SnapshotId=name)
    else:
        copy = name
        until('available', lambda: shown(copy)['State'] == 'available')
    attach(copy, '/dev/xvdab')
    sh('mount -o nouuid $(readlink -f /dev/xvdab) /run/ebbtide/node/m')
    first, second = counted('/run/ebbtide/node/m/counts')
    assert first - second in (0, 1), (kind, first, second)
    # Nothing older than what was durable before the call, nothing newer than its answer (one write may have been between).
    assert before <= second and first <= after + 1, (kind, before, first, second, after)
    sh('umount /run/ebbtide/node/m')
    detach(copy)
detach(v)
"#,
    );
}

/// What copies and restores hold is exactly what was there, and they are longer where that was asked for.
#[test]
fn restores_and_copies_carry_exactly_the_blocks() {
    if !root() {
        return;
    }
    run(
        &Ebbtide::up(&[]),
        r#"
v = volume()
attach(v, '/dev/xvdaa')
device = sh('readlink -f /dev/xvdaa')
sh(f'for at in 0 7 511 1000; do dd if=/dev/urandom of={device} bs=1M seek=$at count=3 conv=notrunc,fsync status=none; done')
def digest(device, gib=1): return sh(f'head -c {gib << 30} {device} | sha256sum')
was = digest(device)
s = snapshot(v)
c = ec2.copy_volumes(SourceVolumeId=v, Size=2)['Volumes'][0]['VolumeId']
sh(f'dd if=/dev/urandom of={device} bs=1M count=20 conv=notrunc,fsync status=none')
assert sh(f'head -c 1M {device} | sha256sum') != sh(f'tail -c +{7 << 20} {device} | head -c 1M | sha256sum')
detach(v)
ec2.delete_volume(VolumeId=v)
for copy, gib in ((volume(SnapshotId=s, Size=3), 3), (c, 2)):
    until('available', lambda: shown(copy)['State'] == 'available')
    attach(copy, '/dev/xvdab')
    here = sh('readlink -f /dev/xvdab')
    assert digest(here) == was, copy
    assert sh(f'blockdev --getsize64 {here}') == str(gib << 30)
    assert sh(f'tail -c {gib - 1 << 30} {here} | tr -d "\\0" | wc -c') == '0'
    # A copy is its own: what is written to it is nowhere else.
    sh(f'dd if=/dev/urandom of={here} bs=1M count=1 conv=notrunc,fsync status=none')
    detach(copy)
file = f"{os.environ['DATA']}/snapshots/{s}.img"
assert subprocess.run(['sha256sum'], stdin=open(file, 'rb'), stdout=subprocess.PIPE, check=True).stdout.decode().strip() == was
"#,
    );
}

/// T1 and T1-e2e of ebs.md §8 that no other test here calls: fast restores and locks, on the wire.
#[test]
fn fast_restores_and_locks_as_boto3_reads_them() {
    run(
        &Ebbtide::up(&["--no-nodes"]),
        r#"
from datetime import datetime, timedelta, timezone
v = volume()
s = snapshot(v)
fails('DryRunOperation', ec2.enable_fast_snapshot_restores, SourceSnapshotIds=[s], AvailabilityZones=['us-east-1a'], DryRun=True)
answer = ec2.enable_fast_snapshot_restores(SourceSnapshotIds=[s, 'snap-0123456789abcdef0'], AvailabilityZones=['us-east-1a', 'us-east-1b'])
assert [(r['SnapshotId'], r['AvailabilityZone'], r['State']) for r in answer['Successful']] == [(s, z, 'enabling') for z in ('us-east-1a', 'us-east-1b')], answer
bad = answer['Unsuccessful']
assert len(bad) == 1 and len(bad[0]['FastSnapshotRestoreStateErrors']) == 2, bad
assert bad[0]['FastSnapshotRestoreStateErrors'][0]['Error']['Code'] == 'InvalidSnapshot.NotFound', bad
def states(**args): return sorted(r['State'] for p in ec2.get_paginator('describe_fast_snapshot_restores').paginate(**args) for r in p['FastSnapshotRestores'])
of = [{'Name': 'snapshot-id', 'Values': [s]}]
until('enabled', lambda: states(Filters=of) == ['enabled', 'enabled'])
assert shown(volume(SnapshotId=s))['FastRestored'] is True
assert ec2.disable_fast_snapshot_restores(SourceSnapshotIds=[s], AvailabilityZones=['us-east-1b'])['Successful'][0]['State'] == 'disabling'
until('disabled', lambda: states(Filters=of) == ['disabled', 'enabled'])

fails('InvalidParameterCombination', ec2.lock_snapshot, SnapshotId=s, LockMode='governance', LockDuration=1, CoolOffPeriod=1)
locked = ec2.lock_snapshot(SnapshotId=s, LockMode='governance', LockDuration=1)
assert locked['LockState'] == 'governance' and locked['LockExpiresOn'] - locked['LockDurationStartTime'] == timedelta(days=1), locked
fails('SnapshotLocked', ec2.delete_snapshot, SnapshotId=s)
shown_locks = ec2.describe_locked_snapshots(SnapshotIds=[s])['Snapshots']
assert shown_locks[0]['LockState'] == 'governance' and shown_locks[0]['OwnerId'] == '000000000000', shown_locks
date = (datetime.now(timezone.utc) + timedelta(days=3)).replace(microsecond=0)
locked = ec2.lock_snapshot(SnapshotId=s, LockMode='compliance', ExpirationDate=date, CoolOffPeriod=1)
assert locked['LockState'] == 'compliance-cooloff' and locked['LockExpiresOn'] == date and locked['CoolOffPeriod'] == 1, locked
assert ec2.unlock_snapshot(SnapshotId=s)['SnapshotId'] == s
assert ec2.describe_locked_snapshots(Filters=[{'Name': 'lock-state', 'Values': ['governance', 'compliance-cooloff']}])['Snapshots'] == []
ec2.delete_snapshot(SnapshotId=s, DryRun=False)
assert states() == []
"#,
    );
}

/// §12 (5): a driver that sees `attaching` counts from AttachTime, by its own clock, how long that has lasted.
#[test]
fn attach_time_is_the_wall_clocks_time_of_the_call() {
    run(
        &Ebbtide::up(&["--no-nodes"]),
        r#"
from datetime import datetime, timedelta, timezone
def times(v):
    mapped = ec2.describe_instances(InstanceIds=[A['InstanceId']])['Reservations'][0]['Instances'][0]['BlockDeviceMappings']
    here = [a['AttachTime'] for a in shown(v)['Attachments']]
    return here + [m['Ebs']['AttachTime'] for m in mapped if m['Ebs']['VolumeId'] == v]
def timed(v):
    began = datetime.now(timezone.utc)
    at = ec2.attach_volume(VolumeId=v, InstanceId=A['InstanceId'], Device='/dev/xvdaa')['AttachTime']
    # It is told in milliseconds.
    assert began - timedelta(milliseconds=1) <= at <= datetime.now(timezone.utc), (began, at)
    return at
v = volume()
first = timed(v)
assert times(v) == [first, first], times(v)
# Nothing that happens to the attachment or to the volume moves it.
ec2.create_tags(Resources=[v], Tags=[{'Key': 'a', 'Value': 'b'}])
until('attached', lambda: attachment(v) == 'attached')
assert times(v) == [first, first], times(v)
answer = ec2.detach_volume(VolumeId=v, InstanceId=A['InstanceId'])
assert answer['AttachTime'] == first, answer
until('detached', lambda: attachment(v) == 'detached')
assert timed(v) > first
"#,
    );
}
