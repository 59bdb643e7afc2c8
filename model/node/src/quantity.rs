//! Kubernetes quantities, as far as a node reads them: bytes of storage.

/// A quantity that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantity \"{0}\" is not a number of bytes such as 10Gi, 500M or 1048576")]
pub struct BadQuantity(String);

/// The bytes of a quantity, rounded up.
pub fn bytes(quantity: &str) -> Result<u64, BadQuantity> {
    let bad = || BadQuantity(quantity.to_owned());
    let split = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(split);
    let (numerator, denominator): (u128, u128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<u32>().ok()).ok_or_else(bad)?;
            (10u128.checked_pow(power).ok_or_else(bad)?, 1)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return Err(bad());
    }
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let scale = 10u128.pow(fraction.len() as u32);
    let product = digits.checked_mul(numerator).ok_or_else(bad)?;
    u64::try_from(product.div_ceil(scale * denominator)).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, expected) in [("10Gi", 10 << 30), ("1.5Ki", 1536), ("1500m", 2), ("1e3", 1000), ("0", 0), ("2G", 2_000_000_000)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "Gi", "-1", "1.2.3", "1Xi", "99999Ei", "1e99"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
