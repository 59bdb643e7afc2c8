//! Many scenarios, each told in one line.

use std::time::Duration;

use anyhow::bail;
use scenarios::report::{Case, short};
use scenarios::{Report, Scenario};

use super::live::{LONG, Live, Place, takes};
use crate::args::{Format, RunArgs};

/// Plays them one after the other.
pub fn several(all: &[(String, Scenario)], args: &RunArgs) -> anyhow::Result<Vec<Case>> {
    if args.trace.is_some() || args.report.is_some() {
        bail!("--trace and --report take one scenario, not {}", all.len());
    }
    let engine = if args.live { "live" } else { "virtual" };
    let live = if args.live { Some(Live::new(args)?) } else { None };
    let width = all.iter().map(|(_, scenario)| scenario.metadata.name.chars().count()).max().unwrap_or(0);
    let text = args.data.output == Format::Text;
    let (mut cases, mut count) = (Vec::new(), Count::default());
    for (origin, scenario) in all {
        let name = &scenario.metadata.name;
        let mut not_played = |why: String| {
            if text {
                println!("{name:<width$}  not played: {why}");
            }
            cases.push(Case::NotPlayed { scenario: name.clone(), engine, why });
        };
        let here = || live.as_ref().and_then(|live| live.lacks(scenario));
        if let Some(why) = scenario.why_not_in(super::world(args)).or_else(here) {
            count.elsewhere += 1;
            not_played(why);
            continue;
        }
        let case = match &live {
            None => super::virtually(origin, scenario, args)?,
            Some(live) if live.is_stopped() => {
                count.not_begun += 1;
                cases.push(Case::NotPlayed { scenario: name.clone(), engine, why: "interrupted before it began".into() });
                continue;
            }
            Some(live) => {
                let takes = takes(scenario);
                if let Some(long) = takes.filter(|takes| *takes > LONG && !args.long && !args.scenarios.contains(origin)) {
                    count.long += 1;
                    count.long_time += long;
                    not_played(format!("it takes about {}; --long plays it", short(long)));
                    continue;
                }
                let mut report = live.run(scenario, &mut Place::new(name, takes, !text));
                report.virtual_time = takes;
                Case::Played { again: super::again(origin, &report, args), report }
            }
        };
        if let Case::Played { report, again } = &case {
            count.played(report);
            if text {
                tell(scenario, report, again, width);
            }
        }
        cases.push(case);
    }
    if text {
        println!("{}", count.text(args.live));
    }
    Ok(cases)
}

fn tell(scenario: &Scenario, report: &Report, again: &str, width: usize) {
    let verdict = match (scenario.expected(), report.passed) {
        (Some(expect), true) => format!("ok, {} violated as expected", expect.violated),
        (None, true) => "ok".into(),
        (_, false) if report.interrupted => "interrupted".into(),
        (_, false) => "FAILED".into(),
    };
    let time = report.virtual_time.map(|time| format!("{} virtual, ", short(time))).unwrap_or_default();
    println!("{:<width$}  {verdict} ({time}{} real)", report.scenario, short(report.wall));
    if !report.passed {
        println!("{}  again: {again}", report.to_text());
    }
}

/// What became of them.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    interrupted: usize,
    /// Of another world.
    elsewhere: usize,
    long: usize,
    long_time: Duration,
    not_begun: usize,
    wall: Duration,
}

impl Count {
    fn played(&mut self, report: &Report) {
        self.wall += report.wall;
        match (report.passed, report.interrupted) {
            (true, _) => self.passed += 1,
            (false, true) => self.interrupted += 1,
            (false, false) => self.failed += 1,
        }
    }

    fn text(&self, live: bool) -> String {
        let mut text = format!("{} passed, {} failed", self.passed, self.failed);
        let world = if live { "not on real devices" } else { "not in virtual time" };
        let long = format!("too long without --long ({} in all)", short(self.long_time));
        for (count, what) in [(self.interrupted, "interrupted"), (self.not_begun, "not begun"), (self.elsewhere, world), (self.long, &long)]
        {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if live {
            text.push_str(&format!("; {} of real time", short(self.wall)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_became_of_all() {
        let count = Count { passed: 3, elsewhere: 2, ..Count::default() };
        assert_eq!(count.text(false), "3 passed, 0 failed, 2 not in virtual time");
        let (minute, long_time) = (Duration::from_secs(60), Duration::from_secs(3900));
        let count = Count { passed: 1, failed: 1, interrupted: 1, elsewhere: 2, long: 3, long_time, not_begun: 4, wall: minute };
        let wanted = "1 passed, 1 failed, 1 interrupted, 4 not begun, 2 not on real devices, 3 too long without --long (1 h 5 m in all); \
                      1 m 0 s of real time";
        assert_eq!(count.text(true), wanted);
    }
}
