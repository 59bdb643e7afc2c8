//! Describe calls: ids, filters and pages. Ids are all or nothing; filters never fail for what they do not find
//! (ebs.md §1.8). The narrowest index decides what is looked at, so that the cost follows the answer.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use model_common::pick::{hex17, unhex17};

use super::fields::{Fields, Modified, TagFields};
use super::filter::{self, Filter};
use super::ids::{self, Kind, SnapshotKey, VolumeKey};
use super::index::{Facet, Index};
use super::instance::Instance;
use super::snapshot::Snapshot;
use super::volume::Volume;
use super::{Reject, State, Tags};

/// Which part of the answer is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paging {
    /// 0 counts as not given (the CSI driver sends it).
    pub max_results: Option<u32>,
    pub next_token: Option<String>,
}

/// A part of an answer, in the order of creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_token: Option<String>,
}

const LEAST_RESULTS: u32 = 5;
const MOST_RESULTS: u32 = 1000;
/// Tokens are keys in disguise: opaque to clients, checked when they come back.
const TOKEN_SALT: u64 = 0x7061_6765_746f_6b65;

impl State {
    /// The page's size and where it begins.
    fn open(&self, paging: &Paging, ids: bool) -> Result<(usize, Option<u64>), Reject> {
        let most = match paging.max_results {
            None | Some(0) => usize::MAX,
            Some(n) if n < LEAST_RESULTS => return Err(Reject::MaxResultsTooSmall { given: n, least: LEAST_RESULTS }),
            Some(_) if ids => return Err(Reject::IdsWithMaxResults),
            Some(n) => n.min(MOST_RESULTS) as usize,
        };
        let after = match paging.next_token.as_deref() {
            None | Some("") => None,
            Some(token) => {
                let key = unhex17(self.seed ^ TOKEN_SALT, token).filter(|key| *key < self.next.max(1 << 32));
                Some(key.ok_or_else(|| Reject::InvalidNextToken { token: token.to_owned() })?)
            }
        };
        Ok((most, after))
    }

    fn token(&self, last: u64) -> String {
        hex17(self.seed ^ TOKEN_SALT, last)
    }

    /// A page of a list that is short by nature; tokens count what came before.
    pub fn page<T>(&self, items: impl Iterator<Item = T>, paging: &Paging, ids: bool) -> Result<Page<T>, Reject> {
        let (most, after) = self.open(paging, ids)?;
        let skip = usize::try_from(after.unwrap_or(0)).unwrap_or(usize::MAX);
        let mut items = items.skip(skip);
        let page: Vec<T> = items.by_ref().take(most).collect();
        let next_token = items.next().is_some().then(|| self.token((skip + page.len()) as u64));
        Ok(Page { items: page, next_token })
    }

    pub fn describe_volumes(&self, ids: &[impl AsRef<str>], filters: &[Filter], paging: &Paging) -> Result<Page<&Volume>, Reject> {
        filter::check::<Fields<&Volume>>(filters)?;
        let (most, after) = self.open(paging, !ids.is_empty())?;
        let named = self.named(Kind::Volume, ids, |id| {
            Ok(ids::volume_key(self.seed, "volumeId", id)?
                .and_then(|key| self.volumes.get_key_value(&key))
                .map(|(key, volume)| (key, &**volume)))
        })?;
        let candidates = named.map_or_else(|| self.volume_candidates(filters), Candidates::Rows);
        let keep = |volume: &Volume| filter::matches(filters, &Fields { of: volume, state: self });
        let (items, last) = select(&self.volumes, candidates, after.map(VolumeKey), most, keep);
        Ok(Page { items, next_token: last.map(|key| self.token(key.0)) })
    }

    pub fn describe_snapshots(&self, ids: &[String], filters: &[Filter], paging: &Paging) -> Result<Page<&Snapshot>, Reject> {
        filter::check::<Fields<&Snapshot>>(filters)?;
        let (most, after) = self.open(paging, !ids.is_empty())?;
        let named = self.named(Kind::Snapshot, ids, |id| {
            let key = ids::snapshot_key(self.seed, "snapshotId", id)?;
            Ok(key.and_then(|key| self.snapshots.get_key_value(&key)).filter(|(_, snapshot)| snapshot.wanted))
        })?;
        let candidates = named.map_or_else(|| self.snapshot_candidates(filters), Candidates::Rows);
        let keep = |snapshot: &Snapshot| snapshot.wanted && filter::matches(filters, &Fields { of: snapshot, state: self });
        let (items, last) = select(&self.snapshots, candidates, after.map(SnapshotKey), most, keep);
        Ok(Page { items, next_token: last.map(|key| self.token(key.0)) })
    }

    /// Volumes that were ever modified. One that was not, asked for by id, is an error of its own (ebs.md §1.6).
    pub fn describe_modifications(&self, ids: &[String], filters: &[Filter], paging: &Paging) -> Result<Page<&Volume>, Reject> {
        filter::check::<Modified>(filters)?;
        let (most, after) = self.open(paging, !ids.is_empty())?;
        let named = self.named(Kind::Volume, ids, |id| {
            Ok(ids::volume_key(self.seed, "volumeId", id)?
                .and_then(|key| self.volumes.get_key_value(&key))
                .map(|(key, volume)| (key, &**volume)))
        })?;
        if let Some((key, _)) = named.iter().flatten().find(|(_, volume)| volume.modification.is_none()) {
            return Err(Reject::NoSuchModification { volume: key.id(self.seed) });
        }
        let candidates = match (named, self.volume_index.with(&Facet::Modified)) {
            (Some(named), _) => Candidates::Rows(named),
            (None, Some(keys)) => Candidates::Set(keys),
            (None, None) => Candidates::Some(BTreeSet::new()),
        };
        let keep = |volume: &Volume| volume.modification.is_some() && filter::matches(filters, &Modified { of: volume, state: self });
        let (items, last) = select(&self.volumes, candidates, after.map(VolumeKey), most, keep);
        Ok(Page { items, next_token: last.map(|key| self.token(key.0)) })
    }

    pub fn describe_instances(&self, ids: &[String], filters: &[Filter], paging: &Paging) -> Result<Page<&Instance>, Reject> {
        filter::check::<Fields<&Instance>>(filters)?;
        let named = self.named(Kind::Instance, ids, |id| match self.named_instance(id) {
            Ok(instance) => Ok(Some((&instance.id, instance))),
            Err(Reject::NotFound { .. }) => Ok(None),
            Err(reject) => Err(reject),
        })?;
        let mut listed: Vec<&Instance> = match named {
            Some(named) => named.into_iter().map(|(_, instance)| instance).collect(),
            None => self.instances.values().collect(),
        };
        listed.sort_by_key(|instance| instance.order);
        let items = listed.into_iter().filter(|instance| filter::matches(filters, &Fields { of: *instance, state: self }));
        self.page(items, paging, !ids.is_empty())
    }

    /// What DescribeTags lists: kind, id, key, value.
    pub fn describe_tags(&self, filters: &[Filter], paging: &Paging) -> Result<Page<(Kind, String, &str, &str)>, Reject> {
        filter::check::<TagFields>(filters)?;
        let by_id = filters.iter().find(|filter| filter.name == "resource-id" && filter.exact());
        let by_key = filters.iter().find(|filter| filter.name == "key" && filter.exact());
        let resources: Box<dyn Iterator<Item = (Kind, String, &Tags)>> = match (by_id, by_key) {
            (Some(filter), _) => {
                let ids: BTreeSet<&String> = filter.values.iter().collect();
                Box::new(ids.into_iter().filter_map(|id| Some((Kind::of_id(id)?, id.clone(), self.tags_of(id)?))))
            }
            (None, Some(filter)) => {
                // Volumes and snapshots are many and indexed; the rest is few.
                let keys: BTreeSet<VolumeKey> =
                    filter.values.iter().flat_map(|key| self.volume_index.tag_key(key)).flatten().copied().collect();
                let volumes = keys.into_iter().filter_map(|key| self.volume(key)).filter(|volume| volume.wanted);
                let keys: BTreeSet<SnapshotKey> =
                    filter.values.iter().flat_map(|key| self.snapshot_index.tag_key(key)).flatten().copied().collect();
                let snapshots = keys.into_iter().filter_map(|key| self.snapshots.get(&key)).filter(|snapshot| snapshot.wanted);
                let few = self.tagged_of_world();
                Box::new(
                    volumes
                        .map(|volume| (Kind::Volume, volume.key.id(self.seed), &volume.tags))
                        .chain(snapshots.map(|snapshot| (Kind::Snapshot, snapshot.key.id(self.seed), &snapshot.tags)))
                        .chain(few),
                )
            }
            (None, None) => Box::new(self.tagged()),
        };
        let items =
            resources.flat_map(|(kind, id, tags)| tags.iter().map(move |(key, value)| (kind, id.clone(), key.as_str(), value.as_str())));
        let items =
            items.filter(|(kind, id, key, value)| filter::matches(filters, &TagFields { kind: *kind, id, key, value, tags: &EMPTY }));
        self.page(items, paging, false)
    }

    /// Whether what a client filters by fits an object of the world; `fields` gives the object's values.
    pub fn filter_world<T>(&self, filters: &[Filter], names: &[&str], tags: &Tags, fields: impl Fn(&str) -> T) -> Result<bool, Reject>
    where
        T: IntoIterator<Item = String>,
    {
        let mut all = true;
        for filter in filters {
            if filter.values.is_empty() {
                return Err(Reject::FilterWithoutValues { name: filter.name.clone() });
            }
            all &= if let Some(key) = filter.name.strip_prefix("tag:") {
                tags.get(key).is_some_and(|value| filter.takes(value))
            } else if filter.name == "tag-key" {
                tags.keys().any(|key| filter.takes(key))
            } else if names.contains(&filter.name.as_str()) {
                fields(&filter.name).into_iter().any(|value| filter.takes(&value))
            } else {
                return Err(Reject::UnknownFilter { name: filter.name.clone() });
            };
        }
        Ok(all)
    }

    /// The rows of all the ids, by key and each once, or all the ids that nothing has. None: no ids were given.
    fn named<'a, K: Ord, R>(
        &self,
        kind: Kind,
        ids: &[impl AsRef<str>],
        find: impl Fn(&str) -> Result<Option<(&'a K, &'a R)>, Reject>,
    ) -> Result<Option<Vec<(&'a K, &'a R)>>, Reject> {
        if ids.is_empty() {
            return Ok(None);
        }
        let (mut rows, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            let id = id.as_ref();
            match find(id)? {
                Some(row) => rows.push(row),
                None => missing.push(id.to_owned()),
            }
        }
        rows.sort_by_key(|(key, _)| *key);
        rows.dedup_by_key(|(key, _)| *key);
        if missing.is_empty() { Ok(Some(rows)) } else { Err(Reject::NotFound { kind, ids: missing }) }
    }

    fn volume_candidates(&self, filters: &[Filter]) -> Candidates<'_, VolumeKey, Volume> {
        narrowest(
            filters,
            &self.volume_index,
            |name, value| match name {
                "status" => volume_status(value).map(Facet::Status),
                "availability-zone" => Some(Facet::Zone(value.to_owned())),
                "availability-zone-id" => {
                    self.network.zones.iter().find(|zone| zone.id == value).map(|zone| Facet::Zone(zone.name.clone()))
                }
                "attachment.instance-id" => Some(Facet::Instance(value.into())),
                "snapshot-id" => Some(Facet::Snapshot(value.to_owned())),
                "volume-id" => Some(Facet::Id(ids::volume_key(self.seed, "", value).ok().flatten().map_or(0, |key| key.0))),
                _ => None,
            },
            |key| self.volumes.contains_key(&VolumeKey(key)).then_some(VolumeKey(key)),
        )
    }

    fn snapshot_candidates(&self, filters: &[Filter]) -> Candidates<'_, SnapshotKey, Snapshot> {
        narrowest(
            filters,
            &self.snapshot_index,
            |name, value| match name {
                "status" => snapshot_status(value).map(Facet::Status),
                "volume-id" => Some(Facet::Volume(value.to_owned())),
                "snapshot-id" => Some(Facet::Id(ids::snapshot_key(self.seed, "", value).ok().flatten().map_or(0, |key| key.0))),
                _ => None,
            },
            |key| self.snapshots.contains_key(&SnapshotKey(key)).then_some(SnapshotKey(key)),
        )
    }
}

pub(super) static EMPTY: Tags = Tags::new();

fn volume_status(name: &str) -> Option<&'static str> {
    ["creating", "available", "in-use", "deleting", "error"].into_iter().find(|status| *status == name)
}

fn snapshot_status(name: &str) -> Option<&'static str> {
    ["pending", "completed", "error"].into_iter().find(|status| *status == name)
}

/// What has to be looked at.
enum Candidates<'a, K: Ord, R> {
    All,
    Set(&'a BTreeSet<K>),
    Some(BTreeSet<K>),
    /// Those that ids named, which were looked up already; by key.
    Rows(Vec<(&'a K, &'a R)>),
}

/// The candidates of the filter for which the index has the fewest. `facet` says what the index knows of a name and value.
fn narrowest<'a, K: Ord + Copy, R>(
    filters: &[Filter],
    index: &'a Index<K>,
    facet: impl Fn(&str, &str) -> Option<Facet>,
    key: impl Fn(u64) -> Option<K>,
) -> Candidates<'a, K, R> {
    let mut best: Option<(usize, Vec<&'a BTreeSet<K>>)> = None;
    for filter in filters.iter().filter(|filter| filter.exact()) {
        let mut sets: Vec<&BTreeSet<K>> = Vec::new();
        let mut known = true;
        let mut ids = BTreeSet::new();
        for value in &filter.values {
            if let Some(tag) = filter.name.strip_prefix("tag:") {
                sets.extend(index.tagged(tag, value));
            } else if filter.name == "tag-key" {
                sets.extend(index.tag_key(value));
            } else {
                match facet(&filter.name, value) {
                    Some(Facet::Id(id)) => ids.extend(key(id)),
                    Some(facet) => sets.extend(index.with(&facet)),
                    // A status that does not exist has no volumes; a name that is not indexed may have any.
                    None if filter.name == "status" => {}
                    None => known = false,
                }
            }
        }
        if !known {
            continue;
        }
        if filter.name.ends_with("-id") && sets.is_empty() && !ids.is_empty() {
            return Candidates::Some(ids);
        }
        let size = sets.iter().map(|set| set.len()).sum();
        if best.as_ref().is_none_or(|(least, _)| size < *least) {
            best = Some((size, sets));
        }
    }
    match best {
        None => Candidates::All,
        Some((_, sets)) => match sets.as_slice() {
            [one] => Candidates::Set(one),
            many => Candidates::Some(many.iter().flat_map(|set| set.iter().copied()).collect()),
        },
    }
}

/// The first `most` candidates after a key that are kept, and the last one's key when more follow.
fn select<'a, K: Ord + Copy, R>(
    table: &'a BTreeMap<K, impl Borrow<R>>,
    candidates: Candidates<'a, K, R>,
    after: Option<K>,
    most: usize,
    keep: impl Fn(&R) -> bool,
) -> (Vec<&'a R>, Option<K>) {
    use std::ops::Bound;
    let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    let look = |key: &K| table.get_key_value(key).map(|(key, row)| (*key, row.borrow()));
    let (mut items, mut last, mut more) = (Vec::new(), None, None);
    let mut take = |(key, row): (K, &'a R)| {
        if !keep(row) {
            return true;
        }
        if items.len() == most {
            more = last;
            return false;
        }
        items.push(row);
        last = Some(key);
        true
    };
    match candidates {
        Candidates::All => drop(table.range(from).map(|(key, row)| (*key, row.borrow())).all(&mut take)),
        Candidates::Set(keys) => drop(keys.range(from).filter_map(look).all(&mut take)),
        Candidates::Some(keys) => drop(keys.range(from).filter_map(look).all(&mut take)),
        Candidates::Rows(rows) => {
            let rows = rows.into_iter().map(|(key, row)| (*key, row));
            let _ = rows.filter(|(key, _)| after.is_none_or(|after| *key > after)).all(&mut take);
        }
    }
    (items, more)
}
