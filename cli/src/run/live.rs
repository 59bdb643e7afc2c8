//! Live runs: who watches, what ends them, and how long they take.

use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use scenarios::language::EngineName;
use scenarios::live::{Stop, Target};
use scenarios::report::{OpReport, StepReport, Verdict, short};
use scenarios::{Observer, Report, Scenario};

use crate::args::RunArgs;
use crate::state::Up;
use crate::up::Signals;

/// What takes longer is played on real devices only where it is asked for.
pub const LONG: Duration = Duration::from_secs(5 * 60);

/// The exit code of a run that Ctrl-C ended, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// A running ebbtide to play on.
pub struct Live {
    runtime: tokio::runtime::Runtime,
    target: Target,
    stop: Stop,
}

impl Live {
    /// From here on Ctrl-C ends a run in order, and a second one at once.
    pub fn new(args: &RunArgs) -> anyhow::Result<Self> {
        let places = args.data.places()?;
        let target = Up::running(&places)?.target(&places);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the threads")?;
        let stop = Stop::default();
        let signals = runtime.block_on(async { Signals::new() })?;
        runtime.spawn(end_on(signals, stop.clone()));
        Ok(Self { runtime, target, stop })
    }

    pub fn run(&self, scenario: &Scenario, observer: &mut dyn Observer) -> Report {
        self.runtime.block_on(scenarios::live::run(scenario, &self.target, &self.stop, observer))
    }

    /// What a scenario needs that this ebbtide has not got.
    pub fn lacks(&self, scenario: &Scenario) -> Option<String> {
        self.target.lacks(scenario)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }
}

async fn end_on(mut signals: Signals, stop: Stop) {
    signals.wait().await;
    stop.stop();
    eprintln!("interrupted: what the run made is taken down; Ctrl-C again leaves it");
    signals.wait().await;
    eprintln!("interrupted again: what the run made stays, and its faults are at work (`ebbtide reset` takes all away)");
    std::process::exit(INTERRUPTED.into());
}

/// How long a scenario takes, as virtual time shows in a moment; not known of one that is played on real devices only.
pub fn takes(scenario: &Scenario) -> Option<Duration> {
    if !scenario.plays_in(EngineName::Sim) {
        return None;
    }
    scenarios::world::run(scenario, scenario.spec.seed).virtual_time
}

/// Tells a live run on the terminal while it goes on.
pub struct Teller;

impl Observer for Teller {
    fn step_started(&mut self, number: usize, of: usize, name: &str) {
        println!("  [{number}/{of}] {name}");
    }

    fn operation_done(&mut self, operation: &OpReport) {
        let sign = if operation.failure.is_some() { "✗" } else { "·" };
        println!("      {sign} {} ({})", operation.what, short(operation.took));
        for detail in &operation.details {
            println!("          {}", detail.replace('\n', "\n          "));
        }
        if let Some(failure) = &operation.failure {
            println!("        {}", failure.replace('\n', "\n        "));
        }
    }

    fn step_done(&mut self, step: &StepReport) {
        if step.verdict == Verdict::Failed {
            println!("      FAILED after {}", short(step.took));
        }
    }

    fn note(&mut self, text: &str) {
        println!("      {text}");
    }
}

/// Shows on a terminal where one of many live runs is.
pub struct Place {
    bar: ProgressBar,
    name: String,
    /// Where only the result is printed, for programs.
    quiet: bool,
}

impl Place {
    pub fn new(name: &str, takes: Option<Duration>, quiet: bool) -> Self {
        // Drawn on the standard error output, and only where that is a terminal.
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let of = takes.map(|takes| format!(" of about {}", short(takes))).unwrap_or_default();
        // The template is fixed, and good.
        if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {{msg}} ({{elapsed}}{of})")) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, name: name.to_owned(), quiet }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Place {
    fn step_started(&mut self, number: usize, of: usize, name: &str) {
        self.bar.set_message(format!("{} [{number}/{of}] {name}", self.name));
    }

    fn note(&mut self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| println!("  {}: {text}", self.name));
        }
    }
}
