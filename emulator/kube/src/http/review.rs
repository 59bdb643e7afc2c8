//! Requests that store nothing: who may do what, and whose a token is. There is one user, and it may do everything.

use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use model_kube::write::ApiError;
use serde_json::{Value, json};

use super::{Shared, body, respond};

type Answer = Box<dyn FnOnce(&[u8], Option<&str>) -> Result<Response, ApiError> + Send>;

/// The one user.
const USER: &str = "ebbtide-admin";

fn user() -> Value {
    json!({"username": USER, "groups": ["system:masters", "system:authenticated"]})
}

/// Kinds of this module, for discovery: group, plural, kind, namespaced.
pub const KINDS: [(&str, &str, &str, bool); 6] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
];

/// The handler of a review's path; none where the path is something else.
pub fn handle(group: &str, version: &str, rest: &[&str], request: &Request<Body>) -> Option<Answer> {
    let plural = match rest {
        [plural] | ["namespaces", _, plural] => *plural,
        _ => return None,
    };
    if version != "v1" || request.method() != Method::POST || !KINDS.iter().any(|(g, p, _, _)| *g == group && *p == plural) {
        return None;
    }
    let plural = plural.to_owned();
    Some(Box::new(move |bytes, media| {
        let mut review = body::decode(bytes, media)?.json;
        let Some(fields) = review.as_object_mut() else {
            return Err(ApiError::bad_request("the body of the request is not an object"));
        };
        let status = match plural.as_str() {
            "selfsubjectreviews" => json!({"userInfo": user()}),
            "selfsubjectrulesreviews" => json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": false}),
            "selfsubjectaccessreviews" => json!({"allowed": true}),
            // About someone else: only the one user and its groups may anything.
            _ => {
                let spec = fields.get("spec").cloned().unwrap_or_default();
                let masters =
                    spec.get("groups").and_then(Value::as_array).is_some_and(|groups| groups.iter().any(|one| one == "system:masters"));
                json!({"allowed": spec.get("user").and_then(Value::as_str) == Some(USER) || masters})
            }
        };
        fields.entry("metadata").or_insert_with(|| json!({}));
        fields.insert("status".to_owned(), status);
        Ok(respond::json(201, &review))
    }))
}

/// A TokenReview: of the one user's token, or of a service account's.
pub async fn token(shared: &Shared, request: Request<Body>) -> Result<Response, ApiError> {
    let (bytes, media) = body::read(request).await?;
    let mut review = body::decode(&bytes, media.as_deref())?.json;
    let Some(fields) = review.as_object_mut() else {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    };
    let spec = fields.get("spec").cloned().unwrap_or_default();
    let given = spec.get("token").and_then(Value::as_str).unwrap_or("");
    let asked = spec.get("audiences").and_then(Value::as_array).into_iter().flatten();
    let mut audiences: Vec<&str> = asked.filter_map(Value::as_str).collect();
    if audiences.is_empty() {
        audiences.push(&shared.signer.issuer);
    }
    let invalid = || json!({"user": {}, "error": "invalid bearer token"});
    let status = if super::same(given.as_bytes(), shared.token.as_bytes()) {
        json!({"authenticated": true, "user": user()})
    } else if let Some(claims) = super::token::authenticated(shared, given) {
        audiences.retain(|audience| claims.aud.iter().any(|one| one == audience));
        match audiences.is_empty() {
            false => json!({"authenticated": true, "user": super::token::user(&claims), "audiences": audiences}),
            true => invalid(),
        }
    } else {
        invalid()
    };
    fields.entry("metadata").or_insert_with(|| json!({}));
    fields.insert("status".to_owned(), status);
    Ok(respond::json(201, &review))
}
