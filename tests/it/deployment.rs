//! What a deployment is made of, held against the tools that read it, where they are on this machine. Neither needs a
//! docker engine; what does is not tried here.

use std::path::Path;
use std::process::Command;

use evalign_testkit::skipped;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Whether a program takes these files as they are. `None` where it is not on this machine.
fn accepts(program: &str, args: &[&str]) -> Option<Result<(), String>> {
    let output = Command::new(program).args(args).current_dir(ROOT).output().ok()?;
    let told = [output.stdout, output.stderr].concat();
    Some(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&told).into_owned()) })
}

#[test]
fn every_profile_of_the_compose_file_is_valid() {
    for profile in [None, Some("gpu"), Some("external")] {
        let mut args: Vec<&str> = profile.iter().flat_map(|profile| ["--profile", profile]).collect();
        args.extend(["-f", "compose.yaml", "config", "--quiet"]);
        match accepts("docker-compose", &args) {
            None => {
                return skipped("every_profile_of_the_compose_file_is_valid", "docker-compose is not here");
            }
            Some(read) => assert_eq!(read, Ok(()), "{profile:?}"),
        }
    }
}

#[test]
fn the_dockerfile_has_nothing_to_complain_of() {
    match accepts("hadolint", &["Dockerfile"]) {
        None => skipped("the_dockerfile_has_nothing_to_complain_of", "hadolint is not here"),
        Some(read) => assert_eq!(read, Ok(())),
    }
}

/// What the image is built from is there: the builder copies directories by name.
#[test]
fn the_dockerfile_copies_what_there_is() {
    let dockerfile = fs_err::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let copied = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--"));
    let sources = copied.flat_map(|line| line.split(' ').rev().skip(1).collect::<Vec<_>>());
    let mut found = 0;
    for source in sources {
        assert!(Path::new(ROOT).join(source).exists(), "{source}");
        found += 1;
    }
    assert!(found > 5, "{found}");
}
