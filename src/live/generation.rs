//! Determines the generation of the Redis that answers.

use crate::domain::Generation;

/// Parses the generation from the reply to `INFO replication`. `generation()` in `header.lua` must return the same
/// value.
///
/// The generation is the start of `master_replid`. Redis chooses this ID at random when it starts, whatever data it
/// loads, and when it becomes a primary. The run ID would add nothing, because it changes only at a start. The result
/// is `None` for a replica. A replica has the ID of its primary, but its data is not trusted, because the replica may
/// be a demoted primary that still answers.
pub(super) fn parse(info: &str) -> Option<Generation> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("role")? != "master" {
        return None;
    }
    field("master_replid")?.as_bytes().get(..16)?.try_into().ok().map(Generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(role: &str, id: &str) -> String {
        format!("# Replication\r\nrole:{role}\r\nmaster_replid:{id:0>40}\r\nmaster_replid2:{:0>40}\r\n", "")
    }

    #[test]
    fn generation_is_the_start_of_the_replication_id() {
        let generation = |id: &str| parse(&info("master", id)).unwrap();
        let (first, second) = ("0123456789abcdef".repeat(2) + "01234567", "f".repeat(40));
        assert_eq!(generation(&first), Generation(*b"0123456789abcdef"));
        assert_ne!(generation(&first), generation(&second));
    }

    #[test]
    fn replica_has_no_generation() {
        assert_eq!(parse(&info("slave", &"a".repeat(40))), None);
        assert_eq!(parse("nonsense"), None);
    }
}
