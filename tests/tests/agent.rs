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
        let log = std::fs::File::create(ebbtide.dir().join("agent.log")).expect("a log file");
        let mut command = Command::new(program());
        command.args(["node", "--agent-only", "--endpoint", endpoint, "--instance-id", instance, "--metadata", metadata]);
        command.arg("--dev").arg(dev).arg("--efs-socket").arg(ebbtide.dir().join("agent/efs.sock"));
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("starting the agent"))
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
