//! What visitors notice when the disk at home fills up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::wait_until;

use crate::Cloud;

/// MiB that are to stay free at home: `engine.keep_free_mib` for [`home_fills_up`].
pub const KEEP_FREE: u64 = 256;
/// What is free while it is full: below that, and enough for everything that goes on.
const LEFT: u64 = 200 << 20;
/// Until visitors notice, on a loaded machine: the disk is looked at every 5 s.
const NOTICED: Duration = Duration::from_secs(30);
/// Of a large body, which is refused wherever it goes.
const LARGE: u64 = 2_000_000;

/// The disk of home's engine fills up and is freed again: uploads are refused with 507 meanwhile, and all else goes on.
///
/// # Errors
/// Saying what a visitor saw that should not be seen.
pub fn home_fills_up(cloud: &Cloud) -> Result<()> {
    let (user, password) = cloud.login()?;
    let client = cloud.visitor()?.login(&user, &password);
    let url = |name: &str| cloud.url(&format!("/remote.php/dav/files/{user}/{name}"));
    let (small, large) = (cloud.lab.random_file("small", 1000)?, cloud.lab.random_file("large", LARGE)?);
    let put = |file, name: &str| Ok::<_, anyhow::Error>(client.upload(file, &url(name))?.status);
    let does = |method: &str, name: &str| Ok::<_, anyhow::Error>(client.request(&["-X", method], &url(name))?.status);
    for name in ["kept", "given-up"] {
        let status = put(&large, name)?;
        ensure!(status == 201, "before it was full, PUT {name} answers {status}");
    }

    cloud.home_engine.fill_disk(LEFT)?;
    wait_until("uploads to be refused", NOTICED, || Ok(put(&small, "small")? == 507))?;
    // The answer comes while the body is still on its way, whose stream is then reset: this curl sometimes gives up the answer with it,
    // and reports none (18). Whatever it reports counts.
    let mut answered = None;
    wait_until("an answer to a large upload", NOTICED, || {
        answered = Some(client.upload(&large, &url("large"))?);
        Ok(true)
    })?;
    let refused = answered.context("no answer")?;
    ensure!(refused.status == 507, "PUT of {LARGE} bytes answers {}", refused.status);
    ensure!(refused.text().contains("nearly full"), "it says {}", refused.text());
    let status = put(&small, "kept")?;
    ensure!(status == 507, "PUT in place of another answers {status}");
    let kept = client.get(&url("kept"))?;
    ensure!(kept.status == 200 && kept.body == std::fs::read(&large)?, "GET answers {}", kept.status);
    let page = cloud.visitor()?.get(&cloud.url("/login"))?.status;
    ensure!(page == 200, "the login page answers {page}");
    for (method, name, expected) in [
        ("PROPFIND", "", 207),
        ("PROPFIND", "large", 404),
        ("DELETE", "given-up", 204),
        ("MKCOL", "folder", 201),
        ("DELETE", "folder", 204),
    ] {
        let status = does(method, name)?;
        ensure!(status == expected, "{method} {name} answers {status} while the disk is full");
    }
    let gone = client.get(&url("given-up"))?.status;
    ensure!(gone == 404, "what was deleted answers {gone}");
    for agent in [&cloud.edge, &cloud.home] {
        let told = agent.status_text()?;
        ensure!(told.contains("nearly full"), "{} says nothing of it:\n{told}", agent.host.name());
    }

    cloud.home_engine.free_disk()?;
    wait_until("uploads to pass again", NOTICED, || Ok(matches!(put(&small, "small")?, 201 | 204)))?;
    for name in ["large", "kept"] {
        let status = put(&large, name)?;
        ensure!(matches!(status, 201 | 204), "after it was full, PUT {name} answers {status}");
    }
    for name in ["small", "large", "kept"] {
        does("DELETE", name).with_context(|| format!("delete {name}"))?;
    }
    Ok(())
}
