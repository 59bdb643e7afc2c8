//! KMS: AWS JSON 1.1, the action in the header `X-Amz-Target: TrentService.CreateKey`.

mod shapes;

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use model_aws::kms::{self, Command, Number, Reject, Reply, State};
use model_aws::{Effect, Input};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::shapes::{CreateKey, KeyAlias, KeyMetadata, KeyName, ListRequest, ScheduleDeletion, Tag, TagKey, epoch};
use crate::ctx::Ctx;
use crate::xml::request_id;

const TARGET: &str = "x-amz-target";
const PREFIX: &str = "TrentService.";
/// Pages when the request does not say how long, and the longest ones.
const KEYS: (usize, usize) = (100, 1000);
const ALIASES: (usize, usize) = (50, 100);
const TAGS: (usize, usize) = (50, 50);

/// Whether the headers of a request name an action of KMS.
pub fn meant(headers: &HeaderMap) -> bool {
    target(headers).is_some()
}

fn target(headers: &HeaderMap) -> Option<&str> {
    headers.get(TARGET)?.to_str().ok()?.strip_prefix(PREFIX)
}

/// An error of the KMS API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsError {
    status: u16,
    code: &'static str,
    message: String,
}

impl KmsError {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "KMSInternalException", message)
    }
}

impl From<Reject> for KmsError {
    fn from(reject: Reject) -> Self {
        let (code, status) = kms::reject_to_error(&reject);
        Self::new(status, code, reject.to_string())
    }
}

impl IntoResponse for KmsError {
    fn into_response(self) -> Response {
        refused(self.status, self.code, &self.message)
    }
}

/// An error with any code.
pub fn refused(status: u16, code: &str, message: &str) -> Response {
    let mut response = respond(status, json!({"__type": code, "message": message}).to_string());
    if let Ok(code) = HeaderValue::from_str(code) {
        response.headers_mut().insert("x-amzn-errortype", code);
    }
    response
}

/// The action that the headers of a request name.
pub fn action(headers: &HeaderMap) -> &str {
    target(headers).unwrap_or("Unknown")
}

/// A finished answer; null is an empty body.
pub struct Answer {
    /// The action's name, for metrics.
    pub action: &'static str,
    result: Outcome,
}

type Outcome = Result<Value, KmsError>;

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self.result {
            Ok(Value::Null) => respond(200, String::new()),
            Ok(body) => respond(200, body.to_string()),
            Err(error) => error.into_response(),
        }
    }
}

fn respond(status: u16, body: String) -> Response {
    let mut response = Response::new(axum::body::Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    if let Ok(id) = HeaderValue::from_str(&request_id()) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// Answers a request.
pub async fn handle(ctx: &Ctx, method: &Method, headers: &HeaderMap, body: &[u8]) -> Answer {
    let (action, result) = match target(headers).filter(|_| method == Method::POST) {
        Some("CreateKey") => ("CreateKey", create_key(ctx, body).await),
        Some("DescribeKey") => ("DescribeKey", describe_key(ctx, body).await),
        Some("ListKeys") => ("ListKeys", list_keys(ctx, body).await),
        Some("EnableKey") => ("EnableKey", named(ctx, body, |key_id| Command::EnableKey { key_id }).await),
        Some("DisableKey") => ("DisableKey", named(ctx, body, |key_id| Command::DisableKey { key_id }).await),
        Some("ScheduleKeyDeletion") => ("ScheduleKeyDeletion", schedule_deletion(ctx, body).await),
        Some("CancelKeyDeletion") => ("CancelKeyDeletion", cancel_deletion(ctx, body).await),
        Some("CreateAlias") => ("CreateAlias", create_alias(ctx, body).await),
        Some("DeleteAlias") => ("DeleteAlias", delete_alias(ctx, body).await),
        Some("ListAliases") => ("ListAliases", list_aliases(ctx, body).await),
        Some("TagResource") => ("TagResource", tag(ctx, body).await),
        Some("UntagResource") => ("UntagResource", untag(ctx, body).await),
        Some("ListResourceTags") => ("ListResourceTags", list_tags(ctx, body).await),
        other => {
            let message = format!("{} is no action of KMS, or not built yet.", other.unwrap_or("A request without a target"));
            ("Unknown", Err(KmsError::new(400, "UnknownOperationException", message)))
        }
    };
    Answer { action, result }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, KmsError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { "ValidationException" } else { "SerializationException" };
        KmsError::new(400, code, format!("The request body is not valid: {error}"))
    })
}

async fn command(ctx: &Ctx, command: Command) -> Result<Reply, KmsError> {
    match ctx.engine.command(Input::Kms(kms::Input::Command(command))).await {
        Ok(replies) => replies
            .into_iter()
            .find_map(|effect| if let Effect::Kms(kms::Effect::Reply(reply)) = effect { Some(reply) } else { None })
            .ok_or_else(|| KmsError::internal("The command gave no reply.")),
        Err(model_aws::Reject::Kms(reject)) => Err(reject.into()),
        Err(other) => Err(KmsError::internal(other.to_string())),
    }
}

/// A command that gives back a key, shown by `show`.
async fn key_command(ctx: &Ctx, what: Command, show: impl FnOnce(&State, &kms::Key) -> Value) -> Outcome {
    match command(ctx, what).await? {
        Reply::Key(key) => Ok(ctx.engine.read(|aws| show(&aws.kms, &key)).await),
        Reply::Done => Err(KmsError::internal("The command gave no key.")),
    }
}

/// A command that only names a key and answers nothing.
async fn named(ctx: &Ctx, body: &[u8], what: impl FnOnce(String) -> Command) -> Outcome {
    let request: KeyName = parse(body)?;
    command(ctx, what(request.key_id)).await.map(|_| Value::Null)
}

async fn create_key(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: CreateKey = parse(body)?;
    if let Some(what) = request.unsupported() {
        return Err(KmsError::new(400, "UnsupportedOperationException", format!("{what} is not supported here.")));
    }
    let what = Command::CreateKey { description: request.description, tags: tag_map(request.tags)? };
    key_command(ctx, what, |kms, key| json!({"KeyMetadata": KeyMetadata::new(kms, key)})).await
}

async fn describe_key(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: KeyName = parse(body)?;
    let shown = ctx.engine.read(|aws| {
        let (_, key) = aws.kms.find(&request.key_id)?;
        Ok(json!({"KeyMetadata": KeyMetadata::new(&aws.kms, key)}))
    });
    shown.await.map_err(|reject: Reject| reject.into())
}

async fn schedule_deletion(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: ScheduleDeletion = parse(body)?;
    let what = Command::ScheduleKeyDeletion { key_id: request.key_id, days: request.pending_window_in_days };
    let days = request.pending_window_in_days.unwrap_or(30);
    let show = |kms: &State, key: &kms::Key| {
        json!({
            "KeyId": kms.arn(key), "KeyState": key.state.name(), "PendingWindowInDays": days,
            "DeletionDate": key.state.deletion_date().map(epoch),
        })
    };
    key_command(ctx, what, show).await
}

async fn cancel_deletion(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: KeyName = parse(body)?;
    let what = Command::CancelKeyDeletion { key_id: request.key_id };
    key_command(ctx, what, |kms, key| json!({"KeyId": kms.arn(key)})).await
}

async fn create_alias(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: shapes::CreateAlias = parse(body)?;
    command(ctx, Command::CreateAlias { name: request.alias_name, key_id: request.target_key_id }).await.map(|_| Value::Null)
}

async fn delete_alias(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: shapes::AliasName = parse(body)?;
    command(ctx, Command::DeleteAlias { name: request.alias_name }).await.map(|_| Value::Null)
}

/// One page of what `items` gives; each item with its place.
fn page<T>(
    request: &ListRequest,
    (usual, most): (usize, usize),
    items: impl FnOnce(Number) -> Vec<(Number, T)>,
) -> Result<Page<T>, KmsError> {
    let limit = match request.limit {
        None => usual,
        Some(limit) => usize::try_from(limit).ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(|| {
            let rule = format!("Member must have value between 1 and {most}");
            let message = format!("1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: {rule}");
            KmsError::new(400, "ValidationException", message)
        })?,
    };
    let after = match &request.marker {
        None => 0,
        Some(marker) => Number::from_str_radix(marker, 16)
            .map_err(|_| KmsError::new(400, "InvalidMarkerException", format!("The marker '{marker}' is not valid.")))?,
    };
    let mut items = items(after);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|(place, _)| format!("{place:016x}"));
    Ok(Page { items: items.into_iter().map(|(_, item)| item).collect(), next })
}

struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T: serde::Serialize> Page<T> {
    fn shown(self, name: &str) -> Value {
        let mut shown = json!({name: self.items, "Truncated": self.next.is_some()});
        if let Some(next) = self.next {
            shown["NextMarker"] = next.into();
        }
        shown
    }
}

async fn list_keys(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: ListRequest = parse(body)?;
    let shown = ctx.engine.read(|aws| {
        let show = |(place, key): (Number, &kms::Key)| (place, json!({"KeyId": key.id, "KeyArn": aws.kms.arn(key)}));
        page(&request, KEYS, |after| aws.kms.keys_after(after).take(KEYS.1 + 1).map(show).collect())
    });
    Ok(shown.await?.shown("Keys"))
}

async fn list_aliases(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: ListRequest = parse(body)?;
    let shown = ctx.engine.read(|aws| {
        let of = request.key_id.as_deref().map(|name| aws.kms.find(name).map(|(_, key)| key.id.clone())).transpose()?;
        page(&request, ALIASES, |after| {
            let aliases = aws.kms.aliases_after(after).filter(|(_, _, key)| of.as_deref().is_none_or(|of| of == *key));
            aliases.take(ALIASES.1 + 1).map(|(place, alias, key)| (place, KeyAlias::new(&aws.kms, alias, key))).collect()
        })
    });
    Ok(shown.await?.shown("Aliases"))
}

fn tag_map(tags: Vec<Tag>) -> Result<BTreeMap<String, String>, KmsError> {
    let mut map = BTreeMap::new();
    for tag in tags {
        if let Some(before) = map.insert(tag.tag_key.clone(), tag.tag_value) {
            return Err(KmsError::new(400, "TagException", format!("Duplicate tag key '{}' ('{before}')", tag.tag_key)));
        }
    }
    Ok(map)
}

async fn tag(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: shapes::TagResource = parse(body)?;
    let what = Command::TagResource { key_id: request.key_id, tags: tag_map(request.tags)? };
    command(ctx, what).await.map(|_| Value::Null)
}

async fn untag(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: TagKey = parse(body)?;
    command(ctx, Command::UntagResource { key_id: request.key_id, keys: request.tag_keys }).await.map(|_| Value::Null)
}

/// Markers are places in the order of the tags' keys.
async fn list_tags(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: ListRequest = parse(body)?;
    let name = request.key_id.clone().ok_or_else(|| KmsError::new(400, "ValidationException", "KeyId must not be null"))?;
    let shown = ctx.engine.read(|aws| {
        let (_, key) = aws.kms.find(&name)?;
        let tags = (1..).zip(&key.tags).map(|(place, (key, value))| (place, json!({"TagKey": key, "TagValue": value})));
        page(&request, TAGS, |after| tags.filter(|(place, _)| *place > after).collect())
    });
    Ok(shown.await?.shown("Tags"))
}
