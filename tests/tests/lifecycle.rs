//! `ebbtide up`, `down`, `status`, `env`, `demo`, side by side and in the user's own words.

use std::process::Command;
use std::time::Duration;

use ebbtide_tests::{Ebbtide, program, root, text, wait_for};

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
    let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let run = || {
            let output = Command::new(program()).args(["run", name, "--seed", "7", "-o", "json"]).output().expect("ebbtide");
            assert!(output.status.success(), "{name}: {}", text(&output));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")["digest"].clone()
        };
        assert_eq!(run(), run(), "{name}: two runs with one seed differ");
    }
}
