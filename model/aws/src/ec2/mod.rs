//! EC2: volumes, attachments, snapshots, modifications, instances, network.

pub mod network;
mod reject;

use serde::{Deserialize, Serialize};

pub use reject::{Reject, reject_to_error};

use crate::world::World;
use crate::{At, Dirty, LoadError, Profile};

/// The tables of this machine's records.
pub const TABLES: &[&str] = &[];

#[derive(Debug, Clone)]
pub struct State {
    pub(crate) network: network::Network,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {}

impl State {
    pub fn new(world: &World, _profile: Profile) -> Self {
        Self { network: network::Network::new(world) }
    }

    /// Zones, the VPC, subnets and security groups.
    pub fn network(&self) -> &network::Network {
        &self.network
    }

    /// Takes back a saved record; false when the table is not of this machine.
    pub fn restore(&mut self, _table: &str, _key: &str, _value: &[u8]) -> Result<bool, LoadError> {
        Ok(false)
    }

    pub fn step(&mut self, _at: At, input: &Input, _out: &mut Vec<Effect>) -> Result<(), Reject> {
        match *input {}
    }

    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        Vec::new()
    }
}
