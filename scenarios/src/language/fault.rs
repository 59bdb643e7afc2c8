//! Trouble on purpose (kubernetes-storage-path.md §8.3), under the names of AWS FIS where it has such an action and `local:*` elsewhere.
//!
//! ```yaml
//! - fault: {actionId: "local:crash", actor: kubelet, node: node-1}
//! - fault: {actionId: "local:rpc", call: NodeUnstageVolume, code: Internal, applied: true, count: 1}
//! - fault: {actionId: "aws:fis:inject-api-throttle-error", operation: AttachVolume, count: 3}
//! ```

use model_aws::faults::{Action, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Span;

/// A fault: of AWS, in the shape of ebbtide's table of faults (`ebbtide fault add`), or of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Fault {
    Aws(Box<Rule>),
    Cluster(Trouble),
}

/// Trouble in the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "actionId", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Trouble {
    /// A process ends. `actor`: a controller by the name in `ebbtide up --controllers`, `kube-controller-manager`, `ebs-csi-controller`,
    /// `efs-csi-controller` (the driver and its sidecars), and with `node`: `kubelet`, `ebs-csi-node`, `efs-csi-node`.
    #[serde(rename = "local:crash")]
    Crash {
        actor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// It starts again after so long; without: never by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration: Option<Span>,
    },
    /// A process that had ended starts again.
    #[serde(rename = "local:start")]
    Start {
        actor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// A process ends and starts again at once.
    #[serde(rename = "local:restart")]
    Restart {
        actor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// A process does nothing for a while; what reaches it waits.
    #[serde(rename = "local:pause")]
    Pause {
        actor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        duration: Span,
    },
    /// The node and the API server do not reach each other; what runs there goes on.
    #[serde(rename = "local:partition")]
    Partition {
        node: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration: Option<Span>,
    },
    /// The end of a partition.
    #[serde(rename = "local:heal")]
    Heal { node: String },
    /// The machine stops at once: processes and mounts are gone, its disk stays, its volumes stay attached.
    #[serde(rename = "aws:ec2:stop-instances")]
    Stop {
        node: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start_instances_after_duration: Option<Span>,
    },
    /// A stopped machine starts.
    #[serde(rename = "local:power-on")]
    PowerOn { node: String },
    /// Stop and start.
    #[serde(rename = "aws:ec2:reboot-instances")]
    Reboot { node: String },
    /// Calls to a driver meet something: a delay before it works, an error instead of it (`code`) or after it (`code`, `applied`), or no
    /// answer ever (`hang`).
    #[serde(rename = "local:rpc")]
    Rpc {
        /// `NodeStageVolume`, `ControllerPublishVolume`, `CreateVolume` …
        call: String,
        /// Only of this node's kubelet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Only calls that name this volume.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<String>,
        /// So many calls; all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delay: Option<Span>,
        /// A gRPC code: `DeadlineExceeded`, `Internal` …
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// The driver did what it was asked before the error.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        applied: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        hang: bool,
    },
    /// Writes to the Kubernetes API meet something.
    #[serde(rename = "local:api")]
    Api {
        outcome: ApiOutcome,
        /// Only of this controller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
        /// `create`, `update`, `patch`, `delete`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verb: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    /// A watch falls behind by `delay`.
    #[serde(rename = "local:watch-lag")]
    WatchLag {
        actor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Only this kind's watch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        delay: Span,
        /// What a controller lists when it starts is as old: it may have seen, or written, what it is not shown again. So it is where the
        /// API server lists from its cache (`ConsistentListFromCache` off, the default before Kubernetes 1.31) and another answers.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration: Option<Span>,
    },
    /// `vol_data.json` of a pod's volumes is gone from the node's disk.
    #[serde(rename = "local:remove-vol-data")]
    RemoveVolData { node: String, pod: String },
    /// Something outside of any pod holds the mounts of a volume open.
    #[serde(rename = "local:busy")]
    Busy {
        node: String,
        volume: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration: Option<Span>,
    },
    /// A volume has so many more files than those that are played. Only their number counts, for who walks over all of them.
    #[serde(rename = "local:many-files")]
    ManyFiles { volume: String, count: u64 },
    /// Who looks at a directory that was deleted while it was mounted is told that it is not there (ENOENT), as virtiofs and some FUSE file
    /// systems do. EFS answers ESTALE, as all NFS does.
    #[serde(rename = "local:deleted-is-absent")]
    DeletedIsAbsent { volume: String },
    /// A volume's driver mounts it at each NodePublishVolume and does not look whether it did already, as efs-utils 1 does without TLS.
    #[serde(rename = "local:mounts-each-time")]
    MountsEachTime { volume: String },
    /// All faults are over: rules are gone, processes and machines run, networks are whole.
    #[serde(rename = "local:clear")]
    Clear {},
}

/// What a write to the API meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ApiOutcome {
    /// 409, not applied.
    Conflict,
    /// 500, not applied.
    InternalError,
    /// Applied, and reported failed.
    AckLost,
}

impl Fault {
    /// Whether it means something; the message says what does not.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Cluster(Trouble::Rpc { delay: None, code: None, hang: false, .. }) => {
                Err("say what calls meet: delay, code or hang".into())
            }
            Self::Cluster(Trouble::Rpc { code: None, applied: true, .. }) => {
                Err("`applied` needs the code that is answered after it".into())
            }
            Self::Cluster(Trouble::Rpc { code: Some(code), .. }) => code_of(code).map(drop),
            _ => Ok(()),
        }
    }
}

/// A gRPC code by its name.
pub fn code_of(name: &str) -> Result<model_common::csi::Code, String> {
    serde_json::from_value(Value::String(name.to_owned()))
        .map_err(|_| format!("`{name}` is no gRPC code; write DeadlineExceeded, Internal, …"))
}

impl TryFrom<Value> for Fault {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let id = value.get("actionId").and_then(Value::as_str).ok_or("a fault needs its actionId")?;
        if id.parse::<Action>().is_ok() {
            return serde_json::from_value(value).map(|rule| Self::Aws(Box::new(rule))).map_err(|error| error.to_string());
        }
        serde_json::from_value(value).map(Self::Cluster).map_err(|error| error.to_string())
    }
}

impl From<Fault> for Value {
    fn from(fault: Fault) -> Self {
        let json = match &fault {
            Fault::Aws(rule) => serde_json::to_value(rule),
            Fault::Cluster(trouble) => serde_json::to_value(trouble),
        };
        // Plain data with text keys is always JSON.
        json.unwrap_or_default()
    }
}

impl JsonSchema for Fault {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fault".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let cluster = generator.subschema_for::<Trouble>();
        let actions = Action::ALL.map(|(_, id, ..)| id);
        schemars::json_schema!({
            "anyOf": [
                cluster,
                {"type": "object", "description": "a rule of the table of faults, as `ebbtide fault add` takes it",
                 "required": ["actionId"], "properties": {"actionId": {"enum": actions}}},
            ]
        })
    }
}

impl std::fmt::Display for Fault {
    /// `local:crash actor=kubelet node=n1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Value::Object(fields) = Value::from(self.clone()) else { return Ok(()) };
        f.write_str(fields.get("actionId").and_then(Value::as_str).unwrap_or("fault"))?;
        for (name, value) in fields.iter().filter(|(name, _)| *name != "actionId") {
            match value {
                Value::String(text) => write!(f, " {name}={text}")?,
                value => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_aws_and_of_the_cluster_are_told_apart() {
        let fault: Fault = serde_yaml::from_str("{actionId: 'local:ebs:attach-stuck', count: 1}").unwrap();
        assert!(matches!(&fault, Fault::Aws(rule) if rule.count == Some(1)));
        let fault: Fault = serde_yaml::from_str("{actionId: 'local:crash', actor: kubelet, node: n1}").unwrap();
        assert_eq!(fault.to_string(), "local:crash actor=kubelet node=n1");
        assert_eq!(serde_yaml::from_str::<Fault>(&serde_yaml::to_string(&fault).unwrap()).unwrap(), fault);
    }

    #[test]
    fn what_makes_no_fault_is_said() {
        let error = |text: &str| serde_yaml::from_str::<Fault>(text).unwrap_err().to_string();
        assert!(error("{actor: kubelet}").contains("needs its actionId"));
        assert!(error("{actionId: 'local:explode'}").contains("local:crash"));
        assert!(error("{actionId: 'local:heal', node: n1, until: 3s}").contains("until"));
    }
}
