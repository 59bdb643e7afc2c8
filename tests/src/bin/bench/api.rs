//! The AWS API: calls a second at 1 and 16 connections, beside the limit and moto.

use std::process::Command;
use std::time::Duration;

use ebbtide_tests::Ebbtide;

use crate::load::{self, Request, ec2, post};
use crate::{Kept, Options, free_port, wait_port};

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

fn volume_id(body: &[u8]) -> String {
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
        let port: u16 = ebbtide.endpoint().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
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
    /// Measures one call at 1 and 16 connections.
    fn call<F, M>(&self, name: &str, make: F, moto: Option<M>)
    where
        F: Fn(u64) -> Request + Clone + Send + Sync + 'static,
        M: Fn(u64) -> Request + Clone + Send + Sync + 'static,
    {
        let sample = load::all(self.port, vec![make(u64::from(u32::MAX))]).remove(0);
        for connections in [1, 16] {
            let ours = load::rate(self.port, connections, self.options.seconds, make.clone());
            let limit = self.limit(&sample, connections, make.clone());
            let moto = self.moto.zip(moto.clone()).map(|(server, make)| load::rate(server.port, connections, self.options.seconds, make));
            self.row(name, connections, ours, limit, moto);
        }
    }

    fn row(&self, name: &str, connections: usize, ours: f64, limit: f64, moto: Option<f64>) {
        let (moto, times) = match moto {
            Some(moto) => (format!("{moto:.0}"), format!("{:.0}", ours / moto)),
            None => ("-".into(), "-".into()),
        };
        println!("{name:<28} {:>8} {connections:>5} {ours:>10.0} {limit:>10.0} {:>9.2} {moto:>9} {times:>8}", self.count, ours / limit);
    }

    /// What a bare server does with the same requests and the same answer.
    fn limit(&self, body: &[u8], connections: usize, make: impl Fn(u64) -> Request + Send + Sync + 'static) -> f64 {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), body).expect("writing the body");
        let port = free_port();
        let _server = Kept::start(
            Command::new(std::env::current_exe().expect("own path")).arg("--serve").arg(file.path()).env("PORT", port.to_string()),
        );
        wait_port(port, Duration::from_secs(5));
        load::rate(port, connections, self.options.seconds, make)
    }

    /// Attach and detach without devices: pairs a second, each connection with volumes of its own.
    fn attach_detach(&self, ebbtide: &Ebbtide, ids: &[String]) {
        let instance = instance(ebbtide);
        for connections in [1usize, 16] {
            // The requests alternate within a connection only when it has one volume at a time: the pairs are made by hand.
            let (rate, sample) = pairs(self.port, connections, self.options.seconds, &instance, ids);
            let limit = self.limit(&sample, connections, |_| attach("i-0", "vol-0", 0)) / 2.0;
            let moto = self.moto.map(|moto| pairs(moto.port, connections, self.options.seconds, &moto.instance, &moto.ids).0);
            self.row("AttachVolume+DetachVolume", connections, rate, limit, moto);
        }
    }

    fn access_points(&self, ebbtide: &Ebbtide) {
        let fs = ebbtide.aws(&["efs", "create-file-system", "--creation-token", "bench"]);
        let id = fs["FileSystemId"].as_str().expect("a file system").to_owned();
        let make = |id: String, salt: u64| {
            move |n: u64| {
                let body = format!(
                    r#"{{"ClientToken":"t-{salt}-{n}","FileSystemId":"{id}","PosixUser":{{"Uid":50000,"Gid":50000}},"RootDirectory":{{"Path":"/pvc-{n}","CreationInfo":{{"OwnerUid":50000,"OwnerGid":50000,"Permissions":"700"}}}},"Tags":[{{"Key":"efs.csi.aws.com/cluster","Value":"true"}}]}}"#
                );
                post("/2015-02-01/access-points", "elasticfilesystem", "application/json", &body)
            }
        };
        // A file system takes 10,000 access points: fewer seconds, so that the limit is not reached.
        let sample = load::all(self.port, vec![make(id.clone(), 0)(0)]).remove(0);
        for (salt, connections) in [(1, 1), (2, 16)] {
            let seconds = self.options.seconds.min(0.4);
            let ours = load::rate(self.port, connections, seconds, make(id.clone(), salt));
            let limit = self.limit(&sample, connections, make(id.clone(), salt));
            let moto = self.moto.map(|moto| load::rate(moto.port, connections, seconds, make(moto.file_system.clone(), salt)));
            self.row("CreateAccessPoint", connections, ours, limit, moto);
        }
    }
}

fn instance(ebbtide: &Ebbtide) -> String {
    let all = ebbtide.aws(&["ec2", "describe-instances", "--filters", "Name=availability-zone,Values=us-east-1a"]);
    all["Reservations"][0]["Instances"][0]["InstanceId"].as_str().expect("an instance in us-east-1a").to_owned()
}

fn attach(instance: &str, volume: &str, n: usize) -> Request {
    let device = format!("/dev/xvd{}{}", char::from(b'b' + (n / 26) as u8), char::from(b'a' + (n % 26) as u8));
    ec2(&format!("Action=AttachVolume&Version=2016-11-15&VolumeId={volume}&InstanceId={instance}&Device={}", device.replace('/', "%2F")))
}

fn detach(instance: &str, volume: &str) -> Request {
    ec2(&format!("Action=DetachVolume&Version=2016-11-15&VolumeId={volume}&InstanceId={instance}"))
}

/// Pairs of attach and detach a second; also a body of AttachVolume. A detach that is still running is waited for by the next attach.
fn pairs(port: u16, connections: usize, seconds: f64, instance: &str, ids: &[String]) -> (f64, Vec<u8>) {
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
                    while std::time::Instant::now() < until {
                        let answer = connection.call(&up).await.expect("an answer");
                        if answer.status != 200 {
                            let text = String::from_utf8_lossy(&answer.body).into_owned();
                            assert!(text.contains("IncorrectState") || text.contains("VolumeInUse"), "{text}");
                            continue;
                        }
                        sample = answer.body;
                        loop {
                            let answer = connection.call(&down).await.expect("an answer");
                            if answer.status == 200 {
                                break;
                            }
                            let text = String::from_utf8_lossy(&answer.body).into_owned();
                            assert!(text.contains("IncorrectState"), "{text}");
                        }
                        pairs += 1;
                    }
                    (pairs, sample)
                })
            })
            .collect();
        let (mut total, mut sample) = (0, Vec::new());
        for task in tasks {
            let (pairs, body) = task.await.expect("a task");
            total += pairs;
            sample = body;
        }
        (total as f64 / started.elapsed().as_secs_f64(), sample)
    })
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
