//! What the helper process is told: everything is prepared by the kubelet, the helper only carries it out.

use serde::{Deserialize, Serialize};

/// A volume in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The directory or file on the node.
    pub source: String,
    /// Where the container sees it.
    pub target: String,
    pub read_only: bool,
    /// `HostToContainer`: mounts made on the node later appear. Otherwise the volume stays as it was at the start.
    pub host_to_container: bool,
}

/// A block device in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The device node (or a link to it) on the node.
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

/// Who runs the command and what with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// All environment variables, in order.
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Kept in the bounding set; none keeps all (`privileged`).
    pub capabilities: Option<Vec<String>>,
    pub no_new_privileges: bool,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub hostname: String,
    /// An empty directory of the container's own: its root file system is put together on it.
    pub scratch: String,
    pub binds: Vec<Bind>,
    pub devices: Vec<Device>,
    pub read_only_root: bool,
    pub process: Process,
}

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// The container's first process.
    pub pid: i32,
    /// The file to write an error to; nothing is written when the command could be executed.
    pub report: String,
    pub tty: bool,
    pub process: Process,
}

/// The capabilities of a container that does not ask for others (containerd's default set).
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The kernel's capabilities in the order of their numbers.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
