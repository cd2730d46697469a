//! Writes an image as a `docker save` archive (format 1.2): the layers, the configuration of each image made of
//! them, and the manifest that names them. No engine is needed for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::output;
use super::recipe::Recipe;

/// Every file of ours and the image itself bear this time (2026-01-01), so that equal sources make equal archives.
const MTIME: &str = "@1767225600";
const CREATED: &str = "2026-01-01T00:00:00Z";

/// What the image runs on, in Docker's words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Platform<'a> {
    architecture: &'a str,
    variant: Option<&'a str>,
}

impl<'a> Platform<'a> {
    /// The platform that Debian calls `architecture`.
    pub(super) fn of(architecture: &'a str) -> Self {
        match architecture {
            "armhf" => Self { architecture: "arm", variant: Some("v7") },
            "i386" => Self { architecture: "386", variant: None },
            "ppc64el" => Self { architecture: "ppc64le", variant: None },
            same => Self { architecture: same, variant: None },
        }
    }
}

/// A layer that lies in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) tar: &'a Path,
    /// Where it comes from, for people.
    pub(super) source: &'a str,
}

/// Writes the images made of these layers and the recipe's own files to `target`. They are put together in `dir`, which must be
/// empty and in the file system of the layers, where a hard link to one can be made: copying would double the time.
pub(super) fn write(
    recipe: &Recipe,
    platform: &Platform<'_>,
    version: &str,
    lower: &[Layer<'_>],
    dir: &Path,
    target: &Path,
) -> Result<()> {
    let mut layers = Vec::new();
    for (number, layer) in lower.iter().enumerate() {
        let name = format!("layer{number}.tar");
        fs::hard_link(layer.tar, dir.join(&name)).with_context(|| format!("cannot link {}", layer.tar.display()))?;
        layers.push(name);
    }
    pack(&recipe.rootfs(), &dir.join("files.tar"), &["--mode=u=rwX,go=rX"])?;
    layers.push("files.tar".to_owned());

    let digests = layers.iter().map(|layer| digest_of(&dir.join(layer))).collect::<Result<Vec<_>>>()?;
    let sources: Vec<&str> = lower.iter().map(|layer| layer.source).chain(["files of CloudAtHome"]).collect();
    let failed = || format!("cannot write the image's description in {}", dir.display());
    let (mut manifest, mut config_files) = (Vec::new(), Vec::new());
    for (name, env) in recipe.images() {
        let config = serde_json::to_vec(&config(recipe, &env, platform, version, &digests, &sources))?;
        let config_file = format!("{:x}.json", Sha256::digest(&config));
        fs::write(dir.join(&config_file), config).with_context(failed)?;
        manifest.push(json!({ "Config": config_file, "RepoTags": [name], "Layers": layers }));
        config_files.push(config_file);
    }
    // Images that do not differ at all share their description.
    config_files.sort_unstable();
    config_files.dedup();
    fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest)?).with_context(failed)?;

    let mut tar = tar(target, dir);
    tar.arg("manifest.json").args(config_files).args(layers);
    output(tar)?;
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

fn config(
    recipe: &Recipe,
    env: &[String],
    platform: &Platform<'_>,
    version: &str,
    digests: &[String],
    sources: &[&str],
) -> Value {
    let set = |names: &[String]| names.iter().map(|name| (name.clone(), json!({}))).collect::<BTreeMap<_, _>>();
    let list = |words: &[String]| if words.is_empty() { Value::Null } else { json!(words) };
    let wanted = &recipe.config;
    let mut image = json!({
        "architecture": platform.architecture,
        "os": "linux",
        "created": CREATED,
        "config": {
            "Env": env,
            "Entrypoint": list(&wanted.entrypoint),
            "Cmd": list(&wanted.cmd),
            "ExposedPorts": set(&wanted.ports),
            "Volumes": set(&wanted.volumes),
            "WorkingDir": wanted.workdir,
            "Labels": {
                "org.opencontainers.image.description": recipe.about,
                "org.opencontainers.image.version": version,
            },
        },
        "rootfs": { "type": "layers", "diff_ids": digests },
        "history": sources.iter().map(|by| json!({ "created": CREATED, "created_by": by })).collect::<Vec<_>>(),
    });
    if let Some(variant) = platform.variant {
        image["variant"] = json!(variant);
    }
    if let Some(signal) = &wanted.stop_signal {
        image["config"]["StopSignal"] = json!(signal);
    }
    image
}

/// The folder as a layer: everything belongs to root. Of a checkout's modes only the executable bit counts, which is said by
/// `options`.
pub(super) fn pack(folder: &Path, layer: &Path, options: &[&str]) -> Result<()> {
    let mut tar = tar(layer, folder);
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime", MTIME]).args(options).arg(".");
    output(tar).map(drop)
}

fn tar(archive: &Path, folder: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=gnu", "--file"]).arg(archive).arg("--directory").arg(folder);
    tar
}

fn digest_of(file: &Path) -> Result<String> {
    let failed = || format!("cannot read the layer {}", file.display());
    let mut source = File::open(file).with_context(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(format!("sha256:{:x}", hash.finalize())),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::super::recipe;
    use super::*;

    /// Packs `docker/<name>` over an empty base and unpacks the archive again.
    fn unpacked(name: &str) -> (tempfile::TempDir, Value, Value) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        let base = dir.path().join("base.tar");
        output({
            let mut tar = tar(&base, &dir.path().join("empty"));
            tar.arg(".");
            tar
        })
        .unwrap();
        let recipe = Recipe::read(&recipe::folder(name)).unwrap();
        let archive = dir.path().join("image.tar");
        let packing = dir.path().join("packing");
        fs::create_dir(&packing).unwrap();
        let base = Layer { tar: &base, source: "packages of Debian" };
        write(&recipe, &Platform::of("amd64"), "thing 1.2 from Debian sid", &[base], &packing, &archive).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        let status =
            Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.path().join("out")).status().unwrap();
        assert!(status.success());
        let read = |file: &str| -> Value {
            serde_json::from_slice(&fs::read(dir.path().join("out").join(file)).unwrap()).unwrap()
        };
        let manifest = read("manifest.json");
        let config = read(manifest[0]["Config"].as_str().unwrap());
        (dir, manifest, config)
    }

    #[test]
    fn digests_name_what_is_in_the_archive() {
        let (dir, manifest, config) = unpacked("caddy");
        assert_eq!(manifest[0]["RepoTags"], json!(["caddy:2"]));
        let out = dir.path().join("out");
        let config_file = manifest[0]["Config"].as_str().unwrap();
        assert_eq!(digest_of(&out.join(config_file)).unwrap(), format!("sha256:{}", &config_file[..64]));
        let layers = manifest[0]["Layers"].as_array().unwrap();
        let digests: Vec<_> = layers.iter().map(|l| digest_of(&out.join(l.as_str().unwrap())).unwrap()).collect();
        assert_eq!(config["rootfs"]["diff_ids"], json!(digests));
        assert_eq!(layers.len(), config["history"].as_array().unwrap().len());
    }

    #[test]
    fn a_known_text_has_its_known_digest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        fs::write(&file, "abc").unwrap();
        let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of(&file).unwrap(), known);
    }

    #[test]
    fn the_configuration_is_the_official_images() {
        let (_dir, _, caddy) = unpacked("caddy");
        assert_eq!((&caddy["os"], &caddy["architecture"]), (&json!("linux"), &json!("amd64")));
        let config = &caddy["config"];
        let command = ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"];
        assert_eq!((&config["Cmd"], &config["Entrypoint"]), (&json!(command), &Value::Null));
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "443/tcp": {}, "443/udp": {}, "2019/tcp": {}}));
        assert_eq!(config["StopSignal"], Value::Null);

        let (_dir, _, nextcloud) = unpacked("nextcloud");
        let config = &nextcloud["config"];
        assert_eq!(config["Entrypoint"], json!(["/entrypoint.sh"]));
        assert_eq!(config["Volumes"], json!({"/var/www/html": {}}));
        assert_eq!(config["StopSignal"], json!("SIGWINCH"));
        let about = config["Labels"]["org.opencontainers.image.description"].as_str().unwrap();
        assert!(about.contains("not Nextcloud"), "{about}");
    }

    #[test]
    fn tags_are_images_of_the_same_layers_with_an_environment_of_their_own() {
        let (dir, manifest, _) = unpacked("nextcloud");
        let images = manifest.as_array().unwrap();
        let of = |name: &str| images.iter().find(|image| image["RepoTags"] == json!([name])).unwrap();
        let environment = |name: &str| -> Vec<String> {
            let file = dir.path().join("out").join(of(name)["Config"].as_str().unwrap());
            let config: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            serde_json::from_value(config["config"]["Env"].clone()).unwrap()
        };
        assert_eq!(of("nextcloud:apache")["Layers"], of("nextcloud:32.0.1-apache")["Layers"]);
        let old = environment("nextcloud:32.0.1-apache");
        assert_eq!(old.iter().filter(|line| line.starts_with("NEXTCLOUD_VERSION=")).count(), 1);
        assert!(old.contains(&"NEXTCLOUD_VERSION=32.0.1".to_owned()));
        assert_eq!(old.len(), environment("nextcloud:apache").len());
    }

    #[test]
    fn files_belong_to_root_and_keep_the_executable_bit() {
        let (dir, _, _) = unpacked("nextcloud");
        let layer = dir.path().join("out/files.tar");
        let listing = Command::new("tar").arg("-tvf").arg(layer).stdin(Stdio::null()).output().unwrap();
        let listing = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.lines().all(|line| line.contains(" 0/0 ") || line.contains(" root/root ")), "{listing}");
        let line_of = |file: &str| listing.lines().find(|line| line.ends_with(file)).unwrap();
        assert!(line_of("./entrypoint.sh").starts_with("-rwxr-xr-x"));
        assert!(line_of("/status.php").starts_with("-rw-r--r--"));
    }

    #[test]
    fn equal_sources_make_equal_layers() {
        let digests = || unpacked("nextcloud").2["rootfs"]["diff_ids"][1].clone();
        assert_eq!(digests(), digests());
    }
}
