//! What every handler has at hand.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use emulator_common::places::Places;
use model_aws::world::World;
use model_aws::{Effect, Input, Profile, ec2, efs, faults, kms};

use crate::engine::{Ended, Engine, Outside};
use crate::hub::Hub;
use crate::identity::IdentityProvider;

/// What every handler has at hand. Clones are cheap enough for one a connection, not for one a request.
#[derive(Clone)]
pub struct Ctx {
    pub engine: Engine,
    pub hub: Hub,
    pub places: Places,
    pub world: World,
    pub profile: Profile,
    /// Whose tokens stand for identities.
    pub providers: Vec<IdentityProvider>,
    /// Why no instance can have devices; see [`crate::Config`].
    pub no_devices: Option<String>,
}

impl Ctx {
    /// What the machines are told when they start: what is on the disk, and, where no agent can ever come, why not.
    pub fn booted(&self, blocks: ec2::Observed, trees: BTreeSet<String>) -> Vec<Input> {
        let mut inputs = vec![
            Input::Ec2(ec2::Input::Booted(blocks)),
            Input::Efs(efs::Input::Booted { trees }),
            Input::Kms(kms::Input::Booted),
            Input::Faults(faults::Input::Booted),
        ];
        if self.no_devices.is_some() {
            inputs.extend(self.world.nodes().into_iter().map(|node| {
                Input::Ec2(ec2::Input::Connected {
                    instance: node.instance_id.into(),
                    no_devices: self.no_devices.clone(),
                    devices: Vec::new(),
                })
            }));
        }
        inputs
    }
}

/// Carries out the effects of the machines.
pub struct Hands(pub std::sync::Arc<Ctx>);

impl Outside for Hands {
    fn perform(&self, effect: Effect, ended: Ended) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let ctx = self.0.clone();
        Box::pin(async move {
            match effect {
                Effect::Ec2(model_aws::ec2::Effect::Run(work)) => {
                    // Held until the end is told; see Hub::begin.
                    let _working = crate::ec2::instance_of(&work).map(|instance| ctx.hub.begin(instance));
                    let result = crate::ec2::perform(&ctx, &work).await;
                    ended.say(Input::Ec2(model_aws::ec2::Input::Done(work, result)));
                }
                Effect::Efs(model_aws::efs::Effect::Work(work)) => {
                    let result = crate::efs::perform(&ctx, &work).await;
                    ended.say(Input::Efs(model_aws::efs::Input::Done(work, result)));
                }
                Effect::Faults(faults::Effect::Cut { instance }) => ctx.hub.disconnect(&instance),
                // Replies and timers are the engine's own.
                Effect::Ec2(_) | Effect::Efs(_) | Effect::Kms(_) | Effect::Faults(_) => {}
            }
        })
    }
}
