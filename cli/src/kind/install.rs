//! The agent and the drivers into a cluster, with kubectl and helm, step by step; and out again.

use std::time::Instant;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};

use super::facts::Endpoint;
use super::files::{self, Access, Driver};
use super::nodes::{self, Member};
use super::tools::{self, Cluster};
use super::{ClusterArgs, InstallArgs, Wanted};

/// As which manager the objects are applied.
const APPLY: [&str; 7] = ["apply", "--server-side", "--force-conflicts", "--field-manager", "ebbtide", "-f", "-"];
/// A namespace goes when all in it has gone.
const DELETE: [&str; 5] = ["delete", "--ignore-not-found", "--timeout=120s", "-f", "-"];
/// Where the drivers live: their charts' manifests and documents say so.
const NAMESPACE: &str = "kube-system";

/// Says what is being done and how it went.
struct Progress {
    at: usize,
    of: usize,
}

impl Progress {
    fn step<T>(&mut self, what: &str, done: impl FnOnce() -> anyhow::Result<(T, String)>) -> anyhow::Result<T> {
        self.at += 1;
        let started = Instant::now();
        let (value, said) = done().with_context(|| format!("step {} of {}, {what}", self.at, self.of))?;
        let said = said.lines().map(|line| format!("\n        {line}")).collect::<String>();
        eprintln!("[{}/{}] {what}: done in {:.1} s{said}", self.at, self.of, started.elapsed().as_secs_f64());
        Ok(value)
    }
}

/// kubectl's own list, of the kind `List` whatever it lists.
#[derive(Deserialize)]
struct Nodes {
    items: Vec<Node>,
}

/// What `install` did.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Installed {
    context: Option<String>,
    endpoint: String,
    image: String,
    /// The nodes that are instances.
    nodes: Vec<Member>,
    /// The releases of helm.
    releases: Vec<&'static str>,
    /// Whether agents and drivers were waited for.
    ready: bool,
}

pub fn install(args: &InstallArgs) -> anyhow::Result<()> {
    let drivers = drivers(&args.drivers)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let mut cluster = Cluster { context: args.context.clone(), kubeconfig: args.kubeconfig.clone() };
    if !args.dry_run {
        tools::find("kubectl")?;
        if !drivers.is_empty() {
            tools::find("helm")?;
        }
        if cluster.context.is_none() {
            // Named from here on: another shell may change the current one meanwhile.
            let current = Cluster { context: None, ..cluster.clone() }.run("kubectl", &["config", "current-context"], "");
            cluster.context = Some(current.context("there is no current cluster; say --context")?.trim().to_owned());
        }
    }
    let kind = cluster.context.as_deref().and_then(|context| context.strip_prefix("kind-")).filter(|_| !args.no_load).map(str::to_owned);
    if kind.is_some() && !args.dry_run {
        tools::find("kind")?;
    }
    let mut progress = Progress { at: 0, of: 3 + usize::from(kind.is_some()) + usize::from(!args.no_wait) + drivers.len() };

    let found = || {
        let endpoint = runtime.block_on(Endpoint::find(args.endpoint.as_deref(), &args.data))?;
        let info = runtime.block_on(endpoint.info())?;
        let said = format!("{} in {}", endpoint.url, info.region);
        Ok(((endpoint, info), said))
    };
    if args.dry_run {
        let ((endpoint, info), _) = found()?;
        let access = access(args, &endpoint.url, &info.region);
        println!("# kubectl {}", APPLY.join(" "));
        print!("{}---\n{}", files::access(&access), files::agent(&args.image, &info.data_directory, &access));
        for driver in drivers {
            println!("---\n# {}", cluster.shown("helm", &words(&helm(args, driver, &access))));
            files::values(driver, &info.region).lines().for_each(|line| println!("{}", format!("# {line}").trim_end()));
        }
        return Ok(());
    }
    let (endpoint, info) = progress.step("asking the endpoint", found)?;
    let access = access(args, &endpoint.url, &info.region);

    let members = progress.step("reading the nodes", || {
        let said = cluster.run("kubectl", &["get", "nodes", "-o", "json"], "")?;
        let list: Nodes = serde_json::from_str(&said).context("reading what kubectl says of the nodes")?;
        let members = nodes::check(&list.items, &info, &endpoint.url).map_err(anyhow::Error::msg)?;
        let said = members.iter().map(|member| format!("{} is {} in {}\n", member.node, member.instance_id, member.zone)).collect();
        Ok((members, said))
    })?;
    if let Some(name) = &kind {
        progress.step("loading the image", || {
            let load = Cluster { context: None, ..cluster.clone() };
            let loaded = load.run("kind", &["load", "docker-image", &args.image, "--name", name], "");
            loaded.context("make the image with `docker build -t ebbtide .`, name another with --image, or say --no-load")?;
            Ok(((), args.image.clone()))
        })?;
    }
    progress.step("applying access and agent", || {
        let manifests = format!("{}---\n{}", files::access(&access), files::agent(&args.image, &info.data_directory, &access));
        Ok(((), cluster.run("kubectl", &APPLY, &manifests)?))
    })?;
    if !args.no_wait {
        progress.step("waiting for the agents", || {
            let timeout = format!("--timeout={}s", args.timeout.as_secs());
            let rolled = cluster.run("kubectl", &["rollout", "status", "daemonset/agent", "-n", "ebbtide", &timeout], "");
            rolled.with_context(|| {
                format!("look with `{}`", cluster.shown("kubectl", &["logs", "-n", "ebbtide", "daemonset/agent", "--all-pods", "--prefix"]))
            })?;
            runtime.block_on(connected(&endpoint, &members, args.timeout))?;
            Ok(((), format!("{} agents are connected", members.len())))
        })?;
    }
    let mut releases = Vec::new();
    for driver in drivers {
        let chart = driver.chart();
        progress.step(&format!("installing {}", chart.name), || {
            let said = cluster.run("helm", &words(&helm(args, driver, &access)), &files::values(driver, &info.region))?;
            let kept =
                said.lines().filter(|line| line.starts_with("STATUS") || line.starts_with("REVISION")).collect::<Vec<_>>().join(", ");
            Ok(((), kept))
        })?;
        releases.push(chart.name);
    }
    let installed = Installed {
        context: cluster.context.clone(),
        endpoint: endpoint.url,
        image: args.image.clone(),
        nodes: members,
        releases,
        ready: !args.no_wait,
    };
    crate::output::print(args.data.output, &installed, |_| String::new())
}

fn access(args: &InstallArgs, endpoint: &str, region: &str) -> Access {
    Access {
        endpoint: endpoint.to_owned(),
        region: region.to_owned(),
        access_key: args.access_key.clone(),
        secret_key: args.secret_key.clone(),
    }
}

fn drivers(wanted: &[Wanted]) -> anyhow::Result<Vec<Driver>> {
    if wanted.contains(&Wanted::None) && wanted.len() > 1 {
        bail!("--drivers none goes alone");
    }
    let has = |one| wanted.contains(&one);
    Ok([(Wanted::Ebs, Driver::Ebs), (Wanted::Efs, Driver::Efs)]
        .into_iter()
        .filter(|(one, _)| has(*one))
        .map(|(_, driver)| driver)
        .collect())
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// The arguments that install a driver's chart or bring it up to date; its values come on standard input.
fn helm(args: &InstallArgs, driver: Driver, access: &Access) -> Vec<String> {
    let chart = driver.chart();
    let given = match driver {
        Driver::Ebs => &args.ebs_chart,
        Driver::Efs => &args.efs_chart,
    };
    let mut all: Vec<String> = ["upgrade", "--install", chart.name].map(str::to_owned).to_vec();
    match given {
        Some(path) => all.push(path.display().to_string()),
        None => all.extend([chart.name, "--repo", chart.repository, "--version", chart.version].map(str::to_owned)),
    }
    all.extend(["--namespace", NAMESPACE, "--values", "-"].map(str::to_owned));
    // Pods read endpoint and keys when they start: others start them anew.
    for part in ["controller", "node"] {
        all.extend(["--set-json".to_owned(), format!(r#"{part}.podAnnotations={{"ebbtide/access":"{}"}}"#, access.digest())]);
    }
    if !args.no_wait {
        all.extend(["--wait".to_owned(), "--timeout".to_owned(), format!("{}s", args.timeout.as_secs())]);
    }
    all
}

/// Waits until the endpoint has the agents of all these.
async fn connected(endpoint: &Endpoint, members: &[Member], limit: std::time::Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let info = endpoint.info().await?;
        let there = |member: &Member| info.nodes.iter().any(|instance| instance.instance_id == member.instance_id && instance.connected);
        let away: Vec<&str> = members.iter().filter(|member| !there(member)).map(|member| member.node.as_str()).collect();
        if away.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the agents run, and those of {} do not reach {}; their logs say why", away.join(", "), endpoint.url);
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

pub fn uninstall(args: &ClusterArgs) -> anyhow::Result<()> {
    tools::find("kubectl")?;
    let cluster = Cluster { context: args.context.clone(), kubeconfig: args.kubeconfig.clone() };
    let mut progress = Progress { at: 0, of: 2 };
    // Without helm there may be no releases of its; with it they end before the agent that serves them.
    let helm = tools::find("helm").is_ok();
    let mut gone = Vec::new();
    progress.step("removing the drivers", || {
        let mut said = if helm { String::new() } else { "helm is not in PATH: charts stay, if there are any".to_owned() };
        for driver in [Driver::Efs, Driver::Ebs].into_iter().filter(|_| helm) {
            let name = driver.chart().name;
            said += &cluster.run("helm", &["uninstall", name, "--namespace", NAMESPACE, "--ignore-not-found", "--wait"], "")?;
            gone.push(name);
        }
        Ok(((), said))
    })?;
    progress.step("removing access and agent", || {
        let nobody = Access { endpoint: String::new(), region: String::new(), access_key: String::new(), secret_key: String::new() };
        // The agent first: its namespace goes last.
        let agent = cluster.run("kubectl", &DELETE, &files::agent("-", std::path::Path::new("/"), &nobody))?;
        let access = cluster.run("kubectl", &DELETE, &files::access(&nobody))?;
        Ok(((), agent + &access))
    })?;
    crate::output::print(args.output, &serde_json::json!({"context": args.context, "releases": gone}), |_| String::new())
}
