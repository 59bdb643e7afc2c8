//! The Kubernetes API through the `kube` crate: objects of any kind the server discovers.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::engine::{Applied, EngineError, Output};
use crate::language::Target;

pub(super) struct Cluster {
    client: kube::Client,
    known: BTreeMap<(String, String), (ApiResource, Scope)>,
}

/// The field manager of our writes.
const MANAGER: &str = "ebbtide-run";

/// Where kinds live that a scenario may name without `apiVersion`.
pub(crate) fn default_api_version(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Namespace"
        | "Node"
        | "Pod"
        | "PersistentVolumeClaim"
        | "PersistentVolume"
        | "Event"
        | "ConfigMap"
        | "Secret"
        | "ServiceAccount" => "v1",
        "StorageClass" | "VolumeAttachment" | "CSIDriver" | "CSINode" | "CSIStorageCapacity" | "VolumeAttributesClass" => {
            "storage.k8s.io/v1"
        }
        "StatefulSet" | "Deployment" | "ReplicaSet" | "DaemonSet" => "apps/v1",
        "Job" => "batch/v1",
        "Lease" => "coordination.k8s.io/v1",
        "VolumeSnapshot" | "VolumeSnapshotContent" | "VolumeSnapshotClass" => "snapshot.storage.k8s.io/v1",
        _ => return None,
    })
}

fn convert(operation: &str, error: kube::Error) -> EngineError {
    match error {
        kube::Error::Api(status) => EngineError::Kubernetes { reason: status.reason.clone(), message: status.message.clone() },
        other => EngineError::Transport { operation: operation.into(), message: chain(&other) },
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let next = inner.to_string();
        if !text.contains(&next) {
            text.push_str(&format!(": {next}"));
        }
        source = inner.source();
    }
    text
}

fn to_json(object: &DynamicObject) -> Result<Value, EngineError> {
    serde_json::to_value(object).map_err(|error| EngineError::Transport { operation: "read an object".into(), message: error.to_string() })
}

/// An object of a list, in which the server leaves out what is said of the list.
fn item(object: &DynamicObject, resource: &ApiResource) -> Result<Value, EngineError> {
    let mut json = to_json(object)?;
    json["apiVersion"] = resource.api_version.clone().into();
    json["kind"] = resource.kind.clone().into();
    Ok(json)
}

impl Cluster {
    pub(super) async fn connect(kubeconfig: &Path) -> Result<Self, EngineError> {
        let failed = |message: String| EngineError::Transport { operation: format!("read {}", kubeconfig.display()), message };
        let config = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|error| failed(chain(&error)))?;
        let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
            .await
            .map_err(|error| failed(chain(&error)))?;
        let client = kube::Client::try_from(config).map_err(|error| failed(chain(&error)))?;
        Ok(Self { client, known: BTreeMap::new() })
    }

    async fn resource(&mut self, api_version: Option<&str>, kind: &str) -> Result<(ApiResource, Scope), EngineError> {
        let Some(api_version) = api_version.or_else(|| default_api_version(kind)) else {
            return Err(EngineError::Unsupported(format!("where does the kind {kind} live? give its apiVersion")));
        };
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(found) = self.known.get(&key) {
            return Ok(found.clone());
        }
        let types = TypeMeta { api_version: api_version.into(), kind: kind.into() };
        let gvk =
            GroupVersionKind::try_from(&types).map_err(|error| EngineError::Unsupported(format!("apiVersion {api_version}: {error}")))?;
        let (resource, capabilities) =
            pinned_kind(&self.client, &gvk).await.map_err(|error| convert(&format!("discover {kind}"), error))?;
        self.known.insert(key, (resource.clone(), capabilities.scope.clone()));
        Ok((resource, capabilities.scope))
    }

    async fn api(&mut self, api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>, EngineError> {
        let (resource, scope) = self.resource(api_version, kind).await?;
        Ok(match scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace.unwrap_or("default"), &resource),
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        })
    }

    async fn api_of(&mut self, target: &Target) -> Result<Api<DynamicObject>, EngineError> {
        self.api(target.api_version.as_deref(), &target.kind, target.namespace.as_deref()).await
    }

    pub(super) async fn get(&mut self, target: &Target) -> Result<Option<Value>, EngineError> {
        let found = self
            .api_of(target)
            .await?
            .get_opt(&target.name)
            .await
            .map_err(|error| convert(&format!("get {} {}", target.kind, target.name), error))?;
        found.as_ref().map(to_json).transpose()
    }

    pub(super) async fn list(&mut self, api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError> {
        let (resource, _) = self.resource(api_version, kind).await?;
        let list = self
            .api(api_version, kind, namespace)
            .await?
            .list(&ListParams::default())
            .await
            .map_err(|error| convert(&format!("list {kind}"), error))?;
        list.items.iter().map(|object| item(object, &resource)).collect()
    }

    /// All objects of a kind in all namespaces.
    pub(super) async fn list_everywhere(&mut self, kind: &str) -> Result<Vec<Value>, EngineError> {
        let (resource, _) = self.resource(None, kind).await?;
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let list = api.list(&ListParams::default()).await.map_err(|error| convert(&format!("list {kind}"), error))?;
        list.items.iter().map(to_json).collect()
    }

    /// Watches all objects of a kind; what is seen goes to `tell` with a number.
    pub(super) async fn follow(&mut self, kind: &str, number: usize, tell: super::check::Tell) -> Result<(), EngineError> {
        let (resource, _) = self.resource(None, kind).await?;
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        tokio::spawn(super::check::forward(number, api, tell));
        Ok(())
    }

    pub(super) async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError> {
        let target = crate::runner::target_of(object);
        let operation = format!("apply {} {}", target.kind, target.name);
        let api = self.api_of(&target).await?;
        let Some(old) = api.get_opt(&target.name).await.map_err(|error| convert(&operation, error))? else {
            let new: DynamicObject = serde_json::from_value(object.clone())
                .map_err(|error| EngineError::Kubernetes { reason: "BadRequest".into(), message: error.to_string() })?;
            let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            api.create(&params, &new).await.map_err(|error| convert(&operation, error))?;
            return Ok(Applied::Created);
        };
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let new = api.patch(&target.name, &params, &Patch::Merge(object)).await.map_err(|error| convert(&operation, error))?;
        let same = old.metadata.resource_version == new.metadata.resource_version;
        Ok(if same { Applied::Unchanged } else { Applied::Configured })
    }

    pub(super) async fn delete(&mut self, target: &Target, grace_seconds: Option<u32>) -> Result<(), EngineError> {
        let params = DeleteParams {
            grace_period_seconds: grace_seconds,
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        self.api_of(target)
            .await?
            .delete(&target.name, &params)
            .await
            .map_err(|error| convert(&format!("delete {} {}", target.kind, target.name), error))?;
        Ok(())
    }

    pub(super) async fn exec(
        &mut self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[String],
    ) -> Result<Output, EngineError> {
        let operation = format!("exec in {pod}");
        let lost = |error: std::io::Error| EngineError::Transport { operation: operation.clone(), message: error.to_string() };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut params = AttachParams::default().stdin(false).stdout(true).stderr(true).tty(false);
        if let Some(container) = container {
            params = params.container(container);
        }
        let mut process = api.exec(pod, command.iter(), &params).await.map_err(|error| convert(&operation, error))?;
        let (out, err, status) = (process.stdout(), process.stderr(), process.take_status());
        let read = async |stream: Option<tokio::io::ReadHalf<tokio::io::SimplexStream>>| {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes).await?;
            }
            Ok::<String, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (stdout, stderr) = tokio::try_join!(read(out), read(err)).map_err(lost)?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        process.join().await.map_err(|error| EngineError::Transport { operation: operation.clone(), message: chain(&error) })?;
        let Some(status) = status else {
            return Err(EngineError::Transport { operation, message: "the connection ended before the command did".into() });
        };
        let exit_code = if status.status.as_deref() == Some("Success") {
            0
        } else {
            let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
            let code =
                causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode")).find_map(|cause| cause.message.as_deref()?.parse().ok());
            match code {
                Some(code) => code,
                None => {
                    let reason = status.reason.unwrap_or_else(|| "InternalError".into());
                    return Err(EngineError::Kubernetes { reason, message: status.message.unwrap_or_default() });
                }
            }
        };
        Ok(Output { stdout, stderr, exit_code })
    }
}
