//! Journals of a running ebbtide played again: the same machines are given the same inputs, and must say, do and save the same.
//!
//! Each machine is played by itself, as it is a pure function of what it was told; that they fit together is what the journals of two that
//! talk to each other show. The writes of the Kubernetes side are also told to the monitors of the API, so that what held or did not hold
//! while the exercises ran is judged again, by the order in which the store made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emulator_common::journal::{self, Line, Records};
use jiff::Timestamp;
use model_aws::{At, Aws};
use model_kube::controllers::{self, Controller};
use model_kube::machine;
use model_kube::store::{self, Store};
use model_kube::write::{ApiError, Options, Write};
use model_node::kubelet::{self, Kubelet};
use model_node::volume_manager;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::invariants::{Found, Seen, Watch};
use crate::live::check;

/// A journal that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} line {line} is no line of a journal: {message}")]
    Line { path: String, line: usize, message: String },
    #[error("{path}: its machine cannot begin as line {line} says: {message}")]
    Begin { path: String, line: usize, message: String },
    #[error("{0} has no journal; `ebbtide up --journal` keeps them in its data directory")]
    None(String),
}

/// What came of a journal.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// `aws`, `kube`, `controller.attachdetach`, `kubelet.ip-10-0-1-10.ec2.internal` …
    pub journal: String,
    pub inputs: usize,
    pub refused: usize,
    /// How often what was saved was compared as a whole.
    pub states: usize,
    /// The first input after which the machine did something else than is written; nothing is played after it.
    pub difference: Option<String>,
    /// What did not hold.
    #[serde(skip)]
    pub found: Vec<Found>,
}

/// What came of an input: the digest of the effects, and the verdict.
type Stepped<Reject> = (Option<String>, Result<(), Reject>);

/// A machine that is played again.
trait Machine {
    type Begin: DeserializeOwned;
    type At: DeserializeOwned;
    type Input: DeserializeOwned;
    type Reject: DeserializeOwned + PartialEq + std::fmt::Debug;

    /// Begins, and begins anew.
    fn begin(&mut self, begin: Self::Begin) -> Result<(), String>;
    /// Steps; none: it has not begun.
    fn step(&mut self, at: Self::At, input: Self::Input) -> Option<Stepped<Self::Reject>>;
    /// The digest of what is saved; of most machines nothing is, as all that they must know is in the API or on the disk.
    fn state(&self) -> String {
        journal::state(&BTreeMap::new())
    }
    /// Whether the journal has digests of effects.
    fn has_effects(&self) -> bool {
        true
    }
}

/// Plays a journal, or all that a directory has.
pub fn replay(path: &Path) -> Result<Vec<Replayed>, JournalError> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let read = |source| JournalError::Read { path: path.display().to_string(), source };
        let entries = std::fs::read_dir(path).map_err(read)?;
        files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|file| name(file).is_some()).collect();
        files.sort();
    }
    if files.is_empty() {
        return Err(JournalError::None(path.display().to_string()));
    }
    files.iter().map(|file| one(file)).collect()
}

/// Whether a file is a journal, by its first line.
pub fn is_journal(path: &Path) -> bool {
    use std::io::BufRead as _;
    let Ok(file) = std::fs::File::open(path) else { return false };
    let mut first = String::new();
    let read = std::io::BufReader::new(file).read_line(&mut first);
    read.is_ok() && (first.starts_with("{\"begin\":") || first.starts_with("{\"at\":"))
}

/// `aws` of `aws.jsonl`. The older part of one that was too large goes with the newer.
fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".jsonl").filter(|name| !name.ends_with(".1"))
}

fn one(path: &Path) -> Result<Replayed, JournalError> {
    let name = name(path).unwrap_or_default().to_owned();
    let replayed = match name.as_str() {
        "aws" => play(path, &mut AwsMachine::default())?,
        "kube" => {
            let mut machine = KubeMachine::default();
            let mut replayed = play(path, &mut machine)?;
            replayed.found = machine.found();
            replayed
        }
        _ if name.starts_with("kubelet.") => play(path, &mut KubeletMachine::default())?,
        _ => play(path, &mut ControllerMachine::default())?,
    };
    Ok(Replayed { journal: name, ..replayed })
}

fn play<M: Machine>(path: &Path, machine: &mut M) -> Result<Replayed, JournalError> {
    let shown = path.display().to_string();
    let mut text = Vec::new();
    let older: PathBuf = path.with_extension("1.jsonl");
    for file in [older.as_path(), path].into_iter().filter(|file| *file == path || file.exists()) {
        let source = |source| JournalError::Read { path: file.display().to_string(), source };
        text.extend(std::fs::read(file).map_err(source)?);
    }
    let mut replayed = Replayed::default();
    let mut begun = false;
    let lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    for (number, line) in lines {
        let number = number + 1;
        // The last line of a process that was killed may not be whole.
        let whole = |error: serde_json::Error| JournalError::Line { path: shown.clone(), line: number, message: error.to_string() };
        let line: Line<M::Begin, M::At, M::Input, M::Reject> = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(_) if text.ends_with(line) => break,
            Err(error) => return Err(whole(error)),
        };
        let differs = |what: String| Some(format!("line {number}: {what}"));
        match line {
            Line::Begin { begin } => {
                machine.begin(begin).map_err(|message| JournalError::Begin { path: shown.clone(), line: number, message })?;
                begun = true;
            }
            Line::State { state } => {
                replayed.states += 1;
                let now = machine.state();
                if now != state {
                    replayed.difference = differs(format!("saved was {state}, now it is {now}"));
                    return Ok(replayed);
                }
            }
            Line::Step { .. } if !begun => {
                let message = "its beginning is no longer kept: it was too long".to_owned();
                return Err(JournalError::Begin { path: shown, line: number, message });
            }
            Line::Step { at, input, reject, effects } => {
                replayed.inputs += 1;
                let Some((now, verdict)) = machine.step(at, input) else { continue };
                replayed.refused += usize::from(verdict.is_err());
                if verdict.as_ref().err() != reject.as_ref() {
                    replayed.difference = differs(format!("the verdict was {reject:?}, now it is {:?}", verdict.err()));
                    return Ok(replayed);
                }
                if machine.has_effects() && now != effects {
                    replayed.difference = differs(format!("the effects were {effects:?}, now they are {now:?}"));
                    return Ok(replayed);
                }
            }
        }
    }
    Ok(replayed)
}

#[derive(Default)]
struct AwsMachine {
    aws: Option<Aws>,
    records: Records,
    effects: bool,
}

impl Machine for AwsMachine {
    type Begin = model_aws::Begin;
    type At = At;
    type Input = model_aws::Input;
    type Reject = model_aws::Reject;

    fn begin(&mut self, begin: Self::Begin) -> Result<(), String> {
        self.aws = Some(begin.start().map_err(|error| error.to_string())?);
        self.effects = begin.effects;
        let records = begin.records.into_iter();
        self.records = records.map(|(table, key, value)| ((table, key), value.into_bytes())).collect();
        Ok(())
    }

    fn step(&mut self, at: At, input: Self::Input) -> Option<Stepped<Self::Reject>> {
        let aws = self.aws.as_mut()?;
        let mut effects = Vec::new();
        let verdict = aws.step(at, &input, &mut effects);
        for dirty in aws.take_dirty() {
            let key = (dirty.table.to_owned(), dirty.key);
            match dirty.value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        Some((journal::effects(effects.iter().map(|effect| format!("{effect:?}"))), verdict))
    }

    fn state(&self) -> String {
        journal::state(&self.records)
    }

    fn has_effects(&self) -> bool {
        self.effects
    }
}

/// What the store was told.
#[derive(Debug, Deserialize)]
struct Told {
    write: Write,
    options: Options,
}

/// The table in which the store's records are saved.
const TABLE: &str = "objects";

#[derive(Default)]
struct KubeMachine {
    store: Option<Store>,
    records: Records,
    watch: Option<Watch>,
    at: Duration,
}

impl KubeMachine {
    fn save(&mut self) {
        let Some(store) = &mut self.store else { return };
        for (key, value) in store.take_dirty() {
            let key = (TABLE.to_owned(), String::from_utf8_lossy(&key).into_owned());
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
    }

    fn found(&mut self) -> Vec<Found> {
        let Some(watch) = &mut self.watch else { return Vec::new() };
        watch.pass(self.at);
        watch.take()
    }
}

impl Machine for KubeMachine {
    type Begin = store::Begin;
    type At = Timestamp;
    type Input = Told;
    type Reject = ApiError;

    fn begin(&mut self, begin: Self::Begin) -> Result<(), String> {
        self.store = Some(begin.start().map_err(|error| error.to_string())?);
        let records = begin.records.into_iter();
        self.records = records.map(|(key, value)| ((TABLE.to_owned(), key), value.into_bytes())).collect();
        self.save();
        let mut watch = Watch::of_a_cluster(Some(&check::names(None, false)));
        self.at = Duration::try_from(begin.at.as_duration()).unwrap_or_default();
        for (_, kind) in check::KINDS {
            for (_, object) in self.store.iter().flat_map(|store| store.all(&kind)) {
                watch.see(self.at, &Seen::Object(&model_kube::object::Change::Added(object.clone())));
            }
        }
        self.watch = Some(watch);
        Ok(())
    }

    fn step(&mut self, at: Timestamp, input: Told) -> Option<Stepped<ApiError>> {
        let store = self.store.as_mut()?;
        let mut effects = Vec::new();
        let verdict = store.step_with(at, &input.write, &input.options, &mut effects);
        self.at = self.at.max(Duration::try_from(at.as_duration()).unwrap_or_default());
        if let Some(watch) = &mut self.watch {
            watch.pass(self.at);
            for effect in &effects {
                if let store::Effect::Changed(entry) = effect {
                    watch.see(self.at, &Seen::Object(&entry.change));
                }
            }
        }
        let digest = journal::effects(effects.iter().map(store::Effect::told));
        self.save();
        Some((digest, verdict))
    }

    fn state(&self) -> String {
        journal::state(&self.records)
    }
}

#[derive(Default)]
struct ControllerMachine {
    controller: Option<Controller>,
}

impl Machine for ControllerMachine {
    type Begin = controllers::Begin;
    type At = Timestamp;
    type Input = machine::Input;
    type Reject = machine::Reject;

    fn begin(&mut self, begin: Self::Begin) -> Result<(), String> {
        self.controller = Some(begin.start().ok_or_else(|| format!("there is no controller {}", begin.controller))?);
        Ok(())
    }

    fn step(&mut self, _: Timestamp, input: machine::Input) -> Option<Stepped<machine::Reject>> {
        let mut effects = Vec::new();
        let verdict = self.controller.as_mut()?.step(&input, &mut effects);
        Some((journal::effects(effects.iter().map(|effect| format!("{effect:?}"))), verdict))
    }
}

#[derive(Default)]
struct KubeletMachine {
    kubelet: Option<Kubelet>,
}

impl Machine for KubeletMachine {
    type Begin = volume_manager::Config;
    type At = Timestamp;
    type Input = kubelet::Input;
    type Reject = kubelet::Reject;

    fn begin(&mut self, begin: Self::Begin) -> Result<(), String> {
        self.kubelet = Some(Kubelet::new(begin));
        Ok(())
    }

    fn step(&mut self, _: Timestamp, input: kubelet::Input) -> Option<Stepped<kubelet::Reject>> {
        let mut effects = Vec::new();
        let verdict = self.kubelet.as_mut()?.step(&input, &mut effects);
        Some((journal::effects(effects.iter().map(|effect| format!("{effect:?}"))), verdict))
    }
}
