//! DescribeInstances, DescribeInstanceTypes, ModifyInstanceMetadataOptions.

use model_aws::ec2::network::Network;
use model_aws::ec2::{Command, Instance, InstanceType, MetadataChange, Reply, State};
use serde::{Deserialize, Serialize};

use super::security_groups::GroupName;
use super::{Answer, Tag, error_of, no_reply, run, tag_set, time};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

super::describe_request!(DescribeInstancesRequest, "InstanceId");
super::describe_request!(DescribeInstanceTypesRequest, "InstanceType", include_unsupported_in_region);

/// When the world's instances were started: nobody saw it.
const LAUNCHED: model_aws::At = model_aws::At(1_704_067_200_000);

/// When an instance was started.
pub fn launched(instance: &Instance) -> model_aws::At {
    instance.launched.unwrap_or(LAUNCHED)
}

/// The image of the world's instances.
pub const IMAGE: &str = "ami-0ebb71de000000001";
/// The role of the nodes, and the name of its instance profile.
pub const NODE_ROLE: &str = "ebbtide-node";

/// The ARN of the nodes' instance profile.
pub fn profile_arn(network: &Network) -> String {
    format!("arn:aws:iam::{}:instance-profile/{NODE_ROLE}", network.account)
}

/// Its id.
pub fn profile_id() -> String {
    crate::sts::unique_id("AIPA", NODE_ROLE)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Instances {
    reservation_set: Vec<Reservation>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    reservation_id: String,
    owner_id: String,
    group_set: Vec<GroupName>,
    instances_set: Vec<InstanceXml>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InstanceXml {
    instance_id: String,
    image_id: &'static str,
    instance_state: InstanceState,
    private_dns_name: String,
    dns_name: &'static str,
    reason: &'static str,
    ami_launch_index: u32,
    product_codes: Vec<Tag>,
    instance_type: String,
    launch_time: String,
    placement: Placement,
    monitoring: Monitoring,
    subnet_id: String,
    vpc_id: String,
    private_ip_address: String,
    source_dest_check: bool,
    group_set: Vec<GroupName>,
    architecture: &'static str,
    root_device_type: &'static str,
    root_device_name: String,
    block_device_mapping: Vec<BlockDevice>,
    virtualization_type: &'static str,
    tag_set: Option<Vec<Tag>>,
    hypervisor: &'static str,
    network_interface_set: Vec<InstanceInterface>,
    ebs_optimized: bool,
    ena_support: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iam_instance_profile: Option<Profile>,
    metadata_options: MetadataOptions,
}

#[derive(Debug, Serialize)]
struct InstanceState {
    code: u32,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Placement {
    availability_zone: String,
    availability_zone_id: Option<String>,
    group_name: &'static str,
    tenancy: &'static str,
}

#[derive(Debug, Serialize)]
struct Monitoring {
    state: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockDevice {
    device_name: String,
    ebs: Ebs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ebs {
    volume_id: String,
    status: &'static str,
    attach_time: String,
    delete_on_termination: bool,
    ebs_card_index: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InstanceInterface {
    network_interface_id: String,
    subnet_id: String,
    vpc_id: String,
    description: &'static str,
    owner_id: String,
    status: &'static str,
    mac_address: String,
    private_ip_address: String,
    private_dns_name: String,
    source_dest_check: bool,
    group_set: Vec<GroupName>,
    attachment: InterfaceAttachment,
    interface_type: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceAttachment {
    attachment_id: String,
    device_index: u32,
    status: &'static str,
    attach_time: String,
    delete_on_termination: bool,
    network_card_index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_owner_id: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataOptions {
    state: &'static str,
    http_tokens: &'static str,
    http_put_response_hop_limit: u8,
    http_endpoint: &'static str,
    http_protocol_ipv6: &'static str,
    instance_metadata_tags: &'static str,
}

impl MetadataOptions {
    fn new(of: model_aws::ec2::MetadataOptions, pending: bool) -> Self {
        let switch = |on: bool| if on { "enabled" } else { "disabled" };
        Self {
            state: if pending { "pending" } else { "applied" },
            http_tokens: if of.tokens_required { "required" } else { "optional" },
            http_put_response_hop_limit: of.hop_limit,
            http_endpoint: switch(of.endpoint),
            http_protocol_ipv6: switch(of.ipv6),
            instance_metadata_tags: switch(of.tags),
        }
    }
}

#[derive(Debug, Serialize)]
struct Profile {
    arn: String,
    id: String,
}

/// Another id with the digits of this one: attachments and reservations of the world's things have no life of their own.
pub fn derived(prefix: &str, id: &str) -> String {
    format!("{prefix}-{}", id.split_once('-').map_or(id, |(_, digits)| digits))
}

impl InterfaceAttachment {
    /// `whole`: with the instance, as DescribeNetworkInterfaces shows it.
    pub fn new(instance: &Instance, owner: &str, whole: bool) -> Self {
        Self {
            attachment_id: derived("eni-attach", &instance.interface.id),
            device_index: 0,
            status: "attached",
            attach_time: time(launched(instance)),
            delete_on_termination: true,
            network_card_index: 0,
            instance_id: whole.then(|| instance.id.to_string()),
            instance_owner_id: whole.then(|| owner.to_owned()),
        }
    }
}

impl InstanceXml {
    fn new(state: &State, instance: &Instance) -> Self {
        let network = state.network();
        let groups = GroupName::all(state, &instance.interface.security_groups);
        let known = InstanceType::find(&instance.instance_type);
        let blocks = state.attached_to(&instance.id).map(|(key, attachment)| BlockDevice {
            device_name: attachment.device.clone(),
            ebs: Ebs {
                volume_id: key.id(state.seed()),
                status: attachment.status().name(),
                attach_time: time(attachment.attached_at),
                delete_on_termination: false,
                ebs_card_index: attachment.card_index,
            },
        });
        Self {
            instance_id: instance.id.to_string(),
            image_id: IMAGE,
            instance_state: InstanceState { code: 16, name: "running" },
            private_dns_name: instance.private_dns_name.clone(),
            dns_name: "",
            reason: "",
            ami_launch_index: 0,
            product_codes: Vec::new(),
            instance_type: instance.instance_type.clone(),
            launch_time: time(launched(instance)),
            placement: Placement {
                availability_zone: instance.zone.clone(),
                availability_zone_id: network.zone(&instance.zone).map(|zone| zone.id.clone()),
                group_name: "",
                tenancy: "default",
            },
            monitoring: Monitoring { state: "disabled" },
            subnet_id: instance.subnet_id.clone(),
            vpc_id: instance.vpc_id.clone(),
            private_ip_address: instance.private_ip.to_string(),
            source_dest_check: true,
            group_set: groups.clone(),
            architecture: known.map_or("x86_64", |known| known.arch),
            root_device_type: "ebs",
            root_device_name: instance.root_device.clone(),
            block_device_mapping: blocks.collect(),
            virtualization_type: "hvm",
            tag_set: tag_set(&instance.tags),
            hypervisor: "xen",
            network_interface_set: vec![InstanceInterface {
                network_interface_id: instance.interface.id.clone(),
                subnet_id: instance.subnet_id.clone(),
                vpc_id: instance.vpc_id.clone(),
                description: "",
                owner_id: network.account.clone(),
                status: "in-use",
                mac_address: instance.interface.mac.clone(),
                private_ip_address: instance.private_ip.to_string(),
                private_dns_name: instance.private_dns_name.clone(),
                source_dest_check: true,
                group_set: groups,
                attachment: InterfaceAttachment::new(instance, &network.account, false),
                interface_type: "interface",
            }],
            ebs_optimized: true,
            ena_support: true,
            iam_instance_profile: instance.node.is_some().then(|| Profile { arn: profile_arn(network), id: profile_id() }),
            metadata_options: MetadataOptions::new(instance.metadata.wanted, instance.metadata.pending),
        }
    }
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeInstancesRequest::read(params)?;
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_instances(&request.ids, &request.filter, &paging)?;
        let reservation = |instance: &Instance| Reservation {
            reservation_id: derived("r", &instance.id),
            owner_id: aws.ec2.network().account.clone(),
            group_set: Vec::new(),
            instances_set: vec![InstanceXml::new(&aws.ec2, instance)],
        };
        Ok(Instances { reservation_set: page.items.into_iter().map(reservation).collect(), next_token: page.next_token })
    });
    XmlBody::new("DescribeInstances", &answer.await.map_err(|reject| error_of(&reject))?)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyMetadataRequest {
    instance_id: String,
    http_endpoint: Option<String>,
    http_tokens: Option<String>,
    http_put_response_hop_limit: Option<i64>,
    http_protocol_ipv6: Option<String>,
    instance_metadata_tags: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModifiedMetadata {
    instance_id: String,
    instance_metadata_options: MetadataOptions,
}

pub async fn modify_metadata(ctx: &Ctx, params: &Params) -> Answer {
    let request: ModifyMetadataRequest = params.read()?;
    let change = MetadataChange {
        instance_id: request.instance_id,
        http_endpoint: request.http_endpoint,
        http_tokens: request.http_tokens,
        hop_limit: request.http_put_response_hop_limit,
        http_protocol_ipv6: request.http_protocol_ipv6,
        instance_metadata_tags: request.instance_metadata_tags,
    };
    match run(ctx, params, Command::ModifyMetadataOptions(change)).await? {
        Reply::MetadataOptions { instance, options } => {
            let instance_metadata_options = MetadataOptions::new(options, true);
            let answer = ModifiedMetadata { instance_id: instance.to_string(), instance_metadata_options };
            XmlBody::new("ModifyInstanceMetadataOptions", &answer)
        }
        _ => Err(no_reply()),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Types {
    instance_type_set: Vec<TypeXml>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TypeXml {
    instance_type: &'static str,
    current_generation: bool,
    free_tier_eligible: bool,
    supported_usage_classes: Vec<&'static str>,
    supported_root_device_types: Vec<&'static str>,
    supported_virtualization_types: Vec<&'static str>,
    bare_metal: bool,
    hypervisor: &'static str,
    processor_info: Processor,
    v_cpu_info: Cpus,
    memory_info: Memory,
    instance_storage_supported: bool,
    ebs_info: EbsInfo,
    network_info: NetworkInfo,
    hibernation_supported: bool,
    burstable_performance_supported: bool,
    dedicated_hosts_supported: bool,
    auto_recovery_supported: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Processor {
    supported_architectures: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Cpus {
    #[serde(rename = "defaultVCpus")]
    default_vcpus: u32,
    #[serde(rename = "defaultCores")]
    default_cores: u32,
    #[serde(rename = "defaultThreadsPerCore")]
    default_threads_per_core: u32,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(rename = "sizeInMiB")]
    size_in_mib: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EbsInfo {
    ebs_optimized_support: &'static str,
    encryption_support: &'static str,
    nvme_support: &'static str,
    maximum_ebs_attachments: u32,
    attachment_limit_type: &'static str,
    maximum_ebs_cards: u32,
    ebs_card_set: Vec<EbsCard>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EbsCard {
    ebs_card_index: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NetworkInfo {
    maximum_network_interfaces: u32,
    maximum_network_cards: u32,
    default_network_card_index: u32,
    ipv4_addresses_per_interface: u32,
    ena_support: &'static str,
    efa_supported: bool,
}

impl TypeXml {
    fn new(of: &InstanceType) -> Self {
        let nitro = of.is_nitro();
        Self {
            instance_type: of.name,
            current_generation: nitro,
            free_tier_eligible: of.name == "t2.micro" || of.name == "t3.micro",
            supported_usage_classes: vec!["on-demand", "spot"],
            supported_root_device_types: vec!["ebs"],
            supported_virtualization_types: vec!["hvm"],
            bare_metal: false,
            hypervisor: if nitro { "nitro" } else { "xen" },
            processor_info: Processor { supported_architectures: vec![of.arch] },
            v_cpu_info: Cpus {
                default_vcpus: of.vcpus,
                default_cores: if of.arch == "arm64" { of.vcpus } else { of.vcpus.div_ceil(2) },
                default_threads_per_core: if of.arch == "arm64" || of.vcpus == 1 { 1 } else { 2 },
            },
            memory_info: Memory { size_in_mib: of.memory_mib },
            instance_storage_supported: false,
            ebs_info: EbsInfo {
                ebs_optimized_support: if of.name.starts_with("t2.") { "unsupported" } else { "default" },
                encryption_support: "supported",
                nvme_support: if nitro { "required" } else { "unsupported" },
                maximum_ebs_attachments: of.ebs_limit,
                attachment_limit_type: if of.shared { "shared" } else { "dedicated" },
                maximum_ebs_cards: 1,
                ebs_card_set: vec![EbsCard { ebs_card_index: 0 }],
            },
            network_info: NetworkInfo {
                maximum_network_interfaces: of.interfaces,
                maximum_network_cards: 1,
                default_network_card_index: 0,
                ipv4_addresses_per_interface: of.addresses_per_interface,
                ena_support: if nitro { "required" } else { "supported" },
                efa_supported: false,
            },
            hibernation_supported: false,
            burstable_performance_supported: of.burstable,
            dedicated_hosts_supported: !of.burstable,
            auto_recovery_supported: true,
        }
    }
}

pub async fn types(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeInstanceTypesRequest::read(params)?;
    let unknown: Vec<&str> = request.ids.iter().map(String::as_str).filter(|name| InstanceType::find(name).is_none()).collect();
    if !unknown.is_empty() {
        let message = format!("The following supplied instance types do not exist: [{}]", unknown.join(", "));
        return Err(Ec2Error::new("InvalidInstanceType", message));
    }
    let wanted = |of: &&InstanceType| request.ids.is_empty() || request.ids.iter().any(|name| name == of.name);
    const NAMES: &[&str] = &["instance-type", "current-generation", "hypervisor", "processor-info.supported-architecture", "bare-metal"];
    let answer = ctx.engine.read(|aws| {
        let mut kept = Vec::new();
        for of in InstanceType::all().iter().filter(wanted) {
            let shown = TypeXml::new(of);
            let fields = |name: &str| match name {
                "instance-type" => vec![of.name.to_owned()],
                "current-generation" => vec![shown.current_generation.to_string()],
                "hypervisor" => vec![shown.hypervisor.to_owned()],
                "bare-metal" => vec!["false".to_owned()],
                _ => vec![of.arch.to_owned()],
            };
            if aws.ec2.filter_world(&request.filter, NAMES, &Default::default(), fields)? {
                kept.push(shown);
            }
        }
        let page = aws.ec2.page(kept.into_iter(), &paging, !request.ids.is_empty())?;
        Ok(Types { instance_type_set: page.items, next_token: page.next_token })
    });
    XmlBody::new("DescribeInstanceTypes", &answer.await.map_err(|reject| error_of(&reject))?)
}
