//! The exercises E01–E07, E11 and E14 of the workshop and the EBS driver's examples (users.md §2.1), one function each.

use super::stack::{Exercise, LIMIT};

/// Objects of a volume that was made by hand. `VOL` is its id; `MORE` further fields of the PersistentVolume.
const STATIC: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: NS-pv}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 10Gi}
  csi: {driver: ebs.csi.aws.com, fsType: ext4, volumeHandle: VOL}
  MORE
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ebs-claim}
spec:
  storageClassName: ""
  volumeName: NS-pv
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 10Gi}}
"#;

fn create_volume(x: &Exercise<'_>, zone: &str) -> String {
    let tags = "ResourceType=volume,Tags=[{Key=ebs.csi.aws.com/cluster,Value=true}]";
    let args = ["--size", "10", "--availability-zone", zone, "--volume-type", "gp3", "--tag-specifications", tags];
    let volume = x.aws(&[&["ec2", "create-volume"], &args[..]].concat());
    volume["VolumeId"].as_str().expect("a volume id").to_owned()
}

/// Takes the pod, the claim and the volume apart by hand; the volume is still there (Retain) and is deleted.
fn static_goes(x: &Exercise<'_>, id: &str) {
    x.delete("pod", "app");
    x.delete("pvc", "ebs-claim");
    x.delete("pv", &format!("{}-pv", x.name));
    x.eventually("the volume to be detached", || x.describe_volume(id)["State"] == "available");
    x.aws(&["ec2", "delete-volume", "--volume-id", id]);
    let gone = x.ebbtide.aws_error(&["ec2", "describe-volumes", "--volume-ids", id]);
    assert!(gone.contains("InvalidVolume.NotFound") && gone.contains(id), "{gone}");
}

/// A volume made by hand.
pub fn e01(x: &Exercise<'_>) {
    let id = create_volume(x, "us-east-1a");
    let affinity = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, \
                    values: [us-east-1a]}]}]}}";
    x.apply(&STATIC.replace("VOL", &id).replace("MORE", affinity));
    x.survives_its_pod("ebs-claim");
    let shown = x.kubectl(&["get", "pv", "e01-pv", "--no-headers"]);
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(&cells[..6], ["e01-pv", "10Gi", "RWO", "Retain", "Bound", "e01/ebs-claim"], "{shown}");
    let volume = x.describe_volume(&id);
    assert_eq!(volume["State"], "in-use");
    assert_eq!(volume["Attachments"][0]["State"], "attached");
    static_goes(x, &id);
}

/// The same without nodeAffinity, and the pod on a node of another zone. Returns the volume's id.
pub fn e02(x: &Exercise<'_>) {
    let id = create_volume(x, "us-east-1b");
    x.apply(&STATIC.replace("VOL", &id).replace("MORE", "persistentVolumeReclaimPolicy: Retain"));
    x.pod("app", "ebs-claim", "nodeSelector: {topology.kubernetes.io/zone: us-east-1a}");
    x.eventually("the event", || x.events("app").contains("FailedAttachVolume"));
    x.eventually("EC2's error in the event", || x.events("app").contains("InvalidVolume.ZoneMismatch"));
    assert!(x.events("app").contains(&id), "{}", x.events("app"));
    assert_eq!(x.field("pod", "app", "{.status.containerStatuses[0].state.waiting.reason}"), "ContainerCreating");
    static_goes(x, &id);
}

/// A volume made for a claim.
pub fn e03(x: &Exercise<'_>) {
    // The class comes last, as in the workshop: the claim waits for it.
    x.claim("ebs-claim", "10Gi", "");
    x.class("");
    x.survives_its_pod("ebs-claim");
    let (pv, id) = (x.field("pvc", "ebs-claim", "{.spec.volumeName}"), x.volume_of("ebs-claim"));
    let node = x.field("pod", "app", "{.spec.nodeName}");
    let zone = x.field("node", &node, r"{.metadata.labels.topology\.kubernetes\.io/zone}");
    let volume = x.describe_volume(&id);
    assert_eq!(volume["VolumeType"], "gp3");
    assert_eq!(volume["AvailabilityZone"], zone.as_str());
    let tags = volume["Tags"].as_array().cloned().unwrap_or_default();
    let tag = |key: &str| tags.iter().find(|tag| tag["Key"] == key).and_then(|tag| tag["Value"].as_str()).unwrap_or_default().to_owned();
    assert_eq!(tag("CSIVolumeName"), pv);
    assert_eq!(tag("ebs.csi.aws.com/cluster"), "true");
    assert_eq!(tag("kubernetes.io/created-for/pvc/name"), "ebs-claim");
    assert_eq!(tag("kubernetes.io/created-for/pvc/namespace"), x.name);
    assert_eq!(tag("kubernetes.io/created-for/pv/name"), pv);
    // The class goes before the claim, and the volume is deleted all the same.
    x.delete("storageclass", "e03-sc");
    x.clean_up();
    let gone = x.ebbtide.aws_error(&["ec2", "describe-volumes", "--volume-ids", &id]);
    assert!(gone.contains("InvalidVolume.NotFound"), "{gone}");
}

/// A database's volume, found by the claim's name; the claim is its StatefulSet's, and outlives the pods.
pub fn e04(x: &Exercise<'_>) {
    x.class("parameters: {encrypted: \"true\"}");
    x.apply(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: catalog-mysql-ebs}
spec:
  serviceName: mysql
  selector: {matchLabels: {app: mysql}}
  template:
    metadata: {labels: {app: mysql}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: mysql, image: "mysql:8.0", command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /var/lib/mysql}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: NS-sc, resources: {requests: {storage: 30Gi}}}
"#,
    );
    x.kubectl(&["rollout", "status", "statefulset/catalog-mysql-ebs", &format!("--timeout={}s", LIMIT.as_secs())]);
    let filter = "Name=tag:kubernetes.io/created-for/pvc/name,Values=data-catalog-mysql-ebs-0";
    let found = x.aws(&["ec2", "describe-volumes", "--filters", filter, "--query", "Volumes[*].{Size: Size, Encrypted: Encrypted}"]);
    assert_eq!(found, serde_json::json!([{"Size": 30, "Encrypted": true}]));
    let df = x.sh("catalog-mysql-ebs-0", "df -h /var/lib/mysql | tail -1");
    assert!(df.starts_with("/dev/") && df.contains("/var/lib/mysql"), "{df}");
    let size: f64 =
        df.split_whitespace().nth(1).and_then(|size| size.strip_suffix('G')).and_then(|size| size.parse().ok()).expect("a size");
    assert!((29.0..=30.0).contains(&size), "{df}");
    x.sh("catalog-mysql-ebs-0", "echo 123 > /var/lib/mysql/test.txt");
    x.delete("pod", "catalog-mysql-ebs-0");
    // `kubectl wait` does not wait for a pod that is not there yet.
    x.eventually("the pod to come back", || x.ebbtide.try_kubectl(&["-n", x.name, "get", "pod", "catalog-mysql-ebs-0"]).status.success());
    x.ready("catalog-mysql-ebs-0");
    assert_eq!(x.sh("catalog-mysql-ebs-0", "cat /var/lib/mysql/test.txt"), "123\n");
    x.delete("statefulset", "catalog-mysql-ebs");
    x.clean_up();
}

/// The parameters of a class.
pub fn e05(x: &Exercise<'_>) {
    x.class(
        "parameters: {csi.storage.k8s.io/fstype: xfs, type: io1, iopsPerGB: \"50\", encrypted: \"true\"}\n\
         allowedTopologies: [{matchLabelExpressions: [{key: topology.kubernetes.io/zone, values: [us-east-1b]}]}]\n",
    );
    x.claim("ebs-claim", "4Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    let volume = x.describe_volume(&x.volume_of("ebs-claim"));
    let shown = ["VolumeType", "Iops", "Encrypted", "AvailabilityZone", "Size"].map(|field| volume[field].clone());
    assert_eq!(serde_json::json!(shown), serde_json::json!(["io1", 200, true, "us-east-1b", 4]), "{volume:#}");
    let mount = x.sh("app", "grep ' /data ' /proc/mounts");
    assert_eq!(mount.split(' ').nth(2), Some("xfs"), "{mount}");
    x.clean_up();
}

/// A pod's claim is a block device at /dev/xvda, which is read and written without the page cache.
const BLOCK_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: busybox
    command: ["/bin/sh", "-c", "exec sleep 3600"]
    volumeDevices: [{name: data, devicePath: /dev/xvda}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: block-claim}}]
"#;

fn write_block(x: &Exercise<'_>, pod: &str, text: &str) {
    x.sh(pod, &format!("printf '%-4096s' '{text}' | dd of=/dev/xvda bs=4096 oflag=direct conv=notrunc 2>/dev/null"));
}

fn read_block(x: &Exercise<'_>, pod: &str) -> String {
    x.sh(pod, "dd if=/dev/xvda bs=4096 count=1 iflag=direct 2>/dev/null").trim_end().to_owned()
}

/// A volume without a file system.
pub fn e06(x: &Exercise<'_>) {
    x.class("");
    x.claim("block-claim", "4Gi", "volumeMode: Block");
    x.apply(BLOCK_POD);
    x.ready("app");
    x.bound("block-claim");
    assert_eq!(x.sh("app", "blockdev --getsize64 /dev/xvda").trim(), (4_u64 << 30).to_string());
    write_block(x, "app", "raw data");
    x.delete("pod", "app");
    x.apply(BLOCK_POD);
    x.ready("app");
    assert_eq!(read_block(x, "app"), "raw data");
    x.clean_up();
}

/// Growth while the pod runs. xfs: growing ext4 needs CAP_SYS_RESOURCE, which not every machine gives to root.
pub fn e07(x: &Exercise<'_>) {
    x.class("allowVolumeExpansion: true\nparameters: {csi.storage.k8s.io/fstype: xfs}\n");
    x.claim("ebs-claim", "4Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    let id = x.volume_of("ebs-claim");
    x.kubectl(&["patch", "pvc", "ebs-claim", "-p", r#"{"spec": {"resources": {"requests": {"storage": "8Gi"}}}}"#]);
    // The kubelet looks at the claim about once a minute.
    x.until("ebs-claim", "{.status.capacity.storage}=8Gi");
    let pv = x.field("pvc", "ebs-claim", "{.spec.volumeName}");
    assert_eq!(x.field("pv", &pv, "{.spec.capacity.storage}"), "8Gi");
    assert_eq!(x.field("pvc", "ebs-claim", "{.status.conditions}"), "");
    let events = x.events("ebs-claim");
    for reason in ["Resizing", "FileSystemResizeRequired", "FileSystemResizeSuccessful"] {
        assert!(events.contains(reason), "no event {reason}:\n{events}");
    }
    assert_eq!(x.describe_volume(&id)["Size"], 8);
    let modification = &x.aws(&["ec2", "describe-volumes-modifications", "--volume-ids", &id])["VolumesModifications"][0];
    assert_eq!((&modification["OriginalSize"], &modification["TargetSize"]), (&4.into(), &8.into()), "{modification:#}");
    let kib: u64 = x.sh("app", "df -k /data | tail -1 | awk '{print $2}'").trim().parse().expect("a number of KiB");
    assert!(kib > 8_000_000, "the file system did not grow: {kib}");
    x.clean_up();
}

/// A claim that lives and dies with its pod.
pub fn e11(x: &Exercise<'_>) {
    x.class("");
    x.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: centos
    command: ["/bin/sh", "-c", "echo here > /data/out.txt; exec sleep 3600"]
    volumeMounts: [{name: persistent-storage, mountPath: /data}]
  volumes:
  - name: persistent-storage
    ephemeral:
      volumeClaimTemplate:
        spec: {accessModes: [ReadWriteOnce], storageClassName: NS-sc, resources: {requests: {storage: 1Gi}}}
"#,
    );
    x.ready("app");
    assert_eq!(x.field("pvc", "app-persistent-storage", "{.metadata.ownerReferences[0].kind}/{.status.phase}"), "Pod/Bound");
    let id = x.volume_of("app-persistent-storage");
    assert_eq!(x.sh("app", "cat /data/out.txt"), "here\n");
    x.delete("pod", "app");
    x.eventually("the claim to go", || x.kubectl(&["get", "pvc", "-o", "name"]).is_empty());
    x.eventually("the volume to go", || {
        let gone = x.ebbtide.command("aws").args(["ec2", "describe-volumes", "--volume-ids", &id]).output().expect("running aws");
        String::from_utf8_lossy(&gone.stderr).contains("InvalidVolume.NotFound")
    });
}

/// One io2 volume in two nodes at once, by a DaemonSet on the nodes of its zone.
pub fn e14(x: &Exercise<'_>) {
    x.class("parameters: {type: io2, iops: \"1000\"}");
    x.apply(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: block-claim}
spec: {storageClassName: NS-sc, volumeMode: Block, accessModes: [ReadWriteMany], resources: {requests: {storage: 4Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {topology.kubernetes.io/zone: us-east-1a}
      containers:
      - {name: app, image: busybox, command: [sleep, "3600"], volumeDevices: [{name: data, devicePath: /dev/xvda}]}
      volumes: [{name: data, persistentVolumeClaim: {claimName: block-claim}}]
"#,
    );
    x.kubectl(&["rollout", "status", "daemonset/app", &format!("--timeout={}s", LIMIT.as_secs())]);
    let names = x.kubectl(&["get", "pods", "-l", "app=app", "-o", "jsonpath={.items[*].metadata.name}"]);
    let [one, two] = names.split(' ').collect::<Vec<_>>()[..] else { panic!("two nodes are in the zone: {names}") };
    let volume = x.describe_volume(&x.volume_of("block-claim"));
    assert_eq!((&volume["MultiAttachEnabled"], &volume["VolumeType"]), (&true.into(), &"io2".into()), "{volume:#}");
    assert_eq!(volume["Attachments"].as_array().map(Vec::len), Some(2), "{volume:#}");
    write_block(x, one, "from one");
    assert_eq!(read_block(x, two), "from one");
    write_block(x, two, "from two");
    assert_eq!(read_block(x, one), "from two");
    x.delete("daemonset", "app");
    x.clean_up();
}
