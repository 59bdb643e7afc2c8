//! The texts of `field.Error` (apimachinery `util/validation/field`).

use serde::Serialize;

use crate::write::Cause;

/// Collected complaints.
#[derive(Debug, Default)]
pub struct Causes(Vec<Cause>);

impl Causes {
    fn push(&mut self, reason: &str, field: impl Into<String>, message: String) {
        self.0.push(Cause { reason: reason.to_owned(), message, field: field.into() });
    }

    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.push("FieldValueRequired", field, message);
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: &impl Serialize, detail: &str) {
        let value = serde_json::to_string(value).unwrap_or_default();
        self.push("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"));
    }

    pub fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: &str) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {value:?}"));
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.push("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    /// Adds a complaint where the value is none of the supported ones.
    pub fn one_of(&mut self, field: impl Into<String>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
            self.push("FieldValueNotSupported", field, format!("Unsupported value: {value:?}: supported values: {}", list.join(", ")));
        }
    }

    /// Adds a complaint where the value changed.
    pub fn immutable<T: PartialEq + Serialize>(&mut self, field: impl Into<String>, old: &T, new: &T) {
        if old != new {
            self.invalid(field, new, "field is immutable");
        }
    }

    /// Takes in complaints about a part, whose fields have their place below a prefix.
    pub fn absorb(&mut self, prefix: &str, part: Self) {
        self.0.extend(part.0.into_iter().map(|cause| Cause { field: format!("{prefix}{}", cause.field), ..cause }));
    }

    pub fn into_vec(self) -> Vec<Cause> {
        self.0
    }
}
