//! Taking down what a failed run left in a world that outlives it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{Engine, EngineError};
use crate::language::Target;
use crate::report::Observer;

/// What creates, its id in the answer, and what takes it away again.
const UNDO: [(&str, &str, &str, &str); 6] = [
    ("ec2", "create-volume", "VolumeId", "delete-volume"),
    ("ec2", "create-snapshot", "SnapshotId", "delete-snapshot"),
    ("ec2", "create-security-group", "GroupId", "delete-security-group"),
    ("efs", "create-file-system", "FileSystemId", "delete-file-system"),
    ("efs", "create-mount-target", "MountTargetId", "delete-mount-target"),
    ("efs", "create-access-point", "AccessPointId", "delete-access-point"),
];

/// How long each thing may take to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run has made and not yet removed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    objects: Vec<Target>,
    calls: Vec<Call>,
}

#[derive(Debug, PartialEq)]
struct Call {
    service: &'static str,
    command: &'static str,
    parameters: Value,
}

impl Ledger {
    pub(super) fn applied(&mut self, target: Target) {
        if !self.objects.contains(&target) {
            self.objects.push(target);
        }
    }

    pub(super) fn deleted(&mut self, target: &Target) {
        self.objects.retain(|object| object.kind != target.kind || object.name != target.name || object.namespace != target.namespace);
    }

    pub(super) fn called(&mut self, service: &str, command: &str, parameters: &Value, answer: &Value) {
        for (undo_service, create, id, delete) in UNDO {
            if undo_service != service {
                continue;
            }
            if create == command
                && let Some(value) = answer.get(id)
            {
                self.calls.push(Call { service: undo_service, command: delete, parameters: json!({id: value}) });
            }
            if delete == command
                && let Some(value) = parameters.get(id)
            {
                let done = json!({id: value});
                self.calls.retain(|call| call.command != delete || call.parameters != done);
            }
        }
    }
}

/// Removes all that the ledger lists, newest first; says what stays.
pub(super) async fn take_down<E: Engine>(ledger: Ledger, engine: &mut E, observer: &mut dyn Observer) {
    for target in ledger.objects.iter().rev() {
        match engine.delete(target, None).await {
            Ok(()) => observer.note(&format!("taking down {} {}", target.kind, target.name)),
            Err(EngineError::Kubernetes { reason, .. }) if reason == "NotFound" => {}
            Err(error) => observer.note(&format!("cannot take down {} {}: {error}", target.kind, target.name)),
        }
    }
    let start = engine.now();
    for target in ledger.objects.iter().rev() {
        while matches!(engine.get(target).await, Ok(Some(_))) {
            if engine.now().saturating_sub(start) > PATIENCE {
                observer.note(&format!("{} {} is still there", target.kind, target.name));
                break;
            }
            engine.pause(engine.poll_every()).await;
        }
    }
    for call in ledger.calls.iter().rev() {
        let start = engine.now();
        loop {
            match engine.aws(call.service, call.command, &call.parameters).await {
                Ok(_) => observer.note(&format!("taking down: aws {} {} {}", call.service, call.command, call.parameters)),
                Err(EngineError::Aws { code, .. }) if code.ends_with("NotFound") => {}
                // Still in use: what holds it is going.
                Err(EngineError::Aws { .. }) if engine.now().saturating_sub(start) < PATIENCE => {
                    engine.pause(engine.poll_every()).await;
                    continue;
                }
                Err(error) => {
                    observer.note(&format!("cannot take down with aws {} {} {}: {error}", call.service, call.command, call.parameters))
                }
            }
            break;
        }
    }
}
