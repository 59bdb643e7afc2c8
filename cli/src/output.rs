//! How the command speaks: data on standard output, the log and progress on standard error.

use std::io::IsTerminal;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, Format, NodeCommand};

/// The log: one line a step. Commands that only print data are quiet unless asked.
pub fn start_log(cli: &Cli) {
    let default = match &cli.command {
        Command::Up(_) => "info",
        Command::Node(node) if matches!(node.command, NodeCommand::Run { .. }) => "info",
        _ => "warn",
    };
    let filter = cli.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("ebbtide: --log {filter}: {error}; using {default}");
        EnvFilter::new(default)
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
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
    fn columns_line_up() {
        let table = super::table(&["NAME", "X"], &[vec!["a".into(), "1".into()], vec!["longer".into(), "2".into()]]);
        assert_eq!(table, "NAME     X\na        1\nlonger   2\n");
    }
}
