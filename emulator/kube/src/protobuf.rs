//! Requests in `application/vnd.kubernetes.protobuf` (kube-api.md §1): decoded by Kubernetes' own descriptors into the JSON that
//! the rest of the API reads. Answers are JSON always.

use std::sync::OnceLock;

use base64::Engine as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, MessageDescriptor, ReflectMessage as _, Value as Field};
use serde_json::{Map, Value, json};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages whose fields stand in JSON beside those of the message around them (Go's `json:",inline"`).
const INLINE: [&str; 5] = ["ephemeralContainerCommon", "handler", "localObjectReference", "persistentVolumeSource", "volumeSource"];
/// How deep messages may be nested; real ones stay below 20.
const DEPTH: usize = 100;

/// Why a body is no object.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Prefix,
    #[error("cannot decode the protobuf message")]
    Decode(#[from] prost::DecodeError),
    #[error("no kind \"{kind}\" is registered for version \"{version}\" in protobuf; send JSON")]
    Kind { kind: String, version: String },
    #[error("the protobuf message is nested too deep")]
    Depth,
    #[error("the built-in descriptors cannot be read")]
    Descriptors,
}

fn pool() -> Result<&'static DescriptorPool, ProtobufError> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let bytes: &'static [u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubernetes.bin"));
        DescriptorPool::decode(bytes).ok()
    });
    pool.as_ref().ok_or(ProtobufError::Descriptors)
}

fn decode_message(name: &str, bytes: &[u8]) -> Result<Option<DynamicMessage>, ProtobufError> {
    let Some(descriptor) = pool()?.get_message_by_name(name) else { return Ok(None) };
    Ok(Some(DynamicMessage::decode(descriptor, bytes)?))
}

/// The object in a body, as JSON with `apiVersion` and `kind`.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let envelope = decode_message("k8s.io.apimachinery.pkg.runtime.Unknown", bytes)?.ok_or(ProtobufError::Descriptors)?;
    let text = |message: &DynamicMessage, name: &str| {
        message.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let meta = envelope.get_field_by_name("typeMeta");
    let meta = meta.as_ref().and_then(|value| value.as_message());
    let (version, kind) = meta.map(|meta| (text(meta, "apiVersion"), text(meta, "kind"))).unwrap_or_default();
    let raw = envelope.get_field_by_name("raw").and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
    let package = match version.split_once('/') {
        None => format!("core.{version}"),
        Some((group, version)) => format!("{}.{version}", group.split('.').next().unwrap_or(group)),
    };
    let unknown = || ProtobufError::Kind { kind: kind.clone(), version: version.clone() };
    // Kinds of every group, like DeleteOptions, are the machinery's.
    let message = match decode_message(&format!("k8s.io.api.{package}.{kind}"), &raw)? {
        Some(message) => message,
        None => decode_message(&format!("k8s.io.apimachinery.pkg.apis.meta.v1.{kind}"), &raw)?.ok_or_else(unknown)?,
    };
    let mut fields = Map::new();
    fields.insert("apiVersion".to_owned(), json!(version));
    fields.insert("kind".to_owned(), json!(kind));
    put_fields(&message, &mut fields, DEPTH)?;
    Ok(Value::Object(fields))
}

fn put_fields(message: &DynamicMessage, out: &mut Map<String, Value>, depth: usize) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    for (field, value) in message.fields() {
        if INLINE.contains(&field.name()) {
            if let Field::Message(inner) = value {
                put_fields(inner, out, depth)?;
            }
            continue;
        }
        let value = json_of(value, depth)?;
        if !value.is_null() {
            out.insert(field.name().to_owned(), value);
        }
    }
    Ok(())
}

fn json_of(value: &Field, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match value {
        Field::Bool(value) => json!(value),
        Field::I32(value) | Field::EnumNumber(value) => json!(value),
        Field::I64(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::U64(value) => json!(value),
        Field::F32(value) => json!(value),
        Field::F64(value) => json!(value),
        Field::String(value) => json!(value),
        Field::Bytes(value) => json!(base64::engine::general_purpose::STANDARD.encode(value)),
        Field::Message(message) => message_json(message, depth)?,
        Field::List(items) => Value::Array(items.iter().map(|item| json_of(item, depth)).collect::<Result<_, _>>()?),
        Field::Map(entries) => {
            let mut entries: Vec<(String, Value)> =
                entries.iter().map(|(key, value)| Ok((key_text(key), json_of(value, depth)?))).collect::<Result<_, ProtobufError>>()?;
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
    })
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn message_json(message: &DynamicMessage, depth: usize) -> Result<Value, ProtobufError> {
    let descriptor: MessageDescriptor = message.descriptor();
    let get = |name: &str| message.get_field_by_name(name);
    let number = |name: &str| get(name).and_then(|value| value.as_i64().or(value.as_i32().map(i64::from))).unwrap_or(0);
    let text = |name: &str| get(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    let bytes = |name: &str| get(name).and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
    Ok(match descriptor.full_name() {
        "k8s.io.apimachinery.pkg.apis.meta.v1.Time" | "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime" => {
            let (seconds, nanos) = (number("seconds"), i32::try_from(number("nanos")).unwrap_or(0));
            // The zero time is sent as an empty message.
            if (seconds, nanos) == (0, 0) {
                return Ok(Value::Null);
            }
            let micro = descriptor.name() == "MicroTime";
            match jiff::Timestamp::new(seconds, if micro { nanos } else { 0 }) {
                Ok(time) if micro => json!(format!("{time:.6}")),
                Ok(time) => json!(time.to_string()),
                Err(_) => Value::Null,
            }
        }
        "k8s.io.apimachinery.pkg.api.resource.Quantity" => json!(text("string")),
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString" => {
            if number("type") == 0 {
                json!(number("intVal"))
            } else {
                json!(text("strVal"))
            }
        }
        "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1" => serde_json::from_slice(&bytes("Raw")).unwrap_or(Value::Null),
        "k8s.io.apimachinery.pkg.runtime.RawExtension" => serde_json::from_slice(&bytes("raw")).unwrap_or(Value::Null),
        _ => {
            let mut fields = Map::new();
            put_fields(message, &mut fields, depth)?;
            Value::Object(fields)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_pb::api::core::v1 as core;
    use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use prost::Message as _;

    fn envelope(api_version: &str, kind: &str, message: &impl prost::Message) -> Vec<u8> {
        let unknown = k8s_pb::apimachinery::pkg::runtime::Unknown {
            type_meta: Some(k8s_pb::apimachinery::pkg::runtime::TypeMeta {
                api_version: Some(api_version.into()),
                kind: Some(kind.into()),
            }),
            raw: Some(message.encode_to_vec()),
            ..Default::default()
        };
        [MAGIC, &unknown.encode_to_vec()].concat()
    }

    #[test]
    fn zero_values_are_absent_and_zero_pointers_are_not() {
        let claim = core::PersistentVolumeClaim {
            metadata: Some(ObjectMeta { name: Some("c".into()), namespace: Some(String::new()), ..Default::default() }),
            spec: Some(core::PersistentVolumeClaimSpec {
                access_modes: vec!["ReadWriteOnce".into()],
                volume_name: Some(String::new()),
                storage_class_name: Some(String::new()),
                resources: Some(core::VolumeResourceRequirements {
                    requests: [("storage".into(), k8s_pb::apimachinery::pkg::api::resource::Quantity { string: Some("1Gi".into()) })]
                        .into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            status: None,
        };
        let json = decode(&envelope("v1", "PersistentVolumeClaim", &claim)).unwrap();
        let expected = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}});
        assert_eq!(json, expected);
    }

    #[test]
    fn inlined_messages_are_flat() {
        let pod = core::Pod {
            spec: Some(core::PodSpec {
                volumes: vec![core::Volume {
                    name: Some("v".into()),
                    volume_source: Some(core::VolumeSource {
                        config_map: Some(core::ConfigMapVolumeSource {
                            local_object_reference: Some(core::LocalObjectReference { name: Some("m".into()) }),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let json = decode(&envelope("v1", "Pod", &pod)).unwrap();
        assert_eq!(json["spec"]["volumes"][0], json!({"name": "v", "configMap": {"name": "m"}}));
        assert!(decode(b"{}").is_err());
        assert!(matches!(decode(&envelope("v1", "Nope", &pod)), Err(ProtobufError::Kind { .. })));
    }
}
