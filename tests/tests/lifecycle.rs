//! `ebbtide up`, `down`, `status`, `env`, `demo`, side by side and in the user's own words.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, left_behind, program, root, text, wait_for};

#[test]
fn two_run_side_by_side() {
    let one = Ebbtide::up(&["--no-nodes"]);
    let two = Ebbtide::up(&["--no-nodes"]);
    one.kubectl(&["create", "configmap", "only-in-one"]);
    assert!(text(&two.try_kubectl(&["get", "cm", "only-in-one"])).contains("not found"));
    let env = text(&one.ebbtide(&["env"]));
    assert!(env.contains(&format!("export AWS_ENDPOINT_URL={}", one.endpoint())) && env.contains("export KUBECONFIG="), "{env}");
    let status = one.ebbtide(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["running"], true);
    let again = Command::new(program())
        .args(["up", "--listen", "127.0.0.1:0", "--kube-listen", "127.0.0.1:0", "--data-dir"])
        .arg(one.dir())
        .output();
    let again = again.expect("ebbtide");
    assert!(!again.status.success() && text(&again).contains("ebbtide down"), "{}", text(&again));
}

/// After `eval "$(ebbtide env --data-dir D)"` ebbtide's own commands mean D, too, until another is named.
#[test]
fn a_shell_of_one_ebbtide_means_that_one() {
    let (one, two) = (Ebbtide::up(&["--no-nodes"]), Ebbtide::up(&["--no-nodes"]));
    let shell = |script: &str| {
        let mut command = Command::new("bash");
        command.args(["-euc", script]).env("EBBTIDE", program()).env("ONE", one.dir()).env("TWO", two.dir());
        let output = command.env_remove("EBBTIDE_DATA_DIR").env("SHELL", "/bin/bash").output().expect("bash");
        (output.status.code(), text(&output))
    };
    let said = |script: &str| {
        let (code, output) = shell(&format!(r#"eval "$($EBBTIDE env --data-dir $ONE)"; {script}"#));
        assert_eq!(code, Some(0), "{script}: {output}");
        output
    };
    assert!(said("$EBBTIDE status").contains(&one.endpoint()));
    assert!(said("$EBBTIDE check").contains("holds"));
    assert!(said("$EBBTIDE fault ls --data-dir $TWO; $EBBTIDE status --data-dir $TWO").contains(&two.endpoint()));
    // A variable gives way to what is named on the command line, where two options would contradict each other.
    assert!(said("$EBBTIDE check --kubeconfig $TWO/kube/kubeconfig").contains("holds"));
    let (code, output) = shell("$EBBTIDE check --kubeconfig $TWO/kube/kubeconfig --data-dir $ONE");
    assert!(code == Some(2) && output.contains("cannot be used with"), "{output}");
    // And `--unset` takes it away again.
    assert_eq!(said(r#"eval "$($EBBTIDE env --unset)"; echo "<${EBBTIDE_DATA_DIR-none}>""#).trim(), "<none>");
}

#[test]
fn reset_deletes_all_state_and_nothing_else() {
    let mut ebbtide = Ebbtide::up(&["--no-nodes"]);
    ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a"]);
    std::fs::write(ebbtide.dir().join("mine.txt"), "not ebbtide's").expect("a file");
    let refused = ebbtide.ebbtide(&["reset"]);
    assert!(!refused.status.success() && text(&refused).contains("--yes"), "{}", text(&refused));
    let reset = ebbtide.ebbtide(&["reset", "--yes"]);
    assert!(reset.status.success(), "{}", text(&reset));
    assert!(ebbtide.dir().join("mine.txt").exists());
    ebbtide.start();
    assert_eq!(ebbtide.aws(&["ec2", "describe-volumes"])["Volumes"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_pod_survives_a_crash_of_up() {
    if !root() {
        return;
    }
    let mut ebbtide = Ebbtide::up(&[]);
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, \
         containers: [{name: c, image: i, command: [sh, -c, 'echo $$ > /tmp/pid; exec sleep 600']}]}}",
    );
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=30s"]);
    let started = ebbtide.kubectl(&["get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].state.running.startedAt}"]);
    ebbtide.kubectl(&["exec", "p", "--", "touch", "/tmp/marker"]);
    ebbtide.kill();
    ebbtide.start();
    wait_for("exec to work again", Duration::from_secs(20), || {
        ebbtide.try_kubectl(&["exec", "p", "--", "ls", "/tmp/marker"]).status.success()
    });
    assert_eq!(ebbtide.kubectl(&["get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].state.running.startedAt}"]), started);
    // What the nodes say of it: once that the API is away, once that it is back.
    for node in ebbtide.nodes() {
        let log = || std::fs::read_to_string(ebbtide.dir().join("nodes").join(&node).join("log")).unwrap_or_default();
        let said = |what: &str| log().lines().filter(|line| line.contains(what)).count();
        wait_for("the API to be back", Duration::from_secs(20), || said("the Kubernetes API is back") == 1);
        assert_eq!((said("the Kubernetes API is away"), said(" ERROR ")), (1, 0), "{}", log());
    }
}

/// A world of one's own: other zones, other nodes; kept with the data directory, and not exchanged under it.
#[test]
fn another_world() {
    let tmp = tempfile::tempdir().expect("a directory");
    let file = tmp.path().join("world.yaml");
    let world = "account: '123456789012'\nregion: eu-west-1\nzones: [{name: eu-west-1a, id: euw1-az1}]\n\
                 vpc: {cidr: 10.9.0.0/16, subnets: [{zone: eu-west-1a, cidr: 10.9.1.0/24}]}\n\
                 instances: [{private_ip: 10.9.1.7, zone: eu-west-1a, type: m5.xlarge}]\n"
        .replace("private_ip", "privateIp");
    std::fs::write(&file, &world).expect("a world");
    let path = file.to_str().expect("a path in UTF-8");
    let mut ebbtide = Ebbtide::up(&["--no-nodes", "--world", path]);
    let zones = ebbtide.aws(&["ec2", "describe-availability-zones", "--region", "eu-west-1", "--query", "AvailabilityZones[].ZoneName"]);
    assert_eq!(zones, serde_json::json!(["eu-west-1a"]));
    let caller = ebbtide.aws(&["sts", "get-caller-identity"]);
    assert_eq!(caller["Account"], "123456789012");
    assert!(ebbtide.ebbtide(&["down"]).status.success());
    ebbtide.start();
    std::fs::write(&file, world.replace("m5.xlarge", "m5.large")).expect("another world");
    assert!(ebbtide.ebbtide(&["down"]).status.success());
    let refused = ebbtide.ebbtide(&["up", "--no-nodes", "--listen", "127.0.0.1:0", "--kube-listen", "127.0.0.1:0", "--world", path]);
    assert!(!refused.status.success() && text(&refused).contains("ebbtide reset"), "{}", text(&refused));
}

/// `up` at all stages of its start, in a new directory and in one that was used before: `down` stops it, and what a killed one left.
#[test]
fn down_works_while_up_starts_and_after_its_crash() {
    if !root() {
        return;
    }
    let used = Ebbtide::up(&[]);
    let node = used.nodes()[0].clone();
    used.down();
    let stages = ["lock", "world.yaml", "state/kube", "kube", "nodes/NODE/config.json", "nodes/NODE/process.json", "up.json"];
    for crash in [true, false] {
        for stage in stages {
            let new = tempfile::Builder::new().prefix("ebbtide-test-").tempdir().expect("a directory");
            stop_a_start(new.path(), crash, stage, &|| new.path().join(stage.replace("NODE", &node)).exists());
        }
        for millis in [0, 30, 60, 90, 120, 200] {
            let after = || {
                std::thread::sleep(Duration::from_millis(millis));
                true
            };
            stop_a_start(used.dir(), crash, &format!("{millis} ms"), &after);
        }
    }
}

/// Starts `up`, ends it at a moment of its start by a crash and `down` or by `down` alone, and looks what is left.
fn stop_a_start(dir: &Path, crash: bool, moment: &str, come: &dyn Fn() -> bool) {
    let what = format!("{moment}, {}", if crash { "killed" } else { "stopped" });
    let mut up = Command::new(program())
        .args(["up", "--listen", "127.0.0.1:0", "--kube-listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ebbtide");
    let holder = format!("\"pid\":{},", up.id());
    wait_for("the lock", Duration::from_secs(20), || std::fs::read_to_string(dir.join("lock")).is_ok_and(|lock| lock.contains(&holder)));
    wait_for(&what, Duration::from_secs(20), come);
    if crash {
        let _ = up.kill();
        let _ = up.wait();
    }
    let asked = Instant::now();
    let down = Command::new(program()).args(["down", "--data-dir"]).arg(dir).output().expect("ebbtide");
    let took = asked.elapsed();
    let ended = up.try_wait().expect("the state of up").is_some();
    let left = left_behind(dir);
    if !ended {
        let _ = up.kill();
    }
    assert!(down.status.success(), "{what}: {}", text(&down));
    assert!(ended, "{what}: it runs on after: {}", text(&down));
    assert!(left.is_empty(), "{what}: {}", left.join("\n"));
    // A node that did not hear that it shall stop is killed after 20 s.
    assert!(took < Duration::from_secs(15), "{what}: down took {took:?}");
}

/// `up` tells at once which node cannot run, and why; the rest works.
#[test]
fn a_node_that_cannot_start_is_named() {
    if !root() {
        return;
    }
    let mut ebbtide = Ebbtide::up(&["--no-nodes"]);
    ebbtide.down();
    // Its directory cannot be made.
    let broken = ebbtide_tests::NODES[0];
    std::fs::create_dir_all(ebbtide.dir().join("nodes")).expect("mkdir");
    std::fs::write(ebbtide.dir().join("nodes").join(broken), "").expect("a file in the way");
    ebbtide.with_args(&[]);
    let started = Instant::now();
    ebbtide.start();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let trouble = ebbtide.info["notReady"].as_object().expect("an object");
    assert_eq!(trouble.keys().collect::<Vec<_>>(), [broken], "{trouble:?}");
    assert!(trouble[broken].as_str().is_some_and(|why| why.contains("creating") && why.contains(broken)), "{trouble:?}");
    assert_eq!(ebbtide.kubectl(&["get", "nodes", "--no-headers"]).lines().count(), 1);
}

/// Without root both APIs and the simulator work; attaching says that there is no device, and why.
#[test]
fn without_root_attach_says_why_not() {
    if !root() {
        return;
    }
    let tmp = tempfile::Builder::new().prefix("ebbtide-test-").tempdir().expect("a directory");
    let nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]).args(args);
        command.env("HOME", tmp.path()).env("XDG_RUNTIME_DIR", tmp.path()).env("EBBTIDE_DATA_DIR", tmp.path().join("data"));
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_DEFAULT_REGION", "us-east-1");
        command.output().expect("setpriv")
    };
    std::os::unix::fs::chown(tmp.path(), Some(65534), Some(65534)).expect("chown");
    // A copy that nobody may run: the build directory may be closed to others.
    let ebbtide = tmp.path().join("ebbtide");
    std::fs::copy(program(), &ebbtide).expect("a copy of the program");
    let ebbtide = ebbtide.to_str().expect("a path in UTF-8");
    let up = nobody(&[ebbtide, "up", "-d", "--listen", "127.0.0.1:0", "--kube-listen", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", text(&up));
    let info: serde_json::Value = serde_json::from_slice(&std::fs::read(tmp.path().join("data/up.json")).expect("up.json")).expect("JSON");
    let endpoint = format!("--endpoint-url=http://{}", info["aws"].as_str().expect("an address"));
    let aws = |args: &[&str]| {
        let mut command = Command::new("aws");
        command.arg(&endpoint).args(args).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("AWS_DEFAULT_REGION", "us-east-1").output().expect("aws")
    };
    let volume =
        aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a", "--query", "VolumeId", "--output", "text"]);
    let instance = aws(&[
        "ec2",
        "describe-instances",
        "--filters",
        "Name=availability-zone,Values=us-east-1a",
        "--query",
        "Reservations[0].Instances[0].InstanceId",
        "--output",
        "text",
    ]);
    let (volume, instance) = (text(&volume), text(&instance));
    let attach = aws(&["ec2", "attach-volume", "--volume-id", volume.trim(), "--instance-id", instance.trim(), "--device", "/dev/xvdaa"]);
    assert!(!attach.status.success() && text(&attach).contains("without root"), "{}", text(&attach));
    let scenario = nobody(&[ebbtide, "run", "e01-ebs-static"]);
    assert!(scenario.status.success(), "{}", text(&scenario));
    let down = nobody(&[ebbtide, "down"]);
    assert!(down.status.success(), "{}", text(&down));
}

/// A node that is switched off stays off, and its pods' node is NotReady to nobody's surprise; it boots when it is told to.
#[test]
fn a_node_is_switched_off_and_on() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let node = ebbtide.nodes()[0].clone();
    let killed = ebbtide.ebbtide(&["node", "kill", &node]);
    assert!(killed.status.success(), "{}", text(&killed));
    let state = || text(&ebbtide.ebbtide(&["node", "ls"]));
    assert!(state().lines().any(|line| line.starts_with(&node) && line.split_whitespace().any(|cell| cell == "off")), "{}", state());
    let exec = ebbtide.ebbtide(&["node", "exec", &node, "--", "true"]);
    assert!(!exec.status.success() && text(&exec).contains("does not run"), "{}", text(&exec));
    let unknown = ebbtide.ebbtide(&["node", "kill", "nosuch"]);
    assert!(!unknown.status.success() && text(&unknown).contains(&node), "{}", text(&unknown));
    assert!(ebbtide.ebbtide(&["node", "start", &node]).status.success());
    wait_for("the node to boot", Duration::from_secs(20), || ebbtide.ebbtide(&["node", "exec", &node, "--", "true"]).status.success());
}

/// The demo in a process group of its own, interrupted after a while; what it leaves behind.
#[test]
fn the_demo_cleans_up_when_it_is_interrupted() {
    if !root() {
        return;
    }
    for wait in [Duration::from_millis(700), Duration::from_secs(4)] {
        let tmp = tempfile::tempdir().expect("a directory");
        let mut child =
            Command::new(program()).arg("demo").env("TMPDIR", tmp.path()).stdout(std::process::Stdio::null()).spawn().expect("ebbtide");
        std::thread::sleep(wait);
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let status = child.wait().expect("the demo");
        assert_eq!(status.code(), Some(130), "after {wait:?}");
        assert_eq!(std::fs::read_dir(tmp.path()).expect("the directory").count(), 0, "the demo's directory is still there");
        let dir = tmp.path().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            assert!(!backing.starts_with(&dir), "{} is left", entry.path().display());
        }
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&cmdline).contains(&dir), "{} is left", entry.path().display());
        }
    }
}

#[test]
fn the_library_runs_in_virtual_time() {
    let list = Command::new(program()).args(["run", "--list", "-o", "json"]).output().expect("ebbtide");
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let (names, others): (Vec<_>, Vec<_>) = list.as_array().into_iter().flatten().partition(|entry| entry["notVirtual"].is_null());
    assert!(names.len() > 100 && others.len() < 10, "{others:?}");
    for entry in others {
        let output = Command::new(program()).args(["run", entry["name"].as_str().expect("a name")]).output().expect("ebbtide");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(entry["notVirtual"].as_str().expect("a reason")), "{entry}: {}", text(&output));
    }
    let names = names.iter().filter_map(|entry| entry["name"].as_str());
    for name in names {
        let run = || {
            let output = Command::new(program()).args(["run", name, "--seed", "7", "-o", "json"]).output().expect("ebbtide");
            assert!(output.status.success(), "{name}: {}", text(&output));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")["digest"].clone()
        };
        assert_eq!(run(), run(), "{name}: two runs with one seed differ");
    }
}
