//! What visitors may not send while the disk that it would go to is nearly full (RFC 4918, 11.5).

use serde_json::{Value, json};

/// Where Nextcloud takes files.
const FILES: [&str; 2] = ["/remote.php/*", "/public.php/*"];
/// Of these, where it takes appointments and addresses.
const SMALL: [&str; 2] = ["/remote.php/dav/calendars/*", "/remote.php/dav/addressbooks/*"];
/// Where it keeps the parts of large ones, which it puts together when they are moved out of there.
const PARTS: &str = "/remote.php/dav/uploads/*";
/// A body of 1,000,000 bytes or more: no form and no setting is as long.
const LARGE: &str = r"^0*[1-9]\d{6,}$";

/// Any length that is told: what does not tell how long it is may be without end.
const TOLD: &str = "*";

/// Answers uploads with 507, before any of them is read. Whatever reads, deletes, logs in or changes a setting passes.
pub(crate) fn refuse_uploads() -> Value {
    json!({
        "match": [
            { "method": ["PUT"], "path": FILES, "not": [{ "path": SMALL }] },
            { "method": ["MOVE"], "path": [PARTS] },
            {
                "method": ["PUT", "POST", "PATCH"],
                "header_regexp": { "Content-Length": { "pattern": LARGE } },
            },
            { "method": ["PUT", "POST", "PATCH"], "not": [{ "header": { "Content-Length": [TOLD] } }] },
        ],
        "terminal": true,
        "handle": [{
            "handler": "static_response",
            "status_code": 507,
            "headers": { "Content-Type": ["text/plain; charset=utf-8"], "Cache-Control": ["no-store"] },
            "body": "The disk that this would be stored on is nearly full. Nothing was changed; reading and deleting go on.\n",
        }],
    })
}

#[cfg(test)]
mod tests {
    use crate::caddy_config::tests::site;
    use crate::guard::Guard;
    use crate::site::{Site, routes};

    #[test]
    fn only_while_the_disk_is_full() {
        let refused = |full| {
            let site = Site { full, ..site("a.example.com", Some("10.86.0.2:80")) };
            routes(&site, &Guard::default()).to_string().contains("507")
        };
        assert!(refused(true));
        assert!(!refused(false));
    }
}
