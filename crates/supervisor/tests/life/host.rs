//! A host with an engine and a small image.

use std::fs;
use std::path::PathBuf;

use lab::{Engine, EngineOptions, Lab};

use crate::busybox::busybox;

/// The image of these tests.
pub(crate) const IMAGE: &str = "cloudathome-test:1";

/// A host with an engine that has [`IMAGE`]. Nothing of it is left afterwards, however a test ends.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) lab: Lab,
}

impl Host {
    /// None, and the skip told, where it can't be had.
    pub(crate) fn start(options: &EngineOptions) -> Option<Self> {
        if !lab::capability::or_skip().unwrap() {
            return None;
        }
        let image = busybox()?;
        let (lab, engine) = Lab::with_engine(options, &[]).unwrap();
        let archive = lab.dir().join("files/image.tar");
        fs::write(&archive, image).unwrap();
        let change = r#"CMD ["/bin/sh", "-c", "sleep 1000"]"#;
        engine.docker(&["import", "-c", change, archive.to_str().unwrap(), IMAGE]).unwrap();
        Some(Self { engine, lab })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.engine.host().engine_socket()
    }

    pub(crate) fn docker(&self, args: &[&str]) -> String {
        self.engine.docker(args).unwrap().trim().to_owned()
    }

    /// Runs a script in a container of ours.
    pub(crate) fn sh(&self, name: &str, script: &str) -> String {
        self.docker(&["exec", &format!("cloudathome-{name}"), "sh", "-c", script])
    }

    /// Which run of which container it is, and whether it still runs: the id, the start and the state as the engine has
    /// them.
    pub(crate) fn run(&self, name: &str) -> String {
        let format = "{{.Id}} {{.State.StartedAt}} {{.State.Status}}";
        self.docker(&["container", "inspect", "--format", format, &format!("cloudathome-{name}")])
    }

    /// When it was started last, in a form that can be compared.
    pub(crate) fn started(&self, name: &str) -> String {
        self.docker(&["container", "inspect", "--format", "{{.State.StartedAt}}", &format!("cloudathome-{name}")])
    }

    /// Names of all containers in this state, sorted.
    pub(crate) fn names(&self, state: &str) -> Vec<String> {
        let filter = format!("status={state}");
        let listed = self.docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Whether there is a container of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.engine.docker(&["container", "inspect", &format!("cloudathome-{name}")]).is_ok()
    }

    pub(crate) fn ip(&self, args: &[&str]) {
        self.engine.host().exec(&[&["ip"], args].concat()).unwrap();
    }
}
