//! `ebbtide run`: a scenario in virtual time or on real devices.

use std::process::ExitCode;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use scenarios::report::{OpReport, StepReport, Verdict};
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
    let name = args.scenario.as_deref().context("which scenario? `ebbtide run --list` shows the library")?;
    let scenario = scenarios::load(name)?;
    let reports = match (&args.seeds, args.live) {
        (Some(range), _) => many(&scenario, range)?,
        (None, true) => vec![live(&scenario, args)?],
        (None, false) => vec![scenarios::world::run(&scenario, args.seed.unwrap_or(scenario.spec.seed))],
    };
    match args.data.output {
        Format::Json if args.seeds.is_none() => println!("{}", serde_json::to_string_pretty(&reports[0])?),
        Format::Json => println!("{}", serde_json::to_string_pretty(&reports)?),
        // A live run was told step by step already.
        Format::Text if args.live => {}
        Format::Text if args.seeds.is_none() => print!("{}", reports[0].to_text()),
        Format::Text => summary(&scenario, &reports),
    }
    let failed = reports.iter().any(|report| !report.passed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
    let up = Up::running(&args.data.places()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let secret = std::env::var("EBBTIDE_SECRET_KEY").unwrap_or_else(|_| "test".into());
    let target = scenarios::live::Target {
        aws_endpoint: up.endpoint(),
        region: up.region.clone(),
        kubeconfig: up.kubeconfig,
        credentials: (up.access_key, secret),
    };
    let quiet = args.data.output == Format::Json;
    Ok(runtime.block_on(async {
        match quiet {
            true => scenarios::live::run(scenario, &target, &mut scenarios::Silent).await,
            false => scenarios::live::run(scenario, &target, &mut Teller).await,
        }
    }))
}

/// `1..100`: both ends count.
fn range(text: &str) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..=to.trim_start_matches('=').parse().ok()?));
    match parsed {
        Some(range) if !range.is_empty() => Ok(range),
        _ => bail!("--seeds takes a range like 1..100, not {text}"),
    }
}

fn many(scenario: &Scenario, text: &str) -> anyhow::Result<Vec<Report>> {
    let range = range(text)?;
    let bar = ProgressBar::new(range.end() - range.start() + 1).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let reports = range
        .map(|seed| {
            bar.inc(1);
            scenarios::world::run(scenario, seed)
        })
        .collect();
    bar.finish_and_clear();
    Ok(reports)
}

fn summary(scenario: &Scenario, reports: &[Report]) {
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.passed).collect();
    if let Some(first) = failed.first() {
        print!("{}", first.to_text());
        println!("  again: ebbtide run {} --seed {}", scenario.metadata.name, first.seed.unwrap_or_default());
    }
    println!("{}: {} passed, {} failed", scenario.metadata.name, reports.len() - failed.len(), failed.len());
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
