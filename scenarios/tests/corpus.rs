//! What was kept of the runs from bytes (`fuzz/corpus/world`), played by a stable toolchain: every run holds and is the same each time; and
//! the runs are worth keeping, because bugs that are put into the machines show in them. A process of its own and one test at a time,
//! because a bug is in all machines of the process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use model_common::bugs::{self, Bug};
use model_common::pick::{Pick, Seeded};
use scenarios::search::play;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/world")
}

/// Whether a run shows a bug that it does not show without it.
fn shows(bytes: &[u8], bug: Bug) -> bool {
    bugs::seed(Some(bug));
    let found = play(bytes, false).unexplained().is_some();
    bugs::seed(None);
    found && play(bytes, false).unexplained().is_none()
}

#[test]
fn the_corpus_holds_and_shows_bugs() {
    let entries = std::fs::read_dir(directory()).unwrap_or_else(|error| panic!("{}: {error}", directory().display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    // What the fuzzer leaves beside them is its own.
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bytes"));
    files.sort();
    let runs: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for (file, bytes) in files.iter().zip(&runs) {
        let (first, again) = (play(bytes, false), play(bytes, false));
        assert_eq!(first.unexplained(), None, "{}: {}", file.display(), first.report.to_text());
        assert_eq!(first.report.digest, again.report.digest, "{}", file.display());
    }
    for (file, bytes) in files.iter().zip(&runs) {
        // A run that is named for a bug shows it.
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(bug) = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == *name) {
            assert!(shows(bytes, bug), "{} does not show in {}: make a new one (CONTRIBUTING.md)", name, file.display());
        }
    }
    assert!(files.len() >= 4, "{} has {} runs", directory().display(), files.len());
}

/// A time in seconds from the environment, for the tests that look for something.
fn end() -> Instant {
    let seconds = std::env::var("EBBTIDE_CORPUS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    Instant::now() + Duration::from_secs(seconds)
}

/// A run as the fuzzer begins with: bytes that mean nothing.
fn random(seed: u64) -> Vec<u8> {
    let mut source = Seeded::new(seed);
    (0..150 + source.pick(450)).map(|_| source.pick(256) as u8).collect()
}

/// Where there is no fuzzer: `EBBTIDE_CORPUS_SECONDS=600 cargo test -p scenarios --test corpus random -- --ignored --nocapture` plays random
/// runs, and tells those that nobody knows a reason for.
#[test]
#[ignore = "it looks for what is not known yet"]
fn random_runs_hold() {
    let (end, mut unexplained, mut played) = (end(), Vec::new(), 0);
    while Instant::now() < end {
        let bytes = random(played);
        if let Some(violation) = play(&bytes, false).unexplained() {
            println!("seed {played}: {}: {}", violation.invariant, violation.message);
            unexplained.push(played);
        }
        played += 1;
    }
    println!("{played} runs");
    assert!(unexplained.is_empty(), "of {played} runs these seeds' show what nobody knows a reason for: {unexplained:?}");
}

/// Looks for a run of each bug that has none: `EBBTIDE_CORPUS_SECONDS=600 cargo test -p scenarios --test corpus make -- --ignored
/// --nocapture`.
#[test]
#[ignore = "it writes the corpus"]
fn make_the_corpus() {
    let end = end();
    let mut wanted: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| !directory().join(format!("{bug:?}.bytes")).exists()).collect();
    for seed in 0.. {
        if Instant::now() >= end || wanted.is_empty() {
            break;
        }
        let bytes = random(seed);
        let shown: Vec<Bug> = wanted.iter().copied().filter(|bug| Instant::now() < end && shows(&bytes, *bug)).collect();
        for bug in &shown {
            println!("seed {seed}: {bug:?}");
            std::fs::write(directory().join(format!("{bug:?}.bytes")), &bytes).unwrap();
        }
        wanted.retain(|bug| !shown.contains(bug));
    }
    println!("none yet: {wanted:?}");
}
