//! The journals of this side: of the store every write with its verdict, of each controller every input, each with the digest of what
//! followed ([`emulator_common::journal`]).

use std::path::Path;

use emulator_common::journal::{self, Line, Records};
use emulator_common::store::{Sled, Store as _, StoreError};
use jiff::Timestamp;
use model_kube::controllers::{self, Controller, Driver};
use model_kube::machine;
use model_kube::store::{Begin, Effect};
use model_kube::write::{ApiError, Options, Write};
use serde::Serialize;

use crate::api::TABLE;

/// What the store is told.
#[derive(Debug, Clone, Serialize)]
struct Told<'a> {
    write: &'a Write,
    options: &'a Options,
}

type StoreLine<'a> = Line<&'a Begin, Timestamp, Told<'a>, &'a ApiError>;

/// What is saved.
pub fn begin(disk: &Sled, seed: u64) -> Result<Begin, StoreError> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let records = disk.load(TABLE)?.into_iter().map(|(key, value)| (text(key), text(value))).collect();
    Ok(Begin { seed, at: crate::api::now(), records })
}

/// The journal of the store.
pub struct Journal(journal::Journal);

impl Journal {
    pub fn open(directory: &Path, begin: &Begin) -> std::io::Result<Self> {
        let mut file = journal::Journal::open(directory, "kube")?;
        file.append(&StoreLine::Begin { begin });
        file.flush();
        Ok(Self(file))
    }

    pub fn append(&mut self, at: Timestamp, write: &Write, options: &Options, verdict: &Result<(), ApiError>, effects: &[Effect]) {
        let (reject, effects) = (verdict.as_ref().err(), journal::effects(effects.iter().map(Effect::told)));
        self.0.append(&StoreLine::Step { at, input: Told { write, options }, reject, effects });
    }

    pub fn flush(&mut self) {
        self.0.flush();
    }

    /// The store was read back from the disk with another seed.
    pub fn begin_anew(&mut self, disk: &Sled, seed: u64) {
        match begin(disk, seed) {
            Ok(begin) => self.0.append(&StoreLine::Begin { begin: &begin }),
            Err(error) => tracing::warn!(%error, "the journal cannot go on"),
        }
    }

    /// The store ends in order; what is saved is this.
    pub fn end(&mut self, disk: &Sled) {
        let records = match disk.load(TABLE) {
            Ok(records) => records,
            Err(error) => return tracing::warn!(%error, "the journal lacks the state at its end"),
        };
        let record = |(key, value): (Vec<u8>, Vec<u8>)| ((TABLE.to_owned(), String::from_utf8_lossy(&key).into_owned()), value);
        let records: Records = records.into_iter().map(record).collect();
        self.0.append(&StoreLine::State { state: journal::state(&records) });
        self.0.flush();
    }
}

type ControllerLine<'a> = Line<&'a controllers::Begin, Timestamp, &'a machine::Input, &'a machine::Reject>;

/// The journal of a controller.
pub struct ControllerJournal(journal::Journal);

impl ControllerJournal {
    pub fn open(directory: &Path, machine: &Controller, driver: Option<&Driver>) -> std::io::Result<Self> {
        let controller = machine.journal(driver);
        let mut file = journal::Journal::open(directory, &format!("controller.{controller}"))?;
        let begin = controllers::Begin { controller, driver: driver.cloned() };
        file.append(&ControllerLine::Begin { begin: &begin });
        file.flush();
        Ok(Self(file))
    }

    pub fn append(&mut self, input: &machine::Input, verdict: &Result<(), machine::Reject>, effects: &[machine::Effect]) {
        let (reject, effects) = (verdict.as_ref().err(), journal::effects(effects.iter().map(|effect| format!("{effect:?}"))));
        self.0.append(&ControllerLine::Step { at: crate::api::now(), input, reject, effects });
        self.0.flush();
    }
}
