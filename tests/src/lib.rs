//! What the black-box tests share: an ebbtide of their own, and the clients nobody here wrote (kubectl, the aws CLI, boto3).
//!
//! A test starts [`Ebbtide::up`] and drops it; dropping stops it and fails the test when a loop device, a mount or a process
//! of it is left on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test: `EBBTIDE_BIN`, or what `cargo build -p ebbtide` made.
pub fn program() -> PathBuf {
    match std::env::var_os("EBBTIDE_BIN") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/ebbtide"),
    }
}

/// Whether this process may make loop devices and mounts; says so when it may not.
pub fn root() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        eprintln!("skipped: needs root for loop devices and mounts");
    }
    root
}

/// An address of this machine that is not its loopback; says so when it has none.
pub fn address() -> Option<String> {
    // Nothing is sent: the kernel only chooses from where it would be.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    let found = socket.connect("198.51.100.1:9").ok().and_then(|()| socket.local_addr().ok()).map(|address| address.ip());
    if found.is_none() {
        eprintln!("skipped: this machine has no address but its loopback");
    }
    found.map(|ip| ip.to_string())
}

/// The nodes of the default world.
pub const NODES: [&str; 2] = ["ip-10-0-1-10.ec2.internal", "ip-10-0-2-10.ec2.internal"];

/// The exercises' pod: it writes the time to its volume again and again. `CLAIM` stands for its claim.
pub const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: centos
    command: ["/bin/sh"]
    args: ["-c", "while true; do echo $(date -u) >> /data/out.txt; sleep 0.3; done"]
    volumeMounts: [{name: persistent-storage, mountPath: /data}]
  volumes: [{name: persistent-storage, persistentVolumeClaim: {claimName: CLAIM}}]
"#;

/// One running ebbtide with its own data directory and ports.
pub struct Ebbtide {
    dir: tempfile::TempDir,
    args: Vec<String>,
    /// `up.json`: pid, aws, kube, kubeconfig, nodes …
    pub info: Value,
    guest: Option<Guest>,
}

/// Of an ebbtide that somebody else started, and stops, beside another Kubernetes.
struct Guest {
    /// What leads a command to where it runs.
    enter: Vec<String>,
    /// The image there that has a shell and coreutils.
    image: String,
}

impl Ebbtide {
    /// One that runs already, with another Kubernetes: `info` has its address and the kubeconfig of that, `enter` comes before each
    /// command.
    pub fn guest(info: Value, enter: &[&str], image: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let enter = enter.iter().map(|word| (*word).to_owned()).collect();
        Self { dir, args: Vec::new(), info, guest: Some(Guest { enter, image: image.to_owned() }) }
    }

    /// The image for pods, where not every name is one: the nodes belong to another Kubernetes.
    pub fn image(&self) -> Option<&str> {
        self.guest.as_ref().map(|guest| guest.image.as_str())
    }

    /// Starts one and waits until it is ready. `args` are further arguments of `ebbtide up`.
    pub fn up(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("ebbtide-test-").tempdir().expect("a temporary directory");
        let mut ebbtide = Self { dir, args: args.iter().map(|arg| (*arg).to_owned()).collect(), info: Value::Null, guest: None };
        ebbtide.start();
        ebbtide
    }

    /// Starts it (again) on the same data directory.
    pub fn start(&mut self) {
        let listen = |key: &str| self.info[key].as_str().unwrap_or("127.0.0.1:0").to_owned();
        // A test that is about other addresses gives its own.
        let own = self.args.iter().any(|arg| arg == "--listen");
        let output = Command::new(program())
            .args(["up", "-d", "--data-dir"])
            .arg(self.dir())
            .args(if own { Vec::new() } else { vec!["--listen".to_owned(), listen("aws")] })
            .args(["--kube-listen", &listen("kube")])
            .args(&self.args)
            .output()
            .expect("starting ebbtide; was it built?");
        assert!(output.status.success(), "ebbtide up failed:\n{}{}", text(&output), self.log());
        let info = std::fs::read(self.dir().join("up.json")).expect("up.json");
        self.info = serde_json::from_slice(&info).expect("up.json is JSON");
    }

    /// Was it started with an argument that begins so?
    pub fn is_up_with(&self, argument: &str) -> bool {
        self.args.iter().any(|arg| arg.starts_with(argument))
    }

    /// Further arguments of the next [`Ebbtide::start`].
    pub fn with_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        last_lines(&self.dir().join("up.log"), 40)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.info["aws"].as_str().expect("aws address"))
    }

    pub fn nodes(&self) -> Vec<String> {
        self.info["nodes"].as_array().into_iter().flatten().filter_map(|node| node.as_str().map(str::to_owned)).collect()
    }

    /// A program with the environment of `ebbtide env`.
    pub fn command(&self, program: &str) -> Command {
        let mut words = self.guest.iter().flat_map(|guest| &guest.enter).map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command
            .args(words)
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("KUBECONFIG", self.info["kubeconfig"].as_str().expect("kubeconfig"))
            .env("HOME", self.dir());
        command
    }

    /// `ebbtide ARGS --data-dir …`.
    pub fn ebbtide(&self, args: &[&str]) -> Output {
        let mut command = self.command(program().to_str().expect("a path in UTF-8"));
        let (options, rest) = match args.iter().position(|arg| *arg == "--") {
            Some(at) => args.split_at(at),
            None => (args, &[][..]),
        };
        command.args(options).arg("--data-dir").arg(self.dir()).args(rest).output().expect("running ebbtide")
    }

    /// `kubectl ARGS`, which must succeed; its standard output.
    pub fn kubectl(&self, args: &[&str]) -> String {
        succeeded("kubectl", args, self.command("kubectl").args(args).output().expect("running kubectl (make test installs it)"), self)
    }

    /// `kubectl ARGS`, however it ends.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.command("kubectl").args(args).output().expect("running kubectl (make test installs it)")
    }

    /// `kubectl ARGS` with something on its standard input; it must succeed.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> String {
        use std::io::Write;
        let mut child = self
            .command("kubectl")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("running kubectl (make test installs it)");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("writing to kubectl");
        succeeded("kubectl", args, child.wait_with_output().expect("kubectl"), self)
    }

    /// `aws ARGS --output json`, which must succeed; what it printed.
    pub fn aws(&self, args: &[&str]) -> Value {
        let output = self.command("aws").args(args).args(["--output", "json"]).output().expect("running aws (make test installs it)");
        let out = succeeded("aws", args, output, self);
        if out.trim().is_empty() { Value::Null } else { serde_json::from_str(&out).expect("JSON from aws") }
    }

    /// `aws ARGS`, which must fail; what it said.
    pub fn aws_error(&self, args: &[&str]) -> String {
        let output = self.command("aws").args(args).output().expect("running aws (make test installs it)");
        assert!(!output.status.success(), "aws {args:?} should have failed:\n{}", text(&output));
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    }

    /// Kills `ebbtide up` as a crash does; the nodes live on.
    pub fn kill(&self) {
        let pid = self.info["pid"].to_string();
        let _ = Command::new("kill").args(["-9", &pid]).status();
        wait_for("the killed process to go", Duration::from_secs(5), || !Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Loop devices, mounts and processes of this ebbtide that are on the machine.
    pub fn left_behind(&self) -> Vec<String> {
        left_behind(self.dir())
    }

    /// Stops it. Nothing of it may be left on the machine.
    pub fn down(&self) {
        let output = self.ebbtide(&["down"]);
        assert!(output.status.success(), "ebbtide down failed:\n{}", text(&output));
        let left = self.left_behind();
        assert!(left.is_empty(), "left behind after down:\n{}", left.join("\n"));
        let run = emulator_common::places::Places::new(self.dir());
        assert!(!run.run().exists(), "left behind after down: {}", run.run().display());
    }
}

impl Drop for Ebbtide {
    fn drop(&mut self) {
        if self.guest.is_some() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("the log of this ebbtide ends with:\n{}", self.log());
            for node in self.nodes() {
                eprintln!("{node}:\n{}", last_lines(&self.dir().join("nodes").join(&node).join("log"), 25));
            }
            if std::env::var_os("EBBTIDE_TEST_KEEP").is_some() {
                eprintln!("kept: {} (stop it with: ebbtide reset --yes --data-dir …)", self.dir().display());
                self.dir.disable_cleanup(true);
                return;
            }
            let _ = self.ebbtide(&["down"]);
        } else {
            self.down();
        }
    }
}

/// Loop devices, mounts and processes of a data directory that are on the machine.
pub fn left_behind(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if backing.starts_with(&dir) {
            left.push(format!("{} on {}", entry.file_name().to_string_lossy(), backing.trim()));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    left.extend(mounts.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&cmdline).contains(&dir) {
            left.push(format!("process {} {}", entry.file_name().to_string_lossy(), String::from_utf8_lossy(&cmdline).replace('\0', " ")));
        }
    }
    left
}

fn succeeded(program: &str, args: &[&str], output: Output, ebbtide: &Ebbtide) -> String {
    assert!(output.status.success(), "{program} {} failed:\n{}\n{}", args.join(" "), text(&output), ebbtide.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The last lines of a file, as many as asked for; none where it cannot be read.
pub fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Both outputs of a program.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Looks again and again until `condition` holds; fails loudly when it does not in time.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
