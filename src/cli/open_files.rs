//! How many files, and so connections, this process may have open.

#![expect(unsafe_code, reason = "getrlimit(2), setrlimit(2)")]

/// Kept back from the gateway's clients beside the connections to Postgres: the one to Redis and its successor while
/// it reconnects, the runtime's own, stdio, and room for what a library opens.
const RESERVE: usize = 64;

/// What the limit is taken for where it cannot be asked: what most systems begin with.
const USUAL: usize = 1024;

/// How many of `limit` open files may be connections of clients, beside `stores` connections to the stores. Where
/// there is not enough for both, each side gets a half.
pub fn for_clients(limit: usize, stores: usize) -> usize {
    limit.saturating_sub(stores.saturating_add(RESERVE)).max(limit / 2)
}

/// Raises the limit as far as this process may, as is usual for servers: the lower one is there for programs that
/// cannot count beyond 1024. Answers the limit.
pub fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) writes one rlimit, to a place that is one.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return USUAL;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: setrlimit(2) reads one rlimit.
    let now = if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 { raised } else { limit };
    usize::try_from(now.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_keep_their_share() {
        assert_eq!(for_clients(1024, 10), 1024 - 10 - RESERVE);
        assert_eq!(for_clients(64, 10), 32);
        assert_eq!(for_clients(usize::MAX, usize::MAX), usize::MAX / 2);
    }

    #[test]
    fn the_limit_is_raised_once_and_stays() {
        let limit = raise_limit();
        assert!(limit > 0);
        assert_eq!(raise_limit(), limit);
    }
}
