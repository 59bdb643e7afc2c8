//! `make bench`: figures of a release build, each beside something that runs in the same minutes on the same machine: a bare axum
//! server that answers the same bytes (the limit), and moto (PyPI).
//!
//! ```text
//! bench [--volumes 1000,10000,100000] [--seconds 3] [--only start|pod|attach|api|sim|sim-large] [--call PART_OF_A_NAME]
//! ```

mod api;
mod attach;
mod load;
mod path;
mod sim;
mod start;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the command line says.
pub struct Options {
    pub volumes: Vec<usize>,
    pub seconds: f64,
    only: Option<String>,
    /// Of the API, only the calls whose names have this in them.
    pub call: Option<String>,
}

/// As `ebbtide` has it, whose simulator is measured here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut options = Options { volumes: vec![1_000, 10_000, 100_000], seconds: 3.0, only: None, call: None };
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        match arg.as_str() {
            // The bare server: this program again, as a process of its own.
            "--serve" => return load::serve(&PathBuf::from(value)),
            "--volumes" => options.volumes = value.split(',').filter_map(|n| n.parse().ok()).collect(),
            "--seconds" => options.seconds = value.parse().unwrap_or(3.0),
            "--only" => options.only = Some(value),
            "--call" => options.call = Some(value),
            _ => {
                eprintln!("bench: unknown argument {arg}; see the top of tests/src/bin/bench/main.rs");
                std::process::exit(2);
            }
        }
    }
    println!("machine: {}", machine());
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if wanted("start") {
        start::run();
    }
    if wanted("pod") {
        path::run();
    }
    if wanted("attach") {
        attach::run();
    }
    if wanted("api") {
        api::run(&options);
    }
    if wanted("sim") {
        sim::run();
    }
    if wanted("sim-large") {
        sim::large();
    }
}

/// The processor and kernel, for the heading of BENCHMARKS.md.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} × {model}, Linux {}", kernel.trim())
}

/// `median (best to worst)`.
pub fn spread(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    let at = |n: usize| times.get(n).copied().unwrap_or(f64::NAN);
    format!("{:.3} ({:.3} to {:.3})", at(times.len() / 2), at(0), at(times.len().saturating_sub(1)))
}

/// A child process that ends with its owner.
pub struct Kept(pub Child);

impl Kept {
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}")))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The port of the AWS endpoint.
pub fn port(ebbtide: &ebbtide_tests::Ebbtide) -> u16 {
    ebbtide.endpoint().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// Waits until something answers on a port.
pub fn wait_port(port: u16, limit: Duration) {
    let deadline = Instant::now() + limit;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing answers on port {port} after {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
