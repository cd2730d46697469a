use proptest::prelude::*;

use super::*;

const FREE: UpgradePath = UpgradePath::Free;

fn chosen(policy: Policy, reference: &str, itself: Option<&str>, tags: &[&str]) -> Option<String> {
    let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
    choose(policy, UpgradePath::OneMajor, reference, itself, &tags).unwrap().map(str::to_owned)
}

#[test]
fn the_newest_of_the_same_shape_is_chosen() {
    let nextcloud = [
        "latest",
        "apache",
        "32",
        "32-apache",
        "32.0-apache",
        "32.0.1-apache",
        "32.0.2-apache",
        "32.0.2-fpm",
        "32.0.10-apache",
        "32.0.11-rc1-apache",
        "32.0.11rc1",
        "32.1.0-apache",
        "33.0.0-apache",
        "32.0.99-apache-extra",
        "v32.0.98-apache",
    ];
    let (patch, minor) = (Policy::Patch, Policy::Minor);
    let is = |text: &str| Some(text.to_owned());
    assert_eq!(chosen(patch, "nextcloud:32.0.1-apache", None, &nextcloud), is("32.0.10-apache"));
    assert_eq!(chosen(minor, "nextcloud:32.0.1-apache", None, &nextcloud), is("32.1.0-apache"));
    assert_eq!(chosen(Policy::Off, "nextcloud:32.0.1-apache", None, &nextcloud), None);
    assert_eq!(chosen(minor, "nextcloud:32.1.0-apache", None, &nextcloud), None);

    let ghost = ["6", "6.53", "6.53.0", "6.53.1", "6.65", "6.65.0", "6.65.0-alpine", "7.0.0", "v6.70.0"];
    assert_eq!(chosen(minor, "ghost:6.53.0", None, &ghost), is("6.65.0"));
    assert_eq!(chosen(patch, "ghost:6.53.0", None, &ghost), is("6.53.1"));
    assert_eq!(chosen(minor, "registry.example:5000/ghost:6.53.0", None, &ghost), is("6.65.0"));
    assert_eq!(chosen(minor, "ghost:6.53.0-alpine", None, &ghost), is("6.65.0-alpine"));
    assert_eq!(chosen(minor, "me/app:v6.53.0", None, &ghost), is("v6.70.0"));
    assert_eq!(chosen(minor, "postgres:17.2", None, &["17", "17.3", "17.10", "18.0"]), is("17.10"));
}

#[test]
fn a_tag_that_moves_stands_for_what_the_image_says() {
    let ghost = ["6", "6.53", "6.53.0", "6.53.1", "6.65.0", "6.65.0-alpine", "7.0.0"];
    let is = |text: &str| Some(text.to_owned());
    for floating in ["ghost:6", "ghost", "ghost:latest"] {
        assert_eq!(chosen(Policy::Minor, floating, Some("6.53.0"), &ghost), is("6.65.0"), "{floating}");
        assert_eq!(chosen(Policy::Patch, floating, Some("6.53.0"), &ghost), is("6.53.1"), "{floating}");
        assert_eq!(chosen(Policy::Minor, floating, Some("6.65.0"), &ghost), None, "{floating}");
        let unknown = choose(Policy::Minor, FREE, floating, None, &[]);
        assert!(matches!(unknown, Err(NoChoice::Unknown { .. })), "{floating}");
    }
    assert_eq!(chosen(Policy::Minor, "ghost:6-alpine", Some("6.53.0"), &ghost), is("6.65.0-alpine"));
    let nextcloud = ["apache", "32.0.2-apache", "32.0.2", "33.0.0-apache"];
    assert_eq!(chosen(Policy::Minor, "nextcloud:apache", Some("32.0.1.2"), &nextcloud), is("32.0.2-apache"));
    assert_eq!(chosen(Policy::Minor, "nextcloud:stable-apache", Some("32.0.1.2"), &nextcloud), is("32.0.2-apache"));
    // Part of a version: the image is further than its tag.
    assert_eq!(chosen(Policy::Patch, "ghost:6.53", Some("6.53.1"), &ghost), None);
    assert_eq!(chosen(Policy::Patch, "ghost:6.53", None, &ghost), is("6.53.1"));
    // A label that came with the image below.
    assert_eq!(chosen(Policy::Minor, "me/app:1.0.0", Some("24.04"), &["1.0.1", "24.10.1"]), is("1.0.1"));
}

#[test]
fn what_is_pinned_by_digest_stays() {
    let tags = ["6.65.0".to_owned()];
    for reference in ["ghost:6.53.0@sha256:ab", "ghost@sha256:ab"] {
        let pinned = choose(Policy::Minor, FREE, reference, Some("6.53.0"), &tags);
        assert_eq!(pinned, Err(NoChoice::Pinned { reference: reference.to_owned() }));
        assert_eq!(choose(Policy::Off, FREE, reference, None, &[]), Ok(None));
    }
}

fn any_tag() -> impl Strategy<Value = String> {
    let variant = prop::sample::select(vec!["", "-apache", "-alpine", "-rc1", "-beta.2", "-alpine3.20"]);
    let numbers = prop::collection::vec(0u32..4, 0..5);
    ("v?", numbers, variant).prop_map(|(v, numbers, variant)| {
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        format!("{v}{}{variant}", numbers.join("."))
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(vec![Policy::Off, Policy::Patch, Policy::Minor])
}

fn any_path() -> impl Strategy<Value = UpgradePath> {
    prop::sample::select(vec![UpgradePath::Free, UpgradePath::OneMajor, UpgradePath::NeverDown])
}

proptest! {
    #[test]
    fn a_choice_is_newer_permitted_of_the_same_shape_and_the_newest(
        policy in any_policy(), path in any_path(), in_force in any_tag(), itself in prop::option::of("[0-3]\\.[0-3]\\.[0-3]"),
        mut tags in prop::collection::vec(any_tag(), 0..20),
    ) {
        let reference = format!("app:{in_force}");
        let Ok(choice) = choose(policy, path, &reference, itself.as_deref(), &tags) else { return Ok(()) };
        let Some(choice) = choice.map(str::to_owned) else { return Ok(()) };
        prop_assert!(policy != Policy::Off && tags.contains(&choice));
        let shape = Shape::of(&in_force);
        let current = shape.current(itself.as_deref()).unwrap();
        let found = Shape::of(&choice);
        prop_assert!(found.padded() > current);
        prop_assert_eq!(found.padded()[0], current[0], "the major version stays");
        prop_assert!(policy != Policy::Patch || found.padded()[1] == current[1]);
        prop_assert_eq!(&found.variant, &shape.variant);
        prop_assert!(!["rc", "beta"].iter().any(|early| choice.contains(early)));
        let version: Version = choice.parse().unwrap();
        let to = format!("app:{choice}");
        prop_assert_eq!(check_path(path, (&reference, Some(&version.to_string())), (&to, None)), Ok(()));

        // The order in which a registry tells them does not count, nor do those that are told twice.
        tags.reverse();
        tags.extend(tags.clone());
        let again = choose(policy, path, &reference, itself.as_deref(), &tags).unwrap();
        prop_assert_eq!(again, Some(choice.as_str()));
        // Once there, one stays.
        let there = format!("app:{choice}");
        prop_assert_eq!(choose(policy, path, &there, None, &tags), Ok(None));
    }

    #[test]
    fn a_newer_one_that_is_permitted_is_not_left_out(major in 0u32..5, minor in 0u32..5, patch in 0u32..5, more in 1u32..5) {
        let reference = format!("app:{major}.{minor}.{patch}-apache");
        let tag = |minor: u32, patch: u32| format!("{major}.{minor}.{patch}-apache");
        let (patched, next) = (tag(minor, patch + more), tag(minor + more, 0));
        let tags = vec![patched.clone(), next.clone(), format!("{}.0.0-apache", major + 1)];
        let of = |policy| choose(policy, UpgradePath::OneMajor, &reference, None, &tags).unwrap();
        prop_assert_eq!(of(Policy::Patch), Some(patched.as_str()));
        prop_assert_eq!(of(Policy::Minor), Some(next.as_str()));
    }

    #[test]
    fn no_tag_panics(policy in any_policy(), reference in ".{0,30}", itself in prop::option::of(".{0,10}"), tags in prop::collection::vec(".{0,20}", 0..5)) {
        let _ = choose(policy, UpgradePath::OneMajor, &reference, itself.as_deref(), &tags);
    }
}
