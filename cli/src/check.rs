//! `ebbtide check`: do the invariants of the storage path hold in a cluster?

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use scenarios::import::Source;
use scenarios::invariants::{Found, Invariant, Reach, all};
use scenarios::language::Span;
use scenarios::live::Target;
use scenarios::live::check::{Check, Looked, Place, unseen};
use serde_json::{Value, json};

use crate::args::{DataArgs, Format};
use crate::state::Up;

/// Check a cluster against the invariants of the storage path: this ebbtide's, or any other by its kubeconfig.
///
/// It reads the Kubernetes API, and EC2 where it is told where that is, and changes nothing. One look judges what there is and since when;
/// --for looks on and judges each write. The exit code is 1 when something does not hold. What needs a look into the nodes or at the
/// calls between the components cannot be seen so; the last line names it.
#[derive(Args)]
#[command(after_help = "Examples:
  ebbtide check
  ebbtide check --for 10m
  ebbtide check --kubeconfig ~/.kube/config --for 24h -o json
  ebbtide check --audit /var/log/kubernetes/audit.log")]
pub struct CheckArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The cluster to check instead of a running ebbtide.
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    kubeconfig: Option<PathBuf>,
    /// Where EC2 answers for the cluster of --kubeconfig: an ebbtide's endpoint. Keys and region are those of the environment.
    #[arg(long, value_name = "URL", requires = "kubeconfig", value_parser = endpoint)]
    endpoint_url: Option<String>,
    /// Look on for so long (30s, 10m, PT1H), or until Ctrl-C, and tell each thing as it happens; with -o json a line each.
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    span: Option<Span>,
    /// Judge the audit log of an API server instead (JSON lines, or as CloudWatch gives them; .gz too): each write after which something
    /// does not hold is named. Its policy needs the level RequestResponse for the kinds of the storage path.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["kubeconfig", "endpoint_url", "span", "data_dir"])]
    audit: Vec<PathBuf>,
    /// Only these invariants, divided by commas (`ebbtide run --invariants` lists them).
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = invariant_name)]
    only: Option<Vec<String>>,
}

fn span(text: &str) -> Result<Span, String> {
    Span::try_from(text.to_owned())
}

fn endpoint(url: &str) -> Result<String, String> {
    if url.starts_with("http://") {
        Ok(url.to_owned())
    } else {
        Err("it is asked by plain HTTP, as ebbtide's endpoint is: http://…".into())
    }
}

fn invariant_name(name: &str) -> Result<String, String> {
    match all().iter().find(|row| row.name == name || row.id == name) {
        Some(row) => Ok(row.name.to_owned()),
        None => Err(format!("there are {}", scenarios::invariants::NAMES.join(", "))),
    }
}

pub fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    if !args.audit.is_empty() {
        return audit(args);
    }
    let place = place(args)?;
    let ec2 = place.ec2.is_some();
    can_be_seen(args, ec2)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (found, looked) = runtime.block_on(look(args, &place))?;
    summary(args, ec2, &found, looked)?;
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn audit(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    can_be_seen(args, false)?;
    let mut files = Vec::new();
    for path in &args.audit {
        files.push((path.display().to_string(), std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?));
    }
    let sources: Vec<Source<'_>> = files.iter().map(|(name, bytes)| Source { name, bytes }).collect();
    let audited = scenarios::audit::audit(&sources, args.only.as_deref())?;
    match args.data.output {
        Format::Json => {
            let found = audited.found.iter().map(|(found, after)| {
                let mut json = to_json(found);
                json["after"] = json!(after);
                json
            });
            let found: Vec<Value> = found.collect();
            println!("{}", serde_json::to_string_pretty(&json!({"found": found, "writes": audited.writes, "left": audited.left}))?);
        }
        Format::Text => {
            for (found, after) in &audited.found {
                println!("{}: {}\n    after {after}", found.invariant, found.message);
            }
            audited.left.iter().for_each(|(why, count)| println!("not judged: {count} × {why}"));
            let verdict =
                if audited.found.is_empty() { "all that it shows holds".into() } else { format!("{} found", audited.found.len()) };
            println!("{verdict}: {} writes", audited.writes);
        }
    }
    if audited.writes == 0 {
        bail!("there is no write in it that can be judged");
    }
    Ok(if audited.found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `ebbtide replay` of journals.
pub fn journals(path: &Path, output: Format) -> anyhow::Result<ExitCode> {
    let all = scenarios::journal::replay(path)?;
    let failed = all.iter().any(|journal| journal.difference.is_some() || !journal.found.is_empty());
    match output {
        Format::Json => {
            let rows = all.iter().map(|journal| {
                let mut row = serde_json::to_value(journal)?;
                row["found"] = journal.found.iter().map(to_json).collect();
                Ok(row)
            });
            println!("{}", serde_json::to_string_pretty(&rows.collect::<serde_json::Result<Vec<Value>>>()?)?);
        }
        Format::Text => {
            for journal in &all {
                let verdict = match (&journal.difference, journal.states) {
                    (Some(difference), _) => format!("NOT the same: {difference}"),
                    (None, 0) => "the same verdicts and effects".into(),
                    (None, _) => "the same verdicts, effects and saved state".into(),
                };
                println!("{}: {} inputs, {} refused: {verdict}", journal.journal, journal.inputs, journal.refused);
                journal.found.iter().for_each(|found| println!("  {}: {}", found.invariant, found.message));
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A check of what cannot be seen would pass whatever happens.
fn can_be_seen(args: &CheckArgs, ec2: bool) -> anyhow::Result<()> {
    let wanted = |name: &str| args.only.as_ref().is_some_and(|names| names.iter().any(|only| only == name));
    match unseen(ec2).find(|row| wanted(row.name)) {
        Some(hidden) => bail!("{} cannot be seen {}", hidden.name, why(hidden)),
        None => Ok(()),
    }
}

async fn look(args: &CheckArgs, place: &Place) -> anyhow::Result<(Vec<Found>, Looked)> {
    let mut check = Check::begin(place).await?;
    let mut found = check.take();
    tell(args, &found);
    let Some(Span(span)) = args.span else { return Ok((found, check.looked())) };
    eprintln!("looking on for {}; Ctrl-C ends it", scenarios::report::short(span));
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let end = tokio::time::Instant::now().checked_add(span);
    loop {
        // A round that is cut short is the last one.
        let over = tokio::select! {
            _ = &mut interrupted => true,
            () = until(end) => true,
            round = check.round() => {
                round?;
                false
            }
        };
        if over {
            check.catch_up().await?;
        }
        let new = check.take();
        tell(args, &new);
        found.extend(new);
        if over {
            return Ok((found, check.looked()));
        }
    }
}

/// None: later than the clock can tell.
async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Prints what does not hold, a line each.
fn tell(args: &CheckArgs, found: &[Found]) {
    for found in found {
        match args.data.output {
            Format::Json if args.span.is_some() => println!("{}", to_json(found)),
            Format::Json => {}
            Format::Text => println!("{}: {}", found.invariant, found.message),
        }
    }
}

fn summary(args: &CheckArgs, ec2: bool, found: &[Found], looked: Looked) -> anyhow::Result<()> {
    match args.data.output {
        // Each was told as it happened.
        Format::Json if args.span.is_some() => {}
        Format::Json => {
            let hidden: Vec<Value> = unseen(ec2)
                .map(|row| json!({"id": row.id, "invariant": row.name, "why": format!("cannot be seen {}", why(row))}))
                .collect();
            let found: Vec<Value> = found.iter().map(to_json).collect();
            let report = json!({"found": found, "objects": looked.objects, "volumes": looked.volumes, "unseen": hidden});
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Format::Text => {
            let volumes = looked.volumes.map_or("EC2 not asked".into(), |volumes| format!("{volumes} volumes"));
            let verdict = if found.is_empty() { "all that can be seen holds".into() } else { format!("{} found", found.len()) };
            println!("{verdict}: {} objects, {volumes}", looked.objects);
            let hidden: Vec<&str> = unseen(ec2).map(|row| row.name).collect();
            println!("not seen from outside: {}", hidden.join(", "));
        }
    }
    Ok(())
}

fn to_json(found: &Found) -> Value {
    let id = all().iter().find(|row| row.name == found.invariant).map(|row| row.id);
    json!({"id": id, "invariant": found.invariant, "message": found.message, "at": time(found.at)})
}

/// A time since the Unix epoch.
fn time(at: Duration) -> Option<String> {
    let at = jiff::SignedDuration::try_from(at).ok()?;
    jiff::Timestamp::from_duration(at).ok().map(|at| format!("{at:.3}"))
}

/// Why a row cannot be judged, as the end of "cannot be seen".
fn why(row: &Invariant) -> String {
    match row.reach {
        Reach::Api => "without EC2: say --endpoint-url".into(),
        Reach::Virtual => "from outside; in virtual time it is watched (`ebbtide run`)".into(),
        Reach::Nowhere(why) => format!("at all: {why}"),
    }
}

fn place(args: &CheckArgs) -> anyhow::Result<Place> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let names = args.only.clone();
    let Some(kubeconfig) = &args.kubeconfig else {
        let places = args.data.places()?;
        let target = Up::running(&places)?.target(&places);
        return Ok(Place { kubeconfig: target.kubeconfig.clone(), ec2: Some(target), names });
    };
    let ec2 = args.endpoint_url.as_ref().map(|url| {
        let mut target = Target::new(url, kubeconfig);
        if let Some(region) = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")) {
            target.region = region;
        }
        if let (Some(key), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            target.credentials = (key, secret);
        }
        target
    });
    Ok(Place { kubeconfig: kubeconfig.clone(), ec2, names })
}
