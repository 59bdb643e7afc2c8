//! The name server of a VPC, as far as EFS is concerned: the names of mount targets, and nothing else.

use std::net::Ipv4Addr;

use model_common::agent::EfsNetwork;

/// Bytes before the question.
const HEADER: usize = 12;
const A: u16 = 1;
const SERVER_FAILED: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
/// A mount target's name is new each time.
const TTL: u32 = 0;

/// The answer to a query; none: it is no query. Without a network nobody knows.
pub(super) fn answer(query: &[u8], network: Option<&EfsNetwork>) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query)?;
    let found = network.map(|network| lookup(&name, network));
    let (code, address) = match found {
        None => (SERVER_FAILED, None),
        Some(None) => (NO_SUCH_NAME, None),
        // There are no addresses of other kinds.
        Some(Some(ip)) => (0, (kind == A).then_some(ip)),
    };
    let mut reply = query[..end].to_vec();
    // A response, with the query's wish for recursion, which is there.
    reply[2] = 0x80 | (query[2] & 0x01);
    reply[3] = 0x80 | code;
    reply[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    if let Some(ip) = address {
        // The name of the question, A, IN.
        reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        reply.extend(TTL.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(ip.octets());
    }
    Some(reply)
}

/// The name asked for, what of it, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    // One question; not a response.
    if query.get(4..6)? != [0, 1] || query[2] & 0x80 != 0 {
        return None;
    }
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase()),
            _ => return None,
        }
        at += length;
    }
    let kind = query.get(at..at + 2)?;
    query.get(at + 2..at + 4)?;
    Some((labels.join("."), u16::from_be_bytes([kind[0], kind[1]]), at + 4))
}

/// `fs-….efs.REGION.amazonaws.com` is the mount target in the instance's zone; a zone's name or id before it is the one there.
fn lookup(name: &str, network: &EfsNetwork) -> Option<Ipv4Addr> {
    let name = name.strip_suffix(&format!(".efs.{}.amazonaws.com", network.region))?;
    let (zone, id) = match name.split_once('.') {
        Some((zone, id)) => (zone, id),
        None => (network.zone.as_str(), name),
    };
    let there =
        |target: &&model_common::agent::EfsMountTarget| target.file_system_id == id && (target.zone == zone || target.zone_id == zone);
    network.mount_targets.iter().find(there).map(|target| target.ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model_common::agent::EfsMountTarget;

    fn network() -> EfsNetwork {
        let target = |zone: &str, zone_id: &str, ip: [u8; 4]| EfsMountTarget {
            file_system_id: "fs-0abc".into(),
            zone: zone.into(),
            zone_id: zone_id.into(),
            ip: ip.into(),
            reachable: true,
        };
        let mount_targets = vec![target("us-east-1a", "use1-az1", [10, 0, 1, 5]), target("us-east-1b", "use1-az2", [10, 0, 2, 5])];
        EfsNetwork { region: "us-east-1".into(), zone: "us-east-1b".into(), mount_targets }
    }

    /// As glibc asks, with a record for the answer's size after the question.
    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1, 0, 0, 41, 4, 0xb0, 0, 0, 0, 0, 0, 0]);
        query
    }

    #[test]
    fn a_mount_target_has_the_names_that_efs_gives_it() {
        for (name, expected) in [
            ("fs-0abc.efs.us-east-1.amazonaws.com", Some([10, 0, 2, 5])),
            ("FS-0abc.EFS.us-east-1.amazonaws.com", Some([10, 0, 2, 5])),
            ("us-east-1a.fs-0abc.efs.us-east-1.amazonaws.com", Some([10, 0, 1, 5])),
            ("use1-az1.fs-0abc.efs.us-east-1.amazonaws.com", Some([10, 0, 1, 5])),
            ("us-east-1c.fs-0abc.efs.us-east-1.amazonaws.com", None),
            ("fs-0abc.efs.eu-west-1.amazonaws.com", None),
            ("example.com", None),
        ] {
            let reply = answer(&query(name, 1), Some(&network())).expect("a query");
            assert_eq!((reply[0], reply[1], reply[2] & 0x80), (0x12, 0x34, 0x80), "{name}");
            assert_eq!((reply[3] & 0x0f, reply[7]), if expected.is_some() { (0, 1) } else { (3, 0) }, "{name}");
            assert_eq!(expected.map(|ip: [u8; 4]| ip.to_vec()), expected.map(|_| reply[reply.len() - 4..].to_vec()), "{name}");
        }
        let six = answer(&query("fs-0abc.efs.us-east-1.amazonaws.com", 28), Some(&network())).expect("a query");
        assert_eq!((six[3] & 0x0f, six[7]), (0, 0), "the name is there, and has no such address");
        assert_eq!(answer(&query("fs-0abc.efs.us-east-1.amazonaws.com", 1), None).expect("a query")[3] & 0x0f, 2);
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        let whole = query("fs-0abc.efs.us-east-1.amazonaws.com", 1);
        for end in 0..whole.len() - 11 {
            assert_eq!(answer(&whole[..end], Some(&network())), None, "{end} bytes");
        }
        let mut response = whole.clone();
        response[2] |= 0x80;
        assert_eq!(answer(&response, Some(&network())), None);
        let mut pointer = whole;
        pointer[HEADER] = 0xc0;
        assert_eq!(answer(&pointer, Some(&network())), None);
    }
}
