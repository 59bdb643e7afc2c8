//! `ebbtide run`: a scenario in virtual time or on real devices.

mod live;
mod several;

use std::process::ExitCode;

use anyhow::{Context, bail};
use scenarios::invariants::Reach;
use scenarios::language::EngineName;
use scenarios::report::Case;
use scenarios::search::Trace;
use scenarios::{Report, Scenario, Silent};

use crate::args::{Format, RunArgs};
pub use live::Teller;
use live::{INTERRUPTED, Live};

pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if args.schema {
        println!("{}", serde_json::to_string_pretty(&scenarios::schema())?);
        return Ok(ExitCode::SUCCESS);
    }
    if args.list {
        return list(args.data.output);
    }
    if args.invariants {
        return invariants(args.data.output);
    }
    if args.world {
        print!("{}", scenarios::library::LIVE_WORLD);
        return Ok(ExitCode::SUCCESS);
    }
    if args.scenarios.is_empty() {
        bail!("which scenario? `ebbtide run --list` shows the library");
    }
    let mut all = Vec::new();
    for name in &args.scenarios {
        all.extend(scenarios::load_all(name)?);
    }
    if let Some(as_of) = &args.as_of {
        all.iter_mut().for_each(|(_, scenario)| scenario.set_as_of(as_of.clone()));
    }
    let cases = match (&all[..], &args.seeds) {
        ([(origin, scenario)], Some(range)) => return seeds(origin, scenario, range, args),
        (_, Some(_)) => bail!("--seeds takes one scenario, not {}", all.len()),
        (_, None) if args.part.is_given() => bail!("--shard and --keep-going go with --seeds"),
        ([(origin, scenario)], None) => vec![one(origin, scenario, args)?],
        (_, None) => several::several(&all, args)?,
    };
    match (args.data.output, &cases[..]) {
        (Format::Json, [case]) => println!("{}", serde_json::to_string_pretty(&json(case)?)?),
        (Format::Json, _) => println!("{}", serde_json::to_string_pretty(&cases.iter().map(json).collect::<Result<Vec<_>, _>>()?)?),
        // Told already: a live run step by step, several line by line.
        (Format::Text, [Case::Played { report, .. }]) if !args.live => print!("{}", report.to_text()),
        (Format::Text, _) => {}
    }
    if let Some(file) = &args.junit {
        std::fs::write(file, scenarios::report::junit(&cases)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let any = |of: fn(&Report) -> bool| cases.iter().any(|case| matches!(case, Case::Played { report, .. } if of(report)));
    Ok(match any(|report| report.interrupted) {
        true => ExitCode::from(INTERRUPTED),
        false if any(|report| !report.passed) => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn json(case: &Case) -> serde_json::Result<serde_json::Value> {
    match case {
        Case::Played { report, .. } => serde_json::to_value(report),
        Case::NotPlayed { scenario, engine, why } => Ok(serde_json::json!({"scenario": scenario, "engine": engine, "notPlayed": why})),
    }
}

/// The command that shows a run again; `origin` is the scenario's file, or its name in the library.
fn again(origin: &str, report: &Report, args: &RunArgs) -> String {
    let as_of = args.as_of.as_ref().map(|as_of| format!(" --as-of '{as_of}'")).unwrap_or_default();
    match report.seed {
        Some(seed) => format!("ebbtide run {origin} --seed {seed}{as_of}"),
        None => format!("ebbtide run {origin} --live"),
    }
}

fn one(origin: &str, scenario: &Scenario, args: &RunArgs) -> anyhow::Result<Case> {
    if let Some(why) = scenario.why_not_in(world(args)) {
        let (place, how) = if args.live { ("on real devices", "without --live") } else { ("in virtual time", "with --live") };
        let other = if args.live { EngineName::Sim } else { EngineName::Live };
        let how = if scenario.plays_in(other) { format!("; run it {how}") } else { String::new() };
        bail!("{} cannot be played {place}: {why}{how}", scenario.metadata.name);
    }
    if !args.live {
        return virtually(origin, scenario, args);
    }
    let live = Live::new(args)?;
    if let Some(why) = live.lacks(scenario) {
        bail!("{} cannot be played here: {why}", scenario.metadata.name);
    }
    let report = match args.data.output {
        Format::Json => live.run(scenario, &mut Silent),
        Format::Text => live.run(scenario, &mut Teller),
    };
    if args.data.output == Format::Text {
        tell_end(&report);
    }
    Ok(Case::Played { again: again(origin, &report, args), report })
}

/// The end of a live run, whose steps were told as they went.
fn tell_end(report: &Report) {
    for violation in &report.violations {
        println!("  VIOLATED {} after `{}`: {}", violation.invariant, violation.step, violation.message);
    }
    if let Some(error) = &report.error {
        println!("  error: {error}");
    }
    for left in &report.left {
        println!("  LEFT BEHIND {left}");
    }
    println!("  {} in {}", report.verdict(), scenarios::report::short(report.wall));
}

fn world(args: &RunArgs) -> EngineName {
    if args.live { EngineName::Live } else { EngineName::Sim }
}

fn virtually(origin: &str, scenario: &Scenario, args: &RunArgs) -> anyhow::Result<Case> {
    let played = |report: Report| {
        let again = again(origin, &report, args);
        Case::Played { report, again }
    };
    let seed = args.seed.unwrap_or(scenario.spec.seed);
    if args.trace.is_none() && args.report.is_none() {
        return Ok(played(scenarios::world::run(scenario, seed)));
    }
    let (trace, report) = Trace::record(scenario, seed);
    if let Some(file) = &args.trace {
        std::fs::write(file, trace.to_lines()?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.report {
        crate::search::picture(file, &trace, &report, &again(origin, &report, args))?;
    }
    Ok(played(report))
}

fn invariants(format: Format) -> anyhow::Result<ExitCode> {
    let seen = |reach: Reach| match reach {
        Reach::Api => "everywhere".to_owned(),
        Reach::Virtual => "in virtual time".to_owned(),
        Reach::Nowhere(why) => format!("not here: {why}"),
    };
    let all = scenarios::invariants::all();
    match format {
        Format::Text => {
            let rows: Vec<_> = all.iter().map(|row| vec![row.id.into(), row.name.into(), seen(row.reach), row.says.into()]).collect();
            print!("{}", crate::output::table(&["ID", "NAME", "SEEN", "WHAT MUST HOLD"], &rows));
        }
        Format::Json => {
            let rows: Vec<_> = all
                .iter()
                .map(|row| serde_json::json!({"id": row.id, "name": row.name, "seen": seen(row.reach), "says": row.says}))
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(format: Format) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for (name, _) in scenarios::library() {
        rows.push((*name, scenarios::load(name)?));
    }
    match format {
        Format::Text => {
            let rows: Vec<_> = rows.iter().map(|(name, scenario)| vec![(*name).to_owned(), scenario.spec.description.clone()]).collect();
            print!("{}", crate::output::table(&["NAME", "WHAT"], &rows));
        }
        Format::Json => {
            let all: Vec<_> = rows
                .iter()
                .map(|(name, scenario)| {
                    let not_virtual = scenario.why_not_in(EngineName::Sim);
                    serde_json::json!({"name": name, "description": scenario.spec.description, "notVirtual": not_virtual})
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `1..100`: both ends count.
pub fn range(text: &str) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..=to.trim_start_matches('=').parse().ok()?));
    match parsed {
        Some(range) if !range.is_empty() => Ok(range),
        _ => bail!("--seeds takes a range like 1..100, not {text}"),
    }
}

/// One scenario with many seeds, until one fails.
fn seeds(origin: &str, scenario: &Scenario, text: &str, args: &RunArgs) -> anyhow::Result<ExitCode> {
    if let Some(why) = scenario.why_not_in(EngineName::Sim) {
        bail!("{} cannot be played in virtual time: {why}", scenario.metadata.name);
    }
    let seeds = args.part.of(text)?;
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let start = std::time::Instant::now();
    let bar = crate::search::bar(seeds.count());
    let outcome = scenarios::search::search(seeds.clone(), jobs, |_| scenario.clone(), |_| bar.inc(1));
    bar.finish_and_clear();
    let tally = outcome.tally(format!("run {}", args.scenarios.join(" ")), &seeds, start.elapsed());
    let failed = outcome.found.as_ref().map(|(_, report)| report);
    match args.data.output {
        Format::Json => {
            let name = &scenario.metadata.name;
            println!("{}", serde_json::json!({"scenario": name, "played": outcome.played, "failed": failed, "tally": tally}));
        }
        Format::Text => {
            if let Some(report) = failed {
                print!("{}", report.to_text());
                println!("  again: {}", again(origin, report, args));
            }
            let verdict = match tally.failed.len() {
                0 => "all passed".to_owned(),
                1 => "one failed".to_owned(),
                failed => format!("{failed} failed"),
            };
            println!("{}: {} runs, {verdict}", scenario.metadata.name, outcome.played);
            if tally.failed.len() > 1 {
                print!("{}", crate::campaign::words(&tally));
            }
        }
    }
    Ok(if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_range_has_two_ends() {
        assert_eq!(super::range("1..3").unwrap().collect::<Vec<_>>(), [1, 2, 3]);
        for bad in ["", "5", "3..1", "a..b"] {
            assert!(super::range(bad).is_err(), "{bad}");
        }
    }
}
