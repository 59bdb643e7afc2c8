//! The AWS API: calls a second at 1 and 16 connections, beside the limit and moto.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ebbtide_tests::Ebbtide;

use crate::load::{self, Request, Tally, ec2, post};
use crate::{Kept, Options, free_port, wait_port};

/// File systems that take the access points of the benchmark.
const FILE_SYSTEMS: usize = 32;
/// The servers take turns, so that what else the machine does meets all of them.
const ROUNDS: usize = 4;

const CREATE: &str = "Action=CreateVolume&Version=2016-11-15&AvailabilityZone=us-east-1a&Size=4&VolumeType=gp3";

/// A CreateVolume with the tags the EBS driver sets; `n` makes the name.
fn create(n: u64) -> Request {
    ec2(&format!(
        "{CREATE}&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=CSIVolumeName&TagSpecification.1.Tag.1.Value=pvc-{n}"
    ))
}

fn by_ids(ids: &[String]) -> Request {
    let ids: String = ids.iter().enumerate().map(|(n, id)| format!("&VolumeId.{}={id}", n + 1)).collect();
    ec2(&format!("Action=DescribeVolumes&Version=2016-11-15{ids}"))
}

fn by_tag(n: usize) -> Request {
    ec2(&format!("Action=DescribeVolumes&Version=2016-11-15&Filter.1.Name=tag%3ACSIVolumeName&Filter.1.Value.1=pvc-{n}"))
}

pub fn volume_id(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    let rest = body.split("<volumeId>").nth(1).unwrap_or_else(|| panic!("no volume id in {body}"));
    rest.split('<').next().unwrap_or_default().to_owned()
}

pub fn run(options: &Options) {
    println!("\ncalls a second (durable: the state survives kill -9); of limit = of a bare axum server that answers the same bytes");
    println!(
        "{:<28} {:>8} {:>5} {:>10} {:>10} {:>9} {:>9} {:>8}",
        "call", "volumes", "conn", "ebbtide", "limit", "of limit", "moto", "× moto"
    );
    let moto = Moto::start(1_000);
    for &count in &options.volumes {
        let ebbtide = Ebbtide::up(&["--no-nodes"]);
        let port = crate::port(&ebbtide);
        let bodies = load::all(port, (0..count as u64).map(create).collect());
        let ids: Vec<String> = bodies.iter().map(|body| volume_id(body)).collect();
        // moto walks all its volumes for every call: it is measured with 1,000, its best case.
        let moto = (count == options.volumes[0]).then_some(&moto).and_then(Option::as_ref);
        let bench = Bench { options, port, count, moto };
        let moto_ids = moto.map(|moto| moto.ids.clone()).unwrap_or_default();
        let pick = |ids: &[String]| {
            let ids = ids.to_vec();
            move |n: u64| by_ids(std::slice::from_ref(&ids[(n as usize).wrapping_mul(7919) % ids.len()]))
        };
        let fifty = |ids: &[String]| {
            let ids = ids.to_vec();
            move |n: u64| {
                let at = (n as usize).wrapping_mul(7919) % (ids.len() - 50);
                by_ids(&ids[at..at + 50])
            }
        };
        bench.call("DescribeVolumes by id", pick(&ids), (!moto_ids.is_empty()).then(|| pick(&moto_ids)));
        let tags = move |n: u64| by_tag((n as usize).wrapping_mul(7919) % count);
        bench.call("DescribeVolumes by tag", tags, moto.map(|_| |n: u64| by_tag((n as usize).wrapping_mul(7919) % 1_000)));
        bench.call("DescribeVolumes, 50 ids", fifty(&ids), (!moto_ids.is_empty()).then(|| fifty(&moto_ids)));
        let base = count as u64;
        bench.call("CreateVolume", move |n| create(base + n), moto.map(|_| create));
        bench.attach_detach(&ebbtide, &ids);
        bench.access_points(&ebbtide);
    }
}

struct Bench<'a> {
    options: &'a Options,
    port: u16,
    count: usize,
    moto: Option<&'a Moto>,
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        self.options.call.as_deref().is_none_or(|part| name.contains(part))
    }

    /// Measures one call at 1 and 16 connections.
    fn call<F, M>(&self, name: &str, make: F, moto: Option<M>)
    where
        F: Fn(u64) -> Request + Clone + Send + Sync + 'static,
        M: Fn(u64) -> Request + Clone + Send + Sync + 'static,
    {
        if !self.wants(name) {
            return;
        }
        let sample = load::all(self.port, vec![make(u64::from(u32::MAX))]).remove(0);
        // Counted over both runs: no request is sent twice.
        let (next, moto_next) = (Arc::default(), Arc::default());
        for connections in [1, 16] {
            let limit = Limit::start(&sample);
            self.turns(name, connections, self.options.seconds, |seconds| {
                let ours = load::rate(self.port, connections, seconds, &next, make.clone());
                let bare = load::rate(limit.port, connections, seconds, &Arc::default(), make.clone());
                let moto = self.moto.zip(moto.clone());
                let moto = moto.map(|(server, make)| load::rate(server.port, connections, seconds, &moto_next, make));
                (ours, bare, moto)
            });
        }
    }

    /// Measures ours, the limit and moto in turns, and prints the sums.
    fn turns(&self, name: &str, connections: usize, seconds: f64, turn: impl Fn(f64) -> (Tally, Tally, Option<Tally>)) {
        let (mut ours, mut limit, mut moto) = (Tally::default(), Tally::default(), None::<Tally>);
        for _ in 0..ROUNDS {
            let (a, b, c) = turn(seconds / ROUNDS as f64);
            ours += a;
            limit += b;
            if let Some(tally) = c {
                *moto.get_or_insert_default() += tally;
            }
        }
        self.row(name, connections, ours.rate(), limit.rate(), moto.map(Tally::rate));
    }

    fn row(&self, name: &str, connections: usize, ours: f64, limit: f64, moto: Option<f64>) {
        let (moto, times) = match moto {
            Some(moto) => (format!("{moto:.1}"), format!("{:.0}", ours / moto)),
            None => ("-".into(), "-".into()),
        };
        println!("{name:<28} {:>8} {connections:>5} {ours:>10.0} {limit:>10.0} {:>9.2} {moto:>9} {times:>8}", self.count, ours / limit);
    }

    /// Attach and detach without devices: pairs a second, each connection with volumes of its own.
    fn attach_detach(&self, ebbtide: &Ebbtide, ids: &[String]) {
        if !self.wants("AttachVolume+DetachVolume") {
            return;
        }
        let instance = instance(ebbtide);
        let sample = pairs(self.port, 1, 0.0, &instance, ids).1;
        for connections in [1usize, 16] {
            let limit = Limit::start(&sample);
            self.turns("AttachVolume+DetachVolume", connections, self.options.seconds, |seconds| {
                let ours = pairs(self.port, connections, seconds, &instance, ids).0;
                let mut bare = load::rate(limit.port, connections, seconds, &Arc::default(), |_| attach("i-0", "vol-0", 0));
                // A pair is two calls.
                bare.calls /= 2;
                (ours, bare, self.moto.map(|moto| pairs(moto.port, connections, seconds, &moto.instance, &moto.ids).0))
            });
        }
    }

    /// Over several file systems, since one takes 10,000 access points.
    fn access_points(&self, ebbtide: &Ebbtide) {
        if !self.wants("CreateAccessPoint") {
            return;
        }
        let made = |n: usize| {
            let fs = ebbtide.aws(&["efs", "create-file-system", "--creation-token", &format!("bench-{n}")]);
            fs["FileSystemId"].as_str().expect("a file system").to_owned()
        };
        let file_systems: Vec<String> = (0..FILE_SYSTEMS).map(made).collect();
        let make = |ids: &[String]| {
            let ids = ids.to_vec();
            move |n: u64| {
                let id = &ids[n as usize % ids.len()];
                let body = format!(
                    r#"{{"ClientToken":"t-{n}","FileSystemId":"{id}","PosixUser":{{"Uid":50000,"Gid":50000}},"RootDirectory":{{"Path":"/pvc-{n}","CreationInfo":{{"OwnerUid":50000,"OwnerGid":50000,"Permissions":"700"}}}},"Tags":[{{"Key":"efs.csi.aws.com/cluster","Value":"true"}}]}}"#
                );
                post("/2015-02-01/access-points", "elasticfilesystem", "application/json", &body)
            }
        };
        let sample = load::all(self.port, vec![make(&file_systems)(u64::from(u32::MAX))]).remove(0);
        let (next, moto_next): (Arc<AtomicU64>, Arc<AtomicU64>) = (Arc::default(), Arc::default());
        for connections in [1, 16] {
            let limit = Limit::start(&sample);
            self.turns("CreateAccessPoint", connections, self.options.seconds, |seconds| {
                let ours = load::rate(self.port, connections, seconds, &next, make(&file_systems));
                let bare = load::rate(limit.port, connections, seconds, &Arc::default(), make(&file_systems));
                let moto = self
                    .moto
                    .map(|moto| load::rate(moto.port, connections, seconds, &moto_next, make(std::slice::from_ref(&moto.file_system))));
                (ours, bare, moto)
            });
        }
    }
}

/// A bare server that gives the same answer to everything.
struct Limit {
    port: u16,
    _server: Kept,
    _body: tempfile::NamedTempFile,
}

impl Limit {
    fn start(body: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), body).expect("writing the body");
        let port = free_port();
        let server = Kept::start(
            Command::new(std::env::current_exe().expect("own path")).arg("--serve").arg(file.path()).env("PORT", port.to_string()),
        );
        wait_port(port, Duration::from_secs(5));
        Self { port, _server: server, _body: file }
    }
}

pub fn instance(ebbtide: &Ebbtide) -> String {
    let all = ebbtide.aws(&["ec2", "describe-instances", "--filters", "Name=availability-zone,Values=us-east-1a"]);
    all["Reservations"][0]["Instances"][0]["InstanceId"].as_str().expect("an instance in us-east-1a").to_owned()
}

pub fn attach(instance: &str, volume: &str, n: usize) -> Request {
    let device = format!("/dev/xvd{}{}", char::from(b'b' + (n / 26) as u8), char::from(b'a' + (n % 26) as u8));
    ec2(&format!("Action=AttachVolume&Version=2016-11-15&VolumeId={volume}&InstanceId={instance}&Device={}", device.replace('/', "%2F")))
}

pub fn detach(instance: &str, volume: &str) -> Request {
    ec2(&format!("Action=DetachVolume&Version=2016-11-15&VolumeId={volume}&InstanceId={instance}"))
}

/// Pairs of attach and detach, each connection with a volume of its own, at least one pair a connection; also a body of
/// AttachVolume. A detach that is still running is waited for by the next attach.
fn pairs(port: u16, connections: usize, seconds: f64, instance: &str, ids: &[String]) -> (Tally, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let started = std::time::Instant::now();
        let until = started + Duration::from_secs_f64(seconds);
        let tasks: Vec<_> = (0..connections)
            .map(|at| {
                let (up, down) = (attach(instance, &ids[at], at), detach(instance, &ids[at]));
                tokio::spawn(async move {
                    let mut connection = load::Connection::open(port).await.expect("a connection");
                    let (mut pairs, mut sample) = (0u64, Vec::new());
                    while pairs == 0 || std::time::Instant::now() < until {
                        sample = accepted(&mut connection, &up, &["IncorrectState", "VolumeInUse"]).await;
                        accepted(&mut connection, &down, &["IncorrectState"]).await;
                        pairs += 1;
                    }
                    (pairs, sample)
                })
            })
            .collect();
        let (mut calls, mut sample) = (0, Vec::new());
        for task in tasks {
            let (pairs, body) = task.await.expect("a task");
            calls += pairs;
            sample = body;
        }
        (Tally { calls, time: started.elapsed() }, sample)
    })
}

/// Sends a request until it is accepted; the errors in `meanwhile` say that something is still on its way.
async fn accepted(connection: &mut load::Connection, request: &[u8], meanwhile: &[&str]) -> Vec<u8> {
    loop {
        let answer = connection.call(request).await.expect("an answer");
        if answer.status == 200 {
            return answer.body;
        }
        let text = String::from_utf8_lossy(&answer.body);
        assert!(meanwhile.iter().any(|code| text.contains(code)), "{text}");
    }
}

/// moto's server with some volumes in it.
struct Moto {
    _server: Kept,
    port: u16,
    ids: Vec<String>,
    instance: String,
    file_system: String,
}

impl Moto {
    /// None, with a line that says so, where moto is not installed.
    fn start(volumes: u64) -> Option<Self> {
        if !std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join("moto_server").is_file()) {
            println!("(moto is not installed: `scripts/setup bench` installs it)");
            return None;
        }
        let port = free_port();
        let server = Kept::start(Command::new("moto_server").args(["-H", "127.0.0.1", "-p", &port.to_string()]));
        wait_port(port, Duration::from_secs(30));
        let bodies = load::all(port, (0..volumes).map(create).collect());
        let run = "Action=RunInstances&Version=2016-11-15&ImageId=ami-12c6146b&MinCount=1&MaxCount=1&Placement.AvailabilityZone=us-east-1a";
        let body = load::all(port, vec![ec2(run)]).remove(0);
        let body = String::from_utf8_lossy(&body).into_owned();
        let instance = body.split("<instanceId>").nth(1)?.split('<').next()?.to_owned();
        let body = load::all(
            port,
            vec![post("/2015-02-01/file-systems", "elasticfilesystem", "application/json", r#"{"CreationToken":"bench"}"#)],
        )
        .remove(0);
        let file_system = serde_json::from_slice::<serde_json::Value>(&body).ok()?["FileSystemId"].as_str()?.to_owned();
        Some(Self { _server: server, port, ids: bodies.iter().map(|body| volume_id(body)).collect(), instance, file_system })
    }
}
