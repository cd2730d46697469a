//! Packs files for the engine's archive API.

use std::io;
use std::path::Path;

use model::SecretFile;

/// A tar archive to be unpacked at `/`: each file with mode 0400 and its reader as owner, each file's directory with
/// mode 0755. The directory is named because the engine would otherwise make a missing one writable for all.
///
/// # Errors
/// A path that is not absolute, or that no archive can carry.
pub(crate) fn pack(files: &[SecretFile]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let path = file.path.strip_prefix("/").map_err(|_| not_absolute(&file.path))?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let mut header = header(tar::EntryType::Directory, 0o755, 0, 0);
            archive.append_data(&mut header, dir, io::empty())?;
        }
        let mut header = header(tar::EntryType::Regular, 0o400, file.uid, file.content.len());
        archive.append_data(&mut header, path, file.content.as_bytes())?;
    }
    archive.into_inner()
}

fn header(kind: tar::EntryType, mode: u32, uid: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(u64::from(uid));
    header.set_gid(0);
    header.set_size(size as u64);
    header.set_mtime(0);
    header
}

fn not_absolute(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not an absolute path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> SecretFile {
        SecretFile { path: path.into(), content: "geheim".into(), uid: 33 }
    }

    #[test]
    fn files_keep_owner_and_mode() {
        let bytes = pack(&[file("/run/secrets/password"), file("/top")]).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    entry.path().unwrap().to_str().unwrap().to_owned(),
                    header.mode().unwrap(),
                    header.uid().unwrap(),
                    entry.size(),
                )
            })
            .collect();
        assert_eq!(
            entries,
            [
                ("run/secrets".to_owned(), 0o755, 0, 0),
                ("run/secrets/password".to_owned(), 0o400, 33, 6),
                ("top".to_owned(), 0o400, 33, 6),
            ]
        );
    }

    #[test]
    fn relative_and_climbing_paths_are_refused() {
        assert!(pack(&[file("etc/passwd")]).is_err());
        assert!(pack(&[file("/run/../etc/passwd")]).is_err());
    }
}
