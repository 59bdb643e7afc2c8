//! Trouble on purpose, as users make it with `ebbtide fault`, and what becomes of pods: each gets to run when the fault is over, and
//! nothing is left over (ebs.md §7, §1.6–§1.9).

use std::time::Duration;

use ebbtide_tests::{Ebbtide, root, text, wait_for};
use serde_json::Value;

const CLASS: &str = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: ebs}\nprovisioner: ebs.csi.aws.com\n\
                     volumeBindingMode: WaitForFirstConsumer\n";

struct Trouble(Ebbtide);

impl Trouble {
    fn begin() -> Self {
        let ebbtide = Ebbtide::up(&[]);
        ebbtide.kubectl_with(&["apply", "-f", "-"], CLASS);
        Self(ebbtide)
    }

    /// `ebbtide fault add ARGS`; the id.
    fn add(&self, args: &[&str]) -> String {
        let args: Vec<&str> = ["fault", "add", "-o", "json"].iter().chain(args).copied().collect();
        let output = self.0.ebbtide(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        let fault: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        fault["id"].as_str().expect("an id").to_owned()
    }

    fn hits(&self, id: &str) -> u64 {
        let output = self.0.ebbtide(&["fault", "ls", "-o", "json"]);
        let faults: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        let fault = faults.as_array().into_iter().flatten().find(|fault| fault["id"] == id);
        fault.unwrap_or_else(|| panic!("{id} is not listed: {faults}"))["hits"].as_u64().expect("a number")
    }

    fn remove(&self, id: &str) {
        let output = self.0.ebbtide(&["fault", "rm", id]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Applies a claim and a pod that has it.
    fn apply(&self) {
        let manifests = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim}, spec: {accessModes: [ReadWriteOnce], \
             storageClassName: ebs, resources: {requests: {storage: 1Gi}}}}\n---\n\
             {apiVersion: v1, kind: Pod, metadata: {name: app}, spec: {terminationGracePeriodSeconds: 0, \
             containers: [{name: c, image: i, command: [sh, -c, 'echo here > /data/it; exec sleep 600'], \
             volumeMounts: [{name: d, mountPath: /data}]}], volumes: [{name: d, persistentVolumeClaim: {claimName: claim}}]}}";
        self.0.kubectl_with(&["apply", "-f", "-"], manifests);
    }

    /// The states of all attachments.
    fn attachments(&self) -> Vec<String> {
        let shown = self.0.aws(&["ec2", "describe-volumes", "--query", "Volumes[].Attachments[].State"]);
        shown.as_array().into_iter().flatten().filter_map(|state| state.as_str().map(str::to_owned)).collect()
    }

    /// The pod runs on exactly one volume with exactly one attachment.
    fn runs(&self, what: &str) {
        let waited = self.0.try_kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=120s"]);
        let events = || text(&self.0.try_kubectl(&["get", "events", "--sort-by=.lastTimestamp"]));
        assert!(waited.status.success(), "{what}: {}\n{}", text(&waited), events());
        wait_for(&format!("the file of the pod ({what})"), Duration::from_secs(20), || {
            self.0.try_kubectl(&["exec", "app", "--", "cat", "/data/it"]).stdout == b"here\n"
        });
        let volumes = self.0.aws(&["ec2", "describe-volumes", "--query", "Volumes[].State"]);
        assert_eq!(volumes, serde_json::json!(["in-use"]), "{what}");
        assert_eq!(self.attachments(), ["attached"], "{what}");
    }

    /// Deletes pod and claim; no volume and no attachment is left.
    fn goes(&self, what: &str) {
        self.0.kubectl(&["delete", "pod/app", "pvc/claim", "--timeout=120s"]);
        wait_for(&format!("the volume to go ({what})"), Duration::from_secs(120), || {
            let volumes = self.0.aws(&["ec2", "describe-volumes", "--query", "Volumes[].VolumeId"]);
            volumes.as_array().is_some_and(Vec::is_empty)
        });
        // A call whose answer was lost is asked again before its object goes.
        wait_for(&format!("the objects to go ({what})"), Duration::from_secs(120), || {
            self.0.kubectl(&["get", "pv,volumeattachments", "-o", "name"]).is_empty()
        });
    }
}

/// Calls that are refused, late, or carried out without an answer: the SDK's retries and the driver's tokens get over it.
#[test]
fn calls_in_trouble() {
    if !root() {
        return;
    }
    let trouble = Trouble::begin();
    for (args, hits) in [
        (&["throttle", "--operation", "CreateVolume,AttachVolume", "--after", "1", "--count", "4"][..], 4),
        (&["internal-error", "--service", "ec2", "--operation", "AttachVolume", "--count", "2"], 2),
        (&["unavailable", "--operation", "Describe*", "--count", "3"], 3),
        (&["latency", "--operation", "AttachVolume", "--delay", "1s", "--count", "1"], 1),
        (&["lost-response", "--operation", "CreateVolume", "--count", "1"], 1),
        (&["lost-response", "--operation", "AttachVolume", "--count", "1"], 1),
    ] {
        let id = trouble.add(args);
        trouble.apply();
        trouble.runs(&args.join(" "));
        assert_eq!(trouble.hits(&id), hits, "{args:?}");
        trouble.remove(&id);
        trouble.goes(&args.join(" "));
    }
    // On the way back.
    for operation in ["DetachVolume", "DeleteVolume"] {
        let id = trouble.add(&["lost-response", "--operation", operation, "--count", "1"]);
        trouble.apply();
        trouble.runs(operation);
        trouble.goes(operation);
        assert_eq!(trouble.hits(&id), 1, "{operation}");
        trouble.remove(&id);
    }
    let metrics = trouble.0.command("curl").args(["-sS", &format!("{}/metrics", trouble.0.endpoint())]).output().expect("curl");
    assert!(text(&metrics).contains("ebbtide_aws_fault_hits_total{action=\"local:api:lost-response\"} 4"), "{}", text(&metrics));
}

/// A volume that was made a moment ago does not show yet: the driver gives up its wait, and the next try finds the same volume.
#[test]
fn describe_calls_that_lag() {
    if !root() {
        return;
    }
    let trouble = Trouble::begin();
    let id = trouble.add(&["eventual-consistency", "--operation", "DescribeVolumes", "--delay", "3s", "--duration", "30s"]);
    trouble.apply();
    let waited = trouble.0.try_kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=120s"]);
    assert!(waited.status.success(), "{}", text(&waited));
    assert!(trouble.hits(&id) > 1);
    trouble.remove(&id);
    trouble.runs("eventual consistency");
    trouble.goes("eventual consistency");
}

/// Attachments that get stuck, and devices that are late or called otherwise.
#[test]
fn devices_in_trouble() {
    if !root() {
        return;
    }
    let trouble = Trouble::begin();
    let stuck = trouble.add(&["attach-stuck"]);
    trouble.apply();
    wait_for("the attachment", Duration::from_secs(60), || trouble.attachments() == ["attaching"]);
    assert_eq!(trouble.hits(&stuck), 1);
    trouble.remove(&stuck);
    trouble.runs("attach-stuck");
    trouble.goes("attach-stuck");

    let late = trouble.add(&["device-late", "--delay", "4s"]);
    trouble.apply();
    wait_for("an attachment without a device", Duration::from_secs(60), || trouble.attachments() == ["attached"]);
    wait_for("the node to miss the device", Duration::from_secs(30), || {
        trouble.0.kubectl(&["get", "events", "--field-selector=reason=FailedMount"]).contains("no device path for device")
    });
    trouble.runs("device-late");
    trouble.remove(&late);
    trouble.goes("device-late");

    let renamed = trouble.add(&["device-renamed"]);
    trouble.apply();
    trouble.runs("device-renamed");
    let node = trouble.0.kubectl(&["get", "pod", "app", "-o", "jsonpath={.spec.nodeName}"]);
    let names = text(&trouble.0.ebbtide(&["node", "exec", &node, "--", "ls", "/dev"]));
    let has = |prefix: &str| names.lines().any(|name| name.starts_with(prefix));
    assert!(has("sda") && !has("xvda"), "{names}");
    trouble.remove(&renamed);
    trouble.goes("device-renamed");
    let names = text(&trouble.0.ebbtide(&["node", "exec", &node, "--", "ls", "/dev"]));
    assert!(!names.lines().any(|name| name.starts_with("sda") || name.starts_with("nvme1")), "a stale name is left: {names}");
}

/// A detachment that stays busy, a node out of reach, a snapshot that stays pending.
#[test]
fn nodes_in_trouble() {
    if !root() {
        return;
    }
    let mut trouble = Trouble::begin();
    let busy = trouble.add(&["detach-stuck"]);
    trouble.apply();
    trouble.runs("detach-stuck");
    trouble.0.kubectl(&["delete", "pod/app", "--timeout=60s"]);
    wait_for("busy", Duration::from_secs(60), || trouble.attachments() == ["busy"]);
    // It is as stuck after a restart, with the rule still there.
    trouble.0.kill();
    trouble.0.start();
    assert_eq!((trouble.attachments(), trouble.hits(&busy)), (vec!["busy".to_owned()], 1));
    trouble.apply();
    trouble.remove(&busy);
    trouble.runs("detach-stuck");
    trouble.goes("detach-stuck");

    let cut: Vec<String> = trouble.0.nodes().iter().map(|node| trouble.add(&["agent-unreachable", "--node", node])).collect();
    trouble.apply();
    wait_for("the attachment", Duration::from_secs(60), || trouble.attachments() == ["attaching"]);
    let info = trouble.0.command("curl").args(["-sS", &format!("{}/_ebbtide/info", trouble.0.endpoint())]).output().expect("curl");
    let info: Value = serde_json::from_slice(&info.stdout).expect("JSON");
    assert!(info["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["connected"] == false)), "{info}");
    cut.iter().for_each(|id| trouble.remove(id));
    trouble.runs("agent-unreachable");

    let pending = trouble.add(&["snapshot-pending"]);
    let volume = trouble.0.aws(&["ec2", "describe-volumes", "--query", "Volumes[0].VolumeId"]);
    let snapshot = trouble.0.aws(&["ec2", "create-snapshot", "--volume-id", volume.as_str().expect("an id")]);
    let snapshot = snapshot["SnapshotId"].as_str().expect("an id").to_owned();
    let state = || trouble.0.aws(&["ec2", "describe-snapshots", "--snapshot-ids", &snapshot, "--query", "Snapshots[0].State"]);
    let restore = ["ec2", "create-volume", "--availability-zone", "us-east-1a", "--snapshot-id", &snapshot];
    assert!(trouble.0.aws_error(&restore).contains("IncorrectState"), "a pending snapshot cannot be restored");
    assert_eq!(state(), "pending");
    trouble.remove(&pending);
    wait_for("completed", Duration::from_secs(30), || state() == "completed");
    trouble.0.aws(&["ec2", "delete-snapshot", "--snapshot-id", &snapshot]);
    trouble.goes("snapshot-pending");
}

/// A mount of EFS that hangs until the mount target answers, and one that is refused.
#[test]
fn mounts_in_trouble() {
    if !root() {
        return;
    }
    let trouble = Trouble(Ebbtide::up(&[]));
    let (ebbtide, node) = (&trouble.0, trouble.0.nodes()[0].clone());
    let fs = ebbtide.aws(&["efs", "create-file-system"])["FileSystemId"].as_str().expect("an id").to_owned();
    let zone = ebbtide.aws(&["ec2", "describe-subnets", "--filters", "Name=availability-zone,Values=us-east-1a"]);
    let subnet = zone["Subnets"][0]["SubnetId"].as_str().expect("an id");
    ebbtide.aws(&["efs", "create-mount-target", "--file-system-id", &fs, "--subnet-id", subnet]);
    wait_for("the mount target", Duration::from_secs(20), || {
        let targets = ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", &fs]);
        targets["MountTargets"][0]["LifeCycleState"] == "available"
    });
    let at = |name: &str| format!("/var/lib/kubelet/{name}");
    let mount = |name: &str| {
        let script = format!("mkdir -p {0} && exec mount -t efs -o tls {fs}: {0}", at(name));
        let mut command = ebbtide.command(ebbtide_tests::program().to_str().expect("a path in UTF-8"));
        command.args(["node", "exec", &node, "--data-dir"]).arg(ebbtide.dir()).args(["--", "sh", "-c", &script]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("running ebbtide")
    };
    // Trouble of the API is none of the mounts.
    let api = trouble.add(&["unavailable", "--service", "efs"]);
    assert!(mount("before").wait().expect("mount").success());
    trouble.remove(&api);

    let id = trouble.add(&["error", "--service", "nfs", "--resource", &fs]);
    let denied = mount("denied").wait_with_output().expect("mount");
    assert_eq!(denied.status.code(), Some(32), "{}", text(&denied));
    let expected = "b'mount.nfs4: access denied by server while mounting 127.0.0.1:/'";
    assert!(text(&denied).contains(expected), "{}", text(&denied));
    assert_eq!(trouble.hits(&id), 1);
    trouble.remove(&id);

    let id = trouble.add(&["unavailable", "--service", "nfs", "--node", &node]);
    let mut hangs = mount("hangs");
    wait_for("two attempts of the mount", Duration::from_secs(20), || trouble.hits(&id) >= 2);
    assert_eq!(hangs.try_wait().expect("mount"), None, "it waits as long as nobody answers");
    trouble.remove(&id);
    let ended = hangs.wait_with_output().expect("mount");
    assert!(ended.status.success(), "{}", text(&ended));
    let script = format!("echo x > {}/f && cat {}/f", at("hangs"), at("before"));
    let wrote = text(&ebbtide.ebbtide(&["node", "exec", &node, "--", "sh", "-c", &script]));
    assert_eq!(wrote, "x\n");
}

/// What the aws CLI, boto3 and LocalStack's clients see, and the command line itself.
#[test]
fn the_table_by_hand() {
    let trouble = Trouble(Ebbtide::up(&["--no-nodes"]));
    let ebbtide = &trouble.0;
    assert_eq!(text(&ebbtide.ebbtide(&["fault", "ls"])), "No faults.\n");
    let id = trouble.add(&["throttle", "--service", "ec2", "--operation", "DescribeVolumes", "--duration", "10m"]);
    let listed = text(&ebbtide.ebbtide(&["fault", "ls"]));
    assert!(listed.contains("service=ec2 operation=DescribeVolumes") && listed.contains("duration=10m"), "{listed}");
    let said = ebbtide.aws_error(&["ec2", "describe-volumes"]);
    assert!(said.contains("An error occurred (RequestLimitExceeded) when calling the DescribeVolumes operation"), "{said}");
    assert!(said.contains("Request limit exceeded."), "{said}");
    ebbtide.aws(&["ec2", "describe-instances"]);
    trouble.remove(&id);
    ebbtide.aws(&["ec2", "describe-volumes"]);
    let again = ebbtide.ebbtide(&["fault", "rm", &id]);
    assert!(!again.status.success() && text(&again).contains(&format!("there is no fault {id}")), "{}", text(&again));
    for (args, part) in [
        (&["fault", "add", "nonsense"][..], "lost-response"),
        (&["fault", "add", "latency"], "needs a delay"),
        (&["fault", "add", "agent-unreachable", "--node", "nowhere"], "there is no node \"nowhere\""),
        (&["fault", "add", "throttle", "--probability", "1.5"], "between 0 and 1"),
    ] {
        let output = ebbtide.ebbtide(args);
        assert!(!output.status.success() && text(&output).contains(part), "{args:?}: {}", text(&output));
    }
    let completion = ebbtide.command(ebbtide_tests::program().to_str().expect("UTF-8")).args(["completion", "bash"]).output();
    assert!(text(&completion.expect("ebbtide")).contains("lost-response"), "names are completed");

    let program = "
import boto3, botocore, json, urllib.request, os
ec2 = boto3.client('ec2', config=botocore.config.Config(retries={'total_max_attempts': 1}))
def faults(method, rules, path='/_localstack/chaos/faults'):
    request = urllib.request.Request(os.environ['AWS_ENDPOINT_URL'] + path, json.dumps(rules).encode(), method=method)
    return json.loads(urllib.request.urlopen(request).read())
def fails(kind, call, **args):
    try:
        call(**args)
    except kind as e:
        return e
    raise AssertionError(f'no {kind}')
rule = {'service': 'ec2', 'operation': 'CreateVolume', 'probability': 1.0, 'error': {'statusCode': 500, 'code': 'InternalError'}}
assert faults('POST', [rule]) == [rule]
volume = dict(AvailabilityZone='us-east-1a', Size=1, ClientToken='t')
e = fails(botocore.exceptions.ClientError, ec2.create_volume, **volume)
assert e.response['Error']['Code'] == 'InternalError' and e.response['ResponseMetadata']['HTTPStatusCode'] == 500, e.response
assert faults('DELETE', [rule]) == []
faults('POST', {'actionId': 'local:api:lost-response', 'operation': 'CreateVolume', 'count': 1}, '/_ebbtide/faults')
fails(botocore.exceptions.ConnectionClosedError, ec2.create_volume, **volume)
made = ec2.describe_volumes()['Volumes']
assert len(made) == 1 and ec2.create_volume(**volume)['VolumeId'] == made[0]['VolumeId'], made
assert [f['state'] for f in faults('POST', [{'actionId': 'throttle'}], '/_ebbtide/faults')] == ['active']
";
    let python = ebbtide.command("python").args(["-c", program]).output().expect("python (make test installs it)");
    assert!(python.status.success(), "{}", text(&python));
    let all = ebbtide.ebbtide(&["fault", "rm", "--all"]);
    assert!(all.status.success(), "{}", text(&all));
    assert_eq!(text(&ebbtide.ebbtide(&["fault", "ls"])), "No faults.\n");
}
