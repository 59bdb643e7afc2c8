//! Tags: at most 50 of a resource (efs.md §4.1), in the alphabet of the service model.

use std::collections::BTreeMap;

use super::{Reject, Reply, State};

const MOST: usize = 50;

/// Whether all tags are ones that EFS accepts.
pub fn check(tags: &BTreeMap<String, String>) -> Result<(), Reject> {
    let of_alphabet = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c));
    for (key, value) in tags {
        let reserved = key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
        if key.is_empty() || key.chars().count() > 128 || reserved || !of_alphabet(key) {
            return Err(Reject::invalid("Tags.Key", key, "1 to 128 letters, digits, spaces or _.:/=+-@, not beginning with aws:"));
        }
        if value.chars().count() > 256 || !of_alphabet(value) {
            return Err(Reject::invalid("Tags.Value", value, "at most 256 letters, digits, spaces or _.:/=+-@"));
        }
    }
    if tags.len() > MOST {
        return Err(Reject::TooManyTags { most: MOST });
    }
    Ok(())
}

impl State {
    /// The tags of a file system or an access point.
    pub fn tags(&self, id: &str) -> Result<&BTreeMap<String, String>, Reject> {
        if is_access_point(id) { Ok(&self.access_point(id)?.tags) } else { Ok(&self.file_system(id)?.tags) }
    }

    fn change_tags(&mut self, id: &str, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<Reply, Reject> {
        let mut tags = self.tags(id)?.clone();
        change(&mut tags);
        check(&tags)?;
        if is_access_point(id) {
            let key = self.access_point_key(id)?;
            if let Some(row) = self.access_points.get_mut(key) {
                row.tags = tags;
            }
        } else {
            let key = self.file_system_key(id)?;
            if let Some(row) = self.file_systems.get_mut(key) {
                row.tags = tags;
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn tag(&mut self, id: &str, tags: &BTreeMap<String, String>) -> Result<Reply, Reject> {
        check(tags)?;
        self.change_tags(id, |all| all.extend(tags.clone()))
    }

    pub(super) fn untag(&mut self, id: &str, keys: &[String]) -> Result<Reply, Reject> {
        self.change_tags(id, |all| all.retain(|key, _| !keys.contains(key)))
    }
}

fn is_access_point(id: &str) -> bool {
    id.starts_with("fsap-") || id.contains(":access-point/")
}
