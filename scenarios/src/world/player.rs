//! What the player of a scenario asks of the virtual world; its own ways take time too.

use std::time::Duration;

use serde_json::Value;

use super::World;
use super::clock::Part;
use crate::engine::{Applied, Engine, EngineError, Output};
use crate::invariants::{Facts, Found};
use crate::language::{Fault, Target};

impl Engine for World {
    fn now(&self) -> Duration {
        self.clock.now()
    }
    fn poll_every(&self) -> Duration {
        Duration::from_millis(250)
    }
    fn is_live(&self) -> bool {
        false
    }
    async fn pause(&mut self, span: Duration) {
        self.advance(span);
    }
    async fn aws(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        let there = self.latencies.draw(Part::Cloud);
        self.advance(there);
        let answer = self.user_calls(service, command, parameters);
        self.note("user").value(&(service, command, parameters)).verdict(&answer);
        if let Ok(answer) = &answer {
            self.trail.value(answer);
        }
        let back = self.latencies.draw(Part::Cloud);
        self.advance(back);
        answer
    }
    async fn get(&mut self, target: &Target) -> Result<Option<Value>, EngineError> {
        self.read(target)
    }
    async fn list(&mut self, _api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError> {
        self.read_all(kind, namespace)
    }
    async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError> {
        let there = self.latencies.draw(Part::Write);
        self.advance(there);
        self.apply_object(object)
    }
    async fn delete(&mut self, target: &Target, grace_seconds: Option<u32>) -> Result<(), EngineError> {
        let there = self.latencies.draw(Part::Write);
        self.advance(there);
        self.delete_object(target, grace_seconds)
    }
    async fn exec(&mut self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> Result<Output, EngineError> {
        let there = self.latencies.draw(Part::Mount);
        self.advance(there);
        self.look(namespace, pod, container, command)
    }
    async fn fault(&mut self, fault: &Fault) -> Result<(), EngineError> {
        self.cause(fault)
    }
    fn inputs(&self) -> Option<u64> {
        Some(self.inputs)
    }
    async fn settled(&mut self) {
        let now = self.clock.now();
        self.watch.end(now);
    }
    async fn violations(&mut self) -> Vec<Found> {
        self.watch.take()
    }
    async fn facts(&mut self) -> Result<Facts, EngineError> {
        Ok(self.tell_facts())
    }
}
