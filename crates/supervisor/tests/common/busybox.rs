//! A container image of busybox.

use std::path::Path;

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";
const PROGRAMS: &str = "cat cp df du echo httpd id ls mkdir mv rm sh sleep sync tail test touch";

/// A root file system with busybox under the names that the tests use, to be imported; none, and the skip told, where
/// there is no busybox.
pub(crate) fn busybox() -> Option<Vec<u8>> {
    if !Path::new(BUSYBOX).exists() {
        lab::capability::skip(&format!("{BUSYBOX} is missing: install busybox-static"));
        return None;
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(BUSYBOX, "bin/busybox").unwrap();
    for name in PROGRAMS.split(' ') {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    Some(archive.into_inner().unwrap())
}
