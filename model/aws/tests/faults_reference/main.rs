//! The table of faults beside a reference: what the API of faults says of rules and calls. Both get the same commands and calls, in
//! windows of time and with restarts; what becomes of each call, what is counted and what is left must be the same.

mod table;

use std::collections::{BTreeMap, BTreeSet};

use model_aws::faults::{Action, Call, Command, Effect, GivenError, Hit, Input, Reject, Reply, Rule, Span, Timer};
use model_aws::world::World;
use model_aws::{At, Aws, Profile};
use proptest::prelude::*;
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use table::{Asked, Kind, Known, OPERATIONS, RESOURCES, SERVICES, Step, Table};

/// The machine, with what a shell keeps of it.
struct Shell {
    aws: Aws,
    instance: String,
    saved: BTreeMap<(&'static str, String), Vec<u8>>,
    timers: BTreeMap<Timer, u64>,
    hits: Vec<Hit>,
    cuts: Vec<String>,
}

impl Shell {
    fn step(&mut self, input: Input) -> Result<Option<Reply>, Reject> {
        let (mut effects, mut reply) = (Vec::new(), None);
        let verdict = self.aws.step(At(1), &model_aws::Input::Faults(input), &mut effects);
        for dirty in self.aws.take_dirty() {
            match dirty.value {
                Some(value) => self.saved.insert((dirty.table, dirty.key), value),
                None => self.saved.remove(&(dirty.table, dirty.key)),
            };
        }
        for effect in effects {
            match effect {
                model_aws::Effect::Faults(Effect::Reply(said)) => reply = Some(said),
                model_aws::Effect::Faults(Effect::Arm(Timer::Over(number), after)) => {
                    self.timers.insert(Timer::Over(number), after.as_millis() as u64);
                }
                model_aws::Effect::Faults(Effect::Disarm(timer)) => drop(self.timers.remove(&timer)),
                model_aws::Effect::Faults(Effect::Hit(hit)) => self.hits.push(hit),
                model_aws::Effect::Faults(Effect::Cut { instance }) => self.cuts.push(instance),
                _ => {}
            }
        }
        match verdict {
            Ok(()) => Ok(reply),
            Err(model_aws::Reject::Faults(reject)) => Err(reject),
            Err(other) => panic!("{other}"),
        }
    }

    fn rule(&self, known: &Known) -> Rule {
        let action = match known.kind {
            Kind::Throttle => Action::Throttle,
            Kind::Error => Action::Error,
            Kind::Latency(_) => Action::Latency,
            Kind::Lag(_) => Action::EventualConsistency,
            Kind::Lost => Action::LostResponse,
            Kind::Stuck => Action::AttachStuck,
            Kind::Unreachable => Action::AgentUnreachable,
        };
        let error = GivenError { status_code: Some(418), code: Some("Teapot".into()), message: Some("short and stout".into()) };
        Rule {
            service: known.service.map(|service| SERVICES[service].replace("elasticfilesystem", "efs")),
            operation: known.operation.map(str::to_owned),
            resource: known.resource.map(|resource| RESOURCES[resource].to_owned()),
            node: (known.kind == Kind::Unreachable).then(|| self.instance.clone()),
            probability: known.percent.map(|percent| (f64::from(percent) / 100.0).try_into().unwrap()),
            after_calls: known.after,
            count: known.count,
            duration: known.window.map(Span::millis),
            delay: match known.kind {
                Kind::Latency(millis) | Kind::Lag(millis) => Some(Span::millis(millis)),
                _ => None,
            },
            error: (known.kind == Kind::Error).then_some(error),
            ..Rule::new(action)
        }
    }

    fn rules(&self, rules: &[Known]) -> Vec<Rule> {
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn command(&mut self, command: Command, accepted: bool) {
        let verdict = self.step(Input::Command(command.clone()));
        assert_eq!(verdict.is_ok(), accepted, "{command:?}: {verdict:?}");
    }

    fn call(&mut self, asked: Asked, table: &Table) {
        let call = Call {
            service: SERVICES[asked.service].into(),
            operation: OPERATIONS[asked.operation].into(),
            region: Some("us-east-1".into()),
            names: asked.resource.map(|resource| RESOURCES[resource].to_owned()).into_iter().collect(),
            dry_run: asked.dry_run,
        };
        let concerned = self.aws.faults.concerns(&call);
        assert!(concerned || table.hit.is_empty(), "{call:?} is not asked about, and {:?} hit it", table.hit);
        self.hits.clear();
        let reply = self.step(Input::Call(call.clone())).unwrap();
        assert_eq!(reply, Some(Reply::Verdict(table.verdict.clone())), "{call:?} with {:?}", table.entries);
        let hits: Vec<String> = self.hits.iter().map(|hit| hit.fault.clone()).collect();
        assert_eq!(hits, table.hit.iter().map(|number| format!("fault-{number}")).collect::<Vec<_>>());
        let ids: Vec<String> = call.names.iter().filter(|name| name.starts_with("vol-")).cloned().collect();
        assert!(self.hits.iter().all(|hit| hit.resources == ids && hit.operation == call.operation));
    }

    /// The process dies and starts from what was saved.
    fn restart(&mut self) {
        let records = self.saved.iter().map(|((table, key), value)| (*table, key.as_str(), value.as_slice()));
        self.aws = Aws::load(&World::default(), Profile::Instant, records).unwrap();
        self.timers.clear();
        self.step(Input::Booted).unwrap();
    }
}

impl StateMachineTest for Shell {
    type SystemUnderTest = Self;
    type Reference = Table;

    fn init_test(_: &Table) -> Self {
        let aws = Aws::new(&World::default(), Profile::Instant);
        let instance = aws.ec2.instances().next().unwrap().id.to_string();
        Self { aws, instance, saved: BTreeMap::new(), timers: BTreeMap::new(), hits: Vec::new(), cuts: Vec::new() }
    }

    fn apply(mut shell: Self, table: &Table, step: Step) -> Self {
        let id = |number: &u64| format!("fault-{number}");
        shell.cuts.clear();
        let cuts = |rules: &[Known]| rules.iter().filter(|rule| rule.kind == Kind::Unreachable && table.accepted).count();
        let mut cut = 0;
        match step {
            Step::Add(rules) => {
                cut = cuts(&rules);
                shell.command(Command::Add { rules: shell.rules(&rules) }, table.accepted);
            }
            Step::Set(rules, refusing_only) => {
                cut = cuts(&rules);
                shell.command(Command::Set { rules: shell.rules(&rules), refusing_only }, table.accepted);
            }
            Step::Put(number, rule) => {
                cut = cuts(std::slice::from_ref(&rule));
                let rule = Box::new(shell.rule(&rule));
                shell.command(Command::Put { id: id(&number), rule }, table.accepted);
            }
            Step::Remove(numbers) => shell.command(Command::Remove { ids: numbers.iter().map(id).collect() }, table.accepted),
            Step::RemoveEqual(rule) => shell.command(Command::RemoveEqual { rules: vec![shell.rule(&rule)] }, table.accepted),
            Step::Call(asked) => shell.call(asked, table),
            Step::Over(which) => {
                if let Some(timer) = shell.timers.keys().nth(which).cloned() {
                    shell.timers.remove(&timer);
                    shell.step(Input::Fired(timer)).unwrap();
                }
            }
            Step::Restart => shell.restart(),
        }
        assert_eq!(shell.cuts, vec![shell.instance.clone(); cut]);
        shell
    }

    fn check_invariants(shell: &Self, table: &Table) {
        let there: Vec<_> = shell.aws.faults.faults().map(|fault| (fault.number, fault.rule.clone(), fault.calls, fault.hits)).collect();
        let known = table.entries.iter().map(|(number, entry)| (*number, shell.rule(&entry.rule), entry.calls, entry.hits));
        assert_eq!(there, known.collect::<Vec<_>>());
        let windows = table.windows().map(|number| (Timer::Over(number), table.entries[&number].rule.window.unwrap_or_default()));
        assert_eq!(shell.timers, windows.collect());
        let cut_off = table.entries.values().any(|entry| entry.rule.kind == Kind::Unreachable);
        assert_eq!(shell.aws.faults.unreachable(&shell.instance), cut_off);
        let lags: BTreeSet<u64> =
            table.entries.values().filter_map(|entry| if let Kind::Lag(millis) = entry.rule.kind { Some(millis) } else { None }).collect();
        assert_eq!(shell.aws.faults.longest_lag(), lags.last().copied().map(Span::millis));
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each call meets what the rules say, and the counts are theirs.
    #[test]
    fn calls_meet_what_the_rules_say(sequential 1..100 => Shell);
}
