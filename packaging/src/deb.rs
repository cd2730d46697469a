//! A Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Plan, Role, fill, run};

/// What the agents need besides the libraries that their programs name. The engine may be Debian's or Docker's own.
const DEPENDS: &str = "init-system-helpers, ca-certificates, iproute2, nftables, docker.io | docker-ce";

const SCRIPTS: [(&str, &str); 4] = [
    ("preinst", include_str!("../files/preinst.sh")),
    ("postinst", include_str!("../files/postinst.sh")),
    ("prerm", include_str!("../files/prerm.sh")),
    ("postrm", include_str!("../files/postrm.sh")),
];

/// Makes a package of the files in `tree`.
pub(crate) fn build(plan: &Plan<'_>, role: Role, tree: &Path, out: &Path) -> Result<PathBuf> {
    let control = tree.join("DEBIAN");
    let write = |name: &str, text: String, mode: u32| {
        let path = control.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("write {name} of {}", role.package()))
    };
    let libraries = libraries(plan, role, tree)?;
    fs::create_dir(&control).context("make the package's control directory")?;
    fs::set_permissions(&control, fs::Permissions::from_mode(0o755)).context("make the package's control directory")?;
    write("control", fields(plan, role, &libraries, size(tree)?), 0o644)?;
    for (name, text) in SCRIPTS {
        write(name, fill(text, plan, role), 0o755)?;
    }
    let sums = run(Command::new("sh").current_dir(tree).args([
        "-c",
        "find . -path ./DEBIAN -prune -o -type f -print0 | sort -z | xargs -0 md5sum | sed 's,  \\./,  ,'",
    ]))?;
    write("md5sums", sums, 0o644)?;

    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let path = out.join(format!("{}_{}_{}.deb", role.package(), plan.version, plan.architecture));
    let mut dpkg_deb = Command::new("dpkg-deb");
    dpkg_deb.args(["--root-owner-group", if plan.fast { "-Znone" } else { "-Zxz" }, "--build"]);
    run(dpkg_deb.arg(tree).arg(&path).env("SOURCE_DATE_EPOCH", plan.date.to_string()))?;
    Ok(path)
}

fn fields(plan: &Plan<'_>, role: Role, libraries: &str, kibibytes: u64) -> String {
    let (package, other) = (role.package(), role.other().package());
    let does = match role {
        Role::Edge => "ends the tunnel on a rented server, runs Caddy and publishes what home offers",
        Role::Home => "keeps the tunnel to the edge up, runs the services at home and watches them",
    };
    format!(
        "Package: {package}\nVersion: {version}\nArchitecture: {architecture}\nSection: net\nPriority: optional\n\
         Maintainer: The CloudAtHome contributors <maintainers@invalid>\nInstalled-Size: {kibibytes}\n\
         Depends: {DEPENDS}, {libraries}\nConflicts: {other}\nReplaces: {other}\n\
         Description: one's own cloud at home, reachable through a rented server ({role})\n \
         This is the part {at}: it {does}.\n .\n \
         It holds agentctl, as the package for the other host does; so they cannot both be installed on one, which\n \
         two agents would not stand either.\n",
        version = plan.version,
        architecture = plan.architecture,
        role = role.word(),
        at = role.whereabouts(),
    )
}

/// The packages whose libraries the programs name, with the versions that they need.
fn libraries(plan: &Plan<'_>, role: Role, tree: &Path) -> Result<String> {
    // What dpkg-shlibdeps wants to see around the programs.
    let source = tempfile::tempdir().context("make a directory for dpkg-shlibdeps")?;
    let debian = source.path().join("debian");
    fs::create_dir(&debian).context("make a directory for dpkg-shlibdeps")?;
    let package = role.package();
    fs::write(debian.join("control"), format!("Source: {package}\n\nPackage: {package}\nArchitecture: any\n"))
        .context("write what dpkg-shlibdeps reads")?;
    let mut shlibdeps = Command::new("dpkg-shlibdeps");
    shlibdeps.current_dir(source.path()).arg("-O").env("DEB_HOST_ARCH", plan.architecture);
    for name in [&format!("{}-agent", role.word()), "agentctl"] {
        shlibdeps.arg("-e").arg(tree.join("usr/bin").join(name));
    }
    let line = run(&mut shlibdeps)?;
    let list = line.trim().strip_prefix("shlibs:Depends=");
    list.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps says {line:?}"))
}

fn size(dir: &Path) -> Result<u64> {
    let told = run(Command::new("du").args(["--summarize", "--apparent-size", "--block-size=1024"]).arg(dir))?;
    let number = told.split_whitespace().next().and_then(|word| word.parse().ok());
    number.with_context(|| format!("du says {told:?}"))
}
