//! Runs as a JUnit file, as CI systems read it: a test case for each run.

use std::fmt::Write as _;

use super::Report;
use super::html::escape;

/// The file. `again` gives the command that shows a run again.
pub fn junit(reports: &[Report], again: impl Fn(&Report) -> String) -> String {
    let failures = reports.iter().filter(|report| !report.passed && report.error.is_none()).count();
    let errors = reports.iter().filter(|report| !report.passed && report.error.is_some()).count();
    let time: f64 = reports.iter().map(|report| report.wall.as_secs_f64()).sum();
    let counts = format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\" time=\"{time:.3}\"", reports.len());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"ebbtide\" {counts}>\n  <testsuite name=\"scenarios\" {counts}>\n"
    );
    for report in reports {
        case(&mut xml, report, &again);
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

fn case(xml: &mut String, report: &Report, again: &impl Fn(&Report) -> String) {
    let seed = report.seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
    let name = text(&format!("{}{seed}", report.scenario));
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        xml,
        "    <testcase classname=\"ebbtide.{}\" name=\"{name}\" time=\"{:.3}\">",
        text(report.engine),
        report.wall.as_secs_f64()
    );
    if !report.passed {
        let (element, kind, message) = reason(report);
        let whole = format!("{}again: {}\n", report.to_text(), again(report));
        let (kind, message, whole) = (text(&kind), text(&message), text(&whole));
        let _ = write!(xml, "\n      <{element} type=\"{kind}\" message=\"{message}\">{whole}</{element}>\n    ");
    }
    xml.push_str("</testcase>\n");
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
        let xml = junit(&reports, |report| format!("ebbtide run {} --seed 7", report.scenario));
        let mut reader = quick_xml::Reader::from_str(&xml);
        let mut names = Vec::new();
        let attribute = |tag: &quick_xml::events::BytesStart<'_>, name: &str| {
            let found = tag.attributes().map(Result::unwrap).find(|attribute| attribute.key.as_ref() == name);
            found.map(|found| found.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap().into_owned()).unwrap_or_default()
        };
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) => match tag.name().as_ref() {
                    "testsuite" => assert_eq!((attribute(&tag, "tests"), attribute(&tag, "failures")), ("3".into(), "1".into())),
                    "testcase" => names.push(attribute(&tag, "name")),
                    "failure" => {
                        assert_eq!(attribute(&tag, "type"), "no-leak");
                        assert_eq!(attribute(&tag, "message"), "volume <vol-1> & \"x\"[0m");
                    }
                    "error" => assert_eq!(attribute(&tag, "message"), "no such zone"),
                    _ => {}
                },
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(names, ["fine seed 7", "leaks seed 7", "broken seed 7"]);
        assert!(xml.contains("again: ebbtide run leaks --seed 7"));
        assert!(!xml.contains("again: ebbtide run fine"));
    }
}
