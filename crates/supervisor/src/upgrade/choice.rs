//! Which tag an upgrade by itself goes to. Pure.

use model::UpgradePath;

use super::version::{Version, check_path, retag, tag};

/// How far upgrades go by themselves. A new major version is always a person's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Not at all.
    #[default]
    Off,
    /// To the newest version with the same first two numbers.
    Patch,
    /// To the newest version with the same first number.
    Minor,
}

/// Why no tag can be chosen, whatever there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// A person wants this image and no other.
    #[error(
        "{reference} is pinned by its digest, which has no newer one; `agentctl service NAME upgrade --to` a tag first"
    )]
    Pinned {
        /// The image in force.
        reference: String,
    },
    /// Nobody knows what is in force.
    #[error(
        "neither the tag of {reference} nor the image says which version it is; `agentctl service NAME upgrade --to` a tag such as 34.0.4-apache first"
    )]
    Unknown {
        /// The image in force.
        reference: String,
    },
}

impl Policy {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Patch => "patch",
            Self::Minor => "minor",
        }
    }

    /// How many first numbers must stay.
    fn kept(self) -> Option<usize> {
        match self {
            Self::Off => None,
            Self::Patch => Some(2),
            Self::Minor => Some(1),
        }
    }
}

/// The tag to go to from the image `reference`, which says of itself that it is `itself`: the newest of `tags` that has the
/// same shape, is newer than what is in force, and is permitted by the policy and the application's way of upgrading.
///
/// Of the same shape is what has the same word after the numbers (`-apache`), a `v` before them where there was one, and
/// at least as many numbers. A tag without a whole version (`6`, `apache`, `latest`) stands for the version that the image
/// says; what is chosen then names a whole one.
///
/// # Errors
/// The image in force permits no choice.
pub fn choose<'a>(
    policy: Policy,
    path: UpgradePath,
    reference: &str,
    itself: Option<&str>,
    tags: &'a [String],
) -> Result<Option<&'a str>, NoChoice> {
    let Some(kept) = policy.kept() else { return Ok(None) };
    if reference.contains('@') {
        return Err(NoChoice::Pinned { reference: reference.to_owned() });
    }
    let shape = Shape::of(tag(reference).unwrap_or("latest"));
    let unknown = || NoChoice::Unknown { reference: reference.to_owned() };
    let current = shape.current(itself).ok_or_else(unknown)?;
    let permitted = tags.iter().filter_map(|tag| {
        let (found, to) = (Shape::of(tag), retag(reference, tag));
        let newer = found.padded() > current && found.padded()[..kept] == current[..kept];
        let fits = tag.parse::<Version>().is_ok() && found.fits(&shape);
        let from = version(current);
        // Both are versions: the way is known.
        let leads = check_path(path, (reference, Some(&from)), (&to, None)).is_ok();
        (newer && fits && leads).then_some((found, tag.as_str()))
    });
    let newest = permitted.max_by(|(one, a), (other, b)| {
        // Where two are equally new the one that names more of its version moves less.
        let key = |shape: &Shape| (shape.padded(), shape.numbers.len(), !shape.v);
        key(one).cmp(&key(other)).then_with(|| b.cmp(a))
    });
    Ok(newest.map(|(_, tag)| tag))
}

/// A tag, taken apart.
#[derive(Debug)]
struct Shape {
    v: bool,
    numbers: Vec<u32>,
    /// What comes after the numbers.
    variant: String,
}

impl Shape {
    fn of(tag: &str) -> Self {
        let plain = tag.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let (head, variant) = plain.unwrap_or(tag).split_once('-').unwrap_or((plain.unwrap_or(tag), ""));
        match numbers(head) {
            Some(numbers) => Self { v: plain.is_some(), numbers, variant: variant.to_owned() },
            // Names of channels, and no variants.
            None if ["latest", "stable", "production"].contains(&head) => {
                Self { v: false, numbers: Vec::new(), variant: variant.to_owned() }
            }
            None => Self { v: false, numbers: Vec::new(), variant: tag.to_owned() },
        }
    }

    fn padded(&self) -> [u32; 4] {
        let mut padded = [0; 4];
        padded.iter_mut().zip(&self.numbers).for_each(|(to, from)| *to = *from);
        padded
    }

    fn fits(&self, in_force: &Self) -> bool {
        self.variant == in_force.variant
            && self.numbers.len() >= in_force.numbers.len()
            && (in_force.numbers.is_empty() || self.v == in_force.v)
    }

    /// The version in force: what the image says, unless it contradicts its tag as images do that inherit a label.
    fn current(&self, itself: Option<&str>) -> Option<[u32; 4]> {
        let itself = itself.map(Self::of).filter(|itself| itself.numbers.len() > 1);
        match itself.filter(|itself| itself.numbers.starts_with(&self.numbers)) {
            Some(itself) => Some(itself.padded()),
            None => (self.numbers.len() > 1).then(|| self.padded()),
        }
    }
}

fn version(numbers: [u32; 4]) -> String {
    numbers.map(|number| number.to_string()).join(".")
}

/// One to four numbers with dots between them.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    text.split('.').map(number).collect::<Option<Vec<u32>>>().filter(|numbers| numbers.len() <= 4)
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
