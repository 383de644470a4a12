//! The limit of this process's memory, which containers, service managers and shells set. The default of `--memory`
//! follows from it.

use std::fs;
use std::path::Path;

/// Where Linux shows the limits of control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Returns the smallest limit of this process's memory, in bytes. Returns `None` if its memory is not limited.
pub fn of_process() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let rlimits = [rlimit(libc::RLIMIT_AS), rlimit(libc::RLIMIT_DATA)];
    of_cgroups(Path::new(CGROUPS), &groups).into_iter().chain(rlimits.into_iter().flatten()).min()
}

/// Returns the smallest limit of these control groups and of their parents. `groups` has the format of
/// `/proc/self/cgroup`: lines `0::/PATH` for version 2, and `NUMBER:CONTROLLERS:/PATH` for version 1.
fn of_cgroups(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| cgroup(root, line)).min()
}

fn cgroup(root: &Path, line: &str) -> Option<u64> {
    let (_, group) = line.split_once(':')?;
    let (controllers, path) = group.split_once(':')?;
    let (mounted, file) = match controllers {
        "" => (root.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            (root.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    // In a container, the path can be that of the host, which does not exist here. Then the root has the limit.
    let group = mounted.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|group| group.starts_with(&mounted));
    // An unlimited group of version 2 has the limit `max`. That of version 1 is close to 2^63.
    groups
        .filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok())
        .filter(|bytes| *bytes < 1 << 62)
        .min()
}

#[expect(unsafe_code, reason = "getrlimit(2)")]
fn rlimit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) writes one rlimit through the pointer, and the pointer points to one rlimit.
    let known = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, limit: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, limit).unwrap();
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_its_parents_applies() {
        let root = std::env::temp_dir().join(format!("highwater-cgroups-{}", std::process::id()));
        write(&root, "pods/memory.max", "1000\n");
        write(&root, "pods/one/memory.max", "max\n");
        write(&root, "pods/two/memory.max", "500\n");
        write(&root, "memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(&root, "memory/old/memory.limit_in_bytes", "700\n");
        let limit = |groups| of_cgroups(&root, groups);
        assert_eq!(limit("0::/pods/one\n"), Some(1000));
        assert_eq!(limit("0::/pods/two\n"), Some(500));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("5:cpu,cpuacct:/old\n4:memory:/old\n"), Some(700));
        assert_eq!(limit("4:memory:/not/mounted/here\n"), None);
        assert_eq!(limit("garbage\n"), None);
        write(&root, "memory.max", "300\n");
        assert_eq!(limit("0::/../not/visible\n"), Some(300));
        fs::remove_dir_all(&root).unwrap();
    }
}
