//! The journal of the kubelet's machine: every input with its verdict and the digest of what followed ([`emulator_common::journal`]).

use std::path::Path;

use emulator_common::journal::{self, Line};
use jiff::Timestamp;
use model_node::kubelet::{Effect, Input, Reject};
use model_node::volume_manager::Config;

type KubeletLine<'a> = Line<&'a Config, Timestamp, &'a Input, &'a Reject>;

/// An open journal.
pub struct Journal(journal::Journal);

impl Journal {
    /// Opens `kubelet.NODE.jsonl` in a directory and notes what the machine begins with.
    pub fn open(directory: &Path, begin: &Config) -> std::io::Result<Self> {
        let mut file = journal::Journal::open(directory, &format!("kubelet.{}", begin.node))?;
        file.append(&KubeletLine::Begin { begin });
        file.flush();
        Ok(Self(file))
    }

    pub fn append(&mut self, input: &Input, verdict: &Result<(), Reject>, effects: &[Effect]) {
        let (reject, effects) = (verdict.as_ref().err(), journal::effects(effects.iter().map(|effect| format!("{effect:?}"))));
        self.0.append(&KubeletLine::Step { at: Timestamp::now(), input, reject, effects });
        self.0.flush();
    }
}
