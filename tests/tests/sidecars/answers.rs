//! What a driver with `--aws-sdk-debug-log=true` logs of EC2: every request and answer. Which answers made it try again or complain, and
//! which of these it asked for.

use std::collections::{BTreeMap, BTreeSet};

/// The answers that a driver's log shows, and what else it complains of.
#[derive(Debug, Default)]
pub struct Answers {
    /// How many requests were sent for each action.
    pub actions: BTreeMap<String, usize>,
    /// Errors that the driver asked for, by their code: how often.
    pub asked: BTreeMap<String, usize>,
    /// All others; lines that klog marks as errors or warnings; requests that were sent again.
    pub complaints: Vec<String>,
}

impl Answers {
    /// Reads a log. `mistakes`: parts of lines that the test's own mistakes make.
    pub fn read(log: &str, mistakes: &[&str]) -> Self {
        let mut answers = Self::default();
        let mut deletions = BTreeMap::<String, usize>::new();
        for line in log.lines() {
            let mut fields = line.split('&');
            let Some(action) = fields.next().and_then(|first| first.strip_prefix("Action=")) else { continue };
            *answers.actions.entry(action.to_owned()).or_default() += 1;
            if action == "DeleteVolume" {
                let volume = fields.find_map(|field| field.strip_prefix("VolumeId=")).unwrap_or_default();
                *deletions.entry(volume.to_owned()).or_default() += 1;
            }
        }
        let refused = |line: &&str| line.contains("InvalidVolume.ZoneMismatch");
        let never_attached: BTreeSet<String> = log.lines().filter(refused).filter_map(volume_in).collect();
        // Whether the driver meant to get it. EC2's own answer is read here, and klog's line about the same.
        let asked = |code: &str, line: &str| match code {
            // Whether it may; the highest IOPS of a type, which it reads in the error that a dry run gives for far too many.
            "DryRunOperation" => true,
            "InvalidParameterValue" => line.contains("Volume iops of 2147483647 is too high; maximum is "),
            "InvalidParameterCombination" => line.contains("io2 volumes configured with greater than 64 TiB or 256K IOPS or 1000:1"),
            // Whether a volume was changed before.
            "InvalidVolumeModification.NotFound" => true,
            // csi-provisioner deletes a volume once more when it sees the object that it has just deleted, and its finalizer still there.
            "InvalidVolume.NotFound" => volume_in(line).is_some_and(|volume| deletions.get(&volume).is_some_and(|count| *count > 1)),
            // The volume that the attacher asked for in vain is detached all the same.
            "IncorrectState" => volume_in(line).is_some_and(|volume| never_attached.contains(&volume)),
            _ => false,
        };
        for line in log.lines() {
            let answer = between(line, "<Errors><Error><Code>", "</Code>");
            let reported = line.contains("\"Error from AWS API\"").then(|| between(line, "api error ", ":")).flatten();
            let klog = line.starts_with(['E', 'W', 'F']) && line.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
            let again = line.strip_prefix("Amz-Sdk-Request: attempt=").is_some_and(|rest| !rest.starts_with("1;"));
            if !(answer.is_some() || klog || again) || mistakes.iter().any(|part| line.contains(part)) {
                continue;
            }
            match answer.or(reported) {
                Some(code) if asked(code, line) => {
                    if answer.is_some() {
                        *answers.asked.entry(code.to_owned()).or_default() += 1;
                    }
                }
                _ => answers.complaints.push(line.to_owned()),
            }
        }
        answers
    }
}

/// The first volume's id in a line.
fn volume_in(line: &str) -> Option<String> {
    let start = line.find("vol-")?;
    let end = line[start + 4..].find(|letter: char| !letter.is_ascii_hexdigit()).map_or(line.len(), |at| start + 4 + at);
    Some(line[start..end].to_owned())
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &line[line.find(before)? + before.len()..];
    rest.find(after).map(|end| &rest[..end])
}

#[test]
fn an_answer_that_was_not_asked_for_is_a_complaint() {
    let error = |code: &str, message: &str| {
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>x</RequestID></Response>\n"
        )
    };
    let gone = error("InvalidVolume.NotFound", "The volume 'vol-0a' does not exist.");
    let one = "Action=DeleteVolume&Version=2016-11-15&VolumeId=vol-0a\n";
    let read = |log: &str| Answers::read(log, &["vol-0e"]);
    assert_eq!(read(&format!("{one}{gone}")).complaints.len(), 1, "deleted for the first time");
    let twice = read(&format!("{one}{one}{gone}"));
    assert_eq!((twice.complaints.len(), twice.asked.get("InvalidVolume.NotFound"), twice.actions["DeleteVolume"]), (0, Some(&1), 2));
    assert_eq!(read(&error("RequestLimitExceeded", "Request limit exceeded.")).complaints.len(), 1);
    assert_eq!(read(&error("InvalidParameterValue", "Volume iops of 90000 is too high; maximum is 80000")).complaints.len(), 1);
    assert_eq!(read("Amz-Sdk-Request: attempt=2; max=50\n").complaints.len(), 1);
    assert_eq!(read("Amz-Sdk-Request: attempt=1; max=50\n").complaints.len(), 0);
    assert_eq!(read("E1123 11:16:09.882648   31221 driver.go:135] \"GRPC error\" err=\"x\"\n").complaints.len(), 1);
    assert_eq!(read("E1123 11:16:09.882648   31221 driver.go:135] \"GRPC error\" err=\"vol-0e\"\n").complaints.len(), 0);
    let detached = error("IncorrectState", "Volume 'vol-0b' is in the 'available' state.");
    assert_eq!(read(&detached).complaints.len(), 1);
    assert_eq!(
        Answers::read(&format!("ZoneMismatch InvalidVolume.ZoneMismatch vol-0b\n{detached}"), &["ZoneMismatch"]).complaints.len(),
        0
    );
}
