//! `ebbtide search`, `replay` and `trace`: what goes wrong on the storage path, found from nothing and played again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use scenarios::search::{self, Options, Trace};
use scenarios::world::Told;
use scenarios::{Report, Scenario};

use crate::args::Format;

/// Look for what goes wrong: random lives of pods and claims under random trouble, in virtual time, with every invariant watched.
///
/// The first run that fails is shrunk to the operations it needs, told in words, and written as a scenario and a trace:
///
///   ebbtide search --nodes 3 --volumes 4 --minutes 10
///   ebbtide replay search-17.trace.jsonl
///   ebbtide run search-17.yaml --live
#[derive(Args)]
pub struct SearchArgs {
    /// Most nodes.
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: usize,
    /// Most claims.
    #[arg(long, default_value_t = 4, value_name = "N")]
    volumes: usize,
    /// For how many minutes of virtual time things happen in a run.
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,
    /// The seeds to play: `1..100`, both ends count.
    #[arg(long, default_value = "1..10000", value_name = "A..B")]
    seeds: String,
    /// How many runs at a time; as many as there are cores when absent. The result does not depend on it.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    #[command(flatten)]
    part: crate::campaign::SeedArgs,
    /// Only these invariants, divided by commas (`ebbtide run --invariants` lists them).
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Without trouble: only what users do.
    #[arg(long)]
    no_faults: bool,
    /// The longest that shrinking may take, in seconds.
    #[arg(long, default_value_t = 60, value_name = "S")]
    shrink: u64,
    /// Draw what was found: one page for a browser.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Where the scenario and the trace are written.
    #[arg(long, default_value = ".", value_name = "DIR")]
    out: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Play a trace again, or the journals of a running ebbtide, and say whether it comes to the same end.
#[derive(Args)]
pub struct ReplayArgs {
    /// The file that `ebbtide search` or `ebbtide run --trace` wrote; or a journal, or the directory `journal` in the data directory of an
    /// `ebbtide up --journal`: then each machine is given what it was told, and must say, do and save the same.
    #[arg(value_name = "TRACE|JOURNAL|DIR")]
    trace: PathBuf,
    /// Draw what happens: one page for a browser, with a timeline and the same in words.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Work with traces.
#[derive(Args)]
pub struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Subcommand)]
enum TraceCommand {
    /// Show where two runs part.
    Diff { a: PathBuf, b: PathBuf },
    /// Tell a run in words.
    Show { trace: PathBuf },
}

impl SearchArgs {
    /// What is played, as on the command line.
    fn campaign(&self) -> String {
        let mut text = format!("search --nodes {} --volumes {} --minutes {}", self.nodes, self.volumes, self.minutes);
        if !self.only.is_empty() {
            text.push_str(" --only ");
            text.push_str(&self.only.join(","));
        }
        if self.no_faults {
            text.push_str(" --no-faults");
        }
        text
    }
}

pub fn search(args: &SearchArgs) -> anyhow::Result<ExitCode> {
    let seeds = args.part.of(&args.seeds)?;
    let options = Options {
        nodes: args.nodes,
        volumes: args.volumes,
        span: Duration::from_secs(args.minutes * 60),
        faults: !args.no_faults,
        invariants: (!args.only.is_empty()).then(|| args.only.clone()),
    };
    if args.nodes == 0 || args.volumes == 0 || args.minutes == 0 {
        bail!("a search needs at least one node, one volume and one minute");
    }
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let start = Instant::now();
    let bar = bar(seeds.count());
    let outcome = search::search(seeds.clone(), jobs, |seed| search::of_seed(seed, &options), |_| bar.inc(1));
    bar.finish_and_clear();
    let took = start.elapsed();
    let speed = outcome.virtual_time.as_secs_f64() / took.as_secs_f64().max(1e-9);
    let tally = outcome.tally(args.campaign(), &seeds, took);
    let Some((scenario, report)) = outcome.found else {
        match args.output {
            Format::Text => println!(
                "{} runs, nothing found, in {} ({} of virtual time, {speed:.0} times as fast as real)",
                outcome.played,
                scenarios::report::short(took),
                scenarios::report::short(outcome.virtual_time)
            ),
            Format::Json => {
                println!("{}", serde_json::json!({"played": outcome.played, "seconds": took.as_secs_f64(), "found": null, "tally": tally}));
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let shrinking = ProgressBar::new_spinner();
    shrinking.enable_steady_tick(Duration::from_millis(200));
    let shrunk = search::shrink(&scenario, &report, Duration::from_secs(args.shrink), |inputs| {
        shrinking.set_message(format!("shrinking: {inputs} operations left"));
    });
    shrinking.finish_and_clear();
    let seed = report.seed.unwrap_or_default();
    // Shrinking may have come upon another seed that needs less.
    let (trace, report) = Trace::record(&shrunk.scenario, shrunk.report.seed.unwrap_or(seed));
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let file = args.out.join(format!("search-{seed}.yaml"));
    let traced = args.out.join(format!("search-{seed}.trace.jsonl"));
    write(&file, &serde_yaml::to_string(&shrunk.scenario)?)?;
    write(&traced, &trace.to_lines()?)?;
    if let Some(file) = &args.report {
        picture(file, &trace, &report, &format!("ebbtide replay {}", traced.display()))?;
    }
    match args.output {
        Format::Text => {
            if tally.failed.len() > 1 {
                print!("{}", crate::campaign::words(&tally));
            }
            println!("seed {seed} after {} runs in {}:", outcome.played, scenarios::report::short(took));
            tell(&shrunk.scenario, &report, &trace.story);
            println!(
                "  {} operations, shrunk from {} in {} runs",
                search::inputs(&shrunk.scenario),
                search::inputs(&scenario),
                shrunk.runs
            );
            println!("  scenario: {}\n  again:    ebbtide replay {}", file.display(), traced.display());
        }
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "played": outcome.played, "seconds": took.as_secs_f64(), "found": {
                    "seed": seed, "operations": search::inputs(&shrunk.scenario), "shrunkFrom": search::inputs(&scenario),
                    "scenario": file, "trace": traced, "report": report,
                },
                "tally": tally,
            })
        ),
    }
    Ok(ExitCode::FAILURE)
}

pub fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    if args.trace.is_dir() || scenarios::journal::is_journal(&args.trace) {
        return crate::check::journals(&args.trace, args.output);
    }
    let recorded = read(&args.trace)?;
    let (again, report) = Trace::record(&recorded.head.scenario, recorded.head.seed);
    let same = again.head.digest == recorded.head.digest;
    if let Some(file) = &args.report {
        picture(file, &again, &report, &format!("ebbtide replay {}", args.trace.display()))?;
    }
    match args.output {
        Format::Json => println!("{}", serde_json::json!({"same": same, "report": report})),
        Format::Text => {
            tell(&recorded.head.scenario, &report, &again.story);
            println!("  digest {}: {}", again.head.digest, if same { "the same as recorded" } else { "NOT the one that was recorded" });
            if !same {
                println!(
                    "  recorded: {}; another version of ebbtide made it, or the run is not deterministic, which is a bug",
                    recorded.head.digest
                );
                part(&recorded.story, &again.story);
            }
        }
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub fn trace(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        TraceCommand::Show { trace } => {
            let trace = read(trace)?;
            trace.story.iter().for_each(line);
            Ok(ExitCode::SUCCESS)
        }
        TraceCommand::Diff { a, b } => {
            let (a, b) = (read(a)?, read(b)?);
            if part(&a.story, &b.story) {
                return Ok(ExitCode::FAILURE);
            }
            println!("the same {} lines", a.story.len());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints where two stories part; whether they do.
fn part(a: &[Told], b: &[Told]) -> bool {
    let Some((number, left, right)) = search::difference(a, b) else { return false };
    println!("  they part at line {number}:");
    let from = number.saturating_sub(4);
    a.iter().take(number - 1).skip(from).for_each(line);
    for (sign, told) in [("-", left), ("+", right)] {
        match told {
            Some(told) => println!("{sign} {}", words(told)),
            None => println!("{sign} (the end)"),
        }
    }
    true
}

/// The operations of a run and what they led to, in words.
fn tell(scenario: &Scenario, report: &Report, story: &[Told]) {
    print!("{}", report.to_text());
    // What came before the first fault or the last operations is the least worth reading.
    const MOST: usize = 40;
    let from = story.len().saturating_sub(MOST);
    if !report.violations.is_empty() {
        if from > 0 {
            println!("  … ({from} earlier lines: ebbtide trace show)");
        }
        story[from..].iter().for_each(line);
    }
    if let Some(expect) = scenario.expected() {
        println!("  expected: {} does not hold, because {}", expect.violated, expect.because);
    }
}

fn line(told: &Told) {
    println!("  {}", words(told));
}

fn words(told: &Told) -> String {
    let seconds = Duration::from_micros(told.at).as_secs_f64();
    format!("{seconds:>10.3} s  {:<34} {}", told.lane, told.what)
}

fn read(path: &Path) -> anyhow::Result<Trace> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Trace::parse(&text).with_context(|| format!("{} is no trace", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Draws a run.
pub fn picture(file: &Path, trace: &Trace, report: &Report, again: &str) -> anyhow::Result<()> {
    write(file, &scenarios::report::html::page(&trace.head.scenario, &trace.story, report, Some(again)))
}

/// Progress on runs.
pub fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {per_sec}, {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
