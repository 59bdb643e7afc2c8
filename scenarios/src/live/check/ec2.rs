//! EC2's half: which volumes there are, and what is attached where.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Target, aws, text};
use crate::engine::EngineError;
use crate::invariants::{Seen, Watch};

/// How often EC2 is asked.
const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Ec2 {
    client: aws::Client,
    asked: Duration,
    /// The instances of each volume, with the state of the attachment.
    volumes: BTreeMap<String, BTreeMap<String, &'static str>>,
}

impl Ec2 {
    pub(super) fn new(target: &Target) -> Self {
        Self { client: aws::Client::new(target), asked: Duration::ZERO, volumes: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.volumes.len()
    }

    /// Whether it was time to ask.
    pub(super) async fn ask_when_due(&mut self, at: Duration, watch: &mut Watch) -> Result<bool, EngineError> {
        if at.saturating_sub(self.asked) < EVERY { Ok(false) } else { self.ask(at, watch).await.map(|()| true) }
    }

    pub(super) async fn ask(&mut self, at: Duration, watch: &mut Watch) -> Result<(), EngineError> {
        self.asked = at;
        let mut now = BTreeMap::new();
        let mut parameters = json!({"MaxResults": 500});
        loop {
            let page = self.client.call("ec2", "describe-volumes", &parameters).await?;
            for volume in page["Volumes"].as_array().into_iter().flatten() {
                let id = text(volume, "/VolumeId");
                if !self.volumes.contains_key(&id) {
                    let tags = volume["Tags"].as_array().into_iter().flatten();
                    let tags = tags.map(|tag| (text(tag, "/Key"), text(tag, "/Value"))).collect();
                    let multi_attach = volume["MultiAttachEnabled"] == json!(true);
                    watch.see(at, &Seen::VolumeMade { volume: &id, multi_attach, tags: &tags });
                }
                let attachments = volume["Attachments"].as_array().into_iter().flatten();
                let instances = attachments.filter_map(|of| Some((text(of, "/InstanceId"), state(&of["State"])?))).collect();
                now.insert(id, instances);
            }
            match page["NextToken"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => parameters["NextToken"] = json!(token),
                None => break,
            }
        }
        for id in self.volumes.keys().filter(|id| !now.contains_key(*id)) {
            watch.see(at, &Seen::VolumeDeleted { volume: id });
        }
        for (id, instances) in &now {
            if self.volumes.get(id) != Some(instances) {
                watch.see(at, &Seen::Attachments { volume: id, instances });
            }
        }
        self.volumes = now;
        Ok(())
    }
}

/// An attachment's state; none where it is no more.
fn state(state: &Value) -> Option<&'static str> {
    ["attaching", "attached", "detaching", "busy"].into_iter().find(|known| state == *known)
}
