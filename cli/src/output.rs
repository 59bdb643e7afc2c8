//! How the command speaks: data on standard output, the log and progress on standard error.

use std::io::IsTerminal;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, Format, NodeCommand};

/// Libraries that log every request that fails: what it means is said by whoever made the request. A filter that names one of
/// them shows it all the same.
const QUIET: &str = "kube_client=off,kube_runtime=error,hyper=error,hyper_util=error,h2=error,tower=error";

/// What a filter shows, with [`QUIET`] before it: of two directives for one target the later one counts.
fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{text}"))
}

/// The log: one line a step. Commands that only print data are quiet unless asked.
pub fn start_log(cli: &Cli) {
    let default = match &cli.command {
        Command::Up(_) => "info",
        Command::Node(node) if matches!(node.command, Some(NodeCommand::Run { .. })) => "info",
        _ => "warn",
    };
    let asked = cli.log.as_deref().unwrap_or(default);
    let shown = filter(asked).unwrap_or_else(|error| {
        eprintln!("ebbtide: --log {asked}: {error}; using {default}");
        filter(default).unwrap_or_default()
    });
    tracing_subscriber::fmt()
        .with_env_filter(shown)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// Prints data as JSON, or the text that `text` makes of it.
pub fn print<T: Serialize>(format: Format, data: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(data)?),
        Format::Text => print!("{}", text(data)),
    }
    Ok(())
}

/// A table with columns as wide as they need to be.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("   ").trim_end())
    };
    let mut out = line(header.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let shows = |text: &str| super::filter(text).map(|filter| filter.to_string()).unwrap_or_default();
        let has = |text: &str, directive: &str| shows(text).split(',').any(|part| part == directive);
        assert!(has("debug", "debug") && has("debug", "kube_client=off"), "{}", shows("debug"));
        assert!(has("info,kube_client=debug", "kube_client=debug"), "{}", shows("info,kube_client=debug"));
        assert!(!has("info,kube_client=debug", "kube_client=off"), "{}", shows("info,kube_client=debug"));
        assert!(super::filter("nosuch=level=x").is_err());
    }

    #[test]
    fn columns_line_up() {
        let table = super::table(&["NAME", "X"], &[vec!["a".into(), "1".into()], vec!["longer".into(), "2".into()]]);
        assert_eq!(table, "NAME     X\na        1\nlonger   2\n");
    }
}
