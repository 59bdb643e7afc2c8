//! `ebbtide kind`: a kind cluster, or any other, whose nodes are the instances of the world, with the unmodified drivers of AWS.
//!
//! - [`files`]: what lies in `deploy/`, filled in for a world and an endpoint
//! - [`facts`]: which world, which endpoint, and whether pods can reach it
//! - [`nodes`]: which nodes of a cluster are which instances, and what is wrong with them
//! - [`install`]: kubectl and helm, step by step

mod facts;
mod files;
mod install;
mod nodes;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};

use crate::args::{DataArgs, Format};
use files::Driver;

#[derive(Args)]
pub struct KindArgs {
    #[command(subcommand)]
    command: KindCommand,
}

#[derive(Subcommand)]
enum KindCommand {
    /// Print a configuration for kind: a worker for each instance of the world.
    #[command(after_help = "  ebbtide kind config | kind create cluster --config -")]
    Config(WorldArgs),
    /// Print the values for the upstream Helm chart of a driver.
    Values {
        driver: Driver,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Put the node agent and the two drivers into a cluster whose nodes are the instances. Again and again: what is there stays.
    #[command(after_help = INSTALL)]
    Install(Box<InstallArgs>),
    /// Take out of a cluster what `install` put in. Volumes and file systems stay.
    Uninstall(ClusterArgs),
}

const INSTALL: &str = "\
Examples:
  ebbtide up -d --external-nodes --listen 0.0.0.0:4566 --auth verify
  ebbtide kind config | kind create cluster --config -
  docker build -t ebbtide .
  ebbtide kind install

The keys that `up` takes (EBBTIDE_ACCESS_KEY and EBBTIDE_SECRET_KEY, test by default) become a Secret.";

#[derive(Args)]
struct WorldArgs {
    /// The world of this file. Without it the one that the data directory holds; before a first `up` the default one.
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Args)]
struct ClusterArgs {
    /// The context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig; without it what kubectl takes.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Args)]
struct InstallArgs {
    /// The context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig; without it what kubectl takes.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The AWS endpoint as pods reach it: http://ADDRESS:PORT. Without it the running ebbtide, at the gateway of Docker's network `kind`.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The image of the agent (the Dockerfile of this repository makes it).
    #[arg(long, value_name = "IMAGE", default_value = "ebbtide:latest")]
    image: String,
    /// Do not load the image into the nodes of a kind cluster: they have it, or can pull it.
    #[arg(long)]
    no_load: bool,
    /// The drivers to install.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ebs,efs", value_name = "DRIVER,…")]
    drivers: Vec<Wanted>,
    /// The chart of the EBS driver: a directory or an archive, instead of the one that is published.
    #[arg(long, value_name = "PATH")]
    ebs_chart: Option<PathBuf>,
    /// The chart of the EFS driver.
    #[arg(long, value_name = "PATH")]
    efs_chart: Option<PathBuf>,
    /// Return when all is applied, before the pods are ready.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the agents, and for each driver.
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = seconds)]
    timeout: Duration,
    /// Print what would be applied, and touch nothing.
    #[arg(long)]
    dry_run: bool,
    /// The access key id of `up`.
    #[arg(long, env = "EBBTIDE_ACCESS_KEY", default_value = "test", value_name = "ID")]
    access_key: String,
    /// Its secret.
    #[arg(long, env = "EBBTIDE_SECRET_KEY", default_value = "test", value_name = "SECRET", hide_env_values = true)]
    secret_key: String,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Ebs,
    Efs,
    /// The agent alone.
    None,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text.trim_end_matches('s').parse().map_err(|_| "it must be a number of seconds".to_owned())?;
    Ok(Duration::from_secs(number))
}

pub fn kind(args: &KindArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        KindCommand::Config(args) => {
            let (world, data) = facts::world(args.world.as_deref(), &args.data)?;
            print(args.data.output, &files::config(&world, &data)?)?;
        }
        KindCommand::Values { driver, world: args } => {
            let (world, _) = facts::world(args.world.as_deref(), &args.data)?;
            print(args.data.output, &files::values(*driver, &world.region))?;
        }
        KindCommand::Install(args) => install::install(args)?,
        KindCommand::Uninstall(args) => install::uninstall(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// YAML as it is, or as JSON, which kind and helm read as well.
fn print(format: Format, yaml: &str) -> anyhow::Result<()> {
    let data: serde_json::Value = serde_yaml::from_str(yaml).context("reading the own file")?;
    crate::output::print(format, &data, |_| yaml.to_owned())
}
