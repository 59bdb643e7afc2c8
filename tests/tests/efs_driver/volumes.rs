//! What pods see of their volumes.

use std::time::Duration;

use ebbtide_tests::{text, wait_for};
use model_common::csi::Code;
use serde_json::Value;

use super::running::{BINARY, Driver, Publish, file_system, mount_failed, target_path};

/// F01: data outlives the publication, and a static mount target address makes no difference.
pub fn f01_static(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let target = driver.publish(0, "one", &fs).expect("published");
    let mounts = driver.mounts(0, &target);
    let kind = if driver.has_real_helper() { "fuse.nfs4" } else { "fuse.efs" };
    assert!(matches!(&mounts[..], [row] if row.starts_with(&format!("127.0.0.1:/ {target} {kind} rw,"))), "{mounts:?}");
    let df = driver.run(0, &format!("df -h {target}"));
    assert!(df.contains("8.0E"), "{df}");
    driver.run(0, &format!("for i in 1 2 3; do echo line $i >> {target}/out.txt; done"));
    driver.unpublish(0, &fs, &target).expect("unpublished");
    assert_eq!(driver.mounts(0, &target), Vec::<String>::new());
    // The pod is recreated, on the other node.
    let again = driver.publish(1, "two", &fs).expect("published");
    assert_eq!(driver.run(1, &format!("cat {again}/out.txt")), "line 1\nline 2\nline 3\n");
    driver.unpublish(1, &fs, &again).expect("unpublished");
    let data = std::fs::read_to_string(driver.ebbtide.dir().join("efs").join(&fs).join("out.txt")).expect("the file outlives its volume");
    assert_eq!(data.lines().count(), 3);
}

fn access_points(driver: &Driver<'_>, fs: &str) -> Vec<Value> {
    let mut points = driver.ebbtide.aws(&["efs", "describe-access-points", "--file-system-id", fs]);
    points["AccessPoints"].as_array_mut().map(std::mem::take).expect("a list")
}

/// F02: an access point for each volume, made as the storage class says.
pub fn f02_dynamic(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let class = [("provisioningMode", "efs-ap"), ("fileSystemId", &fs), ("directoryPerms", "700")];
    let name = "pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a01";
    let volume = driver.create(name, &class).expect("created");
    assert_eq!(driver.create(name, &class).expect("the same again").volume_id, volume.volume_id);
    let points = access_points(driver, &fs);
    assert_eq!(points.len(), 1, "{points:?}");
    let point = &points[0];
    let id = point["AccessPointId"].as_str().expect("an id");
    assert_eq!(volume.volume_id, format!("efs:{fs}::{id}"));
    assert_eq!(point["PosixUser"], serde_json::json!({"Uid": 50000, "Gid": 50000}));
    let creation = serde_json::json!({"OwnerUid": 50000, "OwnerGid": 50000, "Permissions": "700"});
    assert_eq!(point["RootDirectory"], serde_json::json!({"Path": format!("/{name}"), "CreationInfo": creation}));
    assert_eq!(point["Tags"], serde_json::json!([{"Key": "efs.csi.aws.com/cluster", "Value": "true"}]));

    let target = driver.publish(0, "dynamic", &volume.volume_id).expect("published");
    driver.run(0, &format!("echo x > {target}/file"));
    assert_eq!(driver.run(0, &format!("stat -c '%u:%g %a' {target}; stat -c %u:%g {target}/file")), "50000:50000 700\n50000:50000\n");

    let pattern = [
        ("provisioningMode", "efs-ap"),
        ("fileSystemId", &fs),
        ("directoryPerms", "755"),
        ("gidRangeStart", "1000"),
        ("gidRangeEnd", "1001"),
        ("basePath", "/base"),
        ("subPathPattern", "${.PVC.namespace}/${.PVC.name}"),
        ("ensureUniqueDirectory", "false"),
        ("csi.storage.k8s.io/pvc/name", "claim"),
        ("csi.storage.k8s.io/pvc/namespace", "default"),
    ];
    let second = driver.create("pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a02", &pattern).expect("created");
    let second_point = access_points(driver, &fs).into_iter().find(|point| point["AccessPointId"] != id).expect("another");
    assert_eq!(second_point["RootDirectory"]["Path"], "/base/default/claim");
    assert_eq!(second_point["PosixUser"]["Gid"], 1000);
    driver.create("pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a03", &pattern).expect("created");
    let exhausted = driver.create("pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a04", &pattern).expect_err("all groups are taken");
    assert!(exhausted.code == Code::Internal && exhausted.message.contains("Failed to locate a free GID"), "{exhausted}");
    driver.delete(&second.volume_id).expect("deleted");

    driver.unpublish(0, &volume.volume_id, &target).expect("unpublished");
    driver.delete(&volume.volume_id).expect("deleted");
    driver.delete(&volume.volume_id).expect("deleted again");
    wait_for("the access point to go", Duration::from_secs(10), || {
        access_points(driver, &fs).iter().all(|point| point["AccessPointId"] != id)
    });
    assert!(driver.ebbtide.dir().join("efs").join(&fs).join(name).join("file").exists(), "the directory stays");
}

/// F03: what one pod writes, a pod on the other node sees at once.
pub fn f03_many_pods(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let class = [("provisioningMode", "efs-ap"), ("fileSystemId", &*fs), ("directoryPerms", "700")];
    let volume = driver.create("pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a01", &class).expect("created").volume_id;
    let here = driver.publish(0, "here", &volume).expect("published");
    let there = driver.publish(1, "there", &volume).expect("published");
    assert_eq!(driver.run(1, &format!("ls {there}")), "");
    driver.run(0, &format!("echo picture > {here}/placeholder.jpg"));
    assert_eq!(driver.run(1, &format!("ls {there}; cat {there}/placeholder.jpg")), "placeholder.jpg\npicture\n");
    driver.run(1, &format!("rm {there}/placeholder.jpg"));
    assert_eq!(driver.run(0, &format!("ls {here}")), "");
    // One pod's end is not the other's.
    driver.unpublish(0, &volume, &here).expect("unpublished");
    driver.run(1, &format!("echo y > {there}/still"));
    driver.unpublish(1, &volume, &there).expect("unpublished");
}

/// F04: three pods append to one file; no line is lost or torn, each pod's are in order.
pub fn f04_appenders(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let pods = [(0, "web-0"), (1, "web-1"), (0, "web-2")];
    let targets = pods.map(|(node, pod)| driver.publish(node, pod, &fs).expect("published"));
    let script = |pod: &str, target: &str| format!("for i in $(seq 1 100); do echo {pod} $i >> {target}/out.txt || exit 1; done");
    let writers: Vec<_> = pods.iter().zip(&targets).map(|((node, pod), target)| driver.spawn(*node, &script(pod, target))).collect();
    for writer in writers {
        let output = writer.wait_with_output().expect("a shell");
        assert!(output.status.success(), "{}", text(&output));
    }
    let lines = driver.run(0, &format!("cat {}/out.txt", targets[0]));
    assert_eq!(lines.lines().count(), 300, "{lines}");
    for (_, pod) in pods {
        let of_pod: Vec<String> = lines.lines().filter(|line| line.starts_with(pod)).map(str::to_owned).collect();
        assert_eq!(of_pod, (1..=100).map(|i| format!("{pod} {i}")).collect::<Vec<_>>());
    }
}

/// F05: each access point has a root of its own, and its user owns and decides.
pub fn f05_two_access_points(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let point = |path: &str, user: u32| {
        let root = format!("Path={path},CreationInfo={{OwnerUid={user},OwnerGid={user},Permissions=0755}}");
        let user = format!("Uid={user},Gid={user}");
        let made =
            driver.ebbtide.aws(&["efs", "create-access-point", "--file-system-id", &fs, "--posix-user", &user, "--root-directory", &root]);
        format!("efs:{fs}::{}", made["AccessPointId"].as_str().expect("an id"))
    };
    let (first, second) = (point("/a", 1000), point("/b", 2000));
    let a = driver.publish(0, "a", &first).expect("published");
    let b = driver.publish(0, "b", &second).expect("published");
    driver.run(0, &format!("echo a > {a}/out; echo b > {b}/out"));
    assert_eq!(driver.run(0, &format!("cat {a}/out {b}/out; stat -c %u:%g {a}/out {b}/out; ls {a}")), "a\nb\n1000:1000\n2000:2000\nout\n");
    // Images that chown at their start fail, though they run as root.
    let chown = driver.try_run(0, &format!("chown 0:0 {a}/out"));
    assert!(!chown.status.success() && text(&chown).contains("Operation not permitted"), "{}", text(&chown));
    // The handle before version 3 means the same.
    let old = driver.publish(1, "old", first.strip_prefix("efs:").expect("the new form")).expect("published");
    assert_eq!(driver.run(1, &format!("cat {old}/out")), "a\n");
}

/// F06: a path must be there.
pub fn f06_path(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let volume = format!("efs:{fs}:/dir1");
    let error = driver.publish(0, "path", &volume).expect_err("there is no such directory");
    let (source, target) = (format!("{fs}:/dir1"), target_path("path"));
    let init = driver_name(driver);
    let output = format!(
        "Could not start amazon-efs-mount-watchdog, unrecognized init system \"{init}\"\n\
         b'mount.nfs4: mounting 127.0.0.1:/dir1 failed, reason given by server: No such file or directory'"
    );
    assert_eq!(error, mount_failed(&source, &target, "tls", 32, &output));
    assert!(!driver.try_run(0, &format!("ls -d {target}")).status.success(), "the target of a failed mount goes");
    let root = driver.publish(0, "root", &fs).expect("published");
    driver.run(0, &format!("mkdir {root}/dir1; echo inner > {root}/dir1/file"));
    let target = driver.publish(0, "path", &volume).expect("published");
    assert_eq!(driver.run(0, &format!("cat {target}/file")), "inner\n");
}

/// Whom `mount.efs` takes for the init system: the first process where the driver runs, by as much of its name as the kernel keeps.
fn driver_name(driver: &Driver<'_>) -> String {
    let binary = std::env::var_os(BINARY).filter(|_| driver.is_real()).map(std::fs::canonicalize);
    let binary = binary.map_or_else(|| "ebbtide".into(), |binary| binary.expect("the driver's binary"));
    binary.file_name().expect("a name").to_string_lossy().chars().take(15).collect()
}

/// The driver asks `mount.efs` again and again; that it mounts once is the helper's doing.
pub fn one_mount_a_target(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    for round in 0..5 {
        let target = driver.publish(0, "same", &fs).expect("published");
        assert_eq!(driver.mounts(0, &target).len(), 1, "round {round}");
    }
    let target = target_path("same");
    driver.unpublish(0, &fs, &target).expect("unpublished");
    assert_eq!(driver.mounts(0, &target), Vec::<String>::new());
    driver.unpublish(0, &fs, &target).expect("unpublished again");
}

/// A target that is in use stays mounted and whole; it goes when it is free.
pub fn a_busy_target(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let target = driver.publish(0, "busy", &fs).expect("published");
    let mut user = driver
        .spawn(0, &format!("exec 3> {target}/held; echo held >&3; touch {target}/ready; while [ ! -e {target}/go ]; do sleep 0.05; done"));
    wait_for("the user", Duration::from_secs(10), || driver.run(0, &format!("ls {target}")).contains("ready"));
    let error = driver.unpublish(0, &fs, &target).expect_err("it is in use");
    let message = format!(
        "Could not unmount {target:?}: unmount failed: exit status 32\nUnmounting arguments: {target}\nOutput: umount: {target}: target is busy.\n"
    );
    assert_eq!((error.code, error.message.trim_end()), (Code::Internal, message.trim_end()));
    assert_eq!(driver.mounts(0, &target).len(), 1);
    driver.run(0, &format!("touch {target}/go"));
    assert!(user.wait().expect("a shell").success());
    wait_for("the target to be free", Duration::from_secs(10), || driver.unpublish(0, &fs, &target).is_ok());
    assert_eq!(driver.mounts(0, &target), Vec::<String>::new());
}

/// The server of a mount lives outside the driver: a writer does not notice that the driver ends.
pub fn a_writer_survives_20_restarts(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let class = [("provisioningMode", "efs-ap"), ("fileSystemId", &*fs), ("directoryPerms", "700")];
    let volume = driver.create("pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a01", &class).expect("created").volume_id;
    let target = driver.publish(0, "writer", &volume).expect("published");
    // Each write is a file that is opened, written, synced and closed, and one that stays open.
    let script = format!(
        "exec 3>> {target}/open; i=0; while [ ! -e {target}/stop ]; do i=$((i+1)); echo $i >&3 || exit 1; \
         echo $i >> {target}/lines || exit 2; sync {target}/lines || exit 3; done"
    );
    let writer = driver.spawn(0, &script);
    let written = || driver.run(0, &format!("wc -l < {target}/lines")).trim().parse::<u64>().expect("a number");
    wait_for("the writer", Duration::from_secs(10), || driver.try_run(0, &format!("test -s {target}/lines")).status.success());
    for round in 0..20 {
        let before = written();
        driver.restart(0);
        wait_for("the writer to go on", Duration::from_secs(10), || written() > before);
        // The next driver knows its volumes: published again is no second mount, another target works.
        driver.publish(0, "writer", &volume).expect("published again");
        assert_eq!(driver.mounts(0, &target).len(), 1, "round {round}");
        let other = driver.publish(0, "other", &volume).expect("published");
        driver.run(0, &format!("test -s {other}/lines"));
        driver.unpublish(0, &volume, &other).expect("unpublished");
    }
    driver.run(0, &format!("touch {target}/stop"));
    let output = writer.wait_with_output().expect("a shell");
    assert!(output.status.success(), "the writer failed: {}", text(&output));
    let lines = driver.run(0, &format!("cat {target}/lines"));
    let count = lines.lines().count();
    assert_eq!(lines, (1..=count).map(|i| format!("{i}\n")).collect::<String>());
    assert_eq!(driver.run(0, &format!("cat {target}/open")), lines);
    eprintln!("{count} lines over 20 restarts");
    driver.unpublish(0, &volume, &target).expect("unpublished");
}

/// F13: the controller mounts the file system and removes the directory, and only that.
pub fn f13_root_directory_deleted(driver: &Driver<'_>) {
    let fs = file_system(driver.ebbtide, 2, None);
    let class = [("provisioningMode", "efs-ap"), ("fileSystemId", &*fs), ("directoryPerms", "700")];
    let names = ["pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a01", "pvc-6a54ad8f-3a1c-4f0b-9d5e-0d1f3f3e8a02"];
    let volumes = names.map(|name| driver.create(name, &class).expect("created").volume_id);
    for volume in &volumes {
        let target = driver.publish(0, "write", volume).expect("published");
        driver.run(0, &format!("mkdir -p {target}/a/b; echo x > {target}/a/b/file"));
        driver.unpublish(0, volume, &target).expect("unpublished");
    }
    let directory = |name: &str| driver.ebbtide.dir().join("efs").join(&fs).join(name);
    assert!(directory(names[0]).join("a/b/file").exists());
    driver.delete(&volumes[0]).expect("deleted");
    assert!(!directory(names[0]).exists(), "the directory is still there");
    assert!(directory(names[1]).join("a/b/file").exists(), "the other volume's data is gone");
    wait_for("the access point to go", Duration::from_secs(10), || access_points(driver, &fs).len() == 1);
    // A second deletion finds nothing and is well.
    driver.delete(&volumes[0]).expect("deleted again");
    let read_only = Publish { readonly: true, ..Publish::default() };
    let target = driver.publish_with(1, "read", &volumes[1], &read_only).expect("published");
    assert_eq!(driver.run(1, &format!("cat {target}/a/b/file")), "x\n");
}
