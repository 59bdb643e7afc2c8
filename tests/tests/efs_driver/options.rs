//! Options of mounts, and the words of refusals.

use model_common::csi::{Code, Error};

use super::running::{Driver, Publish, file_system, mount_failed, target_path};

/// F07: `encryptInTransit` and the mount option `tls`.
pub fn f07_encryption(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let conflict = || Err(Error::new(Code::InvalidArgument, "Found tls in mountOptions but encryptInTransit is false"));
    let target = target_path("tls");
    for (context, flags, expected) in [
        (&[][..], &[][..], Ok(target.clone())),
        (&[], &["tls"], Ok(target.clone())),
        (&[("encryptInTransit", "true")], &[], Ok(target.clone())),
        (&[("encryptInTransit", "true")], &["tls"], Ok(target.clone())),
        (&[("encryptInTransit", "false")], &[], Ok(target.clone())),
        (&[("encryptInTransit", "false")], &["tls"], conflict()),
    ] {
        let how = Publish { context, flags, ..Publish::default() };
        let result = driver.publish_with(0, "tls", &fs, &how);
        assert_eq!(result, expected, "{how:?}");
        if result.is_ok() {
            driver.unpublish(0, &fs, &target).expect("unpublished");
        }
    }
    // Without TLS there are no access points: the helper says it.
    let plain = Publish { context: &[("encryptInTransit", "false")], flags: &["iam"], ..Publish::default() };
    let error = driver.publish_with(0, "plain", &fs, &plain).expect_err("iam needs tls");
    let text = "The \"tls\" option is required when mounting via \"iam\"";
    assert_eq!(error, mount_failed(&format!("{fs}:/"), &target_path("plain"), "iam", 1, text));
}

/// `iam`, `az`, `ro` and flags of the kernel.
pub fn options_of_the_mount(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 1, None);
    let here = driver.publish(0, "here", &fs).expect("published");
    driver.run(0, &format!("echo x > {here}/file"));
    let iam = Publish { flags: &["iam", "noatime", "nosuid"], ..Publish::default() };
    let target = driver.publish_with(0, "iam", &fs, &iam).expect("published");
    let mounts = driver.mounts(0, &target);
    assert!(mounts[0].contains(" rw,nosuid,noatime,"), "{mounts:?}");
    // There is a mount target in the first zone only; `az` says to go there.
    let az = Publish { flags: &["az=us-east-1a"], readonly: true, ..Publish::default() };
    let target = driver.publish_with(1, "az", &fs, &az).expect("published");
    let write = driver.try_run(1, &format!("cat {target}/file && echo y > {target}/file"));
    let said = ebbtide_tests::text(&write);
    assert!(!write.status.success() && said.starts_with("x\n") && said.contains("Read-only file system"), "{said}");
}

/// The texts and exit codes of efs-utils, through mount(8) and the driver (efs.md §8).
pub fn refusals(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let refused = |volume: &str, source: &str, options: &str, status: u8, output: &str| {
        let error = driver.publish(0, "refused", volume).expect_err("it cannot be mounted");
        assert_eq!(error, mount_failed(source, &target_path("refused"), options, status, output));
    };
    let dns = |fs: &str, reason: &str| {
        format!(
            "Failed to resolve \"{fs}.efs.us-east-1.amazonaws.com\" - check that your file system ID is correct, and ensure that the VPC has an \
             EFS mount target for this file system ID.\nSee https://docs.aws.amazon.com/console/efs/mount-dns-name for more detail.\n\
             Attempting to lookup mount target ip address using botocore. {reason}"
        )
    };
    let unknown = "fs-0123456789abcdef0";
    let reason = format!("The file system {unknown} is not found");
    refused(unknown, &format!("{unknown}:/"), "tls", 1, &dns(unknown, &reason));

    let bare = driver.ebbtide.aws(&["efs", "create-file-system"])["FileSystemId"].as_str().expect("an id").to_owned();
    let reason = format!("Cannot find mount target for the file system {bare}, please create a mount target in us-east-1a.");
    refused(&bare, &format!("{bare}:/"), "tls", 1, &dns(&bare, &reason));

    // Shorter ids were given once; the helper takes the long ones only.
    let text = "Access Point ID fsap-1234abcd is malformed";
    refused(&format!("{fs}::fsap-1234abcd"), &format!("{fs}:/"), "accesspoint=fsap-1234abcd,tls", 1, text);

    let point = "fsap-0123456789abcdef0";
    let error = driver.publish(0, "refused", &format!("{fs}::{point}")).expect_err("there is no such access point");
    // Three attempts, for an access point may not be ready yet.
    let denied = "mount.nfs4: access denied by server while mounting 127.0.0.1:/";
    for line in [
        &format!("exit status 32\nMounting command: mount\nMounting arguments: -t efs -o accesspoint={point},tls {fs}:/ "),
        &format!("Mount attempt 1/3 failed due to b'{denied}\\n', wait 1 sec before next attempt.\n"),
        "Mount attempt 2/3 failed due to ",
        &format!("b'{denied}'\n"),
    ] {
        assert!(error.message.contains(line), "{line} is not in: {error}");
    }
    let unsupported = driver.publish_with(0, "refused", &fs, &Publish { context: &[("path", "/x")], ..Publish::default() });
    assert_eq!(unsupported, Err(Error::new(Code::InvalidArgument, "Volume context property path not supported.")));
}
