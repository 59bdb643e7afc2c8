//! Container logs in the CRI format: `TIME stdout|stderr F|P TEXT`, one file an attempt, rotated by size.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt};

/// A file is rotated when it has grown to this (`containerLogMaxSize`).
pub const MAX_SIZE: u64 = 10 << 20;
/// How many rotated files stay (`containerLogMaxFiles` counts the current one too).
pub const KEEP: usize = 4;
/// A longer line is cut into parts (`P`).
const MAX_LINE: usize = 16 << 10;

/// Where the logs of one container lie: `<dir>/<attempt>.log`.
#[derive(Debug, Clone)]
pub struct LogDir(pub PathBuf);

impl LogDir {
    /// The file of an attempt.
    pub fn file(&self, attempt: u32) -> PathBuf {
        self.0.join(format!("{attempt}.log"))
    }

    /// An attempt's files from the oldest to the current one.
    pub fn files(&self, attempt: u32) -> Vec<PathBuf> {
        let prefix = format!("{attempt}.log.");
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        let rotated = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix));
        let mut files: Vec<_> = entries.filter(rotated).collect();
        files.sort();
        files.push(self.file(attempt));
        files
    }
}

/// Writes one attempt's log.
#[derive(Clone)]
pub struct LogWriter(Arc<Mutex<Inner>>);

struct Inner {
    dir: LogDir,
    attempt: u32,
    file: std::fs::File,
    size: u64,
    max: u64,
}

impl LogWriter {
    pub fn open(dir: LogDir, attempt: u32) -> std::io::Result<Self> {
        Self::with_limit(dir, attempt, MAX_SIZE)
    }

    fn with_limit(dir: LogDir, attempt: u32, max: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(&dir.0)?;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(dir.file(attempt))?;
        let size = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Inner { dir, attempt, file, size, max }))))
    }

    /// Writes a line, or a part of one.
    pub fn write(&self, stream: &str, text: &[u8], whole: bool) -> std::io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = jiff::Timestamp::now();
        let mut line = format!("{now:.9} {stream} {} ", if whole { 'F' } else { 'P' }).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        inner.file.write_all(&line)?;
        inner.size += line.len() as u64;
        if inner.size >= inner.max {
            inner.rotate()?;
        }
        Ok(())
    }

    /// Copies a stream, line by line, until it ends.
    pub async fn copy(self, stream: &'static str, mut from: impl AsyncRead + Unpin) {
        let mut line = Vec::new();
        let mut buffer = vec![0; 8192];
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            for part in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                let whole = line.last() == Some(&b'\n');
                if whole || line.len() >= MAX_LINE {
                    let text = line.strip_suffix(b"\n").unwrap_or(&line);
                    if let Err(error) = self.write(stream, text, whole) {
                        tracing::warn!(%error, "cannot write a container's log");
                    }
                    line.clear();
                }
            }
        }
        if !line.is_empty() {
            let _ = self.write(stream, &line, true);
        }
    }
}

impl Inner {
    fn rotate(&mut self) -> std::io::Result<()> {
        let current = self.dir.file(self.attempt);
        let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S-%f").to_string();
        std::fs::rename(&current, current.with_extension(format!("log.{stamp}")))?;
        self.file = std::fs::OpenOptions::new().create(true).append(true).open(&current)?;
        self.size = 0;
        let files = self.dir.files(self.attempt);
        for old in files.iter().take(files.len().saturating_sub(KEEP + 1)) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// A log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// RFC 3339 with nanoseconds, as written.
    pub time: String,
    /// The text, with its newline unless it is a part.
    pub text: Vec<u8>,
}

/// Reads a line of the file; none when it is not complete or not a log line.
pub fn parse(line: &[u8]) -> Option<Entry> {
    let line = line.strip_suffix(b"\n")?;
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?.to_owned();
    let _stream = parts.next()?;
    let whole = parts.next()? == b"F";
    let mut text = parts.next()?.to_vec();
    if whole {
        text.push(b'\n');
    }
    Some(Entry { time, text })
}

/// All entries of a file from an offset, and the offset after the last complete one.
pub fn read_from(file: &Path, offset: u64) -> std::io::Result<(Vec<Entry>, u64)> {
    use std::io::Seek;
    let mut file = std::fs::File::open(file)?;
    file.seek(std::io::SeekFrom::Start(offset))?;
    let mut reader = std::io::BufReader::new(file);
    let mut entries = Vec::new();
    let mut end = offset;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok((entries, end));
        }
        end += read as u64;
        entries.extend(parse(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_the_container_runtime_does() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogWriter::open(LogDir(dir.path().into()), 0).unwrap();
        log.write("stdout", b"hello", true).unwrap();
        log.write("stderr", b"par", false).unwrap();
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let mut lines = text.lines();
        let first = lines.next().unwrap();
        assert!(first.ends_with("Z stdout F hello") && first.len() == "2026-11-23T04:00:00.000000000Z stdout F hello".len(), "{first}");
        assert!(lines.next().unwrap().ends_with(" stderr P par"));
        let (entries, end) = read_from(&dir.path().join("0.log"), 0).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.text.as_slice()).collect::<Vec<_>>(), [b"hello\n".as_slice(), b"par"]);
        assert_eq!(end, text.len() as u64);
    }

    #[test]
    fn a_full_file_is_rotated_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogDir(dir.path().into());
        let log = LogWriter::with_limit(logs.clone(), 3, 200).unwrap();
        for _ in 0..60 {
            log.write("stdout", &[b'x'; 50], true).unwrap();
        }
        assert_eq!(logs.files(3).len(), KEEP + 1);
    }
}
