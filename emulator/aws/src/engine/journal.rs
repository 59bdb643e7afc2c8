//! The journal of the AWS machine: what it began with, every input with its time, its verdict and the digest of its effects.

use std::path::Path;

use emulator_common::journal::{self, Line, Records};
use model_aws::{At, Aws, Begin, Effect, Input, Reject};

/// An open journal, and what a reset begins with.
pub struct Journal {
    file: journal::Journal,
    begin: Begin,
}

impl Journal {
    /// Opens `aws.jsonl` in a directory and notes what the machine begins with.
    pub fn open(directory: &Path, begin: Begin) -> std::io::Result<Self> {
        let mut this = Self { file: journal::Journal::open(directory, "aws")?, begin };
        this.note_begin();
        // Kept for resets, which keep no records.
        this.begin.records = Vec::new();
        Ok(this)
    }

    /// The machine begins anew, with nothing but its world.
    pub fn begin_anew(&mut self) {
        self.note_begin();
    }

    fn note_begin(&mut self) {
        self.file.append(&Line::<&Begin, At, &Input, &Reject>::Begin { begin: &self.begin });
        self.file.flush();
    }

    pub fn append(&mut self, at: At, input: &Input, verdict: &Result<(), Reject>, effects: &[Effect]) {
        let effects = effects.iter().filter(|_| self.begin.effects).map(|effect| format!("{effect:?}"));
        let (reject, effects) = (verdict.as_ref().err(), journal::effects(effects));
        self.file.append(&Line::<&Begin, At, &Input, &Reject>::Step { at, input, reject, effects });
    }

    /// The machine ends in order; what it saved is this.
    pub fn end(&mut self, records: &Records) {
        self.file.append(&Line::<&Begin, At, &Input, &Reject>::State { state: journal::state(records) });
        self.file.flush();
    }

    /// Hands what is buffered to the kernel.
    pub fn flush(&mut self) {
        self.file.flush();
    }
}

/// All records of a store.
pub fn records(store: &dyn emulator_common::store::Store) -> Result<Records, emulator_common::store::StoreError> {
    let mut records = Records::new();
    for table in Aws::tables() {
        for (key, value) in store.load(table)? {
            records.insert((table.to_owned(), String::from_utf8_lossy(&key).into_owned()), value);
        }
    }
    Ok(records)
}
