//! Runs cargo on this workspace.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A cargo command on this workspace, the one that started this program.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(arguments);
    command
}

/// Runs cargo to its end.
///
/// # Errors
/// When it fails.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    finish(cargo(arguments), arguments)
}

/// [`run`], without the compiler's flags that the environment has: what is measured is built like what ships.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_without_flags(arguments: &[&str]) -> Result<()> {
    let mut command = cargo(arguments);
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    finish(command, arguments)
}

fn finish(mut command: Command, arguments: &[&str]) -> Result<()> {
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", arguments.join(" "));
    Ok(())
}

/// A program that runs tests.
pub(crate) struct TestBinary {
    /// Directory of its package, in which it expects to run.
    pub(crate) package: PathBuf,
    /// Its name, as in `interop`.
    pub(crate) name: String,
    program: PathBuf,
}

/// What of cargo's messages is needed here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all tests; gives the programs that run them.
///
/// # Errors
/// When cargo fails.
pub(crate) fn build_tests() -> Result<Vec<TestBinary>> {
    let mut binaries = Vec::new();
    for message in messages(&["test", "--workspace", "--no-run"])? {
        let is_test = message.reason == "compiler-artifact" && message.profile.is_some_and(|profile| profile.test);
        let parts = message.executable.zip(message.manifest_path).zip(message.target).filter(|_| is_test);
        let Some(((program, manifest), target)) = parts else { continue };
        let package = manifest.parent().unwrap_or(workspace()).to_owned();
        binaries.push(TestBinary { package, name: target.name, program });
    }
    Ok(binaries)
}

/// Builds by these arguments; gives the program `name` that is among what was built, in whatever directory cargo puts it.
///
/// # Errors
/// When cargo fails, or builds no such program.
pub(crate) fn build(name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let is_it = |message: &Message| message.target.as_ref().is_some_and(|target| target.name == name);
    let program = messages(arguments)?.into_iter().filter(is_it).find_map(|message| message.executable);
    program.with_context(|| format!("`cargo {}` has built no `{name}`", arguments.join(" ")))
}

/// Runs cargo to its end; gives what it says for programs.
fn messages(arguments: &[&str]) -> Result<Vec<Message>> {
    let arguments = [arguments, &["--message-format=json-render-diagnostics"]].concat();
    let output = cargo(&arguments).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "`cargo {}` failed ({})", arguments.join(" "), output.status);
    let read = |line: std::io::Result<String>| {
        let line = line.context("read what cargo prints")?;
        serde_json::from_str(&line).with_context(|| format!("read cargo's message {line}"))
    };
    output.stdout.lines().map(read).collect()
}

impl TestBinary {
    /// Whether this is what `tests/NAME` of the package at `directory` of the workspace makes.
    pub(crate) fn is(&self, directory: &str, name: &str) -> bool {
        self.package == workspace().join(directory) && self.name == name
    }

    /// A command that runs its tests.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package);
        command
    }
}

/// A command that runs the examples in the documentation.
pub(crate) fn doc_tests() -> Command {
    cargo(&["test", "--workspace", "--doc", "--no-fail-fast", "--"])
}

/// Runs tests, passing on what they print but for what passed tests printed, of which only the lines that begin with
/// `SKIPPED:` are added to `skipped`. Whether all passed.
///
/// # Errors
/// When they cannot be run.
pub(crate) fn test(mut command: Command, skipped: &mut Vec<String>) -> Result<bool> {
    let doing = format!("run {}", Path::new(command.get_program()).display());
    let mut child = command.arg("--show-output").stdout(Stdio::piped()).spawn().context(doing)?;
    let output = child.stdout.take().context("read what tests print")?;
    let mut passed = false;
    for line in BufReader::new(output).lines() {
        let line = line.context("read what tests print")?;
        if line.starts_with("SKIPPED:") && !skipped.contains(&line) {
            skipped.push(line.clone());
        }
        passed = match line.as_str() {
            "successes:" => true,
            "failures:" => false,
            // A result line ends a section of passed tests' output.
            other if other.starts_with("test result:") => false,
            _ => passed,
        };
        if !passed {
            println!("{line}");
        }
    }
    Ok(child.wait().context("wait for tests")?.success())
}
