//! `ebbtide up --journal`: what it was told while an exercise ran on real devices, given to fresh machines.

use ebbtide_tests::{Ebbtide, root, text};
use serde_json::Value;

fn replay(ebbtide: &Ebbtide, path: &str) -> (Option<i32>, Vec<Value>) {
    let program = ebbtide_tests::program();
    let mut command = ebbtide.command(program.to_str().expect("UTF-8"));
    let output = command.args(["replay", "-o", "json"]).arg(ebbtide.dir().join(path)).output().expect("ebbtide");
    let rows = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (output.status.code(), rows)
}

#[test]
fn what_ran_on_real_devices_replays_to_the_same_state() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&["--journal"]);
    for exercise in ["e03", "f02"] {
        let ran = ebbtide.ebbtide(&["run", exercise, "--live"]);
        assert!(ran.status.success(), "{exercise}: {}", text(&ran));
    }
    ebbtide.down();
    let (code, rows) = replay(&ebbtide, "journal");
    assert_eq!(code, Some(0), "{rows:#?}");
    let row = |name: &str| rows.iter().find(|row| row["journal"] == name).unwrap_or_else(|| panic!("no journal {name}: {rows:#?}"));
    for row in &rows {
        assert_eq!((&row["difference"], &row["found"]), (&Value::Null, &serde_json::json!([])), "{row}");
    }
    for name in ["aws", "kube"] {
        assert_eq!(row(name)["states"], 1, "what was saved is compared: {}", row(name));
    }
    for name in [
        "kube",
        "aws",
        "controller.attachdetach",
        "controller.attacher.ebs.csi.aws.com",
        "controller.scheduler",
        "kubelet.ip-10-0-1-10.ec2.internal",
    ] {
        assert!(row(name)["inputs"].as_u64().is_some_and(|inputs| inputs > 5), "{}", row(name));
    }

    // A journal from which an input is missing is not the same run.
    let file = ebbtide.dir().join("journal/aws.jsonl");
    let lines = std::fs::read_to_string(&file).expect("a journal");
    let mut lines: Vec<&str> = lines.lines().collect();
    let made =
        lines.iter().position(|line| line.contains("createVolume") || line.contains("CreateVolume")).expect("the exercise makes one");
    lines.remove(made);
    std::fs::write(&file, lines.join("\n") + "\n").expect("written");
    let (code, rows) = replay(&ebbtide, "journal/aws.jsonl");
    assert_eq!(code, Some(1));
    assert!(rows[0]["difference"].as_str().is_some_and(|what| what.starts_with("line ")), "{rows:#?}");
}
