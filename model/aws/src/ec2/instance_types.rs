//! Instance types: what DescribeInstanceTypes says and what AttachVolume enforces (ebs.md §3.6; EC2 user guide, volume limits).

/// One type. `ebs_limit` counts EBS volumes with the root volume; where it is `shared`, network interfaces count too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceType {
    pub name: &'static str,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub ebs_limit: u32,
    pub shared: bool,
    pub interfaces: u32,
    pub addresses_per_interface: u32,
    pub arch: &'static str,
    pub burstable: bool,
}

const fn nitro(name: &'static str, vcpus: u32, gib: u32, interfaces: u32, addresses: u32) -> InstanceType {
    InstanceType {
        name,
        vcpus,
        memory_mib: gib * 1024,
        ebs_limit: 27,
        shared: true,
        interfaces,
        addresses_per_interface: addresses,
        arch: "x86_64",
        burstable: false,
    }
}

const fn dedicated(limit: u32, base: InstanceType) -> InstanceType {
    InstanceType { ebs_limit: limit, shared: false, ..base }
}

const fn burstable(base: InstanceType) -> InstanceType {
    InstanceType { burstable: true, ..base }
}

const fn arm(base: InstanceType) -> InstanceType {
    InstanceType { arch: "arm64", ..base }
}

impl InstanceType {
    /// Whether its hypervisor is Nitro, so that volumes are NVMe devices.
    pub fn is_nitro(&self) -> bool {
        !self.name.starts_with("m4.") && !self.name.starts_with("t2.")
    }
}

/// By name.
pub(super) const TYPES: &[InstanceType] = &[
    nitro("c5.2xlarge", 8, 16, 4, 15),
    nitro("c5.4xlarge", 16, 32, 8, 30),
    nitro("c5.large", 2, 4, 3, 10),
    nitro("c5.xlarge", 4, 8, 4, 15),
    nitro("c6i.2xlarge", 8, 16, 4, 15),
    nitro("c6i.4xlarge", 16, 32, 8, 30),
    nitro("c6i.large", 2, 4, 3, 10),
    nitro("c6i.xlarge", 4, 8, 4, 15),
    dedicated(32, nitro("c7i.large", 2, 4, 3, 10)),
    dedicated(32, nitro("c7i.xlarge", 4, 8, 4, 15)),
    dedicated(39, nitro("m4.large", 2, 8, 2, 10)),
    dedicated(39, nitro("m4.xlarge", 4, 16, 4, 15)),
    nitro("m5.12xlarge", 48, 192, 8, 30),
    nitro("m5.24xlarge", 96, 384, 15, 50),
    nitro("m5.2xlarge", 8, 32, 4, 15),
    nitro("m5.4xlarge", 16, 64, 8, 30),
    nitro("m5.8xlarge", 32, 128, 8, 30),
    nitro("m5.large", 2, 8, 3, 10),
    nitro("m5.xlarge", 4, 16, 4, 15),
    nitro("m5a.large", 2, 8, 3, 10),
    nitro("m5a.xlarge", 4, 16, 4, 15),
    nitro("m6i.2xlarge", 8, 32, 4, 15),
    nitro("m6i.4xlarge", 16, 64, 8, 30),
    nitro("m6i.large", 2, 8, 3, 10),
    nitro("m6i.xlarge", 4, 16, 4, 15),
    arm(nitro("m6g.large", 2, 8, 3, 10)),
    arm(nitro("m6g.xlarge", 4, 16, 4, 15)),
    dedicated(32, nitro("m7i.2xlarge", 8, 32, 4, 15)),
    dedicated(32, nitro("m7i.large", 2, 8, 3, 10)),
    dedicated(32, nitro("m7i.xlarge", 4, 16, 4, 15)),
    nitro("r5.2xlarge", 8, 64, 4, 15),
    nitro("r5.large", 2, 16, 3, 10),
    nitro("r5.xlarge", 4, 32, 4, 15),
    nitro("r6i.large", 2, 16, 3, 10),
    nitro("r6i.xlarge", 4, 32, 4, 15),
    dedicated(39, burstable(nitro("t2.medium", 2, 4, 3, 6))),
    dedicated(39, burstable(nitro("t2.micro", 1, 1, 2, 2))),
    burstable(nitro("t3.2xlarge", 8, 32, 4, 15)),
    burstable(nitro("t3.large", 2, 8, 3, 12)),
    burstable(nitro("t3.medium", 2, 4, 3, 6)),
    burstable(nitro("t3.micro", 2, 1, 2, 2)),
    burstable(nitro("t3.small", 2, 2, 3, 4)),
    burstable(nitro("t3.xlarge", 4, 16, 4, 15)),
    arm(burstable(nitro("t4g.large", 2, 8, 3, 12))),
    arm(burstable(nitro("t4g.medium", 2, 4, 3, 6))),
];

impl InstanceType {
    pub fn all() -> &'static [InstanceType] {
        TYPES
    }

    pub fn find(name: &str) -> Option<&'static InstanceType> {
        TYPES.iter().find(|instance_type| instance_type.name == name)
    }
}
