//! What only the real efs-utils has: the state it keeps for its watchdog, and the watchdog.

use std::time::Duration;

use ebbtide_tests::{left_behind, program, root, text, wait_for};
use serde_json::Value;

use super::running::{Driver, Publish, file_system, target_path};

/// The state files in a node, by name.
fn states(driver: &Driver<'_>) -> Vec<(String, Value)> {
    let files = driver.run(0, "cd /run/efs && for file in fs-*; do [ -f $file ] && echo $file && cat $file && echo; done; true");
    let lines: Vec<&str> = files.lines().collect();
    lines.chunks(2).map(|pair| (pair[0].to_owned(), serde_json::from_str(pair[1]).expect("JSON"))).collect()
}

/// The state of a mount with an access point, IAM and a zone, as the watchdog reads it.
pub fn state_of_a_mount(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let root = "Path=/ap,CreationInfo={OwnerUid=1000,OwnerGid=1000,Permissions=0755}";
    let user = "Uid=1000,Gid=1000";
    let made = driver.ebbtide.aws(&["efs", "create-access-point", "--file-system-id", &fs, "--posix-user", user, "--root-directory", root]);
    let point = made["AccessPointId"].as_str().expect("an id");
    let how = Publish { flags: &["iam", "az=us-east-1a"], ..Publish::default() };
    let target = driver.publish_with(0, "state", &format!("efs:{fs}::{point}"), &how).expect("published");
    let states = states(driver);
    let [(name, state)] = &states[..] else { panic!("one mount: {states:?}") };
    let dotted = target.trim_start_matches('/').replace('/', ".");
    let port = name.strip_prefix(&format!("{fs}.{dotted}.")).unwrap_or_else(|| panic!("{name} is not of {fs} at {target}"));
    assert!((20049..21049).contains(&port.parse::<u16>().expect("a port")), "{port}");
    let config = format!("/var/run/efs/stunnel-config.{name}");
    for (key, expected) in [
        ("mountpoint", Value::from(&*target)),
        ("cmd", serde_json::json!(["/sbin/efs-proxy", config, "--tls", "--no-direct-s3-read"])),
        ("files", serde_json::json!([config])),
        ("fsId", Value::from(&*fs)),
        ("accessPoint", Value::from(point)),
        ("region", Value::from("us-east-1")),
        ("service_type", Value::from("elasticfilesystem")),
        ("awsCredentialsMethod", Value::from("metadata:")),
    ] {
        assert_eq!(state[key], expected, "{key} of {state}");
    }
    // The proxy that it names runs and wrote its own number.
    let pid = state["pid"].to_string();
    assert_eq!(
        driver.run(0, &format!("tr '\\0' ' ' < /proc/{pid}/cmdline")),
        format!("/sbin/efs-proxy {config} --tls --no-direct-s3-read ")
    );
    assert_eq!(driver.run(0, &format!("cat /run/efs/{name}+/stunnel.pid")), format!("{pid}\n"));
    let config = driver.run(0, &format!("cat {config}"));
    assert!(config.contains(&format!("connect = us-east-1a.{fs}.efs.us-east-1.amazonaws.com:2049\n")), "{config}");
    // The access point and the signature are in the certificate.
    let certificate = driver.run(0, &format!("openssl x509 -noout -text -in /run/efs/{name}+/certificate.pem"));
    assert!(certificate.contains("1.3.6.1.4.1.4843.7.1") && certificate.contains(point), "{certificate}");
    assert!(certificate.contains("1.3.6.1.4.1.4843.7.2"), "{certificate}");
    driver.run(0, &format!("echo x > {target}/file"));
    assert_eq!(driver.run(0, &format!("stat -c %u:%g {target}/file")), "1000:1000\n");
}

/// A tunnel that dies is started again, and one whose mount is gone ends, with its files (§3.3: a FUSE mount is told from others only
/// on port 2049).
pub fn watchdog(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    driver.run(0, "sed -i 's/^unmount_grace_period_sec.*/unmount_grace_period_sec = 1/' /etc/amazon/efs/efs-utils.conf");
    let how = Publish { flags: &["tlsport=2049"], ..Publish::default() };
    let target = driver.publish_with(0, "watched", &fs, &how).expect("published");
    let pid = || states(driver).first().map(|(_, state)| state["pid"].clone());
    let first = pid().expect("a state file");
    driver.run(0, &format!("kill -9 {first}"));
    wait_for("another tunnel", Duration::from_secs(30), || pid().is_some_and(|pid| pid != first));
    let second = pid().expect("a state file");
    assert!(driver.run(0, &format!("cat /proc/{second}/cmdline")).contains("efs-proxy"));
    driver.run(0, &format!("echo x > {target}/file"));
    driver.unpublish(0, &fs, &target).expect("unpublished");
    wait_for("the state to go", Duration::from_secs(90), || states(driver).is_empty());
    assert!(!driver.try_run(0, &format!("test -e /proc/{second}")).status.success(), "the tunnel still runs");
    assert_eq!(driver.run(0, "ls /run/efs"), "");
    assert_eq!(driver.mounts(0, &target_path("watched")), Vec::<String>::new());
}

/// `ebbtide up --faithful` where it is not: it does not start, and says what to do.
pub fn missing() {
    // Without root there are no nodes, and nobody mounts.
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let faithful = format!("--faithful={}", dir.path().display());
    let mut command = std::process::Command::new(program());
    command.args(["up", "-d", "--listen", "127.0.0.1:0", "--kube-listen", "127.0.0.1:0", &faithful, "--data-dir"]).arg(&data);
    let output = command.output().expect("running ebbtide");
    let said = text(&output);
    if output.status.success() {
        // No test leaves one behind.
        let _ = std::process::Command::new(program()).args(["down", "--data-dir"]).arg(&data).status();
    }
    assert!(!output.status.success() && said.contains("there is no efs-utils below") && said.contains("amazon-efs-utils"), "{said}");
    assert!(left_behind(&data).is_empty(), "something is left");
}
