//! `ebbtide run`: a scenario in virtual time or on real devices.

use std::process::ExitCode;

use anyhow::{Context, bail};
use scenarios::invariants::Reach;
use scenarios::language::EngineName;
use scenarios::report::{OpReport, StepReport, Verdict};
use scenarios::search::Trace;
use scenarios::{Observer, Report, Scenario};

use crate::args::{Format, RunArgs};
use crate::state::Up;

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
    let reports = match (&all[..], &args.seeds) {
        ([scenario], Some(range)) => return seeds(scenario, range, args),
        (_, Some(_)) => bail!("--seeds takes one scenario, not {}", all.len()),
        (_, None) if args.part.is_given() => bail!("--shard and --keep-going go with --seeds"),
        ([scenario], None) => vec![one(scenario, args)?],
        (_, None) => several(&all, args)?,
    };
    match args.data.output {
        Format::Json if all.len() == 1 => println!("{}", serde_json::to_string_pretty(&reports[0])?),
        Format::Json => println!("{}", serde_json::to_string_pretty(&reports)?),
        // Told already: a live run step by step, several line by line.
        Format::Text if args.live || all.len() > 1 => {}
        Format::Text => print!("{}", reports[0].to_text()),
    }
    if let Some(file) = &args.junit {
        std::fs::write(file, scenarios::report::junit(&reports, again)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let failed = reports.iter().any(|report| !report.passed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The command that shows a report's run again.
fn again(report: &Report) -> String {
    match report.seed {
        Some(seed) => format!("ebbtide run {} --seed {seed}", report.scenario),
        None => format!("ebbtide run {} --live", report.scenario),
    }
}

fn one(scenario: &Scenario, args: &RunArgs) -> anyhow::Result<Report> {
    let wanted = if args.live { EngineName::Live } else { EngineName::Sim };
    if !scenario.plays_in(wanted) {
        let (only, how) = if args.live { ("in virtual time", "without --live") } else { ("on real devices", "with --live") };
        bail!("{} can be played only {only}; run it {how}", scenario.metadata.name);
    }
    if args.live {
        return live(scenario, args);
    }
    let seed = args.seed.unwrap_or(scenario.spec.seed);
    if args.trace.is_none() && args.report.is_none() {
        return Ok(scenarios::world::run(scenario, seed));
    }
    let (trace, report) = Trace::record(scenario, seed);
    if let Some(file) = &args.trace {
        std::fs::write(file, trace.to_lines()?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.report {
        crate::search::picture(file, &trace, &report, &again(&report))?;
    }
    Ok(report)
}

/// Plays many scenarios, each told in one line.
fn several(all: &[Scenario], args: &RunArgs) -> anyhow::Result<Vec<Report>> {
    if args.trace.is_some() || args.report.is_some() {
        bail!("--trace and --report take one scenario, not {}", all.len());
    }
    let wanted = if args.live { EngineName::Live } else { EngineName::Sim };
    let width = all.iter().map(|scenario| scenario.metadata.name.chars().count()).max().unwrap_or(0);
    let text = args.data.output == Format::Text;
    let mut reports = Vec::new();
    let mut skipped = 0;
    for scenario in all {
        if !scenario.plays_in(wanted) {
            skipped += 1;
            continue;
        }
        let report = one(scenario, args)?;
        if text {
            let verdict = match (&scenario.spec.expect, report.passed) {
                (Some(expect), true) => format!("ok, {} violated as expected", expect.violated),
                (None, true) => "ok".into(),
                (_, false) => "FAILED".into(),
            };
            let time = report.virtual_time.map(|time| format!("{} virtual, ", scenarios::report::short(time))).unwrap_or_default();
            println!("{:<width$}  {verdict} ({time}{} real)", scenario.metadata.name, scenarios::report::short(report.wall));
            if !report.passed {
                print!("{}", report.to_text());
            }
        }
        reports.push(report);
    }
    if text {
        let failed = reports.iter().filter(|report| !report.passed).count();
        let skipped = if skipped > 0 { format!(", {skipped} only for the other world") } else { String::new() };
        println!("{} passed, {failed} failed{skipped}", reports.len() - failed);
    }
    Ok(reports)
}

fn invariants(format: Format) -> anyhow::Result<ExitCode> {
    let seen = |reach: Reach| match reach {
        Reach::Api => "everywhere".to_owned(),
        Reach::Virtual => "in virtual time".to_owned(),
        Reach::Untold(why) => format!("not yet: {why}"),
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
        let scenario = scenarios::load(name)?;
        rows.push(vec![(*name).to_owned(), scenario.spec.description.clone()]);
    }
    match format {
        Format::Text => print!("{}", crate::output::table(&["NAME", "WHAT"], &rows)),
        Format::Json => {
            let all: Vec<_> = rows.iter().map(|row| serde_json::json!({"name": row[0], "description": row[1]})).collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn live(scenario: &Scenario, args: &RunArgs) -> anyhow::Result<Report> {
    let places = args.data.places()?;
    let target = Up::running(&places)?.target(&places);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let quiet = args.data.output == Format::Json || args.scenarios.len() > 1;
    Ok(runtime.block_on(async {
        match quiet {
            true => scenarios::live::run(scenario, &target, &mut scenarios::Silent).await,
            false => scenarios::live::run(scenario, &target, &mut Teller).await,
        }
    }))
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
fn seeds(scenario: &Scenario, text: &str, args: &RunArgs) -> anyhow::Result<ExitCode> {
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
                println!("  again: ebbtide run {} --seed {}", args.scenarios.join(" "), report.seed.unwrap_or_default());
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

/// Tells a live run on the terminal while it goes on.
pub struct Teller;

impl Observer for Teller {
    fn step_started(&mut self, number: usize, of: usize, name: &str) {
        println!("  [{number}/{of}] {name}");
    }

    fn operation_done(&mut self, operation: &OpReport) {
        let sign = if operation.failure.is_some() { "✗" } else { "·" };
        println!("      {sign} {} ({})", operation.what, scenarios::report::short(operation.took));
        for detail in &operation.details {
            println!("          {}", detail.replace('\n', "\n          "));
        }
        if let Some(failure) = &operation.failure {
            println!("        {}", failure.replace('\n', "\n        "));
        }
    }

    fn step_done(&mut self, step: &StepReport) {
        if step.verdict == Verdict::Failed {
            println!("      FAILED after {}", scenarios::report::short(step.took));
        }
    }

    fn note(&mut self, text: &str) {
        println!("      {text}");
    }
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
