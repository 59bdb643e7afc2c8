//! `resource.Quantity`: numbers with SI or binary suffixes, and their canonical form.

/// A quantity in thousandths: exact for everything storage and CPU use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    millis: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// The text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct BadQuantity;

const BINARY: [(&str, u32); 6] = [("Ki", 1), ("Mi", 2), ("Gi", 3), ("Ti", 4), ("Pi", 5), ("Ei", 6)];
const DECIMAL: [(&str, u32); 6] = [("k", 1), ("M", 2), ("G", 3), ("T", 4), ("P", 5), ("E", 6)];

impl std::str::FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let negative = number.starts_with('-');
        let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let valid = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !valid(whole) || !valid(fraction) || fraction.len() > 18 || whole.len() > 18 {
            return Err(BadQuantity);
        }
        let (numerator, denominator, format) = scale(suffix)?;
        let mantissa: i128 = format!("0{whole}{fraction}").parse().map_err(|_| BadQuantity)?;
        let scaled = mantissa.checked_mul(numerator).and_then(|value| value.checked_mul(1000)).ok_or(BadQuantity)?;
        let divisor = denominator.checked_mul(10_i128.pow(fraction.len() as u32)).ok_or(BadQuantity)?;
        // More than three decimals are rounded up, as the real one does.
        let millis = scaled / divisor + i128::from(scaled % divisor != 0);
        Ok(Self { millis: if negative { -millis } else { millis }, format })
    }
}

fn scale(suffix: &str) -> Result<(i128, i128, Format), BadQuantity> {
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((1024_i128.pow(*power), 1, Format::Binary));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((1000_i128.pow(*power), 1, Format::Decimal));
    }
    match suffix {
        "" => Ok((1, 1, Format::Decimal)),
        "m" => Ok((1, 1000, Format::Decimal)),
        "u" => Ok((1, 1_000_000, Format::Decimal)),
        "n" => Ok((1, 1_000_000_000, Format::Decimal)),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(BadQuantity)?;
            let power: i32 = exponent.parse().map_err(|_| BadQuantity)?;
            let ten = 10_i128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18).ok_or(BadQuantity)?;
            Ok(if power >= 0 { (ten, 1, Format::Exponent) } else { (1, ten, Format::Exponent) })
        }
    }
}

impl Quantity {
    /// Whole units, rounded up: bytes for storage.
    pub fn value(self) -> i128 {
        self.millis.div_euclid(1000) + i128::from(self.millis.rem_euclid(1000) != 0)
    }

    /// Thousandths.
    pub fn millis(self) -> i128 {
        self.millis
    }
}

impl std::fmt::Display for Quantity {
    /// The canonical form: the largest suffix that loses nothing.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.millis;
        if millis == 0 {
            return f.write_str("0");
        }
        if millis % 1000 != 0 {
            return write!(f, "{millis}m");
        }
        let value = millis / 1000;
        // Below 1024 a binary quantity has no suffix either.
        let (units, base): (&[(&str, u32)], i128) = match self.format {
            Format::Binary => (&BINARY, 1024),
            Format::Decimal => (&DECIMAL, 1000),
            Format::Exponent => {
                let power = (1..=18).rev().find(|power| power % 3 == 0 && value % 10_i128.pow(*power) == 0);
                return match power {
                    Some(power) => write!(f, "{}e{power}", value / 10_i128.pow(power)),
                    None => write!(f, "{value}"),
                };
            }
        };
        match units.iter().rev().find(|(_, power)| value % base.pow(*power) == 0) {
            Some((name, power)) => write!(f, "{}{name}", value / base.pow(*power)),
            None => write!(f, "{value}"),
        }
    }
}

/// The bytes of a storage quantity; none where it is no quantity.
pub fn bytes(text: &str) -> Option<i128> {
    text.parse::<Quantity>().ok().map(Quantity::value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (given, canonical) in [
            ("4Gi", "4Gi"),
            ("4096Mi", "4Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("0", "0"),
            ("100Mi", "100Mi"),
            ("5G", "5G"),
            ("+3", "3"),
            ("-3Gi", "-3Gi"),
        ] {
            assert_eq!(given.parse::<Quantity>().unwrap().to_string(), canonical, "{given}");
        }
        for bad in ["", "Gi", "1.2.3", "1gi", "ten", "1e", "99999999999999999999", "--1", "1-2"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
        assert_eq!(bytes("4Gi"), Some(4 << 30));
    }
}
