//! What each operation does.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Failure, Player};
use crate::engine::{Engine, EngineError};
use crate::language::{Apply, Assert, Aws, Delete, EventLike, Exec, Op, Span, Target, Until, Wait};
use crate::matching::matches;
use crate::variables::{self, Unset, Variables};

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { last: error.is_final(), message: error.to_string() }
    }
}

impl From<Unset> for Failure {
    fn from(error: Unset) -> Self {
        Self { last: true, message: error.to_string() }
    }
}

impl From<crate::matching::Mismatch> for Failure {
    fn from(error: crate::matching::Mismatch) -> Self {
        Self { last: false, message: error.to_string() }
    }
}

fn failure(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), last: false }
}

/// Whoever started the run wants it to end.
pub(super) fn interrupted() -> Failure {
    Failure { message: "interrupted".into(), last: true }
}

/// One line that says what an operation is about, for people.
pub(super) fn title(op: &Op, variables: &Variables) -> String {
    let text = match op {
        Op::Aws(aws) => format!("aws {}", aws.command),
        Op::Apply(_) => "apply".into(),
        Op::Delete(Delete { kind: Some(kind), name: Some(name), .. }) => format!("delete {kind}/{name}"),
        Op::Delete(_) => "delete".into(),
        Op::Wait(Wait { until, .. }) => {
            let state = match (&until.condition, &until.phase) {
                (Some(condition), _) => condition.as_str(),
                (_, Some(phase)) => phase.as_str(),
                _ => "deleted",
            };
            format!("wait {}/{} {state}", until.kind, until.name)
        }
        Op::Exec(exec) => format!("exec {} -- {}", exec.pod, exec.command.join(" ")),
        Op::Assert(Assert { absent: Some(target), .. }) => format!("assert no {}/{}", target.kind, target.name),
        Op::Assert(Assert { events: Some(_), .. }) => "assert events".into(),
        Op::Assert(Assert { resource, .. }) => {
            let part = |pointer: &str| resource.as_ref().and_then(|r| r.pointer(pointer)).and_then(Value::as_str).unwrap_or("*").to_owned();
            format!("assert {}/{}", part("/kind"), part("/metadata/name"))
        }
        Op::Fault(fault) => format!("fault {fault}"),
        Op::Print(_) => "print".into(),
        Op::Sleep(span) => format!("sleep {span}"),
    };
    variables::fill(&text, variables).unwrap_or(text)
}

fn fill_target(target: &Target, variables: &Variables) -> Result<Target, Unset> {
    let fill = |text: &Option<String>| text.as_deref().map(|text| variables::fill(text, variables)).transpose();
    Ok(Target {
        api_version: target.api_version.clone(),
        kind: target.kind.clone(),
        name: variables::fill(&target.name, variables)?,
        namespace: fill(&target.namespace)?,
    })
}

/// The name of an object as written in a manifest.
pub(crate) fn target_of(object: &Value) -> Target {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Target {
        api_version: text("/apiVersion"),
        kind: text("/kind").unwrap_or_default(),
        name: text("/metadata/name").unwrap_or_default(),
        namespace: text("/metadata/namespace"),
    }
}

impl<E: Engine> Player<'_, E> {
    pub(super) async fn operation(&mut self, op: &Op, details: &mut Vec<String>) -> Result<(), Failure> {
        match op {
            Op::Aws(aws) => self.aws(aws, details).await,
            Op::Apply(apply) => self.apply(apply, details).await,
            Op::Delete(delete) => self.delete(delete, details).await,
            Op::Wait(wait) => self.wait(wait).await,
            Op::Exec(exec) => self.exec(exec, details).await,
            Op::Assert(assert) => self.assert(assert, details).await,
            Op::Fault(fault) => {
                let filled = variables::fill_value(&Value::from(fault.clone()), &self.variables)?;
                let fault = crate::language::Fault::try_from(filled).map_err(|message| Failure { last: true, message })?;
                Ok(self.engine.fault(&fault).await?)
            }
            Op::Print(text) => {
                details.push(variables::fill(text, &self.variables)?);
                Ok(())
            }
            Op::Sleep(span) => {
                self.engine.pause(span.0).await;
                if self.engine.stopped() { Err(interrupted()) } else { Ok(()) }
            }
        }
    }

    /// Pauses before another try; false when the time is up.
    async fn again(&mut self, failure: &Failure, start: Duration, within: Option<Span>) -> bool {
        let Some(Span(within)) = within else { return false };
        let passed = self.engine.now().saturating_sub(start);
        if failure.last || passed >= within || self.engine.stopped() {
            return false;
        }
        let pause = self.engine.poll_every().min(within - passed).max(Duration::from_millis(1));
        self.engine.pause(pause).await;
        true
    }

    fn capture(&mut self, wanted: &crate::language::Capture, result: &Value, details: &mut Vec<String>) -> Result<(), Failure> {
        variables::capture(wanted, result, &mut self.variables).map_err(failure)?;
        for name in wanted.keys() {
            match &self.variables[name] {
                Value::String(text) if text.contains('\n') => details.push(format!("{name} =\n{text}")),
                Value::String(text) => details.push(format!("{name} = {text}")),
                value => details.push(format!("{name} = {value}")),
            }
        }
        Ok(())
    }

    async fn aws(&mut self, aws: &Aws, details: &mut Vec<String>) -> Result<(), Failure> {
        let parameters = variables::fill_value(&Value::Object(aws.parameters.clone()), &self.variables)?;
        let expect = aws.expect.as_ref().map(|expect| variables::fill_value(expect, &self.variables)).transpose()?;
        // `check` made sure that there are two words.
        let (service, command) = aws.command.split_once(' ').unwrap_or(("", &aws.command));
        let start = self.engine.now();
        loop {
            let answer = self.engine.aws(service, command, &parameters).await;
            let result = match (answer, &aws.error) {
                (Ok(answer), None) => {
                    self.ledger.called(service, command, &parameters, &answer);
                    let fits = expect.as_ref().map_or(Ok(()), |expect| matches(expect, Some(&answer)).map_err(Failure::from));
                    match fits {
                        Ok(()) => self.capture(&aws.capture, &answer, details),
                        Err(mismatch) => Err(mismatch),
                    }
                }
                (Ok(answer), Some(code)) => Err(failure(format!("expected the error {code}, got {answer}"))),
                (Err(EngineError::Aws { code, .. }), Some(wanted)) if code == *wanted => Ok(()),
                (Err(error), Some(wanted)) => Err(failure(format!("expected the error {wanted}, got: {error}"))),
                (Err(error), None) => Err(error.into()),
            };
            match result {
                Ok(()) => return Ok(()),
                Err(failure) if self.again(&failure, start, aws.within).await => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn apply(&mut self, apply: &Apply, details: &mut Vec<String>) -> Result<(), Failure> {
        for object in self.documents(&apply.manifests)? {
            let target = target_of(&object);
            let failed = |error: EngineError| failure(format!("{}/{}: {error}", target.kind, target.name));
            if self.engine.is_live() {
                let before = self.engine.get(&target).await.map_err(failed)?;
                self.ledger.applying(&object, before.as_ref());
            }
            let done = self.engine.apply(&object).await.map_err(failed)?;
            details.push(format!("{}/{} {done}", target.kind.to_lowercase(), target.name));
        }
        Ok(())
    }

    fn documents(&self, manifests: &str) -> Result<Vec<Value>, Failure> {
        // Put in after parsing, so that a value can never change the structure.
        let documents = variables::documents(manifests).map_err(failure)?;
        Ok(documents.iter().map(|document| variables::fill_value(document, &self.variables)).collect::<Result<_, _>>()?)
    }

    async fn delete(&mut self, delete: &Delete, details: &mut Vec<String>) -> Result<(), Failure> {
        let targets = match (&delete.manifests, &delete.kind, &delete.name) {
            (Some(manifests), _, _) => self.documents(manifests)?.iter().map(target_of).collect(),
            (None, Some(kind), Some(name)) => {
                let (api_version, namespace) = (delete.api_version.clone(), delete.namespace.clone());
                vec![fill_target(&Target { api_version, kind: kind.clone(), name: name.clone(), namespace }, &self.variables)?]
            }
            // `check` refuses the rest.
            _ => return Err(failure("nothing to delete")),
        };
        let mut waiting = Vec::new();
        for target in targets {
            let uid = self.engine.get(&target).await?.and_then(|object| object.pointer("/metadata/uid").cloned());
            if uid.is_none() && delete.ignore_not_found {
                continue;
            }
            self.engine.delete(&target, delete.grace_period_seconds).await?;
            details.push(format!("{} {} deleted", target.kind.to_lowercase(), target.name));
            waiting.push((target, uid));
        }
        let start = self.engine.now();
        for (target, uid) in waiting {
            loop {
                let now = self.engine.get(&target).await?;
                if now.as_ref().is_none_or(|object| object.pointer("/metadata/uid").cloned() != uid) {
                    // One that was made again under its name is not.
                    if now.is_none() {
                        self.ledger.deleted(&target);
                    }
                    break;
                }
                if delete.timeout.0.is_zero() {
                    break;
                }
                let still = failure(format!("{} {} is still there after {}", target.kind, target.name, delete.timeout));
                if !self.again(&still, start, Some(delete.timeout)).await {
                    return Err(still);
                }
            }
        }
        Ok(())
    }

    async fn wait(&mut self, wait: &Wait) -> Result<(), Failure> {
        let Until { api_version, kind, name, namespace, condition, phase, .. } = &wait.until;
        let target = Target { api_version: api_version.clone(), kind: kind.clone(), name: name.clone(), namespace: namespace.clone() };
        let target = fill_target(&target, &self.variables)?;
        let expect = match (condition, phase) {
            (Some(condition), _) => {
                let (type_, status) = condition.split_once('=').unwrap_or((condition, "True"));
                json!({"status": {"conditions": {"$contains": [{"type": type_, "status": status}]}}})
            }
            (None, Some(phase)) => json!({"status": {"phase": phase}}),
            (None, None) => Value::Null,
        };
        let start = self.engine.now();
        loop {
            let found = match self.engine.get(&target).await {
                Ok(object) => matches(&expect, object.as_ref()).map_err(Failure::from),
                Err(error) => Err(error.into()),
            };
            match found {
                Ok(()) => return Ok(()),
                Err(failure) if self.again(&failure, start, Some(wait.timeout)).await => {}
                Err(Failure { message, last }) => {
                    let seen = self.recent_events(&target).await;
                    return Err(Failure { message: format!("not within {}: {message}{seen}", wait.timeout), last });
                }
            }
        }
    }

    /// The events of an object, for the message of a wait that failed.
    async fn recent_events(&mut self, target: &Target) -> String {
        let Ok(events) = self.engine.list(None, "Event", target.namespace.as_deref()).await else { return String::new() };
        let part = |event: &Value, pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let lines: Vec<String> = events
            .iter()
            .filter(|event| part(event, "/involvedObject/kind") == target.kind && part(event, "/involvedObject/name") == target.name)
            .map(|event| format!("\n{} {}: {}", part(event, "/type"), part(event, "/reason"), part(event, "/message")))
            .collect();
        lines.concat()
    }

    async fn exec(&mut self, exec: &Exec, details: &mut Vec<String>) -> Result<(), Failure> {
        let command = exec.command.iter().map(|word| variables::fill(word, &self.variables)).collect::<Result<Vec<_>, _>>()?;
        let expect = match &exec.expect {
            Some(expect) => variables::fill_value(expect, &self.variables)?,
            None => json!({"exitCode": 0}),
        };
        let pod = variables::fill(&exec.pod, &self.variables)?;
        let namespace = exec.namespace.as_deref().unwrap_or("default");
        let start = self.engine.now();
        loop {
            let result = match self.engine.exec(namespace, &pod, exec.container.as_deref(), &command).await {
                Ok(output) => {
                    let trimmed = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
                    let result =
                        json!({"stdout": trimmed(&output.stdout), "stderr": trimmed(&output.stderr), "exitCode": output.exit_code});
                    match matches(&expect, Some(&result)) {
                        Ok(()) => self.capture(&exec.capture, &result, details),
                        Err(mismatch) if output.stderr.is_empty() => Err(mismatch.into()),
                        Err(mismatch) => Err(failure(format!("{mismatch}; stderr: {}", trimmed(&output.stderr)))),
                    }
                }
                Err(error) => Err(error.into()),
            };
            match result {
                Ok(()) => return Ok(()),
                Err(failure) if self.again(&failure, start, exec.within).await => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn assert(&mut self, assert: &Assert, details: &mut Vec<String>) -> Result<(), Failure> {
        let start = self.engine.now();
        loop {
            match self.assert_once(assert, details).await {
                Ok(()) => return Ok(()),
                Err(failure) if self.again(&failure, start, assert.within).await => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn assert_once(&mut self, assert: &Assert, details: &mut Vec<String>) -> Result<(), Failure> {
        if let Some(target) = &assert.absent {
            let target = fill_target(target, &self.variables)?;
            return match self.engine.get(&target).await? {
                None => Ok(()),
                Some(_) => Err(failure(format!("{} {} is there", target.kind, target.name))),
            };
        }
        if let Some(wanted) = &assert.events {
            for like in wanted {
                let namespace = like.namespace.as_deref().map(|namespace| variables::fill(namespace, &self.variables)).transpose()?;
                let events = self.engine.list(None, "Event", namespace.as_deref()).await?;
                let expect = expected_event(like, &self.variables)?;
                if !events.iter().any(|event| matches(&expect, Some(event)).is_ok()) {
                    return Err(failure(format!("no event like {expect} among {}", seen(&events))));
                }
            }
            return Ok(());
        }
        let Some(resource) = &assert.resource else { return Err(failure("nothing to assert")) };
        let resource = variables::fill_value(resource, &self.variables)?;
        let target = target_of(&resource);
        let found = if target.name.is_empty() {
            let all = self.engine.list(target.api_version.as_deref(), &target.kind, target.namespace.as_deref()).await?;
            let wrong = match all.iter().map(|object| matches(&resource, Some(object))).find_map(Result::err) {
                Some(mismatch) => mismatch.to_string(),
                None => "there is none".into(),
            };
            all.into_iter()
                .find(|object| matches(&resource, Some(object)).is_ok())
                .ok_or_else(|| failure(format!("no {} fits: {wrong}", target.kind)))?
        } else {
            let object = self.engine.get(&target).await?;
            let object = object.ok_or_else(|| failure(format!("there is no {} {}", target.kind, target.name)))?;
            matches(&resource, Some(&object))?;
            object
        };
        self.capture(&assert.capture, &found, details)
    }
}

fn expected_event(like: &EventLike, variables: &Variables) -> Result<Value, Unset> {
    let mut expect = json!({"reason": like.reason});
    if let Some(type_) = &like.type_ {
        expect["type"] = json!(type_);
    }
    if let Some(part) = &like.message_like {
        expect["message"] = json!({"$contains": variables::fill(part, variables)?});
    }
    if let Some(object) = &like.object {
        let object = variables::fill(object, variables)?;
        let (kind, name) = object.split_once('/').unwrap_or((&object, ""));
        expect["involvedObject"] = json!({"kind": kind, "name": name});
    }
    Ok(expect)
}

fn seen(events: &[Value]) -> String {
    let part = |event: &Value, pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    let line = |event: &Value| {
        format!(
            "\n{}/{} {}: {}",
            part(event, "/involvedObject/kind"),
            part(event, "/involvedObject/name"),
            part(event, "/reason"),
            part(event, "/message")
        )
    };
    if events.is_empty() { "none at all".into() } else { events.iter().map(line).collect() }
}
