//! `serviceaccounts/token`: TokenRequest, and who a token stands for.

use axum::response::Response;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use model_kube::object::Kind;
use model_kube::write::{ApiError, Cause};
use serde_json::{Value, json};

use super::resource::Call;
use super::{Shared, body, respond};
use crate::accounts::{Bound, Claims, Named};

/// The shortest and the longest life that may be asked for, and the one of who asks for none, in seconds.
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
const USUAL: i64 = 3600;

/// The time in seconds.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Issues a token of a service account.
pub async fn create(mut call: Call, name: &str) -> Result<Response, ApiError> {
    let mut taken = axum::http::Request::new(std::mem::take(call.request.body_mut()));
    taken.headers_mut().clone_from(call.request.headers());
    let (bytes, media) = body::read(taken).await?;
    let mut request = body::decode(&bytes, media.as_deref())?.json;
    if !request.is_object() {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    }
    let spec = request.get("spec").cloned().unwrap_or_default();
    let seconds = seconds(name, &spec)?;
    let given = spec.get("audiences").and_then(Value::as_array).into_iter().flatten();
    let mut audiences: Vec<String> = given.filter_map(|one| one.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.push(call.shared.signer.issuer.clone());
    }
    let now = now();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        iss: call.shared.signer.issuer.clone(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: bound(&call, name, spec.get("boundObjectRef"))?,
        nbf: now,
        sub: format!("system:serviceaccount:{}:{name}", call.namespace),
    };
    let token = call.shared.signer.sign(&claims).map_err(ApiError::internal)?;
    let expires = jiff::Timestamp::from_second(claims.exp).map_err(ApiError::internal)?;
    let created = jiff::Timestamp::from_second(now).map_err(ApiError::internal)?;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] = json!({"name": name, "namespace": call.namespace, "creationTimestamp": created.to_string()});
    request["spec"] = json!({"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": spec.get("boundObjectRef")});
    request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
    Ok(respond::json(201, &request))
}

fn seconds(name: &str, spec: &Value) -> Result<i64, ApiError> {
    let refused = |why: &str, given: i64| {
        let (field, message) = ("spec.expirationSeconds".to_owned(), format!("Invalid value: {given}: {why}"));
        let cause = Cause { reason: "FieldValueInvalid".to_owned(), message, field };
        let mut error = ApiError::invalid(&Kind::ServiceAccount, name, vec![cause]);
        // The object that is not valid is the request, which is no kind of the store.
        error.message = error.message.replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1);
        if let Some(details) = &mut error.details {
            (details.group, details.kind) = ("authentication.k8s.io".to_owned(), "TokenRequest".to_owned());
        }
        Err(error)
    };
    match spec.get("expirationSeconds").and_then(Value::as_i64) {
        None => Ok(USUAL),
        Some(given) if given < SHORTEST => refused("may not specify a duration less than 10 minutes", given),
        Some(given) if given > LONGEST => refused("may not specify a duration larger than 2^32 seconds", given),
        Some(given) => Ok(given),
    }
}

/// What the token is bound to: the account, and an object that must be there.
fn bound(call: &Call, name: &str, reference: Option<&Value>) -> Result<Bound, ApiError> {
    let key = call.key(name);
    call.shared.api.read(|store| {
        let account =
            store.get::<ServiceAccount>(&call.namespace, name).ok_or_else(|| ApiError::not_found(&key.kind, name))?;
        let named = |name: &str, uid: Option<&String>| Named { name: name.to_owned(), uid: uid.cloned().unwrap_or_default() };
        let mut bound =
            Bound { namespace: call.namespace.clone(), serviceaccount: named(name, account.metadata.uid.as_ref()), ..Bound::default() };
        let Some(reference) = reference.filter(|reference| !reference.is_null()) else { return Ok(bound) };
        let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        let (object, uid) = (text("name"), text("uid"));
        let same = |kind: &Kind, found: Option<&String>| match found {
            Some(found) if uid.is_empty() || found == uid => Ok(named(object, Some(found))),
            Some(found) => Err(ApiError::conflict(
                kind,
                object,
                &format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated ({found})"
                ),
            )),
            None => Err(ApiError::not_found(kind, object)),
        };
        match text("kind") {
            "Pod" => {
                let pod = store.get::<Pod>(&call.namespace, object);
                bound.pod = Some(same(&Kind::Pod, pod.and_then(|pod| pod.metadata.uid.as_ref()))?);
                let spec = pod.and_then(|pod| pod.spec.as_ref());
                if spec.and_then(|spec| spec.service_account_name.as_deref()) != Some(name) {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount \"{name}\" to pod running with different serviceaccount name."
                    )));
                }
                let node = spec.and_then(|spec| spec.node_name.as_deref()).and_then(|node| store.get::<Node>("", node));
                bound.node = node.map(|node| named(node.metadata.name.as_deref().unwrap_or_default(), node.metadata.uid.as_ref()));
            }
            "Secret" => {
                let secret = store.get::<Secret>(&call.namespace, object);
                bound.secret = Some(same(&Kind::Secret, secret.and_then(|secret| secret.metadata.uid.as_ref()))?);
            }
            "Node" => {
                let node = store.get::<Node>("", object);
                bound.node = Some(same(&Kind::Node, node.and_then(|node| node.metadata.uid.as_ref()))?);
            }
            other => return Err(ApiError::bad_request(format!("cannot bind token to object of type {other}"))),
        }
        Ok(bound)
    })
}

/// The claims of a token whose account, and pod where it is bound to one, are still those it was made for.
pub fn authenticated(shared: &Shared, token: &str) -> Option<Claims> {
    let claims = shared.signer.check(token, now())?;
    let bound = &claims.kubernetes;
    let alive = shared.api.read(|store| {
        let account = store.get::<ServiceAccount>(&bound.namespace, &bound.serviceaccount.name);
        let same = account.is_some_and(|account| account.metadata.uid.as_deref() == Some(bound.serviceaccount.uid.as_str()));
        same && bound.pod.as_ref().is_none_or(|named| {
            store.get::<Pod>(&bound.namespace, &named.name).is_some_and(|pod| pod.metadata.uid.as_deref() == Some(named.uid.as_str()))
        })
    });
    alive.then_some(claims)
}

/// Such a token's user, as a TokenReview shows it.
pub fn user(claims: &Claims) -> Value {
    let bound = &claims.kubernetes;
    let groups =
        ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", bound.namespace), "system:authenticated".to_owned()];
    let mut extra = json!({"authentication.kubernetes.io/credential-id": [format!("JTI={}", claims.jti)]});
    for (what, named) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(named) = named {
            extra[format!("authentication.kubernetes.io/{what}-name")] = json!([named.name]);
            extra[format!("authentication.kubernetes.io/{what}-uid")] = json!([named.uid]);
        }
    }
    json!({"username": claims.sub, "uid": bound.serviceaccount.uid, "groups": groups, "extra": extra})
}
