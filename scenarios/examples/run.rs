//! Plays scenarios by hand: `cargo run -p scenarios --example run -- e01 [SEED]`, or
//! `… -- --live http://127.0.0.1:4566 KUBECONFIG e01`.

use scenarios::live::{self, Target};
use scenarios::report::{OpReport, StepReport};
use scenarios::{Observer, load, world};

struct Print;

impl Observer for Print {
    fn step_started(&mut self, number: usize, of: usize, name: &str) {
        println!("[{number}/{of}] {name}");
    }
    fn operation_done(&mut self, operation: &OpReport) {
        println!("    {} ({:.2} s)", operation.what, operation.took.as_secs_f64());
        operation.details.iter().for_each(|detail| println!("        {}", detail.replace('\n', "\n        ")));
    }
    fn step_done(&mut self, step: &StepReport) {
        println!("    {:?}", step.verdict);
    }
    fn note(&mut self, text: &str) {
        println!("    {text}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = match words.as_slice() {
        ["--live", endpoint, kubeconfig, name] => {
            live::run(&load(name)?, &Target::new(*endpoint, *kubeconfig), &live::Stop::default(), &mut Print).await
        }
        [name] => {
            let scenario = load(name)?;
            world::run_watched(&scenario, scenario.spec.seed, &mut Print)
        }
        [name, seed] => world::run(&load(name)?, seed.parse()?),
        _ => return Err("usage: run NAME [SEED] | run --live ENDPOINT KUBECONFIG NAME".into()),
    };
    print!("{}", report.to_text());
    std::process::exit(report.exit_code());
}
