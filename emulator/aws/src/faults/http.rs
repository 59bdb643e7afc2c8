//! `/_ebbtide/faults`, and LocalStack's `/_localstack/chaos/faults` on the same table (users.md §5.1): a rule of LocalStack is
//! one of ours without an `actionId`.

use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use model_aws::faults::{Action, Command, Effect, Fault, Input, Reject, Reply, Rule};
use serde::Serialize;
use serde_json::{Value, json};

use crate::control::refuse;
use crate::ctx::Ctx;

const OURS: &str = "/_ebbtide/faults";
const LOCALSTACK: &str = "/_localstack/chaos/faults";

/// Whether a path is of the table.
pub fn serves(path: &str) -> bool {
    [OURS, LOCALSTACK].iter().any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// A fault as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    #[serde(flatten)]
    rule: &'a Rule,
    /// `active`, or `spent` when its count is used up.
    state: &'static str,
    calls: u64,
    hits: u64,
}

fn shown(fault: &Fault) -> Value {
    let state = if fault.spent() { "spent" } else { "active" };
    let shown = Shown { id: fault.id(), rule: &fault.rule, state, calls: fault.calls, hits: fault.hits };
    // String keys and finite numbers only: this has always a JSON form.
    serde_json::to_value(shown).unwrap_or_default()
}

/// As LocalStack shows a rule.
fn foreign(fault: &Fault) -> Value {
    let mut rule = serde_json::to_value(&fault.rule).unwrap_or_default();
    if let (Action::Error, Some(fields)) = (fault.rule.action_id, rule.as_object_mut()) {
        fields.remove("actionId");
    }
    rule
}

/// Why a request was not carried out.
struct Refusal(StatusCode, String);

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        let status = match &reject {
            Reject::NotFound { .. } => StatusCode::NOT_FOUND,
            Reject::Invalid { .. } | Reject::NoNode { .. } | Reject::TooMany => StatusCode::BAD_REQUEST,
        };
        Self(status, reject.to_string())
    }
}

/// Reads one rule; without an `actionId` it is LocalStack's.
fn rule(mut value: Value) -> Result<Rule, Refusal> {
    if let Some(fields) = value.as_object_mut()
        && !fields.contains_key("actionId")
    {
        fields.insert("actionId".to_owned(), Action::Error.id().into());
    }
    serde_json::from_value(value).map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("this is no fault: {error}")))
}

/// Reads a rule or an array of rules; true: an array.
fn rules(body: &[u8]) -> Result<(Vec<Rule>, bool), Refusal> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("the body must be a fault, or an array of faults, in JSON: {error}")))?;
    match value {
        Value::Array(values) => Ok((values.into_iter().map(rule).collect::<Result<_, _>>()?, true)),
        one => Ok((vec![rule(one)?], false)),
    }
}

async fn command(ctx: &Ctx, command: Command) -> Result<Vec<Fault>, Refusal> {
    match ctx.engine.command(model_aws::Input::Faults(Input::Command(command))).await {
        Ok(effects) => {
            let faults = effects.into_iter().find_map(|effect| match effect {
                model_aws::Effect::Faults(Effect::Reply(Reply::Faults(faults))) => Some(faults),
                _ => None,
            });
            faults.ok_or_else(|| Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the command gave no reply".to_owned()))
        }
        Err(model_aws::Reject::Faults(reject)) => Err(reject.into()),
        Err(other) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, other.to_string())),
    }
}

/// Answers a request of the table.
pub async fn handle(ctx: &Ctx, method: &Method, path: &str, body: &[u8]) -> Response {
    let answer = match path.strip_prefix(OURS) {
        Some("" | "/") => ours(ctx, method, body).await,
        Some(id) => one(ctx, method, id.trim_start_matches('/'), body).await,
        None if path.trim_end_matches('/') == LOCALSTACK => localstack(ctx, method, body).await,
        None => return refuse(StatusCode::NOT_FOUND, format!("there is no {path}")),
    };
    match answer {
        Ok(Some(value)) => axum::Json(value).into_response(),
        Ok(None) => refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}")),
        Err(Refusal(status, message)) => refuse(status, message),
    }
}

/// The value to answer; none: the method is not taken.
type Answer = Result<Option<Value>, Refusal>;

async fn list(ctx: &Ctx, show: fn(&Fault) -> Value, which: fn(&Fault) -> bool) -> Value {
    ctx.engine.read(|aws| aws.faults.faults().filter(|fault| which(fault)).map(show).collect()).await
}

async fn ours(ctx: &Ctx, method: &Method, body: &[u8]) -> Answer {
    let all = |faults: Vec<Fault>| Some(faults.iter().map(shown).collect::<Value>());
    match method.as_str() {
        "GET" | "HEAD" => Ok(Some(list(ctx, shown, |_| true).await)),
        "POST" => {
            let (rules, array) = rules(body)?;
            let made = command(ctx, Command::Add { rules }).await?;
            if array { Ok(all(made)) } else { Ok(made.first().map(shown)) }
        }
        "PUT" => Ok(all(command(ctx, Command::Set { rules: rules(body)?.0, refusing_only: false }).await?)),
        "DELETE" => {
            command(ctx, Command::Set { rules: Vec::new(), refusing_only: false }).await?;
            Ok(Some(json!([])))
        }
        _ => Ok(None),
    }
}

async fn one(ctx: &Ctx, method: &Method, id: &str, body: &[u8]) -> Answer {
    match method.as_str() {
        "GET" | "HEAD" => {
            let found = ctx.engine.read(|aws| aws.faults.fault(id).map(shown)).await;
            found.map(Some).ok_or_else(|| Reject::NotFound { id: id.to_owned() }.into())
        }
        "PUT" => {
            let (mut rules, _) = rules(body)?;
            let (Some(rule), true) = (rules.pop(), rules.is_empty()) else {
                return Err(Refusal(StatusCode::BAD_REQUEST, "the body must be one fault".to_owned()));
            };
            Ok(command(ctx, Command::Put { id: id.to_owned(), rule: Box::new(rule) }).await?.first().map(shown))
        }
        "DELETE" => Ok(command(ctx, Command::Remove { ids: vec![id.to_owned()] }).await?.first().map(shown)),
        _ => Ok(None),
    }
}

/// As LocalStack documents it: POST sets, PATCH adds, DELETE takes away what equals; each answers the rules that then are.
async fn localstack(ctx: &Ctx, method: &Method, body: &[u8]) -> Answer {
    let change = match method.as_str() {
        "GET" | "HEAD" => None,
        "POST" | "PUT" => Some(Command::Set { rules: rules(body)?.0, refusing_only: true }),
        "PATCH" => Some(Command::Add { rules: rules(body)?.0 }),
        "DELETE" => Some(Command::RemoveEqual { rules: rules(body)?.0 }),
        _ => return Ok(None),
    };
    if let Some(change) = change {
        command(ctx, change).await?;
    }
    Ok(Some(list(ctx, foreign, |fault| fault.rule.action_id.refuses()).await))
}
