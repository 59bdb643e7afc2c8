//! The programs that the drivers run on the node, and how k8s.io/mount-utils tells of their failures.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// What a program said. `code` is none when a signal ended it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    /// Standard output and error together.
    pub all: String,
}

impl Output {
    pub(super) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// As Go prints an exit: `exit status 32`.
    pub(super) fn status(&self) -> String {
        match self.code {
            Some(code) => format!("exit status {code}"),
            None => "signal: killed".to_owned(),
        }
    }
}

/// Runs a program to its end. The error is that it could not be run at all.
pub(super) async fn run(program: &str, args: &[&str]) -> Result<Output, String> {
    let started = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = started.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("exec: {program:?}: executable file not found in $PATH"),
        _ => format!("exec: {program:?}: {error}"),
    })?;
    let output = child.wait_with_output().await.map_err(|error| format!("waiting for {program}: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    tracing::debug!(program, ?args, code = output.status.code(), "ran");
    Ok(Output { code: output.status.code(), stdout, all })
}

/// `mount -t KIND -o OPTIONS SOURCE TARGET`; the error reads as mount-utils'.
pub(super) async fn mount(source: &str, target: &str, kind: &str, options: &[String]) -> Result<(), String> {
    let joined = options.join(",");
    let mut args = Vec::new();
    if !kind.is_empty() {
        args.extend(["-t", kind]);
    }
    if !joined.is_empty() {
        args.extend(["-o", &joined]);
    }
    args.extend([source, target]);
    let failed = |status: String, output: &str| {
        format!("mount failed: {status}\nMounting command: mount\nMounting arguments: {}\nOutput: {output}\n", args.join(" "))
    };
    match run("mount", &args).await {
        Ok(output) if output.ok() => Ok(()),
        Ok(output) => Err(failed(output.status(), output.all.trim_end_matches('\n'))),
        Err(error) => Err(failed(error, "")),
    }
}

/// A bind mount, then a remount with the other options, since the kernel ignores them on the first (`MakeBindOpts`).
pub(super) async fn bind(source: &str, target: &str, kind: &str, options: &[String]) -> Result<(), String> {
    mount(source, target, kind, &["bind".to_owned()]).await?;
    let mut remount = vec!["bind".to_owned(), "remount".to_owned()];
    remount.extend(options.iter().filter(|option| *option != "bind").cloned());
    if remount.len() == 2 {
        return Ok(());
    }
    mount(source, target, kind, &remount).await
}

/// `umount TARGET`. A target that is not mounted is well.
pub(super) async fn umount(target: &str) -> Result<(), String> {
    let failed = |status: String, output: &str| format!("unmount failed: {status}\nUnmounting arguments: {target}\nOutput: {output}\n");
    match run("umount", &[target]).await {
        Ok(output) if output.ok() || output.all.contains("not mounted") => Ok(()),
        Ok(output) => Err(failed(output.status(), output.all.trim_end_matches('\n'))),
        Err(error) => Err(failed(error, "")),
    }
}

/// `CleanupMountPoint`: unmounts every layer and removes the mount point.
pub(super) async fn clean_up(target: &str) -> Result<(), String> {
    while crate::mounts::at(Path::new(target)).is_some() {
        umount(target).await?;
    }
    let removed = match std::fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir(target),
        Ok(_) => std::fs::remove_file(target),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("remove {target}: {error}")),
        _ => Ok(()),
    }
}

/// What is on a disk (`GetDiskFormat`): empty when blank.
pub(super) async fn disk_format(device: &str) -> Result<String, String> {
    let output = run("blkid", &["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device]).await?;
    match output.code {
        // 2: nothing was found.
        Some(2) => return Ok(String::new()),
        Some(0) => {}
        _ => return Err(output.status()),
    }
    let value = |key: &str| output.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    // A partition table means data, whatever else blkid believes: it is never formatted.
    Ok(if value("PTTYPE").is_empty() { value("TYPE").to_owned() } else { "unknown data, probably partitions".to_owned() })
}

/// `FormatAndMount`: makes a file system on a blank disk, checks one that is there, mounts it.
pub(super) async fn format_and_mount(
    source: &str,
    target: &str,
    kind: &str,
    options: &[String],
    format_options: &[String],
) -> Result<(), String> {
    let mut options = options.to_vec();
    options.push("defaults".to_owned());
    let read_only = options.iter().any(|option| option == "ro");
    let existing = disk_format(source).await.map_err(|error| format!("failed to get disk format of disk {source}: {error}"))?;
    if existing.is_empty() {
        if read_only {
            return Err(format!("cannot mount unformatted disk {source} as we are manipulating it in read-only mode"));
        }
        make_file_system(source, target, kind, &options, format_options).await?;
    } else {
        if existing != kind {
            tracing::warn!(source, wanted = kind, existing, "the disk has another file system; things might break");
        }
        if !read_only {
            check(source).await?;
        }
    }
    mount(source, target, kind, &options).await
}

async fn make_file_system(source: &str, target: &str, kind: &str, options: &[String], format_options: &[String]) -> Result<(), String> {
    let mut args: Vec<&str> = format_options.iter().map(String::as_str).collect();
    match kind {
        "ext3" | "ext4" => args.extend(["-F", "-m0", source]),
        "xfs" => args.extend(["-f", source]),
        _ => args.push(source),
    }
    tracing::info!(source, kind, "the disk is blank: making a file system");
    let failed = |code: String, output: &str| {
        let options = options.join(",");
        format!(
            "format of disk {source:?} failed: type:({kind:?}) target:({target:?}) options:({options:?}) errcode:({code}) output:({output}) "
        )
    };
    match run(&format!("mkfs.{kind}"), &args).await {
        Ok(output) if output.ok() => Ok(()),
        Ok(output) => Err(failed(output.status(), &output.all)),
        Err(error) => Err(failed(error, "")),
    }
}

/// `checkAndRepairFilesystem`.
async fn check(source: &str) -> Result<(), String> {
    const UNCORRECTED: i32 = 4;
    match run("fsck", &["-a", source]).await {
        Ok(output) if output.code == Some(UNCORRECTED) => {
            Err(format!("'fsck' found errors on device {source} but could not correct them: {}", output.all))
        }
        Ok(output) => {
            if !output.ok() {
                tracing::info!(source, output = output.all, status = output.status(), "fsck");
            }
            Ok(())
        }
        Err(error) => {
            tracing::warn!(source, error, "fsck cannot be run; the disk is mounted without a check");
            Ok(())
        }
    }
}

/// The size of a block device.
pub(super) async fn block_size(device: &str) -> Result<u64, String> {
    let output = run("blockdev", &["--getsize64", device]).await?;
    let size = output.stdout.trim().parse();
    size.map_err(|_| {
        let status = output.status();
        format!("error when getting size of block volume at path {device}: output: {}, err: {status}", output.all.trim())
    })
}

/// `NeedResize`: whether a device is larger than the file system on it.
pub(super) async fn needs_resize(device: &str, mount_point: &str) -> Result<bool, String> {
    let read_only = run("blockdev", &["--getro", device]).await?;
    if read_only.stdout.trim() == "1" {
        return Ok(false);
    }
    let size = block_size(device).await?;
    let format =
        disk_format(device).await.map_err(|error| format!("ResizeFS.Resize - error checking format for device {device}: {error}"))?;
    let (block, total) = match format.as_str() {
        "" => return Ok(false),
        "ext3" | "ext4" => numbers(device, &run("dumpe2fs", &["-h", device]).await?, "Block size:", "Block count:")?,
        "xfs" => {
            let output = run("xfs_io", &["-c", "statfs", mount_point]).await?;
            numbers(device, &output, "geom.bsize =", "geom.datablocks =")?
        }
        other => {
            return Err(format!("could not parse fs info of given filesystem format: {other}. Supported fs types are: xfs, ext3, ext4"));
        }
    };
    // One block of difference is rounding.
    Ok(size > total + block)
}

/// Block size, and bytes in all.
fn numbers(device: &str, output: &Output, size: &str, count: &str) -> Result<(u64, u64), String> {
    let number = |name: &str| output.stdout.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().parse::<u64>().ok());
    match (number(size), number(count)) {
        (Some(size), Some(count)) => Ok((size, size.saturating_mul(count))),
        _ => Err(format!("could not find block size and block count of device {device}: {} {}", output.status(), output.all.trim())),
    }
}

/// `Resize`: makes the file system as large as its device.
pub(super) async fn resize(device: &str, mount_point: &str) -> Result<(), String> {
    let format =
        disk_format(device).await.map_err(|error| format!("ResizeFS.Resize - error checking format for device {device}: {error}"))?;
    let (program, args): (&str, Vec<&str>) = match format.as_str() {
        // Blank: mkfs will use the whole device anyway.
        "" => return Ok(()),
        "ext3" | "ext4" => ("resize2fs", vec![device]),
        "xfs" => ("xfs_growfs", vec!["-d", mount_point]),
        other => {
            return Err(format!(
                "ResizeFS.Resize - resize of format {other} is not supported for device {device} mounted at {mount_point}"
            ));
        }
    };
    let output = run(program, &args).await?;
    if output.ok() {
        return Ok(());
    }
    let what = if program == "xfs_growfs" { mount_point } else { device };
    Err(format!("resize of device {what} failed: {}. {program} output: {}", output.status(), output.all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_read_as_in_mount_utils() {
        let error = mount("nothing", "/nonexistent-ebbtide", "ext4", &["defaults".to_owned()]).await.unwrap_err();
        assert!(error.starts_with("mount failed: exit status"), "{error}");
        assert!(error.contains("Mounting arguments: -t ext4 -o defaults nothing /nonexistent-ebbtide\nOutput: "), "{error}");
        let error = run("ebbtide-no-such-program", &[]).await.unwrap_err();
        assert_eq!(error, "exec: \"ebbtide-no-such-program\": executable file not found in $PATH");
    }

    #[tokio::test]
    async fn a_target_that_is_gone_is_cleaned_up() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        std::fs::create_dir(&target).unwrap();
        clean_up(target.to_str().unwrap()).await.unwrap();
        assert!(!target.exists());
        clean_up(target.to_str().unwrap()).await.unwrap();
    }

    #[test]
    fn file_system_sizes_are_read() {
        let of = |stdout: &str| Output { code: Some(0), stdout: stdout.into(), all: stdout.into() };
        let ext = of("Inode count: 1\nBlock count:              262144\nBlock size:               4096\n");
        assert_eq!(numbers("d", &ext, "Block size:", "Block count:"), Ok((4096, 1 << 30)));
        let xfs = of("fd.path = \"/m\"\ngeom.bsize = 4096\ngeom.datablocks = 10\n");
        assert_eq!(numbers("d", &xfs, "geom.bsize =", "geom.datablocks ="), Ok((4096, 40960)));
        assert!(numbers("d", &of(""), "a", "b").is_err());
    }
}
