//! How many volumes a node can have, as the driver's node service says (`pkg/cloud/limits`, ebs.md §3.6).

const TABLE: &str = include_str!("limits.txt");
/// What an instance type has that the table does not know.
const UNKNOWN: (i64, bool) = (27, true);

/// The number for NodeGetInfo: what the type can have, less the root volume. One network interface is assumed, as the real driver does
/// without IMDS, and the first one takes no slot.
pub fn max_volumes(instance_type: &str) -> i64 {
    let (limit, _shared) =
        TABLE.lines().find_map(|line| parse(line).filter(|(name, ..)| *name == instance_type)).map_or(UNKNOWN, |row| (row.1, row.2));
    (limit - 1).max(1)
}

/// Name, limit, shared with network interfaces.
fn parse(line: &str) -> Option<(&str, i64, bool)> {
    let mut fields = line.split(' ');
    Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()? == "shared"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        assert!(lines.clone().all(|line| parse(line).is_some()) && lines.count() > 1000);
        assert_eq!((max_volumes("m5.large"), max_volumes("m7i.large"), max_volumes("t2.micro")), (26, 31, 38));
    }
}
