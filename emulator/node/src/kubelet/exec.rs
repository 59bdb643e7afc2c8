//! Commands in containers for clients: `kubectl exec` (kube-api.md §7).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::pods::{Container, ExecStdio, Executed, Runtime, exec_error};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Runs a command in a container for a client: its streams as frames of the channel protocol, its end as the last one.
pub async fn run_exec(
    runtime: Runtime,
    container: Arc<Container>,
    argv: Vec<String>,
    stdin: bool,
    tty: bool,
    report: PathBuf,
    socket: WebSocket,
) {
    let (mut to_client, mut from_client) = socket.split();
    let (sender, mut frames) = mpsc::channel::<Vec<u8>>(16);
    let writer = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if to_client.send(Message::Binary(frame.into())).await.is_err() {
                return;
            }
        }
        let _ = to_client.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await;
    });
    let _ = sender.send(vec![STDOUT]).await;
    let status = match start_exec(&runtime, &container, argv, stdin, tty, &report).await {
        Err(error) => internal(&format!("error executing command in container: {error}")),
        Ok(mut started) => {
            let mut copies = Vec::new();
            for (channel, output) in started.outputs.drain(..) {
                copies.push(tokio::spawn(copy_out(channel, output, sender.clone())));
            }
            let mut input = started.input.take();
            let terminal = started.terminal.take();
            let mut child = started.child;
            let mut client_gone = false;
            let code = loop {
                tokio::select! {
                    status = child.wait() => break status.ok().and_then(|status| status.code()).unwrap_or(137),
                    message = from_client.next(), if !client_gone => match message {
                        Some(Ok(Message::Binary(frame))) => match frame.split_first() {
                            Some((&STDIN, bytes)) => if let Some(writer) = &mut input && (writer.write_all(bytes).await.is_err() || writer.flush().await.is_err()) {
                                input = None;
                            },
                            // v5: the client closes a channel.
                            Some((&CLOSE, [STDIN, ..])) => input = None,
                            Some((&RESIZE, size)) => if let Some(terminal) = &terminal {
                                resize(terminal, size);
                            },
                            _ => {}
                        },
                        Some(Ok(Message::Close(_)) | Err(_)) | None => {
                            // As with a real runtime, the command goes with its client.
                            client_gone = true;
                            let _ = child.start_kill();
                        }
                        Some(Ok(_)) => {}
                    },
                }
            };
            drop(terminal);
            for copy in copies {
                // A background process may keep the output open; what was written by now is sent.
                let _ = tokio::time::timeout(Duration::from_millis(500), copy).await;
            }
            exec_status(code, &report)
        }
    };
    let mut frame = vec![ERROR];
    frame.extend_from_slice(status.to_string().as_bytes());
    let _ = sender.send(frame).await;
    drop(sender);
    let _ = tokio::time::timeout(Duration::from_secs(5), writer).await;
}

fn exec_status(code: i32, report: &Path) -> serde_json::Value {
    match (code, exec_error(report)) {
        (_, Some(why)) => internal(&format!("error executing command in container: failed to exec in container: {why}")),
        (0, None) => json!({"metadata": {}, "status": "Success"}),
        (code, None) => json!({"metadata": {}, "status": "Failure",
            "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
    }
}

fn internal(message: &str) -> serde_json::Value {
    json!({"metadata": {}, "status": "Failure", "message": format!("Internal error occurred: {message}"), "reason": "InternalError",
        "details": {"causes": [{"message": message}]}, "code": 500})
}

type Output = Box<dyn AsyncRead + Send + Unpin>;

struct Exec {
    child: tokio::process::Child,
    input: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    outputs: Vec<(u8, Output)>,
    terminal: Option<OwnedFd>,
}

async fn start_exec(
    runtime: &Runtime,
    container: &Container,
    argv: Vec<String>,
    stdin: bool,
    tty: bool,
    report: &Path,
) -> std::io::Result<Exec> {
    if !tty {
        let mut child = runtime.exec(container, argv, ExecStdio::Pipes { stdin }, report).await?.child;
        let mut outputs: Vec<(u8, Output)> = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            outputs.push((STDOUT, Box::new(stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            outputs.push((STDERR, Box::new(stderr)));
        }
        let input = child.stdin.take().map(|stdin| Box::new(stdin) as Box<_>);
        return Ok(Exec { child, input, outputs, terminal: None });
    }
    let Executed { child, terminal } = runtime.exec(container, argv, ExecStdio::Terminal, report).await?;
    let mut started = Exec { child, input: None, outputs: Vec::new(), terminal: None };
    if let Some(outer) = terminal {
        // A terminal is polled, read and written as a pipe is; the runtime has no type for it.
        let file = || outer.try_clone().map(std::fs::File::from);
        started.outputs.push((STDOUT, Box::new(pipe::Receiver::from_file_unchecked(file()?)?)));
        if stdin {
            started.input = Some(Box::new(pipe::Sender::from_file_unchecked(file()?)?));
        }
        started.terminal = Some(outer);
    }
    Ok(started)
}

async fn copy_out(channel: u8, mut output: Output, sender: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 8192];
    // A terminal whose other end is closed answers EIO: the end.
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        let mut frame = Vec::with_capacity(read + 1);
        frame.push(channel);
        frame.extend_from_slice(&buffer[..read]);
        if sender.send(frame).await.is_err() {
            return;
        }
    }
}

fn resize(terminal: &OwnedFd, size: &[u8]) {
    let Ok(size) = serde_json::from_slice::<serde_json::Value>(size) else { return };
    let part = |name: &str| size[name].as_u64().and_then(|value| u16::try_from(value).ok()).unwrap_or(0);
    let size = libc::winsize { ws_row: part("Height"), ws_col: part("Width"), ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which lives until the call returns.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_says_how_the_command_ended() {
        let none = Path::new("/nonexistent/report");
        assert_eq!(exec_status(0, none), json!({"metadata": {}, "status": "Success"}));
        assert_eq!(exec_status(3, none)["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
