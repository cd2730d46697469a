//! The command of DNS-01.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hostcheck::found;
use model::{Finding, Grade};

/// Whether the command that changes the DNS for certificates can still be run.
pub(super) fn dns_command(path: &Path) -> Finding {
    let what = "DNS-01";
    let shown = path.display();
    let next = format!("certificates are not renewed without it: put it back, and `chmod 755 {shown}`");
    match path.metadata() {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
            found(what, Grade::Good, format!("the command {shown} is there"), None)
        }
        Ok(_) => found(what, Grade::Bad, format!("{shown} is no program that can be run"), Some(&next)),
        Err(error) => found(what, Grade::Bad, format!("{shown} cannot be run: {error}"), Some(&next)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_command_that_is_gone_is_told_before_certificates_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dns");
        assert_eq!(dns_command(&path).grade, Grade::Bad);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(dns_command(&path).grade, Grade::Bad);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(dns_command(&path).grade, Grade::Good);
        assert_eq!(dns_command(dir.path()).grade, Grade::Bad);
    }
}
