//! The network that efs-utils sees: a namespace in which only what an instance in a VPC reaches is there. Its name server knows mount
//! targets, at 169.254.169.254 is the instance's metadata, the API is where it is, and port 2049 of a mount target lets those through
//! whom its security groups admit; whoever asks another is never answered.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use model_common::agent::{EfsNeighbour, EfsNetwork};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener};
use tokio_util::sync::CancellationToken;

use super::EfsUtils;
use super::dns;
use super::enter::Welcome;
use crate::NodeConfig;
use crate::address::{Address, start_loopback};
use crate::config::inside;

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const NFS: u16 = 2049;
/// How long the API may take to tell about mount targets.
const LIMIT: Duration = Duration::from_secs(5);

/// Serves the network until `stop`.
pub(crate) async fn serve(config: Arc<NodeConfig>, efs_utils: EfsUtils, stop: CancellationToken) {
    match Network::make(&config) {
        Ok(network) => {
            tokio::select! {
                () = network.serve(&config, &efs_utils) => {}
                () = stop.cancelled() => {}
            }
        }
        Err(error) => tracing::error!(%error, "the network for efs-utils cannot be made; `mount -t efs` will not work in this node"),
    }
    let _ = std::fs::remove_file(inside::VPC_SOCKET);
}

/// What listens in the namespace. Sockets belong to it wherever they are used.
struct Sockets {
    /// Connections here go on to an address outside.
    relays: Vec<(std::net::TcpListener, SocketAddr)>,
    names: Vec<std::net::UdpSocket>,
}

/// The addresses of mount targets that there are to be; the answer when they are.
type Change = (Vec<Ipv4Addr>, tokio::sync::oneshot::Sender<()>);

struct Network {
    sockets: Sockets,
    changes: mpsc::Sender<Change>,
    entrance: UnixListener,
}

impl Network {
    fn make(config: &NodeConfig) -> io::Result<Self> {
        let outside = |url: &str| url.split_once("://").and_then(|(_, rest)| rest.trim_end_matches('/').parse::<SocketAddr>().ok());
        let endpoint = outside(&config.aws_endpoint);
        let metadata = config.metadata.as_ref().and_then(|metadata| outside(&metadata.node));
        // Each at its own address, so that what works outside works here.
        let mut relays: Vec<(SocketAddr, SocketAddr)> = [endpoint, metadata].into_iter().flatten().map(|own| (own, own)).collect();
        relays.extend(metadata.map(|metadata| (SocketAddr::new(METADATA.into(), 80), metadata)));
        let servers = name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let (made, wait) = mpsc::channel();
        let (changes, todo) = mpsc::channel::<Change>();
        // The namespace is this thread's; it lives on for the addresses that come and go.
        std::thread::Builder::new().name("vpc".into()).spawn(move || {
            let own = match enter(&relays, &servers) {
                Ok((sockets, own)) => {
                    let _ = made.send(Ok(sockets));
                    own
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                    return;
                }
            };
            let mut targets = Targets::default();
            while let Ok((wanted, done)) = todo.recv() {
                targets.change(&wanted);
                let _ = done.send(());
            }
            drop(own);
        })?;
        let sockets = wait.recv().map_err(io::Error::other)??;
        // One of a node that crashed.
        let _ = std::fs::remove_file(inside::VPC_SOCKET);
        Ok(Self { sockets, changes, entrance: UnixListener::bind(inside::VPC_SOCKET)? })
    }

    async fn serve(self, config: &Arc<NodeConfig>, efs_utils: &EfsUtils) {
        let Self { sockets, changes, entrance } = self;
        let mut tasks = tokio::task::JoinSet::new();
        for (listener, to) in sockets.relays {
            if let Ok(listener) = TcpListener::from_std(listener) {
                tasks.spawn(relay(listener, to));
            }
        }
        let asker = Arc::new(Asker::new(config));
        for socket in sockets.names {
            if let Ok(socket) = UdpSocket::from_std(socket) {
                tasks.spawn(answer_names(socket, asker.clone()));
            }
        }
        let welcome = Welcome { python: efs_utils.python().to_owned(), endpoint: config.aws_endpoint.clone() };
        let welcome = Arc::new(serde_json::to_vec(&welcome).unwrap_or_default());
        loop {
            match entrance.accept().await {
                Ok((mut stream, _)) => {
                    let (asker, changes, welcome) = (asker.clone(), changes.clone(), welcome.clone());
                    tasks.spawn(async move {
                        // An API that does not answer leaves the network as it was.
                        if let Some(network) = asker.ask().await {
                            let there = network.mount_targets.iter().filter(|target| target.reachable).map(|target| target.ip).collect();
                            let (done, wait) = tokio::sync::oneshot::channel();
                            if changes.send((there, done)).is_ok() {
                                let _ = wait.await;
                            }
                        }
                        // Somebody who went away needs no welcome.
                        let _ = stream.write_all(&welcome).await;
                    });
                }
                Err(error) => pause_on_error(Err(error)).await,
            }
            while tasks.try_join_next().is_some() {}
        }
    }
}

/// Too many files are open, for instance: it passes.
async fn pause_on_error(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot accept a connection in the instance's network");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn relay(listener: TcpListener, to: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((mut inside, _)) => {
                tokio::spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(to).await {
                        // An end of either side ends it.
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
            Err(error) => pause_on_error(Err(error)).await,
        }
    }
}

async fn answer_names(socket: UdpSocket, asker: Arc<Asker>) {
    let mut query = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut query).await else { continue };
        let network = asker.ask().await;
        if let Some(reply) = dns::answer(&query[..length], network.as_ref()) {
            // A client that hears nothing asks again.
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// Makes the namespace of this thread and binds what listens there. The addresses go when they are dropped.
fn enter(relays: &[(SocketAddr, SocketAddr)], servers: &[Ipv4Addr]) -> io::Result<(Sockets, Vec<Address>)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    start_loopback()?;
    let name = Path::new(inside::VPC_NETWORK);
    std::fs::File::create(name)?;
    mount(Some("/proc/thread-self/ns/net"), name, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let own = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(*ip),
        _ => None,
    };
    let mut needed: Vec<Ipv4Addr> = relays.iter().filter_map(|(at, _)| own(&at.ip())).collect();
    needed.extend(servers.iter().filter(|ip| !ip.is_loopback()));
    needed.sort();
    needed.dedup();
    let addresses = needed.iter().enumerate().map(|(n, ip)| Address::add(&format!("lo:s{n}"), *ip)).collect::<io::Result<Vec<_>>>()?;
    let sockets = Sockets {
        relays: relays.iter().map(|(at, to)| Ok((listen(*at)?, *to))).collect::<io::Result<_>>()?,
        names: servers
            .iter()
            .map(|ip| std::net::UdpSocket::bind((*ip, 53)).and_then(|it| it.set_nonblocking(true).map(|()| it)))
            .collect::<io::Result<_>>()?,
    };
    Ok((sockets, addresses))
}

fn listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The name servers that glibc asks. Without one of IPv4 names do not resolve here, and efs-utils asks the API for addresses.
fn name_servers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let servers = resolv_conf.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim);
    // It takes three.
    let all: Vec<&str> = servers.take(3).collect();
    match all.is_empty() {
        true => vec![Ipv4Addr::LOCALHOST],
        false => all.iter().filter_map(|ip| ip.parse().ok()).collect(),
    }
}

/// The mount targets that are there: what listens on their port 2049, and their addresses.
#[derive(Default)]
struct Targets {
    there: BTreeMap<Ipv4Addr, (std::net::TcpListener, Address)>,
    labels: u64,
}

impl Targets {
    fn change(&mut self, wanted: &[Ipv4Addr]) {
        self.there.retain(|ip, _| wanted.contains(ip));
        for (listener, _) in self.there.values() {
            // Who came through only wanted to know whether it can, and was connected by the kernel.
            while listener.accept().is_ok() {}
        }
        for ip in wanted {
            if !self.there.contains_key(ip) {
                self.labels += 1;
                match add(&format!("lo:t{}", self.labels), *ip) {
                    Ok(target) => {
                        self.there.insert(*ip, target);
                    }
                    Err(error) => tracing::warn!(%ip, %error, "a mount target cannot be reached in this node"),
                }
            }
        }
    }
}

fn add(label: &str, ip: Ipv4Addr) -> io::Result<(std::net::TcpListener, Address)> {
    let address = Address::add(label, ip)?;
    Ok((listen((ip, NFS).into())?, address))
}

/// Asks the API which mount targets there are.
struct Asker {
    client: reqwest::Client,
    signer: Signer,
    url: String,
    body: Vec<u8>,
}

impl Asker {
    fn new(config: &NodeConfig) -> Self {
        let asking = EfsNeighbour { instance_id: config.instance_id.clone() };
        Self {
            client: reqwest::Client::builder().timeout(LIMIT).no_proxy().build().unwrap_or_default(),
            signer: Signer::from_env(),
            url: format!("{}/_ebbtide/efs/network", config.aws_endpoint),
            body: serde_json::to_vec(&asking).unwrap_or_default(),
        }
    }

    async fn ask(&self) -> Option<EfsNetwork> {
        let (host, content_type) = (sigv4::host(&self.url), "application/json");
        let path = self.url.split_once(host).map_or("/", |(_, path)| path);
        let signable =
            Signable { service: "ebbtide", method: "POST", host, path, query: "", content_type: Some(content_type), body: &self.body };
        let mut request = self.client.post(&self.url).header("content-type", content_type);
        for (name, value) in self.signer.sign(&signable, jiff::Timestamp::now()) {
            request = request.header(name, value);
        }
        let answer = async { request.body(self.body.clone()).send().await?.error_for_status()?.json().await };
        answer
            .await
            .inspect_err(|error| tracing::warn!(error = crate::host::chain(error), "the API does not tell about mount targets"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_servers_are_those_that_glibc_asks() {
        let servers = |text: &str| name_servers(text).iter().map(Ipv4Addr::to_string).collect::<Vec<_>>();
        assert_eq!(servers("search ec2.internal\nnameserver 10.0.0.2\noptions ndots:5\n"), ["10.0.0.2"]);
        assert_eq!(servers("# nothing\n"), ["127.0.0.1"]);
        assert!(servers("nameserver fd00::1\n").is_empty());
        assert_eq!(servers("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n").len(), 3);
    }
}
