//! Every interleaving of attach, detach, growth and deletion of one volume with works that are performed and reported late, a
//! device in use, a process crash at any point, a lost agent and a dead node (core-and-simulation.md B4, B7.4).

mod outside;

use model_aws::Profile;
use model_aws::ec2::{Command, CreateVolume, Input, InstanceId, ModifyVolume, Timer, Work};
use outside::{Outside, instance, nodes};
use stateright::{Checker, Model, Property};

struct Attachments {
    nodes: u8,
    multi_attach: bool,
    commands: u8,
    crashes: u8,
    losses: u8,
    mounts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    outside: Outside,
    volume: String,
    commands: u8,
    crashes: u8,
    losses: u8,
    mounts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Attach(InstanceId),
    Detach(InstanceId, bool),
    Grow,
    Delete,
    Perform(Work),
    Report(Work),
    Fire(Timer),
    Mount(InstanceId),
    Unmount(InstanceId),
    Crash,
    Disconnect(InstanceId),
    KillNode(InstanceId),
    Connect(InstanceId),
}

impl Model for Attachments {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut outside = Outside::new(&nodes(self.nodes), Profile::Instant);
        let volume_type = if self.multi_attach { "io2" } else { "gp3" };
        let volume = outside.volume(CreateVolume {
            multi_attach: self.multi_attach,
            iops: self.multi_attach.then_some(100),
            volume_type: Some(volume_type.to_owned()),
            ..CreateVolume::default()
        });
        let Self { commands, crashes, losses, mounts, .. } = *self;
        vec![World { outside, volume, commands, crashes, losses, mounts }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let ids = (0..usize::from(self.nodes)).map(instance);
        for id in ids {
            let mounted = world.outside.mounted.contains(&(id.clone(), world.volume.clone()));
            if world.commands > 0 {
                actions.extend([Action::Attach(id.clone()), Action::Detach(id.clone(), false)]);
                // Force against a node that is away means: believe that it lets go. With other nodes on the same loop
                // device it may then lose it under a name that the absent node still has; that is what was asked for.
                if self.nodes == 1 || world.outside.connected.contains(&id) {
                    actions.push(Action::Detach(id.clone(), true));
                }
            }
            if world.mounts > 0 && !mounted && world.outside.names.contains_key(&(id.clone(), world.volume.clone())) {
                actions.push(Action::Mount(id.clone()));
            }
            if mounted {
                actions.push(Action::Unmount(id.clone()));
            }
            if !world.outside.connected.contains(&id) {
                actions.push(Action::Connect(id));
            } else if world.losses > 0 {
                actions.extend([Action::Disconnect(id.clone()), Action::KillNode(id)]);
            }
        }
        if world.commands > 0 {
            actions.extend([Action::Grow, Action::Delete]);
        }
        if world.crashes > 0 {
            actions.push(Action::Crash);
        }
        for (work, done) in &world.outside.works {
            actions.push(if done.is_none() { Action::Perform(work.clone()) } else { Action::Report(work.clone()) });
        }
        actions.extend(
            world.outside.timers.iter().filter(|timer| matches!(timer, Timer::Retry(_) | Timer::Strays(_))).cloned().map(Action::Fire),
        );
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let volume_id = world.volume.clone();
        let accepted = match action {
            Action::Attach(id) => world.outside.attach_as(&volume_id, &id, "/dev/xvdb"),
            Action::Detach(id, force) => world.outside.detach(&volume_id, &id, force),
            Action::Grow => {
                world.outside.command(Command::ModifyVolume(ModifyVolume { volume_id, size_gib: Some(5), ..ModifyVolume::default() }))
            }
            Action::Delete => world.outside.command(Command::DeleteVolume { volume_id }),
            action => {
                match action {
                    Action::Perform(work) => world.outside.perform(&work),
                    Action::Report(work) => world.outside.report(&work),
                    Action::Fire(timer) => {
                        world.outside.timers.remove(&timer);
                        // Rejects are for commands; a timer has none.
                        let _ = world.outside.step(&Input::Fired(timer));
                    }
                    Action::Mount(id) => {
                        world.mounts -= 1;
                        world.outside.mounted.insert((id, volume_id));
                    }
                    Action::Unmount(id) => drop(world.outside.mounted.remove(&(id, volume_id))),
                    Action::Crash => {
                        world.crashes -= 1;
                        world.outside.crash(&nodes(self.nodes), Profile::Instant);
                    }
                    Action::Disconnect(id) => {
                        world.losses -= 1;
                        world.outside.disconnect(&id);
                    }
                    Action::KillNode(id) => {
                        world.losses -= 1;
                        world.outside.kill_node(&id);
                    }
                    Action::Connect(id) => world.outside.connect(&id),
                    Action::Attach(_) | Action::Detach(..) | Action::Grow | Action::Delete => {}
                }
                return (world != *last).then_some(world);
            }
        };
        accepted.ok()?;
        world.commands -= 1;
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one device, one loop, shown as it is", |_, world: &World| world.outside.violation().is_none()),
            Property::always("comes to rest when left alone", |_, world: &World| world.outside.comes_to_rest().is_ok()),
            Property::sometimes("busy", |_, world: &World| {
                world.outside.state.volumes().any(|volume| volume.attachments.values().any(|a| a.busy.is_some()))
            }),
            Property::sometimes("deleted", |_, world: &World| world.outside.state.volumes().next().is_none()),
            Property::sometimes("attached", |_, world: &World| !world.outside.names.is_empty()),
        ]
    }
}

fn check(model: Attachments) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    for name in ["one device, one loop, shown as it is", "comes to rest when left alone"] {
        if let Some(path) = checker.discovery(name) {
            let last = path.last_state().clone();
            panic!(
                "{name}: {:?}\n{:#?}\n{:?} {:?}",
                path.into_actions(),
                last.outside.state.volumes().collect::<Vec<_>>(),
                last.outside.violation(),
                last.outside.comes_to_rest()
            );
        }
    }
    checker.assert_properties();
    assert!(checker.unique_state_count() > 500, "the model explores almost nothing");
}

#[test]
fn one_node_with_a_crash_and_a_loss() {
    check(Attachments { nodes: 1, multi_attach: false, commands: 3, crashes: 1, losses: 1, mounts: 1 });
}

#[test]
fn two_nodes_share_a_volume() {
    check(Attachments { nodes: 2, multi_attach: true, commands: 3, crashes: 1, losses: 0, mounts: 1 });
}
