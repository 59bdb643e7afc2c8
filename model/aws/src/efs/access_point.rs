//! The access point: a directory of a file system and an identity (efs.md §4.1).

use std::collections::{BTreeMap, BTreeSet};

use model_common::agent::{CreationInfo, PosixUser};
use serde::{Deserialize, Serialize};

use super::table::Row;
use super::{Effect, Key, LifeCycle, Reject, Reply, State, Timer, tags};

/// Owner and mode of a root directory that is made at the first mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Creation {
    pub owner_uid: u32,
    pub owner_gid: u32,
    /// Octal digits, as given: `700`, `0755`.
    pub permissions: String,
}

impl Creation {
    /// For the file system's server. The digits were checked when the access point was made.
    pub fn info(&self) -> CreationInfo {
        let permissions = u32::from_str_radix(&self.permissions, 8).unwrap_or(0o755);
        CreationInfo { owner_uid: self.owner_uid, owner_gid: self.owner_gid, permissions }
    }
}

/// A CreateAccessPoint request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewAccessPoint {
    pub client_token: String,
    pub file_system_id: String,
    pub posix_user: Option<PosixUser>,
    /// None: `/`.
    pub path: Option<String>,
    pub creation: Option<Creation>,
    pub tags: BTreeMap<String, String>,
}

/// An access point as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessPoint {
    /// `fsap-` and 17 hex digits.
    pub id: String,
    pub client_token: String,
    pub file_system_id: String,
    pub(super) file_system: Key,
    pub posix_user: Option<PosixUser>,
    pub path: String,
    pub creation: Option<Creation>,
    pub tags: BTreeMap<String, String>,
    /// Only time moves it.
    pub state: LifeCycle,
}

impl Row for AccessPoint {
    const TABLE: &'static str = "efs/access-points";

    fn id(&self) -> &str {
        &self.id
    }
}

fn check(new: &NewAccessPoint) -> Result<(), Reject> {
    if !(1..=64).contains(&new.client_token.chars().count()) {
        return Err(Reject::invalid("clientToken", &new.client_token, "Member must have length between 1 and 64"));
    }
    if let Some(user) = &new.posix_user
        && user.secondary_gids.len() > 16
    {
        let given = user.secondary_gids.len().to_string();
        return Err(Reject::invalid("posixUser.secondaryGids", given, "Member must have length less than or equal to 16"));
    }
    if let Some(path) = &new.path {
        check_path(path)?;
    }
    if let Some(creation) = &new.creation {
        let digits = &creation.permissions;
        if !matches!(digits.len(), 3 | 4) || !digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            let rule = "Member must satisfy regular expression pattern: ^[0-7]{3,4}$";
            return Err(Reject::invalid("rootDirectory.creationInfo.permissions", digits, rule));
        }
    }
    tags::check(&new.tags)
}

/// The pattern of the service model: `^(\/|(\/(?!\.)+[^$#<>;`|&?{}^*/\n]+){1,4})$`, at most 100 characters. As the service
/// resolves it, a path must also not have `.` or `..` as a name; no name that begins with a dot passes the pattern.
fn check_path(path: &str) -> Result<(), Reject> {
    let refuse = |rule| Err(Reject::invalid("rootDirectory.path", path, rule));
    if path.is_empty() || path.chars().count() > 100 {
        return refuse("Member must have length between 1 and 100");
    }
    if path == "/" {
        return Ok(());
    }
    let Some(relative) = path.strip_prefix('/') else { return refuse("Member must begin with /") };
    let names: Vec<&str> = relative.split('/').collect();
    if names.len() > 4 {
        return refuse("Member must have at most 4 subdirectories");
    }
    let fits = |name: &&str| !name.is_empty() && !name.starts_with('.') && !name.contains(|c| "$#<>;`|&?{}^*\n\0".contains(c));
    if !names.iter().all(fits) {
        return refuse("Member must satisfy regular expression pattern: ^(\\/|(\\/(?!\\.)+[^$#<>;`|&?{}^*/\\n]+){1,4})$");
    }
    Ok(())
}

/// Takes a key out of an index of sets; empty sets go too.
pub(super) fn unlink(index: &mut BTreeMap<Key, BTreeSet<Key>>, of: Key, key: Key) {
    if let Some(keys) = index.get_mut(&of) {
        keys.remove(&key);
        if keys.is_empty() {
            index.remove(&of);
        }
    }
}

impl State {
    pub(super) fn index_access_point(&mut self, key: Key, row: &AccessPoint) {
        self.by_client_token.insert(row.client_token.clone(), key);
        self.points_of.entry(row.file_system).or_default().insert(key);
    }

    /// The key of an id or ARN.
    pub(super) fn access_point_key(&self, id: &str) -> Result<Key, Reject> {
        let plain = id.rsplit_once(":access-point/").map_or(id, |(_, plain)| plain);
        let unknown = || Reject::unknown("accessPointId", "access-point", "fsap-", plain, Reject::NoAccessPoint);
        self.access_points.key(plain).ok_or_else(unknown)
    }

    /// The access point of an id or ARN.
    pub fn access_point(&self, id: &str) -> Result<&AccessPoint, Reject> {
        self.access_points.get(self.access_point_key(id)?).ok_or_else(|| Reject::NoAccessPoint(id.to_owned()))
    }

    pub(super) fn create_access_point(&mut self, new: &NewAccessPoint, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        check(new)?;
        let file_system = self.available(&new.file_system_id)?;
        let Some(parent) = self.file_systems.get(file_system) else { return Err(Reject::NoFileSystem(new.file_system_id.clone())) };
        let file_system_id = parent.id.clone();
        // The token is the account's, not the file system's (efs.md §4.1).
        if let Some(existing) = self.by_client_token.get(&new.client_token).and_then(|key| self.access_points.get(*key)) {
            return Err(Reject::AccessPointExists { id: existing.id.clone(), token: new.client_token.clone() });
        }
        if self.points_of.get(&file_system).map_or(0, BTreeSet::len) >= self.limits.access_points {
            return Err(Reject::AccessPointLimit { id: file_system_id, most: self.limits.access_points });
        }
        let key = self.new_key();
        let row = AccessPoint {
            id: self.new_id("fsap", key),
            client_token: new.client_token.clone(),
            file_system_id,
            file_system,
            posix_user: new.posix_user.clone(),
            path: new.path.clone().unwrap_or_else(|| "/".to_owned()),
            creation: new.creation.clone(),
            tags: new.tags.clone(),
            state: LifeCycle::Creating,
        };
        self.index_access_point(key, &row);
        self.access_points.insert(key, row.clone());
        out.push(Effect::Arm(Timer::AccessPoint(key), self.delays.access_point));
        Ok(Reply::AccessPoint(Box::new(row)))
    }

    pub(super) fn delete_access_point(&mut self, id: &str, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        let key = self.access_point_key(id)?;
        let after = self.delays.access_point;
        if let Some(row) = self.access_points.get_mut(key)
            && row.state != LifeCycle::Deleting
        {
            row.state = LifeCycle::Deleting;
            out.push(Effect::Arm(Timer::AccessPoint(key), after));
        }
        Ok(Reply::Done)
    }

    pub(super) fn access_point_due(&mut self, key: Key) {
        match self.access_points.get(key).map(|row| row.state) {
            Some(LifeCycle::Creating) => {
                if let Some(row) = self.access_points.get_mut(key) {
                    row.state = LifeCycle::Available;
                }
            }
            Some(LifeCycle::Deleting) => self.forget_access_point(key),
            Some(LifeCycle::Available | LifeCycle::Updating | LifeCycle::Error) | None => {}
        }
    }

    pub(super) fn forget_access_point(&mut self, key: Key) {
        if let Some(row) = self.access_points.remove(key) {
            self.by_client_token.remove(&row.client_token);
            unlink(&mut self.points_of, row.file_system, key);
        }
    }
}
