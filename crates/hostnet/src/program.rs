//! Programs of the system that set what netlink would take a protocol of its own for.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a program to its end. None: it did not come back in time.
pub(crate) async fn run(name: &str, arguments: &[&str], input: &str, limit: Duration) -> io::Result<Option<Output>> {
    let run = async {
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    tokio::time::timeout(limit, run).await.ok().transpose()
}
