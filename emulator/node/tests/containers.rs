//! Containers as processes, on the real kernel. Needs root.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use emulator_node::pods::config::{Bind, ContainerConfig, DEFAULT_CAPABILITIES, Process};
use emulator_node::pods::log::{LogDir, LogWriter, read_from};
use emulator_node::pods::{Container, ExecStdio, Runtime, Started, exec_error};
use model_node::pod::StartError;

/// Whether these tests can run; says why when they cannot.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: containers need root");
    }
    root
}

fn runtime() -> Runtime {
    Runtime { helper: env!("CARGO_BIN_EXE_ebbtide-container").into() }
}

fn config(dir: &Path, argv: &[&str]) -> ContainerConfig {
    let scratch = dir.join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    ContainerConfig {
        hostname: "app".into(),
        scratch: scratch.display().to_string(),
        binds: Vec::new(),
        devices: Vec::new(),
        read_only_root: false,
        process: Process {
            argv: argv.iter().map(|arg| arg.to_string()).collect(),
            env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("GREETING".into(), "hello".into())],
            working_dir: None,
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            capabilities: Some(DEFAULT_CAPABILITIES.map(String::from).to_vec()),
            no_new_privileges: false,
        },
    }
}

async fn start(dir: &Path, config: &ContainerConfig) -> Result<Started, StartError> {
    let log = LogWriter::open(LogDir(dir.join("log")), 0).unwrap();
    runtime().start(config, &dir.join("config.json"), log).await
}

fn log(dir: &Path) -> String {
    let (entries, _) = read_from(&dir.join("log/0.log"), 0).unwrap();
    entries.into_iter().map(|entry| String::from_utf8(entry.text).unwrap()).collect()
}

/// Runs a command to its end; its exit code and log.
async fn run(dir: &Path, config: &ContainerConfig) -> (i32, String) {
    let code = start(dir, config).await.unwrap().wait().await;
    (code, log(dir))
}

async fn exec(dir: &Path, container: &Arc<Container>, argv: &[&str]) -> (Output, Option<String>) {
    let report = dir.join("report");
    let argv = argv.iter().map(|arg| arg.to_string()).collect();
    let executed = runtime().exec(container, argv, ExecStdio::Pipes { stdin: false }, &report).await.unwrap();
    let output = executed.child.wait_with_output().await.unwrap();
    (output, exec_error(&report))
}

#[tokio::test]
async fn a_container_has_its_own_world() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "echo pid $$ on $(hostname) says $GREETING; echo err >&2; ls /proc | grep -c '^[0-9]'; ls /dev | tr '\\n' ' '; echo; \
                  echo new > /etc/made-inside; ls -A /tmp | wc -l; head -c 4 /dev/zero | wc -c; exit 7";
    let (code, log) = run(dir.path(), &config(dir.path(), &["sh", "-c", script])).await;
    assert_eq!(code, 7, "{log}");
    let lines: std::collections::BTreeSet<_> = log.lines().collect();
    assert!(lines.contains("pid 1 on app says hello") && lines.contains("err"), "{log}");
    assert!(log.contains("fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"), "{log}");
    assert!(!Path::new("/etc/made-inside").exists(), "the host's root file system is not written");
    assert!(std::fs::read_dir(dir.path().join("scratch")).unwrap().next().is_none(), "the root file system went with the container");
}

#[tokio::test]
async fn volumes_are_where_they_were_asked_for() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (data, fixed) = (dir.path().join("data"), dir.path().join("fixed"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&fixed, "fixed\n").unwrap();
    let mut config =
        config(dir.path(), &["sh", "-c", "cat /run/a/file; echo x > /run/a/file; id -u; id -G; echo one >> /data/sub/out.txt"]);
    config.binds = vec![
        Bind { source: fixed.display().to_string(), target: "/run/a/file".into(), read_only: true, host_to_container: false },
        Bind { source: data.display().to_string(), target: "/data/sub".into(), read_only: false, host_to_container: false },
    ];
    nix::unistd::chown(&data, Some(1234.into()), None).unwrap();
    (config.process.uid, config.process.gid, config.process.groups) = (1234, 1234, vec![2000]);
    let (code, log) = run(dir.path(), &config).await;
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("fixed\n") && log.contains("Read-only file system") && log.contains("1234\n1234 2000\n"), "{log}");
    assert_eq!(std::fs::read_to_string(data.join("out.txt")).unwrap(), "one\n");
}

#[tokio::test]
async fn a_read_only_root_refuses_writes() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &["sh", "-c", "echo x > /etc/x; mount -t tmpfs t /mnt"]);
    config.read_only_root = true;
    let (code, log) = run(dir.path(), &config).await;
    assert_ne!(code, 0);
    assert!(log.contains("Read-only file system") && log.contains("permission denied"), "{log}");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_an_exec_error() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let error = start(dir.path(), &config(dir.path(), &["nosuch"])).await.err();
    assert_eq!(error, Some(StartError::Exec("exec: \"nosuch\": executable file not found in $PATH".into())));
    let mut config = config(dir.path(), &["true"]);
    config.binds = vec![Bind { source: "/nosuch".into(), target: "/data".into(), read_only: false, host_to_container: false }];
    assert!(matches!(start(dir.path(), &config).await.err(), Some(StartError::Config(why)) if why.contains("/nosuch")));
}

#[tokio::test]
async fn commands_run_inside_and_a_stop_ends_everything() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let started =
        start(dir.path(), &config(dir.path(), &["sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"])).await.unwrap();
    let container = started.container.clone();
    let (output, error) = exec(dir.path(), &container, &["sh", "-c", "echo in $(hostname); cat /proc/1/comm; exit 5"]).await;
    assert_eq!((output.status.code(), error), (Some(5), None));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "in app\nsh\n");
    let (_, error) = exec(dir.path(), &container, &["nosuch"]).await;
    assert_eq!(error.as_deref(), Some("exec: \"nosuch\": executable file not found in $PATH"));
    // A background process of an exec dies with the container, too.
    let (output, _) = exec(dir.path(), &container, &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).await;
    assert!(output.status.success());
    let waiting = tokio::spawn(started.wait());
    container.signal(false);
    let code = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(code, 3);
    assert_eq!(log(dir.path()), "bye\n");
    container.signal(true);
}

#[tokio::test]
async fn a_shell_without_a_trap_needs_sigkill_as_process_1() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let started = start(dir.path(), &config(dir.path(), &["sh", "-c", "while :; do sleep 0.05; done"])).await.unwrap();
    let container = started.container.clone();
    let mut waiting = tokio::spawn(started.wait());
    container.signal(false);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "process 1 ignores SIGTERM");
    container.signal(true);
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap(), 137);
}

#[tokio::test]
async fn a_terminal_is_the_containers_own() {
    if !root() {
        return;
    }
    use tokio::io::AsyncReadExt;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &["sh", "-c", "echo own > /dev/stdout; trap 'exit 0' TERM; while :; do sleep 0.05; done"]);
    config.process.uid = 1234;
    let started = start(dir.path(), &config).await.unwrap();
    let container = started.container.clone();
    let report = dir.path().join("report");
    let script = "stty size; ls -l $(tty); ps -o tty= -p $$; echo to >/dev/tty; exit 4";
    let argv = ["sh", "-c", script].map(String::from).to_vec();
    let mut executed = runtime().exec(&container, argv, ExecStdio::Terminal, &report).await.unwrap();
    let outer = executed.terminal.take().unwrap();
    let mut outer = tokio::net::unix::pipe::Receiver::from_file_unchecked(outer.into()).unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 1024]);
    // The end is EIO: the command's end of the terminal is closed.
    while let Ok(read @ 1..) = outer.read(&mut buffer).await {
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert_eq!((executed.child.wait().await.unwrap().code(), exec_error(&report)), (Some(4), None), "{text}");
    assert!(
        text.contains("0 0\r\n") && text.contains(" 1234 ") && text.contains("/dev/pts/0\r\n") && text.contains("pts/0\r\nto\r\n"),
        "{text}"
    );
    // A command that is not there says so; its terminal ends.
    let nosuch = runtime().exec(&container, vec!["nosuch".into()], ExecStdio::Terminal, &report).await.unwrap();
    nosuch.child.wait_with_output().await.unwrap();
    assert_eq!(exec_error(&report).as_deref(), Some("exec: \"nosuch\": executable file not found in $PATH"));
    container.signal(false);
    assert_eq!(started.wait().await, 0);
    assert_eq!(log(dir.path()), "own\n");
    // A container that is gone gives no terminal.
    let gone = runtime().exec(&container, vec!["true".into()], ExecStdio::Terminal, &report).await.unwrap();
    assert!(gone.terminal.is_none());
    gone.child.wait_with_output().await.unwrap();
    assert!(exec_error(&report).is_some_and(|why| why.starts_with("open /proc/")));
}
