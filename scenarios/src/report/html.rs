//! A run as one page that needs nothing else: a timeline with a lane for each thing, and the same in words.
//!
//! The page shows only text: what comes from the run goes into it as JSON that cannot end its element, or escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Report, StepReport, Verdict, short};
use crate::language::Scenario;
use crate::world::{Patch, Told};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPTS: [&str; 3] = [include_str!("page/model.js"), include_str!("page/timeline.js"), include_str!("page/words.js")];

/// The groups of lanes, from the top of the timeline, and the first words of the lanes in them.
const GROUPS: [(&str, &[&str]); 9] = [
    ("Trouble", &["violation", "fault"]),
    ("Scenario", &["scenario"]),
    ("Pods", &["Pod", "StatefulSet", "Deployment", "ReplicaSet", "DaemonSet", "Job"]),
    (
        "Claims and volumes",
        &["PersistentVolumeClaim", "PersistentVolume", "VolumeSnapshot", "VolumeSnapshotContent", "StorageClass", "volume"],
    ),
    ("Attachments", &["VolumeAttachment", "attachment"]),
    ("Nodes", &["Node", "node", "kubelet", "ebs-csi-node", "efs-csi-node"]),
    ("Controllers", &["controller"]),
    ("AWS", &["ec2", "efs"]),
    ("Other", &[]),
];

/// The page of a run. `again`: the command that shows it again.
pub fn page(scenario: &Scenario, story: &[Told], report: &Report, again: Option<&str>) -> String {
    let parts = [
        ("title", escape(&format!("{} - {}", report.scenario, verdict(report)))),
        ("style", STYLE.to_owned()),
        ("head", head(scenario, report, again)),
        ("open", if report.passed { String::new() } else { " open".into() }),
        ("summary", escape(&summary(report))),
        ("steps", steps(report)),
        ("data", data(story, report)),
        ("script", format!("\"use strict\";\n(() => {{\n{}}})();\n", SCRIPTS.concat())),
    ];
    fill(PAGE, &BTreeMap::from(parts))
}

/// Puts the parts into the template, once: what is in a part is not looked into.
fn fill(template: &str, parts: &BTreeMap<&str, String>) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(parts.get(name).map_or("", String::as_str));
        rest = after;
    }
    page.push_str(rest);
    page
}

/// Text as HTML shows it as itself, in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn verdict(report: &Report) -> &'static str {
    if report.passed { "passed" } else { "failed" }
}

fn head(scenario: &Scenario, report: &Report, again: Option<&str>) -> String {
    let mut facts = vec![format!("{} time", report.engine)];
    if report.engine != "virtual" {
        facts = vec!["real devices".into()];
    }
    if let Some(time) = report.virtual_time {
        facts.push(format!("{} of it in {}", short(time), short(report.wall)));
    }
    if let Some(seed) = report.seed {
        facts.push(format!("seed {seed}"));
    }
    if let Some(digest) = &report.digest {
        facts.push(format!("digest {digest}"));
    }
    let mut html = format!(
        "<h1>{}</h1>\n<span class=\"verdict {verdict}\">{verdict}</span>\n<span>{}</span>\n",
        escape(&report.scenario),
        escape(&facts.join(", ")),
        verdict = verdict(report)
    );
    // Writing to a String cannot fail, here and below.
    if let Some(again) = again {
        let _ = writeln!(html, "<span>again: <code>{}</code></span>", escape(again));
    }
    for text in [&scenario.spec.description, &scenario.spec.source] {
        if !text.is_empty() {
            let _ = writeln!(html, "<p>{}</p>", escape(text));
        }
    }
    html
}

fn summary(report: &Report) -> String {
    let count = |verdict| report.steps.iter().filter(|step| step.verdict == verdict).count();
    let (passed, failed) = (count(Verdict::Passed), count(Verdict::Failed));
    let mut text = format!("{} steps: {passed} passed, {failed} failed", report.steps.len());
    match report.violations.as_slice() {
        [] => {}
        [one] => text.push_str(&format!("; violated: {}", one.invariant)),
        [first, rest @ ..] => text.push_str(&format!("; violated: {} and {} more", first.invariant, rest.len())),
    }
    text
}

fn steps(report: &Report) -> String {
    let mut html = String::new();
    if let Some(error) = &report.error {
        let _ = writeln!(html, "<p class=\"failed\">{}</p>", escape(error));
    }
    for violation in &report.violations {
        let (name, step) = (escape(&violation.invariant), escape(&violation.step));
        let _ = writeln!(html, "<p class=\"failed\"><b>{name}</b> after <i>{step}</i>: {}</p>", escape(&violation.message));
    }
    html.push_str("<ol>\n");
    for step in &report.steps {
        html.push_str(&one_step(step));
    }
    html.push_str("</ol>");
    html
}

fn one_step(step: &StepReport) -> String {
    let verdict = match step.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Skipped => "skipped",
    };
    let mut html = format!("<li><span class=\"{verdict}\">{verdict}</span> {} ({})", escape(&step.name), short(step.took));
    for operation in &step.operations {
        if let Some(failure) = &operation.failure {
            let _ = write!(html, "<pre class=\"failed\">{}: {}</pre>", escape(&operation.what), escape(failure));
        }
    }
    html.push_str("</li>\n");
    html
}

fn group_of(lane: &str) -> usize {
    let word = lane.split(' ').next().unwrap_or_default();
    GROUPS.iter().position(|(_, words)| words.contains(&word)).unwrap_or(GROUPS.len() - 1)
}

/// What the page's script reads. A text in it cannot end the element that holds it, nor begin another.
fn data(story: &[Told], report: &Report) -> String {
    let mut seen = BTreeMap::new();
    for told in story {
        let next = seen.len();
        seen.entry(told.lane.as_str()).or_insert(next);
    }
    // By group, then as they came; the groups that have no lane are left out.
    let mut lanes: Vec<(usize, usize, &str)> = seen.iter().map(|(lane, first)| (group_of(lane), *first, *lane)).collect();
    lanes.sort_unstable();
    let mut groups: Vec<usize> = lanes.iter().map(|(group, ..)| *group).collect();
    groups.dedup();
    let number: BTreeMap<&str, usize> = lanes.iter().enumerate().map(|(number, (.., lane))| (*lane, number)).collect();
    let place = |group: usize| groups.iter().position(|known| *known == group);
    let mut order: Vec<&Told> = story.iter().collect();
    order.sort_by_key(|told| told.at);
    let events: Vec<Value> = order
        .into_iter()
        .map(|told| {
            let kind = match (told.lane.as_str(), told.failed) {
                ("fault", _) => 1,
                ("violation", _) => 2,
                (_, true) => 3,
                _ => 0,
            };
            let patch = told.object.as_deref().map(|patch| match patch {
                Patch::Whole(object) => json!({"whole": object}),
                Patch::Merge(change) => json!({"merge": change}),
            });
            json!([told.at, number.get(told.lane.as_str()), told.what, kind, told.state, patch])
        })
        .collect();
    let end = report.virtual_time.unwrap_or(report.wall).as_micros();
    let data = json!({
        "groups": groups.iter().map(|group| GROUPS[*group].0).collect::<Vec<_>>(),
        "lanes": lanes.iter().map(|(group, _, lane)| json!([lane, place(*group)])).collect::<Vec<_>>(),
        "events": events,
        "end": u64::try_from(end).unwrap_or(u64::MAX),
    });
    let text = data.to_string();
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests;
