//! What a list or a watch asks for by version, checked as the real server checks `ListOptions`.

use model_kube::write::{ApiError, Cause, Details, Reason};

use super::query::Query;

/// From which version a list is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// What is there now.
    Now,
    /// What is there now, which must not be older.
    NotOlderThan(u64),
    /// What was there then.
    Exactly(u64),
}

/// The version a list wants. A page that goes on is of the version in its token.
pub fn list(query: &Query) -> Result<Wanted, ApiError> {
    let version = query.get("resourceVersion");
    let goes_on = query.get("continue").is_some();
    let mut causes = Vec::new();
    let matching = query.get("resourceVersionMatch");
    if let Some(matching) = matching {
        if version.is_none() {
            causes.push(forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if goes_on {
            causes.push(forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            causes.push(unsupported(matching, "\"Exact\", \"NotOlderThan\", \"\""));
        }
        if matching == "Exact" && version == Some("0") {
            causes.push(forbidden("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        causes.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    refuse(causes)?;
    let version = number(query)?;
    if goes_on && version != 0 {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(match (version, matching) {
        (0, _) => Wanted::Now,
        (version, Some("Exact")) => Wanted::Exactly(version),
        // A page of a version means that version; so clients asked before there was resourceVersionMatch.
        (version, None) if query.number("limit")?.is_some_and(|limit| limit > 0) => Wanted::Exactly(version),
        (version, _) => Wanted::NotOlderThan(version),
    })
}

/// Checks what a watch asks for by version.
pub fn watch(query: &Query) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    let (matching, initial) = (query.get("resourceVersionMatch"), query.get("sendInitialEvents"));
    if initial.is_some() && matching != Some("NotOlderThan") {
        causes.push(forbidden("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if let Some(matching) = matching {
        if initial.is_none() {
            causes.push(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if matching != "NotOlderThan" {
            causes.push(unsupported(matching, "\"NotOlderThan\""));
        }
        if query.get("continue").is_some() {
            causes.push(forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    refuse(causes)
}

/// `resourceVersion` as a number; 0 where it is not given.
pub fn number(query: &Query) -> Result<u64, ApiError> {
    let Some(text) = query.get("resourceVersion") else { return Ok(0) };
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("invalid resource version: strconv.ParseUint: parsing \"{text}\": invalid syntax")))
}

fn forbidden(field: &str, why: &str) -> Cause {
    Cause { reason: "FieldValueForbidden".to_owned(), message: format!("Forbidden: {why}"), field: field.to_owned() }
}

fn unsupported(given: &str, supported: &str) -> Cause {
    let message = format!("Unsupported value: \"{given}\": supported values: {supported}");
    Cause { reason: "FieldValueNotSupported".to_owned(), message, field: "resourceVersionMatch".to_owned() }
}

/// 422 of the options themselves: client-go's informers take it for a server without watch-lists and list instead.
fn refuse(causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let text = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let mut error = ApiError::bad_request(format!("ListOptions.meta.k8s.io \"\" is invalid: {text}"));
    error.code = 422;
    error.reason = Reason::Invalid;
    error.details =
        Some(Box::new(Details { group: "meta.k8s.io".to_owned(), kind: "ListOptions".to_owned(), causes, ..Details::default() }));
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text))
    }

    #[test]
    fn a_list_is_of_now_or_of_a_version() {
        for (text, wanted) in [
            ("", Wanted::Now),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan", Wanted::Now),
            ("resourceVersion=7", Wanted::NotOlderThan(7)),
            ("resourceVersion=7&limit=0", Wanted::NotOlderThan(7)),
            ("resourceVersion=7&limit=5", Wanted::Exactly(7)),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=5", Wanted::NotOlderThan(7)),
            ("resourceVersion=7&resourceVersionMatch=Exact", Wanted::Exactly(7)),
            ("continue=x&limit=5", Wanted::Now),
        ] {
            assert_eq!(list(&query(text)).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_invalid() {
        let error = list(&query("resourceVersionMatch=Exact")).unwrap_err();
        assert_eq!((error.code, error.reason), (422, Reason::Invalid));
        assert_eq!(
            error.message,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
        for text in
            ["resourceVersion=0&resourceVersionMatch=Exact", "resourceVersion=1&resourceVersionMatch=Newest", "sendInitialEvents=true"]
        {
            assert_eq!(list(&query(text)).unwrap_err().code, 422, "{text}");
        }
        assert_eq!(list(&query("resourceVersion=x")).unwrap_err().code, 400);
        assert_eq!(list(&query("resourceVersion=3&continue=x")).unwrap_err().code, 400);
        assert!(watch(&query("sendInitialEvents=true&resourceVersionMatch=NotOlderThan")).is_ok());
        for text in ["sendInitialEvents=true", "resourceVersionMatch=NotOlderThan", "sendInitialEvents=true&resourceVersionMatch=Exact"] {
            assert_eq!(watch(&query(text)).unwrap_err().code, 422, "{text}");
        }
    }
}
