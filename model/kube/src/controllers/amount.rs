//! Amounts of resources as plain numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// In thousandths; 0 for what is no quantity (validation lets none in).
pub fn milli(amount: &Quantity) -> i128 {
    amount.0.parse::<quantity::Quantity>().map_or(0, |amount| amount.millis())
}

/// In whole units, rounded up; 0 for what is no quantity or negative.
pub fn value(amount: &Quantity) -> u64 {
    quantity::bytes(&amount.0).and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
}

/// The `storage` amount of a resource list in bytes; 0 where there is none.
pub fn storage(list: Option<&BTreeMap<String, Quantity>>) -> u64 {
    list.and_then(|list| list.get("storage")).map_or(0, value)
}

/// Bytes in canonical binary form: `10Gi`.
pub fn binary(bytes: u64) -> Quantity {
    let mut amount = bytes;
    for suffix in ["", "Ki", "Mi", "Gi", "Ti", "Pi"] {
        if amount == 0 || !amount.is_multiple_of(1024) {
            return Quantity(format!("{amount}{suffix}"));
        }
        amount /= 1024;
    }
    Quantity(format!("{amount}Ei"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        for (bytes, text) in [(10 << 30, "10Gi"), (1 << 60, "1Ei"), (1500, "1500"), (0, "0"), (3 << 29, "1536Mi")] {
            assert_eq!(binary(bytes).0, text);
            assert_eq!(value(&binary(bytes)), bytes);
        }
        assert_eq!(value(&Quantity("junk".into())), 0);
    }
}
