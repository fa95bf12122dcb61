//! The one table of fly.toml's keys: what each takes, what becomes of it, which other shapes it may
//! have. Reading, checking, suggestions and the reference page all follow this table; a key is
//! taught to Atoll here and in the struct it is read into ([`crate::Manifest`]).

use crate::shape::{DurationUnit, Shape, checks};

/// What Atoll does with a documented key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Honoured,
    /// Refused, with the reason or the way around it, unless unsupported keys are allowed.
    Unsupported(&'static str),
    /// Accepted: it never had an effect on a machine.
    NoEffect,
}

/// A documented key.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Other spellings that are read as this one.
    pub aliases: &'static [&'static str],
    pub shape: Shape,
    pub status: Status,
    pub about: &'static str,
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, aliases: &[], shape, status: Status::Honoured, about }
}

/// A key that is documented but not honoured yet.
const fn later(name: &'static str, reason: &'static str) -> Key {
    Key { name, aliases: &[], shape: Shape::Any, status: Status::Unsupported(reason), about: "" }
}

const fn no_effect(name: &'static str, about: &'static str) -> Key {
    Key { name, aliases: &[], shape: Shape::Any, status: Status::NoEffect, about }
}

const fn aliased(aliases: &'static [&'static str], key: Key) -> Key {
    Key { aliases, ..key }
}

const PORT: Shape = Shape::Whole { min: 1, max: 65535 };
const COUNT: Shape = Shape::Whole { min: 0, max: 1_000_000 };
const SECONDS: Shape = Shape::Whole { min: 0, max: 86_400 };
const IN_MS: Shape = Shape::Duration(DurationUnit::Milliseconds);
const IN_NS: Shape = Shape::Duration(DurationUnit::Nanoseconds);

const NO_BUILD: &str =
    "building from source comes later; build the image elsewhere and name it with [build] image or --image";
const NO_VOLUMES: &str = "volumes come later";
const NO_TEST_MACHINES: &str = "deploy-time test machines come later; use service checks";
const NO_RELEASE_COMMAND: &str = "release commands come later; run it with `atoll machine exec` after the deploy";
const NO_GPU: &str = "this platform has no GPUs";
const NO_CONTAINERS: &str = "several containers in a machine come later";
const NO_METRICS: &str = "collecting an app's own metrics comes later";

/// The whole file.
pub const ROOT: &[Key] = &[
    key("app", Shape::Checked(checks::app_name), "the app's name; `-a` wins"),
    key("primary_region", Shape::Checked(checks::region), "region of new machines; sets `PRIMARY_REGION`"),
    key("kill_signal", Shape::Checked(checks::signal), "signal that asks a machine to end, `SIGINT` when absent"),
    key(
        "kill_timeout",
        Shape::Duration(DurationUnit::Seconds),
        "from the signal to the forced end, 5s when absent, at most 5m",
    ),
    key("console_command", Shape::Checked(checks::command), "what a console runs; used by the command line only"),
    key("build", Shape::Table(BUILD), "where the image comes from"),
    key("deploy", Shape::Table(DEPLOY), "how a release replaces the one before"),
    key("env", Shape::Env, "environment of every machine; secrets win"),
    key("processes", Shape::Processes, "process groups and their commands"),
    key("http_service", Shape::Table(HTTP_SERVICE), "an HTTP service on ports 80 and 443"),
    key("services", Shape::FilledTables(SERVICE), "services with ports of their own"),
    key("checks", Shape::Named(CHECK), "machine checks; they do not affect routing"),
    aliased(&["compute", "computes"], key("vm", Shape::Tables(VM), "size of machines")),
    key("restart", Shape::Tables(RESTART), "what follows when a machine's process ends"),
    key("files", Shape::Tables(FILE), "files written into machines before they start"),
    key("experimental", Shape::Table(EXPERIMENTAL), "overrides of the image"),
    later("swap_size_mb", "swap comes later; ask for more memory in [[vm]]"),
    later("host_dedication_id", "dedicated hosts come later"),
    later("machine_config", NO_CONTAINERS),
    later("container", NO_CONTAINERS),
    later("machine_checks", NO_TEST_MACHINES),
    aliased(&["mount"], later("mounts", NO_VOLUMES)),
    later("statics", "serving files from the edge comes later; serve them from the app"),
    aliased(&["metric"], later("metrics", NO_METRICS)),
];

const BUILD: &[Key] = &[
    key("image", Shape::Text, "a ready image: registry reference"),
    later("builder", NO_BUILD),
    later("buildpacks", NO_BUILD),
    later("dockerfile", NO_BUILD),
    later("ignorefile", NO_BUILD),
    aliased(&["build_target"], later("build-target", NO_BUILD)),
    later("args", NO_BUILD),
    later("builtin", NO_BUILD),
    later("settings", NO_BUILD),
    later("compose", NO_BUILD),
    later("compression", NO_BUILD),
    later("compression_level", NO_BUILD),
];

const DEPLOY: &[Key] = &[
    key(
        "strategy",
        Shape::Strategy,
        "`rolling` (default): new machines replace old ones; `immediate`: all at once, in place",
    ),
    key("max_unavailable", Shape::Number, "from 1 a count, below a fraction (rounded up); 0.33 when absent"),
    key("wait_timeout", IN_NS, "how long a new or changed machine may take to pass its gate, 5m when absent"),
    later("release_command", NO_RELEASE_COMMAND),
    later("release_command_timeout", NO_RELEASE_COMMAND),
    later("release_command_vm", NO_RELEASE_COMMAND),
    later("seed_command", NO_RELEASE_COMMAND),
];

const HTTP_SERVICE: &[Key] = &[
    key("internal_port", PORT, "where the app listens, 8080 when absent"),
    key("force_https", Shape::Bool, "redirect plain HTTP"),
    key("auto_stop_machines", Shape::Autostop, "`off` (default), `stop` or `suspend` idle machines"),
    key("auto_start_machines", Shape::Bool, "start a stopped machine on a request, true when absent"),
    key("min_machines_running", COUNT, "kept running in the primary region"),
    key("idle_timeout", IN_NS, "Atoll's own: how long without a request counts as idle, 5m when absent"),
    key("processes", Shape::Texts, "groups that have this service"),
    key("concurrency", Shape::Concurrency(CONCURRENCY), "limits for one machine"),
    key("tls_options", Shape::Table(TLS_OPTIONS), "for port 443"),
    key("http_options", Shape::Table(HTTP_OPTIONS), "for both ports"),
    key("checks", Shape::Tables(HTTP_CHECK_NS), "must pass before a machine gets requests"),
    later("machine_checks", NO_TEST_MACHINES),
];

const SERVICE: &[Key] = &[
    key("protocol", Shape::OneOf(&["tcp", "udp"]), "`tcp` when absent"),
    key("internal_port", PORT, "where the app listens"),
    key("ports", Shape::Tables(SERVICE_PORT), "external ports"),
    key("auto_stop_machines", Shape::Autostop, "`off` (default), `stop` or `suspend` idle machines"),
    key("auto_start_machines", Shape::Bool, "start a stopped machine on a request, true when absent"),
    key("min_machines_running", COUNT, "kept running in the primary region"),
    key("idle_timeout", IN_NS, "Atoll's own: how long without a request counts as idle, 5m when absent"),
    key("processes", Shape::Texts, "groups that have this service"),
    key("concurrency", Shape::Concurrency(CONCURRENCY), "limits for one machine"),
    key("tcp_checks", Shape::Tables(TCP_CHECK), "the port must accept"),
    key("http_checks", Shape::Tables(HTTP_CHECK_MS), "a request must be answered with 2xx"),
    later("machine_checks", NO_TEST_MACHINES),
    no_effect("script_checks", "obsolete"),
];

const SERVICE_PORT: &[Key] = &[
    key("port", PORT, "one external port"),
    key("start_port", PORT, "first of a range"),
    key("end_port", PORT, "last of a range"),
    key("handlers", Shape::TextsOf(&["http", "tls", "pg_tls", "proxy_proto", "edge_http"]), "none: bytes pass through"),
    key("force_https", Shape::Bool, "redirect plain HTTP"),
    key("tls_options", Shape::Table(TLS_OPTIONS), "for the `tls` handler"),
    key("http_options", Shape::Table(HTTP_OPTIONS), "for the `http` handler"),
    key("proxy_proto_options", Shape::Table(PROXY_PROTO_OPTIONS), "for the `proxy_proto` handler"),
];

const CONCURRENCY: &[Key] = &[
    key("type", Shape::OneOf(&["connections", "requests"]), "what counts as load, `connections` when absent"),
    key("soft_limit", COUNT, "from here on other machines are preferred, 20 when absent"),
    key("hard_limit", COUNT, "from here on a machine gets nothing; none when absent"),
];

const TLS_OPTIONS: &[Key] = &[
    key("alpn", Shape::Texts, "protocols offered, `h2` and `http/1.1` when absent"),
    key("versions", Shape::TextsOf(&["TLSv1.2", "TLSv1.3"]), "versions accepted"),
    key("default_self_signed", Shape::Bool, "answer unknown names with a self-signed certificate"),
];

const HTTP_OPTIONS: &[Key] = &[
    key("compress", Shape::Bool, "compress answers at the edge"),
    key("h2_backend", Shape::Bool, "speak HTTP/2 to the app"),
    key("idle_timeout", SECONDS, "seconds until an idle connection is closed"),
    key("headers_read_timeout", SECONDS, "seconds a client may take for its headers"),
    key("response", Shape::Table(HTTP_RESPONSE), "changes to answers"),
    key("replay_cache", Shape::AnyList, "remembered replays"),
];

const HTTP_RESPONSE: &[Key] = &[
    key("headers", Shape::AnyTable, "`false` removes a header, a text sets it, a list sets several"),
    key("pristine", Shape::Bool, "add no headers of the platform"),
];

const PROXY_PROTO_OPTIONS: &[Key] = &[key("version", Shape::OneOf(&["v1", "v2"]), "`v1` when absent")];

const TCP_CHECK: &[Key] = &[
    key("interval", IN_MS, "between checks, 15s when absent"),
    key("timeout", IN_MS, "for one check, 2s when absent"),
    key("grace_period", IN_MS, "excuses failures after a start"),
];

/// Service checks of `[[services]]` and of `[http_service]` differ in what a bare number means.
const HTTP_CHECK_MS: &[Key] = &http_check(IN_MS);
const HTTP_CHECK_NS: &[Key] = &http_check(IN_NS);

const fn http_check(duration: Shape) -> [Key; 9] {
    [
        key("interval", duration, "between checks, 15s when absent"),
        key("timeout", duration, "for one check, 2s when absent"),
        key("grace_period", duration, "excuses failures after a start"),
        key("method", Shape::Text, "`GET` when absent"),
        key("path", Shape::Checked(checks::url_path), "`/` when absent"),
        key("protocol", Shape::OneOf(&["http", "https"]), "`http` when absent"),
        key("tls_skip_verify", Shape::Bool, "accept any certificate"),
        key("tls_server_name", Shape::Text, "name expected in the certificate"),
        key("headers", Shape::Headers, "sent with the request"),
    ]
}

const CHECK: &[Key] = &[
    key("type", Shape::OneOf(&["http", "tcp"]), "required"),
    key("port", PORT, "the service port of [http_service] when absent"),
    key("interval", IN_MS, "between checks, at least 2s"),
    key("timeout", IN_MS, "for one check, at most 60s"),
    key("grace_period", IN_MS, "excuses failures after a start"),
    key("method", Shape::Text, "`GET` when absent"),
    key("path", Shape::Checked(checks::url_path), "`/` when absent"),
    key("protocol", Shape::OneOf(&["http", "https"]), "`http` when absent"),
    key("tls_skip_verify", Shape::Bool, "accept any certificate"),
    key("tls_server_name", Shape::Text, "name expected in the certificate"),
    key("headers", Shape::Headers, "sent with the request"),
    key("processes", Shape::Texts, "groups that have this check"),
];

const VM: &[Key] = &[
    key("size", Shape::Text, "a preset such as `shared-cpu-1x`"),
    key("memory", Shape::Memory, "MB, or a text with a unit such as `\"1gb\"`"),
    key("cpu_kind", Shape::OneOf(&["shared", "performance"]), "overrides the preset"),
    key("cpus", COUNT, "overrides the preset"),
    key("memory_mb", COUNT, "wins over `memory`"),
    key("persist_rootfs", Shape::PersistRootfs, "only `never`: the root file system is fresh at every start"),
    key("processes", Shape::Texts, "groups of this size; all when absent"),
    later("max_memory_mb", "growing memory comes later"),
    later("gpus", NO_GPU),
    later("gpu_kind", NO_GPU),
    later("kernel_args", "own kernel arguments come later"),
    later("host_dedication_id", "dedicated hosts come later"),
];

const RESTART: &[Key] = &[
    key("policy", Shape::OneOf(&["always", "never", "on-failure"]), "`on-failure` when absent"),
    key("retries", COUNT, "within five minutes, 10 when absent"),
    key("processes", Shape::Texts, "groups that have this policy"),
];

const FILE: &[Key] = &[
    key("guest_path", Shape::Checked(checks::guest_path), "absolute path in the machine"),
    key("local_path", Shape::Text, "file read by the command line, relative to the folder of fly.toml; 1 MiB at most"),
    key("secret_name", Shape::Text, "secret that holds base64 of the content"),
    key("raw_value", Shape::Text, "the content itself"),
    key("processes", Shape::Texts, "groups that get the file; all when absent"),
];

const EXPERIMENTAL: &[Key] = &[
    key("cmd", Shape::TextOrTexts, "replaces the image's command"),
    key("entrypoint", Shape::TextOrTexts, "replaces the image's entrypoint"),
    key("exec", Shape::TextOrTexts, "replaces both"),
    key("kill_timeout", Shape::Duration(DurationUnit::Seconds), "obsolete place of the top-level key"),
    later("machine_config", NO_CONTAINERS),
    later("metrics_port", NO_METRICS),
    later("metrics_path", NO_METRICS),
    no_effect("auto_rollback", "a failed deploy always puts the previous release back"),
    no_effect("enable_consul", "obsolete"),
    no_effect("enable_etcd", "obsolete"),
    no_effect("lazy_load_images", "obsolete"),
    no_effect("attached", "appears in release definitions"),
];

/// The reference page's table, in Markdown: a line per key.
pub fn markdown() -> String {
    let mut page = String::from("| key | takes | status | |\n| --- | --- | --- | --- |\n");
    write_keys(&mut page, "", ROOT);
    page
}

fn write_keys(page: &mut String, parent: &str, keys: &[Key]) {
    for key in keys {
        let path = format!("{parent}{}", key.name);
        let status = match key.status {
            Status::Honoured => "yes".to_owned(),
            Status::Unsupported(reason) => format!("not yet: {reason}"),
            Status::NoEffect => "accepted, no effect".to_owned(),
        };
        page.push_str(&format!("| `{path}` | {} | {status} | {} |\n", key.shape.describe(), key.about));
        match key.shape {
            Shape::Table(inner) | Shape::Concurrency(inner) => write_keys(page, &format!("{path}."), inner),
            Shape::Tables(inner) | Shape::FilledTables(inner) => write_keys(page, &format!("{path}[]."), inner),
            Shape::Named(inner) => write_keys(page, &format!("{path}.NAME."), inner),
            _ => {}
        }
    }
}
