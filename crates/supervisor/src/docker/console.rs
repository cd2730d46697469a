//! [`Console`] on the Docker API.

use std::pin::Pin;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::stream::StreamExt;
use model::{ExecInput, Output, TerminalSize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{DockerEngine, QUICK};
use crate::console::{Console, ConsoleCommand, Outputs};
use crate::engine::EngineError;

impl Console for DockerEngine {
    async fn written(&self, id: &str, tail: u32, follow: bool) -> Result<Outputs, EngineError> {
        let client = self.client().await?;
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).follow(follow).tail(&tail.to_string()).build();
        let output = client.logs(id, Some(options));
        Ok(output.map(|part| part.map(output_of).map_err(failed("reading the container's output"))).boxed())
    }

    async fn converse(
        &self,
        id: &str,
        command: ConsoleCommand,
        input: mpsc::Receiver<ExecInput>,
    ) -> Result<Outputs, EngineError> {
        let operation = format!("running {} in the container", command.command.first().map_or("nothing", |word| word));
        let terminal = command.terminal;
        let config = ExecConfig {
            user: command.user,
            cmd: Some(command.command),
            tty: Some(terminal.is_some()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let start = StartExecOptions { detach: false, tty: terminal.is_some(), output_capacity: None };
        let (exec, results) = self
            .call(&operation, QUICK, |d| async move {
                let exec = d.create_exec(id, config).await?;
                let results = d.start_exec(&exec.id, Some(start)).await?;
                Ok((exec.id, results))
            })
            .await?;
        let client = self.client().await?;
        let StartExecResults::Attached { output, input: stdin } = results else {
            return Ok(futures_util::stream::empty().boxed());
        };
        if let Some(size) = terminal {
            resize(&client, &exec, size).await;
        }
        let feeding = CancellationToken::new();
        let feed = feed(client.clone(), exec.clone(), stdin, input);
        tokio::spawn(feeding.clone().run_until_cancelled_owned(feed));
        let feeding = feeding.drop_guard();
        let ended = async move {
            // It ends with the output, also while it waits for a command that takes no input.
            let _feeding = feeding;
            let ended = client.inspect_exec(&exec).await.map_err(failed("asking how the command ended"))?;
            Ok(Output::Ended(ended.exit_code.unwrap_or(-1)))
        };
        let output = output.map(move |part| part.map(output_of).map_err(failed(&operation)));
        Ok(output.chain(futures_util::stream::once(ended)).boxed())
    }
}

/// Hands the input on until it ends or the command takes no more.
async fn feed(
    client: Docker,
    exec: String,
    mut stdin: Pin<Box<dyn AsyncWrite + Send>>,
    mut input: mpsc::Receiver<ExecInput>,
) {
    while let Some(part) = input.recv().await {
        let taken = match part {
            ExecInput::Stdin(bytes) => stdin.write_all(&bytes).await.is_ok() && stdin.flush().await.is_ok(),
            ExecInput::Eof => {
                drop(stdin.shutdown().await);
                true
            }
            ExecInput::Size(size) => {
                resize(&client, &exec, size).await;
                true
            }
        };
        if !taken {
            return;
        }
    }
}

/// A terminal of the wrong size is no reason to end a command.
async fn resize(client: &Docker, exec: &str, size: TerminalSize) {
    let options = ResizeExecOptions { height: size.rows, width: size.columns };
    drop(client.resize_exec(exec, options).await);
}

fn output_of(part: LogOutput) -> Output {
    let container = String::new();
    match part {
        LogOutput::StdErr { message } => Output::Stderr { container, bytes: message.to_vec() },
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            Output::Stdout { container, bytes: message.to_vec() }
        }
    }
}

fn failed(operation: &str) -> impl Fn(DockerError) -> EngineError + Send + use<> {
    let operation = operation.to_owned();
    move |source| EngineError::Failed { operation: operation.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn nothing_is_fed_once_nobody_listens_also_where_the_command_takes_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let mut attached = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                if String::from_utf8_lossy(&request[..length]).contains("/start") {
                    let upgrade = b"HTTP/1.1 101 UPGRADED\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
                    stream.write_all(upgrade).await.unwrap();
                    attached.push(stream);
                    continue;
                }
                let body = r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12","Id":"e"}"#;
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
        });
        let engine = DockerEngine::new(&socket, "test");
        let (sender, input) = mpsc::channel(1);
        let command = ConsoleCommand { user: None, command: vec!["sleep".into()], terminal: None };
        let output = engine.converse("c", command, input).await.unwrap();
        // The first is more than the socket holds; the second waits for it.
        for _ in 0..2 {
            sender.send(ExecInput::Stdin(vec![0; 8 << 20])).await.unwrap();
        }
        assert!(!sender.is_closed());
        drop(output);
        timeout(Duration::from_secs(10), sender.closed()).await.unwrap();
    }
}
