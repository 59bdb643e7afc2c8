//! The metadata service (IMDS) of an instance: the options it obeys, and the volumes that it names.
//!
//! ```text
//!  Modify ─▶ wanted changes, pending ──timer──▶ applied: the service obeys
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::InstanceId;
use super::records::Changed;
use super::{Effect, Reject, Reply, State, Tags, Timer};

/// The least and most hops that the answer with a token may travel.
const HOPS: std::ops::RangeInclusive<i64> = 1..=64;

/// EC2's MetadataOptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataOptions {
    /// `HttpEndpoint`: whether the service answers at all.
    pub endpoint: bool,
    /// `HttpTokens`: `required`, so that IMDSv1 is off.
    pub tokens_required: bool,
    /// `HttpPutResponseHopLimit`: 1 reaches the instance itself, 2 its containers too.
    pub hop_limit: u8,
    pub ipv6: bool,
    /// `InstanceMetadataTags`.
    pub tags: bool,
}

impl Default for MetadataOptions {
    /// As EKS launches the nodes of a managed node group.
    fn default() -> Self {
        Self { endpoint: true, tokens_required: true, hop_limit: 2, ipv6: false, tags: false }
    }
}

/// What is known of an instance's metadata service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub wanted: MetadataOptions,
    /// What the service obeys.
    pub applied: MetadataOptions,
    /// A change has not taken its time yet.
    pub pending: bool,
    /// The boot that was seen last; see [`super::Input::Started`].
    #[serde(default)]
    boot: String,
    /// Devices of the volumes that were attached when the instance was last started: `/dev/xvdaa`.
    #[serde(default)]
    mapped: BTreeSet<String>,
}

impl Metadata {
    /// The devices that `block-device-mapping` names beside the root. EC2 shows there what was attached when the instance was
    /// launched or last started; what is attached later is not in it.
    pub fn mapped_devices(&self) -> impl Iterator<Item = &str> {
        self.mapped.iter().map(String::as_str)
    }
}

/// `ModifyInstanceMetadataOptions`, as the client wrote it. What is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataChange {
    pub instance_id: String,
    pub http_endpoint: Option<String>,
    pub http_tokens: Option<String>,
    pub hop_limit: Option<i64>,
    pub http_protocol_ipv6: Option<String>,
    pub instance_metadata_tags: Option<String>,
}

/// Reads one of two words.
fn switch(parameter: &str, given: Option<&String>, on: &str, off: &str, now: bool) -> Result<bool, Reject> {
    match given {
        None => Ok(now),
        Some(value) if value == on => Ok(true),
        Some(value) if value == off => Ok(false),
        Some(value) => Err(Reject::InvalidParameterValue {
            message: format!("Value ({value}) for parameter {parameter} is invalid. Valid values are: {off}, {on}."),
        }),
    }
}

impl State {
    /// The options that a change leads to.
    pub(super) fn plan_metadata(&self, change: &MetadataChange) -> Result<(InstanceId, MetadataOptions), Reject> {
        let instance = self.named_instance(&change.instance_id)?;
        let now = instance.metadata.wanted;
        let given = [&change.http_endpoint, &change.http_tokens, &change.http_protocol_ipv6, &change.instance_metadata_tags];
        if given.iter().all(|value| value.is_none()) && change.hop_limit.is_none() {
            return Err(Reject::MissingParameter(
                "HttpTokens, HttpPutResponseHopLimit, HttpEndpoint, HttpProtocolIpv6 or InstanceMetadataTags".to_owned(),
            ));
        }
        let hop_limit = match change.hop_limit {
            None => now.hop_limit,
            Some(hops) => u8::try_from(hops).ok().filter(|_| HOPS.contains(&hops)).ok_or_else(|| Reject::InvalidParameterValue {
                message: format!("Value ({hops}) for parameter httpPutResponseHopLimit is invalid. Expecting a value from 1 to 64."),
            })?,
        };
        let options = MetadataOptions {
            endpoint: switch("httpEndpoint", change.http_endpoint.as_ref(), "enabled", "disabled", now.endpoint)?,
            tokens_required: switch("httpTokens", change.http_tokens.as_ref(), "required", "optional", now.tokens_required)?,
            hop_limit,
            ipv6: switch("httpProtocolIpv6", change.http_protocol_ipv6.as_ref(), "enabled", "disabled", now.ipv6)?,
            tags: switch("instanceMetadataTags", change.instance_metadata_tags.as_ref(), "enabled", "disabled", now.tags)?,
        };
        if options.tags {
            check_tag_keys(&instance.tags)?;
        }
        Ok((instance.id.clone(), options))
    }

    pub(super) fn modify_metadata(&mut self, change: &MetadataChange, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let (id, options) = self.plan_metadata(change)?;
        self.change_metadata(&id, |metadata| (metadata.wanted, metadata.pending) = (options, true));
        out.push(Effect::Reply(Reply::MetadataOptions { instance: id.clone(), options }));
        out.push(Effect::Arm(Timer::Metadata(id), self.timing().metadata));
        Ok(())
    }

    /// The change has taken its time: the service obeys it from now on.
    pub(super) fn metadata_fired(&mut self, id: &InstanceId) {
        self.change_metadata(id, |metadata| (metadata.applied, metadata.pending) = (metadata.wanted, false));
    }

    /// The instance booted; of a boot that was seen before nothing changes.
    pub(super) fn started(&mut self, id: &InstanceId, boot: &str) {
        if self.instances.get(id).is_none_or(|instance| instance.metadata.boot == boot) {
            return;
        }
        let attached = self.attached_to(id).filter(|(_, attachment)| attachment.wanted);
        let mapped = attached.map(|(_, attachment)| attachment.device.clone()).collect();
        self.change_metadata(id, |metadata| (metadata.boot, metadata.mapped) = (boot.to_owned(), mapped));
    }

    /// Timers that a former process had armed.
    pub(super) fn rearm_metadata(&self, out: &mut Vec<Effect>) {
        let pending = self.instances.values().filter(|instance| instance.metadata.pending);
        out.extend(pending.map(|instance| Effect::Arm(Timer::Metadata(instance.id.clone()), self.timing().metadata)));
    }

    fn change_metadata(&mut self, id: &InstanceId, change: impl FnOnce(&mut Metadata)) {
        if let Some(instance) = self.instances.get_mut(id) {
            change(&mut instance.metadata);
            self.dirty.insert(Changed::Metadata(id.clone()));
        }
    }
}

/// Whether tags can be names in a path, as they must while the instance shows them in its metadata.
pub(super) fn check_tag_keys(tags: &Tags) -> Result<(), Reject> {
    let fits = |key: &str| {
        let characters = key.chars().all(|c| c.is_ascii_alphanumeric() || "-_+=,.@:".contains(c));
        characters && !matches!(key, "." | ".." | "_index")
    };
    match tags.keys().find(|key| !fits(key)) {
        None => Ok(()),
        Some(key) => Err(Reject::InvalidParameterValue {
            message: format!(
                "'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\\\-_+=,.@:]{{1,255}}), and must not be a reserved name ('.', '..', '_index')"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, CreateVolume, Input, TagItem};
    use super::*;
    use crate::world::World;
    use crate::{At, Profile, kms};

    fn state() -> (State, kms::State, String) {
        let world = World { devices: false, ..World::default() };
        (State::new(&world, Profile::Instant), kms::State::new(&world), world.instance_id(0))
    }

    fn step(state: &mut State, keys: &kms::State, input: &Input) -> Result<Vec<Effect>, Reject> {
        let mut out = Vec::new();
        state.step(At(0), keys, input, &mut out).map(|()| out)
    }

    fn modify(change: MetadataChange) -> Input {
        Input::Command(Command::ModifyMetadataOptions(change))
    }

    #[test]
    fn a_change_is_pending_until_its_time_is_over() {
        let (mut state, keys, id) = state();
        let change =
            MetadataChange { instance_id: id.clone(), http_tokens: Some("optional".into()), hop_limit: Some(1), ..Default::default() };
        let out = step(&mut state, &keys, &modify(change)).unwrap();
        let options = MetadataOptions { tokens_required: false, hop_limit: 1, ..Default::default() };
        let instance: InstanceId = id.as_str().into();
        assert_eq!(out[0], Effect::Reply(Reply::MetadataOptions { instance: instance.clone(), options }));
        let metadata = &state.instance(&id).unwrap().metadata;
        assert!(metadata.pending && metadata.applied == MetadataOptions::default() && metadata.wanted == options);
        assert_eq!(step(&mut state, &keys, &Input::Booted(Default::default())).unwrap().len(), 1, "armed again after a start");
        step(&mut state, &keys, &Input::Fired(Timer::Metadata(instance))).unwrap();
        let metadata = &state.instance(&id).unwrap().metadata;
        assert!(!metadata.pending && metadata.applied == options);
    }

    #[test]
    fn what_cannot_be_is_rejected_and_changes_nothing() {
        let (mut state, keys, id) = state();
        let own = |change: MetadataChange| MetadataChange { instance_id: id.clone(), ..change };
        let word = |word: &str| Some(word.to_owned());
        for (change, code) in [
            (own(MetadataChange::default()), "MissingParameter"),
            (own(MetadataChange { hop_limit: Some(0), ..Default::default() }), "InvalidParameterValue"),
            (own(MetadataChange { hop_limit: Some(65), ..Default::default() }), "InvalidParameterValue"),
            (own(MetadataChange { http_tokens: word("enabled"), ..Default::default() }), "InvalidParameterValue"),
            (own(MetadataChange { http_endpoint: word("on"), ..Default::default() }), "InvalidParameterValue"),
            (MetadataChange { instance_id: "i-1".into(), hop_limit: Some(1), ..Default::default() }, "InvalidInstanceID.Malformed"),
            (
                MetadataChange { instance_id: "i-0123456789abcdef0".into(), hop_limit: Some(1), ..Default::default() },
                "InvalidInstanceID.NotFound",
            ),
        ] {
            let reject = step(&mut state, &keys, &modify(change.clone())).unwrap_err();
            assert_eq!(super::super::reject_to_error(&reject).0, code, "{change:?}");
        }
        assert_eq!(state.instance(&id).unwrap().metadata, Metadata::default());
    }

    #[test]
    fn a_tag_that_cannot_be_a_path_and_tags_in_metadata_exclude_each_other() {
        let (mut state, keys, id) = state();
        let tag = |key: &str| {
            let tags = vec![TagItem { key: key.into(), value: None }];
            Input::Command(Command::CreateTags { resources: vec![id.clone()], tags })
        };
        let show = modify(MetadataChange { instance_id: id.clone(), instance_metadata_tags: Some("enabled".into()), ..Default::default() });
        step(&mut state, &keys, &tag("kubernetes.io/cluster/x")).unwrap();
        assert!(step(&mut state, &keys, &show).unwrap_err().to_string().contains("is not a valid tag key"));
        let untag =
            Command::DeleteTags { resources: vec![id.clone()], tags: vec![TagItem { key: "kubernetes.io/cluster/x".into(), value: None }] };
        step(&mut state, &keys, &Input::Command(untag)).unwrap();
        step(&mut state, &keys, &show).unwrap();
        assert!(step(&mut state, &keys, &tag("a/b")).unwrap_err().to_string().contains("'a/b' is not a valid tag key"));
        step(&mut state, &keys, &tag("a:b")).unwrap();
    }

    #[test]
    fn the_mapping_names_what_was_attached_at_the_last_start() {
        let (mut state, keys, id) = state();
        let instance: InstanceId = id.as_str().into();
        let started = |boot: &str| Input::Started { instance: instance.clone(), boot: boot.to_owned() };
        let mapped = |state: &State| state.instance(&id).unwrap().metadata.mapped_devices().map(str::to_owned).collect::<Vec<_>>();
        step(&mut state, &keys, &started("first")).unwrap();
        let create = CreateVolume { zone: Some("us-east-1a".into()), size_gib: Some(1), ..Default::default() };
        let out = step(&mut state, &keys, &Input::Command(Command::CreateVolume(create))).unwrap();
        let volume = out.iter().find_map(|effect| match effect {
            Effect::Reply(Reply::Volume(volume)) => Some((volume.key, volume.key.id(state.seed()))),
            _ => None,
        });
        let (key, volume_id) = volume.unwrap();
        step(&mut state, &keys, &Input::Fired(Timer::Settle(key))).unwrap();
        let attach = Command::AttachVolume { volume_id, instance_id: id.clone(), device: "/dev/xvdaa".into(), card_index: None };
        step(&mut state, &keys, &Input::Command(attach)).unwrap();
        step(&mut state, &keys, &started("first")).unwrap();
        assert!(mapped(&state).is_empty(), "attached while it ran");
        step(&mut state, &keys, &started("second")).unwrap();
        assert_eq!(mapped(&state), ["/dev/xvdaa"]);
        let saved = state.take_dirty().into_iter().find(|dirty| dirty.table == "ec2.metadata").unwrap();
        let mut other = State::new(&World { devices: false, ..World::default() }, Profile::Instant);
        assert!(other.restore(saved.table, &saved.key, &saved.value.unwrap()).unwrap());
        assert_eq!(other.instance(&id).unwrap().metadata, state.instance(&id).unwrap().metadata);
    }
}
