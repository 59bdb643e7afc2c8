//! The tree of paths and what each says (ebs.md §2.3, efs.md §2; categories as in the EC2 user guide).
//!
//! A directory lists its entries, one a line, those that are directories with a slash; with or without a slash at the end of the
//! path. What an instance does not have (a public address, a key pair, an outpost) is not there: 404.

use std::collections::BTreeMap;

use model_aws::ec2::{Instance, InstanceType, State};
use model_aws::{At, Aws};

use crate::auth::{Auth, Session};
use crate::ec2::instances::{IMAGE, NODE_ROLE, derived, launched, profile_arn, profile_id};

/// The versions that IMDS has; each has all paths.
const VERSIONS: [&str; 29] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
    "latest",
];

/// New credentials are given so often, and live so long.
const ROTATION_MS: i64 = 3_600_000;
const LIFE_MS: i64 = 6 * ROTATION_MS;

enum Entry {
    Leaf(String),
    Dir(Dir),
}

#[derive(Default)]
struct Dir(BTreeMap<String, Entry>);

impl Dir {
    fn leaf(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.insert(name.into(), Entry::Leaf(value.into()));
        self
    }

    fn leaves(pairs: impl IntoIterator<Item = (impl Into<String>, String)>) -> Self {
        let mut dir = Self::default();
        for (name, value) in pairs {
            dir.leaf(name, value);
        }
        dir
    }

    fn dir(&mut self, name: impl Into<String>, dir: Dir) -> &mut Self {
        self.0.insert(name.into(), Entry::Dir(dir));
        self
    }

    fn list(&self) -> String {
        let line = |(name, entry): (&String, &Entry)| match entry {
            Entry::Leaf(_) => name.clone(),
            Entry::Dir(_) => format!("{name}/"),
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// What a path says; none: it is not there.
pub fn find(aws: &Aws, auth: &Auth, instance: &str, path: &str, at: At) -> Option<String> {
    let path = path.strip_prefix('/')?;
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    if version.is_empty() && rest.is_empty() {
        return Some(VERSIONS.join("\n"));
    }
    if !VERSIONS.contains(&version) {
        return None;
    }
    let (branch, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let state = &aws.ec2;
    let instance = state.instance(instance)?;
    let mut dir = match branch {
        // These two are listed without a slash.
        "" if rest.is_empty() => return Some("dynamic\nmeta-data".to_owned()),
        "meta-data" => meta_data(state, auth, instance, at),
        "dynamic" => dynamic(state, instance),
        _ => return None,
    };
    let mut parts = rest.strip_suffix('/').unwrap_or(rest).split('/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() && parts.peek().is_none() {
            break;
        }
        match dir.0.remove(part)? {
            Entry::Dir(inner) => dir = inner,
            Entry::Leaf(value) => return parts.peek().is_none().then_some(value),
        }
    }
    Some(dir.list())
}

fn meta_data(state: &State, auth: &Auth, instance: &Instance, at: At) -> Dir {
    let network = state.network();
    let known = InstanceType::find(&instance.instance_type);
    let groups = group_names(state, instance).join("\n");
    let mut dir = Dir::leaves([
        ("ami-id", IMAGE.to_owned()),
        ("ami-launch-index", "0".to_owned()),
        ("ami-manifest-path", "(unknown)".to_owned()),
        ("hostname", instance.private_dns_name.clone()),
        ("instance-action", "none".to_owned()),
        ("instance-id", instance.id.to_string()),
        ("instance-life-cycle", "on-demand".to_owned()),
        ("instance-type", instance.instance_type.clone()),
        ("local-hostname", instance.private_dns_name.clone()),
        ("local-ipv4", instance.private_ip.to_string()),
        ("mac", instance.interface.mac.clone()),
        ("profile", "default-hvm".to_owned()),
        ("reservation-id", derived("r", &instance.id)),
        ("security-groups", groups),
        ("system", if known.is_none_or(InstanceType::is_nitro) { "nitro" } else { "xen" }.to_owned()),
    ]);
    let mut mapping = Dir::leaves([("ami", instance.root_device.clone()), ("root", instance.root_device.clone())]);
    for (number, device) in (1..).zip(instance.metadata.mapped_devices()) {
        mapping.leaf(format!("ebs{number}"), device.trim_start_matches("/dev/"));
    }
    dir.dir("block-device-mapping", mapping);
    let mut events = Dir::default();
    events.dir("maintenance", Dir::leaves([("history", "[]".to_owned()), ("scheduled", "[]".to_owned())]));
    dir.dir("events", events);
    dir.dir("hibernation", Dir::leaves([("configured", "false".to_owned())]));
    dir.dir("metrics", Dir::leaves([("vhostmd", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned())]));
    if instance.node.is_some() {
        let account = &network.account;
        let updated = At(at.0 - at.0.rem_euclid(ROTATION_MS));
        let info = serde_json::json!({
            "Code": "Success",
            "LastUpdated": seconds(updated),
            "InstanceProfileArn": profile_arn(network),
            "InstanceProfileId": profile_id(),
        });
        let mut iam = Dir::leaves([("info", pretty(&info))]);
        let session = Session {
            role: Some(NODE_ROLE.to_owned()),
            name: instance.id.to_string(),
            account: account.clone(),
            expires: At(updated.0 + LIFE_MS),
        };
        iam.dir("security-credentials", Dir::leaves([(NODE_ROLE, credentials(auth, &session, updated))]));
        dir.dir("iam", iam);
    }
    let mut macs = Dir::default();
    macs.dir(instance.interface.mac.clone(), interface(state, instance));
    let (mut interfaces, mut branch) = (Dir::default(), Dir::default());
    interfaces.dir("macs", macs);
    branch.dir("interfaces", interfaces);
    dir.dir("network", branch);
    let zone_id = network.zone(&instance.zone).map(|zone| zone.id.clone()).unwrap_or_default();
    dir.dir(
        "placement",
        Dir::leaves([("availability-zone", instance.zone.clone()), ("availability-zone-id", zone_id), ("region", network.region.clone())]),
    );
    let (partition, domain) = partition(&network.region);
    dir.dir("services", Dir::leaves([("domain", domain.to_owned()), ("partition", partition.to_owned())]));
    if instance.metadata.applied.tags {
        let mut tags = Dir::default();
        tags.dir("instance", Dir::leaves(instance.tags.iter().map(|(key, value)| (key.clone(), value.clone()))));
        dir.dir("tags", tags);
    }
    dir
}

fn group_names(state: &State, instance: &Instance) -> Vec<String> {
    let groups = &state.network().security_groups;
    instance.interface.security_groups.iter().filter_map(|id| groups.get(id)).map(|group| group.name.clone()).collect()
}

fn interface(state: &State, instance: &Instance) -> Dir {
    let network = state.network();
    let interface = &instance.interface;
    let subnet = network.subnets.get(&instance.subnet_id).map(|subnet| format!("{}/{}", subnet.cidr.network, subnet.cidr.prefix));
    Dir::leaves([
        ("device-number", "0".to_owned()),
        ("interface-id", interface.id.clone()),
        ("local-hostname", instance.private_dns_name.clone()),
        ("local-ipv4s", instance.private_ip.to_string()),
        ("mac", interface.mac.clone()),
        ("owner-id", network.account.clone()),
        ("security-group-ids", interface.security_groups.join("\n")),
        ("security-groups", group_names(state, instance).join("\n")),
        ("subnet-id", instance.subnet_id.clone()),
        ("subnet-ipv4-cidr-block", subnet.unwrap_or_default()),
        ("vpc-id", instance.vpc_id.clone()),
        ("vpc-ipv4-cidr-block", network.vpc.cidr.clone()),
        ("vpc-ipv4-cidr-blocks", network.vpc.cidr.clone()),
    ])
}

/// `dynamic/`. The signatures beside the document are not there: only Amazon can make them.
fn dynamic(state: &State, instance: &Instance) -> Dir {
    let network = state.network();
    let document = serde_json::json!({
        "accountId": network.account,
        "architecture": InstanceType::find(&instance.instance_type).map_or("x86_64", |known| known.arch),
        "availabilityZone": instance.zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "marketplaceProductCodes": null,
        "imageId": IMAGE,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "kernelId": null,
        "pendingTime": seconds(launched(instance)),
        "privateIp": instance.private_ip,
        "ramdiskId": null,
        "region": network.region,
        "version": "2017-09-30",
    });
    let mut dir = Dir::default();
    dir.dir("instance-identity", Dir::leaves([("document", pretty(&document))]));
    dir
}

fn credentials(auth: &Auth, session: &Session, updated: At) -> String {
    let credentials = auth.issue(session);
    pretty(&serde_json::json!({
        "Code": "Success",
        "LastUpdated": seconds(updated),
        "Type": "AWS-HMAC",
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": seconds(session.expires),
    }))
}

/// JSON as IMDS writes it: two spaces, and one on either side of a colon.
fn pretty(value: &serde_json::Value) -> String {
    let fields = value.as_object().into_iter().flatten().map(|(name, value)| format!("  \"{name}\" : {value}"));
    format!("{{\n{}\n}}", fields.collect::<Vec<_>>().join(",\n"))
}

fn seconds(at: At) -> String {
    crate::events::seconds(at)
}

fn partition(region: &str) -> (&'static str, &'static str) {
    match region {
        _ if region.starts_with("cn-") => ("aws-cn", "amazonaws.com.cn"),
        _ if region.starts_with("us-gov-") => ("aws-us-gov", "amazonaws.com"),
        _ => ("aws", "amazonaws.com"),
    }
}
