//! What the engine itself does about an effect.

use std::time::Duration;

use model_aws::faults::{self, Hit};
use model_aws::{Effect, Input, ec2, efs, kms};

/// A timer of any machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    Ec2(ec2::Timer),
    Efs(efs::Timer),
    Kms(kms::Timer),
    Faults(faults::Timer),
}

impl Timer {
    /// What the machine is told when it is due.
    pub fn fired(self) -> Input {
        match self {
            Timer::Ec2(timer) => Input::Ec2(ec2::Input::Fired(timer)),
            Timer::Efs(timer) => Input::Efs(efs::Input::Fired(timer)),
            Timer::Kms(timer) => Input::Kms(kms::Input::Fired(timer)),
            Timer::Faults(timer) => Input::Faults(faults::Input::Fired(timer)),
        }
    }
}

/// Effects by who sees to them.
pub enum Sorted {
    /// Leaves to the caller of the command.
    Reply(Effect),
    Arm(Timer, Duration),
    Disarm(Timer),
    /// Is told to whoever watches.
    Tell(Hit),
    /// For [`super::Outside`].
    Act(Effect),
}

pub fn sort(effect: Effect) -> Sorted {
    match effect {
        Effect::Ec2(ec2::Effect::Arm(timer, after)) => Sorted::Arm(Timer::Ec2(timer), after),
        Effect::Ec2(ec2::Effect::Disarm(timer)) => Sorted::Disarm(Timer::Ec2(timer)),
        Effect::Efs(efs::Effect::Arm(timer, after)) => Sorted::Arm(Timer::Efs(timer), after),
        Effect::Efs(efs::Effect::Disarm(timer)) => Sorted::Disarm(Timer::Efs(timer)),
        Effect::Kms(kms::Effect::Arm(timer, after)) => Sorted::Arm(Timer::Kms(timer), after),
        Effect::Kms(kms::Effect::Disarm(timer)) => Sorted::Disarm(Timer::Kms(timer)),
        Effect::Faults(faults::Effect::Arm(timer, after)) => Sorted::Arm(Timer::Faults(timer), after),
        Effect::Faults(faults::Effect::Disarm(timer)) => Sorted::Disarm(Timer::Faults(timer)),
        Effect::Faults(faults::Effect::Hit(hit)) => Sorted::Tell(hit),
        Effect::Ec2(ec2::Effect::Reply(_))
        | Effect::Efs(efs::Effect::Reply(_))
        | Effect::Kms(kms::Effect::Reply(_))
        | Effect::Faults(faults::Effect::Reply(_)) => Sorted::Reply(effect),
        Effect::Ec2(_) | Effect::Efs(_) | Effect::Faults(_) => Sorted::Act(effect),
    }
}
