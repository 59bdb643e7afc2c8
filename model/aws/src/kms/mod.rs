//! KMS: keys, their aliases, and who may use one. Nothing is encrypted with them: what counts is whether a key exists and is
//! enabled, since volumes and file systems depend on that (ebs.md §7, row 17; users.md §6).
//!
//! ```text
//! CreateKey ─▶ Enabled ◀──▶ Disabled ──ScheduleKeyDeletion──▶ PendingDeletion ──days──▶ (gone, with its aliases)
//!                 └────────ScheduleKeyDeletion────────────────▶  │
//!                               Disabled ◀──CancelKeyDeletion────┘
//! ```

mod alias;
mod key;
mod reject;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::efs::Key as Number;
pub use alias::Alias;
pub use key::{Key, KeyState};
pub use reject::{Reject, reject_to_error};

use crate::efs::table::{self, Row, Table};
use crate::world::World;
use crate::{At, Dirty, LoadError};

/// The tables of this machine's records.
pub const TABLES: &[&str] = &[Key::TABLE, Alias::TABLE, META];
const META: &str = "kms/meta";
const NEXT: &str = "next";

/// The keys of AWS itself that services use when none is named.
pub const EBS: &str = "alias/aws/ebs";
pub const EFS: &str = "alias/aws/elasticfilesystem";
const MANAGED: [(&str, &str); 2] = [
    (EBS, "Default key that protects my EBS volumes when no other key is defined"),
    (EFS, "Default key that protects my EFS filesystems when no other key is defined"),
];

/// Ids of KMS are made from another seed than those of EC2 and EFS.
const SALT: u64 = 0x6b6d_735f_6964_7321;

/// What happens to KMS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    Command(Command),
    Fired(Timer),
    /// The process started with this state.
    Booted,
}

/// A request that changes something. Keys are named by id or ARN, as the client wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    CreateKey { description: String, tags: BTreeMap<String, String> },
    EnableKey { key_id: String },
    DisableKey { key_id: String },
    ScheduleKeyDeletion { key_id: String, days: Option<i64> },
    CancelKeyDeletion { key_id: String },
    CreateAlias { name: String, key_id: String },
    DeleteAlias { name: String },
    TagResource { key_id: String, tags: BTreeMap<String, String> },
    UntagResource { key_id: String, keys: Vec<String> },
}

/// What the shell shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Reply(Reply),
    Arm(Timer, Duration),
    Disarm(Timer),
}

/// What a command gives back: the key as it is right after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Key(Box<Key>),
    Done,
}

/// Something that is awaited.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Timer {
    /// A key's waiting period before deletion is over.
    Deletion(Number),
}

/// What a service that asks for a key finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The key's ARN; of an unknown key, the name as an ARN.
    pub arn: String,
    /// It exists and is enabled.
    pub usable: bool,
}

/// All of KMS in one account and region.
#[derive(Debug, Clone)]
pub struct State {
    seed: u64,
    account: String,
    region: String,
    /// The number of the next thing made; numbers are never used again.
    next: Number,
    next_dirty: bool,
    keys: Table<Key>,
    aliases: Table<Alias>,
}

impl State {
    /// KMS with only AWS's own keys in it.
    pub fn new(world: &World) -> Self {
        let mut state = Self {
            seed: world.seed ^ SALT,
            account: world.account.clone(),
            region: world.region.clone(),
            next: 1,
            next_dirty: false,
            keys: Table::default(),
            aliases: Table::default(),
        };
        // They follow from the world, so they are not saved.
        for (alias, description) in MANAGED {
            let number = state.new_number();
            let key = Key::new(state.uuid(number), description, BTreeMap::new(), true, At::default());
            state.aliases.restore(number, Alias { name: alias.to_owned(), key: number, created: At::default() });
            state.keys.restore(number, key);
        }
        state.next_dirty = false;
        state
    }

    /// Takes back a saved record; false when the table is not of this machine.
    pub fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> Result<bool, LoadError> {
        match table {
            Key::TABLE => {
                let (number, row) = table::parse::<Key>(key, value)?;
                self.keys.restore(number, row);
            }
            Alias::TABLE => {
                let (number, row) = table::parse::<Alias>(key, value)?;
                self.aliases.restore(number, row);
            }
            META if key == NEXT => {
                let error =
                    |error: serde_json::Error| LoadError { table: table.to_owned(), key: key.to_owned(), message: error.to_string() };
                self.next = serde_json::from_slice(value).map_err(error)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The one entry. A rejected input changed nothing.
    pub fn step(&mut self, at: At, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Command(command) => {
                let reply = self.command(at, command, out)?;
                out.push(Effect::Reply(reply));
            }
            Input::Fired(Timer::Deletion(number)) => self.delete_key(*number),
            // Timers start anew: a pause of the process makes waits longer, never shorter.
            Input::Booted => out.extend(self.keys.iter().filter_map(|(number, key)| key.deletion(number))),
        }
        Ok(())
    }

    fn command(&mut self, at: At, command: &Command, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        match command {
            Command::CreateKey { description, tags } => self.create_key(at, description, tags),
            Command::EnableKey { key_id } => self.set_state(key_id, "EnableKey", KeyState::Enabled),
            Command::DisableKey { key_id } => self.set_state(key_id, "DisableKey", KeyState::Disabled),
            Command::ScheduleKeyDeletion { key_id, days } => self.schedule_deletion(at, key_id, *days, out),
            Command::CancelKeyDeletion { key_id } => self.cancel_deletion(key_id, out),
            Command::CreateAlias { name, key_id } => self.create_alias(at, name, key_id),
            Command::DeleteAlias { name } => self.delete_alias(name),
            Command::TagResource { key_id, tags } => self.retag(key_id, "TagResource", |all| all.extend(tags.clone())),
            Command::UntagResource { key_id, keys } => self.retag(key_id, "UntagResource", |all| all.retain(|key, _| !keys.contains(key))),
        }
    }

    /// The records that changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut dirty = Vec::new();
        if std::mem::take(&mut self.next_dirty) {
            dirty.push(Dirty { table: META, key: NEXT.to_owned(), value: Some(self.next.to_string().into_bytes()) });
        }
        self.keys.take_dirty(&mut dirty);
        self.aliases.take_dirty(&mut dirty);
        dirty
    }

    /// Kind, id and state of a changed key, for who watches. The id of a removed key is made from its number.
    pub fn changed<'a>(&'a self, dirty: &Dirty) -> Option<(&'static str, Cow<'a, str>, Option<&'static str>)> {
        if dirty.table != Key::TABLE {
            return None;
        }
        match self.keys.stored(&dirty.key) {
            Some(key) => Some(("key", Cow::Borrowed(key.id.as_str()), Some(key.state.name()))),
            None => Some(("key", Cow::Owned(self.uuid(Number::from_str_radix(&dirty.key, 16).ok()?)), None)),
        }
    }

    /// What a service finds that wants to use the key of a name (id, ARN, alias or alias ARN), or else the one behind `default`.
    pub fn grant(&self, name: Option<&str>, default: &str) -> Grant {
        let name = name.unwrap_or(default);
        match self.find(name) {
            Ok((_, key)) => Grant { arn: self.arn(key), usable: key.state == KeyState::Enabled },
            Err(_) => {
                let unknown = if name.starts_with("alias/") { name.to_owned() } else { format!("key/{name}") };
                let arn = if name.starts_with("arn:") { name.to_owned() } else { self.arn_of(&unknown) };
                Grant { arn, usable: false }
            }
        }
    }

    /// Whether the key of an ARN exists and is enabled.
    pub fn usable(&self, arn: &str) -> bool {
        self.find(arn).is_ok_and(|(_, key)| key.state == KeyState::Enabled)
    }

    /// `arn:aws:kms:us-east-1:000000000000:key/…`
    fn arn_of(&self, resource: &str) -> String {
        format!("arn:aws:kms:{}:{}:{resource}", self.region, self.account)
    }

    fn new_number(&mut self) -> Number {
        let number = self.next;
        self.next += 1;
        self.next_dirty = true;
        number
    }

    /// The id of a key: a UUID (version 4 in form), another for each number.
    fn uuid(&self, number: Number) -> String {
        let first = model_common::pick::hex17(self.seed, number);
        let second = model_common::pick::hex17(!self.seed, number);
        let part = |text: &str, from: usize, to: usize| text.get(from..to).unwrap_or_default().to_owned();
        // The first 16 digits differ for each number, and all of them are in it.
        let (a, b, c) = (part(&first, 1, 9), part(&first, 9, 13), part(&first, 13, 16));
        let (d, e) = (part(&second, 1, 4), format!("{}{}", part(&first, 16, 17), part(&second, 4, 15)));
        format!("{a}-{b}-4{c}-8{d}-{e}")
    }
}

#[cfg(test)]
mod tests;
