//! What a driver made and nobody owns: S20.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::calls::{Calls, Verb};
use super::super::known::Known;
use super::super::names::Sym;
use super::super::table::Rule;
use super::super::watch::Log;
use super::Claims;

impl Claims {
    /// S20, at the end.
    pub(in super::super) fn end(&self, at: Duration, known: &Known, calls: &Calls, log: &mut Log) {
        let uids: BTreeSet<&str> = known.claims.values().filter_map(|claim| claim.metadata.uid.as_deref()).collect();
        let making = |verb: Verb, name: Sym| calls.open().any(|call| call.verb == verb && call.volume == name);
        for (volume, name) in &self.made {
            // A claim that waits for its volume will ask for it again by its name.
            let waits = known.text(*name).strip_prefix("pvc-").is_some_and(|uid| uids.contains(uid));
            if known.pvs_of(*volume).next().is_none() && !waits && !making(Verb::CreateVolume, *name) {
                log.say(at, Rule::S20, || {
                    format!(
                        "volume {}, made as {}, has no PersistentVolume and nobody is making one",
                        known.text(*volume),
                        known.text(*name)
                    )
                });
            }
        }
        for (id, snapshot) in &self.snapshots {
            let Some(name) = snapshot.name else { continue };
            if snapshot.contents == 0 && !snapshot.given_up && !making(Verb::CreateSnapshot, name) {
                log.say(at, Rule::S20, || {
                    format!("snapshot {}, made as {}, has no VolumeSnapshotContent", known.text(*id), known.text(name))
                });
            }
        }
    }
}
