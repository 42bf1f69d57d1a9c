use std::path::Path;

use super::*;

fn read_with(
    text: &str,
    variables: &[(&str, &str)],
    flags: Layer,
) -> Result<(Settings, Vec<Setting>), ServeError> {
    let home = tempfile::tempdir().unwrap();
    fs_err::write(home.path().join("config.toml"), text).unwrap();
    let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    settings(home.path(), None, &lookup, flags)
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "[serve]\nworkers = 2\nmax_streams = 7\nmax_tokens = 9\n[serve.models]\nsmall = \"local/a\"\n";
    let variables = [("EVALIGN_SERVE__WORKERS", "3"), ("EVALIGN_SERVE__MAX_STREAMS", "8")];
    let flags = Layer { workers: Some(4), ..Layer::default() };
    let (effective, told) = read_with(file, &variables, flags).unwrap();
    assert_eq!((effective.workers, effective.max_streams, effective.max_tokens), (4, 8, 9));
    assert_eq!(effective.models.0["small"].to_string(), "local/a");
    let origin = |name: &str| told.iter().find(|s| s.name == name).unwrap().origin.to_string();
    assert_eq!(origin("workers"), "flag");
    assert_eq!(origin("max_streams"), "EVALIGN_SERVE__MAX_STREAMS");
    assert!(origin("max_tokens").ends_with("config.toml"));
    assert_eq!(origin("grace_secs"), "built in");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |text: &str, variables: &[(&str, &str)]| {
        read_with(text, variables, Layer::default()).unwrap_err().to_string()
    };
    assert!(refused("[serve]\nworkesr = 1\n", &[]).contains("workesr"));
    assert!(refused("", &[("EVALIGN_SERVE__WORKERS", "many")]).contains("EVALIGN_SERVE__WORKERS"));
    assert!(refused("[serve]\nworkers = 0\n", &[]).contains("workers"));
    assert!(refused("", &[("EVALIGN_SERVE__MODELS", "Big=local/x")]).contains("Big"));
    assert!(refused("", &[("EVALIGN_SERVE__MODELS", "small")]).contains("NAME=REF"));
    let missing = settings(Path::new("."), Some(Path::new("no such file.toml")), &|_| None, Layer::default());
    assert!(missing.unwrap_err().to_string().contains("no such file.toml"));
}

#[test]
fn variables_that_are_no_settings_are_refused_with_the_nearest_one() {
    let check = |names: &[&str]| check_variables(names.iter().map(|name| (*name).to_owned()));
    check(&["PATH", "EVALIGN_HOME", "EVALIGN_SERVE__WORKERS", "EVALIGN_SERVE__MAX_BODY_KIB"]).unwrap();
    let refused = check(&["PATH", "EVALIGN_SERVE__WORKRES"]).unwrap_err().to_string();
    assert_eq!(refused, "EVALIGN_SERVE__WORKRES: there is no such setting; `EVALIGN_SERVE__WORKERS` is one");
    let refused = check(&["EVALIGN_SERVE__zzz"]).unwrap_err().to_string();
    assert_eq!(refused, "EVALIGN_SERVE__zzz: there is no such setting");
}
