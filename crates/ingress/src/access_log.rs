//! Who came: Caddy's log of requests, in bounded files.

use serde_json::{Value, json};

const LOGGER: &str = "visits";
/// Of the file that is written, in MiB; then it is set aside, compressed.
const FILE_MIB: u32 = 20;
/// Of those set aside.
const FILES: u32 = 5;
const DAYS: u32 = 14;

/// Has the requests of `server` written to `file`. Headers and queries are left out, for passwords, cookies and links that need no
/// login travel in them.
pub(crate) fn add(config: &mut Value, server: &str, file: &str) {
    let visits = format!("http.log.access.{LOGGER}");
    config["apps"]["http"]["servers"][server]["logs"] = json!({ "default_logger_name": LOGGER });
    if let Some(routes) = config["apps"]["http"]["servers"][server]["routes"].as_array_mut() {
        let agent = json!({
            "handler": "log_append", "key": "user_agent", "value": "{http.request.header.User-Agent}",
        });
        routes.insert(0, json!({ "handle": [agent] }));
    }
    config["logging"] = json!({ "logs": {
        "default": { "exclude": [visits] },
        LOGGER: {
            "include": [visits],
            "writer": {
                "output": "file",
                "filename": file,
                "mode": "0600",
                "roll_size_mb": FILE_MIB,
                "roll_keep": FILES,
                "roll_keep_days": DAYS,
            },
            "encoder": {
                "format": "filter",
                "wrap": { "format": "json", "time_format": "rfc3339_nano" },
                "fields": {
                    "request>headers": { "filter": "delete" },
                    "request>uri": { "filter": "regexp", "regexp": "\\?.*", "value": "?" },
                    "resp_headers": { "filter": "delete" },
                },
            },
        },
    } });
}
