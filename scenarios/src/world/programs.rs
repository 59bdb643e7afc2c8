//! The few commands that run in virtual time: the exercises' loop, looking at files, writing a line. Everything else says that it needs
//! real devices.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// `while true; do echo $(date -u) >> FILE; sleep N; done`
    Append { file: String, every: Duration },
    /// `sleep N`; none: for ever.
    Sleep(Option<Duration>),
}

fn only_live(what: &str) -> String {
    format!(
        "`{what}` runs only with --live; in virtual time a container runs `while true; do echo $(date -u) >> FILE; sleep N; done` or `sleep N`, \
         and exec runs cat, head, tail, ls, `findmnt -no FSTYPE DIR`, `rm -r DIR` and `sh -c 'echo WORDS > FILE'`"
    )
}

impl Program {
    /// What a container's command and arguments say.
    pub(super) fn of(container: &Container) -> Result<Self, String> {
        let words: Vec<&str> = container.command.iter().flatten().chain(container.args.iter().flatten()).map(String::as_str).collect();
        if container.command.is_none() {
            return Err(format!("container {} has no command, and images are not pulled; give it a command", container.name));
        }
        Self::parse(&words).ok_or_else(|| only_live(&words.join(" ")))
    }

    fn parse(words: &[&str]) -> Option<Self> {
        match words {
            ["sleep", "infinity" | "inf"] => Some(Self::Sleep(None)),
            ["sleep", seconds] => Some(Self::Sleep(Some(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?))),
            [shell, "-c", script] if ["sh", "/bin/sh", "bash", "/bin/bash"].contains(shell) => Self::script(script),
            _ => None,
        }
    }

    fn script(script: &str) -> Option<Self> {
        let words: Vec<&str> = script.split_whitespace().collect();
        if let Some(inner) = words.strip_prefix(&["exec"]).or(Some(&words))
            && inner.first() == Some(&"sleep")
        {
            return Self::parse(inner);
        }
        let body = script.trim().strip_prefix("while true; do ")?.strip_suffix("done")?;
        let mut statements = body.split(';').map(str::trim).filter(|statement| !statement.is_empty());
        let file = statements.next()?.strip_prefix("echo $(date -u) >>")?.trim();
        let Self::Sleep(Some(every)) = Self::parse(&statements.next()?.split_whitespace().collect::<Vec<_>>())? else { return None };
        // A loop that never sleeps would never let time pass.
        (statements.next().is_none() && is_plain(file) && !every.is_zero()).then(|| Self::Append { file: file.to_owned(), every })
    }
}

/// A command of `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    Cat(String),
    Head(usize, String),
    Tail(usize, String),
    List(String),
    /// The type of the file system at a path.
    FileSystem(String),
    /// `sh -c "echo WORDS > FILE"`, or `>>`.
    Write {
        file: String,
        line: String,
        append: bool,
    },
    /// `rm -r DIR`
    Remove(String),
}

fn is_plain(path: &str) -> bool {
    path.starts_with('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

impl Look {
    pub(super) fn parse(command: &[String]) -> Result<Self, String> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let count = |text: &str| text.parse().ok();
        let look = match words.as_slice() {
            ["cat", file] => Some(Self::Cat((*file).into())),
            ["head", file] => Some(Self::Head(10, (*file).into())),
            ["tail", file] => Some(Self::Tail(10, (*file).into())),
            ["head", "-n", n, file] => count(n).map(|n| Self::Head(n, (*file).into())),
            ["tail", "-n", n, file] => count(n).map(|n| Self::Tail(n, (*file).into())),
            ["head", n, file] => n.strip_prefix("-n").or(n.strip_prefix('-')).and_then(count).map(|n| Self::Head(n, (*file).into())),
            ["tail", n, file] => n.strip_prefix("-n").or(n.strip_prefix('-')).and_then(count).map(|n| Self::Tail(n, (*file).into())),
            ["ls", directory] | ["ls", "-1", directory] => Some(Self::List((*directory).into())),
            ["findmnt", "-no", "FSTYPE", directory] => Some(Self::FileSystem((*directory).into())),
            ["rm", "-r", directory] => Some(Self::Remove((*directory).into())),
            ["sh" | "/bin/sh", "-c", script] => Self::write(script),
            _ => None,
        };
        look.ok_or_else(|| only_live(&words.join(" ")))
    }

    fn write(script: &str) -> Option<Self> {
        let (words, file) = script.strip_prefix("echo ")?.split_once('>')?;
        let (append, file) = file.strip_prefix('>').map_or((false, file), |file| (true, file));
        let (words, file) = (words.trim(), file.trim());
        let line = words.chars().all(|c| c.is_ascii_alphanumeric() || " ._-".contains(c)).then(|| format!("{words}\n"))?;
        is_plain(file).then(|| Self::Write { file: file.into(), line, append })
    }

    pub(super) fn path(&self) -> &str {
        match self {
            Self::Cat(path)
            | Self::Head(_, path)
            | Self::Tail(_, path)
            | Self::List(path)
            | Self::FileSystem(path)
            | Self::Remove(path) => path,
            Self::Write { file, .. } => file,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(command: &[&str], args: &[&str]) -> Container {
        let words = |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|word| (*word).into()).collect());
        Container { name: "c".into(), command: words(command), args: words(args), ..Container::default() }
    }

    #[test]
    fn the_exercises_loop_is_known() {
        let script = "while true; do echo $(date -u) >> /data/out.txt; sleep 5; done";
        let append = Program::Append { file: "/data/out.txt".into(), every: Duration::from_secs(5) };
        assert_eq!(Program::of(&container(&["/bin/sh"], &["-c", script])), Ok(append.clone()));
        assert_eq!(Program::of(&container(&["sh", "-c", script], &[])), Ok(append));
        assert_eq!(Program::of(&container(&["sh", "-c", "sleep 3600"], &[])), Ok(Program::Sleep(Some(Duration::from_secs(3600)))));
        assert_eq!(Program::of(&container(&["sleep", "infinity"], &[])), Ok(Program::Sleep(None)));
    }

    #[test]
    fn all_else_needs_real_devices() {
        for script in [
            "dd if=/dev/zero of=/data/x",
            "while true; do echo $(date -u) >> $F; sleep 5; done",
            "while true; do echo $(date -u) >> /f; sleep 0; done",
        ] {
            let error = Program::of(&container(&["sh", "-c", script], &[])).unwrap_err();
            assert!(error.contains("runs only with --live"), "{error}");
        }
        assert!(Program::of(&container(&[], &[])).unwrap_err().contains("give it a command"));
        assert!(Look::parse(&["rm".into(), "/x".into()]).unwrap_err().contains("runs only with --live"));
    }

    #[test]
    fn files_are_looked_at() {
        let look = |text: &str| Look::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(look("head -n 3 /f"), Ok(Look::Head(3, "/f".into())));
        assert_eq!(look("tail -1 /f"), Ok(Look::Tail(1, "/f".into())));
        assert_eq!(look("ls /d"), Ok(Look::List("/d".into())));
        assert_eq!(look("findmnt -no FSTYPE /d"), Ok(Look::FileSystem("/d".into())));
    }

    #[test]
    fn a_line_is_written() {
        let script = |script: &str| Look::parse(&["sh".into(), "-c".into(), script.into()]);
        let write = |line: &str, append| Ok(Look::Write { file: "/d/f".into(), line: line.into(), append });
        assert_eq!(script("echo 123 > /d/f"), write("123\n", false));
        assert_eq!(script("echo one two >> /d/f"), write("one two\n", true));
        for other in ["echo $HOME > /d/f", "echo a > /d/f; rm /x", "echo a", "cat /x > /d/f"] {
            assert!(script(other).unwrap_err().contains("runs only with --live"), "{other}");
        }
    }
}
