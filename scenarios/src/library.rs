//! The scenarios that come with ebbtide.

use std::path::{Path, PathBuf};

use crate::language::{LoadError, Scenario, parse};

/// Name and text of each file in `library/` and its folders, in the order of their paths (made by `build.rs`).
const LIBRARY: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// A world in which each scenario of the library that can be played on real devices finds its nodes (`ebbtide up --world`).
pub const LIVE_WORLD: &str = "\
# Two nodes in one zone, and one in another.
instances:
- {privateIp: 10.0.1.10, zone: us-east-1a, type: m5.large}
- {privateIp: 10.0.1.11, zone: us-east-1a, type: m5.large}
- {privateIp: 10.0.2.10, zone: us-east-1b, type: m5.large}
";

/// The library: name and text of each file.
pub fn library() -> &'static [(&'static str, &'static str)] {
    LIBRARY
}

/// Reads scenarios: all in a directory and its folders, the whole library (`library`), or one as [`load`] does. Each comes with the name
/// by which it is loaded again: its file's path, or its name in the library.
pub fn load_all(path_or_name: &str) -> Result<Vec<(String, Scenario)>, LoadError> {
    let path = Path::new(path_or_name);
    if path_or_name == "library" && !path.exists() {
        return LIBRARY.iter().map(|(name, text)| Ok(((*name).to_owned(), parse(name, text)?))).collect();
    }
    if !path.is_dir() {
        return Ok(vec![(path_or_name.to_owned(), load(path_or_name)?)]);
    }
    let mut files = Vec::new();
    collect(path, &mut files).map_err(|source| LoadError::Read { path: path_or_name.into(), source })?;
    files.sort();
    let named = |file: &PathBuf| {
        let name = file.display().to_string();
        load(&name).map(|scenario| (name, scenario))
    };
    files.iter().map(named).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads a scenario: a file, or the name of one of the library (`e01-ebs-static`, or `e01`).
pub fn load(path_or_name: &str) -> Result<Scenario, LoadError> {
    let path = Path::new(path_or_name);
    if path.is_file() {
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path_or_name.into(), source })?;
        return parse(path_or_name, &text);
    }
    let short = |name: &str| name.split('-').next() == Some(path_or_name);
    match LIBRARY.iter().find(|(name, _)| *name == path_or_name || short(name)) {
        Some((name, text)) => parse(name, text),
        None => {
            let library = LIBRARY.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Err(LoadError::Unknown { name: path_or_name.into(), library })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::{EngineName, Fault, Op};

    #[test]
    fn the_library_loads_under_its_names() {
        for (name, _) in library() {
            let scenario = load(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.metadata.name, *name);
        }
        assert_eq!(load("f02").unwrap().metadata.name, "f02-efs-dynamic");
    }

    #[test]
    fn the_live_world_has_the_nodes_of_each_live_scenario() {
        let world: model_aws::world::World = serde_yaml::from_str(LIVE_WORLD).unwrap();
        for (_, scenario) in load_all("library").unwrap().iter().filter(|(_, scenario)| scenario.plays_in(EngineName::Live)) {
            let nodes: Vec<_> = scenario.spec.world.iter().flat_map(|world| &world.nodes).collect();
            for node in &nodes {
                let wanted = nodes.iter().filter(|other| other.zone == node.zone).count();
                let there = world.nodes().iter().filter(|other| other.zone == node.zone).count();
                assert!(there >= wanted, "{} wants {wanted} nodes in {}", scenario.metadata.name, node.zone);
            }
        }
    }

    fn operations(scenario: &Scenario) -> impl Iterator<Item = &Op> {
        scenario.spec.steps.iter().flat_map(|step| step.attempt.iter().chain(&step.catch).chain(&step.finally))
    }

    #[test]
    fn what_is_not_played_on_real_devices_says_why_and_the_rest_can_be() {
        let seen = crate::live::check::names(None, true);
        for (name, scenario) in load_all("library").unwrap() {
            assert!(scenario.spec.engines.is_none(), "{name}: say in notIn why a world cannot play it");
            if !scenario.plays_in(EngineName::Live) {
                continue;
            }
            for op in operations(&scenario) {
                if let Op::Fault(Fault::Cluster(trouble)) = op {
                    assert_eq!(crate::live::trouble::why_not(trouble), None, "{name}: {trouble:?}");
                }
            }
            for violated in scenario.expected().iter().map(|expect| expect.violated.as_str()) {
                assert!(violated == "no-leak" || seen.iter().any(|seen| seen == violated), "{name}: nobody sees {violated} there");
            }
        }
    }

    #[test]
    fn a_directory_is_all_its_scenarios() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/library");
        let all = load_all(directory).unwrap();
        assert_eq!(all.len(), library().len());
        for (file, scenario) in &all {
            assert_eq!(load(file).unwrap(), *scenario);
        }
        assert_eq!(load_all("e01").unwrap()[0].0, "e01");
    }

    #[test]
    fn an_unknown_name_says_what_there_is() {
        let error = load("e99").unwrap_err().to_string();
        assert!(error.contains("`e99`") && error.contains("e01-ebs-static"), "{error}");
    }

    #[test]
    fn a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.yaml");
        std::fs::write(&path, LIBRARY[0].1).unwrap();
        assert_eq!(load(path.to_str().unwrap()).unwrap(), load("e01").unwrap());
    }
}
