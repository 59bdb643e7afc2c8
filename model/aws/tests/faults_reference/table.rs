//! The reference: rules in the order in which they were made, and what a call meets. No machine, no shell.

use std::collections::BTreeMap;

use model_aws::faults::{ApiError, Span, Verdict};
use model_aws::world::World;
use model_common::pick::{Pick, Seeded};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

pub const SERVICES: [&str; 3] = ["ec2", "elasticfilesystem", "imds"];
pub const OPERATIONS: [&str; 4] = ["AttachVolume", "AttachNetworkInterface", "DescribeVolumes", "CreateVolume"];
pub const RESOURCES: [&str; 2] = ["vol-0123456789abcdef0", "my-token"];

/// What a rule does to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Throttle,
    /// With a code of its own.
    Error,
    Latency(u64),
    Lag(u64),
    Lost,
    /// Acts on volumes: no call meets it.
    Stuck,
    /// Acts on a node, as long as it is there.
    Unreachable,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub kind: Kind,
    pub service: Option<usize>,
    /// `Attach*`, `AttachVolume, CreateVolume`, or any.
    pub operation: Option<&'static str>,
    pub resource: Option<usize>,
    pub percent: Option<u8>,
    pub after: Option<u64>,
    pub count: Option<u64>,
    pub window: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub rule: Known,
    pub calls: u64,
    pub hits: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub service: usize,
    pub operation: usize,
    pub resource: Option<usize>,
    pub dry_run: bool,
}

#[derive(Debug, Clone)]
pub enum Step {
    Add(Vec<Known>),
    Set(Vec<Known>, bool),
    Put(u64, Known),
    Remove(Vec<u64>),
    RemoveEqual(Known),
    Call(Asked),
    /// The window of a rule is over.
    Over(usize),
    Restart,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub next: u64,
    pub entries: BTreeMap<u64, Entry>,
    /// What became of the last call, and which rules hit it.
    pub verdict: Verdict,
    pub hit: Vec<u64>,
    pub accepted: bool,
}

impl Kind {
    fn refuses(self) -> bool {
        matches!(self, Self::Throttle | Self::Error)
    }

    fn on_calls(self) -> bool {
        !matches!(self, Self::Stuck | Self::Unreachable)
    }
}

impl Known {
    fn matches(&self, asked: &Asked) -> bool {
        // The metadata service is meant only by a rule that names it.
        let service = self.service.map_or(asked.service != 2, |service| service == asked.service);
        let operation = match self.operation {
            None => true,
            Some("Attach*") => asked.operation < 2,
            Some("AttachVolume, CreateVolume") => [0, 3].contains(&asked.operation),
            Some(other) => unreachable!("{other}"),
        };
        let fits = match self.kind {
            Kind::Lag(_) => OPERATIONS[asked.operation].starts_with("Describe"),
            Kind::Lost => !asked.dry_run,
            _ => true,
        };
        self.kind.on_calls() && service && operation && fits && self.resource.is_none_or(|wanted| asked.resource == Some(wanted))
    }

    fn is_valid(&self) -> bool {
        self.count != Some(0)
    }

    pub fn error(&self, service: usize) -> ApiError {
        let (code, status, message) = match (self.kind, service) {
            (Kind::Throttle, 0) => ("RequestLimitExceeded", 503, "Request limit exceeded."),
            (Kind::Throttle, 1) => ("ThrottlingException", 429, "Rate exceeded"),
            (Kind::Throttle, _) => ("Throttling", 400, "Rate exceeded"),
            _ => ("Teapot", 418, "short and stout"),
        };
        ApiError { status, code: code.to_owned(), message: message.to_owned() }
    }
}

impl Table {
    /// A rule that matches is tried in its turn. Does it hit? The draw is from the seed, the rule's number and the call's number.
    fn tries(&mut self, number: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&number) else { return false };
        if entry.rule.count.is_some_and(|count| entry.hits >= count) {
            return false;
        }
        entry.calls += 1;
        if entry.calls <= entry.rule.after.unwrap_or(0) {
            return false;
        }
        let mut dice = Seeded::new(World::default().seed).child(&format!("fault/{number}/{}", entry.calls));
        if entry.rule.percent.is_some_and(|percent| dice.pick(1_000_000) >= usize::from(percent) * 10_000) {
            return false;
        }
        entry.hits += 1;
        self.hit.push(number);
        true
    }

    /// The first rule of each kind counts. A refusal ends it: nothing is carried out, so nothing is lost or shown late.
    fn call(&mut self, asked: &Asked) {
        (self.verdict, self.hit) = (Verdict::default(), Vec::new());
        let matching: Vec<(u64, Known)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.rule.matches(asked))
            .map(|(number, entry)| (*number, entry.rule.clone()))
            .collect();
        for (number, rule) in matching {
            match rule.kind {
                Kind::Latency(millis) if self.verdict.delay.is_none() && self.tries(number) => {
                    self.verdict.delay = Some(Span::millis(millis))
                }
                Kind::Lag(millis) if self.verdict.lag.is_none() && self.tries(number) => self.verdict.lag = Some(Span::millis(millis)),
                Kind::Lost if !self.verdict.lost && self.tries(number) => self.verdict.lost = true,
                kind if kind.refuses() && self.tries(number) => {
                    let error = Some(rule.error(asked.service));
                    self.verdict = Verdict { delay: self.verdict.delay, error, lag: None, lost: false };
                    return;
                }
                _ => {}
            }
        }
    }

    fn insert(&mut self, number: u64, rule: &Known) {
        // Cutting a node off is a hit at once.
        let hits = u64::from(rule.kind == Kind::Unreachable);
        self.entries.insert(number, Entry { rule: rule.clone(), calls: hits, hits });
    }

    fn add(&mut self, rules: &[Known]) {
        for rule in rules {
            self.insert(self.next, rule);
            self.next += 1;
        }
    }

    pub fn windows(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().filter(|(_, entry)| entry.rule.window.is_some()).map(|(number, _)| *number)
    }
}

fn rule() -> impl Strategy<Value = Known> {
    let kind = prop_oneof![
        3 => Just(Kind::Throttle),
        2 => Just(Kind::Error),
        3 => (1..4u64).prop_map(Kind::Latency),
        3 => (1..4u64).prop_map(Kind::Lag),
        2 => Just(Kind::Lost),
        1 => Just(Kind::Stuck),
        1 => Just(Kind::Unreachable),
    ];
    let operation = prop::sample::select(&[None, None, Some("Attach*"), Some("AttachVolume, CreateVolume")][..]);
    let percent = prop::option::of(prop::sample::select(&[0u8, 30, 50, 100][..]));
    let count = prop_oneof![4 => Just(None), 6 => (1..4u64).prop_map(Some), 1 => Just(Some(0))];
    let matched = (prop::option::weighted(0.4, 0..SERVICES.len()), operation, prop::option::weighted(0.3, 0..RESOURCES.len()));
    let times = (percent, prop::option::weighted(0.3, 0..3u64), count, prop::option::weighted(0.3, 1..90_000u64));
    (kind, matched, times).prop_map(|(kind, (service, operation, resource), (percent, after, count, window))| {
        let rule = Known { kind, service, operation, resource, percent, after, count, window };
        match kind {
            Kind::Unreachable => Known { service: None, operation: None, resource: None, percent: None, after: None, count: None, ..rule },
            Kind::Stuck => Known { service: None, operation: None, ..rule },
            _ => rule,
        }
    })
}

impl ReferenceStateMachine for Table {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self { next: 1, entries: BTreeMap::new(), verdict: Verdict::default(), hit: Vec::new(), accepted: true }).boxed()
    }

    fn transitions(table: &Self) -> BoxedStrategy<Step> {
        // Rules that are there, that were, and one that never was.
        let number = 1..table.next + 1;
        let rules = || prop::collection::vec(rule(), 1..3);
        let same = match table.entries.values().next() {
            Some(entry) => Just(entry.rule.clone()).boxed(),
            None => rule().boxed(),
        };
        let call = (0..SERVICES.len(), 0..OPERATIONS.len(), prop::option::of(0..RESOURCES.len()), any::<bool>());
        prop_oneof![
            4 => rules().prop_map(Step::Add),
            1 => (rules(), any::<bool>()).prop_map(|(rules, refusing_only)| Step::Set(rules, refusing_only)),
            2 => (number.clone(), rule()).prop_map(|(number, rule)| Step::Put(number, rule)),
            2 => prop::collection::vec(number, 1..3).prop_map(Step::Remove),
            1 => same.prop_map(Step::RemoveEqual),
            40 => call.prop_map(|(service, operation, resource, dry_run)| Step::Call(Asked { service, operation, resource, dry_run })),
            3 => (0..8usize).prop_map(Step::Over),
            2 => Just(Step::Restart),
        ]
        .boxed()
    }

    fn apply(mut table: Self, step: &Step) -> Self {
        // All or nothing.
        table.accepted = match step {
            Step::Add(rules) | Step::Set(rules, _) => rules.iter().all(Known::is_valid),
            Step::Put(number, rule) => table.entries.contains_key(number) && rule.is_valid(),
            Step::Remove(numbers) => numbers.iter().all(|number| table.entries.contains_key(number)),
            Step::RemoveEqual(_) | Step::Call(_) | Step::Over(_) | Step::Restart => true,
        };
        if !table.accepted {
            return table;
        }
        match step {
            Step::Add(rules) => table.add(rules),
            Step::Set(rules, refusing_only) => {
                table.entries.retain(|_, entry| *refusing_only && !entry.rule.kind.refuses());
                table.add(rules);
            }
            Step::Put(number, rule) => table.insert(*number, rule),
            Step::Remove(numbers) => table.entries.retain(|number, _| !numbers.contains(number)),
            Step::RemoveEqual(rule) => table.entries.retain(|_, entry| entry.rule != *rule),
            Step::Call(asked) => table.call(asked),
            Step::Over(which) => {
                let over = table.windows().nth(*which);
                table.entries.retain(|number, _| Some(*number) != over);
            }
            Step::Restart => {}
        }
        table
    }
}
