//! The `ebbtide` command. One multi-call binary: called as `mount.efs` it is EFS's mount helper (or lets the real one into the node's
//! network), as `mount.nfs4` and `efs-proxy` what runs below the real one, and the hidden subcommands are what it runs inside a node.

mod agent;
mod args;
mod campaign;
mod check;
mod demo;
mod doctor;
mod efs;
mod env;
mod fault;
mod import;
mod kind;
mod metadata;
mod node;
mod output;
mod registrar;
mod run;
mod search;
mod state;
mod status;
mod up;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Requests and answers are many small allocations, made and dropped by several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let argv0 = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&argv0).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(real) = emulator_node::efs_utils::enter::stands_for(name) {
        return emulator_node::efs_utils::enter::main(real, std::env::args_os().skip(1));
    }
    match name {
        "mount.efs" => return fuse_fs::mount_efs::main(std::env::args_os()),
        "mount.nfs4" => return fuse_fs::shims::mount_nfs4::main(std::env::args_os()),
        "efs-proxy" => return fuse_fs::shims::efs_proxy::main(std::env::args_os()),
        _ => {}
    }
    // Before any thread exists: this becomes a container's first process.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "container-init" || arg == "container-exec") {
        emulator_node::pods::container_init_main();
    }
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Up(_) | Command::Node(_) | Command::Demo(_)) {
        end_with_the_pipe();
    }
    output::start_log(&cli);
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ebbtide: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A command that only prints ends quietly when its reader goes (`ebbtide run --schema | head`); Rust would make that a panic.
fn end_with_the_pipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of ours.
    // The call fails only for signals that cannot be caught; SIGPIPE can.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(args) => up::up(&args),
        Command::Down(args) => status::down(&args),
        Command::Status(args) => status::status(&args),
        Command::Env(args) => env::env(&args),
        Command::Reset(args) => status::reset(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Run(args) => run::run(&args),
        Command::Report(args) => campaign::report(&args),
        Command::Search(args) => search::search(&args),
        Command::Replay(args) => search::replay(&args),
        Command::Trace(args) => search::trace(&args),
        Command::Check(args) => check::check(&args),
        Command::Import(args) => import::import(&args),
        Command::Node(args) => node::node(args),
        Command::Fault(args) => fault::fault(&args),
        Command::Kind(args) => kind::kind(&args),
        Command::CsiRegistrar(args) => registrar::run(&args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "ebbtide", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
