//! Versions of applications, and which may follow which.

use std::fmt;
use std::str::FromStr;

use model::UpgradePath;

/// A version by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third; 0 where it is left out.
    pub patch: u32,
}

/// A text that names no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it names no version such as 34.0.4")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    /// From `34.0.4`, `v6.53`, `34.0.4-apache`, `34.0.4.1`: at least two numbers; what follows the third or a hyphen
    /// does not count. A hyphen must not be followed by the mark of a version before the release.
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, rest) = text.split_once('-').unwrap_or((text, ""));
        let early = |word: &str| {
            ["alpha", "beta", "rc", "dev", "pre"]
                .iter()
                .any(|mark| word.strip_prefix(mark).is_some_and(|tail| tail.bytes().all(|byte| byte.is_ascii_digit())))
        };
        if rest.split(['-', '.']).any(early) {
            return Err(NoVersion);
        }
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten().ok_or(NoVersion)
        });
        let mut number = || parts.next().unwrap_or(Err(NoVersion));
        let (major, minor) = (number()?, number()?);
        let patch = parts.next().transpose()?.unwrap_or(0);
        parts.try_for_each(|part| part.map(drop))?;
        Ok(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Why a version may not follow another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is older.
    #[error(
        "{new} is older than {old}, and its data can't go back; `agentctl service rollback` brings a former release back with its data"
    )]
    Older {
        /// The version in force.
        old: Version,
        /// The version asked for.
        new: Version,
    },
    /// It leaves a major version out.
    #[error("from {old} to {new} leaves a major version out; go to {}.x first", old.major.saturating_add(1))]
    MajorLeftOut {
        /// The version in force.
        old: Version,
        /// The version asked for.
        new: Version,
    },
    /// The image does not say which version it is.
    #[error(
        "image {reference} does not say its version, neither by its tag nor by itself; name a tag such as 34.0.4-apache"
    )]
    Unknown {
        /// The image's reference.
        reference: String,
    },
}

/// Checks that the version of an image may follow that of another. Each is a reference and what the image itself says,
/// which counts for more.
///
/// # Errors
/// It may not.
pub fn check_path(path: UpgradePath, old: (&str, Option<&str>), new: (&str, Option<&str>)) -> Result<(), PathError> {
    if path == UpgradePath::Free {
        return Ok(());
    }
    let version = |(reference, itself): (&str, Option<&str>)| {
        let itself = itself.and_then(|text| text.parse().ok());
        itself
            .or_else(|| tag(reference)?.parse().ok())
            .ok_or_else(|| PathError::Unknown { reference: reference.into() })
    };
    let (old, new): (Version, Version) = (version(old)?, version(new)?);
    if new < old {
        return Err(PathError::Older { old, new });
    }
    if path == UpgradePath::OneMajor && new.major > old.major.saturating_add(1) {
        return Err(PathError::MajorLeftOut { old, new });
    }
    Ok(())
}

/// The tag of an image reference.
pub(crate) fn tag(reference: &str) -> Option<&str> {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    Some(last.split_once(':')?.1)
}

/// The reference that `to` means for a service that has the image `reference`: a tag of the same image, or a reference
/// of its own when it has a colon or a slash.
#[must_use]
pub fn retag(reference: &str, to: &str) -> String {
    if to.contains(['/', ':']) {
        return to.to_owned();
    }
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let name = match tag(name) {
        Some(tag) => name.strip_suffix(tag).and_then(|name| name.strip_suffix(':')).unwrap_or(name),
        None => name,
    };
    format!("{name}:{to}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch }
    }

    #[test]
    fn tags_become_versions() {
        for (text, expected) in [
            ("34.0.4-apache", version(34, 0, 4)),
            ("6.53.0", version(6, 53, 0)),
            ("6.53-alpine", version(6, 53, 0)),
            ("v2.11.4", version(2, 11, 4)),
            ("33.0.0.2", version(33, 0, 0)),
            ("17.2-alpine3.20", version(17, 2, 0)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "latest",
            "apache",
            "34",
            "34-apache",
            "34.",
            ".4",
            "34.x",
            "34.0.4-rc1",
            "34.0-beta.2",
            "99999999999.0",
        ] {
            assert_eq!(text.parse::<Version>(), Err(NoVersion), "{text}");
        }
    }

    #[test]
    fn the_image_itself_counts_for_more_than_its_tag() {
        let check = |path, old, new| check_path(path, old, new);
        let (nc32, nc33, nc34) =
            (("nextcloud:32.0.9-apache", None), ("nextcloud:33.0.1", None), ("nextcloud:34.0.0", None));
        assert_eq!(check(UpgradePath::OneMajor, nc32, nc33), Ok(()));
        assert_eq!(check(UpgradePath::OneMajor, nc32, nc32), Ok(()));
        assert!(matches!(check(UpgradePath::OneMajor, nc32, nc34), Err(PathError::MajorLeftOut { .. })));
        assert!(matches!(check(UpgradePath::OneMajor, nc33, nc32), Err(PathError::Older { .. })));
        assert_eq!(check(UpgradePath::NeverDown, nc32, nc34), Ok(()));
        assert!(matches!(check(UpgradePath::NeverDown, nc34, nc32), Err(PathError::Older { .. })));
        let latest = ("nextcloud", None);
        assert!(matches!(check(UpgradePath::OneMajor, nc32, latest), Err(PathError::Unknown { .. })));
        assert_eq!(check(UpgradePath::Free, nc34, latest), Ok(()));
        assert_eq!(check(UpgradePath::OneMajor, nc32, ("nextcloud:latest", Some("33.0.2.1"))), Ok(()));
        assert!(check(UpgradePath::OneMajor, nc32, ("nextcloud:33.0.0", Some("34.0.0.1"))).is_err());
    }

    #[test]
    fn a_tag_takes_the_place_of_the_other() {
        for (reference, to, expected) in [
            ("nextcloud:32-apache", "33-apache", "nextcloud:33-apache"),
            ("nextcloud", "33", "nextcloud:33"),
            ("registry.example:5000/nextcloud", "33", "registry.example:5000/nextcloud:33"),
            ("registry.example:5000/nextcloud:32@sha256:ab", "33", "registry.example:5000/nextcloud:33"),
            ("nextcloud:32", "other/image:1", "other/image:1"),
        ] {
            assert_eq!(retag(reference, to), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_a_panic_and_versions_are_read_back(text in ".{0,20}", a: u32, b: u32, c: u32) {
            let _ = text.parse::<Version>();
            let one = version(a, b, c);
            prop_assert_eq!(one.to_string().parse(), Ok(one));
        }
    }
}
