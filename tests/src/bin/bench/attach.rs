//! Attach over the API, until the volume shows `attached` (and so has its device), beside `losetup` alone on such a file.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ebbtide_tests::Ebbtide;

use crate::api::{attach, detach, instance, volume_id};
use crate::load::{self, Connection, ec2};

const ROUNDS: usize = 50;
const GIB: u64 = 10;

pub fn run() {
    let ebbtide = Ebbtide::up(&[]);
    let (port, instance) = (crate::port(&ebbtide), instance(&ebbtide));
    let create = ec2(&format!("Action=CreateVolume&Version=2016-11-15&AvailabilityZone=us-east-1a&Size={GIB}"));
    let volume = volume_id(&load::all(port, vec![create]).remove(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut attached, mut detached, mut raised, mut cleared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let directory = tempfile::Builder::new().prefix("ebbtide-bench-").tempdir_in(ebbtide.dir()).expect("a directory");
    let file = directory.path().join("disk");
    std::fs::File::create(&file).and_then(|file| file.set_len(GIB << 30)).expect("a sparse file");
    for round in 0..ROUNDS {
        runtime.block_on(async {
            let mut connection = Connection::open(port).await.expect("a connection");
            until(&mut connection, &volume, "<status>available</status>").await;
            let started = Instant::now();
            let answer = connection.call(&attach(&instance, &volume, round % 8)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            until(&mut connection, &volume, "<status>attached</status>").await;
            attached.push(started.elapsed().as_secs_f64() * 1e3);
            let started = Instant::now();
            let answer = connection.call(&detach(&instance, &volume)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            until(&mut connection, &volume, "<status>available</status>").await;
            detached.push(started.elapsed().as_secs_f64() * 1e3);
        });
        let (device, time) = losetup(&["--direct-io=on", "--find", "--show"], &file);
        raised.push(time);
        cleared.push(losetup(&["--detach"], Path::new(device.trim())).1);
    }
    println!("\nmilliseconds, a {GIB} GiB volume: median (best to worst) of {ROUNDS}, in turns");
    println!("AttachVolume until attached: {:<28} losetup --find --show: {}", crate::spread(&mut attached), crate::spread(&mut raised));
    println!("DetachVolume until available: {:<27} losetup --detach: {}", crate::spread(&mut detached), crate::spread(&mut cleared));
}

/// Asks for the volume until it shows a text.
async fn until(connection: &mut Connection, volume: &str, text: &str) {
    let describe = ec2(&format!("Action=DescribeVolumes&Version=2016-11-15&VolumeId.1={volume}"));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = connection.call(&describe).await.expect("an answer");
        let body = String::from_utf8_lossy(&answer.body);
        if body.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "waited 20 s for {text} in {body}");
    }
}

/// Runs `losetup`; its output and its milliseconds.
fn losetup(args: &[&str], path: &Path) -> (String, f64) {
    let started = Instant::now();
    let output = Command::new("losetup").args(args).arg(path).output().expect("running losetup");
    let time = started.elapsed().as_secs_f64() * 1e3;
    assert!(output.status.success(), "losetup {args:?}: {}", ebbtide_tests::text(&output));
    (String::from_utf8_lossy(&output.stdout).into_owned(), time)
}
