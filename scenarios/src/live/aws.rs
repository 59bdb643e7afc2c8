//! The AWS API over HTTP as the aws CLI speaks it: EC2's query protocol, EFS's REST. Answers have the CLI's names.

use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use serde_json::{Map, Value};

use super::{Target, query, xml};
use crate::engine::EngineError;

/// EFS operations: command, method, path after the version (`{X}` = parameter X), whether the rest goes into the query.
const EFS: [(&str, &str, &str); 14] = [
    ("create-file-system", "POST", "file-systems"),
    ("describe-file-systems", "GET", "file-systems"),
    ("update-file-system", "PUT", "file-systems/{FileSystemId}"),
    ("delete-file-system", "DELETE", "file-systems/{FileSystemId}"),
    ("create-mount-target", "POST", "mount-targets"),
    ("describe-mount-targets", "GET", "mount-targets"),
    ("delete-mount-target", "DELETE", "mount-targets/{MountTargetId}"),
    ("describe-mount-target-security-groups", "GET", "mount-targets/{MountTargetId}/security-groups"),
    ("modify-mount-target-security-groups", "PUT", "mount-targets/{MountTargetId}/security-groups"),
    ("create-access-point", "POST", "access-points"),
    ("describe-access-points", "GET", "access-points"),
    ("delete-access-point", "DELETE", "access-points/{AccessPointId}"),
    ("tag-resource", "POST", "resource-tags/{ResourceId}"),
    ("list-tags-for-resource", "GET", "resource-tags/{ResourceId}"),
];

/// No call of the exercises takes longer than this.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Client {
    http: reqwest::Client,
    endpoint: String,
    signer: Signer,
}

struct Request {
    method: reqwest::Method,
    path: String,
    query: String,
    content_type: &'static str,
    body: String,
}

impl Client {
    pub(super) fn new(target: &Target) -> Self {
        let (key, secret) = target.credentials.clone();
        Self {
            http: reqwest::Client::new(),
            endpoint: target.aws_endpoint.trim_end_matches('/').to_owned(),
            signer: Signer { region: target.region.clone(), key, secret, token: None },
        }
    }

    /// A call: `create-volume` of `ec2`.
    pub(super) async fn call(&self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        let no_parameters = Map::new();
        let parameters = parameters.as_object().unwrap_or(&no_parameters);
        match service {
            "ec2" => self.ec2(command, parameters).await,
            "efs" => self.efs(command, parameters).await,
            _ => Err(EngineError::Unsupported(format!("the service `{service}` is not known; there are ec2 and efs"))),
        }
    }

    async fn ec2(&self, command: &str, parameters: &Map<String, Value>) -> Result<Value, EngineError> {
        let action = query::action(command);
        let body = query::encode(&query::ec2(&action, parameters));
        let request = Request {
            method: reqwest::Method::POST,
            path: "/".into(),
            query: String::new(),
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            body,
        };
        let (status, text) = self.send("ec2", &action, request).await?;
        let answer = xml::parse(&text)
            .map_err(|message| EngineError::Transport { operation: action.clone(), message: format!("{message}: {text}") })?;
        if status < 300 {
            return Ok(answer);
        }
        let part = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let error = ["/Errors/Error", "/Error"].into_iter().find(|at| answer.pointer(at).is_some()).unwrap_or("/Errors/Error");
        Err(EngineError::Aws { code: part(&format!("{error}/Code")), message: part(&format!("{error}/Message")), command: action })
    }

    async fn efs(&self, command: &str, parameters: &Map<String, Value>) -> Result<Value, EngineError> {
        let Some((_, method, template)) = EFS.iter().find(|(known, ..)| *known == command) else {
            return Err(EngineError::Unsupported(format!(
                "`efs {command}` is not known here; there are {}",
                EFS.map(|(name, ..)| name).join(", ")
            )));
        };
        let action = query::action(command);
        let mut rest = parameters.clone();
        let mut path = format!("/2015-02-01/{template}");
        if let Some((before, after)) = template.split_once('{')
            && let Some((name, after)) = after.split_once('}')
        {
            let Some(Value::String(value)) = rest.remove(name) else {
                return Err(EngineError::Unsupported(format!("`efs {command}` needs the parameter {name}")));
            };
            path = format!("/2015-02-01/{before}{}{after}", query::escape(&value));
        }
        // reqwest's constants cover all four methods of the table.
        let method = method.parse().unwrap_or(reqwest::Method::GET);
        let bodyless = matches!(method, reqwest::Method::GET | reqwest::Method::DELETE);
        let request = Request {
            query: if bodyless { query::encode(&query::flat(&rest)) } else { String::new() },
            body: if bodyless { String::new() } else { Value::Object(rest).to_string() },
            content_type: "application/json",
            method,
            path,
        };
        let (status, text) = self.send("elasticfilesystem", &action, request).await?;
        let answer: Value = if text.is_empty() {
            Value::Object(Map::new())
        } else {
            serde_json::from_str(&text)
                .map_err(|error| EngineError::Transport { operation: action.clone(), message: format!("{error}: {text}") })?
        };
        if status < 300 {
            return Ok(answer);
        }
        let part = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(EngineError::Aws { code: part("ErrorCode"), message: part("Message"), command: action })
    }

    async fn send(&self, service: &str, action: &str, request: Request) -> Result<(u16, String), EngineError> {
        let failed = |error: &dyn std::error::Error| {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(inner) = source {
                message.push_str(&format!(": {inner}"));
                source = inner.source();
            }
            EngineError::Transport { operation: format!("{action} at {}", self.endpoint), message }
        };
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        let url = format!("{}{}{query}", self.endpoint, request.path);
        let signable = Signable {
            service,
            method: request.method.as_str(),
            host: sigv4::host(&self.endpoint),
            path: &request.path,
            query: &request.query,
            content_type: Some(request.content_type),
            body: request.body.as_bytes(),
        };
        let headers = self.signer.sign(&signable, jiff::Timestamp::now());
        let mut ask = self.http.request(request.method, url).timeout(TIMEOUT).header("content-type", request.content_type);
        for (name, value) in headers {
            ask = ask.header(name, value);
        }
        let response = ask.body(request.body).send().await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| failed(&error))?;
        Ok((status, text))
    }
}
