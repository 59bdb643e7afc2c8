//! Journals: what a machine was told, in order, as JSON lines in `<data>/journal`. They are evidence and replay (`ebbtide replay`), not the
//! source of truth, so a failure to write one is told and does not stop anything.
//!
//! A journal of a machine has this form; a start that goes on from saved state begins anew in the same file:
//!
//! ```text
//! {"begin": …}                            what the machine began with
//! {"at": …, "input": …, "reject": …, "effects": "…"}   an input; whether it was refused; the digest of its effects
//! {"state": "…"}                          the digest of all saved records, where the machine was stopped in order
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use model_common::digest::Digest;
use serde::{Deserialize, Serialize};

/// A journal larger than this is moved to `NAME.1.jsonl` (which it replaces) and begun anew.
const MAX_BYTES: u64 = 64 << 20;

/// A line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line<Begin, At, Input, Reject> {
    Begin {
        begin: Begin,
    },
    State {
        state: String,
    },
    Step {
        at: At,
        input: Input,
        #[serde(skip_serializing_if = "Option::is_none")]
        reject: Option<Reject>,
        /// The digest of what the machine wanted done; none: nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        effects: Option<String>,
    },
}

/// The digest of what a machine wanted done, each in a line; none: nothing.
pub fn effects(lines: impl Iterator<Item = String>) -> Option<String> {
    let mut lines = lines.peekable();
    lines.peek()?;
    let mut digest = Digest::default();
    for line in lines {
        digest.bytes(line.as_bytes());
        digest.bytes(b"\n");
    }
    Some(digest.to_string())
}

/// The records of a machine, as saved: table and key, and the value.
pub type Records = BTreeMap<(String, String), Vec<u8>>;

/// The digest of all records.
pub fn state(records: &Records) -> String {
    let mut digest = Digest::default();
    for ((table, key), value) in records {
        digest.bytes(format!("{table}/{key}\n").as_bytes());
        digest.bytes(value);
        digest.bytes(b"\n");
    }
    digest.to_string()
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    failed: bool,
}

impl Journal {
    /// Opens `NAME.jsonl` in a directory for appending.
    pub fn open(directory: &Path, name: &str) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(format!("{name}.jsonl"));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file: BufWriter::with_capacity(1 << 16, file), written, failed: false })
    }

    pub fn append(&mut self, line: &impl Serialize) {
        let result = serde_json::to_vec(line).map_err(std::io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            self.written += text.len() as u64;
            self.file.write_all(&text)
        });
        let result = result.and_then(|()| if self.written > MAX_BYTES { self.rotate() } else { Ok(()) });
        self.note(result);
    }

    /// Hands what is buffered to the kernel.
    pub fn flush(&mut self) {
        let result = self.file.flush();
        self.note(result);
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        std::fs::rename(&self.path, self.path.with_extension("1.jsonl"))?;
        self.file = BufWriter::with_capacity(1 << 16, OpenOptions::new().create(true).append(true).open(&self.path)?);
        self.written = 0;
        Ok(())
    }

    fn note(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => self.failed = false,
            // Told once, not with every input.
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(path = %self.path.display(), %error, "cannot write the journal; going on without it");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Line<u8, i64, String, String>;

    fn step(at: i64) -> Told {
        Line::Step { at, input: "go".into(), reject: None, effects: None }
    }

    #[test]
    fn a_large_journal_is_begun_anew_and_the_old_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), "aws").unwrap();
        journal.append(&step(1));
        journal.written = MAX_BYTES;
        journal.append(&step(2));
        journal.append(&step(3));
        journal.flush();
        let lines = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
        assert_eq!((lines("aws.1.jsonl"), lines("aws.jsonl")), (2, 1));
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let refused =
            Line::Step { at: 2, input: "go".into(), reject: Some("no".into()), effects: effects(["stop".to_owned()].into_iter()) };
        for line in [Line::Begin { begin: 7 }, step(1), refused, Line::State { state: "00ff".into() }] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Told>(&text).unwrap(), line, "{text}");
        }
    }
}
