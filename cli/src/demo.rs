//! `ebbtide demo`: the workshop's four exercises on real devices, in an ebbtide of its own that is gone afterwards.

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use emulator_common::places::Places;

use crate::args::DemoArgs;
use crate::run::Teller;
use crate::state::Up;
use crate::up::Signals;
use emulator_common::process::Process;

pub fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demo makes loop devices and mounts, which needs root: sudo make demo (`ebbtide run --list` shows what runs without)");
    }
    let dir = std::env::temp_dir().join(format!("ebbtide-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let places = Places::new(dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut guard = Guard { places: places.clone(), up: None, keep: args.keep };
    let code = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            code = exercises(&places, &mut guard) => code,
            () = signals.wait() => {
                println!("\ninterrupted: cleaning up");
                guard.keep = false;
                Ok(ExitCode::from(130))
            }
        }
    })?;
    let (kept, dir) = (guard.keep, places.data().to_owned());
    drop(guard);
    if kept {
        println!("kept running: eval \"$(ebbtide env --data-dir {0})\"; later: ebbtide reset --yes --data-dir {0}", dir.display());
    }
    if let Some(line) = RESULT.get() {
        println!("{line}");
    }
    Ok(code)
}

/// The last line, printed after everything is cleaned up.
static RESULT: std::sync::OnceLock<String> = std::sync::OnceLock::new();

async fn exercises(places: &Places, guard: &mut Guard) -> anyhow::Result<ExitCode> {
    println!("Starting ebbtide in {} …", places.data().display());
    let started = Instant::now();
    let child = Command::new(std::env::current_exe().context("finding the own program")?)
        .args(["up", "--listen", "127.0.0.1:0", "--kube-listen", "127.0.0.1:0", "--data-dir"])
        .arg(places.data())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(places.data().join("up.log")).context("making the log")?)
        .process_group_of_its_own()
        .spawn()
        .context("starting ebbtide up")?;
    let child = guard.up.insert(child);
    let up = loop {
        if let Ok(up) = Up::running(places) {
            break up;
        }
        if let Some(status) = child.try_wait()? {
            let log = std::fs::read_to_string(places.data().join("up.log")).unwrap_or_default();
            bail!("ebbtide up ended ({status}):\n{log}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    if let Some((node, why)) = up.not_ready.first_key_value() {
        bail!("the node {node} is not Ready: {why}\n(`ebbtide doctor` checks what a node needs)");
    }
    println!(
        "Ready in {:.2} s: {} nodes, AWS {}, Kubernetes https://{}\n",
        started.elapsed().as_secs_f64(),
        up.nodes.len(),
        up.endpoint(),
        up.kube
    );
    let target = up.target(places);
    let (mut passed, mut failed) = (0, 0);
    for (name, _) in scenarios::library().iter().filter(|(name, _)| EXERCISES.contains(name)) {
        let scenario = scenarios::load(name)?;
        println!("{name}: {}", scenario.spec.description);
        let report = scenarios::live::run(&scenario, &target, &scenarios::live::Stop::default(), &mut Teller).await;
        for violation in &report.violations {
            println!("  VIOLATED {}: {}", violation.invariant, violation.message);
        }
        if let Some(error) = &report.error {
            println!("  {error}");
        }
        println!("  {} in {}\n", if report.passed { "passed" } else { "FAILED" }, scenarios::report::short(report.wall));
        if report.passed { passed += 1 } else { failed += 1 }
    }
    if failed > 0 {
        let log = std::fs::read_to_string(places.data().join("up.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("the log ends with:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
    }
    let _ = RESULT.set(format!("{passed} passed, {failed} failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The workshop's exercises in their order.
const EXERCISES: [&str; 4] = ["e01-ebs-static", "e03-ebs-dynamic", "f01-efs-static", "f02-efs-dynamic"];

trait OwnGroup {
    /// The terminal's Ctrl-C reaches the demo only, which then stops the other in order.
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OwnGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

/// Takes everything down again, however the demo ends.
struct Guard {
    places: Places,
    up: Option<Child>,
    keep: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Some(mut child) = self.up.take() {
            if let Some(process) = i32::try_from(child.id()).ok().and_then(Process::of) {
                process.signal(rustix::process::Signal::TERM);
                let deadline = Instant::now() + Duration::from_secs(30);
                while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        crate::node::stop_all(&self.places);
        crate::node::clean(&self.places);
        if let Err(error) = std::fs::remove_dir_all(self.places.data()) {
            eprintln!("ebbtide: removing {}: {error}", self.places.data().display());
        }
        let _ = std::fs::remove_dir_all(self.places.run());
    }
}
