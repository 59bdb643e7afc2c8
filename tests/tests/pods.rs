//! Pods as processes, through kubectl: exit codes, restarts, logs, exec, grace, volumes of every sort.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, root, text, wait_for};

fn pod(name: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{rest}\n")
}

#[test]
fn processes() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let kubectl = |args: &[&str]| ebbtide.kubectl(args);
    let apply = |manifests: &str| ebbtide.kubectl_with(&["apply", "-f", "-"], manifests);
    let field = |pod: &str, path: &str| kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]);

    // Nodes as EKS shows them.
    let nodes = kubectl(&["get", "nodes", "-L", "topology.kubernetes.io/zone", "--no-headers"]);
    assert!(nodes.contains("us-east-1a") && nodes.contains("us-east-1b") && nodes.matches(" Ready ").count() == 2, "{nodes}");
    assert!(kubectl(&["get", "csinodes", "-o", "yaml"]).contains("topology.ebs.csi.aws.com/zone"));

    // A pod that ends well, one that fails, one that is restarted.
    apply(&pod("well", "  restartPolicy: Never\n  containers: [{name: c, image: i, command: [sh, -c, 'echo out; echo err >&2; exit 0']}]"));
    apply(&pod("ill", "  restartPolicy: Never\n  containers: [{name: c, image: i, command: [sh, -c, 'exit 3']}]"));
    apply(&pod("again", "  restartPolicy: Always\n  containers: [{name: c, image: i, command: [sh, -c, 'echo once; exit 1']}]"));
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/well", "--timeout=20s"]);
    let log = kubectl(&["logs", "well"]);
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/ill", "--timeout=20s"]);
    assert_eq!(field("ill", ".status.containerStatuses[0].state.terminated.exitCode"), "3");
    wait_for("a restart", Duration::from_secs(30), || {
        field("again", ".status.containerStatuses[0].restartCount").parse().unwrap_or(0) >= 1
    });
    assert!(kubectl(&["logs", "again", "--previous"]).contains("once"));
    wait_for("CrashLoopBackOff", Duration::from_secs(30), || kubectl(&["get", "pod", "again"]).contains("CrashLoopBackOff"));

    // exec: output, exit code, standard input, a terminal, a command that is not there.
    apply(&pod(
        "box",
        "  containers: [{name: c, image: i, command: [sh, -c, 'echo started; exec sleep 600'], env: [{name: GREETING, value: hi}]}]",
    ));
    kubectl(&["wait", "--for=condition=Ready", "pod/box", "--timeout=20s"]);
    assert_eq!(kubectl(&["exec", "box", "--", "sh", "-c", "echo $GREETING; hostname"]), "hi\nbox\n");
    let three = ebbtide.try_kubectl(&["exec", "box", "--", "sh", "-c", "exit 3"]);
    assert_eq!(three.status.code(), Some(3), "{}", text(&three));
    assert_eq!(ebbtide.kubectl_with(&["exec", "-i", "box", "--", "cat"], "through\n"), "through\n");
    let nosuch = ebbtide.try_kubectl(&["exec", "box", "--", "nosuch"]);
    assert!(!nosuch.status.success() && text(&nosuch).contains("executable file not found in $PATH"), "{}", text(&nosuch));
    let mut tty = ebbtide.command("script");
    let tty = tty.args(["-qec", "kubectl exec -it box -- tty", "/dev/null"]).output().expect("script");
    assert!(text(&tty).contains("/dev/pts/"), "{}", text(&tty));

    // What is not built says so, and what to do instead.
    let attach = ebbtide.try_kubectl(&["attach", "box"]);
    assert!(!attach.status.success() && text(&attach).contains("use kubectl logs -f box"), "{}", text(&attach));
    let forward = ebbtide.try_kubectl(&["port-forward", "box", "8080:80"]);
    assert!(!forward.status.success() && text(&forward).contains("connect to 127.0.0.1"), "{}", text(&forward));

    // cp, both ways.
    let (there, back) = (ebbtide.dir().join("there"), ebbtide.dir().join("back"));
    std::fs::write(&there, "copied\n").expect("a file to copy");
    kubectl(&["cp", there.to_str().expect("UTF-8"), "box:/tmp/copy"]);
    kubectl(&["cp", "box:/tmp/copy", back.to_str().expect("UTF-8")]);
    assert_eq!(std::fs::read_to_string(&back).expect("the copy of the copy"), "copied\n");

    // logs -f follows until the container ends.
    let mut follow = ebbtide.command("kubectl");
    let follow = follow.args(["logs", "-f", "box"]).stdout(Stdio::piped()).spawn().expect("kubectl");
    let started = Instant::now();
    kubectl(&["delete", "pod", "box", "--timeout=20s"]);
    assert!(started.elapsed() < Duration::from_secs(15));
    let followed = follow.wait_with_output().expect("kubectl logs -f");
    assert!(String::from_utf8_lossy(&followed.stdout).contains("started"));

    // The host's root is not the container's to change.
    let marker = format!("/ebbtide-test-{}", std::process::id());
    apply(&pod(
        "vandal",
        &format!("  restartPolicy: Never\n  containers: [{{name: c, image: i, command: [sh, -c, 'touch {marker} && ls {marker}']}}]"),
    ));
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/vandal", "--timeout=20s"]);
    assert!(!std::path::Path::new(&marker).exists(), "a pod wrote to the host's root");
    kubectl(&["delete", "pods", "--all", "--timeout=30s"]);
}

#[test]
fn probes() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let kubectl = |args: &[&str]| ebbtide.kubectl(args);
    let apply = |manifests: &str| ebbtide.kubectl_with(&["apply", "-f", "-"], manifests);
    let field = |pod: &str, path: &str| kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]);
    let ready = |pod: &str| field(pod, ".status.conditions[?(@.type=='Ready')].status") == "True";
    let events = |pod: &str| kubectl(&["events", "--for", &format!("pod/{pod}")]);
    let says = |pod: &str, what: &str| wait_for(what, Duration::from_secs(20), || events(pod).contains(what));

    // A command decides when the pod is ready, and when it no longer is.
    apply(&pod(
        "asked",
        "  containers: [{name: c, image: i, command: [sleep, '600'], readinessProbe: {exec: {command: [cat, /tmp/ready]}, \
         periodSeconds: 1, failureThreshold: 1}}]",
    ));
    says("asked", "Readiness probe failed: cat: /tmp/ready: No such file or directory");
    assert!(field("asked", ".status.phase") == "Running" && !ready("asked"));
    assert_eq!(field("asked", ".status.containerStatuses[0].ready"), "false");
    kubectl(&["exec", "asked", "--", "touch", "/tmp/ready"]);
    kubectl(&["wait", "--for=condition=Ready", "pod/asked", "--timeout=20s"]);
    kubectl(&["exec", "asked", "--", "rm", "/tmp/ready"]);
    kubectl(&["wait", "--for=condition=Ready=false", "pod/asked", "--timeout=20s"]);
    assert_eq!(field("asked", ".status.containerStatuses[0].restartCount"), "0");

    // A container that is not alive is restarted; a probe that hangs is late.
    apply(&pod(
        "dead",
        "  containers: [{name: c, image: i, command: [sleep, '600'], livenessProbe: {exec: {command: [sleep, '600']}, \
         periodSeconds: 1, failureThreshold: 1}}]",
    ));
    says("dead", "Liveness probe failed: command timed out: \"sleep 600\" timed out after 1s");
    says("dead", "Container c failed liveness probe, will be restarted");
    wait_for("a restart", Duration::from_secs(20), || field("dead", ".status.containerStatuses[0].restartCount").parse().unwrap_or(0) >= 1);

    // A port and a page; the page is not asked for before the port was open.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    apply(&pod(
        "web",
        &format!(
            "  containers:\n  - name: c\n    image: i\n    command: [sh, -c, 'while ! [ -e /tmp/go ]; do sleep 0.1; done; cd /tmp; \
             exec python3 -m http.server --bind 127.0.0.1 {free}']\n    ports: [{{name: web, containerPort: {free}}}]\n    \
             startupProbe: {{tcpSocket: {{port: web}}, periodSeconds: 1, failureThreshold: 60}}\n    \
             readinessProbe: {{httpGet: {{path: /page, port: web}}, periodSeconds: 1, failureThreshold: 1}}"
        ),
    ));
    says("web", &format!("Startup probe failed: dial tcp 127.0.0.1:{free}: connect: connection refused"));
    assert!(!events("web").contains("Readiness") && field("web", ".status.containerStatuses[0].started") == "false");
    kubectl(&["exec", "web", "--", "touch", "/tmp/go"]);
    says("web", "Readiness probe failed: HTTP probe failed with statuscode: 404");
    assert!(field("web", ".status.containerStatuses[0].started") == "true" && !ready("web"));
    kubectl(&["exec", "web", "--", "touch", "/tmp/page"]);
    kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=20s"]);
    kubectl(&["delete", "pods", "--all", "--timeout=30s"]);
}

#[test]
fn volumes() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let kubectl = |args: &[&str]| ebbtide.kubectl(args);
    let apply = |manifests: &str| ebbtide.kubectl_with(&["apply", "-f", "-"], manifests);
    let claim = |name: &str, class: &str, gigabytes: u64, more: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
             storageClassName: {class}\n  resources: {{requests: {{storage: {gigabytes}Gi}}}}\n{more}\n---\n"
        )
    };
    let class = |name: &str, parameters: &str| {
        format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {name}}}\nprovisioner: ebs.csi.aws.com\n\
             volumeBindingMode: WaitForFirstConsumer\nallowVolumeExpansion: true\nparameters: {{{parameters}}}\n---\n"
        )
    };
    apply(&(class("ext4", "type: gp3") + &class("xfs", "csi.storage.k8s.io/fstype: xfs, type: io1, iopsPerGB: '50', encrypted: 'true'")));

    // emptyDir, configMap and secret; subPath; read-only; fsGroup.
    kubectl(&["create", "configmap", "settings", "--from-literal=a=1"]);
    apply(
        &(claim("plain", "ext4", 1, "")
            + &pod(
                "many",
                "  securityContext: {fsGroup: 2000, runAsUser: 1000}\n  containers:\n  - name: c\n    image: i\n    command: [sleep, '600']\n    \
                 volumeMounts:\n    - {name: scratch, mountPath: /scratch}\n    - {name: settings, mountPath: /settings}\n    \
                 - {name: data, mountPath: /data}\n    - {name: data, mountPath: /part, subPath: a/b}\n    - {name: data, mountPath: /ro, readOnly: true}\n  \
                 volumes:\n  - {name: scratch, emptyDir: {}}\n  - {name: settings, configMap: {name: settings}}\n  \
                 - {name: data, persistentVolumeClaim: {claimName: plain}}",
            )),
    );
    kubectl(&["wait", "--for=condition=Ready", "pod/many", "--timeout=60s"]);
    let sh = |command: &str| kubectl(&["exec", "many", "--", "sh", "-c", command]);
    assert_eq!(sh("cat /settings/a; echo x > /scratch/x; cat /scratch/x"), "1x\n");
    assert_eq!(sh("echo part > /part/file; cat /data/a/b/file"), "part\n");
    assert!(text(&ebbtide.try_kubectl(&["exec", "many", "--", "touch", "/ro/x"])).contains("Read-only file system"));
    assert_eq!(sh("id -u; stat -c %g /data; touch /data/mine; stat -c %u:%g /data/mine").trim(), "1000\n2000\n1000:2000");
    let df = sh("df -hT /data").lines().last().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    assert!(matches!(df.as_deref(), Some([device, kind, .., at]) if device == "/dev/nvme1n1" && kind == "ext4" && at == "/data"), "{df:?}");
    let events = kubectl(&["events", "--for", "pod/many"]);
    assert!(events.contains("SuccessfulAttachVolume") && events.contains("Scheduled"), "{events}");

    // xfs with parameters, and growth while mounted. EC2 makes no io1 volume of less than 4 GiB.
    apply(
        &(claim("grows", "xfs", 4, "")
            + &pod(
                "grower",
                "  containers: [{name: c, image: i, command: [sleep, '600'], volumeMounts: [{name: data, mountPath: /data}]}]\n  \
                 volumes: [{name: data, persistentVolumeClaim: {claimName: grows}}]",
            )),
    );
    kubectl(&["wait", "--for=condition=Ready", "pod/grower", "--timeout=60s"]);
    let size =
        || -> u64 { kubectl(&["exec", "grower", "--", "sh", "-c", "df -B1 --output=size /data | tail -1"]).trim().parse().expect("bytes") };
    let before = size();
    kubectl(&["patch", "pvc", "grows", "-p", r#"{"spec":{"resources":{"requests":{"storage":"5Gi"}}}}"#]);
    // A kubelet looks at a running pod's claims once a minute.
    wait_for("the claim to grow", Duration::from_secs(120), || {
        kubectl(&["get", "pvc", "grows", "-o", "jsonpath={.status.capacity.storage}"]) == "5Gi"
    });
    assert!(size() > before + (900 << 20), "{before} {}", size());
    let events = kubectl(&["events", "--for", "pvc/grows"]);
    assert!(events.contains("FileSystemResizeSuccessful"), "{events}");

    // A raw block device.
    apply(
        &(claim("raw", "ext4", 1, "  volumeMode: Block")
            + &pod(
                "raw",
                "  containers: [{name: c, image: i, command: [sleep, '600'], volumeDevices: [{name: data, devicePath: /dev/xvda}]}]\n  \
                 volumes: [{name: data, persistentVolumeClaim: {claimName: raw}}]",
            )),
    );
    kubectl(&["wait", "--for=condition=Ready", "pod/raw", "--timeout=60s"]);
    let raw = kubectl(&["exec", "raw", "--", "sh", "-c", "test -b /dev/xvda && blockdev --getsize64 /dev/xvda"]);
    assert_eq!(raw.trim(), (1u64 << 30).to_string());

    // The node sees the disks of its pods, and only those (what SSM is on AWS).
    let node = kubectl(&["get", "pod", "many", "-o", "jsonpath={.spec.nodeName}"]);
    let devices = text(&ebbtide.ebbtide(&["node", "exec", &node, "--", "ls", "/dev/disk/by-id"]));
    assert!(devices.contains("nvme-Amazon_Elastic_Block_Store_vol"), "{devices}");
    assert!(!std::path::Path::new("/dev/disk/by-id").read_dir().is_ok_and(|mut all| {
        all.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("Amazon_Elastic_Block_Store")))
    }));

    // A volume of another zone cannot be attached, and the pod says why (E02).
    let volume = ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a"]);
    let id = volume["VolumeId"].as_str().expect("an id");
    let other = kubectl(&["get", "nodes", "-l", "topology.kubernetes.io/zone=us-east-1b", "-o", "jsonpath={.items[0].metadata.name}"]);
    apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: far}}\nspec: {{accessModes: [ReadWriteOnce], capacity: {{storage: 1Gi}}, \
         csi: {{driver: ebs.csi.aws.com, volumeHandle: {id}}}, storageClassName: ''}}\n---\n\
         apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: far}}\nspec: {{accessModes: [ReadWriteOnce], storageClassName: '', \
         volumeName: far, resources: {{requests: {{storage: 1Gi}}}}}}\n---\n{}",
        pod(
            "far",
            &format!(
                "  nodeName: {other}\n  containers: [{{name: c, image: i, command: [sleep, '600'], volumeMounts: [{{name: data, mountPath: /data}}]}}]\n  \
                 volumes: [{{name: data, persistentVolumeClaim: {{claimName: far}}}}]"
            )
        )
    ));
    wait_for("the zone mismatch", Duration::from_secs(60), || {
        let events = kubectl(&["events", "--for", "pod/far"]);
        events.contains("FailedAttachVolume") && events.contains("InvalidVolume.ZoneMismatch")
    });

    kubectl(&["delete", "pods", "--all", "--timeout=60s"]);
    kubectl(&["delete", "pvc", "--all", "--timeout=60s"]);
    kubectl(&["delete", "pv", "far", "--timeout=60s"]);
    wait_for("no volume but the far one", Duration::from_secs(60), || kubectl(&["get", "pv", "-o", "name"]).is_empty());
    ebbtide.aws(&["ec2", "delete-volume", "--volume-id", id]);
}
