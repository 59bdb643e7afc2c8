//! `ebbtide node --agent-only` as one process: it claims an instance, makes and removes devices, serves the metadata, and leaves nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_tests::{Ebbtide, address, program, root, text, wait_for};

const LIMIT: Duration = Duration::from_secs(15);

/// A running agent; SIGTERM ends it.
struct Agent(Child);

impl Agent {
    fn start(ebbtide: &Ebbtide, endpoint: &str, dev: &Path, instance: &str, metadata: &str) -> Self {
        Self::run(ebbtide, dev, &["--endpoint", endpoint, "--instance-id", instance, "--metadata", metadata])
    }

    /// The agent of a Node of ebbtide's own Kubernetes API.
    fn of_node(ebbtide: &Ebbtide, dev: &Path, node: &str) -> Self {
        Self::run(ebbtide, dev, &["--node-name", node])
    }

    fn run(ebbtide: &Ebbtide, dev: &Path, args: &[&str]) -> Self {
        let log = std::fs::File::create(ebbtide.dir().join("agent.log")).expect("a log file");
        let mut command = ebbtide.command(program().to_str().expect("a path in UTF-8"));
        command.args(["node", "--agent-only"]).args(args);
        command.arg("--dev").arg(dev).arg("--efs-socket").arg(ebbtide.dir().join("agent/efs.sock"));
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("starting the agent"))
    }

    /// Ends it as a crash does: its devices stay.
    fn kill(mut self) {
        self.0.kill().expect("killing the agent");
        self.0.wait().expect("the agent's end");
    }

    fn stop(mut self) {
        let told = Command::new("kill").arg(self.0.id().to_string()).status().expect("kill");
        assert!(told.success());
        let ended = self.0.wait().expect("the agent's end");
        assert!(ended.success(), "the agent ended with {ended}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn names(dev: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dev).expect("the agent's /dev").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|n| n != "disk").collect();
    names.sort();
    names
}

#[test]
fn an_agent_alone_makes_and_removes_devices() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&["--external-nodes"]);
    devices_and_metadata(&ebbtide, &ebbtide.endpoint());
}

/// As in a pod: only signed requests pass.
#[test]
fn an_agent_signs_what_it_asks_from_elsewhere() {
    if !root() {
        return;
    }
    let Some(address) = address() else { return };
    let ebbtide = Ebbtide::up(&["--external-nodes", "--listen", "0.0.0.0:0", "--auth", "verify"]);
    let port = ebbtide.endpoint().rsplit(':').next().expect("a port").to_owned();
    let endpoint = format!("http://{address}:{port}");
    let plain = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("{endpoint}/_ebbtide/info")]).output();
    assert_eq!(plain.expect("curl").stdout, b"401");
    devices_and_metadata(&ebbtide, &endpoint);
}

/// A file system with mount targets in all zones.
fn file_system(ebbtide: &Ebbtide) -> String {
    let id = ebbtide.aws(&["efs", "create-file-system", "--creation-token", "t"])["FileSystemId"].as_str().expect("an id").to_owned();
    let shown = || ebbtide.aws(&["efs", "describe-file-systems", "--file-system-id", &id])["FileSystems"][0]["LifeCycleState"].clone();
    wait_for("the file system", LIMIT, || shown() == "available");
    for subnet in ebbtide.aws(&["ec2", "describe-subnets"])["Subnets"].as_array().expect("subnets") {
        let subnet = subnet["SubnetId"].as_str().expect("a subnet id");
        ebbtide.aws(&["efs", "create-mount-target", "--file-system-id", &id, "--subnet-id", subnet]);
    }
    wait_for("the mount targets", LIMIT, || {
        let targets = ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", &id]);
        targets["MountTargets"].as_array().is_some_and(|all| all.iter().all(|target| target["LifeCycleState"] == "available"))
    });
    id
}

fn devices_and_metadata(ebbtide: &Ebbtide, endpoint: &str) {
    assert!(ebbtide.nodes().is_empty(), "up starts no nodes of its own");
    let dev = ebbtide.dir().join("dev");
    std::fs::create_dir(&dev).expect("a directory");
    let described = ebbtide.aws(&["ec2", "describe-instances"]);
    let instance = described["Reservations"][0]["Instances"][0]["InstanceId"].as_str().expect("an instance").to_owned();
    let zone = described["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"].as_str().expect("its zone").to_owned();
    // A port that nobody has, as far as one can know.
    let metadata = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").to_string();
    let agent = Agent::start(ebbtide, endpoint, &dev, &instance, &metadata);
    let volume = ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", &zone]);
    let volume = volume["VolumeId"].as_str().expect("a volume").to_owned();
    wait_for("the agent's metadata service", LIMIT, || {
        let url = format!("http://{metadata}/latest/api/token");
        let token =
            Command::new("curl").args(["-sfX", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", &url]).output().expect("curl");
        let header = format!("X-aws-ec2-metadata-token: {}", String::from_utf8_lossy(&token.stdout));
        let url = format!("http://{metadata}/latest/meta-data/instance-id");
        let id = Command::new("curl").args(["-sf", "-H", &header, &url]).output().expect("curl");
        id.stdout == instance.as_bytes()
    });
    // `mount.efs` asks the agent, and the agent the endpoint.
    let (helper, point) = (ebbtide.dir().join("mount.efs"), ebbtide.dir().join("efs"));
    std::os::unix::fs::symlink(program(), &helper).expect("a link");
    std::fs::create_dir(&point).expect("a directory");
    let mounted = Command::new("unshare")
        .args(["-m", "sh", "-ec", r#""$0" "$1:/" "$2" -o tls; echo here > "$2/file"; cat "$2/file"; umount "$2""#])
        .args([helper.to_str().expect("UTF-8"), &file_system(ebbtide), point.to_str().expect("UTF-8")])
        .env("EBBTIDE_EFS_SOCKET", ebbtide.dir().join("agent/efs.sock"))
        .output()
        .expect("unshare");
    assert_eq!(mounted.stdout, b"here\n", "{}", text(&mounted));
    let attach = ["ec2", "attach-volume", "--volume-id", &volume, "--instance-id", &instance, "--device", "/dev/xvdaa"];
    ebbtide.aws(&attach);
    ebbtide.aws(&["ec2", "wait", "volume-in-use", "--volume-ids", &volume]);
    wait_for("the device", LIMIT, || names(&dev) == ["nvme1n1", "xvdaa"]);
    ebbtide.aws(&["ec2", "detach-volume", "--volume-id", &volume]);
    ebbtide.aws(&["ec2", "wait", "volume-available", "--volume-ids", &volume]);
    assert!(names(&dev).is_empty(), "{:?}", names(&dev));
    // What is attached when the agent ends goes with it.
    ebbtide.aws(&attach);
    wait_for("the device, once more", LIMIT, || names(&dev) == ["nvme1n1", "xvdaa"]);
    agent.stop();
    assert!(names(&dev).is_empty(), "{:?}", names(&dev));
    let left: Vec<String> = ebbtide.left_behind().into_iter().filter(|left| left.starts_with("loop")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_agent_of_no_instance_says_what_to_do() {
    let ebbtide = Ebbtide::up(&["--external-nodes"]);
    let agent = ["node", "--agent-only", "--instance-id", "i-0000000000000dead"];
    let output = ebbtide.command(program().to_str().expect("a path in UTF-8")).args(agent).output().expect("the agent");
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    match root() {
        true => assert!(said.contains("has no instance i-0000000000000dead") && said.contains("ebbtide up --world"), "{said}"),
        false => assert!(said.contains("needs root"), "{said}"),
    }
}

/// A node of a Kubernetes whose instance nobody described: its agent registers it, by the providerID and the labels of its Node.
#[test]
fn an_agent_registers_its_node_as_an_instance() {
    if !root() {
        return;
    }
    let mut ebbtide = Ebbtide::up(&["--external-nodes"]);
    let dev = ebbtide.dir().join("dev");
    std::fs::create_dir(&dev).expect("a directory");
    let node = "apiVersion: v1\nkind: Node\nmetadata:\n  name: kind-worker\n  labels: {node.kubernetes.io/instance-type: c5.xlarge}\n\
                spec: {providerID: aws:///us-east-1b/i-00000000000000abc}\n";
    ebbtide.kubectl_with(&["apply", "-f", "-"], node);
    let agent = Agent::of_node(&ebbtide, &dev, "kind-worker");
    let id = "i-00000000000000abc";
    let described = |ebbtide: &Ebbtide| ebbtide.aws(&["ec2", "describe-instances", "--query", "Reservations[].Instances[]"]);
    wait_for("the instance", LIMIT, || described(&ebbtide).as_array().is_some_and(|all| all.len() == 3));
    let shown = described(&ebbtide)[2].clone();
    assert_eq!((&shown["InstanceId"], &shown["InstanceType"]), (&id.into(), &"c5.xlarge".into()));
    assert_eq!(shown["Placement"]["AvailabilityZone"], "us-east-1b");
    // The first address that the subnet of its zone gives out.
    assert_eq!(shown["PrivateIpAddress"], "10.0.2.4");
    let volume = ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1b"]);
    let volume = volume["VolumeId"].as_str().expect("a volume").to_owned();
    ebbtide.aws(&["ec2", "attach-volume", "--volume-id", &volume, "--instance-id", id, "--device", "/dev/xvdaa"]);
    wait_for("the device", LIMIT, || names(&dev) == ["nvme1n1", "xvdaa"]);
    let state = |ebbtide: &Ebbtide| ebbtide.aws(&["ec2", "describe-volumes", "--query", "Volumes[0].Attachments[0].[InstanceId,State]"]);
    wait_for("the attachment", LIMIT, || state(&ebbtide) == serde_json::json!([id, "attached"]));
    // It is kept: after a crash the instance is there before its agent is.
    let shown = described(&ebbtide)[2].clone();
    agent.kill();
    ebbtide.kill();
    ebbtide.start();
    assert_eq!(described(&ebbtide)[2], shown);
    assert_eq!(state(&ebbtide), serde_json::json!([id, "attached"]));
    let agent = Agent::of_node(&ebbtide, &dev, "kind-worker");
    ebbtide.aws(&["ec2", "detach-volume", "--volume-id", &volume]);
    ebbtide.aws(&["ec2", "wait", "volume-available", "--volume-ids", &volume]);
    assert!(names(&dev).is_empty(), "{:?}", names(&dev));
    // A reset forgets it, and the agent, which lives, registers again.
    let url = format!("{}/_ebbtide/reset", ebbtide.endpoint());
    let reset = Command::new("curl").args(["-sf", "-X", "POST", &url]).output().expect("curl");
    assert!(reset.status.success(), "{}", text(&reset));
    wait_for("the instance, after the reset", LIMIT, || described(&ebbtide)[2]["InstanceId"] == id);
    agent.stop();
}

#[test]
fn an_agent_in_a_zone_that_is_not_there_says_which_are() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&["--external-nodes"]);
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: far}\nspec: {providerID: aws:///eu-west-1a/i-00000000000000abc}\n";
    ebbtide.kubectl_with(&["apply", "-f", "-"], node);
    let agent = ["node", "--agent-only", "--node-name", "far"];
    let output = ebbtide.command(program().to_str().expect("a path in UTF-8")).args(agent).output().expect("the agent");
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("no zone eu-west-1a") && said.contains("us-east-1a, us-east-1b, us-east-1c"), "{said}");
    let described = ebbtide.aws(&["ec2", "describe-instances", "--query", "Reservations[].Instances[]"]);
    assert_eq!(described.as_array().map(Vec::len), Some(2));
}
