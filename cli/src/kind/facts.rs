//! Which world, which endpoint, and whether pods can reach it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use model_aws::world::World;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::tools;
use crate::args::DataArgs;
use crate::state::Up;

const LIMIT: Duration = Duration::from_secs(5);
const LISTEN: &str = "pods reach the machine by another address than its loopback: start it as `ebbtide up --external-nodes --listen \
                      0.0.0.0:4566 --auth verify`, and say --endpoint http://ADDRESS:4566, where ADDRESS is what the nodes call this \
                      machine (the gateway in `docker network inspect kind`, mostly 172.18.0.1)";

/// The world of a file, of a data directory, or the default one; and the data directory.
pub fn world(file: Option<&Path>, data: &DataArgs) -> anyhow::Result<(World, PathBuf)> {
    let data = data.places()?.data().to_owned();
    let kept = data.join("world.yaml");
    let file = file.or_else(|| kept.exists().then_some(kept.as_path()));
    let Some(file) = file else { return Ok((World::default(), data)) };
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the world {}", file.display()))?;
    let world: World = serde_yaml::from_str(&text).with_context(|| format!("the world {} is not valid", file.display()))?;
    world.check().with_context(|| format!("the world {} is not valid", file.display()))?;
    Ok((world, data))
}

/// What `/_ebbtide/info` says, as far as it is needed.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    pub region: String,
    pub data_directory: PathBuf,
    pub nodes: Vec<Instance>,
}

/// An instance that is a node in the world.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub instance_id: String,
    pub zone: String,
    /// None from an endpoint that does not say it.
    pub instance_type: Option<String>,
    /// Whether its agent is there.
    pub connected: bool,
}

/// The endpoint as pods reach it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub url: String,
    /// Where this machine asks for [`Info`]: by loopback where it can, since others must sign.
    ask: String,
    client: reqwest::Client,
}

impl Endpoint {
    /// The one that was given, or the running ebbtide as the nodes of kind see it. Something must answer there.
    pub async fn find(given: Option<&str>, data: &DataArgs) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build()?;
        let running = Up::running(&data.places()?);
        let url = match given {
            Some(given) => {
                let url = reachable(given)?;
                answers(&client, &url).await?;
                url
            }
            None => detect(&client, &running?).await?,
        };
        let port = Url::parse(&url)?.port_or_known_default();
        let ask =
            Up::running(&data.places()?).ok().filter(|up| Some(up.aws.port()) == port).map_or_else(|| url.clone(), |up| up.endpoint());
        Ok(Self { url, ask, client })
    }

    /// What the endpoint knows of itself.
    pub async fn info(&self) -> anyhow::Result<Info> {
        let url = format!("{}/_ebbtide/info", self.ask);
        let response = self.client.get(&url).send().await.with_context(|| format!("asking {url}"))?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            bail!("{} tells its world on its own machine only: run this command there, with the --data-dir of its `up`", self.ask);
        }
        if !response.status().is_success() {
            bail!("{url} answered {}: is it ebbtide?", response.status());
        }
        response.json().await.with_context(|| format!("reading the answer of {url}: is it an ebbtide of another version?"))
    }
}

/// An address that means one machine to all.
fn reachable(given: &str) -> anyhow::Result<String> {
    let url = Url::parse(given).with_context(|| format!("{given} is no URL such as http://172.18.0.1:4566"))?;
    let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
        bail!("{given} is no URL such as http://172.18.0.1:4566");
    };
    let name = host.trim_matches(['[', ']']);
    let here = match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    };
    if here {
        bail!("{given} is in a pod the pod itself; {LISTEN}");
    }
    Ok(given.trim_end_matches('/').to_owned())
}

/// Whether an ebbtide answers there, for everybody: health needs no signature.
async fn answers(client: &reqwest::Client, url: &str) -> anyhow::Result<()> {
    let asked = client.get(format!("{url}/_ebbtide/health")).send().await;
    let response = asked.with_context(|| format!("nothing answers at {url}. If an ebbtide runs on this machine: {LISTEN}"))?;
    match response.status() {
        status if status.is_success() => Ok(()),
        StatusCode::FORBIDDEN => {
            let text = response.text().await.unwrap_or_default();
            bail!("{url} refuses to be called so: {text}; start `ebbtide up` with --listen on that address or 0.0.0.0, or --host NAME")
        }
        status => bail!("{url}/_ebbtide/health answered {status}: is it ebbtide, and is it well?"),
    }
}

/// The running ebbtide, at its own address or at the gateway of Docker's network `kind`.
async fn detect(client: &reqwest::Client, up: &Up) -> anyhow::Result<String> {
    if !up.aws.ip().is_loopback() {
        let url = up.endpoint();
        return answers(client, &url).await.map(|()| url);
    }
    let mut tried = Vec::new();
    for gateway in tools::docker_gateways() {
        let host = if gateway.contains(':') { format!("[{gateway}]") } else { gateway };
        let url = format!("http://{host}:{}", up.aws.port());
        match answers(client, &url).await {
            Ok(()) => return Ok(url),
            Err(_) => tried.push(url),
        }
    }
    match tried.is_empty() {
        true => bail!(
            "the running ebbtide says {}, which is in a pod the pod itself, and there is no Docker network `kind`; {LISTEN}",
            up.endpoint()
        ),
        false => bail!("the running ebbtide says {}, and does not answer at {}; {LISTEN}", up.endpoint(), tried.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_pods_can_reach() {
        assert_eq!(super::reachable("http://172.18.0.1:4566/").unwrap(), "http://172.18.0.1:4566");
        assert!(super::reachable("http://host.docker.internal:4566").is_ok());
        for here in ["http://127.0.0.1:4566", "http://localhost:4566", "http://[::1]:4566", "http://0.0.0.0:4566"] {
            let error = super::reachable(here).unwrap_err().to_string();
            assert!(error.contains("--listen 0.0.0.0:4566 --auth verify") && error.contains("docker network inspect kind"), "{error}");
        }
        for bad in ["172.18.0.1:4566", "ftp://172.18.0.1", "nonsense"] {
            assert!(super::reachable(bad).unwrap_err().to_string().contains("is no URL"), "{bad}");
        }
    }
}
