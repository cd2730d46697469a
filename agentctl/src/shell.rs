//! Completions and manual pages, made from the command line's own definition.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::generate;

use crate::cli::{Cli, Shell};
use crate::exit::{Exit, Failure};

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: Shell, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    // The generator panics where it cannot write, so it writes to memory.
    let mut script = Vec::new();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    generate(shell, &mut command, "agentctl", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}

/// Writes a page for every command and prints where they are.
pub(crate) fn man(dir: &Path, out: &mut dyn Write) -> Result<Exit, Failure> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![&command];
    while let Some(page) = pages.pop() {
        pages.extend(page.get_subcommands());
        let man = clap_mangen::Man::new(page.clone());
        let path = dir.join(man.get_filename());
        let mut text = Vec::new();
        man.render(&mut text)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(Exit::Ok)
}
