//! Durations as people write them: Go's `6m30s` and ISO 8601's `PT6M30S` (users.md §5.4).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest one: a year. Keeps sums of durations far from overflow.
const LONGEST: u64 = 366 * 24 * 3600 * 1000;

/// A duration in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u64);

impl Span {
    pub const fn millis(millis: u64) -> Self {
        Self(millis)
    }

    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration of at most a year; write it like 30s, 1m30s, 250ms or PT30S")]
pub struct NoSpan(String);

impl FromStr for Span {
    type Err = NoSpan;

    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let millis = match text.strip_prefix('P') {
            Some(iso) => iso_millis(iso),
            None => parts(text, &[("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]),
        };
        millis.filter(|millis| (1..=LONGEST).contains(millis)).map(Self).ok_or_else(|| NoSpan(text.to_owned()))
    }
}

impl TryFrom<String> for Span {
    type Error = NoSpan;

    fn try_from(text: String) -> Result<Self, NoSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// As Go writes it, but without zeros: `1h30m`, `30s`, `250ms`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if left >= size {
                write!(f, "{}{unit}", left / size)?;
                left %= size;
            }
        }
        Ok(())
    }
}

fn iso_millis(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    if date.is_empty() && time.is_empty() {
        return None;
    }
    let date = parts(date, &[("W", 7 * 86_400_000), ("D", 86_400_000)]).or_else(|| date.is_empty().then_some(0))?;
    let time = parts(time, &[("H", 3_600_000), ("M", 60_000), ("S", 1000)]).or_else(|| time.is_empty().then_some(0))?;
    date.checked_add(time)
}

/// The sum of `<number><unit>…`; none when that is not what the text is.
fn parts(mut text: &str, units: &[(&str, u64)]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut sum: u64 = 0;
    while !text.is_empty() {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(end);
        // The longest unit that fits, so that `5ms` is not five minutes.
        let (unit, size) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        sum = sum.checked_add(scaled(number, *size)?)?;
        text = &rest[unit.len()..];
    }
    Some(sum)
}

/// A decimal number of units, in milliseconds.
fn scaled(number: &str, size: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let digits: u64 = fraction.parse().ok()?;
    let part = digits.checked_mul(size)? / 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole.checked_mul(size)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_one_is_written() {
        let read = |text: &str| text.parse::<Span>().map(|span| (span.0, span.to_string()));
        assert_eq!(read("6m30s"), Ok((390_000, "6m30s".into())));
        assert_eq!(read("PT6M30S"), Ok((390_000, "6m30s".into())));
        assert_eq!(read("1.5s"), Ok((1500, "1s500ms".into())));
        assert_eq!(read("250ms"), Ok((250, "250ms".into())));
        assert_eq!(read("P1DT1H"), Ok((90_000_000, "25h".into())));
        for bad in ["", "30", "s", "P", "PT", "-1s", "1x", "0s", "1.s", "99999999999999h", "10000h", "1é", "."] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
