//! `ebbtide env`: the variables that point every client here.

use std::process::ExitCode;

use crate::args::{DATA_DIR, EnvArgs, EnvShell, Format};
use crate::state::Up;

pub fn env(args: &EnvArgs) -> anyhow::Result<ExitCode> {
    let variables: Vec<(&str, String)> = if args.unset {
        NAMES.iter().map(|name| (*name, String::new())).collect()
    } else {
        let places = args.data.places()?;
        let up = Up::running(&places)?;
        // The secret is the user's: with `--auth verify` and a secret of their own they have it already.
        let secret = std::env::var("EBBTIDE_SECRET_KEY").unwrap_or_else(|_| "test".into());
        let path = |path: &std::path::Path| path.display().to_string();
        let values =
            [up.endpoint(), up.access_key.clone(), secret, up.region.clone(), up.region.clone(), path(&up.kubeconfig), path(places.data())];
        NAMES.into_iter().zip(values).collect()
    };
    if args.data.output == Format::Json {
        let map: serde_json::Map<_, _> = variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        println!("{}", serde_json::to_string_pretty(&map)?);
        return Ok(ExitCode::SUCCESS);
    }
    let fish = match args.shell {
        Some(shell) => shell == EnvShell::Fish,
        None => std::env::var("SHELL").is_ok_and(|shell| shell.ends_with("/fish")),
    };
    for (name, value) in variables {
        let value = quote(&value);
        match (args.unset, fish) {
            (false, false) => println!("export {name}={value}"),
            (false, true) => println!("set -gx {name} {value}"),
            (true, false) => println!("unset {name}"),
            (true, true) => println!("set -e {name}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The last is for ebbtide's own commands.
const NAMES: [&str; 7] =
    ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "KUBECONFIG", DATA_DIR];

/// A word that every shell reads back unchanged.
fn quote(word: &str) -> String {
    if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@%+=".contains(c)) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_with_spaces_are_quoted() {
        assert_eq!(super::quote("http://127.0.0.1:4566"), "http://127.0.0.1:4566");
        assert_eq!(super::quote("/a b/it's"), r"'/a b/it'\''s'");
    }
}
