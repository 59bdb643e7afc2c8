//! Durations: Go's form (`6m30s`) and ISO 8601 (`PT6M30S`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A length of time as written in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    pub(crate) fn two_minutes() -> Self {
        Self(Duration::from_secs(120))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed: jiff::SignedDuration =
            text.parse().map_err(|_| format!("`{text}` is not a duration; write it as 90s, 6m30s, 500ms or PT6M30S"))?;
        Duration::try_from(parsed).map(Self).map_err(|_| format!("the duration `{text}` must not be negative"))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        match jiff::SignedDuration::try_from(span.0) {
            Ok(duration) => format!("{duration:#}").replace(' ', ""),
            // Longer than any SignedDuration: more than 10^11 years.
            Err(_) => format!("{}s", span.0.as_secs()),
        }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from(*self))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A duration in Go's form (6m30s) or ISO 8601 (PT6M30S).",
            "examples": ["90s", "6m30s", "500ms", "PT6M30S"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let of = |text: &str| Span::try_from(text.to_owned()).map(|span| span.0.as_millis());
        assert_eq!(of("6m30s"), Ok(390_000));
        assert_eq!(of("PT6M30S"), Ok(390_000));
        assert_eq!(of("500ms"), Ok(500));
        assert_eq!(of("1.5s"), Ok(1500));
        assert_eq!(of("0s"), Ok(0));
        assert!(of("30").unwrap_err().contains("write it as"));
        assert!(of("-3s").unwrap_err().contains("negative"));
        assert!(of("soon").unwrap_err().contains("`soon` is not a duration"));
    }

    #[test]
    fn written_form_reads_back() {
        for millis in [0, 1, 999, 1000, 90_000, 390_000, 3_600_001] {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(Span::try_from(span.to_string()), Ok(span), "{span}");
        }
    }
}
