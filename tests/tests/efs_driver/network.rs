//! Mount targets, zones and security groups.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use model_common::csi::{Code, Error};
use serde_json::Value;

use super::running::{Driver, Publish, file_system, in_node, mount_failed, target_path};

fn mount_targets(driver: &Driver<'_>, fs: &str) -> Vec<Value> {
    let mut targets = driver.ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", fs]);
    let mut targets = targets["MountTargets"].as_array_mut().map(std::mem::take).expect("a list");
    targets.sort_by_key(|target| target["AvailabilityZoneName"].to_string());
    targets
}

/// A security group that lets in port 80 only, and its id.
fn closed_group(driver: &Driver<'_>) -> String {
    let vpc = driver.ebbtide.aws(&["ec2", "describe-vpcs"])["Vpcs"][0]["VpcId"].as_str().expect("an id").to_owned();
    let group = driver.ebbtide.aws(&["ec2", "create-security-group", "--group-name", "efs", "--description", "efs", "--vpc-id", &vpc]);
    let group = group["GroupId"].as_str().expect("an id").to_owned();
    authorize(driver, &group, "80");
    group
}

fn authorize(driver: &Driver<'_>, group: &str, port: &str) {
    let rule = ["--group-id", group, "--protocol", "tcp", "--port", port, "--cidr", "0.0.0.0/0"];
    driver.ebbtide.aws(&[&["ec2", "authorize-security-group-ingress"][..], &rule].concat());
}

fn unreachable(ip: &str) -> String {
    format!(
        "Cannot connect to file system mount target ip address {ip}. \nConnection to the mount target IP address {ip} timeout. Please retry in \
         5 minutes if the mount target is newly created. Otherwise check your VPC and security group configuration to ensure your file system is \
         reachable via TCP port 2049 from your instance."
    )
}

/// F10: the mount hangs while port 2049 is closed, and goes on by itself when it is opened.
pub fn f10_security_group(driver: &Driver<'_>) {
    let group = closed_group(driver);
    let fs = file_system(driver.ebbtide, 2, Some(&group));
    // Given an address, the helper connects to it first, and says what is wrong.
    let ip = mount_targets(driver, &fs)[0]["IpAddress"].as_str().expect("an address").to_owned();
    let asked = Instant::now();
    let by_address = Publish { context: &[("mounttargetip", &ip)], ..Publish::default() };
    let error = driver.publish_with(0, "address", &fs, &by_address).expect_err("the port is closed");
    let options = format!("mounttargetip={ip},tls");
    assert_eq!(error, mount_failed(&format!("{fs}:/"), &target_path("address"), &options, 1, &unreachable(&ip)));
    // Three times two seconds, and half a second between.
    assert!(asked.elapsed() >= Duration::from_secs(7), "it gave up after {:?}", asked.elapsed());

    // Given a name, it hangs. The caller's deadline passes, and the mount goes on without it.
    let impatient = Publish { limit: Some(Duration::from_secs(3)), ..Publish::default() };
    let error = driver.publish_with(0, "name", &fs, &impatient).expect_err("the port is closed");
    assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
    let target = target_path("name");
    assert_eq!(driver.mounts(0, &target), Vec::<String>::new());
    // What an operator sees who tries by hand.
    driver.run(0, "mkdir -p /var/lib/kubelet/test/by-hand");
    let by_hand = ["mount", "-t", "efs", "-o", "tls", &fs, "/var/lib/kubelet/test/by-hand"];
    let mut by_hand =
        in_node(driver.ebbtide, &driver.plugins[0].node, &by_hand).stderr(std::process::Stdio::piped()).spawn().expect("running ebbtide");
    let mut lines = BufReader::new(by_hand.stderr.take().expect("a pipe")).lines();
    let told = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("Mount attempt")));
    let expected = "Mount attempt 1/3 failed due to timeout after 15 sec, wait 0 sec before next attempt.";
    assert_eq!(told.and_then(Result::ok).as_deref(), Some(expected));

    authorize(driver, &group, "2049");
    let ended = by_hand.wait().expect("mount");
    assert!(ended.success(), "{ended}: {:?}", lines.collect::<Vec<_>>());
    // The kubelet asks again; the first mount has come through meanwhile or comes now. There is one.
    assert_eq!(driver.publish(0, "name", &fs), Ok(target.clone()));
    ebbtide_tests::wait_for("one mount", Duration::from_secs(30), || driver.mounts(0, &target).len() == 1);
    driver.run(0, &format!("echo x > {target}/file; cat /var/lib/kubelet/test/by-hand/file; umount /var/lib/kubelet/test/by-hand"));
    assert_eq!(driver.publish_with(0, "address", &fs, &by_address), Ok(target_path("address")));
}

/// F11: a node in a zone without a mount target cannot mount; one in the other zone can.
pub fn f11_no_mount_target_in_the_zone(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 1, None);
    driver.publish(0, "same-zone", &fs).expect("published");
    let error = driver.publish(1, "other-zone", &fs).expect_err("there is no mount target in its zone");
    let text = format!(
        "Failed to resolve \"{fs}.efs.us-east-1.amazonaws.com\" - check that your file system ID is correct, and ensure that the VPC has an EFS \
         mount target for this file system ID.\nSee https://docs.aws.amazon.com/console/efs/mount-dns-name for more detail.\nAttempting to lookup \
         mount target ip address using botocore. No matching mount target in the az us-east-1b. Please create one mount target in us-east-1b, or \
         try the mount target in another AZ by passing the availability zone name option. Available mount target(s) are in az ['us-east-1a']"
    );
    assert_eq!(error, mount_failed(&format!("{fs}:/"), &target_path("other-zone"), "tls", 1, &text));
    // The kubelet tries again when somebody has made one.
    let mut subnets = driver.ebbtide.aws(&["ec2", "describe-subnets", "--filters", "Name=availability-zone,Values=us-east-1b"]);
    let subnet = subnets["Subnets"][0]["SubnetId"].take();
    let subnet = subnet.as_str().expect("an id");
    driver.ebbtide.aws(&["efs", "create-mount-target", "--file-system-id", &fs, "--subnet-id", subnet]);
    driver.publish(1, "other-zone", &fs).expect("published");
}

/// A static `mounttargetip`: also one in another zone, and only one of this file system.
pub fn static_mount_target_address(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 1, None);
    let ip = mount_targets(driver, &fs)[0]["IpAddress"].as_str().expect("an address").to_owned();
    let by_address = Publish { context: &[("mounttargetip", &ip)], ..Publish::default() };
    let targets = [0, 1].map(|node| driver.publish_with(node, "address", &fs, &by_address).expect("published"));
    driver.run(0, &format!("echo x > {}/file", targets[0]));
    assert_eq!(driver.run(1, &format!("cat {}/file", targets[1])), "x\n");
    let invalid = Publish { context: &[("mounttargetip", "nowhere")], ..Publish::default() };
    let error = Error::new(Code::InvalidArgument, "Volume context property \"mounttargetip\"=\"nowhere\" is not a valid IP address");
    assert_eq!(driver.publish_with(0, "invalid", &fs, &invalid), Err(error));
}
