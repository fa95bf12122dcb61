//! Wrong use and configuration: named, and ended with code 2. No platform is needed.

use std::path::Path;
use std::process::Command;

use atoll_trial::programs;
use tempfile::TempDir;

struct Said {
    code: Option<i32>,
    stderr: String,
}

fn atoll(home: &Path, words: &[&str], env: &[(&str, &str)]) -> Said {
    let mut command = Command::new(programs::atoll().unwrap());
    command.args(words).current_dir(home).env_clear().env("HOME", home).envs(env.iter().copied());
    let output = command.output().unwrap();
    Said { code: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("atoll.toml");
    std::fs::write(&file, "region = \"from-file\"\n").unwrap();
    let file = file.to_str().unwrap();
    let up = ["up", "--state", "state", "--config", file];
    // A region that is none is refused by name, before anything is made.
    for (more, env, taken) in [
        (&["--region", "from-flag"][..], &[("ATOLL_REGION", "from-env")][..], "from-flag"),
        (&[][..], &[("ATOLL_REGION", "from-env")][..], "from-env"),
        (&[][..], &[][..], "from-file"),
    ] {
        let said = atoll(home.path(), &[&up[..], more].concat(), env);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains(taken) && said.stderr.contains("--region"), "{}", said.stderr);
    }
    assert!(!home.path().join("state").exists());
}

#[test]
fn what_is_no_setting_is_refused_by_name() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("atoll.toml");
    std::fs::write(&file, "regoin = \"ams\"\n").unwrap();
    let said = atoll(home.path(), &["up", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("regoin") && said.stderr.contains("atoll.toml"), "{}", said.stderr);

    let login = home.path().join(".config/atoll");
    std::fs::create_dir_all(&login).unwrap();
    std::fs::write(login.join("config.toml"), "apy = \"http://127.0.0.1:1\"\n").unwrap();
    let said = atoll(home.path(), &["apps", "list"], &[]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("apy"), "{}", said.stderr);
}

#[test]
fn a_command_says_which_api_it_did_not_reach() {
    let home = TempDir::new().unwrap();
    let login = home.path().join(".config/atoll");
    std::fs::create_dir_all(&login).unwrap();
    std::fs::write(login.join("config.toml"), "api = \"http://127.0.0.1:1\"\ntoken = \"kept\"\n").unwrap();
    let said = atoll(home.path(), &["apps", "list"], &[]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("http://127.0.0.1:1\n") && said.stderr.contains("hint: "), "{}", said.stderr);
    let said = atoll(home.path(), &["apps", "list"], &[("ATOLL_API", "http://127.0.0.1:2")]);
    assert!(said.stderr.contains("http://127.0.0.1:2\n"), "{}", said.stderr);
    let said = atoll(home.path(), &["apps", "list"], &[("ATOLL_API", "nowhere")]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("\"nowhere\" is no address"), "{}", said.stderr);
}

#[test]
fn wrong_words_are_wrong_use() {
    let home = TempDir::new().unwrap();
    for words in [
        &["no-such-command"][..],
        &["status"],
        &["scale", "count", "many", "-a", "x"],
        &["secrets", "set", "NAME", "-a", "x"],
        &["token", "create", "x", "--role", "king"],
        &["machine", "exec", "1"],
        &["control", "backup"],
    ] {
        let said = atoll(home.path(), words, &[]);
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.stderr);
        assert!(said.stderr.starts_with("error: "), "{words:?}: {}", said.stderr);
    }
}
