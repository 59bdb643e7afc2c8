//! The model of AWS: EC2 (volumes, attachments, snapshots, modifications, instances, network), EFS (file systems,
//! mount targets, access points) and KMS (keys and aliases) as state machines without I/O, clock, randomness or threads.
//!
//! The shell gives an [`Input`] to [`Aws::step`], saves what [`Aws::take_dirty`] returns, and only then carries out the
//! [`Effect`]s and lets the replies among them leave. After a start it calls [`Aws::load`] with the saved records, observes the
//! kernel and gives each machine its `Booted`.

use serde::{Deserialize, Serialize};

pub mod ec2;
pub mod efs;
pub mod faults;
pub mod kms;
pub mod world;

use world::World;

/// A point in time, in milliseconds since the Unix epoch, as the shell saw it. It is only noted beside the state
/// (CreateTime, AttachTime, …); nothing is ever decided on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct At(pub i64);

/// How long things take. The durations of each profile stand beside the machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// As fast as the machine can.
    #[default]
    Instant,
    /// As long as on AWS.
    Aws,
}

/// A record that changed. `value` is JSON; none: the record is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirty {
    pub table: &'static str,
    pub key: String,
    pub value: Option<Vec<u8>>,
}

/// A record that cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saved record {table}/{key} cannot be read: {message}")]
pub struct LoadError {
    pub table: String,
    pub key: String,
    pub message: String,
}

/// All of AWS.
#[derive(Debug, Clone)]
pub struct Aws {
    pub ec2: ec2::State,
    pub efs: efs::State,
    pub kms: kms::State,
    pub faults: faults::State,
}

/// What an AWS begins with: a journal's first line, from which it is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    pub world: World,
    pub profile: Profile,
    /// Saved records: table, key and value.
    pub records: Vec<(String, String, String)>,
    /// The journal has a digest of what followed from each input.
    pub effects: bool,
}

impl Begin {
    /// The AWS that begins so.
    pub fn start(&self) -> Result<Aws, LoadError> {
        let records = self.records.iter().map(|(table, key, value)| (table.as_str(), key.as_str(), value.as_bytes()));
        Aws::load(&self.world, self.profile, records)
    }
}

/// Commands, completions of effects, timers, and what was observed at a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    Ec2(ec2::Input),
    Efs(efs::Input),
    Kms(kms::Input),
    Faults(faults::Input),
}

/// What the shell shall do: reply, arm or disarm a timer, or act on the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Ec2(ec2::Effect),
    Efs(efs::Effect),
    Kms(kms::Effect),
    Faults(faults::Effect),
}

/// Why an input changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Reject {
    #[error(transparent)]
    Ec2(#[from] ec2::Reject),
    #[error(transparent)]
    Efs(#[from] efs::Reject),
    #[error(transparent)]
    Kms(#[from] kms::Reject),
    #[error(transparent)]
    Faults(#[from] faults::Reject),
}

impl Aws {
    /// A new AWS in which only the world's own things exist.
    pub fn new(world: &World, profile: Profile) -> Self {
        Self {
            ec2: ec2::State::new(world, profile),
            efs: efs::State::new(world, profile),
            kms: kms::State::new(world),
            faults: faults::State::new(world),
        }
    }

    /// The tables in which records are saved.
    pub fn tables() -> impl Iterator<Item = &'static str> {
        ec2::TABLES.iter().chain(efs::TABLES).chain(kms::TABLES).chain(faults::TABLES).copied()
    }

    /// AWS as the saved records (table, key, value) say, indexes included. No effects follow; the shell observes the kernel
    /// and gives each machine its `Booted`.
    pub fn load<'a>(
        world: &World,
        profile: Profile,
        records: impl IntoIterator<Item = (&'a str, &'a str, &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut aws = Self::new(world, profile);
        for (table, key, value) in records {
            let known = aws.ec2.restore(table, key, value)?
                || aws.efs.restore(table, key, value)?
                || aws.kms.restore(table, key, value)?
                || aws.faults.restore(table, key, value)?;
            if !known {
                return Err(LoadError { table: table.to_owned(), key: key.to_owned(), message: "no such table".to_owned() });
            }
        }
        Ok(aws)
    }

    /// The one entry. Total: the input is applied, ignored or rejected; a rejected one changed nothing.
    pub fn step(&mut self, at: At, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            // The subnets are EC2's, and mount targets have addresses in them.
            Input::Ec2(ec2::Input::Command(ec2::Command::Register(new))) => {
                let mut effects = Vec::new();
                self.ec2.register(at, new, |ip| self.efs.has_address(ip), &mut effects)?;
                out.extend(effects.into_iter().map(Effect::Ec2));
            }
            Input::Ec2(input) => {
                if let ec2::Input::Command(command) = input {
                    self.check_across(command)?;
                }
                let held = self.hold(input, out);
                let mut effects = Vec::new();
                self.ec2.step_held(at, &self.kms, input, held, &mut effects)?;
                out.extend(effects.into_iter().map(Effect::Ec2));
            }
            Input::Efs(input) => {
                let mut effects = Vec::new();
                self.efs.step(at, &self.ec2, &self.kms, input, &mut effects)?;
                out.extend(effects.into_iter().map(Effect::Efs));
            }
            Input::Kms(input) => {
                let mut effects = Vec::new();
                self.kms.step(at, input, &mut effects)?;
                out.extend(effects.into_iter().map(Effect::Kms));
            }
            Input::Faults(input) => {
                let mut effects = Vec::new();
                let gone = self.faults.step(&self.ec2, input, &mut effects)?;
                out.extend(effects.into_iter().map(Effect::Faults));
                let mut effects = Vec::new();
                gone.iter().for_each(|fault| self.ec2.release(at, fault, &mut effects));
                out.extend(effects.into_iter().map(Effect::Ec2));
            }
        }
        Ok(())
    }

    /// The fault that what a command begins meets. Only a command that is accepted meets one.
    fn hold(&mut self, input: &ec2::Input, out: &mut Vec<Effect>) -> ec2::Held {
        let ec2::Input::Command(command) = input else { return ec2::Held::default() };
        if !self.faults.on_storage() || self.dry_run(command).is_err() {
            return ec2::Held::default();
        }
        let Some(call) = self.ec2.begins(command) else { return ec2::Held::default() };
        let mut effects = Vec::new();
        let held = self.faults.hold(&call, &mut effects);
        out.extend(effects.into_iter().map(Effect::Faults));
        held
    }

    /// What EC2 refuses because of EFS: a security group that a mount target's interface carries.
    fn check_across(&self, command: &ec2::Command) -> Result<(), ec2::Reject> {
        if let ec2::Command::DeleteSecurityGroup { group_id } = command
            && self.efs.mount_targets().any(|target| target.security_groups.contains(group_id))
        {
            return Err(ec2::Reject::GroupInUse { group: group_id.clone() });
        }
        Ok(())
    }

    /// Whether EC2 would accept a command: what a dry run answers.
    pub fn dry_run(&self, command: &ec2::Command) -> Result<(), ec2::Reject> {
        self.ec2.dry_run(&self.kms, command)?;
        self.check_across(command)
    }

    /// The records that changed since the last call, to be saved together before any effect starts or reply leaves.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut dirty = self.ec2.take_dirty();
        dirty.extend(self.efs.take_dirty());
        dirty.extend(self.kms.take_dirty());
        dirty.extend(self.faults.take_dirty());
        dirty
    }
}
