//! How lists are merged: by the name of their field, since in the kinds served here a field name means the same everywhere
//! (`x-kubernetes-patch-merge-key` and `x-kubernetes-list-map-keys` of Kubernetes 1.36).

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Items are found by key: the merge key of strategic patches, and the keys of server-side apply.
    Map { merge: &'static str, apply: &'static [&'static str] },
    /// Scalars, each at most once.
    Set,
    /// Replaced as a whole.
    Atomic,
}

/// The way a field's list merges.
pub fn of(field: &str) -> ListKind {
    let (merge, apply): (&'static str, &'static [&'static str]) = match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "drivers"
        | "resourceClaims"
        | "schedulingGates" => ("name", &["name"]),
        "ports" => ("containerPort", &["containerPort", "protocol"]),
        "volumeMounts" => ("mountPath", &["mountPath"]),
        "volumeDevices" => ("devicePath", &["devicePath"]),
        "hostAliases" | "podIPs" | "hostIPs" => ("ip", &["ip"]),
        "topologySpreadConstraints" => ("topologyKey", &["topologyKey", "whenUnsatisfiable"]),
        "conditions" | "addresses" => ("type", &["type"]),
        "ownerReferences" => ("uid", &["uid"]),
        "finalizers" | "podCIDRs" => return ListKind::Set,
        _ => return ListKind::Atomic,
    };
    ListKind::Map { merge, apply }
}

/// The default of a key field that a client may leave out.
pub fn default_of(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}
