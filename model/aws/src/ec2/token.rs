//! Client tokens: what was made under a token, remembered for twelve hours and beyond the resource's life (ebs.md §1.3).

use model_common::digest::Digest;
use serde::{Deserialize, Serialize};

use super::ids::VolumeKey;
use super::records::Changed;
use super::{Effect, Reject, State, TOKEN_MEMORY, TagItem, Timer};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Token {
    /// Of the request without its token.
    pub fingerprint: u64,
    pub volumes: Vec<VolumeKey>,
}

/// Two requests are the same when their fingerprints are.
pub(super) fn fingerprint(request: &impl Serialize) -> u64 {
    let mut digest = Digest::default();
    digest.add(request);
    digest.value()
}

/// The tags of a request as its fingerprint takes them: their order says nothing, and the EBS driver sends another one with every retry.
pub(super) fn in_order(tags: &[TagItem]) -> Vec<TagItem> {
    let mut tags = tags.to_vec();
    tags.sort();
    tags
}

impl State {
    /// What an earlier request with this token made; none when there was none.
    pub(super) fn recall(&self, action: &str, token: Option<&str>, fingerprint: u64) -> Result<Option<&[VolumeKey]>, Reject> {
        let Some(token) = token else { return Ok(None) };
        let Some(known) = self.tokens.get(&format!("{action}/{token}")) else { return Ok(None) };
        if known.fingerprint != fingerprint {
            return Err(Reject::TokenMismatch);
        }
        let alive = |key: &VolumeKey| self.volume(*key).is_some_and(|volume| volume.wanted);
        if known.volumes.iter().all(alive) { Ok(Some(&known.volumes)) } else { Err(Reject::TokenDeleted) }
    }

    pub(super) fn remember(&mut self, action: &str, token: Option<&str>, fingerprint: u64, volumes: &[VolumeKey], out: &mut Vec<Effect>) {
        let Some(token) = token else { return };
        let name = format!("{action}/{token}");
        self.tokens.insert(name.clone(), Token { fingerprint, volumes: volumes.to_vec() });
        self.dirty.insert(Changed::Token(name.clone()));
        out.push(Effect::Arm(Timer::Token(name), TOKEN_MEMORY));
    }

    pub(super) fn forget_token(&mut self, name: &str) {
        if self.tokens.remove(name).is_some() {
            self.dirty.insert(Changed::Token(name.to_owned()));
        }
    }
}
