//! `ebbtide report`: what many runs gave, put together.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use scenarios::report::short;
use scenarios::search::{Seeds, Shard, Tally};
use serde::Deserialize;

use crate::args::Format;

/// Which seeds a command plays.
#[derive(Args, Clone)]
pub struct SeedArgs {
    /// Play only this part of the seeds, numbered from 0: `0/8` to `7/8`. `ebbtide report merge` puts the reports together.
    #[arg(long, value_name = "INDEX/COUNT")]
    shard: Option<Shard>,
    /// Play all seeds, whatever fails; else none after the first that fails.
    #[arg(long)]
    keep_going: bool,
}

impl SeedArgs {
    /// Whether anything is asked for.
    pub fn is_given(&self) -> bool {
        self.shard.is_some() || self.keep_going
    }

    /// The seeds of a range such as `1..100`.
    pub fn of(&self, range: &str) -> anyhow::Result<Seeds> {
        Ok(Seeds { range: crate::run::range(range)?, shard: self.shard.unwrap_or(Shard::ALL), keep_going: self.keep_going })
    }
}

/// Work with reports.
#[derive(Args)]
pub struct ReportArgs {
    #[command(subcommand)]
    command: ReportCommand,
}

#[derive(Subcommand)]
enum ReportCommand {
    /// Put the reports of all shards of a campaign together: what `-o json` printed, in files or one after the other.
    ///
    ///   ebbtide search --seeds 1..1000 --keep-going --shard 0/2 -o json > 0.json
    ///   ebbtide search --seeds 1..1000 --keep-going --shard 1/2 -o json > 1.json
    ///   ebbtide report merge 0.json 1.json
    ///
    /// Exits with 1 when a run failed.
    #[command(verbatim_doc_comment)]
    Merge {
        /// The reports; `-` reads them from the standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
}

pub fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let ReportCommand::Merge { files, output } = &args.command;
    let mut parts = Vec::new();
    for file in files {
        let text = if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        parts.extend(read(&text).with_context(|| format!("{} holds no report of a campaign", file.display()))?);
    }
    let tally = Tally::merge(parts)?;
    match output {
        Format::Json => println!("{}", serde_json::json!({"tally": tally})),
        Format::Text => print!("{}", words(&tally)),
    }
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tallies in what `-o json` printed. A pod's log may have other lines around them.
fn read(text: &str) -> anyhow::Result<Vec<Tally>> {
    #[derive(Deserialize)]
    struct Line {
        tally: Tally,
    }
    let lines = text.lines().enumerate().filter(|(_, line)| line.starts_with('{'));
    let tallies: Vec<Tally> = lines
        .map(|(number, line)| serde_json::from_str(line).map(|line: Line| line.tally).with_context(|| format!("line {}", number + 1)))
        .collect::<Result<_, _>>()?;
    if tallies.is_empty() {
        bail!("none of its lines is a JSON object; was it made with -o json?");
    }
    Ok(tallies)
}

/// A tally for people: the failures by what failed, each with the command that shows it again.
pub fn words(tally: &Tally) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let time = std::time::Duration::from_secs_f64(tally.virtual_seconds.max(0.0));
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} --seeds {}: {} runs, {} failed, {} of virtual time, digest {}",
        tally.campaign,
        tally.seeds,
        tally.played,
        tally.failed.len(),
        short(time),
        tally.digest
    );
    let mut sorts: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    tally.failed.iter().for_each(|failed| sorts.entry(&failed.what).or_default().push(failed));
    for (what, failed) in sorts {
        let Some(first) = failed.first() else { continue };
        let seeds: Vec<String> = failed.iter().take(10).map(|failed| failed.seed.to_string()).collect();
        let more = if failed.len() > 10 { format!(" and {} more", failed.len() - 10) } else { String::new() };
        let _ = writeln!(text, "  {what}: {} runs, seeds {}{more}", failed.len(), seeds.join(", "));
        let _ = writeln!(text, "    {}", first.message.replace('\n', "\n    "));
        let _ = writeln!(text, "    again: ebbtide {} --seeds {}..{}", tally.campaign, first.seed, first.seed);
    }
    text
}
