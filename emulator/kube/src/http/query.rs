//! Query parameters.

use model_kube::write::{ApiError, FieldValidation, Options};

/// The parameters of a request, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

/// Percent-decoding; none where the bytes are no UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let part = |text: &str| decode(&text.replace('+', " ")).unwrap_or_default();
        let pairs = text.unwrap_or("").split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (part(name), part(value))
        });
        Self(pairs.collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))
    }

    /// How a write is done: `dryRun`, `fieldManager`, `fieldValidation`.
    pub fn options(&self, user_agent: Option<&str>) -> Result<Options, ApiError> {
        let dry_run = match self.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => return Err(ApiError::bad_request(format!("invalid dryRun value: {other}; supported values: All"))),
        };
        let validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        // Without a name the manager is the program, as in the User-Agent.
        let from_agent = || user_agent.and_then(|agent| agent.split('/').next()).filter(|name| !name.is_empty()).unwrap_or("unknown");
        let field_manager = self.get("fieldManager").unwrap_or_else(|| from_agent()).to_owned();
        Ok(Options { dry_run, field_manager: Some(field_manager), validation })
    }
}
