//! The scripts, one an operation, each with what `header.lua` gives all of them.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};

/// A call of a script by its hash. That of redis-rs keeps each argument in memory of its own before it copies it into the
/// command; a report has up to thousands.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    /// Of this script, for these keys.
    pub fn of(script: &'static Script, keys: &[impl ToRedisArgs]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Runs it, and loads the script first where Redis does not know it yet.
    pub async fn invoke<T: FromRedisValue>(&self, connection: &mut impl ConnectionLike) -> RedisResult<T> {
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.load_async(connection).await?;
                self.command.query_async(connection).await
            }
            answer => answer,
        }
    }
}

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("scripts/header.lua"), include_str!($file))));
    };
}

script!(
    /// Puts a new tracker in place.
    OPEN,
    "scripts/open.lua"
);
script!(
    /// Takes up a tracker that may have lost marks.
    REOPEN,
    "scripts/reopen.lua"
);
script!(
    /// Puts what is no tracker out of the way.
    QUARANTINE,
    "scripts/quarantine.lua"
);
script!(
    /// Makes a tracker one that is believed alone.
    ADOPT,
    "scripts/adopt.lua"
);
script!(
    /// Marks tasks.
    REPORT,
    "scripts/report.lua"
);
script!(
    /// Freezes a tracker.
    SEAL,
    "scripts/seal.lua"
);
script!(
    /// Lets a sealed tracker go away.
    EXPIRE,
    "scripts/expire.lua"
);
script!(
    /// Puts wrong counts right.
    REPAIR,
    "scripts/repair.lua"
);
script!(
    /// Keeps errors beside the marks.
    RECORD_ERRORS,
    "scripts/record_errors.lua"
);
script!(
    /// Notes that a gateway has both stores within reach.
    RECORD_AVAILABILITY,
    "scripts/record_availability.lua"
);
