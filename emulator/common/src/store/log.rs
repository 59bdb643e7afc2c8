//! The log in front of the database: a commit appends its changes in one write, which survives `kill -9` once the kernel has it,
//! and waits for no disk. A log that has grown is applied to the database by a thread and removed; a start applies what is left.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use model_common::digest::Digest;

/// Keys with the value to put; none removes.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Before each frame: its length and its digest.
const HEAD: usize = 12;
/// The length that says that a key is removed.
const REMOVED: u32 = u32::MAX;

/// The file of a log; later ones have larger numbers.
fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("log.{number}"))
}

/// A log that is being written.
pub struct Log {
    number: u64,
    file: File,
    /// Up to here it is whole; what a failed write left after it is overwritten.
    length: u64,
    frame: Vec<u8>,
}

impl Log {
    pub fn create(directory: &Path, number: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path(directory, number))?;
        Ok(Self { number, file, length: 0, frame: Vec::new() })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends changes as one frame: all of them are read back, or none.
    pub fn append<'a>(&mut self, changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> io::Result<()> {
        self.frame.clear();
        self.frame.resize(HEAD, 0);
        for (key, value) in changes {
            self.frame.extend(length(key)?.to_le_bytes());
            self.frame.extend(key);
            self.frame.extend(value.map_or(Ok(REMOVED), length)?.to_le_bytes());
            self.frame.extend(value.unwrap_or_default());
        }
        let (head, body) = self.frame.split_at_mut(HEAD);
        head[..4].copy_from_slice(&length(body)?.to_le_bytes());
        head[4..].copy_from_slice(&digest(self.number, self.length, body).to_le_bytes());
        self.file.write_all_at(&self.frame, self.length)?;
        self.length += self.frame.len() as u64;
        Ok(())
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).ok().filter(|length| *length != REMOVED).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

/// The digest depends on where the frame stands, so that no rest of another frame is taken for one.
fn digest(number: u64, at: u64, body: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.bytes(&number.to_le_bytes());
    digest.bytes(&at.to_le_bytes());
    digest.bytes(body);
    digest.value()
}

/// The numbers of the logs in a directory, in order.
pub fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix("log.")).and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes a log; one that is not there is fine.
pub fn remove(directory: &Path, number: u64) -> io::Result<()> {
    match std::fs::remove_file(path(directory, number)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What a log says in the end. It ends at the first frame that is not whole: nobody was told that one was saved.
pub fn read(directory: &Path, number: u64) -> io::Result<Changes> {
    let bytes = std::fs::read(path(directory, number))?;
    let (mut changes, mut at) = (Changes::new(), 0);
    while let Some(end) = frame(&bytes[at..]).map(|body| at + HEAD + body.len())
        && bytes[at + 4..at + HEAD] == digest(number, at as u64, &bytes[at + HEAD..end]).to_le_bytes()
    {
        let mut rest = &bytes[at + HEAD..end];
        while let Some(((key, value), after)) = change(rest) {
            changes.insert(key.to_vec(), value.map(<[u8]>::to_vec));
            rest = after;
        }
        at = end;
    }
    Ok(changes)
}

/// The body of the frame at the beginning, as far as its length says.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = number(bytes)?;
    rest.get(HEAD - 4..)?.get(..length as usize)
}

type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// The change at the beginning, and what follows.
fn change(bytes: &[u8]) -> Option<(Change<'_>, &[u8])> {
    let (length, rest) = number(bytes)?;
    let (key, rest) = rest.split_at_checked(length as usize)?;
    let (length, rest) = number(rest)?;
    if length == REMOVED {
        return Some(((key, None), rest));
    }
    let (value, rest) = rest.split_at_checked(length as usize)?;
    Some(((key, Some(value)), rest))
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &mut Log, key: &str, value: Option<&str>) {
        log.append([(key.as_bytes(), value.map(str::as_bytes))].into_iter()).unwrap();
    }

    #[test]
    fn a_log_is_read_back_up_to_the_first_frame_that_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path(), 7).unwrap();
        append(&mut log, "a", Some("1"));
        append(&mut log, "b", Some("2"));
        append(&mut log, "a", None);
        let whole = log.length();
        append(&mut log, "c", Some("3"));
        assert_eq!(numbers(dir.path()).unwrap(), [7]);
        let with_c = Changes::from([(b"a".to_vec(), None), (b"b".to_vec(), Some(b"2".to_vec())), (b"c".to_vec(), Some(b"3".to_vec()))]);
        assert_eq!(read(dir.path(), 7).unwrap(), with_c);
        let bytes = std::fs::read(path(dir.path(), 7)).unwrap();
        let mut without_c = with_c;
        without_c.remove(&b"c"[..]);
        for length in usize::try_from(whole).unwrap()..bytes.len() {
            std::fs::write(path(dir.path(), 7), &bytes[..length]).unwrap();
            assert_eq!(read(dir.path(), 7).unwrap(), without_c, "cut to {length} bytes");
            let mut wrong = bytes.clone();
            wrong[length] ^= 1;
            std::fs::write(path(dir.path(), 7), &wrong).unwrap();
            assert_eq!(read(dir.path(), 7).unwrap(), without_c, "wrong at {length}");
        }
        // The same bytes under another number are no log.
        std::fs::write(path(dir.path(), 8), &bytes).unwrap();
        assert_eq!(read(dir.path(), 8).unwrap(), Changes::new());
    }
}
