//! The open-file limit of this process, which bounds how many connections it can have.

/// Descriptors that are reserved for everything except clients and Postgres: the Redis connection and its replacement
/// during a reconnect, the runtime, stdio, and files that libraries open.
const RESERVED: usize = 64;

/// Limit that is assumed if the system does not report one. It is the usual soft limit.
const DEFAULT_LIMIT: usize = 1024;

/// Returns how many of `limit` open files clients may use, given `store_connections` connections to the stores.
///
/// Clients get at least half of the limit, so a large connection pool cannot starve them.
pub fn for_clients(limit: usize, store_connections: usize) -> usize {
    limit.saturating_sub(store_connections.saturating_add(RESERVED)).max(limit / 2)
}

/// Raises the soft limit to the hard limit and returns the limit that is now in force.
///
/// Servers do this by convention. The usual soft limit of 1024 exists only to protect programs that use select(2).
#[expect(unsafe_code, reason = "getrlimit(2), setrlimit(2)")]
pub fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) writes one rlimit through the pointer, and the pointer points to one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return DEFAULT_LIMIT;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: setrlimit(2) only reads one rlimit.
    let now = if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 { raised } else { limit };
    usize::try_from(now.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_stores_leave_but_at_least_half() {
        assert_eq!(for_clients(1024, 10), 1024 - 10 - RESERVED);
        assert_eq!(for_clients(64, 10), 32);
        assert_eq!(for_clients(usize::MAX, usize::MAX), usize::MAX / 2);
    }

    #[test]
    fn raising_the_limit_is_idempotent() {
        let limit = raise_limit();
        assert!(limit > 0);
        assert_eq!(raise_limit(), limit);
    }
}
