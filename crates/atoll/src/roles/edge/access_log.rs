//! The edge's access log: one JSON object a line.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use http::Version;
use jiff::Timestamp;
use serde::Serialize;

use atoll_anycast::guard::PROBE_HOST;
use atoll_proxy::surroundings::{AccessEntry, AccessLog};
use atoll_signals::lines::{Destination, FILE_MAX, LineLog};

/// Longer paths are cut: a line should stay one.
const PATH_MAX: usize = 4096;

/// Writes entries as lines, without ever waiting for the disk.
pub struct JsonAccessLog(LineLog);

impl JsonAccessLog {
    /// `None`: nobody wants it.
    pub fn start(destination: Destination) -> io::Result<Option<Self>> {
        Ok(LineLog::start(destination, FILE_MAX)?.map(Self))
    }

    pub fn reopen(&self) {
        self.0.reopen();
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

impl AccessLog for JsonAccessLog {
    fn record(&self, entry: &AccessEntry) {
        // The guard's probes are no requests: 25 lines a second would say nothing.
        if entry.client.is_loopback() && entry.host == PROBE_HOST {
            return;
        }
        self.0.push(line(entry));
    }
}

/// Fields as `docs/metrics.md` describes them.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    edge: &'a str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    version: Cow<'static, str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    wake_ms: Option<f64>,
    first_byte_ms: f64,
    total_ms: f64,
    request_bytes: u64,
    response_bytes: u64,
}

fn line(entry: &AccessEntry) -> Vec<u8> {
    let line = Line {
        // A clock beyond the year 9999 is no clock.
        time: Timestamp::try_from(entry.time).unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        request_id: &entry.request_id,
        client: entry.client,
        app: entry.app.as_ref().map(|app| app.as_str()),
        machine: entry.machine.map(|machine| machine.to_string()),
        region: entry.region.map(|region| region.to_string()),
        edge: entry.edge.as_str(),
        method: entry.method.as_str(),
        host: &entry.host,
        path: cut(&entry.path),
        version: match entry.version {
            Version::HTTP_10 => "1.0".into(),
            Version::HTTP_11 => "1.1".into(),
            Version::HTTP_2 => "2".into(),
            other => format!("{other:?}").into(),
        },
        status: entry.status,
        error: entry.error,
        retries: entry.retries,
        wake_ms: entry.wake.map(millis),
        first_byte_ms: millis(entry.first_byte),
        total_ms: millis(entry.total),
        request_bytes: entry.request_bytes,
        response_bytes: entry.response_bytes,
    };
    // Texts and numbers can always be written.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Milliseconds with three digits behind the point.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(PATH_MAX)]
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn entry() -> AccessEntry {
        AccessEntry {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
            client: "203.0.113.9".parse().unwrap(),
            request_id: "01J-ams".to_owned(),
            app: Some("web".parse().unwrap()),
            machine: None,
            region: None,
            edge: "ams".parse().unwrap(),
            method: http::Method::GET,
            version: Version::HTTP_2,
            host: "web.localhost".to_owned(),
            path: "/a\"b\n".to_owned(),
            status: 200,
            error: None,
            retries: 1,
            wake: Some(Duration::from_micros(12_345)),
            first_byte: Duration::from_millis(20),
            total: Duration::from_millis(30),
            request_bytes: 1,
            response_bytes: 2,
        }
    }

    #[test]
    fn an_entry_is_one_line_with_the_documented_fields() {
        let text = String::from_utf8(line(&entry())).unwrap();
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.25Z","request_id":"01J-ams","client":"203.0.113.9","app":"web","edge":"ams","#,
            r#""method":"GET","host":"web.localhost","path":"/a\"b\n","version":"2","status":200,"retries":1,"#,
            r#""wake_ms":12.345,"first_byte_ms":20.0,"total_ms":30.0,"request_bytes":1,"response_bytes":2}"#,
            "\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn every_field_is_documented_and_every_documented_one_is_written() {
        let full = AccessEntry {
            machine: Some(atoll_model::MachineId::from_random(1)),
            region: Some("ams".parse().unwrap()),
            error: Some("PR03"),
            ..entry()
        };
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&line(&full)).unwrap();
        let documentation = include_str!("../../../../../docs/metrics.md");
        let (_, fields) = documentation.split_once("| field | meaning |").unwrap();
        let mut documented: Vec<&str> = fields
            .lines()
            .filter_map(|row| row.strip_prefix("| `")?.split(" | ").next())
            .flat_map(|names| names.split(", "))
            .map(|name| name.trim_matches('`'))
            .collect();
        let mut written: Vec<&str> = value.keys().map(String::as_str).collect();
        documented.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, documented);
    }

    #[test]
    fn long_paths_are_cut_between_letters() {
        let path = "/".to_owned() + &"é".repeat(PATH_MAX);
        assert!(cut(&path).len() <= PATH_MAX && path.starts_with(cut(&path)));
    }
}
