//! Runs as a JUnit file, as CI systems read it: a test case for each run.

use std::fmt::Write as _;

use super::Report;
use super::html::escape;

/// What became of a scenario.
#[derive(Debug, Clone, PartialEq)]
pub enum Case {
    /// It was played; with the command that plays it again.
    Played { report: Report, again: String },
    /// It cannot be played in this world.
    NotPlayed { scenario: String, engine: &'static str, why: String },
}

/// The file.
pub fn junit(cases: &[Case]) -> String {
    let reports = || {
        cases.iter().filter_map(|case| match case {
            Case::Played { report, .. } => Some(report),
            Case::NotPlayed { .. } => None,
        })
    };
    let failures = reports().filter(|report| !report.passed && report.error.is_none()).count();
    let errors = reports().filter(|report| !report.passed && report.error.is_some()).count();
    let skipped = cases.len() - reports().count();
    let time: f64 = reports().map(|report| report.wall.as_secs_f64()).sum();
    let counts = format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{time:.3}\"", cases.len());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"ebbtide\" {counts}>\n  <testsuite name=\"scenarios\" {counts}>\n"
    );
    for case in cases {
        // Writing to a String cannot fail, here and below.
        let _ = match case {
            Case::Played { report, again } => played(&mut xml, report, again),
            Case::NotPlayed { scenario, engine, why } => writeln!(
                xml,
                "    <testcase classname=\"ebbtide.{}\" name=\"{}\" time=\"0\"><skipped message=\"{}\"/></testcase>",
                text(engine),
                text(scenario),
                text(why)
            ),
        };
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

fn played(xml: &mut String, report: &Report, again: &str) -> std::fmt::Result {
    let seed = report.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
    let name = text(&format!("{}{seed}", report.scenario));
    let (class, time) = (text(report.engine), report.wall.as_secs_f64());
    write!(xml, "    <testcase classname=\"ebbtide.{class}\" name=\"{name}\" time=\"{time:.3}\">")?;
    if !report.passed {
        let (element, kind, message) = reason(report);
        let whole = format!("{}again: {again}\n", report.to_text());
        let (kind, message, whole) = (text(&kind), text(&message), text(&whole));
        write!(xml, "\n      <{element} type=\"{kind}\" message=\"{message}\">{whole}</{element}>\n    ")?;
    }
    xml.push_str("</testcase>\n");
    Ok(())
}

/// Why a run did not pass: an error where it could not begin or did not show what it should; else the invariant, or the step.
fn reason(report: &Report) -> (&'static str, String, String) {
    if let Some(error) = &report.error {
        return ("error", "error".into(), error.clone());
    }
    if let Some(violation) = report.violations.first() {
        return ("failure", violation.invariant.clone(), violation.message.clone());
    }
    ("failure", "step".into(), report.failure().unwrap_or_default())
}

/// Text for XML 1.0, which has no control characters but tab and the ends of lines.
fn text(plain: &str) -> String {
    let known = |c: &char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    let kept: String = plain.chars().filter(known).filter(|c| !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
    // A newline in an attribute would be read as a space.
    escape(&kept).replace('\n', "&#10;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quick_xml::events::Event;

    use super::*;
    use crate::invariants::Violation;

    fn report(name: &str, passed: bool) -> Report {
        Report {
            scenario: name.into(),
            engine: "virtual",
            passed,
            steps: Vec::new(),
            violations: Vec::new(),
            error: None,
            interrupted: false,
            left: Vec::new(),
            seed: Some(7),
            digest: None,
            inputs: None,
            virtual_time: None,
            wall: Duration::from_millis(1500),
        }
    }

    #[test]
    fn a_case_for_each_run_and_failures_say_how_to_see_them_again() {
        let violation = Violation { invariant: "no-leak".into(), message: "volume <vol-1> & \"x\"\u{1b}[0m".into(), step: "s".into() };
        let reports = [
            report("fine", true),
            Report { violations: vec![violation], ..report("leaks", false) },
            Report { error: Some("no such zone".into()), ..report("broken", false) },
        ];
        let mut cases: Vec<Case> = reports
            .into_iter()
            .map(|report| Case::Played { again: format!("ebbtide run x/{}.yaml --seed 7", report.scenario), report })
            .collect();
        cases.push(Case::NotPlayed { scenario: "other".into(), engine: "virtual", why: "needs \"devices\"".into() });
        let xml = junit(&cases);
        let mut reader = quick_xml::Reader::from_str(&xml);
        let mut names = Vec::new();
        let attribute = |tag: &quick_xml::events::BytesStart<'_>, name: &str| {
            let found = tag.attributes().map(Result::unwrap).find(|attribute| attribute.key.as_ref() == name);
            found.map(|found| found.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap().into_owned()).unwrap_or_default()
        };
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) => match tag.name().as_ref() {
                    "testsuite" => {
                        let counts = ["tests", "failures", "errors", "skipped"].map(|name| attribute(&tag, name));
                        assert_eq!(counts, ["4", "1", "1", "1"]);
                    }
                    "testcase" => names.push(attribute(&tag, "name")),
                    "failure" => {
                        assert_eq!(attribute(&tag, "type"), "no-leak");
                        assert_eq!(attribute(&tag, "message"), "volume <vol-1> & \"x\"[0m");
                    }
                    "error" => assert_eq!(attribute(&tag, "message"), "no such zone"),
                    _ => {}
                },
                Event::Empty(tag) => assert_eq!(attribute(&tag, "message"), "needs \"devices\""),
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(names, ["fine seed 7", "leaks seed 7", "broken seed 7", "other"]);
        assert!(xml.contains("again: ebbtide run x/leaks.yaml --seed 7"));
        assert!(!xml.contains("again: ebbtide run x/fine"));
    }
}
