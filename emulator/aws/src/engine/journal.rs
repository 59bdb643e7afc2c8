//! The journal: every input with its time and verdict, as JSON lines. It is evidence and replay, not the source of truth, so a
//! failure to write it is told and does not stop anything.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use model_aws::{At, Input, Reject};
use serde::Serialize;

/// A journal larger than this is moved to `aws.1.jsonl` (which it replaces) and begun anew.
const MAX_BYTES: u64 = 64 << 20;

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    failed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    at: At,
    input: &'a Input,
    #[serde(skip_serializing_if = "Option::is_none")]
    reject: Option<&'a Reject>,
}

impl Journal {
    /// Opens `aws.jsonl` in a directory for appending.
    pub fn open(directory: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("aws.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file: BufWriter::with_capacity(1 << 16, file), written, failed: false })
    }

    pub fn append(&mut self, at: At, input: &Input, verdict: &Result<(), Reject>) {
        let line = Line { at, input, reject: verdict.as_ref().err() };
        let result = serde_json::to_vec(&line).map_err(std::io::Error::from).and_then(|mut text| {
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
        std::fs::rename(&self.path, self.path.with_file_name("aws.1.jsonl"))?;
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
    use model_aws::efs;

    #[test]
    fn a_large_journal_is_begun_anew_and_the_old_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let input = Input::Efs(efs::Input::Command(efs::Command::DeleteAccessPoint { id: "fsap-1".into() }));
        journal.append(At(1), &input, &Ok(()));
        journal.written = MAX_BYTES;
        journal.append(At(2), &input, &Ok(()));
        journal.append(At(3), &input, &Ok(()));
        journal.flush();
        let lines = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
        assert_eq!((lines("aws.1.jsonl"), lines("aws.jsonl")), (2, 1));
    }
}
