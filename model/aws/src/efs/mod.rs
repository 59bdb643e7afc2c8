//! EFS. Nothing is built here yet.

use serde::{Deserialize, Serialize};

use crate::world::World;
use crate::{At, Dirty, LoadError, Profile, ec2};

/// The tables of this machine's records.
pub const TABLES: &[&str] = &[];

#[derive(Debug, Clone, Default)]
pub struct State {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reject {}

impl State {
    pub fn new(_world: &World, _profile: Profile) -> Self {
        Self {}
    }

    /// Takes back a saved record; false when the table is not of this machine.
    pub fn restore(&mut self, _table: &str, _key: &str, _value: &[u8]) -> Result<bool, LoadError> {
        Ok(false)
    }

    pub fn step(&mut self, _at: At, _ec2: &ec2::State, input: &Input, _out: &mut Vec<Effect>) -> Result<(), Reject> {
        match *input {}
    }

    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        Vec::new()
    }
}
