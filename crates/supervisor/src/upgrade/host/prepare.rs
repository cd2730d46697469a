//! What must hold before anything is stopped.

use std::collections::BTreeMap;

use model::{Mount, MountSource, ServiceName, ServiceSpec, VolumeKind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Host, LOOK, REST, Words};
use crate::chain;
use crate::record::PinnedImage;
use crate::storage::{ImageFacts, Storage};
use crate::upgrade::{Journal, check_path};

/// Room beyond the copies, for what the new release and the databases write meanwhile.
const RESERVE: u64 = 256 * 1024 * 1024;
/// The sizes of what is mounted below `/cloudathome`, and the room on its disk, in KiB.
const MEASURE: &str = "set -eu
for volume in /cloudathome/*; do du -sk \"$volume\"; done
echo room
df -Pk /cloudathome/0 | tail -n 1";

impl<E: Storage> Host<E> {
    pub(super) async fn prepared(
        &self,
        service: &ServiceName,
        journal: &Journal,
    ) -> Result<BTreeMap<String, PinnedImage>, Words> {
        let (spec, upgrade) = self.spec(service)?;
        self.healthy(&spec).await?;
        let of = |images: &BTreeMap<String, PinnedImage>| {
            upgrade.units.iter().find_map(|unit| images.get(unit)).cloned().ok_or("the service has no image of its own")
        };
        let (old, new) = (of(&journal.old.images)?, of(&journal.new.images)?);
        let facts = match self.facts(&new.reference).await? {
            Some(facts) => facts,
            None => {
                let (progress, _) = watch::channel(Default::default());
                self.engine.pull(&new.reference, progress).await.map_err(|error| chain(&error))?;
                let facts = self.facts(&new.reference).await?;
                facts.ok_or_else(|| format!("image {} was fetched and is not there", new.reference))?
            }
        };
        if old.id.as_ref() == Some(&facts.id) {
            return Err(format!(
                "{} is the image in force already; where its tag means another one by now, `docker pull` fetches that",
                new.reference
            ));
        }
        let before = self.facts(old.id.as_ref().unwrap_or(&old.reference)).await?.unwrap_or_default();
        check_path(upgrade.path, (&old.reference, version_of(&before)), (&new.reference, version_of(&facts)))
            .map_err(|error| error.to_string())?;
        self.room(&spec, service, journal).await?;
        let mut images = journal.new.images.clone();
        for unit in &upgrade.units {
            images.insert(unit.clone(), PinnedImage { reference: new.reference.clone(), id: Some(facts.id.clone()) });
        }
        Ok(images)
    }

    /// What an image says of its application's version.
    pub(super) async fn says(&self, image: &PinnedImage) -> Option<String> {
        let facts = self.facts(image.id.as_ref().unwrap_or(&image.reference)).await.ok()??;
        version_of(&facts).map(str::to_owned)
    }

    async fn facts(&self, reference: &str) -> Result<Option<ImageFacts>, Words> {
        self.engine.image_facts(reference).await.map_err(|error| chain(&error))
    }

    /// What does not work before can't be seen to work after.
    async fn healthy(&self, spec: &ServiceSpec) -> Result<(), Words> {
        let until = Instant::now() + REST;
        loop {
            match self.works(spec, &[]).await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > until => {
                    return Err(format!("the service is not healthy, so that an upgrade can't be judged: {why}"));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Whether the copies and dumps fit on the engine's disk.
    async fn room(&self, spec: &ServiceSpec, service: &ServiceName, journal: &Journal) -> Result<(), Words> {
        let saved =
            spec.volumes.iter().filter(|volume| matches!(volume.kind, VolumeKind::State | VolumeKind::Database));
        let mounts: Vec<Mount> = saved
            .enumerate()
            .map(|(at, volume)| Mount {
                source: MountSource::Volume(volume.name.clone()),
                target: format!("/cloudathome/{at}").into(),
                read_only: true,
            })
            .collect();
        if mounts.is_empty() {
            return Ok(());
        }
        let output = self.help(service, &journal.old, mounts, MEASURE).await;
        let output = output.map_err(|why| format!("measuring its volumes failed: {why}"))?;
        let (needed, free) = sizes(&output.stdout).ok_or("measuring its volumes gave no numbers")?;
        let needed = needed.saturating_add(RESERVE);
        if needed > free {
            return Err(format!(
                "the engine's disk has {} MB left, and copies and dumps may need {} MB; make room or give it a larger disk",
                free / 1_000_000,
                needed.div_ceil(1_000_000)
            ));
        }
        Ok(())
    }
}

/// What an image says of the application's version.
fn version_of(facts: &ImageFacts) -> Option<&str> {
    let label = || facts.labels.get("org.opencontainers.image.version");
    ["NEXTCLOUD_VERSION", "GHOST_VERSION"].iter().find_map(|key| facts.env.get(*key)).or_else(label).map(String::as_str)
}

/// The sum of the sizes and the room, in bytes.
fn sizes(text: &str) -> Option<(u64, u64)> {
    let (volumes, room) = text.split_once("room\n")?;
    let mut sum = 0u64;
    for line in volumes.lines() {
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        sum = sum.saturating_add(kib.saturating_mul(1024));
    }
    let kib: u64 = room.split_whitespace().nth(3)?.parse().ok()?;
    Some((sum, kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_what_du_and_df_say() {
        let text = "12\t/cloudathome/0\n1000\t/cloudathome/1\nroom\n/dev/vda 263174212 54432052 195303908 22% /c\n";
        assert_eq!(sizes(text), Some((1012 * 1024, 195_303_908 * 1024)));
        assert_eq!(sizes("du: no\nroom\n"), None);
        assert_eq!(sizes(""), None);
    }

    #[test]
    fn the_application_itself_says_its_version_before_the_label_does() {
        let label = [("org.opencontainers.image.version".to_owned(), "22.04".to_owned())];
        let mut facts = ImageFacts { labels: label.into(), ..ImageFacts::default() };
        assert_eq!(version_of(&facts), Some("22.04"));
        facts.env.insert("NEXTCLOUD_VERSION".into(), "34.0.4".into());
        assert_eq!(version_of(&facts), Some("34.0.4"));
    }
}
