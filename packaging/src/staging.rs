//! The files of a package as they will lie on a host.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use tempfile::TempDir;

use crate::{Plan, Role, fill, run};

/// Where completions of each shell are looked for.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/agentctl"),
    ("zsh", "usr/share/zsh/vendor-completions/_agentctl"),
    ("fish", "usr/share/fish/vendor_completions.d/agentctl.fish"),
];

/// Lays out the files of `role` in a directory of its own.
pub(crate) fn stage(plan: &Plan<'_>, role: Role) -> Result<TempDir> {
    let tree = tempfile::tempdir().context("make a directory for the package's files")?;
    let stage = Stage { plan, role, root: tree.path() };
    stage.programs()?;
    stage.units()?;
    stage.documents()?;
    // dpkg would take its mode, as that of every directory, from here.
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755))
        .context("set the mode of the package's files")?;
    Ok(tree)
}

struct Stage<'a> {
    plan: &'a Plan<'a>,
    role: Role,
    root: &'a Path,
}

impl Stage<'_> {
    fn programs(&self) -> Result<()> {
        for name in [&format!("{}-agent", self.role.word()), "agentctl"] {
            let from = self.plan.programs.join(name);
            ensure!(from.is_file(), "{} is missing: build it first", from.display());
            let to = self.place(&format!("usr/bin/{name}"))?;
            // Each architecture has its own; Debian names them alike.
            let strip = match self.plan.architecture {
                "arm64" => "aarch64-linux-gnu-strip",
                _ => "strip",
            };
            run(Command::new(strip).args(["--strip-unneeded", "-o"]).arg(&to).arg(&from))?;
            mode(&to, 0o755)?;
        }
        Ok(())
    }

    fn units(&self) -> Result<()> {
        let unit = format!("{}.service", self.role.package());
        let text = self.read(&format!("systemd/{unit}"))?;
        self.write(&format!("usr/lib/systemd/system/{unit}"), &text)?;
        if self.role == Role::Edge {
            self.write("usr/lib/sysctl.d/60-cloudathome-edge.conf", include_str!("../files/sysctl-edge.conf"))?;
        }
        // The configuration is nobody's business but root's: it may hold passwords.
        let etc = self.root.join("etc/cloudathome");
        fs::create_dir_all(&etc).context("make etc/cloudathome")?;
        fs::set_permissions(&etc, fs::Permissions::from_mode(0o700)).context("set the mode of etc/cloudathome")
    }

    fn documents(&self) -> Result<()> {
        let (role, package) = (self.role.word(), self.role.package());
        let doc = |name: &str| format!("usr/share/doc/{package}/{name}");
        let licence: String = self.read("LICENSE-MIT")?.lines().map(paragraph).collect();
        let copyright = include_str!("../files/copyright").replace("@EXPAT@", licence.trim_end());
        self.write(&doc("copyright"), &copyright)?;
        self.write(&doc(&format!("examples/{role}.toml")), &self.read(&format!("systemd/{role}.toml"))?)?;
        self.compress(&doc("changelog.gz"), self.read("CHANGELOG.md")?.as_bytes())?;

        let page = fill(include_str!("../files/agent.8"), self.plan, self.role);
        self.compress(&format!("usr/share/man/man8/{role}-agent.8.gz"), page.as_bytes())?;
        let pages = tempfile::tempdir().context("make a directory for manual pages")?;
        run(Command::new(self.plan.agentctl).args(["man", "--dir"]).arg(pages.path()))?;
        for page in fs::read_dir(pages.path()).context("list the manual pages")? {
            let page = page.context("list the manual pages")?;
            let text = fs::read(page.path()).with_context(|| format!("read {}", page.path().display()))?;
            self.compress(&format!("usr/share/man/man1/{}.gz", page.file_name().display()), &text)?;
        }
        for (shell, path) in COMPLETIONS {
            self.write(path, &run(Command::new(self.plan.agentctl).args(["completions", shell]))?)?;
        }
        Ok(())
    }

    fn read(&self, path: &str) -> Result<String> {
        let path = self.plan.workspace.join(path);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let to = self.place(path)?;
        fs::write(&to, text).with_context(|| format!("write {path}"))?;
        mode(&to, 0o644)
    }

    fn compress(&self, path: &str, text: &[u8]) -> Result<()> {
        let to = self.place(path)?;
        // Without name and time: the same text makes the same file.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(text).with_context(|| format!("compress {path}"))?;
        let bytes = gzip.finish().with_context(|| format!("compress {path}"))?;
        fs::write(&to, bytes).with_context(|| format!("write {path}"))?;
        mode(&to, 0o644)
    }

    /// The path of a file, whose directories are there then.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let mut dir = self.root.to_owned();
        let path = Path::new(path);
        for part in path.parent().unwrap_or(path) {
            dir.push(part);
            if !dir.is_dir() {
                fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
                mode(&dir, 0o755)?;
            }
        }
        Ok(self.root.join(path))
    }
}

/// A line of a text in a field of Debian's, where an empty one is a full stop.
fn paragraph(line: &str) -> String {
    if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {line}\n") }
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}
