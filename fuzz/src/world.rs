//! A run of the virtual world from bytes. Under `cargo fuzz` a violation that nobody knows a reason for is a crash; built by a stable
//! toolchain, this plays the files that it is given and tells what happened in them.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let played = scenarios::search::play(bytes, false);
    if let Some(violation) = played.unexplained() {
        let text = played.report.to_text();
        panic!("{}: {}\n{text}in words: cargo run -p ebbtide-fuzz -- FILE", violation.invariant, violation.message);
    }
});

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: world FILE...   (each a run as bytes: fuzz/corpus/world, fuzz/artifacts/world)");
        return 2.into();
    }
    let mut worst = 0;
    for file in files {
        let shown = file.display();
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{shown}: {error}");
                worst = 2;
                continue;
            }
        };
        let played = scenarios::search::play(&bytes, true);
        println!("{shown}: {} bytes", bytes.len());
        for told in &played.story {
            println!("  {:10.3} s  {:<34} {}", told.at as f64 / 1e6, told.lane, told.what);
        }
        print!("{}", played.report.to_text());
        worst = worst.max(u8::from(played.unexplained().is_some()));
    }
    worst.into()
}
