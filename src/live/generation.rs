//! Finding out which Redis answers.

use crate::domain::Generation;

/// Reads the answer to `INFO server replication`; `generation()` in `header.lua` computes the same. Both ids are needed:
/// a restart keeps neither, a promotion keeps the run id. `None` unless it is a master's, since a replica (a demoted
/// primary that still answers, say) is not to be believed.
pub(super) fn parse(info: &str) -> Option<Generation> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("role")? != "master" {
        return None;
    }
    let ids = format!("{}{}", field("run_id")?, field("master_replid")?);
    let digest = sha1_smol::Sha1::from(ids).digest().to_string();
    digest.as_bytes().get(..16)?.try_into().ok().map(Generation)
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
        let generation = |run, replication| parse(&info(run, "master", replication)).unwrap();
        assert_eq!(generation("a", "b"), generation("a", "b"));
        assert_ne!(generation("a", "b"), generation("c", "b"));
        assert_ne!(generation("a", "b"), generation("a", "c"));
    }

    #[test]
    fn a_replica_has_none() {
        assert_eq!(parse(&info("a", "slave", "b")), None);
        assert_eq!(parse("nonsense"), None);
    }
}
