//! What requests to AWS meet: the rules of AWS's own table of faults.

use std::time::Duration;

use model_aws::{Input, faults};
use model_node::driver::CallId;
use model_node::driver::cloud::{CloudCall, CloudError};
use serde_json::Value;

use super::super::clock::Part;
use super::super::lanes::subject;
use super::super::{Event, Told, World};
use super::{REQUEST_ID, Refusal, Reply};
use crate::engine::EngineError;

impl World {
    /// Puts a rule into AWS's table of faults.
    pub(in crate::world) fn cause_in_aws(&mut self, rule: &faults::Rule) -> Result<(), EngineError> {
        if matches!(rule.action_id, faults::Action::EventualConsistency | faults::Action::AgentUnreachable) {
            return Err(EngineError::Unsupported(format!("the fault {} is known only with --live", rule.action_id)));
        }
        let mut rule = rule.clone();
        // Nodes may have other names here than in the account.
        if let Some(node) = self.nodes.iter().find(|node| Some(&node.info.name) == rule.node.as_ref()) {
            rule.node = Some(node.info.instance_id.clone());
        }
        let command = faults::Command::Add { rules: vec![rule] };
        let refused = |refusal: Refusal| EngineError::Unsupported(refusal.message);
        self.aws(Input::Faults(faults::Input::Command(command))).map(drop).map_err(refused)
    }

    /// Ends all faults of AWS.
    pub(in crate::world) fn clear_aws(&mut self) {
        let ids: Vec<_> = self.aws.faults.faults().map(faults::Fault::id).collect();
        if !ids.is_empty() {
            // They are all there.
            let _ = self.aws(Input::Faults(faults::Input::Command(faults::Command::Remove { ids })));
        }
    }

    /// A driver's request reaches AWS, and meets what the table of faults holds for it.
    pub(in crate::world) fn cloud_arrived(
        &mut self,
        which: super::super::Which,
        id: CallId,
        call: Box<CloudCall>,
        met: Option<Box<faults::Verdict>>,
    ) {
        let mut verdict = met.map_or_else(|| self.judge_driver(&call), |met| *met);
        // The rest of it is for the request that comes after the delay.
        if let Some(delay) = verdict.delay.take() {
            return self.clock.after(delay.duration(), Event::Cloud { which, id, call, met: Some(Box::new(verdict)) });
        }
        let mut result = match verdict.error {
            Some(error) => Box::new(Err(call.error(error.status, REQUEST_ID, &error.code, &error.message))),
            None => self.cloud(&call),
        };
        if verdict.lost {
            let (service, operation) = call.operation();
            let operation = format!("{service}: {operation}");
            *result = Err(CloudError::Transport {
                operation,
                message: "https response error StatusCode: 0, RequestID: , request send failed, EOF".into(),
            });
        }
        self.note("cloud").value(&call).value(&result);
        self.trace(|_| {
            let (service, operation) = call.operation();
            let outcome = match &*result {
                Ok(_) => "ok".to_owned(),
                Err(error) if error.code().is_empty() => error.message().to_owned(),
                Err(error) => format!("{} ({})", error.code(), error.message()),
            };
            Told::new(service.to_lowercase(), format!("{operation}{}: {outcome}", subject(&call))).failed(result.is_err())
        });
        self.soon(Part::Cloud, Event::Answer { which, id, result });
    }

    fn judge_driver(&mut self, call: &CloudCall) -> faults::Verdict {
        let (service, operation) = call.operation();
        let service = if service == "EFS" { "elasticfilesystem" } else { "ec2" };
        let dry_run = matches!(call, CloudCall::CreateVolume(new) if new.dry_run);
        self.judge(service, operation, || serde_json::to_value(call).unwrap_or_default(), dry_run)
    }

    /// What the table of faults holds for a request.
    fn judge(&mut self, service: &str, operation: &str, parameters: impl FnOnce() -> Value, dry_run: bool) -> faults::Verdict {
        if self.aws.faults.faults().next().is_none() {
            return faults::Verdict::default();
        }
        let mut names = Vec::new();
        faults::texts(&parameters(), &mut names);
        let call = faults::Call { service: service.into(), operation: operation.into(), region: None, names, dry_run };
        let verdict = match self.aws(Input::Faults(faults::Input::Call(call))) {
            Ok(Some(Reply::Faults(faults::Reply::Verdict(verdict)))) => verdict,
            // The table judges every call.
            _ => faults::Verdict::default(),
        };
        self.late(verdict.delay.map_or(Duration::ZERO, faults::Span::duration));
        verdict
    }

    /// An aws command of the user reaches AWS, and meets what the table of faults holds for it.
    pub(in crate::world) fn user_calls(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        let judged = if service == "efs" { "elasticfilesystem" } else { service };
        let dry_run = parameters.get("DryRun").is_some_and(|dry_run| dry_run == true);
        let verdict = self.judge(judged, &operation_of(command), || parameters.clone(), dry_run);
        if let Some(delay) = verdict.delay {
            self.advance(delay.duration());
        }
        if let Some(error) = verdict.error {
            return Err(EngineError::Aws { command: command.into(), code: error.code, message: error.message });
        }
        let result = self.command(service, command, parameters);
        if verdict.lost {
            let message = "Connection was closed before we received a valid response from endpoint URL".into();
            return Err(EngineError::Transport { operation: format!("aws {service} {command}"), message });
        }
        result
    }
}

/// `create-volume` is CreateVolume in the API.
fn operation_of(command: &str) -> String {
    let capital = |word: &str| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect::<String>();
    command.split('-').map(capital).collect()
}
