//! Finding out which Redis answers.

use crate::domain::Generation;

/// Reads the answer to `INFO replication`; `generation()` in `header.lua` takes the same. It is the beginning of
/// `master_replid`, which a Redis draws by chance when it starts, whatever data it starts with, and when it becomes a
/// primary. The run id would add nothing: it is another only after a start. `None` unless it is a master's, since a
/// replica (a demoted primary that still answers, say) is not to be believed, and carries its primary's id.
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
    fn another_replication_id_is_another_generation() {
        let generation = |id: &str| parse(&info("master", id)).unwrap();
        let (first, second) = ("0123456789abcdef".repeat(2) + "01234567", "f".repeat(40));
        assert_eq!(generation(&first), Generation(*b"0123456789abcdef"));
        assert_ne!(generation(&first), generation(&second));
    }

    #[test]
    fn a_replica_has_none() {
        assert_eq!(parse(&info("slave", &"a".repeat(40))), None);
        assert_eq!(parse("nonsense"), None);
    }
}
