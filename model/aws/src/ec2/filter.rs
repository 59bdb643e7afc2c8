//! Filters of describe calls: names, values with `*` and `?`, and what each kind of resource answers to them.
//! Values of one filter are alternatives; filters must all match.

use serde::{Deserialize, Serialize};

use super::{Reject, Tags};

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Filter {
    pub name: String,
    #[serde(default, rename = "Value")]
    pub values: Vec<String>,
}

/// What filters ask of a resource.
pub(super) trait Filtered {
    /// The names that it knows beside `tag:…` and `tag-key`.
    const NAMES: &'static [&'static str];
    fn tags(&self) -> &Tags;
    /// Gives the resource's values for one of the names.
    fn values(&self, name: &str, give: &mut dyn FnMut(&str));
}

/// Refuses names that the kind of resource does not know, and filters without values.
pub(super) fn check<T: Filtered>(filters: &[Filter]) -> Result<(), Reject> {
    for filter in filters {
        let known = T::NAMES.contains(&filter.name.as_str()) || filter.name == "tag-key" || filter.name.starts_with("tag:");
        if !known {
            return Err(Reject::UnknownFilter { name: filter.name.clone() });
        }
        if filter.values.is_empty() {
            return Err(Reject::FilterWithoutValues { name: filter.name.clone() });
        }
    }
    Ok(())
}

pub(super) fn matches<T: Filtered>(filters: &[Filter], resource: &T) -> bool {
    filters.iter().all(|filter| filter.matches(resource))
}

impl Filter {
    fn matches<T: Filtered>(&self, resource: &T) -> bool {
        if let Some(key) = self.name.strip_prefix("tag:") {
            return resource.tags().get(key).is_some_and(|value| self.takes(value));
        }
        if self.name == "tag-key" {
            return resource.tags().keys().any(|key| self.takes(key));
        }
        let mut found = false;
        resource.values(&self.name, &mut |value| found = found || self.takes(value));
        found
    }

    /// Whether one of the filter's values takes `text`.
    pub(super) fn takes(&self, text: &str) -> bool {
        self.values.iter().any(|pattern| takes(pattern, text))
    }

    /// Whether all values stand for themselves, so that an index can answer.
    pub(super) fn exact(&self) -> bool {
        !self.values.iter().any(|value| value.contains(['*', '?', '\\']))
    }
}

/// `*` is any text, `?` any character, `\` takes the next character as it is.
fn takes(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?', '\\']) {
        return pattern == text;
    }
    let pattern = tokens(pattern);
    let text: Vec<char> = text.chars().collect();
    // The last star and how much of the text it has taken: backtracking to it is enough, so this is quadratic at worst.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                star = Some((p, t));
                p += 1;
            }
            Some(Token::One) => (p, t) = (p + 1, t + 1),
            Some(Token::Char(c)) if *c == text[t] => (p, t) = (p + 1, t + 1),
            Some(Token::Char(_)) | None => match star {
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    (p, t) = (star_p + 1, star_t + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|token| *token == Token::Any)
}

#[derive(PartialEq)]
enum Token {
    Any,
    One,
    Char(char),
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Char(chars.next().unwrap_or('\\')),
            other => Token::Char(other),
        });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::takes;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "a", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("*b*", "abc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            (r"a\*c", "a*c", true),
            (r"a\*c", "abc", false),
            ("**a", "a", true),
            ("*ab*ab", "abxabyab", true),
            ("", "", true),
        ] {
            assert_eq!(takes(pattern, text), expected, "{pattern} {text}");
        }
    }
}
