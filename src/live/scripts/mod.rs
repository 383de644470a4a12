//! The Lua scripts, one per operation. `header.lua`, which holds the functions that all scripts share, is prepended to
//! each.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};

/// A call of a script by its hash. Unlike the type for this in redis-rs, it does not allocate each argument separately
/// before it copies it into the command; a report can have thousands of arguments.
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

    /// Adds an argument, or several for a value that redis-rs encodes as several.
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
    /// Puts a tracker that may have lost marks under the current generation, to settle there.
    REOPEN,
    "reopen.lua"
);
script!(
    /// Renames a corrupt tracker key out of the way.
    QUARANTINE,
    "quarantine.lua"
);
script!(
    /// Adopts a tracker, which is trusted alone from then on.
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
