//! Campaigns on several machines: the shards of a search as processes of their own, merged to what one search over all seeds gives.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use ebbtide_tests::program;
use serde_json::{Value, json};

/// What all searches here have in common: small, and with something to find (where the machines change it may be other seeds that find
/// something: `ebbtide search --minutes 2 --seeds 1..600 --keep-going --shrink 0` shows them). Shrinking ends by the clock, so it stays out.
const SEARCH: [&str; 8] = ["search", "--minutes", "2", "--seeds", "25..48", "--keep-going", "--shrink", "0"];

fn ebbtide(arguments: &[&str], out: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).arg("--out").arg(out).args(["-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The JSON of a search that ended, whatever it found.
fn printed(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {error}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {} {error}", String::from_utf8_lossy(&output.stdout)))
}

fn merge(files: &[&Path]) -> Output {
    Command::new(program()).args(["report", "merge", "-o", "json"]).args(files).output().expect("ebbtide report merge runs")
}

/// Without the time on the clock.
fn timeless(report: &Value) -> Value {
    let mut tally = report["tally"].clone();
    tally["seconds"] = json!(null);
    tally
}

#[test]
fn two_shards_merge_to_what_one_search_gives() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let shards = ["0/2", "1/2"];
    let running: Vec<_> = shards
        .iter()
        .enumerate()
        .map(|(number, shard)| ebbtide(&[&SEARCH[..], &["--shard", shard]].concat(), &at(&number.to_string())).spawn().unwrap())
        .collect();
    let reports: Vec<Value> = running.into_iter().map(|child| printed(&child.wait_with_output().unwrap())).collect();
    let files: Vec<_> = (0..2).map(|number| at(&format!("{number}.json"))).collect();
    files.iter().zip(&reports).for_each(|(file, report)| std::fs::write(file, report.to_string()).unwrap());
    let merged = merge(&[&files[1], &files[0]]);
    let all = printed(&ebbtide(&SEARCH, &at("all")).output().unwrap());

    let failed = all["tally"]["failed"].as_array().unwrap();
    assert!(!failed.is_empty(), "these seeds find something, or the test shows nothing: {all}");
    assert_eq!(all["tally"]["played"], 24);
    assert!(reports.iter().all(|report| report["tally"]["played"] == 12), "each plays its half: {reports:?}");
    assert_eq!(merged.status.code(), Some(1), "something failed, and the exit code says so");
    assert_eq!(timeless(&printed(&merged)), timeless(&all));
    // The lowest failing seed is found and written by whoever has it, as by one search.
    let found = reports.iter().filter(|report| !report["found"].is_null()).min_by_key(|report| report["found"]["seed"].as_u64()).unwrap();
    for name in ["scenario", "trace"] {
        let text = |report: &Value| std::fs::read_to_string(report["found"][name].as_str().unwrap()).unwrap();
        assert_eq!(text(found), text(&all), "{name}");
    }

    let half = merge(&[&files[0]]);
    assert_eq!(half.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&half.stderr).contains("the shard 1/2 is missing"), "{half:?}");
    let twice = merge(&[&files[0], &files[0]]);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("the shard 0/2 is there twice"), "{twice:?}");
}

/// The Job as it stands in `deploy/`, with fewer seeds: each pod's own command, as its shell runs it.
#[test]
fn the_job_of_the_documentation_runs_and_merges() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/campaign.yaml")).unwrap();
    let job = text.split("\n---\n").find(|part| part.contains("kind: Job")).expect("a Job");
    let job: Value = serde_yaml::from_str(job).unwrap();
    assert_eq!(job["spec"]["completionMode"], "Indexed");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let shards: u64 = container["env"][0]["value"].as_str().and_then(|text| text.parse().ok()).unwrap();
    assert_eq!(container["env"][0]["name"], "SHARDS");
    assert_eq!((&job["spec"]["completions"], &job["spec"]["parallelism"]), (&json!(shards), &json!(shards)));

    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("found");
    let script = container["args"][0].as_str().unwrap();
    let smaller = script.replace("--seeds 1..1000000", "--seeds 1..10 --shrink 0").replace("--minutes 10", "--minutes 1");
    let smaller = smaller.replace("--out /found", &format!("--out {}", out.display()));
    assert_eq!(smaller.matches("--shrink 0").count() + smaller.matches("--minutes 1 ").count(), 2, "{script}");
    let bin = directory.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(std::fs::canonicalize(program()).unwrap(), bin.join("ebbtide")).unwrap();
    let command: Vec<&str> = container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let mut logs = String::new();
    for index in 0..shards {
        let mut pod = Command::new(command[0]);
        pod.args(&command[1..]).arg(&smaller).env("JOB_COMPLETION_INDEX", index.to_string()).env("SHARDS", shards.to_string());
        let output = pod.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).output().unwrap();
        assert!(output.status.success(), "what was found is no failure of the pod: {output:?}");
        logs.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    let file = directory.path().join("logs");
    std::fs::write(&file, format!("a line of something else\n{logs}")).unwrap();
    assert_eq!(printed(&merge(&[&file]))["tally"]["played"], 10);
}
