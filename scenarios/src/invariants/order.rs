//! The CSI specification's order of calls and what a repeated call must give: S17 and S18.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi::{Code, ControllerReply, Error};

use super::calls::{Call, Calls, Verb, is_uncertain};
use super::known::Known;
use super::names::Sym;
use super::table::Rule;
use super::watch::Log;

/// What its callers know of a volume on a node.
#[derive(Debug, Default)]
struct Place {
    /// `ControllerPublishVolume` succeeded after the last try to unpublish.
    attached: bool,
    /// It may have been carried out, and no `ControllerUnpublishVolume` succeeded since.
    standing: bool,
    /// `NodeStageVolume` may have been carried out.
    staged: bool,
    /// Targets at which `NodePublishVolume` may have been carried out.
    targets: BTreeSet<Sym>,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    /// By volume and node.
    places: BTreeMap<(Sym, Sym), Place>,
    deleted: BTreeSet<Sym>,
    /// What was made under a name.
    made: BTreeMap<(Verb, Sym), Sym>,
}

impl Order {
    /// S17, and S18 for calls at the same time.
    pub(super) fn began(&mut self, at: Duration, rpc: u64, call: &Call, known: &Known, calls: &Calls, log: &mut Log) {
        let Call { verb, volume, node, path, .. } = *call;
        if verb == Verb::Read {
            return;
        }
        let words = |what: &str| {
            let on = if known.text(node).is_empty() { String::new() } else { format!(" on {}", known.text(node)) };
            format!("{} of {}{on} began {what}", verb.name(), known.text(volume))
        };
        if let Some(other) = calls.beside(rpc, call) {
            log.say(at, Rule::S18, || words(&format!("while the {} that its caller sent before is under way", other.verb.name())));
        }
        if verb == Verb::DeleteVolume {
            let range = self.places.range((volume, Sym::MIN)..=(volume, Sym::MAX));
            for ((_, node), _) in range.filter(|(_, place)| place.standing) {
                log.say(at, Rule::S17, || words(&format!("while it is or may be published to {}", known.text(*node))));
            }
            return;
        }
        if matches!(verb, Verb::CreateVolume | Verb::CreateSnapshot | Verb::DeleteSnapshot) {
            return;
        }
        if self.deleted.contains(&volume) && !matches!(verb, Verb::Unpublish | Verb::NodeUnstage | Verb::NodeUnpublish) {
            log.say(at, Rule::S17, || words("after the volume was deleted"));
        }
        if matches!(verb, Verb::ControllerExpand | Verb::Modify | Verb::NodeExpand) {
            return;
        }
        let place = self.places.entry((volume, node)).or_default();
        let unattached = !place.attached && known.is_attachable(call.driver);
        match verb {
            Verb::Publish => place.standing = true,
            Verb::Unpublish => {
                if (place.staged || !place.targets.is_empty()) && !known.may_force(node, at) {
                    log.say(at, Rule::S17, || words("before it was unpublished and unstaged there"));
                }
                place.attached = false;
            }
            Verb::NodeStage => {
                if unattached {
                    log.say(at, Rule::S17, || words("without a ControllerPublishVolume that succeeded since the last unpublish"));
                }
                place.staged = true;
            }
            Verb::NodeUnstage if !place.targets.is_empty() => {
                let target = place.targets.first().map_or("", |target| known.text(*target));
                log.say(at, Rule::S17, || words(&format!("before it was unpublished from {target}")));
            }
            Verb::NodePublish => {
                if call.staged && !place.staged {
                    log.say(at, Rule::S17, || words("without a NodeStageVolume"));
                } else if unattached {
                    log.say(at, Rule::S17, || words("without a ControllerPublishVolume that succeeded since the last unpublish"));
                }
                place.targets.insert(path);
            }
            _ => {}
        }
    }

    /// What a driver did.
    pub(super) fn ended(&mut self, call: &Call, error: Option<&Error>) {
        let Call { verb, volume, node, path, .. } = *call;
        if error.is_some() {
            return;
        }
        if verb == Verb::DeleteVolume {
            self.deleted.insert(volume);
        }
        let Some(place) = self.places.get_mut(&(volume, node)) else { return };
        match verb {
            Verb::Publish => (place.attached, place.standing) = (true, true),
            Verb::Unpublish => place.standing = false,
            Verb::NodeUnstage => place.staged = false,
            Verb::NodeUnpublish => drop(place.targets.remove(&path)),
            _ => {}
        }
        self.tidy(volume, node);
    }

    /// What the caller was told: after a final error it takes the work as not done.
    pub(super) fn told(&mut self, call: &Call, error: Option<&Error>) {
        let Some(error) = error else { return };
        let Call { verb, volume, node, path, .. } = *call;
        if is_uncertain(error) {
            return;
        }
        let Some(place) = self.places.get_mut(&(volume, node)) else { return };
        match verb {
            Verb::Publish if !place.attached => place.standing = false,
            Verb::NodeStage if place.targets.is_empty() => place.staged = false,
            Verb::NodePublish => drop(place.targets.remove(&path)),
            _ => {}
        }
        self.tidy(volume, node);
    }

    fn tidy(&mut self, volume: Sym, node: Sym) {
        let empty = |place: &Place| !place.attached && !place.standing && !place.staged && place.targets.is_empty();
        if self.places.get(&(volume, node)).is_some_and(empty) {
            self.places.remove(&(volume, node));
        }
    }

    /// S18, for the results of controller calls.
    pub(super) fn result(&mut self, at: Duration, call: &Call, result: &Result<ControllerReply, Error>, known: &mut Known, log: &mut Log) {
        let id = match result {
            Ok(ControllerReply::CreateVolume(volume)) => known.names.sym(&volume.volume_id),
            Ok(ControllerReply::CreateSnapshot(snapshot)) => known.names.sym(&snapshot.snapshot_id),
            Ok(_) => return,
            Err(error) => {
                let again = call.verb == Verb::DeleteVolume && self.deleted.contains(&call.volume);
                if again && matches!(error.code, Code::NotFound | Code::FailedPrecondition) {
                    log.say(at, Rule::S18, || format!("DeleteVolume of {}, which was deleted, gave: {error}", known.text(call.volume)));
                }
                return;
            }
        };
        self.deleted.remove(&id);
        let old = self.made.insert((call.verb, call.volume), id);
        if let Some(old) = old.filter(|old| *old != id && !self.deleted.contains(old)) {
            log.say(at, Rule::S18, || {
                let (name, old, id) = (known.text(call.volume), known.text(old), known.text(id));
                format!("{} of {name} gave {id}, and {old} before", call.verb.name())
            });
        }
    }

    /// Mounts and processes of the node are gone.
    pub(super) fn power_lost(&mut self, node: &str, known: &Known) {
        let Some(node) = known.names.find(node) else { return };
        for ((_, on), place) in &mut self.places {
            if *on == node {
                place.staged = false;
                place.targets.clear();
            }
        }
    }
}
