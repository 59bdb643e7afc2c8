//! The EFS driver with calls, answers, errors and cancellations in any order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// One step of a random run. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Act {
    Call(ControllerCall),
    /// What is in flight goes on.
    Go(usize),
    /// EFS refuses, or its answer is lost after it was carried out.
    Fail(usize, usize, bool),
    /// An answer that fits no question.
    Odd(usize),
    Cancel(usize),
    /// An answer or a timer for a call that does not wait for it.
    Stale(CallId, bool),
}

const CODES: [&str; 5] =
    ["AccessDeniedException", "FileSystemNotFound", "AccessPointNotFound", "AccessPointLimitExceeded", "ThrottlingException"];

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let parameters: [&[(&str, &str)]; 6] = [
        &[],
        &[("uid", "7"), ("gid", "8")],
        &[("reuseAccessPoint", "true"), ("csi.storage.k8s.io/pvc/name", "claim")],
        &[("gidRangeStart", "1000"), ("gidRangeEnd", "1001")],
        &[("fileSystemId", "fs-00000000")],
        &[("enforceZoneAffinity", "true"), ("subPathPattern", "x")],
    ];
    let call = prop_oneof![
        (0..3_u8, 0..6_usize).prop_map(move |(n, which)| create(&format!("pvc-{n}"), parameters[which])),
        (1..4_u8).prop_map(|n| ControllerCall::DeleteVolume { volume_id: format!("efs:{FS}::fsap-{n:017x}") }),
        Just(ControllerCall::DeleteVolume { volume_id: "nonsense".into() }),
    ];
    let act = prop_oneof![
        4 => call.prop_map(Act::Call),
        10 => (0..8_usize).prop_map(Act::Go),
        2 => (0..8_usize, 0..CODES.len() + 1, any::<bool>()).prop_map(|(n, code, done)| Act::Fail(n, code, done)),
        1 => (0..8_usize).prop_map(Act::Odd),
        1 => (0..8_usize).prop_map(Act::Cancel),
        1 => (0..12_u64, any::<bool>()).prop_map(|(id, timer)| Act::Stale(id, timer)),
    ];
    prop::collection::vec(act, 0..120)
}

fn subject(call: &CloudCall) -> Option<&str> {
    match call {
        CloudCall::DeleteAccessPoint { access_point_id } => Some(access_point_id),
        _ => None,
    }
}

/// The driver, EFS, and what is between them.
#[derive(Default)]
struct Run {
    driver: Efs,
    cloud: Cloud,
    flying: Vec<Effect>,
    /// Open calls, and whether what EFS said to them was the truth.
    open: BTreeMap<CallId, (ControllerCall, bool)>,
    next: CallId,
}

impl Run {
    fn take(&mut self, n: usize) -> Option<Effect> {
        (!self.flying.is_empty()).then(|| self.flying.remove(n % self.flying.len()))
    }

    fn input(&mut self, input: &Input) -> Result<(), TestCaseError> {
        let mut out = Vec::new();
        self.driver.step(input, &mut out).unwrap();
        for effect in out {
            match effect {
                Effect::Reply { id, result } => {
                    let known = self.open.remove(&id);
                    prop_assert!(known.is_some(), "call {} was answered twice", id);
                    let (request, honest) = known.unwrap();
                    match (request, result) {
                        (ControllerCall::CreateVolume { name, parameters, .. }, Ok(reply)) if honest => {
                            let volume = volume(Ok(reply));
                            let (_, point) = volume.volume_id.rsplit_once(':').unwrap();
                            let point = self.cloud.points.iter().find(|known| known.access_point_id == point);
                            let reuses = parameters.contains_key("reuseAccessPoint");
                            // Another call may have deleted it meanwhile.
                            prop_assert!(point.is_none_or(|point| reuses || point.client_token == name), "{} got {:?}", name, point);
                        }
                        (ControllerCall::DeleteVolume { volume_id }, Ok(_)) if honest => {
                            let there = self.cloud.points.iter().find(|known| volume_id.ends_with(&known.access_point_id));
                            prop_assert!(there.is_none(), "deleted and still there: {:?}", there);
                        }
                        _ => {}
                    }
                }
                Effect::Disarm(timer) => self.flying.retain(|effect| !matches!(effect, Effect::Arm(known, _) if *known == timer)),
                effect => {
                    let of = |effect: &Effect| match effect {
                        Effect::Cloud { id, .. } | Effect::Arm(Timer(id), _) => *id,
                        other => panic!("{other:?} is not in flight"),
                    };
                    let other = self.flying.iter().find(|other| of(other) == of(&effect));
                    prop_assert!(other.is_none(), "two effects in flight for a call: {:?} and {:?}", other, effect);
                    if let Effect::Cloud { call, .. } = &effect
                        && let Some(point) = subject(call)
                    {
                        let mut calls = self.flying.iter().filter_map(|other| match other {
                            Effect::Cloud { call, .. } => subject(call),
                            _ => None,
                        });
                        prop_assert!(!calls.any(|other| other == point), "{} is being deleted already", point);
                    }
                    self.flying.push(effect);
                }
            }
        }
        let tokens: BTreeSet<&str> = self.cloud.points.iter().map(|point| point.client_token.as_str()).collect();
        prop_assert_eq!(tokens.len(), self.cloud.points.len(), "one access point a token");
        Ok(())
    }

    fn go(&mut self, effect: Effect) -> Result<(), TestCaseError> {
        let input = match effect {
            Effect::Cloud { id, call } => Input::Cloud { id, result: self.cloud.answer(&call) },
            Effect::Arm(timer, _) => Input::Fired(timer),
            other => panic!("{other:?} is not in flight"),
        };
        self.input(&input)
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Call(request) => {
                self.next += 1;
                self.open.insert(self.next, (request.clone(), true));
                self.input(&Input::Call { id: self.next, request })
            }
            Act::Go(n) => self.take(n).map_or(Ok(()), |effect| self.go(effect)),
            Act::Fail(n, code, done) => match self.take(n) {
                Some(Effect::Cloud { id, call }) => {
                    if done {
                        let _ = self.cloud.answer(&call);
                    }
                    let lost = || cloud::CloudError::Transport { operation: "EFS".into(), message: "lost".into() };
                    let error = CODES.get(code).map_or_else(lost, |code| call.error(400, "r", code, "no"));
                    self.open.get_mut(&id).unwrap().1 = false;
                    self.input(&Input::Cloud { id, result: Err(error) })
                }
                other => other.map_or(Ok(()), |effect| self.go(effect)),
            },
            Act::Odd(n) => match self.take(n) {
                Some(Effect::Cloud { id, .. }) => {
                    self.open.get_mut(&id).unwrap().1 = false;
                    self.input(&Input::Cloud { id, result: Ok(CloudReply::Zones(Vec::new())) })
                }
                other => other.map_or(Ok(()), |effect| self.go(effect)),
            },
            Act::Cancel(n) => {
                let Some(id) = self.open.keys().nth(n % self.open.len().max(1)).copied() else { return Ok(()) };
                self.open.remove(&id);
                self.flying.retain(|effect| !matches!(effect, Effect::Cloud { id: of, .. } if *of == id));
                self.input(&Input::Cancelled { id })
            }
            Act::Stale(id, timer) => {
                let waits = self.flying.iter().any(|effect| match effect {
                    Effect::Cloud { id: of, .. } => !timer && *of == id,
                    Effect::Arm(Timer(of), _) => timer && *of == id,
                    _ => false,
                });
                if waits {
                    return Ok(());
                }
                let before = format!("{:?}", self.driver);
                let input = if timer { Input::Fired(Timer(id)) } else { Input::Cloud { id, result: Ok(CloudReply::Done) } };
                let mut out = Vec::new();
                prop_assert!(self.driver.step(&input, &mut out).is_err());
                prop_assert!(out.is_empty() && before == format!("{:?}", self.driver), "a rejected input changed something");
                Ok(())
            }
        }
    }
}

proptest! {
    /// One effect in flight for a call, one delete for an access point; each call is answered once and truly, and nothing is left.
    #[test]
    fn any_interleaving_is_safe_and_ends(acts in acts(), page in 0..3_usize) {
        let mut run = Run { cloud: Cloud { page, ..Cloud::default() }, ..Run::default() };
        for act in acts {
            run.act(act)?;
        }
        let mut left = 0;
        while let Some(effect) = run.take(0) {
            run.go(effect)?;
            left += 1;
            prop_assert!(left < 20_000, "it does not end");
        }
        prop_assert!(run.open.is_empty(), "unanswered: {:?}", run.open);
        prop_assert!(run.driver.active().next().is_none() && run.driver.shared.locked.is_empty());
    }
}
