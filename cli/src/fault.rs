//! `ebbtide fault`: the table of faults of a running ebbtide.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use model_aws::faults::{Action, GivenError, Rule, Share, Span};
use serde_json::Value;

use crate::args::DataArgs;
use crate::output::{print, table};
use crate::state::Up;

#[derive(Args)]
pub struct FaultArgs {
    #[command(subcommand)]
    command: FaultCommand,
}

#[derive(Subcommand)]
enum FaultCommand {
    /// Add a fault; it acts on calls and volumes from now on, until it is removed or over.
    #[command(after_help = EXAMPLES)]
    Add(Box<AddArgs>),
    /// List the faults, what they match and how often they hit.
    Ls(DataArgs),
    /// Remove faults; what they held up goes on.
    Rm {
        /// Ids as `ebbtide fault ls` shows them.
        #[arg(required_unless_present = "all", value_name = "ID")]
        ids: Vec<String>,
        /// Remove all faults.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        data: DataArgs,
    },
}

const EXAMPLES: &str = "\
Examples:
  ebbtide fault add throttle --service ec2 --probability 0.5 --duration 1m
  ebbtide fault add lost-response --operation CreateVolume --count 1
  ebbtide fault add attach-stuck --resource vol-0123456789abcdef0
  ebbtide fault add device-late --node ip-10-0-1-10.ec2.internal --delay 30s
  ebbtide fault add error --operation AttachVolume --code UnauthorizedOperation --status 403 --message 'Not you.'
  ebbtide fault add eventual-consistency --operation 'Describe*' --delay 5s

The names of AWS FIS are taken too: aws:fis:inject-api-throttle-error and so on. Every hit is an event of
/_ebbtide/events and counts in /metrics (ebbtide_aws_fault_hits). The API is /_ebbtide/faults;
/_localstack/chaos/faults takes LocalStack's rules.";

#[derive(Args)]
struct AddArgs {
    /// What happens.
    #[arg(value_parser = actions())]
    fault: Action,
    /// Only calls of this service: ec2, efs, kms, sts, imds (its operations are paths: `meta-data/network/*`, `api/token`), or nfs (mounts
    /// of EFS: with unavailable the mount target does not answer, with error it denies access, with latency a mount takes longer).
    #[arg(long)]
    service: Option<String>,
    /// Only these API operations; several divided by commas, `Describe*` for all that begin so.
    #[arg(long)]
    operation: Option<String>,
    /// Only calls that are signed for this region.
    #[arg(long)]
    region: Option<String>,
    /// Only what names this: a volume's, snapshot's or file system's id, a client token, the value of a tag.
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Only what names this node, by its name or its instance id.
    #[arg(long)]
    node: Option<String>,
    /// The share of matching calls that are hit, from 0 to 1.
    #[arg(long, value_parser = share, value_name = "SHARE")]
    probability: Option<Share>,
    /// Let so many matching calls pass first.
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Hit so often, then no more.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Remove the fault after this time: 30s, 1m30s, PT5M.
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// How long each hit lasts: how late a call or device is, how old an answer, how long an attachment is stuck.
    #[arg(long, value_name = "TIME")]
    delay: Option<Span>,
    /// The error code that refused calls get, in the place of the service's own.
    #[arg(long)]
    code: Option<String>,
    /// Its HTTP status.
    #[arg(long)]
    status: Option<u16>,
    /// Its text.
    #[arg(long)]
    message: Option<String>,
    #[command(flatten)]
    data: DataArgs,
}

/// The short names are shown and completed; the ids are taken too.
fn actions() -> impl TypedValueParser<Value = Action> {
    let values = Action::ALL.map(|(_, id, short, about)| PossibleValue::new(short).help(about).alias(id));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Action>())
}

fn share(text: &str) -> Result<Share, String> {
    let number: f64 = text.parse().map_err(|_| "it must be a number between 0 and 1".to_owned())?;
    Share::try_from(number).map_err(|error| error.to_string())
}

impl AddArgs {
    fn rule(&self) -> Rule {
        let error = GivenError { status_code: self.status, code: self.code.clone(), message: self.message.clone() };
        Rule {
            service: self.service.clone(),
            operation: self.operation.clone(),
            region: self.region.clone(),
            resource: self.resource.clone(),
            node: self.node.clone(),
            probability: self.probability,
            after_calls: self.after,
            count: self.count,
            duration: self.duration,
            delay: self.delay,
            error: (error != GivenError::default()).then_some(error),
            ..Rule::new(self.fault)
        }
    }
}

pub fn fault(args: &FaultArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    match &args.command {
        FaultCommand::Add(args) => {
            let fault = runtime.block_on(ask(&args.data, reqwest::Method::POST, "", Some(&args.rule())))?;
            print(args.data.output, &fault, |fault| format!("{}\n", text(&fault["id"])))?;
        }
        FaultCommand::Ls(data) => {
            let faults = runtime.block_on(ask(data, reqwest::Method::GET, "", None))?;
            print(data.output, &faults, |faults| list(faults.as_array().map(Vec::as_slice).unwrap_or_default()))?;
        }
        FaultCommand::Rm { all: true, data, .. } => {
            let left = runtime.block_on(ask(data, reqwest::Method::DELETE, "", None))?;
            print(data.output, &left, |_| String::new())?;
        }
        FaultCommand::Rm { ids, data, .. } => {
            let mut gone = Vec::new();
            for id in ids {
                gone.push(runtime.block_on(ask(data, reqwest::Method::DELETE, &format!("/{id}"), None))?);
            }
            print(data.output, &gone, |_| String::new())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(data: &DataArgs, method: reqwest::Method, path: &str, body: Option<&Rule>) -> anyhow::Result<Value> {
    let up = Up::running(&data.places()?)?;
    let url = format!("{}/_ebbtide/faults{path}", up.endpoint());
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
    let mut request = client.request(method, &url);
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.with_context(|| format!("asking {url}"))?;
    let good = response.status().is_success();
    let answer: Value = response.json().await.with_context(|| format!("reading the answer of {url}"))?;
    if !good {
        bail!("{}", text(&answer["message"]));
    }
    Ok(answer)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn list(faults: &[Value]) -> String {
    if faults.is_empty() {
        return "No faults.\n".to_owned();
    }
    let named = |fault: &Value, fields: &[(&str, &str)]| {
        let parts = fields.iter().filter(|(field, _)| !fault[*field].is_null());
        let parts: Vec<String> = parts.map(|(field, name)| format!("{name}={}", text(&fault[*field]))).collect();
        if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
    };
    let matches = [("service", "service"), ("operation", "operation"), ("region", "region"), ("resource", "resource"), ("node", "node")];
    let limits =
        [("probability", "probability"), ("afterCalls", "after"), ("count", "count"), ("duration", "duration"), ("delay", "delay")];
    let row = |fault: &Value| {
        let short =
            text(&fault["actionId"]).parse::<Action>().map_or_else(|_| text(&fault["actionId"]), |action| action.short().to_owned());
        vec![text(&fault["id"]), short, named(fault, &matches), named(fault, &limits), text(&fault["hits"]), text(&fault["state"])]
    };
    table(&["ID", "FAULT", "MATCHES", "LIMITS", "HITS", "STATE"], &faults.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> Result<Rule, String> {
        let words = ["ebbtide", "fault", "add"].iter().chain(args);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Fault(FaultArgs { command: FaultCommand::Add(add) }) => Ok(add.rule()),
            _ => Err("another command".to_owned()),
        }
    }

    #[test]
    fn options_become_a_rule() {
        let rule = parse(&["throttle", "--service", "ec2", "--probability", "0.5", "--count", "3", "--duration", "PT1M"]).unwrap();
        assert_eq!(
            serde_json::to_value(rule).unwrap(),
            serde_json::json!({
                "actionId": "aws:fis:inject-api-throttle-error", "service": "ec2", "probability": 0.5, "count": 3, "duration": "1m"
            })
        );
        assert_eq!(parse(&["aws:fis:inject-api-throttle-error"]), parse(&["throttle"]));
        let error = parse(&["error", "--code", "Blocked", "--status", "403"]).unwrap().error.unwrap();
        assert_eq!((error.code.as_deref(), error.status_code, error.message), (Some("Blocked"), Some(403), None));
        assert!(parse(&["nonsense"]).unwrap_err().contains("lost-response"), "the names are listed");
        assert!(parse(&["throttle", "--probability", "2"]).unwrap_err().contains("between 0 and 1"));
        assert!(parse(&["latency", "--delay", "5"]).unwrap_err().contains("30s"));
    }

    #[test]
    fn the_list_says_what_matters() {
        let faults = serde_json::json!([{
            "id": "fault-1", "actionId": "local:ebs:attach-stuck", "resource": "vol-1", "count": 1, "hits": 1, "calls": 1, "state": "spent"
        }]);
        let shown = list(faults.as_array().unwrap());
        let row: Vec<&str> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["fault-1", "attach-stuck", "resource=vol-1", "count=1", "1", "spent"]);
    }
}
