//! `exec` in the virtual world: what a command sees and does in a container.

use k8s_openapi::api::core::v1 as core;
use model_node::volume_manager::PodUid;

use super::World;
use super::files::Tree;
use super::programs::Look;
use crate::engine::{EngineError, Output};
use crate::invariants::Seen;

impl World {
    /// `exec` of a command that looks at files, or writes a line.
    pub(super) fn look(&mut self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> Result<Output, EngineError> {
        let refused = |reason: &str, message: String| EngineError::Kubernetes { reason: reason.into(), message };
        let object = self.store.get::<core::Pod>(namespace, pod).ok_or_else(|| refused("NotFound", format!("pods \"{pod}\" not found")))?;
        let uid = PodUid::from(object.metadata.uid.as_deref().unwrap_or_default());
        let spec = object.spec.as_ref();
        let first = spec.and_then(|spec| spec.containers.first()).map(|container| container.name.clone()).unwrap_or_default();
        let name = container.map_or(first, str::to_owned);
        let node_name = spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if node_name.is_empty() {
            return Err(refused("BadRequest", format!("pod {pod} does not have a host assigned")));
        }
        let look = Look::parse(command).map_err(EngineError::Unsupported)?;
        let node = self.numbers.get(&node_name).map(|number| &self.nodes[*number]);
        let process = node.and_then(|node| node.containers.get(&(uid.clone(), name.clone())));
        let process =
            process.ok_or_else(|| refused("InternalError", format!("unable to upgrade connection: container not found (\"{name}\")")))?;
        let index = self.numbers.get(&node_name).copied().unwrap_or_default();
        match &look {
            Look::Write { file, line, append } => {
                let failed = |why: &str| format!("sh: can't create {file}: {why}\n");
                let change = |tree: &mut Tree, path: &str| if *append { tree.append(path, line) } else { tree.write(path, line) };
                return Ok(self.change_files(index, (&uid, &name), file, failed, change));
            }
            Look::Remove(directory) => {
                let failed = |why: &str| format!("rm: cannot remove '{directory}': {why}\n");
                return Ok(self.change_files(index, (&uid, &name), directory, failed, |tree, path| tree.remove(path)));
            }
            _ => {}
        }
        let (tree, path) = match process.place(look.path()) {
            Some((mount, _)) if mount.tree.starts_with("fs-") && node.is_some_and(|node| node.io_hangs) => {
                let message = format!("the command hangs: I/O on {} gets no answer on {node_name}", mount.tree);
                return Err(EngineError::Transport { operation: format!("exec in {namespace}/{pod}"), message });
            }
            Some((mount, path)) => (self.trees.get(&mount.tree), path),
            None => (Some(&process.own), look.path().to_owned()),
        };
        let program = &command[0];
        let absent = Output {
            stdout: String::new(),
            stderr: match program.as_str() {
                "head" | "tail" => format!("{program}: cannot open '{}' for reading: No such file or directory\n", look.path()),
                "ls" => format!("ls: cannot access '{}': No such file or directory\n", look.path()),
                _ => format!("{program}: {}: No such file or directory\n", look.path()),
            },
            exit_code: if program == "ls" { 2 } else { 1 },
        };
        let lines = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let stdout = match (&look, tree) {
            (_, None) => return Ok(absent),
            (Look::List(_), Some(tree)) if tree.has_directory(&path) => lines(&tree.names(&path)),
            (Look::List(_), Some(_)) => return Ok(absent),
            // findmnt finds nothing where nothing is mounted.
            (Look::FileSystem(_), Some(tree)) => match process.place(look.path()) {
                Some((mount, _)) if mount.tree.starts_with("fs-") => "nfs4\n".into(),
                Some(_) => lines(&[tree.format.as_deref().unwrap_or_default()]),
                None => return Ok(Output { exit_code: 1, stderr: String::new(), ..absent }),
            },
            (_, Some(tree)) => {
                let Some(text) = tree.read(&path) else { return Ok(absent) };
                let all: Vec<&str> = text.lines().collect();
                match look {
                    Look::Head(n, _) => lines(&all[..n.min(all.len())]),
                    Look::Tail(n, _) => lines(&all[all.len().saturating_sub(n)..]),
                    Look::Cat(_) | Look::List(_) | Look::FileSystem(_) | Look::Write { .. } | Look::Remove(_) => text.to_owned(),
                }
            }
        };
        Ok(Output { stdout, stderr: String::new(), exit_code: 0 })
    }

    /// A program of a container changes a file.
    fn change_files(
        &mut self,
        number: usize,
        (uid, name): (&PodUid, &str),
        file: &str,
        says: impl Fn(&str) -> String,
        change: impl Fn(&mut Tree, &str) -> bool,
    ) -> Output {
        let failed = |why: &str| Output { stdout: String::new(), stderr: says(why), exit_code: 1 };
        let node = &mut self.nodes[number];
        let Some(process) = node.containers.get_mut(&(uid.clone(), name.to_owned())) else { return failed("No such file or directory") };
        let (tree, path, mounted) = match process.place(file) {
            Some((mount, _)) if mount.read_only => return failed("Read-only file system"),
            // Without its device a mounted file system answers EIO.
            Some((mount, _)) if mount.tree.starts_with("vol-") && !node.devices.contains_key(&mount.tree) => {
                return failed("Input/output error");
            }
            Some((mount, path)) => {
                let id = mount.tree.clone();
                (self.trees.get_mut(&id), path, Some(id))
            }
            None => (Some(&mut process.own), file.to_owned(), None),
        };
        if !tree.is_some_and(|tree| change(tree, &path)) {
            return failed("No such file or directory");
        }
        if let Some(tree) = mounted {
            self.see_node(number, |node| Seen::Wrote { node, pod: uid, tree: &tree });
        }
        Output { stdout: String::new(), stderr: String::new(), exit_code: 0 }
    }
}
