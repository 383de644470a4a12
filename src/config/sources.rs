//! Sources of settings, in order of precedence: flags, environment variables, the file, defaults.
//!
//! clap defines every flag with its parser and default. Values from variables and from the file replace the defaults
//! before the command line is parsed, so the same names and rules apply to all sources. The flag `--redis-url` is the
//! variable `HIGHWATER_REDIS_URL` and the key `redis-url` or `redis_url`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, Error};

/// Flag that names the file. The file itself cannot set this flag.
pub const CONFIG: &str = "config";
/// Help heading of flags that belong to a single call. Variables and the file cannot set these flags.
pub const ONE_CALL: &str = "This call";
/// Prefix of environment variables.
const PREFIX: &str = "HIGHWATER_";
/// A variable whose name continues with one of these after [`PREFIX`] is not a setting. The tests set some of these
/// variables, and Kubernetes sets the others for a service named `highwater`.
const IGNORED_PREFIXES: [&str; 4] = ["TEST_", "FAULT_DIR", "SERVICE_", "PORT"];
/// Minimum similarity, from 0 to 1, at which a known name is suggested for a misspelt one.
const MIN_SIMILARITY: f64 = 0.7;

/// A setting's source, for messages, and its value.
type Given = (String, String);

/// Parses a command line. A setting that is not on the command line is taken from `variable` (the environment), then
/// from the file.
///
/// Returns errors of clap. A request for help or for the version is such an error: clap prints its text to stdout with
/// exit code 0. It prints every other error to stderr with exit code 2.
pub fn parse(
    command: &Command,
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<ArgMatches, Error> {
    // The first pass requires no setting. It handles --help, rejects malformed flags, and finds the subcommand and the
    // file.
    let lenient = command
        .clone()
        .mut_subcommands(|sub| sub.mut_args(|arg| if is_setting(&arg) { arg.required(false) } else { arg }));
    let first = lenient.try_get_matches_from(arguments)?;
    let Some((chosen, flags)) = first.subcommand() else { return Ok(first) };
    let path = flags.try_get_one::<String>(CONFIG).ok().flatten().cloned();
    let path = path.or_else(|| variable(&variable_name(CONFIG)));
    let file = path.map_or_else(|| Ok(BTreeMap::new()), |path| read_file(command, &path))?;
    let given = |name: &str| {
        let by_variable = variable(&variable_name(name)).map(|value| (variable_name(name), value));
        by_variable.or_else(|| file.get(name).cloned())
    };
    let mut invalid = None;
    let command = command.clone().mut_subcommand(chosen, |sub| {
        sub.mut_args(|arg| match arg.get_long().filter(|_| is_setting(&arg)).and_then(given) {
            None => arg,
            Some((source, value)) => {
                invalid = invalid.take().or_else(|| validate(&arg, &source, &value));
                arg.required(false).default_value(value)
            }
        })
    });
    invalid.map_or_else(|| command.try_get_matches_from(arguments), Err)
}

/// Returns the variable of a setting: `HIGHWATER_REDIS_URL` for `redis-url`.
fn variable_name(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

/// Whether a flag is a setting. Every flag is a setting, except `--config`, `--help`, `--version` and the flags of a
/// single call.
pub fn is_setting(arg: &Arg) -> bool {
    let is_help_or_version = matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpLong | ArgAction::Version);
    let is_of_one_call = arg.get_help_heading() == Some(ONE_CALL);
    arg.get_long().is_some_and(|name| name != CONFIG) && !is_help_or_version && !is_of_one_call
}

/// Reads the settings in a file. One file serves all commands, so settings of other commands are accepted.
fn read_file(command: &Command, path: &str) -> Result<BTreeMap<String, Given>, Error> {
    let invalid = |reason: String| Error::raw(ErrorKind::Io, format!("{path}: {reason}\n"));
    let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
    // The full message of the toml crate would quote the line, and the line may hold a password.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        invalid(format!("line {line} is not valid TOML: {}", error.message()))
    })?;
    let known = settings(command);
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        if !known.contains(name.as_str()) {
            return Err(invalid(unknown_setting(&key, &known)));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            _ => return Err(invalid(format!("`{key}` must be a single value: a string, a number, true or false"))),
        };
        if settings.insert(name, (format!("{path}: `{key}`"), value)).is_some() {
            let reason =
                format!("`{key}` is given twice (`-` and `_` are the same in a key); remove one of the two lines");
            return Err(invalid(reason));
        }
    }
    Ok(settings)
}

fn unknown_setting(key: &str, known: &BTreeSet<&str>) -> String {
    let hint = nearest(&key.replace('_', "-"), known).map_or_else(
        || format!("the settings are {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
        |name| format!("did you mean `{name}`?"),
    );
    format!("unknown setting `{key}`; {hint}")
}

/// Returns the known name that is most similar. Returns `None` if no name is similar enough.
fn nearest<'a>(name: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    let similarities = known.iter().map(|known| (strsim::jaro(name, known), *known));
    let nearest = similarities.max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.filter(|(similarity, _)| *similarity > MIN_SIMILARITY).map(|(_, known)| known)
}

/// Returns a warning for each variable with our prefix that is not a setting.
///
/// An unknown variable is not an error, because it may belong to another program. An unknown key of the file is an
/// error.
pub fn unknown_variables(command: &Command, variables: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = settings(command);
    known.insert(CONFIG);
    let warning = |variable: String| {
        let name = variable.strip_prefix(PREFIX)?;
        if IGNORED_PREFIXES.iter().any(|begin| name.starts_with(begin)) {
            return None;
        }
        let name = name.to_lowercase().replace('_', "-");
        let hint = || nearest(&name, &known).map(|name| format!("; did you mean {}?", variable_name(name)));
        (!known.contains(name.as_str()))
            .then(|| format!("{variable} is not a setting and is ignored{}", hint().unwrap_or_default()))
    };
    variables.filter_map(warning).collect()
}

/// Returns the names of the settings of all commands that are not hidden.
fn settings(command: &Command) -> BTreeSet<&str> {
    let arguments = command.get_subcommands().filter(|sub| !sub.is_hide_set()).flat_map(Command::get_arguments);
    arguments.filter(|arg| is_setting(arg)).filter_map(Arg::get_long).collect()
}

/// Checks a value with the parser of its flag. Returns an error that names the source of the value, or `None` if the
/// value is valid.
fn validate(arg: &Arg, source: &str, value: &str) -> Option<Error> {
    let alone = Command::new("").no_binary_name(true).arg(arg.clone().required(false).exclusive(false));
    let flag = format!("--{}", arg.get_long()?);
    let parsed = if arg.get_action().takes_values() {
        alone.try_get_matches_from([format!("{flag}={value}")]).map(drop)
    } else {
        value.parse::<bool>().map(drop).map_err(|_| Error::raw(ErrorKind::InvalidValue, "must be true or false"))
    };
    let error = parsed.err()?;
    let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    Some(Error::raw(ErrorKind::ValueValidation, format!("{source}: {}\n", reason.trim_start_matches("error: ").trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name);
        let sub = Command::new("serve")
            .arg(flag(CONFIG))
            .arg(flag("redis-url").required(true))
            .arg(flag("redis-timeout").default_value("500ms").value_parser(super::super::values::duration))
            .arg(flag("once").action(ArgAction::SetTrue));
        Command::new("highwater").subcommand(sub).subcommand(Command::new("watch").arg(flag("address")))
    }

    fn timeout(arguments: &str, variables: &[(&str, &str)], file: &str) -> Result<u128, String> {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("highwater-{}-{:?}.toml", std::process::id(), std::thread::current().id()));
        std::fs::write(&path, file).unwrap();
        let arguments = format!("highwater serve --config {} {arguments}", path.display());
        let arguments: Vec<OsString> = arguments.split_whitespace().map(OsString::from).collect();
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let matches = parse(&command(), &arguments, variable).map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        let (_, flags) = matches?.remove_subcommand().unwrap();
        Ok(flags.get_one::<std::time::Duration>("redis-timeout").unwrap().as_millis())
    }

    #[test]
    fn flags_override_variables_override_the_file_override_defaults() {
        let (flag, url) = ("--redis-url=x --redis-timeout=1s", "--redis-url=x");
        let variable: &[_] = &[("HIGHWATER_REDIS_TIMEOUT", "2s")];
        let file = "redis-timeout = \"3s\"";
        assert_eq!(timeout(flag, variable, file), Ok(1000));
        assert_eq!(timeout(url, variable, file), Ok(2000));
        assert_eq!(timeout(url, &[], file), Ok(3000));
        assert_eq!(timeout(url, &[], "redis_timeout = \"3s\""), Ok(3000));
        assert_eq!(timeout(url, &[], ""), Ok(500));
    }

    #[test]
    fn a_required_setting_may_come_from_any_source() {
        assert_eq!(timeout("", &[("HIGHWATER_REDIS_URL", "x")], ""), Ok(500));
        assert_eq!(timeout("", &[], "redis-url = \"x\"\nonce = true\naddress = \"of watch\""), Ok(500));
        assert!(timeout("", &[], "").unwrap_err().contains("--redis-url"));
    }

    #[test]
    fn unknown_variables_are_warned_of_with_a_suggestion() {
        let warnings = |name: &str| unknown_variables(&command(), std::iter::once(name.to_owned()));
        for accepted in
            ["HIGHWATER_REDIS_URL", "HIGHWATER_CONFIG", "HIGHWATER_TEST_BUF", "HIGHWATER_SERVICE_HOST", "HOME"]
        {
            assert!(warnings(accepted).is_empty(), "{accepted}");
        }
        let misspelt = "HIGHWATER_REDIS_TIMOUT is not a setting and is ignored; did you mean HIGHWATER_REDIS_TIMEOUT?";
        assert_eq!(warnings("HIGHWATER_REDIS_TIMOUT"), [misspelt]);
        assert_eq!(warnings("HIGHWATER_XYZ"), ["HIGHWATER_XYZ is not a setting and is ignored"]);
    }

    #[test]
    fn errors_name_the_source_of_the_value() {
        let error_of = |variables: &[_], file: &str| timeout("--redis-url=x", variables, file).unwrap_err();
        let error = error_of(&[("HIGHWATER_REDIS_TIMEOUT", "soon")], "");
        assert!(error.starts_with("error: HIGHWATER_REDIS_TIMEOUT: a duration must be"), "{error}");
        assert!(error_of(&[], "redis-timeout = 5").contains(".toml: `redis-timeout`: a duration must be"));
        assert!(error_of(&[], "once = \"often\"").contains("`once`: must be true or false"));
        assert!(
            error_of(&[], "redis_timout = \"5s\"")
                .contains("unknown setting `redis_timout`; did you mean `redis-timeout`?")
        );
        assert!(error_of(&[], "colour = 1").contains("the settings are address, once, redis-timeout, redis-url"));
        assert!(error_of(&[], "redis-timeout = [1]").contains("must be a single value"));
        assert!(error_of(&[], "redis-timeout = \"1s\"\nredis_timeout = \"1s\"").contains("given twice"));
        let error = error_of(&[], "\nredis-url = \"redis://:hunter2@x");
        assert!(error.contains("line 2 is not valid TOML") && !error.contains("hunter2"), "{error}");
    }
}
