//! Pages of records. Each costs what it answers, not what the world holds.

use std::borrow::Cow;

use super::table::Row;
use super::{AccessPoint, FileSystem, Key, MountTarget, Reject, State};
use crate::Dirty;

/// One page; `next` is where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Key>,
}

fn page<'a, R: 'a>(rows: impl Iterator<Item = (Key, &'a R)>, most: usize) -> Page<&'a R> {
    let (mut items, mut last, mut next) = (Vec::new(), 0, None);
    for (key, row) in rows {
        if items.len() == most {
            next = Some(last);
            break;
        }
        items.push(row);
        last = key;
    }
    Page { items, next }
}

impl State {
    /// File systems, in the order of creation: by id, by creation token, or a page of all. With each the number of its mount
    /// targets.
    pub fn describe_file_systems(
        &self,
        id: Option<&str>,
        token: Option<&str>,
        after: Key,
        most: usize,
    ) -> Result<Page<(&FileSystem, usize)>, Reject> {
        let rows = match (id, token) {
            (Some(id), token) => {
                let row = self.file_system(id)?;
                let fits = token.is_none_or(|token| token == row.creation_token);
                Page { items: fits.then_some(row).into_iter().collect(), next: None }
            }
            (None, Some(token)) => {
                let row = self.by_creation_token.get(token).and_then(|key| self.file_systems.get(*key));
                Page { items: row.into_iter().collect(), next: None }
            }
            (None, None) => page(self.file_systems.after(after), most),
        };
        let items = rows.items.into_iter().map(|row| (row, self.mount_target_count(&row.id))).collect();
        Ok(Page { items, next: rows.next })
    }

    fn mount_target_count(&self, id: &str) -> usize {
        self.file_systems.key(id).and_then(|key| self.targets_of.get(&key)).map_or(0, |targets| targets.len())
    }

    /// Mount targets: of a file system, one, or those of an access point's file system.
    pub fn describe_mount_targets(
        &self,
        file_system: Option<&str>,
        mount_target: Option<&str>,
        access_point: Option<&str>,
        after: Key,
        most: usize,
    ) -> Result<Page<&MountTarget>, Reject> {
        let key = match (file_system, mount_target, access_point) {
            (Some(id), None, None) => self.file_system_key(id)?,
            (None, None, Some(id)) => self.access_point(id)?.file_system,
            (None, Some(id), None) => return Ok(Page { items: vec![self.mount_target(id)?], next: None }),
            _ => {
                return Err(Reject::BadRequest("Exactly one of FileSystemId, MountTargetId and AccessPointId must be given.".to_owned()));
            }
        };
        Ok(page(self.targets_of(key).filter(|(target, _)| *target > after), most))
    }

    /// Access points: one, those of a file system, or a page of all.
    pub fn describe_access_points(
        &self,
        access_point: Option<&str>,
        file_system: Option<&str>,
        after: Key,
        most: usize,
    ) -> Result<Page<&AccessPoint>, Reject> {
        match (access_point, file_system) {
            (Some(_), Some(_)) => {
                Err(Reject::BadRequest("You cannot specify both AccessPointId and FileSystemId in the same request.".to_owned()))
            }
            (Some(id), None) => Ok(Page { items: vec![self.access_point(id)?], next: None }),
            (None, Some(id)) => {
                let key = self.file_system_key(id)?;
                let points = self.points_of.get(&key).into_iter().flat_map(|points| points.range(after.saturating_add(1)..));
                Ok(page(points.filter_map(|key| self.access_points.get(*key).map(|row| (*key, row))), most))
            }
            (None, None) => Ok(page(self.access_points.after(after), most)),
        }
    }

    /// Kind, id and state of a changed record, for who watches; none where it is no resource. The id of a removed record is made
    /// from its key.
    pub fn changed<'a>(&'a self, dirty: &Dirty) -> Option<(&'static str, Cow<'a, str>, Option<&'static str>)> {
        let (kind, prefix, shown) = match dirty.table {
            FileSystem::TABLE => {
                let row = self.file_systems.stored(&dirty.key).map(|row| (row.id.as_str(), row.shown()));
                ("fileSystem", "fs", row)
            }
            MountTarget::TABLE => {
                let row = self.mount_targets.stored(&dirty.key).map(|row| (row.id.as_str(), row.state));
                ("mountTarget", "fsmt", row)
            }
            AccessPoint::TABLE => {
                let row = self.access_points.stored(&dirty.key).map(|row| (row.id.as_str(), row.state));
                ("accessPoint", "fsap", row)
            }
            _ => return None,
        };
        match shown {
            Some((id, state)) => Some((kind, Cow::Borrowed(id), Some(state.as_str()))),
            None => Some((kind, Cow::Owned(self.new_id(prefix, Key::from_str_radix(&dirty.key, 16).ok()?)), None)),
        }
    }

    /// How many file systems, mount targets and access points there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.file_systems.len(), self.mount_targets.len(), self.access_points.len())
    }
}
