//! Which Redis answers: a restart, the restore of an older dump, a failover and a promotion all change it, and a
//! tracker that names another one may have lost marks.

/// A hash of the server's run id and its `master_replid`, as 16 hexadecimal digits: `generation()` in `header.lua`
/// computes the same. Both are needed: a restart keeps neither, a promotion keeps the run id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub(super) [u8; 16]);

impl Generation {
    /// Reads the answer to `INFO server replication`; `None` unless it is a master's, since a replica (a demoted
    /// primary that still answers, say) is not to be believed.
    pub(super) fn parse(info: &str) -> Option<Self> {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        if field("role")? != "master" {
            return None;
        }
        let ids = format!("{}{}", field("run_id")?, field("master_replid")?);
        let digest = sha1_smol::Sha1::from(ids).digest().to_string();
        digest.as_bytes().get(..16)?.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(run: &str, role: &str, replication: &str) -> String {
        format!(
            "# Server\r\nrun_id:{run}\r\n# Replication\r\nrole:{role}\r\nmaster_replid:{replication}\r\nmaster_replid2:0\r\n"
        )
    }

    #[test]
    fn a_new_run_or_replication_id_is_another_generation() {
        let generation = |run, replication| Generation::parse(&info(run, "master", replication)).unwrap();
        assert_eq!(generation("a", "b"), generation("a", "b"));
        assert_ne!(generation("a", "b"), generation("c", "b"));
        assert_ne!(generation("a", "b"), generation("a", "c"));
    }

    #[test]
    fn a_replica_has_none() {
        assert_eq!(Generation::parse(&info("a", "slave", "b")), None);
        assert_eq!(Generation::parse("nonsense"), None);
    }
}
