//! kubectl, helm, kind and docker, as they are in PATH.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// How to get a program.
fn advice(program: &str) -> &'static str {
    match program {
        "kubectl" => "install it: https://kubernetes.io/docs/tasks/tools/",
        "helm" => {
            "install it: https://helm.sh/docs/intro/install/; or leave the drivers out with --drivers none, and give the values of \
             `ebbtide kind values ebs|efs` to whatever installs their charts"
        }
        "kind" => {
            "install it: https://kind.sigs.k8s.io/docs/user/quick-start/#installation; or bring the image into the nodes yourself and say \
             --no-load"
        }
        _ => "install it",
    }
}

/// Where a program lies in PATH.
pub fn find(program: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(runs);
    found.with_context(|| format!("{program} is not in PATH; {}", advice(program)))
}

/// Which cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub context: Option<String>,
    pub kubeconfig: Option<PathBuf>,
}

impl Cluster {
    /// The arguments of a kubectl or helm command, its program first.
    fn arguments(&self, program: &str, args: &[&str]) -> Vec<String> {
        let mut all = vec![program.to_owned()];
        if let Some(context) = &self.context {
            all.extend([if program == "helm" { "--kube-context" } else { "--context" }.to_owned(), context.clone()]);
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        all
    }

    /// The command as one would type it.
    pub fn shown(&self, program: &str, args: &[&str]) -> String {
        let quoted = self.arguments(program, args).into_iter().map(|word| {
            match word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,".contains(c)) {
                true => word,
                false => format!("'{}'", word.replace('\'', r"'\''")),
            }
        });
        quoted.collect::<Vec<_>>().join(" ")
    }

    /// Runs it, with `input` on its standard input; it must succeed. What it printed.
    pub fn run(&self, program: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
        let output = self.try_run(program, args, input)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` failed ({}):\n{}", self.shown(program, args), output.status, said.trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn try_run(&self, program: &str, args: &[&str], input: &str) -> anyhow::Result<Output> {
        let words = self.arguments(program, args);
        let mut command = Command::new(find(program)?);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        // A program that ends early reads no more, and says why itself; one that fills its pipes first is read meanwhile.
        let stdin = child.stdin.take();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            child.wait_with_output().with_context(|| format!("waiting for {program}"))
        })
    }
}

/// The addresses of this machine in Docker's network `kind`; none where there is no such network.
pub fn docker_gateways() -> Vec<String> {
    let Ok(docker) = find("docker") else { return Vec::new() };
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
    let output = Command::new(docker).args(["network", "inspect", "kind", "--format", format]).stdin(Stdio::null()).output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Vec::new();
    }
    let mut gateways: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    // IPv4 first: it is what every pod has.
    gateways.sort_by_key(|gateway| gateway.contains(':'));
    gateways
}
