//! Whether the protocol still understands that of the oldest release it must get along with, and is understood by it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

const CONTROL: &str = "cloudathome/control/v1/control.proto";

fn read(root: &Path) -> FileDescriptorProto {
    protox::compile([CONTROL], [root]).unwrap().file.into_iter().find(|file| file.name() == CONTROL).unwrap()
}

/// What an old end would misread, or not find.
fn breaks(old: &FileDescriptorProto, new: &FileDescriptorProto) -> Vec<String> {
    let mut breaks = Vec::new();
    if old.package() != new.package() {
        breaks.push(format!("the package is called {} now", new.package()));
    }
    messages("", &old.message_type, &new.message_type, &mut breaks);
    enums("", &old.enum_type, &new.enum_type, &mut breaks);
    for service in &old.service {
        let now = new.service.iter().find(|now| now.name() == service.name());
        for method in &service.method {
            let name = format!("{}.{}", service.name(), method.name());
            match now.and_then(|now| now.method.iter().find(|now| now.name() == method.name())) {
                None => breaks.push(format!("{name} is gone")),
                Some(now) if now.clone() != method.clone() => {
                    breaks.push(format!("{name} takes or gives something else"));
                }
                Some(_) => {}
            }
        }
    }
    breaks
}

fn messages(within: &str, old: &[DescriptorProto], new: &[DescriptorProto], breaks: &mut Vec<String>) {
    for message in old {
        let name = format!("{within}{}", message.name());
        let Some(now) = new.iter().find(|now| now.name() == message.name()) else {
            breaks.push(format!("{name} is gone"));
            continue;
        };
        fields(&name, message, now, breaks);
        messages(&format!("{name}."), &message.nested_type, &now.nested_type, breaks);
        enums(&format!("{name}."), &message.enum_type, &now.enum_type, breaks);
    }
}

fn fields(name: &str, old: &DescriptorProto, new: &DescriptorProto, breaks: &mut Vec<String>) {
    let numbers: BTreeMap<i32, &FieldDescriptorProto> = new.field.iter().map(|field| (field.number(), field)).collect();
    for field in &old.field {
        let field_name = format!("{name}.{}", field.name());
        match numbers.get(&field.number()) {
            // A number that is set aside can't be given to something else by mistake.
            None if new.reserved_range.iter().any(|range| (range.start()..range.end()).contains(&field.number())) => {}
            None => breaks.push(format!("{field_name} is gone and its number {} not reserved", field.number())),
            Some(now) if shape(now, new) != shape(field, old) => {
                breaks.push(format!("{field_name} is another field or of another kind now: {}", now.name()));
            }
            Some(_) => {}
        }
    }
}

/// What must stay of a field: its name in JSON, its type, how often it comes, whether its absence is told, and its group.
fn shape(field: &FieldDescriptorProto, of: &DescriptorProto) -> impl PartialEq {
    let group = field.oneof_index.and_then(|index| of.oneof_decl.get(usize::try_from(index).ok()?));
    let group = group.filter(|_| !field.proto3_optional()).map(|group| group.name().to_owned());
    let type_name = field.type_name.clone();
    (field.name().to_owned(), field.r#type(), field.label(), type_name, field.proto3_optional(), group)
}

fn enums(within: &str, old: &[EnumDescriptorProto], new: &[EnumDescriptorProto], breaks: &mut Vec<String>) {
    for old in old {
        let now = new.iter().find(|now| now.name() == old.name());
        for value in &old.value {
            let same = now.is_some_and(|now| now.value.contains(value));
            if !same {
                breaks.push(format!("{within}{}.{} is gone or has another number", old.name(), value.name()));
            }
        }
    }
}

#[test]
fn the_oldest_release_is_still_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let breaks = breaks(&read(&root.join("baseline")), &read(root));
    assert!(breaks.is_empty(), "this breaks older agents: {breaks:#?}");
}

#[test]
fn what_breaks_is_found() {
    let parsed = |body: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(CONTROL);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, format!("syntax = \"proto3\";\npackage p;\n{body}")).unwrap();
        read(dir.path())
    };
    let service = "service S { rpc A(M) returns (stream M); }\n";
    let old = parsed(&format!(
        "{service}message M {{ string a = 1; optional uint32 b = 2; oneof c {{ M d = 3; M e = 4; }} enum E {{ X = 0; Y = 1; }} }}"
    ));
    for (new, expected) in [
        (
            "message M { string a = 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; M f = 5; } enum E { X = 0; Y = 1; Z = 2; } string g = 6; }",
            "",
        ),
        ("message M { reserved 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }", ""),
        ("message M { optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }", "M.a is gone"),
        (
            "message M { bytes a = 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }",
            "M.a is another",
        ),
        (
            "message M { string z = 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }",
            "M.a is another",
        ),
        (
            "message M { repeated string a = 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }",
            "M.a is another",
        ),
        (
            "message M { string a = 1; uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }",
            "M.b is another",
        ),
        (
            "message M { string a = 1; optional uint32 b = 2; M d = 3; oneof c { M e = 4; } enum E { X = 0; Y = 1; } }",
            "M.d is another",
        ),
        (
            "message M { string a = 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; W = 1; } }",
            "M.E.Y is gone",
        ),
        ("message N { string a = 1; }", "M is gone"),
    ] {
        let service = if new.starts_with("message M") { service } else { "" };
        let found = breaks(&old, &parsed(&format!("{service}{new}")));
        match expected {
            "" => assert!(found.is_empty(), "{new}: {found:?}"),
            expected => assert!(found.iter().any(|found| found.starts_with(expected)), "{new}: {found:?}"),
        }
    }
    let fields =
        "message M { string a = 1; optional uint32 b = 2; oneof c { M d = 3; M e = 4; } enum E { X = 0; Y = 1; } }";
    assert_eq!(breaks(&old, &parsed(fields)), ["S.A is gone"]);
    let unary = parsed(&format!("service S {{ rpc A(M) returns (M); }}\n{fields}"));
    assert_eq!(breaks(&old, &unary), ["S.A takes or gives something else"]);
}
