//! Who is who among the processes and nodes of the world, and how they end and start.

use std::time::Duration;

use super::super::{Event, Watcher, Which, World, actors};
use super::Actor;
use crate::engine::EngineError;
use crate::invariants::Seen;

impl World {
    pub(super) fn node_named(&self, name: &str) -> Result<usize, EngineError> {
        let found = self.numbers.get(name).copied();
        found.ok_or_else(|| {
            let names: Vec<_> = self.nodes.iter().map(|node| node.info.name.as_str()).collect();
            EngineError::Unsupported(format!("there is no node `{name}`; there are {}", names.join(", ")))
        })
    }

    pub(super) fn pod_on(&self, number: usize, name: &str) -> Result<String, EngineError> {
        let found = self.nodes[number].pods.iter().find(|(_, pod)| pod.metadata.name.as_deref() == Some(name));
        found
            .map(|(uid, _)| uid.to_string())
            .ok_or_else(|| EngineError::Unsupported(format!("pod `{name}` is not on node {}", self.nodes[number].info.name)))
    }

    /// The processes of a name.
    pub(super) fn actors(&self, name: &str, node: Option<&str>) -> Result<Vec<Actor>, EngineError> {
        let nodes = match node {
            Some(node) => vec![self.node_named(node)?],
            None => (0..self.nodes.len()).collect(),
        };
        let controllers = |fits: &dyn Fn(&actors::Controller) -> bool| -> Vec<Actor> {
            (0..self.controllers.len()).filter(|number| fits(&self.controllers[*number])).map(Actor::Controller).collect()
        };
        let pod_of = |which: Which| {
            let mut actors = vec![Actor::Driver(which)];
            actors.extend(controllers(&|controller| controller.driver == Some(which)));
            actors
        };
        let found = match name {
            "kubelet" => nodes.into_iter().map(Actor::Kubelet).collect(),
            "ebs-csi-node" => nodes.into_iter().map(|number| Actor::Plugin(number, Which::Ebs)).collect(),
            "efs-csi-node" => nodes.into_iter().map(|number| Actor::Plugin(number, Which::Efs)).collect(),
            "ebs-csi-controller" => pod_of(Which::Ebs),
            "efs-csi-controller" => pod_of(Which::Efs),
            "kube-controller-manager" => controllers(&|controller| {
                controller.driver.is_none() && !["scheduler", "snapshot-controller"].contains(&controller.machine.name())
            }),
            name => controllers(&|controller| controller.machine.name() == name),
        };
        if found.is_empty() {
            let names = "kubelet, ebs-csi-node, efs-csi-node, ebs-csi-controller, efs-csi-controller, kube-controller-manager";
            let controllers = model_kube::controllers::Controller::NAMES.join(", ");
            return Err(EngineError::Unsupported(format!("there is no process `{name}`; there are {names}, {controllers}")));
        }
        Ok(found)
    }

    /// A process ends. What it asked for may still happen; what was to reach it does not.
    pub(in crate::world) fn stop(&mut self, actor: Actor) {
        if !self.trouble.down.insert(actor) {
            return;
        }
        self.trace_actor(actor, "ends", "down");
        // It is no longer paused but gone, and so is what waited for it.
        self.trouble.paused.remove(&actor);
        self.clock.retain(|event| event.is_for() != Some(actor));
        match actor {
            Actor::Controller(number) => {
                let controller = &mut self.controllers[number];
                controller.up = false;
                controller.life += 1;
                self.delivered.retain(|(watcher, _), _| *watcher != Watcher::Controller(number));
                self.forget_caller(number);
            }
            Actor::Driver(which) => self.driver_died(which),
            Actor::Kubelet(number) => self.kubelet_died(number),
            Actor::Plugin(number, which) => self.plugin_died(number, which),
        }
    }

    pub(in crate::world) fn start_actor(&mut self, actor: Actor) {
        let without_power = |number: usize| !self.nodes[number].power;
        if let Actor::Kubelet(number) | Actor::Plugin(number, _) = actor
            && without_power(number)
        {
            return;
        }
        if !self.trouble.down.remove(&actor) {
            return;
        }
        self.trace_actor(actor, "starts", "up");
        match actor {
            Actor::Controller(number) => {
                if let Some(fresh) = actors::all(&self.fixes).into_iter().nth(number) {
                    let controller = &mut self.controllers[number];
                    controller.machine = fresh.machine;
                    controller.up = true;
                    self.boot_controller(number);
                }
            }
            Actor::Driver(_) => {}
            Actor::Plugin(number, which) => {
                self.register_driver(number, which, None);
                if which == Which::Efs {
                    // The watchdog of efs-utils looks each second.
                    self.clock.after(Duration::from_secs(1), Event::IoGoesOn(number));
                }
            }
            Actor::Kubelet(number) => self.boot_kubelet(number),
        }
    }

    pub(super) fn power_off(&mut self, number: usize) {
        if !std::mem::replace(&mut self.nodes[number].power, false) {
            return;
        }
        self.trace_machine(number, "loses power", "no power");
        self.stop(Actor::Kubelet(number));
        self.stop(Actor::Plugin(number, Which::Ebs));
        self.stop(Actor::Plugin(number, Which::Efs));
        self.lose_power(number);
    }

    pub(super) fn power_on(&mut self, number: usize) {
        if std::mem::replace(&mut self.nodes[number].power, true) {
            return;
        }
        self.trace_machine(number, "has power again", "up");
        let node = &self.nodes[number].info.name;
        self.watch.see(self.clock.now(), &Seen::PowerBack { node });
        self.start_actor(Actor::Plugin(number, Which::Ebs));
        self.start_actor(Actor::Plugin(number, Which::Efs));
        self.start_actor(Actor::Kubelet(number));
    }

    pub(super) fn heal(&mut self, number: usize) {
        if !std::mem::replace(&mut self.nodes[number].cut, false) {
            return;
        }
        self.trace_machine(number, "reaches the API server again", "up");
        for change in std::mem::take(&mut self.nodes[number].missed) {
            self.node_sees(number, &change);
        }
        self.catch_up(number);
    }
}
