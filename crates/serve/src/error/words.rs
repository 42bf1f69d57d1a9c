//! Messages of what the command line also does, in the words of REST: fields for flags, routes for commands.

/// Commands that messages name, and the routes that do the same.
const ROUTES: &[(&str, &str)] = &[
    ("evalign tasks list", "GET /v1/tasks"),
    ("evalign runs", "GET /v1/runs"),
    ("evalign resume", "POST /v1/runs/ID/resume"),
    ("evalign rescore", "POST /v1/runs/ID/rescore"),
    ("evalign judge compare", "POST /v1/judgments"),
    ("evalign pairs build", "POST /v1/preferences"),
];

/// What is quoted by backticks is a flag, a command, or neither, and then stays.
pub(super) fn in_rest_words(message: &str) -> String {
    let quoted = |(at, part): (usize, &str)| match at % 2 {
        0 => part.to_owned(),
        _ => format!("`{}`", of_quoted(part)),
    };
    if message.matches('`').count() % 2 == 1 {
        return message.to_owned();
    }
    message.split('`').enumerate().map(quoted).collect()
}

fn of_quoted(part: &str) -> String {
    if let Some(flag) = part.strip_prefix("--") {
        let (name, value) =
            flag.split_once([' ', '=']).map_or((flag, None), |(name, value)| (name, Some(value)));
        let name = name.replace('-', "_");
        return match value {
            // Only the operator's settings have it.
            _ if name == "include_path" => "include_path` of the server's `[serve]".to_owned(),
            Some(value) => format!("{name}: {value}"),
            None => name,
        };
    }
    let route = ROUTES.iter().find(|(command, _)| part.starts_with(command));
    route.map_or_else(|| part.to_owned(), |(_, route)| (*route).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_fields_and_commands_are_routes() {
        for (told, wanted) in [
            (
                "compare them with `--allow-different-protocols`",
                "compare them with `allow_different_protocols`",
            ),
            ("run it with `--shots 0`, please", "run it with `shots: 0`, please"),
            ("`evalign resume run_1` goes on", "`POST /v1/runs/ID/resume` goes on"),
            ("`evalign tasks list` shows all", "`GET /v1/tasks` shows all"),
            ("name it with `--include-path DIR`.", "name it with `include_path` of the server's `[serve]`."),
            ("no task `--x", "no task `--x"),
            ("`samples` is a name -- and no flag", "`samples` is a name -- and no flag"),
        ] {
            assert_eq!(in_rest_words(told), wanted);
        }
    }
}
