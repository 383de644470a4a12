//! The scripts, one an operation, each with what `header.lua` gives all of them.

use std::sync::LazyLock;

use redis::Script;

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
    TAKE_UP,
    "scripts/take_up.lua"
);
script!(
    /// Puts what is no tracker out of the way.
    SET_ASIDE,
    "scripts/set_aside.lua"
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
    NOTE_ERRORS,
    "scripts/note_errors.lua"
);
script!(
    /// Notes that a gateway has both stores within reach.
    ATTEND,
    "scripts/attend.lua"
);
