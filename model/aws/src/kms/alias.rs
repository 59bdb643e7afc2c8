//! Aliases: names of keys. Those that begin with `alias/aws/` are AWS's own.

use serde::{Deserialize, Serialize};

use super::{Number, Reject, Reply, State};
use crate::At;
use crate::efs::table::Row;

const LONGEST: usize = 256;

/// An alias as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alias {
    /// `alias/…`
    pub name: String,
    pub key: Number,
    /// Noted for CreationDate; nothing is decided on it.
    pub created: At,
}

impl Row for Alias {
    const TABLE: &'static str = "kms/aliases";

    fn id(&self) -> &str {
        &self.name
    }
}

/// Whether users may make or delete an alias of this name.
fn check(name: &str) -> Result<(), Reject> {
    if name.starts_with("alias/aws/") {
        return Err(Reject::ReservedAlias);
    }
    if name.len() > LONGEST {
        return Err(Reject::invalid("aliasName", name, "Member must have length less than or equal to 256"));
    }
    let of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    if !name.bytes().all(of_alphabet) {
        return Err(Reject::invalid("aliasName", name, "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"));
    }
    match name.strip_prefix("alias/") {
        Some(rest) if !rest.is_empty() && !rest.contains(':') => Ok(()),
        Some(_) | None => Err(Reject::InvalidIdentifier),
    }
}

impl State {
    /// The ARN of an alias.
    pub fn alias_arn(&self, alias: &Alias) -> String {
        self.arn_of(&alias.name)
    }

    /// The aliases after a number, in the order of creation, each with the id of its key.
    pub fn aliases_after(&self, number: Number) -> impl Iterator<Item = (Number, &Alias, &str)> {
        self.aliases.after(number).filter_map(|(number, alias)| Some((number, alias, self.keys.get(alias.key)?.id.as_str())))
    }

    pub(super) fn create_alias(&mut self, at: At, name: &str, key: &str) -> Result<Reply, Reject> {
        check(name)?;
        let (key, row) = self.own_key(key, "CreateAlias")?;
        self.not_pending(row)?;
        if self.aliases.key(name).is_some() {
            return Err(Reject::AliasExists(self.arn_of(name)));
        }
        let number = self.new_number();
        self.aliases.insert(number, Alias { name: name.to_owned(), key, created: at });
        Ok(Reply::Done)
    }

    pub(super) fn delete_alias(&mut self, name: &str) -> Result<Reply, Reject> {
        check(name)?;
        let number = self.aliases.key(name).ok_or_else(|| Reject::NoAlias(self.arn_of(name)))?;
        self.aliases.remove(number);
        Ok(Reply::Done)
    }

    /// The key is gone, and so are its names.
    pub(super) fn delete_aliases_of(&mut self, key: Number) {
        let gone: Vec<Number> = self.aliases.iter().filter(|(_, alias)| alias.key == key).map(|(number, _)| number).collect();
        for number in gone {
            self.aliases.remove(number);
        }
    }
}
