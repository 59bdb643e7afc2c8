//! Creates whose answers do not tell what became of them.

use serde_json::json;

use super::super::{AttachDetach, attachment_name};
use super::on;
use crate::machine::{Effect, Input, Purpose, Timer};
use crate::object::{Change, Key, Kind, Object};
use crate::testing::{claim, object, volume};
use crate::write::{ApiError, Write};

/// A controller that is told everything by hand.
struct Told {
    machine: AttachDetach,
    effects: Vec<Effect>,
}

impl Told {
    /// A pod on node-a wants vol-1, and nothing is attached.
    fn new() -> Self {
        let mut this = Self { machine: AttachDetach::default(), effects: Vec::new() };
        let mut bound = volume("v", "vol-1", "1Gi");
        bound["spec"]["claimRef"] = json!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": "ebs-claim", "uid": "u"});
        let mut wanted = claim("ebs-claim", "", "ReadWriteOnce", "1Gi");
        wanted["metadata"]["uid"] = json!("u");
        wanted["spec"]["volumeName"] = json!("v");
        wanted["status"] = json!({"phase": "Bound"});
        for known in [node(), object(bound), object(wanted), pod()] {
            this.input(&Input::Changed(Change::Added(known)));
        }
        this.input(&Input::Booted);
        this
    }

    fn input(&mut self, input: &Input) {
        self.machine.step(input, &mut self.effects).unwrap();
    }

    /// The only write under way.
    fn write(&mut self) -> (u64, Write) {
        let mut writes = self.effects.extract_if(.., |effect| matches!(effect, Effect::Write { .. }));
        let Some(Effect::Write { call, write }) = writes.next() else { panic!("nothing is written") };
        assert!(writes.next().is_none());
        drop(writes);
        (call, write)
    }

    /// The machine's live reads show the node as it is.
    fn look(&mut self) {
        while let Some(at) = self.effects.iter().position(|effect| matches!(effect, Effect::Get { .. })) {
            if let Effect::Get { call, .. } = self.effects.remove(at) {
                self.input(&Input::Written { call, result: Ok(node()) });
            }
        }
    }

    fn is_quiet(&self) -> bool {
        !self.effects.iter().any(|effect| matches!(effect, Effect::Write { .. } | Effect::Get { .. }))
    }
}

fn node() -> Object {
    object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "resourceVersion": "1",
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
}

fn pod() -> Object {
    object(on("app", "node-a"))
}

fn key() -> Key {
    Key::new(Kind::VolumeAttachment, "", &attachment_name("vol-1", "ebs.csi.aws.com", "node-a"))
}

/// Found by the search (seed 444): the answer was lost, the pod went, and what had been made stayed for ever.
#[test]
fn what_may_have_been_made_is_deleted_when_nobody_wants_it() {
    let mut told = Told::new();
    let (call, write) = told.write();
    assert!(matches!(write, Write::Create { .. }) && write.key() == key());
    told.input(&Input::Written { call, result: Err(ApiError::internal("http2: client connection lost")) });
    assert!(told.is_quiet(), "it waits");
    told.input(&Input::Changed(Change::Deleted(pod())));
    told.input(&Input::Changed(Change::Modified(node())));
    told.look();
    let (call, write) = told.write();
    assert!(matches!(write, Write::Delete { .. }) && write.key() == key(), "{write:?}");
    told.input(&Input::Written { call, result: Err(ApiError::not_found(&Kind::VolumeAttachment, &key().name)) });
    assert!(told.is_quiet() && told.machine.have.is_empty(), "there is none, and that is as good");
}

#[test]
fn what_exists_already_is_waited_for_and_not_made_again() {
    let mut told = Told::new();
    let (call, write) = told.write();
    told.input(&Input::Written { call, result: Err(ApiError::internal("http2: client connection lost")) });
    told.input(&Input::Fired(Timer { purpose: Purpose::Retry, item: key() }));
    let (call, again) = told.write();
    assert_eq!(again, write);
    told.input(&Input::Written { call, result: Err(ApiError::already_exists(&Kind::VolumeAttachment, &key().name)) });
    told.input(&Input::Fired(Timer { purpose: Purpose::Retry, item: key() }));
    assert!(told.is_quiet(), "the watch will show it");
    let Write::Create { object: mut made } = write else { panic!() };
    let Object::VolumeAttachment(attachment) = &mut made else { panic!() };
    std::sync::Arc::make_mut(attachment).status = serde_json::from_value(json!({"attached": true})).unwrap();
    told.input(&Input::Changed(Change::Added(made)));
    let said = |effect: &Effect| matches!(effect, Effect::Record(record) if record.reason == "SuccessfulAttachVolume");
    assert!(told.effects.iter().any(said));
}
