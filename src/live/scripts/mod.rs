//! The Lua scripts, one per operation. `header.lua` holds the functions that all scripts share, and is prepended to
//! each script.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};

/// A call of a script by its hash. The type of redis-rs for such calls allocates each argument separately and then
/// copies it into the command. This type does not, because a report can have thousands of arguments.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    /// Starts a call of `script` with these keys.
    pub fn of(script: &'static Script, keys: &[impl ToRedisArgs]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    /// Adds an argument. A value that redis-rs encodes as several arguments adds all of them.
    pub fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Runs the script, and loads it first if Redis does not know it.
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
            LazyLock::new(|| Script::new(concat!(include_str!("header.lua"), include_str!($file))));
    };
}

script!(
    /// Renames the uploaded image of a new tracker to the tracker's key.
    OPEN,
    "open.lua"
);
script!(
    /// Gives a tracker that may have lost marks the current generation and usually a new incarnation, so that it can
    /// settle.
    REOPEN,
    "reopen.lua"
);
script!(
    /// Renames a corrupt tracker key.
    QUARANTINE,
    "quarantine.lua"
);
script!(
    /// Adopts a tracker, so that it is trusted without Postgres.
    ADOPT,
    "adopt.lua"
);
script!(
    /// Sets marks and adds to the counts.
    REPORT,
    "report.lua"
);
script!(
    /// Freezes a tracker before its job ends.
    SEAL,
    "seal.lua"
);
script!(
    /// Sets the time to live of a sealed tracker whose job has ended.
    EXPIRE,
    "expire.lua"
);
script!(
    /// Replaces a header with wrong counts.
    REPAIR,
    "repair.lua"
);
script!(
    /// Adds error samples and counts.
    RECORD_ERRORS,
    "record_errors.lua"
);
script!(
    /// Records that a gateway can reach both stores.
    RECORD_AVAILABILITY,
    "record_availability.lua"
);
