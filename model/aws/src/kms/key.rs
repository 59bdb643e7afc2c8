//! Keys: made, switched on and off, deleted after a waiting period.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Effect, Number, Reject, Reply, State, Timer};
use crate::At;
use crate::efs::table::Row;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MOST_TAGS: usize = 50;
const LONGEST_DESCRIPTION: usize = 8192;

/// A key as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// A UUID.
    pub id: String,
    pub description: String,
    pub state: KeyState,
    pub tags: BTreeMap<String, String>,
    /// AWS's own, which nobody changes.
    pub managed: bool,
    /// Noted for CreationDate; nothing is decided on it.
    pub created: At,
}

/// The state that DescribeKey shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyState {
    Enabled,
    Disabled,
    /// `since` is noted for DeletionDate; the waiting period is a timer.
    PendingDeletion {
        days: u8,
        since: At,
    },
}

impl KeyState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion { .. } => "PendingDeletion",
        }
    }

    /// When the waiting period ends.
    pub fn deletion_date(self) -> Option<At> {
        match self {
            Self::Enabled | Self::Disabled => None,
            Self::PendingDeletion { days, since } => Some(At(since.0.saturating_add(i64::from(days) * 24 * 3600 * 1000))),
        }
    }
}

impl Row for Key {
    const TABLE: &'static str = "kms/keys";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Key {
    pub(super) fn new(id: String, description: &str, tags: BTreeMap<String, String>, managed: bool, created: At) -> Self {
        Self { id, description: description.to_owned(), state: KeyState::Enabled, tags, managed, created }
    }

    /// The timer of a key that is to be deleted.
    pub(super) fn deletion(&self, number: Number) -> Option<Effect> {
        match self.state {
            KeyState::Enabled | KeyState::Disabled => None,
            KeyState::PendingDeletion { days, .. } => Some(Effect::Arm(Timer::Deletion(number), DAY * u32::from(days))),
        }
    }
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Reject> {
    for (key, value) in tags {
        let reserved = key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
        if reserved {
            return Err(Reject::ReservedTag);
        }
        if key.is_empty() || key.chars().count() > 128 {
            return Err(Reject::invalid("tagKey", key, "Member must have length between 1 and 128"));
        }
        if value.chars().count() > 256 {
            return Err(Reject::invalid("tagValue", value, "Member must have length less than or equal to 256"));
        }
    }
    if tags.len() > MOST_TAGS { Err(Reject::TooManyTags) } else { Ok(()) }
}

impl State {
    /// The key of an id, ARN, alias or alias ARN.
    pub fn find(&self, name: &str) -> Result<(Number, &Key), Reject> {
        let own = self.arn_of("");
        let resource = name.strip_prefix(&own);
        let alias = resource.or(Some(name)).filter(|name| name.starts_with("alias/"));
        if let Some(alias) = alias {
            let number = self.aliases.key(alias).and_then(|number| self.aliases.get(number)).map(|alias| alias.key);
            let found = number.and_then(|number| Some((number, self.keys.get(number)?)));
            return found.ok_or_else(|| Reject::NoAlias(self.arn_of(alias)));
        }
        self.find_by_id(name)
    }

    /// The key of an id or ARN.
    fn find_by_id(&self, name: &str) -> Result<(Number, &Key), Reject> {
        let own = self.arn_of("key/");
        let id = name.strip_prefix(&own).unwrap_or(name);
        if let Some(number) = self.keys.key(id) {
            return self.keys.get(number).map(|key| (number, key)).ok_or_else(|| Reject::NoKey(name.to_owned()));
        }
        if name.starts_with("arn:") {
            return Err(Reject::NoKey(name.to_owned()));
        }
        let well_formed = id.len() == 36
            && id
                .bytes()
                .enumerate()
                .all(|(at, byte)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() });
        Err(if well_formed { Reject::NoKey(self.arn_of(&format!("key/{id}"))) } else { Reject::InvalidKeyId(name.to_owned()) })
    }

    /// The key that an action may change: not by alias, and not one of AWS's own.
    pub(super) fn own_key(&self, name: &str, action: &str) -> Result<(Number, &Key), Reject> {
        let (number, key) = self.find_by_id(name)?;
        if key.managed {
            return Err(Reject::Managed { account: self.account.clone(), action: action.to_owned(), arn: self.arn(key) });
        }
        Ok((number, key))
    }

    pub fn arn(&self, key: &Key) -> String {
        self.arn_of(&format!("key/{}", key.id))
    }

    pub fn account(&self) -> &str {
        &self.account
    }

    /// The keys after a number, in the order of creation.
    pub fn keys_after(&self, number: Number) -> impl Iterator<Item = (Number, &Key)> {
        self.keys.after(number)
    }

    fn change_key(&mut self, number: Number, change: impl FnOnce(&mut Key)) -> Reply {
        match self.keys.get_mut(number) {
            Some(key) => {
                change(key);
                Reply::Key(Box::new(key.clone()))
            }
            None => Reply::Done,
        }
    }

    pub(super) fn create_key(&mut self, at: At, description: &str, tags: &BTreeMap<String, String>) -> Result<Reply, Reject> {
        if description.chars().count() > LONGEST_DESCRIPTION {
            return Err(Reject::invalid("description", description, "Member must have length less than or equal to 8192"));
        }
        check_tags(tags)?;
        let number = self.new_number();
        let key = Key::new(self.uuid(number), description, tags.clone(), false, at);
        self.keys.insert(number, key.clone());
        Ok(Reply::Key(Box::new(key)))
    }

    pub(super) fn set_state(&mut self, name: &str, action: &str, state: KeyState) -> Result<Reply, Reject> {
        let (number, key) = self.own_key(name, action)?;
        self.not_pending(key)?;
        Ok(self.change_key(number, |key| key.state = state))
    }

    pub(super) fn not_pending(&self, key: &Key) -> Result<(), Reject> {
        match key.state {
            KeyState::Enabled | KeyState::Disabled => Ok(()),
            KeyState::PendingDeletion { .. } => Err(Reject::PendingDeletion(self.arn(key))),
        }
    }

    pub(super) fn schedule_deletion(&mut self, at: At, name: &str, days: Option<i64>, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        let days = days.unwrap_or(30);
        let days = u8::try_from(days)
            .ok()
            .filter(|days| (7..=30).contains(days))
            .ok_or_else(|| Reject::invalid("pendingWindowInDays", days.to_string(), "Member must have value between 7 and 30"))?;
        let (number, key) = self.own_key(name, "ScheduleKeyDeletion")?;
        self.not_pending(key)?;
        let reply = self.change_key(number, |key| key.state = KeyState::PendingDeletion { days, since: at });
        out.extend(self.keys.get(number).and_then(|key| key.deletion(number)));
        Ok(reply)
    }

    pub(super) fn cancel_deletion(&mut self, name: &str, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        let (number, key) = self.own_key(name, "CancelKeyDeletion")?;
        if self.not_pending(key).is_ok() {
            return Err(Reject::NotPendingDeletion(self.arn(key)));
        }
        out.push(Effect::Disarm(Timer::Deletion(number)));
        Ok(self.change_key(number, |key| key.state = KeyState::Disabled))
    }

    /// The waiting period is over. A timer of a deletion that was cancelled meanwhile says nothing.
    pub(super) fn delete_key(&mut self, number: Number) {
        if self.keys.get(number).is_some_and(|key| key.deletion(number).is_some()) {
            self.keys.remove(number);
            self.delete_aliases_of(number);
        }
    }

    pub(super) fn retag(&mut self, name: &str, action: &str, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<Reply, Reject> {
        let (number, key) = self.own_key(name, action)?;
        self.not_pending(key)?;
        let mut tags = key.tags.clone();
        change(&mut tags);
        check_tags(&tags)?;
        self.change_key(number, |key| key.tags = tags);
        Ok(Reply::Done)
    }
}
