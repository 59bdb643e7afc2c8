//! What a volume can be: types and their ranges of size, IOPS and throughput (ebs.md §1.5, §1.11, §1.12).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Reject;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeType {
    Gp2,
    Gp3,
    Io1,
    Io2,
    St1,
    Sc1,
    Standard,
}

impl VolumeType {
    pub const ALL: [VolumeType; 7] = [Self::Gp2, Self::Gp3, Self::Io1, Self::Io2, Self::St1, Self::Sc1, Self::Standard];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gp2 => "gp2",
            Self::Gp3 => "gp3",
            Self::Io1 => "io1",
            Self::Io2 => "io2",
            Self::St1 => "st1",
            Self::Sc1 => "sc1",
            Self::Standard => "standard",
        }
    }

    /// Smallest and largest size in GiB.
    pub fn sizes(self) -> (u32, u32) {
        match self {
            Self::Gp3 => (1, 65_536),
            Self::Gp2 => (1, 16_384),
            Self::Io1 => (4, 16_384),
            Self::Io2 => (4, 65_536),
            Self::St1 | Self::Sc1 => (125, 16_384),
            Self::Standard => (1, 1024),
        }
    }

    /// IOPS that can be asked for: least, most, most a GiB. None: the type does not take them.
    fn iops_range(self) -> Option<(u32, u32, u32)> {
        match self {
            Self::Gp3 => Some((3000, 80_000, 500)),
            Self::Io1 => Some((100, 64_000, 50)),
            Self::Io2 => Some((100, 256_000, 1000)),
            Self::Gp2 | Self::St1 | Self::Sc1 | Self::Standard => None,
        }
    }

    fn multi_attach(self) -> bool {
        matches!(self, Self::Io1 | Self::Io2)
    }
}

impl fmt::Display for VolumeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for VolumeType {
    type Err = Reject;

    fn from_str(name: &str) -> Result<Self, Reject> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| Reject::UnknownVolumeType(name.to_owned()))
    }
}

/// What ModifyVolume can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Spec {
    pub volume_type: VolumeType,
    pub size_gib: u32,
    /// As DescribeVolumes shows them: provisioned, or those that gp2 derives from its size; none where the type has none.
    pub iops: Option<u32>,
    /// MiB/s; gp3 only.
    pub throughput: Option<u32>,
    pub multi_attach: bool,
}

/// What a request says of a spec; what it leaves out is filled in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    pub size_gib: u32,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub multi_attach: bool,
}

impl Spec {
    /// Checks a request in EC2's order and fills in the type's own values.
    pub fn new(volume_type: VolumeType, asked: Asked) -> Result<Self, Reject> {
        // First of all: the CSI driver asks for the IOPS limit of st1 with a size that st1 does not have (ebs.md §1.5).
        if asked.iops.is_some() && volume_type.iops_range().is_none() {
            return Err(Reject::IopsNotSupported(volume_type));
        }
        let (least, most) = volume_type.sizes();
        let size_gib = asked.size_gib;
        if size_gib < least {
            return Err(Reject::SizeTooSmall { volume_type, size_gib, least });
        }
        if size_gib > most {
            return Err(Reject::SizeTooLarge { volume_type, size_gib, most });
        }
        if asked.multi_attach && !volume_type.multi_attach() {
            return Err(Reject::NoMultiAttach(volume_type));
        }
        let iops = Self::check_iops(volume_type, size_gib, asked.iops)?;
        let throughput = Self::check_throughput(volume_type, iops, asked.throughput)?;
        Ok(Self { volume_type, size_gib, iops, throughput, multi_attach: asked.multi_attach })
    }

    fn check_iops(volume_type: VolumeType, size_gib: u32, asked: Option<u32>) -> Result<Option<u32>, Reject> {
        let Some((least, most, ratio)) = volume_type.iops_range() else {
            let derived = (volume_type == VolumeType::Gp2).then(|| (3 * size_gib).clamp(100, 16_000));
            return Ok(derived);
        };
        let Some(iops) = asked else {
            return if volume_type == VolumeType::Gp3 { Ok(Some(least)) } else { Err(Reject::IopsRequired(volume_type)) };
        };
        if iops < least {
            return Err(Reject::IopsTooLow { iops, least });
        }
        // The base of gp3 comes with any size; what is above it must be earned by size.
        let too_steep = u64::from(iops) > u64::from(ratio) * u64::from(size_gib) && iops > least;
        if volume_type == VolumeType::Io2 && (iops > most || too_steep) {
            return Err(Reject::Io2TooHigh);
        }
        if iops > most {
            return Err(Reject::IopsTooHigh { iops, most });
        }
        if too_steep {
            return Err(Reject::IopsRatio { iops, size_gib, ratio });
        }
        Ok(Some(iops))
    }

    fn check_throughput(volume_type: VolumeType, iops: Option<u32>, asked: Option<u32>) -> Result<Option<u32>, Reject> {
        match (volume_type, asked) {
            (VolumeType::Gp3, asked) => {
                let throughput = asked.unwrap_or(125);
                if throughput < 125 {
                    return Err(Reject::ThroughputTooLow { throughput, least: 125 });
                }
                if throughput > 2000 {
                    return Err(Reject::ThroughputTooHigh { throughput, most: 2000 });
                }
                // 0.25 MiB/s an IOPS.
                if u64::from(throughput) * 4 > u64::from(iops.unwrap_or(0)) {
                    return Err(Reject::ThroughputRatio { throughput, iops: iops.unwrap_or(0) });
                }
                Ok(Some(throughput))
            }
            (_, Some(_)) => Err(Reject::ThroughputNotSupported(volume_type)),
            (_, None) => Ok(None),
        }
    }

    /// The bytes of the device.
    pub fn bytes(&self) -> u64 {
        u64::from(self.size_gib) << 30
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(volume_type: VolumeType, size_gib: u32, iops: Option<u32>, throughput: Option<u32>) -> Result<Spec, Reject> {
        Spec::new(volume_type, Asked { size_gib, iops, throughput, multi_attach: false })
    }

    #[test]
    fn types_fill_in_their_own_values() {
        let of = |volume_type, size, iops| spec(volume_type, size, iops, None).map(|spec| (spec.iops, spec.throughput));
        assert_eq!(of(VolumeType::Gp3, 1, None), Ok((Some(3000), Some(125))));
        assert_eq!(of(VolumeType::Gp2, 1, None), Ok((Some(100), None)));
        assert_eq!(of(VolumeType::Gp2, 100, None), Ok((Some(300), None)));
        assert_eq!(of(VolumeType::Gp2, 16_384, None), Ok((Some(16_000), None)));
        assert_eq!(of(VolumeType::Io1, 4, Some(200)), Ok((Some(200), None)));
        assert_eq!(of(VolumeType::St1, 125, None), Ok((None, None)));
    }

    #[test]
    fn ranges_are_those_of_ec2() {
        use VolumeType::*;
        let reject = |volume_type, size, iops, throughput| spec(volume_type, size, iops, throughput).unwrap_err();
        assert_eq!(reject(Gp2, 0, None, None), Reject::SizeTooSmall { volume_type: Gp2, size_gib: 0, least: 1 });
        assert_eq!(reject(St1, 4, None, None), Reject::SizeTooSmall { volume_type: St1, size_gib: 4, least: 125 });
        assert_eq!(reject(Standard, 1025, None, None), Reject::SizeTooLarge { volume_type: Standard, size_gib: 1025, most: 1024 });
        assert_eq!(reject(Io1, 4, None, None), Reject::IopsRequired(Io1));
        assert_eq!(reject(Gp2, 4, Some(100), None), Reject::IopsNotSupported(Gp2));
        assert_eq!(reject(St1, 4, Some(2_147_483_647), None), Reject::IopsNotSupported(St1));
        assert_eq!(reject(Gp3, 4, Some(2_147_483_647), None), Reject::IopsTooHigh { iops: 2_147_483_647, most: 80_000 });
        assert_eq!(reject(Io2, 4, Some(2_147_483_647), None), Reject::Io2TooHigh);
        assert_eq!(reject(Io1, 4, Some(50), None), Reject::IopsTooLow { iops: 50, least: 100 });
        assert_eq!(reject(Gp3, 7, Some(3501), None), Reject::IopsRatio { iops: 3501, size_gib: 7, ratio: 500 });
        assert_eq!(reject(Gp3, 4, None, Some(1001)), Reject::ThroughputRatio { throughput: 1001, iops: 3000 });
        assert_eq!(reject(Gp2, 4, None, Some(125)), Reject::ThroughputNotSupported(Gp2));
    }
}
