//! Where settings come from: flags, then variables, then the file, then defaults.
//!
//! clap knows every flag, with its parser and default. What variables and the file say becomes a flag's default before
//! the command line is parsed, so names and rules are the same everywhere, and stand once. A flag `--redis-url` is
//! `HIGHWATER_REDIS_URL` and `redis-url` (or `redis_url`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, Error};

/// The flag that names the file; it cannot stand in the file.
pub const CONFIG: &str = "config";
/// The heading of flags that say what is asked this once: a file or a variable has nothing to say to that.
pub const ONE_CALL: &str = "This call";
/// What the variables begin with.
const PREFIX: &str = "HIGHWATER_";
/// What begins like a setting's variable, and is for our tests, or set by Kubernetes for a service that is called
/// `highwater`.
const NO_SETTINGS: [&str; 4] = ["TEST_", "FAULT_DIR", "SERVICE_", "PORT"];
/// How alike two names must be, from 0 to 1, for one to be offered in place of the other.
const ALIKE: f64 = 0.7;

/// A setting's value, and what to call the place that it comes from.
type Given = (String, String);

/// Parses a command line whose subcommand's flags may also be given by `variable` (of the environment) and by the file.
/// The error is clap's own: help goes to stdout and exits with 0, the rest to stderr and with 2.
pub fn parse(
    command: &Command,
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<ArgMatches, Error> {
    // Answers --help, refuses what is malformed, and tells which subcommand and which file are meant.
    let lenient = command
        .clone()
        .mut_subcommands(|sub| sub.mut_args(|arg| if is_setting(&arg) { arg.required(false) } else { arg }));
    let first = lenient.try_get_matches_from(arguments)?;
    let Some((chosen, flags)) = first.subcommand() else { return Ok(first) };
    let path = flags.try_get_one::<String>(CONFIG).ok().flatten().cloned();
    let path = path.or_else(|| variable(&variable_name(CONFIG)));
    let file = path.map_or_else(|| Ok(BTreeMap::new()), |path| read(command, &path))?;
    let given = |name: &str| {
        let by_variable = variable(&variable_name(name)).map(|value| (variable_name(name), value));
        by_variable.or_else(|| file.get(name).cloned())
    };
    let mut wrong = None;
    let command = command.clone().mut_subcommand(chosen, |sub| {
        sub.mut_args(|arg| match arg.get_long().filter(|_| is_setting(&arg)).and_then(given) {
            None => arg,
            Some((place, value)) => {
                wrong = wrong.take().or_else(|| refusal(&arg, &place, &value));
                arg.required(false).default_value(value)
            }
        })
    });
    wrong.map_or_else(|| command.try_get_matches_from(arguments), Err)
}

/// `HIGHWATER_REDIS_URL` for `redis-url`.
fn variable_name(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

/// Flags are settings, but for those that are about the command line itself, or about what is asked this once.
pub fn is_setting(arg: &Arg) -> bool {
    let about_itself = matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpLong | ArgAction::Version);
    let once = arg.get_help_heading() == Some(ONE_CALL);
    arg.get_long().is_some_and(|name| name != CONFIG) && !about_itself && !once
}

/// The settings in a file. One file serves all commands, so those of others are known too.
fn read(command: &Command, path: &str) -> Result<BTreeMap<String, Given>, Error> {
    let refuse = |wrong: String| Error::raw(ErrorKind::Io, format!("{path}: {wrong}\n"));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    // toml's own message quotes the line, which may hold a password.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        refuse(format!("line {line} is not TOML: {}", error.message()))
    })?;
    let known = settings(command);
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        if !known.contains(name.as_str()) {
            return Err(refuse(unknown(&key, &known)));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            _ => return Err(refuse(format!("`{key}` must be a single value"))),
        };
        if settings.insert(name, (format!("{path}: `{key}`"), value)).is_some() {
            return Err(refuse(format!("`{key}` is given twice")));
        }
    }
    Ok(settings)
}

fn unknown(key: &str, known: &BTreeSet<&str>) -> String {
    let hint = nearest(&key.replace('_', "-"), known).map_or_else(
        || format!("the settings are {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
        |name| format!("is `{name}` meant?"),
    );
    format!("there is no setting `{key}`; {hint}")
}

/// The name that is most alike, if one is at all.
fn nearest<'a>(name: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    let alike = known.iter().map(|known| (strsim::jaro(name, known), *known));
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).filter(|(alike, _)| *alike > ALIKE).map(|(_, known)| known)
}

/// A warning for each variable that looks like a setting and is none. Not a refusal, as for the file: a variable may be
/// meant for somebody else.
pub fn unknown_variables(command: &Command, variables: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = settings(command);
    known.insert(CONFIG);
    let warning = |variable: String| {
        let name = variable.strip_prefix(PREFIX)?;
        if NO_SETTINGS.iter().any(|begin| name.starts_with(begin)) {
            return None;
        }
        let name = name.to_lowercase().replace('_', "-");
        let hint = || nearest(&name, &known).map(|name| format!("; is {} meant?", variable_name(name)));
        (!known.contains(name.as_str()))
            .then(|| format!("{variable} is no setting, and ignored{}", hint().unwrap_or_default()))
    };
    variables.filter_map(warning).collect()
}

/// The settings of all commands that are shown.
fn settings(command: &Command) -> BTreeSet<&str> {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set()).flat_map(Command::get_arguments);
    shown.filter(|arg| is_setting(arg)).filter_map(Arg::get_long).collect()
}

/// What the flag's own parser says against a value, with the place that it comes from.
fn refusal(arg: &Arg, place: &str, value: &str) -> Option<Error> {
    let alone = Command::new("").no_binary_name(true).arg(arg.clone().required(false).exclusive(false));
    let flag = format!("--{}", arg.get_long()?);
    let tried = if arg.get_action().takes_values() {
        alone.try_get_matches_from([format!("{flag}={value}")]).map(drop)
    } else {
        value.parse::<bool>().map(drop).map_err(|_| Error::raw(ErrorKind::InvalidValue, "must be true or false"))
    };
    let error = tried.err()?;
    let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    Some(Error::raw(ErrorKind::ValueValidation, format!("{place}: {}\n", reason.trim_start_matches("error: ").trim())))
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
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
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
    fn a_required_setting_may_stand_in_any_place() {
        assert_eq!(timeout("", &[("HIGHWATER_REDIS_URL", "x")], ""), Ok(500));
        assert_eq!(timeout("", &[], "redis-url = \"x\"\nonce = true\naddress = \"of watch\""), Ok(500));
        assert!(timeout("", &[], "").unwrap_err().contains("--redis-url"));
    }

    #[test]
    fn a_variable_that_is_no_setting_is_told_with_the_one_that_may_be_meant() {
        let warnings = |name: &str| unknown_variables(&command(), std::iter::once(name.to_owned()));
        for fine in ["HIGHWATER_REDIS_URL", "HIGHWATER_CONFIG", "HIGHWATER_TEST_BUF", "HIGHWATER_SERVICE_HOST", "HOME"]
        {
            assert!(warnings(fine).is_empty(), "{fine}");
        }
        let misspelt = "HIGHWATER_REDIS_TIMOUT is no setting, and ignored; is HIGHWATER_REDIS_TIMEOUT meant?";
        assert_eq!(warnings("HIGHWATER_REDIS_TIMOUT"), [misspelt]);
        assert_eq!(warnings("HIGHWATER_XYZ"), ["HIGHWATER_XYZ is no setting, and ignored"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let wrong = |variables: &[_], file: &str| timeout("--redis-url=x", variables, file).unwrap_err();
        let error = wrong(&[("HIGHWATER_REDIS_TIMEOUT", "soon")], "");
        assert!(error.starts_with("error: HIGHWATER_REDIS_TIMEOUT: a duration is a number"), "{error}");
        assert!(wrong(&[], "redis-timeout = 5").contains(".toml: `redis-timeout`: a duration is"));
        assert!(wrong(&[], "once = \"often\"").contains("`once`: must be true or false"));
        assert!(wrong(&[], "redis_timout = \"5s\"").contains("no setting `redis_timout`; is `redis-timeout` meant?"));
        assert!(wrong(&[], "colour = 1").contains("the settings are address, once, redis-timeout, redis-url"));
        assert!(wrong(&[], "redis-timeout = [1]").contains("must be a single value"));
        assert!(wrong(&[], "redis-timeout = \"1s\"\nredis_timeout = \"1s\"").contains("given twice"));
        let error = wrong(&[], "\nredis-url = \"redis://:hunter2@x");
        assert!(error.contains("line 2 is not TOML") && !error.contains("hunter2"), "{error}");
    }
}
