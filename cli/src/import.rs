//! `ebbtide import`: records of an incident in the field become a scenario.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use scenarios::import::{Imported, Options, Source};

use crate::args::Format;

/// Turn records of an incident into a scenario with the same order and timing.
///
/// Takes CloudTrail records (the S3 objects, packed or not; `aws cloudtrail lookup-events`; EventBridge events; JSON lines), Kubernetes
/// audit logs (JSON lines, or as CloudWatch gives them) and `kubectl get events -A -o json`, several together. What people and tools did
/// is done again; controllers, kubelets and drivers do theirs by themselves, and their failures become faults. What the records do not
/// say, and what was assumed in its place, is told on stderr and stands at the head of the file.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  kubectl get events -A -o json >events.json
  ebbtide import audit.log trail.json.gz events.json --to incident.yaml
  ebbtide run incident.yaml --seeds 1..100")]
pub struct ImportArgs {
    /// Files of records; `-`: standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where the scenario goes; to stdout when absent.
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// The scenario's name; when absent, that of its file, or `incident`.
    #[arg(long)]
    pub name: Option<String>,
    /// Require at the end of the scenario that the same warnings came.
    #[arg(long)]
    pub expect: bool,
    /// Keep account ids, addresses, names of nodes and environment variables of pods.
    #[arg(long)]
    pub no_redact: bool,
    /// How to print: `json` gives a summary, and needs --to for the scenario.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
}

pub fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    if args.output == Format::Json && args.to.is_none() {
        bail!("-o json prints the summary; say with --to where the scenario goes");
    }
    let mut files = Vec::new();
    for path in &args.files {
        let mut bytes = Vec::new();
        let read = match path.to_str() {
            Some("-") => std::io::stdin().read_to_end(&mut bytes),
            _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
        };
        read.with_context(|| format!("cannot read {}", path.display()))?;
        files.push((path.display().to_string(), bytes));
    }
    let sources: Vec<Source<'_>> = files.iter().map(|(name, bytes)| Source { name, bytes }).collect();
    let stem = args.to.as_deref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_else(|| "incident".into());
    let options = Options { name, redact: !args.no_redact, expect: args.expect };
    let imported = scenarios::import::import(&sources, &options)?;
    let yaml = imported.to_yaml()?;
    match &args.to {
        Some(path) => std::fs::write(path, yaml).with_context(|| format!("cannot write {}", path.display()))?,
        None => std::io::stdout().write_all(yaml.as_bytes())?,
    }
    match args.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&imported)?),
        Format::Text => tell(&imported, args),
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(imported: &Imported, args: &ImportArgs) {
    for unknown in &imported.unknown {
        let from = if unknown.record.is_empty() { String::new() } else { format!("{}: ", unknown.record) };
        eprintln!("not known: {from}{}", unknown.what);
    }
    for (why, count) in &imported.left_out {
        eprintln!("not played: {count} × {why}");
    }
    let span = scenarios::report::short(std::time::Duration::from_secs_f64(imported.seconds.max(0.0)));
    eprintln!("{} records: {} operations and {} faults in {span}", imported.records, imported.operations, imported.faults);
    if let Some(path) = &args.to {
        eprintln!("play it: ebbtide run {}", path.display());
    }
}
