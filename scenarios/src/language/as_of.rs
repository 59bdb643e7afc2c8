//! As of when a scenario is played: with the machines as upstream is today, or with changes that are proposed there.

use std::str::FromStr;

use model_common::fixes::{Fix, Fixes, NoFix};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Scenario;

/// The release of Kubernetes whose behaviour the machines have.
pub const TODAY: &str = "1.36.2";

/// The day: [`TODAY`], `fixed` (with every change that ebbtide knows), or the names of changes, divided by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AsOf(Fixes);

/// Why a text is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDay {
    #[error("the machines follow Kubernetes {TODAY}, not {0}; write {TODAY}, `fixed`, or the names of changes that are proposed upstream")]
    Version(String),
    #[error("write {TODAY}, `fixed`, or the names of changes that are proposed upstream: {0}")]
    Fix(#[from] NoFix),
}

impl AsOf {
    /// The changes that are in.
    pub fn fixes(&self) -> &Fixes {
        &self.0
    }

    /// The day that has every change that ebbtide knows.
    pub fn fixed() -> Self {
        Self(Fixes::all())
    }

    /// Whether it is upstream's own day.
    pub fn is_today(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for AsOf {
    type Err = NoDay;

    fn from_str(text: &str) -> Result<Self, NoDay> {
        let version = text.strip_prefix('v').unwrap_or(text);
        match text {
            _ if version == TODAY => Ok(Self::default()),
            "fixed" => Ok(Self::fixed()),
            _ if version.starts_with(|c: char| c.is_ascii_digit()) => Err(NoDay::Version(text.to_owned())),
            _ => Ok(Self(text.split(',').map(|name| name.trim().parse::<Fix>()).collect::<Result<_, _>>()?)),
        }
    }
}

impl TryFrom<String> for AsOf {
    type Error = NoDay;

    fn try_from(text: String) -> Result<Self, NoDay> {
        text.parse()
    }
}

impl From<AsOf> for String {
    fn from(as_of: AsOf) -> Self {
        as_of.to_string()
    }
}

impl std::fmt::Display for AsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_today() {
            return f.write_str(TODAY);
        }
        if self.0 == Fixes::all() {
            return f.write_str("fixed");
        }
        f.write_str(&self.0.iter().map(Fix::name).collect::<Vec<_>>().join(","))
    }
}

impl JsonSchema for AsOf {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AsOf".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "examples": [TODAY, "fixed"]})
    }
}

/// A fault of the real thing that a scenario shows: it passes when that is seen, and fails when all holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expect {
    /// The invariant that is violated.
    pub violated: String,
    /// Why that is so, and where it is known.
    pub because: String,
    /// The change proposed upstream that mends it, by name (`kubernetes#124334`). As of a day that has it, all holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub fix: Option<Fix>,
    /// What is violated even with the change; nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_fix: Option<Box<Expect>>,
}

impl Expect {
    /// All invariants that it names.
    pub fn names(&self) -> Vec<&str> {
        let mut names = vec![self.violated.as_str()];
        names.extend(self.with_fix.iter().flat_map(|rest| rest.names()));
        names
    }

    fn under(&self, fixes: &Fixes) -> Option<&Self> {
        match self.fix.filter(|fix| fixes.has(*fix)) {
            Some(_) => self.with_fix.as_ref()?.under(fixes),
            None => Some(self),
        }
    }
}

impl Scenario {
    /// The day that it is played as of.
    pub fn as_of(&self) -> AsOf {
        self.spec.world.as_ref().map(|world| world.as_of.clone()).unwrap_or_default()
    }

    /// Plays it as of another day.
    pub fn set_as_of(&mut self, as_of: AsOf) {
        self.spec.world.get_or_insert_default().as_of = as_of;
    }

    /// The violation that is expected of it as of its day; none: all must hold.
    pub fn expected(&self) -> Option<&Expect> {
        self.spec.expect.as_ref()?.under(self.as_of().fixes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_version_or_changes() {
        let day = |text: &str| text.parse::<AsOf>();
        assert!(day("1.36.2").unwrap().is_today() && day("v1.36.2").unwrap().is_today());
        assert_eq!(day("fixed").unwrap().to_string(), "fixed");
        let one = day("kubernetes#124334").unwrap();
        assert!(one.fixes().has(Fix::UncertainAttachmentCounts) && one.fixes().iter().count() == 1);
        assert_eq!(day(&one.to_string()), Ok(one));
        assert!(day("1.30").unwrap_err().to_string().contains("follow Kubernetes 1.36.2, not 1.30"));
        assert!(day("tomorrow").unwrap_err().to_string().contains("no fix `tomorrow`"));
    }

    #[test]
    fn what_is_expected_depends_on_the_day() {
        let text = "{violated: no-leak, because: a, fix: kubernetes#124334, withFix: {violated: single-writer, because: b}}";
        let expect: Expect = serde_yaml::from_str(text).unwrap();
        assert_eq!(expect.names(), ["no-leak", "single-writer"]);
        let seen = |day: &str| expect.under(day.parse::<AsOf>().unwrap().fixes()).map(|expect| expect.violated.as_str());
        assert_eq!(seen("1.36.2"), Some("no-leak"));
        assert_eq!(seen("kubernetes#124334"), Some("single-writer"));
        let plain = Expect { with_fix: None, ..expect.clone() };
        assert_eq!(plain.under(&Fixes::all()), None);
        assert!(
            serde_yaml::from_str::<Expect>("{violated: no-leak, because: a, fix: kubernetes#1}")
                .unwrap_err()
                .to_string()
                .contains("no fix")
        );
    }
}
