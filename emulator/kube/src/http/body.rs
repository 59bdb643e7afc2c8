//! Request bodies: JSON, YAML, protobuf (kube-api.md §1).

use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use model_kube::write::ApiError;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::super::protobuf;

/// As in the real server.
const LIMIT: usize = 3 << 20;

/// What the real server says it takes.
pub const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The body and its media type.
pub async fn read(request: Request<Body>) -> Result<(Bytes, Option<String>), ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = content_type.map(|text| text.split(';').next().unwrap_or("").trim().to_owned());
    let bytes = axum::body::to_bytes(request.into_body(), LIMIT).await.map_err(|_| ApiError::too_large(LIMIT))?;
    Ok((bytes, media.filter(|media| !media.is_empty())))
}

/// A decoded object, and what is wrong with it short of being unreadable.
pub struct Decoded {
    pub json: Value,
    /// `duplicate field "spec.x"`.
    pub problems: Vec<String>,
}

/// An object from a body.
pub fn decode(bytes: &[u8], media: Option<&str>) -> Result<Decoded, ApiError> {
    match media.unwrap_or("application/json") {
        "application/json" => json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes),
        protobuf::MEDIA_TYPE => {
            let json = protobuf::decode(bytes).map_err(|error| ApiError::bad_request(error.to_string()))?;
            Ok(Decoded { json, problems: Vec::new() })
        }
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
    }
}

/// JSON, with an eye on duplicate fields, of which the last wins.
pub fn json(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let mut problems = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let json = Seed { path: String::new(), problems: &mut problems }
        .deserialize(&mut deserializer)
        .and_then(|json| deserializer.end().map(|()| json))
        .map_err(|error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
    Ok(Decoded { json, problems })
}

pub fn yaml(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let json: Value =
        serde_yaml::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: yaml: {error}")))?;
    Ok(Decoded { json, problems: Vec::new() })
}

struct Seed<'a> {
    path: String,
    problems: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, out.len());
            match items.next_element_seed(Seed { path, problems: &mut *self.problems })? {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            let duplicate = out.contains_key(&name).then(|| format!("duplicate field \"{path}\""));
            let value = fields.next_value_seed(Seed { path, problems: &mut *self.problems })?;
            out.insert(name, value);
            self.problems.extend(duplicate);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_told_and_the_last_wins() {
        let decoded = json(br#"{"spec": {"a": 1, "b": [{"c": 1, "c": 2}], "a": 3}}"#).unwrap();
        assert_eq!(decoded.problems, ["duplicate field \"spec.b[0].c\"", "duplicate field \"spec.a\""]);
        assert_eq!(decoded.json["spec"]["a"], 3);
        assert!(json(b"{\"a\": 1} x").is_err());
    }
}
